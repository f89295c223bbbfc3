//! Pulling jobs from queues.

mod connection;
pub(crate) mod delivery;
pub(crate) mod subscription;
