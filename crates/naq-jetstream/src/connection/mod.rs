//! Connections to NATS.

pub(crate) mod connect;
pub(crate) mod connect_failure;
mod credentials;
pub(crate) mod denial;
pub(crate) mod options;
mod probe;
mod refused;
pub(crate) mod state;
