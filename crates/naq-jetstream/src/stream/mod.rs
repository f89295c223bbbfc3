//! Streams: publish to them, read them, and create them.

pub(crate) mod list_pages;
pub(crate) mod objects;
pub(crate) mod publish;
pub(crate) mod reverse_scan;
pub(crate) mod store;
pub(crate) mod stored_files;
pub(crate) mod stream_api;
pub(crate) mod stream_reader;
