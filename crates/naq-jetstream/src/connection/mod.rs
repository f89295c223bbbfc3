//! Connections to NATS.

pub(crate) mod connect;
pub(crate) mod options;
pub(crate) mod state;
