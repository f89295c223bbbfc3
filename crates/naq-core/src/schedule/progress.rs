//! The progress of a schedule: counted, merged if two writers have made some at the same time, and
//! discarded if a clock was wrong.

use std::time::Duration;

use super::misfire::one_ms_after;
use naq_protocol::{JobId, Schedule, ScheduleProgress, Timestamp};

/// Merges the progress that a leader made into the progress that another writer has stored: a user who
/// changed the schedule, or an earlier leader whose last write arrived late. Returns whether theirs
/// lacked anything.
///
/// Each tick is counted once. If the other writer has counted as many, it has left out those that only
/// the leader enqueued. If it has counted fewer, its counts are older than the leader's.
pub fn merge_progress(theirs: &mut ScheduleProgress, ours: &ScheduleProgress) -> bool {
    let before = theirs.clone();
    if ours.done_until > theirs.done_until {
        *theirs = ours.clone();
        return *theirs != before;
    }
    if ticks_counted(ours) > ticks_counted(theirs) {
        theirs.runs = ours.runs;
        theirs.skipped = ours.skipped;
        theirs.missed = ours.missed;
        theirs.missed_is_minimum |= ours.missed_is_minimum;
    } else {
        let counted_twice = ours.runs.saturating_sub(theirs.runs);
        theirs.runs += counted_twice;
        take_from_left_out(theirs, counted_twice);
    }
    if ours.last_run > theirs.last_run {
        theirs.last_run = ours.last_run;
        theirs.last_job_id.clone_from(&ours.last_job_id);
    }
    *theirs != before
}

/// Counts a tick that was enqueued, as the job `job_id`. `is_counted` means that the counts of another
/// writer, which were merged meanwhile, include the tick as one that was left out.
pub fn count_enqueued(
    progress: &mut ScheduleProgress,
    tick: Timestamp,
    job_id: JobId,
    is_counted: bool,
) {
    progress.done_until = progress.done_until.max(tick);
    progress.failures = 0;
    progress.last_error = None;
    // an earlier leader may have enqueued and counted the tick already
    if progress.last_run < Some(tick) {
        progress.runs += 1;
        progress.last_run = Some(tick);
        progress.last_job_id = Some(job_id);
        if is_counted {
            take_from_left_out(progress, 1);
        }
    }
}

/// Records in a schedule that a user triggers it, and returns the time of the trigger: now, or later if
/// the schedule was triggered within the same millisecond or by a client whose clock is ahead.
#[must_use]
pub fn trigger(mut schedule: Schedule, now: Timestamp) -> (Schedule, Timestamp) {
    let earliest = schedule.progress.last_trigger.map_or(now, one_ms_after);
    let time = now.max(earliest);
    schedule.progress.last_trigger = Some(time);
    (schedule, time)
}

/// Discards progress of a scheduler whose clock was ahead: times later than `now` by more than
/// `tolerance`. Without that, the schedule would enqueue nothing until they have passed. Returns whether
/// there was any. Ticks that were enqueued ahead of their time are not enqueued again at it: they have the ids of
/// those jobs.
pub fn discard_future_progress(
    schedule: &mut Schedule,
    now: Timestamp,
    tolerance: Duration,
) -> bool {
    let tolerance_ms = i64::try_from(tolerance.as_millis()).unwrap_or(i64::MAX);
    let limit_ms = now.unix_ms().saturating_add(tolerance_ms);
    let progress = &mut schedule.progress;
    if progress.done_until.unix_ms() <= limit_ms {
        return false;
    }
    progress.done_until = now;
    // A tick counts as a run only if it is later than the last one.
    progress.last_run = progress.last_run.map(|last_run| last_run.min(now));
    true
}

/// Corrects the counts of ticks that were left out by ticks that were enqueued after all.
fn take_from_left_out(progress: &mut ScheduleProgress, mut ticks: u64) {
    for left_out in [&mut progress.skipped, &mut progress.missed] {
        let corrected = ticks.min(*left_out);
        *left_out -= corrected;
        ticks -= corrected;
    }
}

