//! Connections to NATS.

pub(crate) mod connect;
pub(crate) mod options;
mod refused;
pub(crate) mod state;
