//! When a worker ends by itself: after a number of jobs, or once it has had none for some time.

use std::time::Duration;

use tokio::time::Instant;

/// The rules of one worker, and since when it has had no job.
#[derive(Debug)]
pub(super) struct ExitRules {
    /// Number of attempts after which the worker drains. `None` means no limit.
    jobs_max: Option<u64>,
    /// Time without a job after which the worker drains. `None` means never.
    idle_max: Option<Duration>,
    idle_since: Option<Instant>,
}

impl ExitRules {
    pub(super) fn new(jobs_max: Option<u64>, idle_max: Option<Duration>) -> ExitRules {
        ExitRules {
            jobs_max,
            idle_max,
            idle_since: None,
        }
    }

    /// How many more jobs the worker may take after `ended`, while it has `held`. Those that it has
    /// are counted too, so that it never starts more than the limit; one that it returns to its queue
    /// makes room for another.
    pub(super) fn jobs_left(&self, ended: u64, held: usize) -> usize {
        let Some(max) = self.jobs_max else {
            return usize::MAX;
        };
        let left = max.saturating_sub(ended);
        usize::try_from(left)
            .unwrap_or(usize::MAX)
            .saturating_sub(held)
    }

    /// Whether as many jobs have ended as the worker may run.
    pub(super) fn is_done(&self, ended: u64) -> bool {
        self.jobs_max.is_some_and(|max| ended >= max)
    }

    /// When the worker has had no job for too long, if it gets none until then. `None` if that is never.
    pub(super) fn idle_deadline(&mut self, is_idle: bool, now: Instant) -> Option<Instant> {
        let idle_max = self.idle_max?;
        if !is_idle {
            self.idle_since = None;
            return None;
        }
        // A time too far away to be represented never comes.
        self.idle_since.get_or_insert(now).checked_add(idle_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_takes_no_more_jobs_than_it_may_run() {
        let rules = ExitRules::new(Some(3), None);
        assert_eq!(rules.jobs_left(0, 0), 3);
        assert_eq!(rules.jobs_left(1, 1), 1);
        assert_eq!(rules.jobs_left(1, 2), 0);
        assert_eq!(rules.jobs_left(3, 0), 0);
        assert!(!rules.is_done(2) && rules.is_done(3));
        let unlimited = ExitRules::new(None, None);
        assert_eq!(unlimited.jobs_left(u64::MAX, 9), usize::MAX);
        assert!(!unlimited.is_done(u64::MAX));
    }

    #[test]
    fn idle_time_begins_again_after_each_job() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut rules = ExitRules::new(None, Some(5 * second));
        assert_eq!(rules.idle_deadline(true, start), Some(start + 5 * second));
        let later = start + 2 * second;
        assert_eq!(rules.idle_deadline(true, later), Some(start + 5 * second));
        assert_eq!(rules.idle_deadline(false, later), None);
        assert_eq!(rules.idle_deadline(true, later), Some(later + 5 * second));
        assert_eq!(ExitRules::new(None, None).idle_deadline(true, start), None);
    }
}
