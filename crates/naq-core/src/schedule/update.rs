//! Changes schedules, and applies them again.
//!
//! A change of a schedule's times takes effect at the time of the change: ticks that were due before
//! it are neither enqueued nor counted as missed.

use super::ScheduleError;
use super::misfire::one_ms_before;
use super::plan::check_schedule;
use naq_protocol::units::WireDuration;
use naq_protocol::{
    Envelope, MISFIRE_GRACE_DEFAULT, MISFIRE_MAX_DEFAULT, Misfire, Overlap, QueueName, Schedule,
    ScheduleStatus, Timestamp, is_equivalent,
};

/// The names of the fields in which the definitions of two schedules differ. Progress and status are
/// no part of a definition. Equivalent values (`300` and `5m`, no `tz` and `UTC`) do not differ.
#[must_use]
pub fn differing_fields(one: &Schedule, other: &Schedule) -> Vec<&'static str> {
    let mut names = Vec::new();
    let mut compare = |name, differs: bool| {
        if differs {
            names.push(name);
        }
    };
    compare("queue", one.queue != other.queue);
    compare(
        "envelope",
        !is_equivalent(
            one.envelope.get().as_bytes(),
            other.envelope.get().as_bytes(),
        ),
    );
    compare("cron", cron_text(one) != cron_text(other));
    compare("tz", timezone_name(one) != timezone_name(other));
    compare("every", one.every != other.every);
    compare("repeat", one.repeat != other.repeat);
    compare("start", one.start != other.start);
    compare("end", one.end != other.end);
    compare(
        "jitter",
        one.jitter.unwrap_or_default() != other.jitter.unwrap_or_default(),
    );
    compare("misfire", one.misfire != other.misfire);
    let max = |schedule: &Schedule| schedule.misfire_max.unwrap_or(MISFIRE_MAX_DEFAULT);
    compare("misfire_max", max(one) != max(other));
    let grace = |schedule: &Schedule| schedule.misfire_grace.unwrap_or(MISFIRE_GRACE_DEFAULT);
    compare("misfire_grace", grace(one) != grace(other));
    compare("overlap", one.overlap != other.overlap);
    names
}

/// A text of a schedule's definition: two schedules with the same text have no [`differing_fields`]. It is
/// shorter to compare and to digest than a schedule. Texts may differ although no field does, so the fields
/// decide in that case.
#[must_use]
pub fn definition_text(schedule: &Schedule) -> String {
    let bytes = schedule.envelope.get().as_bytes();
    // as `is_equivalent` compares them: the meaning, and the arguments as the program receives them
    let envelope = Envelope::parse(bytes).ok().and_then(|envelope| {
        let meaning = serde_json::to_value(&envelope).ok()?;
        Some((meaning.to_string(), envelope.command_args()))
    });
    let (meaning, args) =
        envelope.unwrap_or_else(|| (schedule.envelope.get().to_owned(), Vec::new()));
    let when = (
        cron_text(schedule),
        timezone_name(schedule),
        schedule.every,
        schedule.repeat,
        schedule.start,
        schedule.end,
        schedule.jitter.unwrap_or_default(),
    );
    let policies = (
        schedule.misfire,
        schedule.misfire_max.unwrap_or(MISFIRE_MAX_DEFAULT),
        schedule.misfire_grace.unwrap_or(MISFIRE_GRACE_DEFAULT),
        schedule.overlap,
    );
    let queue = schedule.queue.as_str();
    format!("{:?}", (queue, when, policies, args, meaning))
}

/// Whether both definitions have the same ticks.
fn has_same_ticks(one: &Schedule, other: &Schedule) -> bool {
    cron_text(one) == cron_text(other)
        && timezone_name(one) == timezone_name(other)
        && one.every == other.every
        && one.start == other.start
}

fn cron_text(schedule: &Schedule) -> Option<&str> {
    schedule.cron.as_deref().map(str::trim)
}

