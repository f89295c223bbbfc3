//! Advisory locks on whole files (`flock`), with a time limit.
//!
//! A `flock` belongs to the open file, not to the process: a child that inherits the open file shares
//! the lock, and the kernel releases it when the last of them closes the file. This module never
//! unlocks explicitly, since that would unlock for the child as well.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::error::ServerError;

/// The mode of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockMode {
    /// Shared with all other shared locks.
    Shared,
    /// Excludes every other lock.
    Exclusive,
}

/// Opens a lock file, and creates it (mode 0600) if it is missing. Its content is never used.
pub(super) fn open(path: &Path) -> Result<File, ServerError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(ServerError::file("open", path))
}

/// Opens an existing lock file; `None` if it is missing. For probing: creates nothing, since the folder
/// may be about to be removed.
pub(super) fn open_existing(path: &Path) -> Result<Option<File>, ServerError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ServerError::file("open", path)(source)),
    }
}

/// Locks the file if that is possible without waiting. Returns whether it is locked.
pub(super) fn try_acquire(path: &Path, file: &File, mode: LockMode) -> Result<bool, ServerError> {
    let taken = match mode {
        LockMode::Shared => file.try_lock_shared(),
        LockMode::Exclusive => file.try_lock(),
    };
    match taken {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(source)) => Err(ServerError::file("lock", path)(source)),
    }
}

/// Locks the file and waits in the kernel without a time limit.
pub(super) fn wait(path: &Path, file: &File, mode: LockMode) -> Result<(), ServerError> {
    match mode {
        LockMode::Shared => file.lock_shared(),
        LockMode::Exclusive => file.lock(),
    }
    .map_err(ServerError::file("lock", path))
}

/// Interval at which [`acquire_while`] asks whether to continue waiting. Waiting is rare and lasts as long
/// as a server takes to stop.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Opens and locks the file, waiting at most `limit`.
///
/// # Errors
/// Returns [`ServerError::Locked`] if the limit has passed, and [`ServerError::File`] if the file cannot
/// be opened or locked.
pub(super) fn acquire(path: &Path, mode: LockMode, limit: Duration) -> Result<File, ServerError> {
    acquire_opened(path, open(path)?, mode, limit)
}

/// As [`acquire`], for a file that is open.
pub(super) fn acquire_opened(
    path: &Path,
    file: File,
    mode: LockMode,
    limit: Duration,
) -> Result<File, ServerError> {
    match acquire_within(path, file, mode, limit, limit, || true)? {
        Some(file) => Ok(file),
        None => Err(lock_timeout_error(path, limit)),
    }
}

/// As [`acquire`], but returns `None` once `should_continue` returns false.
pub(super) fn acquire_while(
    path: &Path,
    mode: LockMode,
    limit: Duration,
    should_continue: impl FnMut() -> bool,
) -> Result<Option<File>, ServerError> {
    acquire_opened_while(path, open(path)?, mode, limit, should_continue)
}

/// As [`acquire_while`], for a file that is open.
pub(super) fn acquire_opened_while(
    path: &Path,
    file: File,
    mode: LockMode,
    limit: Duration,
    should_continue: impl FnMut() -> bool,
) -> Result<Option<File>, ServerError> {
    acquire_within(path, file, mode, limit, POLL_INTERVAL, should_continue)
}

fn lock_timeout_error(path: &Path, limit: Duration) -> ServerError {
    ServerError::Locked {
        path: path.to_path_buf(),
        waited_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
    }
}

fn acquire_within(
    path: &Path,
    file: File,
    mode: LockMode,
    limit: Duration,
    poll_interval: Duration,
    mut should_continue: impl FnMut() -> bool,
) -> Result<Option<File>, ServerError> {
    if try_acquire(path, &file, mode)? {
        return Ok(Some(file));
    }
    // flock has no time limit. If the limit passes first, the waiting thread eventually gets the lock,
    // finds that nobody receives it, and closes it.
    let (sender, receiver) = mpsc::sync_channel(1);
    let waiting: PathBuf = path.to_path_buf();
    thread::Builder::new()
        .name("naq-lock".to_owned())
        .spawn(move || {
            let outcome = wait(&waiting, &file, mode).map(|()| file);
            let _abandoned = sender.send(outcome);
        })
        .map_err(ServerError::file("wait for", path))?;
    let start = Instant::now();
    loop {
        let left = limit.saturating_sub(start.elapsed());
        match receiver.recv_timeout(left.min(poll_interval)) {
            Ok(outcome) => return outcome.map(Some),
            Err(_) if left.is_zero() => return Err(lock_timeout_error(path, limit)),
            Err(_) if !should_continue() => return Ok(None),
            Err(_) => {}
        }
    }
}
