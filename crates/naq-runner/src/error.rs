//! Why a runner cannot start.

use std::io;

use super::landlock::LandlockError;
use super::options::Containment;

/// Why a runner could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The concurrency is 0.
    #[error("concurrency is 0: a runner needs at least one slot")]
    NoSlots,
    /// The descriptor limit is too low for the concurrency.
    #[error(
        "{concurrency} concurrent jobs need {needed} open files, but this process may open {allowed}: raise RLIMIT_NOFILE or lower the concurrency to {max_concurrency}"
    )]
    FdLimitTooLow {
        /// The configured concurrency.
        concurrency: usize,
        /// Descriptors that this concurrency needs.
        needed: u64,
        /// Descriptors that this process may open.
        allowed: u64,
        /// The largest concurrency that `allowed` permits.
        max_concurrency: u64,
    },
    /// The configuration names another user, and this process is not root.
    #[error("cannot run jobs as {user}: only root can start jobs as another user")]
    NotRoot {
        /// The configured user.
        user: String,
    },
    /// The file access of jobs cannot be restricted.
    #[error("cannot restrict the files of jobs: {0}")]
    Landlock(#[from] LandlockError),
    /// The configured containment is unavailable, or none is available.
    #[error("containment `{containment}` is unavailable here: {source}")]
    Containment {
        /// The containment that was tried last.
        containment: Containment,
        /// Why it is unavailable.
        source: io::Error,
    },
    /// Set-user-ID programs and Landlock exclude each other.
    #[error(
        "set-user-ID programs cannot be allowed while the files of jobs are restricted: Landlock needs no_new_privs"
    )]
    SetuidWithLandlock,
    /// Jobs cannot have a `/tmp` of their own.
    #[error("jobs cannot have a /tmp of their own: {0}")]
    PrivateTmp(String),
    /// A spawner process did not start.
    #[error("cannot start a spawner process: {0}")]
    Spawner(#[source] io::Error),
}