fn timezone_name(schedule: &Schedule) -> &str {
    schedule.tz.as_deref().unwrap_or("UTC")
}

/// The schedule `present` with the definition of `wanted`, from the time `now` on.
///
/// It keeps its history, and its position if its ticks stay the same. A schedule that had ended
/// becomes active again, and so does one that the scheduler paused because its jobs could not be
/// enqueued. A schedule that a user paused stays paused, and one whose status only a later version
/// knows keeps it.
#[must_use]
pub fn replace_definition(present: &Schedule, wanted: &Schedule, now: Timestamp) -> Schedule {
    let mut changed = wanted.clone();
    changed.created_at = present.created_at;
    changed.progress = present.progress.clone();
    // Only a later version knows whether they belong to the definition.
    if changed.unknown.is_empty() {
        changed.unknown = present.unknown.clone();
    }
    changed.status = ScheduleStatus::Active;
    changed.paused_reason = None;
    if has_same_ticks(present, wanted) {
        changed.anchor = present.anchor;
        changed.next_run = present.next_run;
        if present.status != ScheduleStatus::Active {
            changed.progress.done_until = now;
        }
    } else {
        changed.anchor = interval_anchor(wanted, now);
        changed.next_run = None;
        changed.progress.done_until = now;
    }
    let keeps_status = match present.status {
        ScheduleStatus::Paused => present.paused_reason.is_none(),
        ScheduleStatus::Unknown(_) => true,
        ScheduleStatus::Active | ScheduleStatus::Ended => false,
    };
    if keeps_status {
        changed.status = present.status;
    } else {
        changed.progress.failures = 0;
        changed.progress.last_error = None;
        changed.progress.inactive = false;
    }
    changed
}

/// The anchor of an interval that begins at `now`. `None` if the schedule has a later `start`, which
/// is its own anchor, or has no interval.
fn interval_anchor(schedule: &Schedule, now: Timestamp) -> Option<Timestamp> {
    let starts_later = schedule.start.is_some_and(|start| start > now);
    (schedule.every.is_some() && !starts_later).then_some(now)
}

/// What to do about a schedule that is part of an applied set.
#[derive(Clone, Debug)]
pub enum OnApply {
    /// The stored schedule has this definition already.
    Unchanged,
    /// No such schedule is stored: store it.
    Create,
    /// Replace the stored schedule.
    Change {
        /// The schedule to store.
        schedule: Box<Schedule>,
        /// The fields that change.
        fields: Vec<&'static str>,
    },
    /// The stored schedule belongs to this other set, or (`None`) to no set, so it stays as it is.
    OwnedByOtherSet(Option<String>),
}

/// Decides what to do when `wanted` is applied as part of its set. A stored schedule outside of that
/// set is changed only if `adopt` is set; it then becomes part of the set.
#[must_use]
pub fn on_apply(
    present: Option<&Schedule>,
    wanted: &Schedule,
    adopt: bool,
    now: Timestamp,
) -> OnApply {
    let Some(present) = present else {
        return OnApply::Create;
    };
    let mut fields = differing_fields(present, wanted);
    if present.set != wanted.set {
        if !adopt {
            return OnApply::OwnedByOtherSet(present.set.clone());
        }
        fields.push("set");
    }
    if fields.is_empty() {
        return OnApply::Unchanged;
    }
    let schedule = if fields == ["set"] {
        Schedule {
            set: wanted.set.clone(),
            ..present.clone()
        }
    } else {
        replace_definition(present, wanted, now)
    };
    OnApply::Change {
        schedule: Box::new(schedule),
        fields,
    }
}

