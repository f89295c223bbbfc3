//! Which ticks are due, computed from the controller's changes of a schedule by code that shares
//! nothing with naq's own.

use std::collections::BTreeSet;

use chrono::{Datelike, TimeZone, Timelike, Utc};
use naq_cron::Timezone;
use naq_protocol::{Schedule, ScheduleStatus};

use super::versions::Version;

/// How long after a change a leader that has not received it may still use the version before: no
/// longer than it may trust its lease.
pub(super) const UNRECEIVED_MS: i64 = 3_000;

/// How long a tick that was sent before a change may take to be stored: a server may be suspended
/// meanwhile.
pub(super) const UNDER_WAY_MS: i64 = 30_000;

/// The ticks of one life of a schedule, from its creation to its removal.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// Ticks that have to be enqueued, or skipped if the overlap policy says so.
    pub(super) must: BTreeSet<i64>,
    /// Ticks that may be enqueued, since they were due around a change: the tick, and when that change
    /// was made.
    pub(super) around: BTreeSet<(i64, i64)>,
}

/// The versions of a schedule, by life.
pub(super) fn lives(versions: &[Version]) -> Vec<&[Version]> {
    let made = |version: &Version| version.schedule.as_ref().map(|one| one.created_at);
    versions
        .chunk_by(|a, b| made(a) == made(b))
        .filter(|life| life[0].schedule.is_some())
        .collect()
}

/// When this life ended because the schedule was removed or recreated. `None` if it did not.
fn over_at(versions: &[Version], life: &[Version]) -> Option<i64> {
    let last = life.last()?.revision;
    versions
        .iter()
        .find(|version| version.revision > last)
        .map(|version| version.at_ms)
}

/// The ticks that are expected of a life, given the ticks that became jobs.
pub(super) fn expect(versions: &[Version], life: &[Version], jobs: &BTreeSet<i64>) -> Expected {
    let mut expected = Expected::default();
    let over_at = over_at(versions, life);
    // the controller's versions
    let made: Vec<usize> = (0..life.len())
        .filter(|index| life[*index].term.is_none())
        .collect();
    let is_active = |index: usize| {
        let schedule = life[index].schedule.as_ref();
        schedule.is_some_and(|schedule| schedule.status == ScheduleStatus::Active)
    };
    for (nth, index) in made.iter().copied().enumerate() {
        if !is_active(index) {
            continue;
        }
        let schedule = life[index].schedule.as_ref().unwrap();
        let next = made.get(nth + 1).copied();
        let changed_at = next.map(|next| life[next].at_ms).or(over_at);
        // while it is paused, only progress from before the pause is stored
        let active_again = made[nth + 1..]
            .iter()
            .copied()
            .find(|next| is_active(*next));
        let until = active_again.unwrap_or(life.len());
        let has_ended = active_again.is_none() && life[until - 1].has_ended();
        let done_until = life[index..until]
            .iter()
            .filter_map(|version| version.schedule.as_ref())
            .map(|schedule| schedule.progress.done_until.unix_ms())
            .max()
            .unwrap();
        let done_until = if has_ended { i64::MAX } else { done_until };
        let may_until = changed_at.map_or(i64::MAX, |at| at + UNRECEIVED_MS);
        let begins = schedule.progress.done_until.unix_ms();
        let mut ticks = ticks(schedule, begins, done_until.max(may_until));
        if let Some(repeat) = schedule.repeat {
            let left = repeat.saturating_sub(schedule.progress.runs);
            ticks.truncate(usize::try_from(left).unwrap());
        }
        // ticks that a leader enqueued by the version before, until it received this one, move its progress
        let received_until = life[index].at_ms + UNRECEIVED_MS;
        let received = jobs
            .range(begins + 1..=received_until.max(begins + 1))
            .rev()
            .find(|tick| !ticks.contains(tick))
            .copied()
            .unwrap_or(begins);
        for tick in ticks {
            if tick <= done_until && tick > received {
                expected.must.insert(tick);
            } else {
                let changed_at = changed_at.unwrap_or(i64::MAX);
                expected.around.insert((tick, changed_at));
            }
        }
    }
    expected
}

