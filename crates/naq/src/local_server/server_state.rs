//! The condition of a running server. The state file itself is read in `naq-client`, which every
//! producer uses.

use std::path::Path;
use std::time::Duration;

use naq_client::server_state::{ServerState, running};
use serde::Serialize;

use super::certificate::{PinnedCertificate, RequiredProof};
use super::data_dir::DataDir;
use super::error::ServerError;
use super::file_lock::{self, LockMode};
use super::server_info;

/// How long `naq server status` waits for the server.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// The output of `naq server status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(rename = "server_status")]
pub struct ServerStatus {
    /// The server.
    pub server: ServerState,
    /// Whether it responds within a second, and proves by its process or its certificate that it is this server.
    pub responding: bool,
    /// Whether it has users at the moment.
    pub in_use: bool,
    /// Whether it keeps running without users.
    pub stays: bool,
}

/// The running server with its condition; `None` if none runs.
///
/// Waits at most a second for the server's greeting.
///
/// # Errors
/// Returns [`ServerError::File`] if a file of the folder cannot be opened, and [`ServerError::Certificate`] if
/// the server's certificate cannot be read.
pub fn status(data_dir: &Path) -> Result<Option<ServerStatus>, ServerError> {
    let Some(server) = running(data_dir) else {
        return Ok(None);
    };
    let folder = DataDir::open(data_dir)?;
    let proof = proof_of(&server)?;
    let responding = server_info::read(server.port, proof.as_ref(), STATUS_TIMEOUT)
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

/// What this server has to prove. `None` if it has no certificate, because an earlier version of naq has started it,
/// or because its own configuration says who may connect.
///
/// # Errors
/// Returns [`ServerError::Certificate`] if the certificate cannot be read.
pub(super) fn proof_of(server: &ServerState) -> Result<Option<RequiredProof>, ServerError> {
    let Some(path) = &server.certificate_file else {
        return Ok(None);
    };
    Ok(Some(RequiredProof {
        certificate: PinnedCertificate::read(path)?,
        process: server.process(),
    }))
}

/// Waits at most `limit` until no supervisor and no nats-server of this data folder lives, blocked in the
/// kernel. Returns at once if the folder does not exist.
///
/// # Errors
/// Returns [`ServerError::Locked`] if one still lives.
pub fn wait_until_gone(data_dir: &Path, limit: Duration) -> Result<(), ServerError> {
    let Ok(folder) = DataDir::open(data_dir) else {
        return Ok(());
    };
    let path = folder.lock();
    let Some(file) = file_lock::open_existing(&path)? else {
        return Ok(());
    };
    // A shared lock suffices to prove that nobody has an exclusive one.
    file_lock::acquire_opened(&path, file, LockMode::Shared, limit).map(drop)
}

/// The same for a server without users, which is about to stop. Returns also when another process uses it.
pub(super) fn wait_until_gone_or_used(
    folder: &DataDir,
    limit: Duration,
) -> Result<(), ServerError> {
    let users = folder.users();
    let is_used = || -> Result<bool, ServerError> {
        let Some(file) = file_lock::open_existing(&users)? else {
            return Ok(false);
        };
        // The supervisor takes an exclusive lock once the server has no users, and a user has a shared one.
        Ok(!file_lock::try_acquire(&users, &file, LockMode::Exclusive)?
            && file_lock::try_acquire(&users, &file, LockMode::Shared)?)
    };
    let path = folder.lock();
    let Some(file) = file_lock::open_existing(&path)? else {
        return Ok(());
    };
    let is_unused = || !is_used().unwrap_or(true);
    file_lock::acquire_opened_while(&path, file, LockMode::Shared, limit, is_unused).map(drop)
}

/// The content of the state file, which may be stale.
pub(super) fn read(folder: &DataDir) -> Option<ServerState> {
    naq_client::server_state::read(folder.root())
}