/// A change to a schedule. A field that is `None` stays as it is. For a field that may be absent,
/// `Some(None)` removes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleChange {
    /// The cron expression; it replaces an interval.
    pub cron: Option<String>,
    /// The time zone of the cron expression.
    pub tz: Option<String>,
    /// The interval; it replaces a cron expression.
    pub every: Option<WireDuration>,
    /// The next tick; a time in the past means now. Later ticks follow from it: an interval is counted
    /// from it, and a cron expression matches again after it.
    pub next_run: Option<Timestamp>,
    /// How many jobs the schedule enqueues in total, including those already enqueued.
    pub repeat: Option<Option<u64>>,
    /// The time of the earliest tick.
    pub start: Option<Option<Timestamp>>,
    /// The time of the latest tick.
    pub end: Option<Option<Timestamp>>,
    /// The longest random delay of each tick.
    pub jitter: Option<Option<WireDuration>>,
    /// What to do with late ticks.
    pub misfire: Option<Misfire>,
    /// The most late ticks that are enqueued under [`Misfire::All`].
    pub misfire_max: Option<u32>,
    /// How late a tick may be and still be on time.
    pub misfire_grace: Option<WireDuration>,
    /// What to do with a tick while the job of the previous one has not finished.
    pub overlap: Option<Overlap>,
    /// The queue of the schedule's jobs.
    pub queue: Option<QueueName>,
}

impl ScheduleChange {
    /// Whether the change changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == ScheduleChange::default()
    }

    /// Whether the change gives the schedule other ticks.
    fn changes_ticks(&self) -> bool {
        self.cron.is_some() || self.tz.is_some() || self.every.is_some() || self.start.is_some()
    }
}

/// A schedule with a change applied at the time `now`. A schedule that had ended becomes active
/// again if the change gives it more ticks; a paused one stays paused.
///
/// # Errors
/// Returns [`ScheduleError`] if the changed schedule would be invalid or have no more ticks.
pub fn update(
    present: &Schedule,
    change: &ScheduleChange,
    now: Timestamp,
) -> Result<Schedule, ScheduleError> {
    let mut changed = present.clone();
    change_rule(&mut changed, change)?;
    if let Some(Some(repeat)) = change.repeat
        && repeat <= changed.progress.runs
        && repeat > 0
    {
        let runs = changed.progress.runs;
        return Err(ScheduleError::field(
            "repeat",
            format!("the schedule has enqueued {runs} jobs already, and those count as well"),
        ));
    }
    set_if_some(&mut changed.repeat, change.repeat);
    set_if_some(&mut changed.start, change.start);
    set_if_some(&mut changed.end, change.end);
    set_if_some(&mut changed.jitter, change.jitter);
    set_if_some(&mut changed.misfire, change.misfire);
    set_if_some(&mut changed.misfire_max, change.misfire_max.map(Some));
    set_if_some(&mut changed.misfire_grace, change.misfire_grace.map(Some));
    set_if_some(&mut changed.overlap, change.overlap);
    set_if_some(&mut changed.queue, change.queue.clone());
    if change.changes_ticks() || present.status == ScheduleStatus::Ended {
        changed.progress.done_until = now;
        changed.next_run = None;
        changed.anchor = interval_anchor(&changed, now);
    }
    if let Some(next_run) = change.next_run {
        set_next_run(&mut changed, next_run.max(now), now)?;
    }
    if changed.status == ScheduleStatus::Ended {
        changed.status = ScheduleStatus::Active;
        changed.progress.inactive = false;
    }
    check_schedule(&changed)?;
    Ok(changed)
}

/// Changes the cron expression or the interval. Each replaces the other.
fn change_rule(changed: &mut Schedule, change: &ScheduleChange) -> Result<(), ScheduleError> {
    if change.cron.is_some() && change.every.is_some() {
        return Err(ScheduleError::field(
            "every",
            "`cron` is set as well; set one of the two",
        ));
    }
    if let Some(cron) = &change.cron {
        changed.cron = Some(cron.clone());
        changed.every = None;
    }
    if let Some(every) = change.every {
        changed.every = Some(every);
        changed.cron = None;
        changed.tz = None;
    }
    if let Some(tz) = &change.tz {
        changed.tz = Some(tz.clone());
    }
    Ok(())
}

