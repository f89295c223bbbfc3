//! The condition of a running server. The state file itself is read in `naq-client`, which every
//! producer uses.

use std::fs;
use std::path::Path;
use std::time::Duration;

use naq_client::server_state::{ServerState, running};
use serde::Serialize;

use super::data_dir::DataDir;
use super::error::ServerError;
use super::file_lock::{self, LockMode};
use super::server_info;
use super::supervisor::SUPERVISOR_ARGUMENT;

/// What `naq server status` tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerStatus {
    /// The server.
    pub server: ServerState,
    /// Whether it greets within a second.
    pub responding: bool,
    /// Whether any process uses it at the moment.
    pub in_use: bool,
    /// Whether it stays when nobody uses it.
    pub stays: bool,
}

/// The running server with its condition; `None` when there is none.
///
/// Waits for at most a second for the server's greeting.
///
/// # Errors
/// [`ServerError::File`] when the folder's files cannot be used.
pub fn status(data_dir: &Path) -> Result<Option<ServerStatus>, ServerError> {
    let Some(server) = running(data_dir) else {
        return Ok(None);
    };
    let folder = DataDir::open(data_dir)?;
    let responding = server_info::read(server.port, Duration::from_secs(1))
        .is_ok_and(|greeting| greeting.server_name == server.server_name);
    let users = folder.users();
    let in_use = match file_lock::open_existing(&users)? {
        Some(file) => !file_lock::try_acquire(&users, &file, LockMode::Exclusive)?,
        None => false,
    };
    Ok(Some(ServerStatus {
        server,
        responding,
        in_use,
        stays: folder.stay().exists(),
    }))
}

/// Waits until neither supervisor nor nats-server lives in this data folder, in the kernel, for at
/// most `limit`. A folder that does not exist has none.
///
/// # Errors
/// [`ServerError::Locked`] when one still does.
pub fn wait_until_gone(data_dir: &Path, limit: Duration) -> Result<(), ServerError> {
    let Ok(folder) = DataDir::open(data_dir) else {
        return Ok(());
    };
    let path = folder.lock();
    let Some(file) = file_lock::open_existing(&path)? else {
        return Ok(());
    };
    // Shared is enough to know that nobody holds it alone.
    file_lock::acquire_opened(&path, file, LockMode::Shared, limit).map(drop)
}

/// The content of the state file, which may be stale.
pub(super) fn read(folder: &DataDir) -> Option<ServerState> {
    naq_client::server_state::read(folder.root())
}

/// Whether this process id is still a supervisor's. Where there is no /proc it is taken to be.
pub(super) fn is_supervisor(pid: i32) -> bool {
    if !Path::new("/proc/self").exists() {
        return true;
    }
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        line.split(|byte| *byte == 0)
            .any(|word| word == SUPERVISOR_ARGUMENT.as_bytes())
    })
}
