//! The request to a supervisor process, its reply, and how to recognize such a process.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use naq_client::server_state::ServerState;

use super::config_file::{Access, Port, ServerLimits, SyncInterval};

/// The program's first argument that makes it a supervisor. `main` calls [`supervisor_main`](super::supervisor_main) when it sees it,
/// before anything else.
pub const SUPERVISOR_ARGUMENT: &str = "__server-supervisor";

/// The request to a supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SupervisorRequest {
    pub(super) binary: PathBuf,
    /// Whether the program has to be the pinned one each time it is started.
    pub(super) is_pinned: bool,
    pub(super) data_dir: PathBuf,
    pub(super) port: Port,
    pub(super) sync: SyncInterval,
    pub(super) limits: ServerLimits,
    pub(super) access: Access,
    pub(super) extra_config: String,
    pub(super) restarts_max: u32,
    pub(super) remove_data_dir: bool,
    pub(super) ready_timeout_ms: u64,
    pub(super) lock_timeout_ms: u64,
}

/// The reply of a supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SupervisorReply {
    /// The server is ready.
    Ready(Box<ServerState>),
    /// Another supervisor owns the folder, with a server that can be joined.
    AlreadyRunning,
    /// Another process has locked the folder.
    Locked {
        /// How long the supervisor waited, in milliseconds.
        waited_ms: u64,
    },
    /// nats-server did not start.
    NotStarted {
        /// Why, as a text for the user.
        reason: String,
    },
}

/// Whether this process id belongs to a supervisor. Without /proc, assumes so.
pub(super) fn is_supervisor(pid: i32) -> bool {
    if !Path::new("/proc/self").exists() {
        return true;
    }
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        line.split(|byte| *byte == 0)
            .any(|word| word == SUPERVISOR_ARGUMENT.as_bytes())
    })
}
