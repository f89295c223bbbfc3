//! Claiming ahead: while jobs are short, a worker claims a few more than it may run, so that the next one starts
//! at once, instead of after a delivery and a claim.
//!
//! A job that waits here could run on another worker that is idle. So a worker claims ahead only while its jobs
//! end so fast that no job waits longer than some milliseconds, and requeues the waiting ones as soon as none
//! ends for that long.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use naq_jetstream::failpoint_value;

/// Mean run time from which jobs are not short any more.
const SHORT_RUN_MAX: Duration = Duration::from_millis(5);

/// Run time of one job that ends claiming ahead at once, whatever the mean.
const LONG_RUN_MIN: Duration = Duration::from_millis(50);

/// Short jobs that must have ended in a row before the first is claimed ahead.
const SHORT_RUNS_MIN: u32 = 8;

/// How long the last of the waiting jobs may have to wait, at the rate at which jobs end.
const WAIT_AIM: Duration = Duration::from_millis(5);

/// The most that a pause without an end counts for in the mean: an idle time says nothing about the rate.
const INTERVAL_MAX: Duration = Duration::from_millis(10);

/// How long a job that was claimed ahead waits: at its spawner since it was sent there, in this process since another
/// one ended. Then it goes back to its queue, where an idle worker may take it.
pub(super) const WAIT_MAX: Duration = Duration::from_millis(10);

/// Maximum number of jobs that are claimed ahead.
pub(super) const DEPTH_MAX: usize = 16;

/// Weight of the last job in the means: one eighth.
const WEIGHT: f64 = 0.125;

/// How many jobs this worker claims ahead. The tasks of the jobs and the loop of the worker share it.
#[derive(Default)]
pub(super) struct ClaimAhead {
    pace: Mutex<Pace>,
    /// Whether each consumer was seen to have no limit of running jobs. Waiting jobs count towards such a limit,
    /// and would keep others from running.
    is_unlimited: AtomicBool,
}

impl ClaimAhead {
    fn lock(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job ran for this long, and its place is free.
    pub(super) fn on_ended(&self, run: Duration) {
        let mut pace = self.lock();
        pace.on_ended(run, Instant::now());
        // Tests run on machines on which nothing is short.
        if failpoint_value("claim_ahead.short").is_some() {
            pace.pretend(run, Duration::from_micros(200));
        }
    }

    /// A job has not started: it was withdrawn since its turn did not come in time, or could not be started.
    pub(super) fn on_unstarted(&self) {
        self.lock().short_runs = 0;
    }

    /// How long the last jobs ran on average. Zero before the first one has ended.
    pub(super) fn mean_run(&self) -> Duration {
        Duration::from_secs_f64(self.lock().run_s)
    }

    /// Sets whether no queue of the worker has a limit of running jobs.
    pub(super) fn set_unlimited(&self, is_unlimited: bool) {
        self.is_unlimited.store(is_unlimited, Ordering::Relaxed);
    }

    /// How many jobs may be claimed beyond those that run.
    pub(super) fn depth(&self) -> usize {
        match self.is_unlimited.load(Ordering::Relaxed) {
            true => self.lock().depth(),
            false => 0,
        }
    }

    /// Whether the last jobs were short, so that several of one queue may follow each other before those of other
    /// queues. A stall does not change that: a server with many queues has most to do when each job is of another.
    pub(super) fn has_short_jobs(&self) -> bool {
        self.lock().has_short_jobs()
    }

    /// When the jobs that wait are to be requeued, if no job ends until then.
    pub(super) fn stall_at(&self) -> tokio::time::Instant {
        let last_end = self.lock().last_end.unwrap_or_else(Instant::now);
        (last_end + WAIT_MAX).into()
    }

    /// Whether the jobs that wait are to be requeued. Ends claiming ahead if so.
    pub(super) fn has_stalled(&self) -> bool {
        self.lock().has_stalled(Instant::now())
    }
}

/// How fast the jobs of a worker end.
#[derive(Debug, Default)]
struct Pace {
    /// Number of jobs that have ended in a row and were short.
    short_runs: u32,
    /// Number of jobs that have ended since the last long one.
    runs_since_long: u32,
    /// Mean run time, in seconds.
    run_s: f64,
    /// Mean time between two ends, in seconds.
    interval_s: f64,
    /// When the last job ended.
    last_end: Option<Instant>,
}

impl Pace {
    fn on_ended(&mut self, run: Duration, now: Instant) {
        let interval = self
            .last_end
            .replace(now)
            .map_or(INTERVAL_MAX, |last| now.duration_since(last));
        if run >= LONG_RUN_MIN {
            self.short_runs = 0;
            self.runs_since_long = 0;
            self.run_s = run.as_secs_f64();
            return;
        }
        let interval_s = interval.min(INTERVAL_MAX).as_secs_f64();
        if self.short_runs == 0 {
            self.run_s = run.as_secs_f64();
            self.interval_s = interval_s;
        }
        self.short_runs = self.short_runs.saturating_add(1);
        self.runs_since_long = self.runs_since_long.saturating_add(1);
        self.run_s += (run.as_secs_f64() - self.run_s) * WEIGHT;
        self.interval_s += (interval_s - self.interval_s) * WEIGHT;
    }

