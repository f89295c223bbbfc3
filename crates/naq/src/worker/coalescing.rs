//! Coalescing: under a stream of short jobs, the loop handles a few completions together.

use std::time::Duration;

use tokio::time::Instant;

/// Number of jobs that must run per processor before completions are coalesced: enough to keep the
/// processor busy meanwhile.
const COALESCE_RUNNING_MIN: usize = 4;

/// Pause for each job that runs on a processor: an eighth of what it keeps the processor busy for,
/// as a short job takes some 500 µs.
const COALESCE_PER_JOB: Duration = Duration::from_micros(64);

/// The longest pause.
const COALESCE_PAUSE_MAX: Duration = Duration::from_millis(3);

/// Under a stream of short jobs, lets a few completions arrive before they are handled together.
///
/// Each wake-up, packet and system call costs as much as the work that it brings. While so many
/// jobs run that the processors stay busy, a pause halves that cost and delays nothing. It blocks
/// the thread on purpose: everything that arrives waits in the kernel.
pub(super) struct Coalescing {
    /// When completions were last handled.
    last_at: Instant,
    /// Number of processors that this process may use.
    processors: usize,
}

impl Coalescing {
    pub(super) fn new() -> Coalescing {
        Coalescing {
            last_at: Instant::now(),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        }
    }

    pub(super) fn coalesce_completions(&mut self, running: usize) {
        let now = Instant::now();
        let since_last = now.duration_since(std::mem::replace(&mut self.last_at, now));
        let pause = coalesce_pause(running, self.processors);
        if !pause.is_zero() && since_last < pause * 2 {
            std::thread::sleep(pause);
        }
    }
}

/// How long to pause while `running` jobs run on `processors`.
fn coalesce_pause(running: usize, processors: usize) -> Duration {
    if running < COALESCE_RUNNING_MIN * processors {
        return Duration::ZERO;
    }
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let pause = COALESCE_PER_JOB.saturating_mul(count(running)) / count(processors);
    pause.min(COALESCE_PAUSE_MAX)
}
