//! What becomes of a schedule that is paused, resumed, changed, or described once more.
//!
//! Whatever changes when its ticks are, they are counted from the change on: what fell due before
//! it is neither enqueued nor missed.

use super::schedule::{ScheduleError, check_schedule};
use naq_protocol::units::WireDuration;
use naq_protocol::{
    MISFIRE_GRACE_DEFAULT, MISFIRE_MAX_DEFAULT, Misfire, Overlap, QueueName, Schedule,
    ScheduleStatus, Timestamp, is_equivalent,
};

/// The fields in which two descriptions of a schedule differ, by their names: what somebody says
/// about it, and not how far it is. Ways of writing the same do not count.
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

/// Whether both have their ticks at the same times, as far as their descriptions go.
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

/// A schedule that is described anew by `wanted`, made now. It keeps its history, and its place in
/// time where that is not what changed. One that had ended goes on; so does one that was paused
/// because its jobs could not be enqueued, but not one that somebody paused.
#[must_use]
pub fn replace_definition(present: &Schedule, wanted: &Schedule, now: Timestamp) -> Schedule {
    let mut changed = wanted.clone();
    changed.created_at = present.created_at;
    changed.progress = present.progress.clone();
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
    if present.status == ScheduleStatus::Paused && present.paused_reason.is_none() {
        changed.status = ScheduleStatus::Paused;
    } else {
        changed.progress.failures = 0;
        changed.progress.last_error = None;
    }
    changed
}

/// Where an interval that begins now is counted from: a start that is still to come counts for
/// itself.
fn interval_anchor(schedule: &Schedule, now: Timestamp) -> Option<Timestamp> {
    let starts_later = schedule.start.is_some_and(|start| start > now);
    (schedule.every.is_some() && !starts_later).then_some(now)
}

/// What is to be done about a schedule that a set of them describes.
#[derive(Clone, Debug)]
pub enum OnApply {
    /// Nothing: it is as described.
    Unchanged,
    /// There is none: the described one is to be stored.
    Create,
    /// It is to become this.
    Change {
        /// The schedule as it is to be.
        schedule: Box<Schedule>,
        /// The fields that change.
        fields: Vec<&'static str>,
    },
    /// It belongs to this other set, or to none, and is not to be touched.
    OwnedByOtherSet(Option<String>),
}

/// Decides what is to be done where `wanted` is described as a part of its set. One that is there
/// outside the set is taken over where the caller wants to `adopt` it.
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

/// What comes of a wish to change a schedule.
#[derive(Clone, Debug)]
pub enum OnChange {
    /// It is to become this.
    Write(Box<Schedule>),
    /// It is so already.
    Unchanged,
    /// It has ended, and nothing can be changed about that.
    Ended,
}

/// Decides what a wish to pause means.
#[must_use]
pub fn on_pause(present: &Schedule) -> OnChange {
    match present.status {
        ScheduleStatus::Active => {
            let mut paused = present.clone();
            paused.status = ScheduleStatus::Paused;
            paused.paused_reason = None;
            OnChange::Write(Box::new(paused))
        }
        ScheduleStatus::Paused => OnChange::Unchanged,
        ScheduleStatus::Ended => OnChange::Ended,
    }
}

/// Decides what a wish to resume means: what fell due during the pause is neither enqueued nor
/// missed.
#[must_use]
pub fn on_resume(present: &Schedule, now: Timestamp) -> OnChange {
    match present.status {
        ScheduleStatus::Active => OnChange::Unchanged,
        ScheduleStatus::Paused => {
            let mut resumed = present.clone();
            resumed.status = ScheduleStatus::Active;
            resumed.paused_reason = None;
            resumed.progress.done_until = now;
            resumed.progress.failures = 0;
            resumed.progress.last_error = None;
            OnChange::Write(Box::new(resumed))
        }
        ScheduleStatus::Ended => OnChange::Ended,
    }
}