    /// Takes the jobs that ended, except long ones, for ones that took `mean`.
    fn pretend(&mut self, run: Duration, mean: Duration) {
        if run < LONG_RUN_MIN {
            self.run_s = mean.as_secs_f64();
            self.interval_s = mean.as_secs_f64();
        }
    }

    fn has_short_jobs(&self) -> bool {
        self.runs_since_long >= SHORT_RUNS_MIN && self.run_s < SHORT_RUN_MAX.as_secs_f64()
    }

    fn depth(&self) -> usize {
        if self.short_runs < SHORT_RUNS_MIN || !self.has_short_jobs() {
            return 0;
        }
        let jobs = WAIT_AIM.as_secs_f64() / self.interval_s.max(1e-9);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small count"
        )]
        let depth = jobs as usize;
        depth.min(DEPTH_MAX)
    }

    fn has_stalled(&mut self, now: Instant) -> bool {
        let has_stalled = self
            .last_end
            .is_none_or(|last| now.duration_since(last) >= WAIT_MAX);
        if has_stalled {
            self.short_runs = 0;
        }
        has_stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ends jobs that ran for `run`, one each `interval`. Returns the time of the last end.
    fn end(
        pace: &mut Pace,
        mut now: Instant,
        count: u32,
        run: Duration,
        interval: Duration,
    ) -> Instant {
        for _ in 0..count {
            now += interval;
            pace.on_ended(run, now);
        }
        now
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn short_jobs_in_a_row_are_claimed_ahead() {
        let mut pace = Pace::default();
        let now = end(&mut pace, Instant::now(), SHORT_RUNS_MIN - 1, MS, MS);
        assert_eq!(pace.depth(), 0);
        end(&mut pace, now, 40, MS, MS);
        assert!((4..=5).contains(&pace.depth()), "{pace:?}");
    }

    #[test]
    fn one_long_job_ends_it_and_so_does_a_stall() {
        let mut pace = Pace::default();
        let now = end(&mut pace, Instant::now(), 50, MS, MS);
        assert!(pace.depth() > 0 && !pace.has_stalled(now + WAIT_MAX / 2));
        pace.on_ended(LONG_RUN_MIN, now);
        assert!(pace.depth() == 0 && !pace.has_short_jobs());
        let now = end(&mut pace, now, 50, MS, MS);
        assert!(pace.depth() > 0 && pace.has_stalled(now + WAIT_MAX));
        assert!(pace.depth() == 0 && pace.has_short_jobs());
    }

    #[test]
    fn nothing_is_claimed_ahead_where_running_jobs_are_limited() {
        let ahead = ClaimAhead::default();
        for _ in 0..50 {
            ahead.on_ended(Duration::from_micros(100));
        }
        assert_eq!(ahead.depth(), 0);
        ahead.set_unlimited(true);
        assert!(ahead.depth() > 0);
    }

    proptest! {
        /// Whatever jobs ended before: at the mean rate of ends, the last of the waiting jobs starts in time, and
        /// nothing waits behind jobs that are long on average.
        #[test]
        fn the_last_waiting_job_starts_in_time(
            jobs in prop::collection::vec((0_u64..20_000, 0_u64..20_000), 0..100)
        ) {
            let mut pace = Pace::default();
            let mut now = Instant::now();
            for (run_us, interval_us) in jobs {
                now += Duration::from_micros(interval_us);
                pace.on_ended(Duration::from_micros(run_us), now);
                let depth = pace.depth();
                prop_assert!(depth <= DEPTH_MAX);
                prop_assert!(depth as f64 * pace.interval_s <= WAIT_AIM.as_secs_f64() + 1e-9);
                prop_assert!(depth == 0 || pace.run_s < SHORT_RUN_MAX.as_secs_f64());
            }
        }
    }
}
