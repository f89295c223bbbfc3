//! Connections to NATS.

pub(crate) mod connect;
pub(crate) mod connect_failure;
mod credentials;
pub(crate) mod denial;
mod dialled_server;
mod login;
pub(crate) mod options;
mod probe;
mod read_guard;
mod refused;
mod server_user;
pub(crate) mod socket_users;
pub(crate) mod state;
