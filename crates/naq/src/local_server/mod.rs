//! The managed local nats-server: finds or downloads the program, configures it, supervises it.
//!
//! A data folder contains one server. Its files:
//!
//! ```text
//! lock              locked by the supervisor and by nats-server itself, as long as either lives
//! users             locked shared by each user, and exclusively by the supervisor before it stops
//! start             locked by the process that is starting a supervisor, one at a time
//! stay              exists if the server keeps running without users
//! client.nk         the seed of the NKey that clients log in with, mode 0600
//! server.pem        the certificate of the server;  server.key: its key, mode 0600
//! nats-server.conf  written by the supervisor, mode 0600
//! server.json       the server's address and state; exists while it runs, mode 0600
//! nats-server.log   the server's own log;  supervisor.log: the supervisor's
//! store/            JetStream's files
//! ```
//!
//! The server is a child of a supervisor (`naq __server-supervisor`), a small process in a session of its
//! own. The supervisor locks `users` exclusively in one blocking call, which returns once no user is left,
//! since the kernel also releases the locks of dead processes. A user that arrives while the supervisor
//! stops the server waits for `users` until that server is gone, then starts another.
//!
//! This module reads only the server's greeting and verifies its certificate, and never speaks the NATS
//! protocol otherwise. It never reads the environment and never prints.

mod binary;
mod certificate;
mod config_file;
mod data_dir;
mod error;
mod file_lock;
mod locate;
mod managed_server;
mod nats_process;
mod provision;
mod server_info;
mod server_state;
mod subprocess;
mod supervisor;
mod supervisor_log;
mod supervisor_protocol;
mod version;

pub use binary::{Binary, Origin, Search, program_dir};
pub use config_file::{Access, DEFAULT_PORT, Port, ServerLimits, SyncInterval};
pub use error::ServerError;
pub use locate::find;
pub use managed_server::{
    ManagedServer, ServerConfig, ensure, ensure_blocking, stop, stop_blocking,
};
pub use naq_client::server_state::{ServerState, running};
pub use server_state::{ServerStatus, status, wait_until_gone};
pub use supervisor::supervisor_main;
pub use supervisor_protocol::SUPERVISOR_ARGUMENT;
pub use version::{MINIMUM_VERSION, PINNED_VERSION, Version};
