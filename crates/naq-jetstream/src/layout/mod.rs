//! The layout: the streams, buckets and consumers that naq needs, and their settings.

pub(crate) mod consumers;
pub(crate) mod memory;
pub(crate) mod missing;
#[cfg(test)]
mod published;
pub(crate) mod queue_consumer;
pub(crate) mod server_check;
pub(crate) mod setting;
pub(crate) mod streams;
pub(crate) mod topology;