/// The ticks of a schedule after a time, up to another time and to the schedule's own end.
fn ticks(schedule: &Schedule, after_ms: i64, until_ms: i64) -> Vec<i64> {
    let end_ms = schedule.end.map_or(i64::MAX, |end| end.unix_ms());
    let until_ms = until_ms.min(end_ms);
    let by_hand = schedule
        .next_run
        .map(|next| next.unix_ms())
        .filter(|next| *next > after_ms);
    let after_ms = by_hand.unwrap_or(after_ms);
    let mut ticks: Vec<i64> = by_hand
        .into_iter()
        .filter(|next| *next <= until_ms)
        .collect();
    let repeat = schedule.repeat.unwrap_or(u64::MAX);
    let wanted = usize::try_from(repeat).unwrap_or(usize::MAX);
    assert!(
        until_ms < i64::MAX || repeat < u64::MAX,
        "{} never ends",
        schedule.schedule_id
    );
    let due: Box<dyn Iterator<Item = i64>> = match (&schedule.cron, schedule.every) {
        (None, Some(every)) => {
            let every = i64::try_from(every.0.as_millis()).unwrap();
            let anchor = schedule.anchor.unwrap_or(schedule.created_at).unix_ms();
            Box::new((1..).map(move |count| anchor + count * every))
        }
        (Some(cron), None) => {
            let zone: Timezone = schedule.tz.as_deref().unwrap_or("UTC").parse().unwrap();
            let cron = cron.clone();
            let first = after_ms.div_euclid(1_000) + 1;
            Box::new(
                (first..)
                    .filter(move |second| matches(&cron, zone, *second))
                    .map(|second| second * 1_000),
            )
        }
        _ => panic!("{schedule:?}"),
    };
    let due = due.skip_while(|tick| *tick <= after_ms);
    ticks.extend(due.take_while(|tick| *tick <= until_ms).take(wanted));
    ticks
}

/// Whether an expression with six fields matches a second.
fn matches(cron: &str, zone: Timezone, second: i64) -> bool {
    let moment = Utc.timestamp_opt(second, 0).unwrap();
    let local = moment.with_timezone(&zone.utc_offset(moment));
    let parts = [
        local.second(),
        local.minute(),
        local.hour(),
        local.day(),
        local.month(),
        local.weekday().num_days_from_sunday(),
    ];
    let fields: Vec<&str> = cron.split(' ').collect();
    assert_eq!(fields.len(), parts.len(), "{cron}");
    fields
        .iter()
        .zip(parts)
        .all(|(field, part)| field.split(',').any(|item| is_in(item, part)))
}

/// Whether a number is in `*`, `a`, `a-b`, or one of these with a step.
fn is_in(item: &str, number: u32) -> bool {
    let (range, step) = item.split_once('/').unwrap_or((item, "1"));
    let (from, to) = match range.split_once('-') {
        Some((from, to)) => (from.parse().unwrap(), to.parse().unwrap()),
        None if range == "*" => (0, u32::MAX),
        None => (range.parse().unwrap(), range.parse().unwrap()),
    };
    let step: u32 = step.parse().unwrap();
    (from..=to).contains(&number) && (number - from).is_multiple_of(step)
}

#[test]
fn expected_ticks_follow_interval_cron_and_next_run() {
    use serde_json::json;
    let ticks_of = |fields: serde_json::Value, until_ms| {
        let at = |ms| naq_protocol::Timestamp::from_unix_ms(ms).unwrap();
        let mut value = json!({
            "schedule_id": "a", "queue": "q", "envelope": {"command": "true"},
            "created_at": at(10_000), "progress": {"done_until": at(10_000)},
        });
        let all = value.as_object_mut().unwrap();
        all.extend(fields.as_object().unwrap().clone());
        let schedule = Schedule::parse(value.to_string().as_bytes()).unwrap();
        ticks(&schedule, 10_000, until_ms)
    };
    assert_eq!(
        ticks_of(json!({"every": 0.3}), 11_000),
        [10_300, 10_600, 10_900]
    );
    assert_eq!(
        ticks_of(
            json!({"every": 0.3, "next_run": "1970-01-01T00:00:10.800Z"}),
            11_000
        ),
        [10_800, 10_900]
    );
    assert_eq!(
        ticks_of(json!({"every": 0.3, "repeat": 2}), i64::MAX),
        [10_300, 10_600]
    );
    let two = json!({"cron": "1-59/2 * * * * *", "tz": "Asia/Kathmandu"});
    assert_eq!(ticks_of(two, 15_000), [11_000, 13_000, 15_000]);
    let hour = json!({"cron": "12,14 * 19 31 12 *", "tz": "America/New_York"});
    assert_eq!(ticks_of(hour, 16_000), [12_000, 14_000]);
    let other = json!({"cron": "12,14 * 20 31 12 *", "tz": "America/New_York"});
    assert!(ticks_of(other, 16_000).is_empty());
}
