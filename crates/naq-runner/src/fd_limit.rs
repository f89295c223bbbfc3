//! How many files may be open, here and in jobs.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::error::RunnerError;

/// Descriptors of a job in the worker: three pipes at both ends, standard
/// input, and a body too long for a message.
const FDS_PER_JOB: u64 = 8;

/// What the rest of the worker needs.
const RESERVED_FDS: u64 = 128;

/// The limit this process was started with, which jobs get.
static ORIGINAL_LIMIT: OnceLock<(u64, u64)> = OnceLock::new();

/// Raises the limit of open files as far as it goes, and checks it against the
/// concurrency. Returns the limit as it was before, for jobs.
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
