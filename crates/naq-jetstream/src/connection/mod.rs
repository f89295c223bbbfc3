//! Connections to NATS.

pub(crate) mod connect;
pub(crate) mod connect_failure;
pub(crate) mod connection_ends;
mod credentials;
pub(crate) mod denial;
mod dialled_server;
mod login;
pub(crate) mod options;
mod probe;
mod read_guard;
mod refused;
pub(crate) mod server_process;
mod server_user;
#[cfg(target_os = "linux")]
mod socket_diag;
mod socket_table;
pub(crate) mod state;
