//! The state file of the managed local server: where the server is, and whether it still runs.
//!
//! The server's supervisor writes `server.json` into its data folder and holds an advisory lock on
//! the file `lock` there for as long as it, or its nats-server, is alive. A stale state file is
//! therefore recognised by its lock being free.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use naq_jetstream::{FindServerProcess, SMALL_FILE_BYTES_MAX, ServerProcess};
use serde::{Deserialize, Serialize};

/// Name of the state file in the server's data folder.
pub const STATE_FILE: &str = "server.json";

/// Name of the lock file in the server's data folder.
pub const LOCK_FILE: &str = "lock";

/// A managed local server, as its supervisor describes it in the state file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "server")]
pub struct ServerState {
    /// `nats://127.0.0.1:PORT`.
    pub url: String,
    /// The port on 127.0.0.1.
    pub port: u16,
    /// The process id of nats-server.
    pub pid: i32,
    /// What tells that process from all others with the same id: the boot of the machine, the namespace of process
    /// ids, and when the process started, in clock ticks since the boot. `None` if the kernel does not show that the
    /// process serves the port, or an earlier version of naq has started the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_identity: Option<String>,
    /// The process id of the supervisor.
    pub supervisor_pid: i32,
    /// The file (mode 0600) with the seed of the NKey that clients log in with. Empty if an earlier
    /// version of naq has started the server.
    #[serde(default)]
    pub nkey_file: PathBuf,
    /// The file with the certificate that the server presents, and that naq's clients trust. `None` if it
    /// presents none: an earlier version of naq has started it, or its own configuration says who may
    /// connect.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// The version of nats-server.
    pub version: String,
    /// The program that runs.
    pub binary: PathBuf,
    /// The name that the server sends in its greeting. Each start of a supervisor chooses a new one.
    pub server_name: String,
    /// When this nats-server process was started.
    pub started_at: DateTime<Utc>,
}

impl ServerState {
    /// The process that runs the server. `None` if the state does not say what tells it from others.
    #[must_use]
    pub fn process(&self) -> Option<ServerProcess> {
        Some(ServerProcess {
            pid: self.pid,
            identity: self.process_identity.clone()?,
        })
    }
}

/// Finds the process of the server that runs in this data folder, again at each call.
pub(crate) fn find_process(data_dir: &Path) -> FindServerProcess {
    let data_dir = data_dir.to_owned();
    FindServerProcess::new(move || running(&data_dir)?.process())
}

/// Returns the server that runs in this data folder: its state file is valid and its lock is held.
/// `None` means that no server runs there.
///
/// Starts nothing, waits for nothing and creates no file.
#[must_use]
pub fn running(data_dir: &Path) -> Option<ServerState> {
    let state = read(data_dir)?;
    is_locked(&data_dir.join(LOCK_FILE)).then_some(state)
}

/// Returns the content of the state file, which may be stale. `None` means that the file does not
/// exist or cannot be read.
#[must_use]
pub fn read(data_dir: &Path) -> Option<ServerState> {
    let found = naq_jetstream::read_file(&data_dir.join(STATE_FILE), SMALL_FILE_BYTES_MAX).ok()?;
    serde_json::from_slice(&found.bytes).ok()
}

/// Whether a supervisor or a nats-server holds the lock exclusively.
fn is_locked(lock: &Path) -> bool {
    let Ok(file) = File::open(lock) else {
        return false;
    };
    // The shared lock is released again when `file` is dropped. A supervisor that meets it waits,
    // and two processes that probe at the same time both get it, so probing disturbs nobody.
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_state_file_is_stale_once_its_lock_is_free() {
        let folder = std::env::temp_dir().join(format!("naq-server-state-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let state = ServerState {
            url: "nats://127.0.0.1:4333".to_owned(),
            port: 4333,
            pid: 1,
            process_identity: Some("boot pid 7".to_owned()),
            supervisor_pid: 1,
            nkey_file: folder.join("client.nk"),
            certificate_file: Some(folder.join("server.pem")),
            version: "2.12.0".to_owned(),
            binary: "/bin/nats-server".into(),
            server_name: "one".to_owned(),
            started_at: DateTime::UNIX_EPOCH,
        };
        fs::write(folder.join(STATE_FILE), serde_json::to_vec(&state).unwrap()).unwrap();
        assert_eq!(running(&folder), None, "nobody has ever held the lock");

        let lock = File::create(folder.join(LOCK_FILE)).unwrap();
        lock.lock().unwrap();
        assert_eq!(running(&folder), Some(state.clone()));

        drop(lock);
        assert_eq!(running(&folder), None);
        assert_eq!(read(&folder), Some(state));
        fs::remove_dir_all(&folder).unwrap();
    }
}
