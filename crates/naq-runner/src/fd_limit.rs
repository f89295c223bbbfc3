//! The limit of open files, for this process and for jobs.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::error::RunnerError;

/// Descriptors that the worker needs for a job: both ends of three pipes, standard
/// input, and a request that is too long for one message.
const FDS_PER_JOB: u64 = 8;

/// Descriptors that the rest of the worker needs.
const RESERVED_FDS: u64 = 128;

/// Soft and hard limit with which this process was started; jobs get the same.
static ORIGINAL_LIMIT: OnceLock<(u64, u64)> = OnceLock::new();

/// Raises the limit of open files to the hard limit and compares it with the
/// concurrency. Returns the original limits (soft, hard), which jobs get.
///
/// # Errors
///
/// Returns [`RunnerError::FdLimitTooLow`] if the concurrency needs more.
pub(super) fn raise_fd_limit(concurrency: usize) -> Result<(u64, u64), RunnerError> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let original = *ORIGINAL_LIMIT.get_or_init(|| (soft, hard));
    let allowed = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    let needed = concurrency as u64 * FDS_PER_JOB + RESERVED_FDS;
    if needed > allowed {
        return Err(RunnerError::FdLimitTooLow {
            concurrency,
            needed,
            allowed,
            max_concurrency: allowed.saturating_sub(RESERVED_FDS) / FDS_PER_JOB,
        });
    }
    Ok(original)
}
