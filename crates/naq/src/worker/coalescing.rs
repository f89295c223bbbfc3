//! Coalescing: under a stream of short jobs, the loop handles a few completions together.

use std::time::Duration;

use tokio::time::Instant;

/// Number of jobs that must run per processor before completions are coalesced: enough to keep the
/// processor busy meanwhile.
const COALESCE_RUNNING_MIN: usize = 4;

/// Part of the time that a job takes for which to pause: what completes meanwhile keeps the processors busy for eight
/// times as long.
const COALESCE_PART: u32 = 8;

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

    /// Handles a completion while `running` other jobs run, of which the last ones took `mean_run` on average.
    pub(super) fn coalesce_completions(&mut self, running: usize, mean_run: Duration) {
        let now = Instant::now();
        let since_last = now.duration_since(std::mem::replace(&mut self.last_at, now));
        let pause = coalesce_pause(running, self.processors, mean_run);
        if !pause.is_zero() && since_last < pause * 2 {
            std::thread::sleep(pause);
        }
    }
}

/// How long to pause while `running` jobs run on `processors`.
fn coalesce_pause(running: usize, processors: usize, mean_run: Duration) -> Duration {
    if running < COALESCE_RUNNING_MIN * processors {
        return Duration::ZERO;
    }
    (mean_run / COALESCE_PART).min(COALESCE_PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_follows_from_the_jobs_and_never_leaves_a_processor_idle() {
        let ms = Duration::from_millis;
        assert_eq!(coalesce_pause(7, 2, ms(8)), Duration::ZERO);
        assert_eq!(coalesce_pause(8, 2, ms(8)), ms(1));
        assert_eq!(coalesce_pause(64, 2, Duration::ZERO), Duration::ZERO);
        assert_eq!(coalesce_pause(64, 2, ms(60_000)), COALESCE_PAUSE_MAX);
    }
}