/// What is to be changed about a schedule. What is absent stays; where a field can be without a
/// value, `Some(None)` takes it away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleChange {
    /// A cron expression, in place of the one before, or of an interval.
    pub cron: Option<String>,
    /// The zone of the cron expression.
    pub tz: Option<String>,
    /// An interval, in place of the one before, or of a cron expression.
    pub every: Option<WireDuration>,
    /// The next tick; a time that has passed is now. The cadence goes on from it: an interval is
    /// counted from there, a cron expression comes true again after it.
    pub next_run: Option<Timestamp>,
    /// How many jobs it makes in all, those made already included.
    pub repeat: Option<Option<u64>>,
    /// No tick before this.
    pub start: Option<Option<Timestamp>>,
    /// No tick after this.
    pub end: Option<Option<Timestamp>>,
    /// How much later a tick may be enqueued.
    pub jitter: Option<Option<WireDuration>>,
    /// What becomes of late ticks.
    pub misfire: Option<Misfire>,
    /// How many late ticks are enqueued at the most.
    pub misfire_max: Option<u32>,
    /// How late a tick may be and be on time.
    pub misfire_grace: Option<WireDuration>,
    /// What becomes of a tick while the last job has not ended.
    pub overlap: Option<Overlap>,
    /// The queue of its jobs.
    pub queue: Option<QueueName>,
}

impl ScheduleChange {
    /// Whether nothing is to be changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == ScheduleChange::default()
    }

    /// Whether it changes when ticks are.
    fn changes_ticks(&self) -> bool {
        self.cron.is_some() || self.tz.is_some() || self.every.is_some() || self.start.is_some()
    }
}

