//! Jobs as messages: enqueue, delay, find and list them.

pub(crate) mod delayed;
pub(crate) mod delayed_listing;
pub(crate) mod enqueue;
pub(crate) mod find;
pub(crate) mod indexed_scan;
pub(crate) mod listing;
pub(crate) mod message;
mod unsuccessful_scan;
