//! The managed local nats-server: find or obtain the program, configure it, supervise it.
//!
//! A data folder holds one server. Its files:
//!
//! ```text
//! lock              held by the keeper and by nats-server itself, as long as either lives
//! users             each user holds it shared; the keeper takes it alone before it stops
//! start             held by whoever is starting a keeper, one at a time
//! stay              present while the server is to outlive its users
//! token             the random token, mode 0600
//! nats-server.conf  written by the keeper, mode 0600
//! server.json       where the server is, present while it runs, mode 0600
//! nats-server.log   the server's own log;  keeper.log: the keeper's
//! store/            JetStream's files
//! ```
//!
//! The server is a child of a keeper (`naq __server-keeper`), a small process in a session of its
//! own. The keeper asks for `users` alone in one blocking call and gets it once every user is
//! gone, however they went, since the kernel drops the locks of the dead. A user that arrives
//! while the keeper stops waits for `users` until the old server is gone, then starts another.
//!
//! This room never speaks the NATS protocol beyond reading the server's greeting, never reads the
//! environment, and never prints.

mod conf;
mod error;
mod folder;
mod greeting;
mod keeper;
mod locate;
mod lock;
mod managed;
mod program;
mod provision;
mod state;

pub use conf::{Limits, Port, SyncInterval};
pub use error::ServerError;
pub use keeper::{KEEPER_ARGUMENT, keeper_main};
pub use locate::{Binary, MINIMUM_VERSION, Origin, Search, Version, find};
pub use managed::{Managed, Options, ensure, ensure_blocking, stop, stop_blocking};
pub use provision::PINNED_VERSION;
pub use state::{State, Status, running, status, wait_until_gone};

/// The port a managed server takes when it is free: the one every NATS client tries first.
pub const DEFAULT_PORT: u16 = 4222;