/// Number of ticks that were counted in any way.
#[must_use]
pub fn ticks_counted(progress: &ScheduleProgress) -> u64 {
    progress
        .runs
        .saturating_add(progress.skipped)
        .saturating_add(progress.missed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schedule::test_schedule::{at, schedule};
    use crate::{CronCache, SchedulePosition, TickPlan};

    fn next(schedule: &Schedule) -> Option<Timestamp> {
        let plan = TickPlan::new(schedule, &mut CronCache::default()).unwrap();
        plan.next(&SchedulePosition::from_schedule(schedule))
    }

    fn tick(number: u64) -> Timestamp {
        Timestamp::from_unix_ms(i64::try_from(number).unwrap() * 1_000).unwrap()
    }

    /// Progress up to this tick, of which these many are enqueued and the others skipped.
    fn progress(ticks: u64, runs: u64, last_run: u64) -> ScheduleProgress {
        let mut progress = ScheduleProgress::from(tick(ticks));
        progress.runs = runs;
        progress.skipped = ticks - runs;
        progress.last_run = Some(tick(last_run));
        progress
    }

    #[test]
    fn tick_that_an_earlier_leader_skipped_and_this_one_enqueued_counts_as_run() {
        // the write of the earlier leader arrived after this one had read the schedule
        let mut theirs = progress(17, 2, 14);
        let ours = progress(15, 3, 15);
        assert!(merge_progress(&mut theirs, &ours));
        assert_eq!(theirs, progress(17, 3, 15));
        assert!(!merge_progress(&mut theirs, &ours));
    }

    #[test]
    fn change_by_a_user_keeps_the_counts_of_the_leader() {
        // the user had read the schedule after 10 ticks, and resumed it after 20
        let mut theirs = progress(10, 4, 9);
        theirs.done_until = tick(20);
        let ours = progress(13, 5, 12);
        merge_progress(&mut theirs, &ours);
        let mut expected = progress(13, 5, 12);
        expected.done_until = tick(20);
        assert_eq!(theirs, expected);
    }

    #[test]
    fn enqueued_tick_that_was_merged_as_skipped_counts_as_run() {
        let job = JobId::new("j").unwrap();
        let mut merged = progress(17, 2, 14);
        count_enqueued(&mut merged, tick(15), job.clone(), true);
        assert_eq!((merged.runs, merged.skipped), (3, 14));
        assert_eq!(merged.done_until, tick(17));
        count_enqueued(&mut merged, tick(15), job.clone(), true);
        assert_eq!((merged.runs, merged.skipped), (3, 14));
        count_enqueued(&mut merged, tick(18), job, false);
        assert_eq!((merged.runs, merged.skipped), (4, 14));
        assert_eq!(merged.done_until, tick(18));
    }

    #[test]
    fn progress_in_the_future_is_discarded() {
        let now = at("2026-12-24T18:00:00Z");
        let tolerance = Duration::from_secs(2);
        let mut every = schedule(None, Some(60_000));
        every.progress.done_until = at("2026-12-24T18:00:02Z");
        assert!(!discard_future_progress(&mut every, now, tolerance));
        every.progress.done_until = at("2026-12-24T19:00:00Z");
        every.progress.last_run = Some(at("2026-12-24T19:00:00Z"));
        assert!(discard_future_progress(&mut every, now, tolerance));
        assert_eq!(every.progress.last_run, Some(now));
        assert_eq!(next(&every), Some(at("2026-12-24T18:01:00Z")));
        assert!(!discard_future_progress(&mut every, now, tolerance));
    }

    proptest! {
        #[test]
        fn merged_progress_of_two_leaders_counts_each_tick_once(
            stored in (0_u64..20, 0_u64..20),
            theirs in proptest::collection::vec(any::<bool>(), 0..20),
            ours in proptest::collection::vec(any::<bool>(), 0..20),
        ) {
            let (runs, skipped) = stored;
            let advanced = |is_run: &[bool]| {
                let more = is_run.iter().filter(|is_run| **is_run).count() as u64;
                progress(runs + skipped + is_run.len() as u64, runs + more, runs)
            };
            let (mut merged, ours) = (advanced(&theirs), advanced(&ours));
            let ticks = merged.done_until.max(ours.done_until);
            let runs_min = merged.runs.max(ours.runs);
            merge_progress(&mut merged, &ours);
            prop_assert_eq!(merged.done_until, ticks);
            prop_assert_eq!(tick(merged.runs + merged.skipped + merged.missed), ticks);
            prop_assert!(merged.done_until == ours.done_until || merged.runs >= runs_min);
        }
    }
}
