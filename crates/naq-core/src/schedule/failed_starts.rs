//! Schedules whose jobs do not start: each tick is enqueued, and each job ends without having run.

use std::fmt;

use super::plan::TickPlan;
use naq_protocol::{Reason, Record, State, Timestamp};

/// Number of runs that are checked, latest first.
pub const RUNS_CHECKED: usize = 3;

/// Maximum number of ticks that are computed to find the last ones before a time.
const TICKS_COMPUTED_MAX: usize = 10_000;

/// The last runs of a schedule, none of which started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedStarts {
    /// How many, up to [`RUNS_CHECKED`].
    pub runs: usize,
    /// Why the last of them did not start.
    pub error: String,
}

impl fmt::Display for FailedStarts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.runs {
            1 => f.write_str("last run")?,
            runs => write!(f, "last {runs} runs")?,
        }
        write!(f, " failed to start: {}", self.error)
    }
}

/// How many of a schedule's runs in a row failed to start. `runs` are the records of its jobs, latest
/// first; `None` stands for a job without a record. `None` if the last run has started, or has not
/// ended.
#[must_use]
pub fn failed_starts<'r>(
    runs: impl IntoIterator<Item = Option<&'r Record>>,
) -> Option<FailedStarts> {
    let mut never_started = runs
        .into_iter()
        .map_while(|run| run.filter(|record| has_never_started(record)));
    let last = never_started.next()?;
    let error = match &last.error {
        Some(error) => error.clone(),
        None => last
            .reason()
            .map_or_else(String::new, |reason| reason.to_string()),
    };
    Some(FailedStarts {
        runs: 1 + never_started.count(),
        error,
    })
}

/// Whether a job has ended without having run: its program cannot be started, or workers reject it.
#[must_use]
pub fn has_never_started(record: &Record) -> bool {
    match record.state() {
        State::Failed => record.reason() == Some(Reason::Spawn),
        State::Rejected => true,
        _ => false,
    }
}

/// The last ticks of a schedule before a tick, latest first, at most `count`. Fewer if the schedule has
/// no more, or if it has very many.
#[must_use]
pub fn ticks_before(plan: &TickPlan, tick: Timestamp, count: usize) -> Vec<Timestamp> {
    let mut found = Vec::new();
    // Rules are computed forwards, so the search begins further and further back.
    for exponent in 0..35 {
        let Some(mut at) = Timestamp::from_unix_ms(tick.unix_ms() - (1_i64 << exponent) * 100)
        else {
            break;
        };
        let mut ticks = Vec::new();
        while let Some(next) = plan.tick_after(at).filter(|next| *next < tick) {
            if ticks.len() == TICKS_COMPUTED_MAX {
                return found;
            }
            ticks.push(next);
            at = next;
        }
        ticks.reverse();
        ticks.truncate(count);
        found = ticks;
        if found.len() == count {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CronCache;
    use crate::job::stored_record::{stored_record, with_fields};
    use crate::schedule::test_schedule::{at, schedule};

    fn run(state: State, reason: Option<&str>, error: Option<&str>) -> Record {
        let fields = serde_json::json!({"reason": reason, "error": error});
        with_fields(&stored_record(state), &fields)
    }

    #[test]
    fn runs_that_failed_to_start_are_counted_up_to_the_first_that_did() {
        let no_folder = run(State::Failed, Some("spawn"), Some("no such folder /x"));
        let other = run(State::Failed, Some("spawn"), Some("no such command y"));
        let rejected = run(State::Rejected, Some("not_allowed"), None);
        let exited = run(State::Failed, Some("exit"), None);
        let fine = run(State::Succeeded, None, None);
        let shown = |runs: &[Option<&Record>]| {
            failed_starts(runs.iter().copied()).map(|starts| starts.to_string())
        };
        let three = [Some(&no_folder), Some(&no_folder), Some(&other)];
        let expected = "last 3 runs failed to start: no such folder /x";
        assert_eq!(shown(&three).as_deref(), Some(expected));
        let one = [Some(&no_folder), Some(&exited), Some(&no_folder)];
        let expected = "last run failed to start: no such folder /x";
        assert_eq!(shown(&one).as_deref(), Some(expected));
        assert_eq!(shown(&[Some(&no_folder), None]).as_deref(), Some(expected));
        let expected = "last 2 runs failed to start: not_allowed";
        let two = [Some(&rejected), Some(&no_folder), Some(&fine)];
        assert_eq!(shown(&two).as_deref(), Some(expected));
        for started in [&exited, &fine] {
            assert_eq!(shown(&[Some(started), Some(&no_folder)]), None);
        }
        assert_eq!(shown(&[None, Some(&no_folder)]), None);
        assert_eq!(shown(&[]), None);
    }

    #[test]
    fn ticks_before_a_tick_are_found_for_intervals_and_for_irregular_crons() {
        let plan = |cron: Option<&str>, every| {
            TickPlan::new(&schedule(cron, every), &mut CronCache::default()).unwrap()
        };
        let before = |plan: &TickPlan, tick: &str, count| -> Vec<String> {
            let found = ticks_before(plan, at(tick), count);
            found.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            before(&plan(None, Some(60_000)), "2026-12-24T18:00:00Z", 2),
            ["2026-12-24T17:59:00.000Z", "2026-12-24T17:58:00.000Z"]
        );
        // The first tick of an interval has none before it.
        assert_eq!(
            before(&plan(None, Some(60_000)), "2026-12-24T17:02:00Z", 2),
            ["2026-12-24T17:01:00.000Z"]
        );
        // Every minute of one hour a day.
        assert_eq!(
            before(&plan(Some("* 9 * * *"), None), "2026-12-25T09:00:00Z", 2),
            ["2026-12-24T09:59:00.000Z", "2026-12-24T09:58:00.000Z"]
        );
        assert_eq!(
            before(&plan(Some("0 0 1 1 *"), None), "2027-01-01T00:00:00Z", 1),
            ["2026-01-01T00:00:00.000Z"]
        );
    }
}