/// A schedule with a change made to it now. One that has ended goes on where the change gives it
/// ticks again; one that is paused stays so.
///
/// # Errors
/// [`ScheduleError`] where it would not be one, or have no more ticks.
pub fn update(
    present: &Schedule,
    change: &ScheduleChange,
    now: Timestamp,
) -> Result<Schedule, ScheduleError> {
    let mut changed = present.clone();
    if change.cron.is_some() && change.every.is_some() {
        return Err(ScheduleError::field(
            "every",
            "`cron` is there as well; give one of the two",
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
    if let Some(Some(repeat)) = change.repeat
        && repeat <= changed.progress.runs
        && repeat > 0
    {
        let runs = changed.progress.runs;
        return Err(ScheduleError::field(
            "repeat",
            format!("it has made {runs} jobs already, and those count as well"),
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
        let next_run = next_run.max(now);
        if changed.end.is_some_and(|end| next_run > end) {
            return Err(ScheduleError::field("next_run", "it is after the end"));
        }
        changed.next_run = Some(next_run);
        changed.progress.done_until = now.min(one_ms_before(next_run));
        changed.anchor = changed.every.map(|_| next_run);
    }
    if changed.status == ScheduleStatus::Ended {
        changed.status = ScheduleStatus::Active;
    }
    check_schedule(&changed)?;
    Ok(changed)
}

fn set_if_some<T>(field: &mut T, change: Option<T>) {
    if let Some(value) = change {
        *field = value;
    }
}

fn one_ms_before(time: Timestamp) -> Timestamp {
    Timestamp::from_unix_ms(time.unix_ms() - 1).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CronCache, SchedulePosition, TickPlan};
    use naq_protocol::{ScheduleId, ScheduleProgress};
    use proptest::prelude::*;
    use std::time::Duration;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn ms(unix_ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(unix_ms).unwrap()
    }

    fn schedule(cron: Option<&str>, every_ms: Option<u64>) -> Schedule {
        let made = at("2026-12-24T17:00:00Z");
        Schedule {
            schedule_id: ScheduleId::new("nightly").unwrap(),
            queue: QueueName::new("default").unwrap(),
            envelope: serde_json::from_str(r#"{"command":"true"}"#).unwrap(),
            cron: cron.map(str::to_owned),
            tz: None,
            every: every_ms.map(|ms| WireDuration(Duration::from_millis(ms))),
            anchor: None,
            repeat: None,
            start: None,
            end: None,
            jitter: None,
            misfire: Misfire::default(),
            misfire_max: None,
            misfire_grace: None,
            overlap: Overlap::default(),
            set: None,
            created_at: made,
            status: ScheduleStatus::Active,
            paused_reason: None,
            next_run: None,
            progress: ScheduleProgress::from(made),
        }
    }

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
    fn a_pause_leaves_out_what_falls_due_during_it() {
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
    fn an_interval_is_counted_from_its_change() {
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
    fn a_start_that_is_to_come_stays_the_first_tick() {
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
    fn a_time_that_has_passed_is_now() {
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
    fn what_cannot_be_is_refused() {
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
                "made 7 jobs already",
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
                "after the end",
            ),
            (
                ScheduleChange {
                    every: Some(WireDuration::from_secs(60)),
                    tz: Some("Europe/Berlin".to_owned()),
                    ..ScheduleChange::default()
                },
                "same in every zone",
            ),
        ] {
            let said = refused(change);
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn what_has_ended_goes_on_where_it_is_given_more() {
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
    fn ways_of_writing_are_no_differences() {
        let mut one = schedule(Some("0 5 * * *"), None);
        let mut other = one.clone();
        one.envelope = serde_json::from_str(r#"{"command":"x","timeout":"5m"}"#).unwrap();
        other.envelope = serde_json::from_str(r#"{"timeout": 300, "command":"x"}"#).unwrap();
        other.tz = Some("UTC".to_owned());
        other.misfire_max = Some(100);
        other.misfire_grace = Some(WireDuration::from_secs(60));
        other.jitter = Some(WireDuration::from_secs(0));
        assert_eq!(differing_fields(&one, &other), [""; 0]);
        other.tz = Some("Europe/Berlin".to_owned());
        other.overlap = Overlap::Skip;
        assert_eq!(differing_fields(&one, &other), ["tz", "overlap"]);
    }

    #[test]
    fn another_sets_schedule_is_left_alone() {
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

    /// Whole milliseconds within a year of each other.
    fn time() -> impl Strategy<Value = Timestamp> {
        (1_790_000_000_000_i64..1_820_000_000_000).prop_map(ms)
    }

    fn span() -> impl Strategy<Value = WireDuration> {
        (100_u64..10_000_000).prop_map(|ms| WireDuration(Duration::from_millis(ms)))
    }

    prop_compose! {
        /// A schedule as somebody may describe it.
        fn described()(
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
        /// One that has been at work, and that people have been at.
        fn stored()(
            described in described(),
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
            let mut stored = described;
            stored.progress.done_until = ms(stored.created_at.unix_ms() + passed_ms);
            stored.progress.runs = runs;
            stored.next_run = next_run;
            stored.anchor = stored.every.and(anchor);
            (stored.status, stored.paused_reason) = status;
            stored
        }
    }

    proptest! {
        /// Applying brings about what is described, whatever was there, and once is enough.
        #[test]
        fn applying_converges(
            present in proptest::option::of(stored()),
            wanted in described(),
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
                // what somebody paused stays paused
                let by_hand = present.status == ScheduleStatus::Paused && present.paused_reason.is_none();
                prop_assert!(!by_hand || applied.status == ScheduleStatus::Paused);
            }
        }

        /// A change of times never brings back a tick that has passed.
        #[test]
        fn no_tick_comes_back(present in stored(), wanted in described(), now in time()) {
            let changed = replace_definition(&present, &wanted, now);
            let next = next(&changed);
            prop_assert!(next.is_none_or(|next| next > changed.progress.done_until));
            if !has_same_ticks(&present, &wanted) {
                prop_assert_eq!(changed.progress.done_until, now);
            }
        }

        /// The next tick is the one that was asked for, and the ones after it follow from it.
        #[test]
        fn a_next_run_is_the_next(present in stored(), wish in time(), now in time()) {
            let change = ScheduleChange { next_run: Some(wish), ..ScheduleChange::default() };
            let mut changed = update(&present, &change, now).unwrap();
            let first = wish.max(now);
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

        /// Nothing is due at once after a pause.
        #[test]
        fn a_pause_owes_nothing(present in stored(), now in time()) {
            if let OnChange::Write(resumed) = on_resume(&present, now) {
                prop_assert_eq!(resumed.status, ScheduleStatus::Active);
                prop_assert!(next(&resumed).is_none_or(|next| next > now));
            }
        }
    }
}
