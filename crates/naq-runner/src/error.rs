//! What keeps a runner from starting.

use std::io;

use super::landlock::LandlockError;
use super::options::Containment;

/// Why a runner could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// There would be no slot.
    #[error("concurrency is 0: a runner needs at least one slot")]
    NoSlots,
    /// The descriptor limit is too low for the concurrency.
    #[error(
        "a concurrency of {concurrency} needs {needed} open files, and this process may have {allowed} (raise RLIMIT_NOFILE, or lower the concurrency to {max_concurrency})"
    )]
    FdLimitTooLow {
        /// What was asked for.
        concurrency: usize,
        /// Descriptors that takes.
        needed: u64,
        /// Descriptors there may be.
        allowed: u64,
        /// The concurrency that would fit.
        max_concurrency: u64,
    },
    /// Another user was asked for, which only root may become.
    #[error("jobs cannot run as {user}: only a worker that is root can start them as another user")]
    NotRoot {
        /// Who was asked for.
        user: String,
    },
    /// Jobs cannot be kept to the files they may use.
    #[error("jobs cannot be kept to some files: {0}")]
    Landlock(#[from] LandlockError),
    /// The containment asked for is not to be had here.
    #[error("containment `{containment}` cannot be had here: {source}")]
    Containment {
        /// What was asked for.
        containment: Containment,
        /// Why not.
        source: io::Error,
    },
    /// A spawner did not start.
    #[error("a spawner process cannot be started: {0}")]
    Spawner(#[source] io::Error),
}