/// Makes `next_run` the next tick. An interval is counted from it.
fn set_next_run(
    changed: &mut Schedule,
    next_run: Timestamp,
    now: Timestamp,
) -> Result<(), ScheduleError> {
    if changed.end.is_some_and(|end| next_run > end) {
        return Err(ScheduleError::field("next_run", "it is after `end`"));
    }
    changed.next_run = Some(next_run);
    // A `next_run` counts only after `done_until`.
    changed.progress.done_until = now.min(one_ms_before(next_run));
    changed.anchor = changed.every.map(|_| next_run);
    Ok(())
}

fn set_if_some<T>(field: &mut T, change: Option<T>) {
    if let Some(value) = change {
        *field = value;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::schedule::pause::{OnChange, on_pause, on_resume, was_activated_by_status};
    use crate::schedule::test_schedule::{at, ms, schedule};
    use crate::{CronCache, SchedulePosition, TickPlan};
    use naq_protocol::ScheduleProgress;
    use proptest::prelude::*;

    fn next(schedule: &Schedule) -> Option<Timestamp> {
        let plan = TickPlan::new(schedule, &mut CronCache::default()).unwrap();
        plan.next(&SchedulePosition::from_schedule(schedule))
    }

    #[test]
    fn change_that_activates_an_ended_schedule_is_no_bare_activation() {
        let active = schedule(None, Some(60_000));
        let mut ended = active.clone();
        ended.status = ScheduleStatus::Ended;
        ended.progress.inactive = true;
        let change = ScheduleChange {
            repeat: Some(None),
            ..ScheduleChange::default()
        };
        let now = at("2026-12-24T18:00:30Z");
        for continued in [
            update(&ended, &change, now).unwrap(),
            replace_definition(&ended, &active, now),
        ] {
            assert!(!was_activated_by_status(Some(&ended), &continued));
            assert!(!was_activated_by_status(None, &continued));
        }
    }

    #[test]
    fn changed_interval_is_counted_from_the_change() {
        let now = at("2026-12-24T17:00:17Z");
        let change = ScheduleChange {
            every: Some(WireDuration::from_secs(60)),
            ..ScheduleChange::default()
        };
        let changed = update(&schedule(Some("0 5 * * *"), None), &change, now).unwrap();
        assert_eq!(next(&changed), Some(at("2026-12-24T17:01:17Z")));
        assert_eq!(changed.cron, None);
        let change = ScheduleChange {
            next_run: Some(at("2026-12-24T17:00:40Z")),
            ..ScheduleChange::default()
        };
        let mut changed = update(&changed, &change, now).unwrap();
        assert_eq!(next(&changed), Some(at("2026-12-24T17:00:40Z")));
        changed.progress.done_until = at("2026-12-24T17:00:40Z");
        assert_eq!(next(&changed), Some(at("2026-12-24T17:01:40Z")));
    }

    #[test]
    fn later_start_stays_the_first_tick_of_a_changed_interval() {
        let mut every = schedule(None, Some(60_000));
        every.start = Some(at("2026-12-25T00:00:00Z"));
        let change = ScheduleChange {
            every: Some(WireDuration::from_secs(300)),
            ..ScheduleChange::default()
        };
        let mut changed = update(&every, &change, at("2026-12-24T17:00:17Z")).unwrap();
        assert_eq!(next(&changed), every.start);
        changed.progress.done_until = at("2026-12-25T00:00:00Z");
        assert_eq!(next(&changed), Some(at("2026-12-25T00:05:00Z")));
    }

    #[test]
    fn next_run_in_the_past_means_now() {
        let now = at("2026-12-24T17:00:17.500Z");
        let change = ScheduleChange {
            next_run: Some(at("2020-01-01T00:00:00Z")),
            ..ScheduleChange::default()
        };
        let mut changed = update(&schedule(Some("0 5 * * *"), None), &change, now).unwrap();
        assert_eq!(next(&changed), Some(now));
        changed.progress.done_until = now;
        assert_eq!(next(&changed), Some(at("2026-12-25T05:00:00Z")));
    }

    #[test]
    fn invalid_schedule_change_is_refused() {
        let now = at("2026-12-24T17:00:17Z");
        let mut cron = schedule(Some("0 5 * * *"), None);
        cron.progress.runs = 7;
        cron.end = Some(at("2027-01-01T00:00:00Z"));
        let refused = |change: ScheduleChange| update(&cron, &change, now).unwrap_err().to_string();
        for (change, words) in [
            (
                ScheduleChange {
                    cron: Some("0 25 * * *".to_owned()),
                    ..ScheduleChange::default()
                },
                "hour (field 2)",
            ),
            (
                ScheduleChange {
                    repeat: Some(Some(7)),
                    ..ScheduleChange::default()
                },
                "enqueued 7 jobs already",
            ),
            (
                ScheduleChange {
                    end: Some(Some(now)),
                    ..ScheduleChange::default()
                },
                "no tick before it",
            ),
            (
                ScheduleChange {
                    next_run: Some(at("2027-01-02T00:00:00Z")),
                    ..ScheduleChange::default()
                },
                "after `end`",
            ),
            (
                ScheduleChange {
                    every: Some(WireDuration::from_secs(60)),
                    tz: Some("Europe/Berlin".to_owned()),
                    ..ScheduleChange::default()
                },
                "same in every time zone",
            ),
        ] {
            let message = refused(change);
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn ended_schedule_becomes_active_when_it_gets_more_ticks() {
        let now = at("2026-12-26T00:00:00Z");
        let mut ended = schedule(Some("0 5 * * *"), None);
        ended.repeat = Some(3);
        ended.progress.runs = 3;
        ended.status = ScheduleStatus::Ended;
        let change = ScheduleChange {
            repeat: Some(Some(4)),
            ..ScheduleChange::default()
        };
        let changed = update(&ended, &change, now).unwrap();
        assert_eq!(changed.status, ScheduleStatus::Active);
        assert_eq!(next(&changed), Some(at("2026-12-26T05:00:00Z")));
        let queue = ScheduleChange {
            queue: Some(QueueName::new("other").unwrap()),
            ..ScheduleChange::default()
        };
        assert!(update(&ended, &queue, now).is_err());
    }

    #[test]
    fn status_of_a_later_version_is_kept() {
        let now = at("2026-12-26T00:00:00Z");
        let mut present = schedule(Some("0 5 * * *"), None);
        present.status = serde_json::from_str("\"hibernating\"").unwrap();
        for on_change in [on_pause(&present), on_resume(&present, now)] {
            assert!(
                matches!(on_change, OnChange::UnknownStatus(status) if status == present.status)
            );
        }
        let mut wanted = schedule(Some("0 6 * * *"), None);
        assert_eq!(
            replace_definition(&present, &wanted, now).status,
            present.status
        );
        wanted.cron.clone_from(&present.cron);
        assert_eq!(
            replace_definition(&present, &wanted, now).status,
            present.status
        );
        let change = ScheduleChange {
            overlap: Some(Overlap::Skip),
            ..ScheduleChange::default()
        };
        let changed = update(&present, &change, now).unwrap();
        assert_eq!(changed.status, present.status);
    }

    #[test]
    fn equivalent_values_are_no_difference_between_schedules() {
        let mut one = schedule(Some("0 5 * * *"), None);
        let mut other = one.clone();
        one.envelope = serde_json::from_str(r#"{"command":"x","timeout":"5m"}"#).unwrap();
        other.envelope = serde_json::from_str(r#"{"timeout": 300, "command":"x"}"#).unwrap();
        other.tz = Some("UTC".to_owned());
        other.misfire_max = Some(100);
        other.misfire_grace = Some(WireDuration::from_secs(60));
        other.jitter = Some(WireDuration::from_secs(0));
        assert_eq!(differing_fields(&one, &other), [""; 0]);
        assert_eq!(definition_text(&one), definition_text(&other));
        other.tz = Some("Europe/Berlin".to_owned());
        other.overlap = Overlap::Skip;
        assert_eq!(differing_fields(&one, &other), ["tz", "overlap"]);
    }

    #[test]
    fn arguments_that_only_a_parser_takes_for_equal_are_in_the_text() {
        let with = |number: &str| {
            let mut schedule = schedule(Some("0 5 * * *"), None);
            let envelope = format!(r#"{{"command":"x","args":[{number}]}}"#);
            schedule.envelope = serde_json::from_str(&envelope).unwrap();
            definition_text(&schedule)
        };
        assert_ne!(
            with("12345678901234567890123"),
            with("12345678901234567890124")
        );
        assert_eq!(with("7"), with(" 7 "));
    }

    #[test]
    fn schedule_of_another_set_is_not_changed_without_adopt() {
        let now = at("2026-12-24T17:30:00Z");
        let mut wanted = schedule(Some("0 5 * * *"), None);
        wanted.set = Some("mine".to_owned());
        let mut present = wanted.clone();
        present.set = None;
        assert!(matches!(
            on_apply(Some(&present), &wanted, false, now),
            OnApply::OwnedByOtherSet(None)
        ));
        match on_apply(Some(&present), &wanted, true, now) {
            OnApply::Change { schedule, fields } => {
                assert_eq!(fields, ["set"]);
                assert_eq!(schedule.progress, present.progress);
            }
            other => panic!("{other:?}"),
        }
    }

    /// Times in whole milliseconds, within a year of each other.
    fn time() -> impl Strategy<Value = Timestamp> {
        (1_790_000_000_000_i64..1_820_000_000_000).prop_map(ms)
    }

    fn span() -> impl Strategy<Value = WireDuration> {
        (100_u64..10_000_000).prop_map(|ms| WireDuration(Duration::from_millis(ms)))
    }

    prop_compose! {
        /// The definition of a schedule.
        fn defined()(
            when in prop_oneof![
                Just(Some(("0 5 * * *", None))),
                Just(Some(("0 5 * * *", Some("Europe/Berlin")))),
                Just(Some(("*/5 * * * * *", None))),
                Just(None),
            ],
            every in span(),
            queue in prop_oneof![Just("default"), Just("other")],
            command in prop_oneof![Just("true"), Just("false")],
            repeat in proptest::option::of(5_u64..50),
            start in proptest::option::of(time()),
            jitter in proptest::option::of(span()),
            misfire in prop_oneof![Just(Misfire::Skip), Just(Misfire::Once), Just(Misfire::All)],
            overlap in prop_oneof![Just(Overlap::Allow), Just(Overlap::Skip), Just(Overlap::Queue)],
            now in time(),
        ) -> Schedule {
            Schedule {
                queue: QueueName::new(queue).unwrap(),
                envelope: serde_json::from_str(&format!(r#"{{"command":"{command}"}}"#)).unwrap(),
                cron: when.map(|(cron, _)| cron.to_owned()),
                tz: when.and_then(|(_, tz)| tz).map(str::to_owned),
                every: when.is_none().then_some(every),
                repeat,
                start,
                jitter,
                misfire,
                overlap,
                set: Some("mine".to_owned()),
                created_at: now,
                progress: ScheduleProgress::from(now),
                ..schedule(None, None)
            }
        }
    }

    prop_compose! {
        /// A schedule that has enqueued jobs, and that users have changed.
        fn stored()(
            defined in defined(),
            passed_ms in 0_i64..1_000_000_000,
            runs in 0_u64..5,
            next_run in proptest::option::of(time()),
            anchor in proptest::option::of(time()),
            status in prop_oneof![
                Just((ScheduleStatus::Active, None)),
                Just((ScheduleStatus::Paused, None)),
                Just((ScheduleStatus::Paused, Some("its queue is full".to_owned()))),
                Just((ScheduleStatus::Ended, None)),
            ],
        ) -> Schedule {
            let mut stored = defined;
            stored.progress.done_until = ms(stored.created_at.unix_ms() + passed_ms);
            stored.progress.runs = runs;
            stored.next_run = next_run;
            stored.anchor = stored.every.and(anchor);
            (stored.status, stored.paused_reason) = status;
            stored
        }
    }

    proptest! {
        /// Applying a definition stores it, whatever was stored before, and applying it again changes
        /// nothing.
        #[test]
        fn applying_a_schedule_is_idempotent(
            present in proptest::option::of(stored()),
            wanted in defined(),
            adopt: bool,
            other_set: bool,
            now in time(),
        ) {
            let present = present.map(|mut present| {
                if other_set {
                    present.set = None;
                }
                present
            });
            let applied = match on_apply(present.as_ref(), &wanted, adopt, now) {
                OnApply::Create => wanted.clone(),
                OnApply::Change { schedule, fields } => {
                    prop_assert!(!fields.is_empty());
                    *schedule
                }
                OnApply::Unchanged => present.clone().unwrap(),
                OnApply::OwnedByOtherSet(_) => {
                    prop_assert!(other_set && !adopt);
                    return Ok(());
                }
            };
            prop_assert_eq!(differing_fields(&applied, &wanted), Vec::<&str>::new());
            prop_assert_eq!(&applied.set, &wanted.set);
            let again = on_apply(Some(&applied), &wanted, false, now);
            prop_assert!(matches!(again, OnApply::Unchanged));
            if let Some(present) = present {
                prop_assert_eq!(applied.progress.runs, present.progress.runs);
                prop_assert_eq!(applied.created_at, present.created_at);
                // A schedule that a user paused stays paused.
                let paused_by_user = present.status == ScheduleStatus::Paused && present.paused_reason.is_none();
                prop_assert!(!paused_by_user || applied.status == ScheduleStatus::Paused);
            }
        }

        /// Definitions have the same text exactly if no field differs: no change is missed.
        #[test]
        fn equal_texts_mean_equal_definitions(one in stored(), other in defined(), takes in 0_u8..4) {
            // two definitions that are drawn are hardly ever equal
            let mut wanted = if takes == 0 { other.clone() } else { one.clone() };
            if takes == 2 {
                wanted.misfire = other.misfire;
            }
            let is_same = differing_fields(&one, &wanted).is_empty();
            prop_assert_eq!(definition_text(&one) == definition_text(&wanted), is_same);
        }

        /// A change of times never makes a past tick due again.
        #[test]
        fn schedule_change_repeats_no_past_tick(present in stored(), wanted in defined(), now in time()) {
            let changed = replace_definition(&present, &wanted, now);
            let next = next(&changed);
            prop_assert!(next.is_none_or(|next| next > changed.progress.done_until));
            if !has_same_ticks(&present, &wanted) {
                prop_assert_eq!(changed.progress.done_until, now);
            }
        }

        /// A requested next tick is the next one, and later ticks follow from it.
        #[test]
        fn requested_next_run_is_the_next_tick(present in stored(), requested in time(), now in time()) {
            let change = ScheduleChange { next_run: Some(requested), ..ScheduleChange::default() };
            let mut changed = update(&present, &change, now).unwrap();
            let first = requested.max(now);
            prop_assert_eq!(next(&changed), Some(first));
            changed.progress.done_until = first;
            let second = next(&changed).unwrap();
            prop_assert!(second > first);
            if let Some(every) = changed.every
                && changed.start.is_none_or(|start| start <= first)
            {
                let interval_ms = i64::try_from(every.0.as_millis()).unwrap();
                prop_assert_eq!(second.unix_ms() - first.unix_ms(), interval_ms);
            }
        }

        /// No tick is due immediately after a pause.
        #[test]
        fn resumed_schedule_has_no_due_tick(present in stored(), now in time()) {
            if let OnChange::Write(resumed) = on_resume(&present, now) {
                prop_assert_eq!(resumed.status, ScheduleStatus::Active);
                prop_assert!(next(&resumed).is_none_or(|next| next > now));
            }
        }
    }
}
