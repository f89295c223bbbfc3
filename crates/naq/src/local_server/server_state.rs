//! Where a running server is, as its supervisor wrote it down, and whether that is still true.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::data_dir::{self, DataDir};
use super::error::ServerError;
use super::file_lock::{self, LockMode};
use super::server_info;
use super::supervisor::SUPERVISOR_ARGUMENT;

/// A running managed server: the content of `server.json` in its data folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerState {
    /// `nats://127.0.0.1:PORT`, without the token.
    pub url: String,
    /// The port at 127.0.0.1.
    pub port: u16,
    /// nats-server's process id.
    pub pid: i32,
    /// The supervisor's process id.
    pub supervisor_pid: i32,
    /// The file (mode 0600) that holds the token.
    pub token_file: PathBuf,
    /// nats-server's version.
    pub version: String,
    /// The program that runs.
    pub binary: PathBuf,
    /// The name the server greets with, new at each start of a supervisor.
    pub server_name: String,
    /// When this nats-server process was started.
    pub started_at: DateTime<Utc>,
}

impl ServerState {
    /// Reads the token.
    ///
    /// # Errors
    /// [`ServerError::File`] when the token file cannot be read.
    pub fn token(&self) -> Result<String, ServerError> {
        data_dir::read_token(&self.token_file)
    }
}

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

/// The server that runs in this data folder, if any: a state file, and a lock that is held.
///
/// Never starts anything, never waits, creates nothing.
#[must_use]
pub fn running(data_dir: &Path) -> Option<ServerState> {
    let folder = DataDir::open(data_dir).ok()?;
    let state = read(&folder)?;
    is_locked(&folder).then_some(state)
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

/// The state file's content, true or stale.
pub(super) fn read(folder: &DataDir) -> Option<ServerState> {
    serde_json::from_slice(&fs::read(folder.state()).ok()?).ok()
}

/// Whether a supervisor or a nats-server holds the folder.
fn is_locked(folder: &DataDir) -> bool {
    let path = folder.lock();
    let Ok(Some(file)) = file_lock::open_existing(&path) else {
        return false;
    };
    // A shared lock is let go of at once, and a supervisor that meets it waits for it: asking
    // disturbs nobody, and two that ask do not disturb each other.
    file_lock::try_acquire(&path, &file, LockMode::Shared).is_ok_and(|taken| !taken)
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
