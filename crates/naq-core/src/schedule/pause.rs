//! Pauses and resumes schedules.
//!
//! Ticks that were due during a pause are neither enqueued nor counted as missed.

use naq_protocol::{Schedule, ScheduleStatus, Timestamp};

/// What follows a request to pause or resume a schedule.
#[derive(Clone, Debug)]
pub enum OnChange {
    /// Store this schedule.
    Write(Box<Schedule>),
    /// The schedule is in that state already.
    Unchanged,
    /// The schedule has ended, so it can be neither paused nor resumed.
    Ended,
    /// Only a later version knows the schedule's status, and whether it may be paused or resumed.
    UnknownStatus(ScheduleStatus),
}

/// Decides what a request to pause means.
#[must_use]
pub fn on_pause(present: &Schedule) -> OnChange {
    match present.status {
        ScheduleStatus::Active => {
            let mut paused = present.clone();
            paused.status = ScheduleStatus::Paused;
            paused.paused_reason = None;
            paused.progress.inactive = true;
            OnChange::Write(Box::new(paused))
        }
        ScheduleStatus::Paused => OnChange::Unchanged,
        ScheduleStatus::Ended => OnChange::Ended,
        ScheduleStatus::Unknown(_) => OnChange::UnknownStatus(present.status),
    }
}

/// Decides what a request to resume means. Ticks that were due during the pause are neither enqueued
/// nor counted as missed.
#[must_use]
pub fn on_resume(present: &Schedule, now: Timestamp) -> OnChange {
    match present.status {
        ScheduleStatus::Active => OnChange::Unchanged,
        ScheduleStatus::Paused => {
            let mut resumed = present.clone();
            resumed.status = ScheduleStatus::Active;
            continue_from(&mut resumed, now);
            OnChange::Write(Box::new(resumed))
        }
        ScheduleStatus::Ended => OnChange::Ended,
        ScheduleStatus::Unknown(_) => OnChange::UnknownStatus(present.status),
    }
}

/// Lets an active schedule continue with its first tick after `now`, with a new count of failures.
pub fn continue_from(resumed: &mut Schedule, now: Timestamp) {
    resumed.paused_reason = None;
    resumed.progress.done_until = now;
    resumed.progress.failures = 0;
    resumed.progress.last_error = None;
    resumed.progress.inactive = false;
}

/// Whether an active schedule was paused, or had ended, and a writer has changed only its status. It
/// then has to [continue from now](continue_from), as a resumed one does: its `done_until` is older
/// than the pause, whose ticks would seem to be late.
///
/// `before` is the schedule as a scheduler knew it, if it did.
#[must_use]
pub fn was_activated_by_status(before: Option<&Schedule>, after: &Schedule) -> bool {
    if after.status != ScheduleStatus::Active {
        return false;
    }
    match before {
        // a writer that has moved `done_until` has decided itself from when on ticks are due
        Some(before) => {
            before.status != ScheduleStatus::Active
                && after.progress.done_until <= before.progress.done_until
        }
        None => after.progress.inactive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::test_schedule::{at, schedule};
    use crate::{CronCache, SchedulePosition, TickPlan};

    fn next(schedule: &Schedule) -> Option<Timestamp> {
        let plan = TickPlan::new(schedule, &mut CronCache::default()).unwrap();
        plan.next(&SchedulePosition::from_schedule(schedule))
    }

    fn written(change: OnChange) -> Schedule {
        match change {
            OnChange::Write(schedule) => *schedule,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ticks_during_a_pause_are_not_enqueued() {
        let mut every = schedule(None, Some(60_000));
        every.paused_reason = Some("its queue is full".to_owned());
        let paused = written(on_pause(&every));
        assert_eq!(paused.status, ScheduleStatus::Paused);
        assert_eq!(paused.paused_reason, None);
        assert!(matches!(on_pause(&paused), OnChange::Unchanged));
        let resumed = written(on_resume(&paused, at("2026-12-24T18:00:30Z")));
        assert_eq!(next(&resumed), Some(at("2026-12-24T18:01:00Z")));
        assert!(matches!(
            on_resume(&resumed, resumed.created_at),
            OnChange::Unchanged
        ));
        let ended = Schedule {
            status: ScheduleStatus::Ended,
            ..resumed
        };
        assert!(matches!(on_pause(&ended), OnChange::Ended));
        assert!(matches!(
            on_resume(&ended, at("2026-12-24T18:01:00Z")),
            OnChange::Ended
        ));
    }

    #[test]
    fn activation_by_the_status_alone_differs_from_a_resume() {
        let active = schedule(None, Some(60_000));
        let paused = written(on_pause(&active));
        assert!(paused.progress.inactive);
        let with_status = |schedule: &Schedule, status| Schedule {
            status,
            ..schedule.clone()
        };
        let bare = with_status(&paused, ScheduleStatus::Active);
        assert!(was_activated_by_status(None, &bare));
        assert!(was_activated_by_status(Some(&paused), &bare));
        // A writer that knows nothing of the mark.
        let foreign = with_status(&active, ScheduleStatus::Paused);
        assert!(was_activated_by_status(Some(&foreign), &active));
        assert!(!was_activated_by_status(None, &active));
        assert!(!was_activated_by_status(Some(&active), &active));
        assert!(!was_activated_by_status(Some(&active), &paused));
        let resumed = written(on_resume(&paused, at("2026-12-24T18:00:30Z")));
        assert!(!was_activated_by_status(Some(&paused), &resumed));
        assert!(!was_activated_by_status(None, &resumed));
        let ended = with_status(&active, ScheduleStatus::Ended);
        assert!(was_activated_by_status(Some(&ended), &active));
    }
}
