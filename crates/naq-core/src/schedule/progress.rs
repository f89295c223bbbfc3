//! Progress of a schedule that two writers have made at the same time.

use naq_protocol::{JobId, ScheduleProgress, Timestamp};

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
