//! The managed local nats-server: find or obtain the program, configure it, supervise it.
//!
//! A data folder holds one server. Its files:
//!
//! ```text
//! lock              held by the supervisor and by nats-server itself, as long as either lives
//! users             each user holds it shared; the supervisor takes it alone before it stops
//! start             held by whoever is starting a supervisor, one at a time
//! stay              present while the server is to outlive its users
//! token             the random token, mode 0600
//! nats-server.conf  written by the supervisor, mode 0600
//! server.json       where the server is, present while it runs, mode 0600
//! nats-server.log   the server's own log;  supervisor.log: the supervisor's
//! store/            JetStream's files
//! ```
//!
//! The server is a child of a supervisor (`naq __server-supervisor`), a small process in a session of its
//! own. The supervisor asks for `users` alone in one blocking call and gets it once every user is
//! gone, however they went, since the kernel drops the locks of the dead. A user that arrives
//! while the supervisor stops waits for `users` until the old server is gone, then starts another.
//!
//! This room never speaks the NATS protocol beyond reading the server's greeting, never reads the
//! environment, and never prints.

mod config_file;
mod data_dir;
mod error;
mod file_lock;
mod locate;
mod managed_server;
mod provision;
mod server_info;
mod server_state;
mod subprocess;
mod supervisor;

pub use config_file::{Port, ServerLimits, SyncInterval};
pub use error::ServerError;
pub use locate::{Binary, MINIMUM_VERSION, Origin, Search, Version, find};
pub use managed_server::{
    ManagedServer, ServerConfig, ensure, ensure_blocking, stop, stop_blocking,
};
pub use naq_client::server_state::{ServerState, running};
pub use provision::PINNED_VERSION;
pub use server_state::{ServerStatus, status, wait_until_gone};
pub use supervisor::{SUPERVISOR_ARGUMENT, supervisor_main};

/// The port a managed server takes when it is free: the one every NATS client tries first.
pub const DEFAULT_PORT: u16 = 4222;
