//! Where a running server is, as its keeper wrote it down, and whether that is still true.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::error::ServerError;
use super::folder::{self, Folder};
use super::greeting;
use super::keeper::KEEPER_ARGUMENT;
use super::lock::{self, Mode};

/// A running managed server: the content of `server.json` in its data folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// `nats://127.0.0.1:PORT`, without the token.
    pub url: String,
    /// The port at 127.0.0.1.
    pub port: u16,
    /// nats-server's process id.
    pub pid: i32,
    /// The keeper's process id.
    pub keeper_pid: i32,
    /// The file (mode 0600) that holds the token.
    pub token_file: PathBuf,
    /// nats-server's version.
    pub version: String,
    /// The program that runs.
    pub binary: PathBuf,
    /// The name the server greets with, new at each start of a keeper.
    pub server_name: String,
    /// When this nats-server process was started.
    pub started_at: DateTime<Utc>,
}

impl State {
    /// Reads the token.
    ///
    /// # Errors
    /// [`ServerError::File`] when the token file cannot be read.
    pub fn token(&self) -> Result<String, ServerError> {
        folder::read_token(&self.token_file)
    }
}

/// What `naq server status` tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The server.
    pub server: State,
    /// Whether it greets within a second.
    pub answers: bool,
    /// Whether any process uses it at the moment.
    pub in_use: bool,
    /// Whether it stays when nobody uses it.
    pub stays: bool,
}

/// The server that runs in this data folder, if any: a state file, and a lock that is held.
///
/// Never starts anything, never waits, creates nothing.
#[must_use]
pub fn running(data_dir: &Path) -> Option<State> {
    let folder = Folder::open(data_dir).ok()?;
    let state = read(&folder)?;
    held(&folder).then_some(state)
}

/// The running server with its condition; `None` when there is none.
///
/// Waits for at most a second for the server's greeting.
///
/// # Errors
/// [`ServerError::File`] when the folder's files cannot be used.
pub fn status(data_dir: &Path) -> Result<Option<Status>, ServerError> {
    let Some(server) = running(data_dir) else {
        return Ok(None);
    };
    let folder = Folder::open(data_dir)?;
    let answers = greeting::read(server.port, Duration::from_secs(1))
        .is_ok_and(|greeting| greeting.server_name == server.server_name);
    let users = folder.users();
    let in_use = match lock::open_existing(&users)? {
        Some(file) => !lock::attempt(&users, &file, Mode::Alone)?,
        None => false,
    };
    Ok(Some(Status {
        server,
        answers,
        in_use,
        stays: folder.stay().exists(),
    }))
}

/// Waits until neither keeper nor nats-server lives in this data folder, in the kernel, for at
/// most `limit`. A folder that does not exist has none.
///
/// # Errors
/// [`ServerError::Held`] when one still does.
pub fn wait_until_gone(data_dir: &Path, limit: Duration) -> Result<(), ServerError> {
    let Ok(folder) = Folder::open(data_dir) else {
        return Ok(());
    };
    let path = folder.lock();
    let Some(file) = lock::open_existing(&path)? else {
        return Ok(());
    };
    // Shared is enough to know that nobody holds it alone.
    lock::take_opened(&path, file, Mode::Shared, limit).map(drop)
}

/// The state file's content, true or stale.
pub(super) fn read(folder: &Folder) -> Option<State> {
    serde_json::from_slice(&fs::read(folder.state()).ok()?).ok()
}

/// Whether a keeper or a nats-server holds the folder.
fn held(folder: &Folder) -> bool {
    let path = folder.lock();
    let Ok(Some(file)) = lock::open_existing(&path) else {
        return false;
    };
    // A shared lock is let go of at once, and a keeper that meets it waits for it: asking
    // disturbs nobody, and two that ask do not disturb each other.
    lock::attempt(&path, &file, Mode::Shared).is_ok_and(|taken| !taken)
}

/// Whether this process id is still a keeper's. Where there is no /proc it is taken to be.
pub(super) fn is_keeper(pid: i32) -> bool {
    if !Path::new("/proc/self").exists() {
        return true;
    }
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        line.split(|byte| *byte == 0)
            .any(|word| word == KEEPER_ARGUMENT.as_bytes())
    })
}
