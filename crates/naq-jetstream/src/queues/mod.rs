//! Queues.

pub(crate) mod denied_queues;
pub(crate) mod purge;
pub(crate) mod queue;
pub(crate) mod stale_consumer;
