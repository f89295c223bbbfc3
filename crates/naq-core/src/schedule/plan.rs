//! When a schedule's next tick is, and whether to wait for it or to enqueue it now.

use std::sync::Arc;
use std::time::Duration;

use naq_cron::{Cron, Timezone, TimezoneError};
use naq_protocol::{
    INTERVAL_MS_MIN, MISFIRE_GRACE_DEFAULT, MISFIRE_MAX_DEFAULT, MISFIRE_MAX_MAX, Misfire,
    Schedule, ScheduleId, TickEnvelope, Timestamp,
};

use super::{CronCache, ScheduleError};

/// The rule by which ticks follow each other.
#[derive(Clone, Debug)]
pub(super) enum TickRule {
    Cron { cron: Arc<Cron>, zone: Timezone },
    Every { interval_ms: i64, anchor_ms: i64 },
}

/// When a schedule's ticks are, parsed once, so that a scheduler can ask often.
#[derive(Clone, Debug)]
pub struct TickPlan {
    pub(super) rule: TickRule,
    start_ms: Option<i64>,
    end_ms: Option<i64>,
    repeat: Option<u64>,
    jitter_ms: i64,
    /// How many late ticks the misfire policy still enqueues.
    pub(super) late_ticks_max: usize,
    grace_ms: i64,
    /// The seed of this schedule's jitter, derived from its id.
    seed: u64,
}

/// How far a schedule has advanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulePosition {
    /// Every tick up to and including this time was enqueued or skipped.
    pub done_until: Timestamp,
    /// A next tick that a user set. While it is after `done_until`, it comes before any other.
    pub next_run: Option<Timestamp>,
    /// Jobs enqueued so far.
    pub runs: u64,
    /// The misfire policy was applied to late ticks up to this time: those after `done_until` are
    /// still to be enqueued. `None` if it was not applied since the schedule was read.
    pub misfires_resolved_until: Option<Timestamp>,
}

impl SchedulePosition {
    /// The position of a stored schedule.
    #[must_use]
    pub fn from_schedule(schedule: &Schedule) -> SchedulePosition {
        SchedulePosition {
            done_until: schedule.progress.done_until,
            next_run: schedule.next_run,
            runs: schedule.progress.runs,
            misfires_resolved_until: None,
        }
    }
}

/// What a scheduler should do about a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleAction {
    /// Do nothing before `at`.
    Wait {
        /// The next tick.
        tick: Timestamp,
        /// When to enqueue it: `tick` plus its jitter.
        at: Timestamp,
    },
    /// Enqueue this tick.
    Fire {
        /// The time of the tick.
        tick: Timestamp,
    },
    /// The misfire policy was applied to late ticks: store this position and ask again.
    MisfiresResolved {
        /// Every tick up to and including this time was enqueued or skipped.
        done_until: Timestamp,
        /// The ticks after `done_until`, up to and including this time, are still to be enqueued.
        misfires_resolved_until: Timestamp,
        /// How many late ticks the policy skips. For a cron expression, the count stops at 10,000.
        missed: u64,
        /// The count has stopped: the policy skips at least as many.
        missed_is_minimum: bool,
    },
    /// The schedule has no more ticks.
    End,
}

impl TickPlan {
    /// Parses the timing of a schedule.
    ///
    /// # Errors
    /// Returns [`ScheduleError`] with the first invalid field. A policy that only a later version
    /// knows counts as invalid: this version must not enqueue ticks by a rule that it does not know.
    pub fn new(schedule: &Schedule, crons: &mut CronCache) -> Result<TickPlan, ScheduleError> {
        let rule = tick_rule(schedule, crons)?;
        if schedule.repeat == Some(0) {
            return Err(ScheduleError::field(
                "repeat",
                "it is 0; omit it for no limit",
            ));
        }
        if let (Some(start), Some(end)) = (schedule.start, schedule.end)
            && start > end
        {
            return Err(ScheduleError::field("end", "it is before `start`"));
        }
        let misfire_max = schedule.misfire_max.unwrap_or(MISFIRE_MAX_DEFAULT);
        if !(1..=MISFIRE_MAX_MAX).contains(&misfire_max) {
            return Err(ScheduleError::field(
                "misfire_max",
                format!("it is out of range; 1 to {MISFIRE_MAX_MAX}"),
            ));
        }
        let unknown_policy = |field| move |problem: String| ScheduleError::field(field, problem);
        let late_ticks_max = match schedule
            .misfire
            .known()
            .map_err(unknown_policy("misfire"))?
        {
            Misfire::Skip | Misfire::Unknown(_) => 0,
            Misfire::Once => 1,
            Misfire::All => misfire_max as usize,
        };
        schedule
            .overlap
            .known()
            .map_err(unknown_policy("overlap"))?;
        let grace = schedule.misfire_grace.unwrap_or(MISFIRE_GRACE_DEFAULT);
        Ok(TickPlan {
            rule,
            start_ms: schedule.start.map(Timestamp::unix_ms),
            end_ms: schedule.end.map(Timestamp::unix_ms),
            repeat: schedule.repeat,
            jitter_ms: millis(schedule.jitter.unwrap_or_default().0),
            late_ticks_max,
            grace_ms: millis(grace.0),
            seed: seed(&schedule.schedule_id),
        })
    }

    /// The first tick after a time, by the cron expression or the interval, between start and end.
    /// `None` if there is none.
    #[must_use]
    pub fn tick_after(&self, after: Timestamp) -> Option<Timestamp> {
        let after_ms = match self.start_ms {
            Some(start_ms) => after.unix_ms().max(start_ms - 1),
            None => after.unix_ms(),
        };
        let tick = match &self.rule {
            TickRule::Cron { cron, zone } => {
                Timestamp(cron.next_after(Timestamp::from_unix_ms(after_ms)?.0, *zone)?)
            }
            TickRule::Every {
                interval_ms,
                anchor_ms,
            } => {
                // The anchor itself is a tick only if the schedule sets it as its `start`.
                let first_ms = match self.start_ms {
                    Some(_) => *anchor_ms,
                    None => anchor_ms.checked_add(*interval_ms)?,
                };
                let passed = after_ms.checked_sub(first_ms)?;
                let tick_ms = if passed < 0 {
                    first_ms
                } else {
                    let count = passed / interval_ms + 1;
                    first_ms.checked_add(interval_ms.checked_mul(count)?)?
                };
                Timestamp::from_unix_ms(tick_ms)?
            }
        };
        self.end_ms
            .is_none_or(|end_ms| tick.unix_ms() <= end_ms)
            .then_some(tick)
    }

    /// The next tick from a position. `None` if the schedule has no more ticks.
    #[must_use]
    pub fn next(&self, position: &SchedulePosition) -> Option<Timestamp> {
        if self.repeat.is_some_and(|repeat| position.runs >= repeat) {
            return None;
        }
        match position.next_run {
            Some(next) if next > position.done_until => Some(next),
            _ => self.tick_after(position.done_until),
        }
    }

    /// What to do at the time `now`.
    #[must_use]
    pub fn next_action(&self, position: &SchedulePosition, now: Timestamp) -> ScheduleAction {
        let Some(tick) = self.next(position) else {
            return ScheduleAction::End;
        };
        if position
            .misfires_resolved_until
            .is_some_and(|resolved_until| tick <= resolved_until)
        {
            return ScheduleAction::Fire { tick };
        }
        let at = self.fire_at(tick);
        if at > now {
            return ScheduleAction::Wait { tick, at };
        }
        let late_until_ms = now.unix_ms() - self.grace_ms - self.jitter_ms;
        match Timestamp::from_unix_ms(late_until_ms) {
            Some(late_until) if tick <= late_until => {
                self.resolve_misfires(position, tick, late_until)
            }
            _ => ScheduleAction::Fire { tick },
        }
    }

    /// When to enqueue a tick: its time plus its jitter. The jitter is derived from the schedule's id
    /// and the tick, so that every scheduler computes the same one.
    #[must_use]
    pub fn fire_at(&self, tick: Timestamp) -> Timestamp {
        if self.jitter_ms == 0 {
            return tick;
        }
        let drawn = splitmix64(self.seed ^ splitmix64(tick.unix_ms().cast_unsigned()));
        let span = self.jitter_ms.unsigned_abs().saturating_add(1);
        let late_ms = i64::try_from(drawn % span).unwrap_or(0);
        Timestamp::from_unix_ms(tick.unix_ms().saturating_add(late_ms)).unwrap_or(tick)
    }

    /// Whether a tick that is enqueued at `at` is on time: within its jitter and the grace period.
    #[must_use]
    pub fn is_on_time(&self, tick: Timestamp, at: Timestamp) -> bool {
        at.unix_ms() - tick.unix_ms() < self.grace_ms + self.jitter_ms
    }

    /// The grace period: how late a tick may be and still be on time.
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms.unsigned_abs())
    }
}

/// Parses a stored schedule as a scheduler needs it: its ticks, and the envelope of their jobs. A
/// schedule for which this fails has no ticks, whatever its status.
///
/// # Errors
/// Returns [`ScheduleError`] with the first invalid field.
pub fn prepare_schedule(
    schedule: &Schedule,
    crons: &mut CronCache,
) -> Result<(TickPlan, TickEnvelope), ScheduleError> {
    let plan = TickPlan::new(schedule, crons)?;
    Ok((plan, TickEnvelope::new(schedule)?))
}

/// Validates a schedule and its envelope before it is stored.
///
/// # Errors
/// Returns [`ScheduleError`] if a field is invalid, or if the schedule would never enqueue a job.
pub fn check_schedule(schedule: &Schedule) -> Result<TickPlan, ScheduleError> {
    TickEnvelope::new(schedule)?;
    let plan = TickPlan::new(schedule, &mut CronCache::default())?;
    if plan
        .next(&SchedulePosition::from_schedule(schedule))
        .is_none()
    {
        return Err(match schedule.end {
            Some(_) => ScheduleError::field("end", "the schedule has no tick before it"),
            None => {
                ScheduleError::field("repeat", "the schedule has already enqueued this many jobs")
            }
        });
    }
    Ok(plan)
}

fn tick_rule(schedule: &Schedule, crons: &mut CronCache) -> Result<TickRule, ScheduleError> {
    match (&schedule.cron, schedule.every) {
        (Some(expression), None) => {
            let zone = match &schedule.tz {
                Some(name) => name.parse().map_err(|error: TimezoneError| {
                    ScheduleError::field("tz", error.to_string())
                })?,
                None => Timezone::default(),
            };
            Ok(TickRule::Cron {
                cron: crons.get(expression)?,
                zone,
            })
        }
        (None, Some(every)) => {
            if schedule.tz.is_some() {
                return Err(ScheduleError::field(
                    "tz",
                    "an interval is the same in every time zone; use `tz` with `cron` only",
                ));
            }
            let interval_ms = millis(every.0);
            if interval_ms.unsigned_abs() < INTERVAL_MS_MIN {
                return Err(ScheduleError::field(
                    "every",
                    format!("it is shorter than {INTERVAL_MS_MIN} ms, the shortest interval"),
                ));
            }
            let anchor = schedule
                .anchor
                .or(schedule.start)
                .unwrap_or(schedule.created_at);
            Ok(TickRule::Every {
                interval_ms,
                anchor_ms: anchor.unix_ms(),
            })
        }
        (Some(_), Some(_)) => Err(ScheduleError::field(
            "every",
            "`cron` is set as well; set one of the two",
        )),
        (None, None) => Err(ScheduleError::field(
            "cron",
            "neither `cron` nor `every` is set; set one of the two",
        )),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A number derived from a schedule's id (FNV-1a).
fn seed(name: &ScheduleId) -> u64 {
    name.as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// Distributes a number evenly over all 64-bit numbers (the finaliser of SplitMix64).
fn splitmix64(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::test_schedule::{at, ms, schedule};
    use naq_protocol::units::WireDuration;
    use proptest::prelude::*;

    fn plan(schedule: &Schedule) -> TickPlan {
        TickPlan::new(schedule, &mut CronCache::default()).unwrap()
    }

    /// Follows the plan at one time until it says to wait. Returns the enqueued ticks, how many were
    /// skipped, and the last action.
    fn run(
        plan: &TickPlan,
        position: &mut SchedulePosition,
        now: Timestamp,
    ) -> (Vec<Timestamp>, u64, ScheduleAction) {
        let (mut fired, mut missed_all) = (Vec::new(), 0);
        loop {
            match plan.next_action(position, now) {
                ScheduleAction::Fire { tick } => {
                    assert!(tick > position.done_until && tick <= now);
                    position.done_until = tick;
                    position.runs += 1;
                    fired.push(tick);
                }
                ScheduleAction::MisfiresResolved {
                    done_until,
                    misfires_resolved_until,
                    missed,
                    ..
                } => {
                    assert!(done_until >= position.done_until && misfires_resolved_until <= now);
                    assert!(
                        position
                            .misfires_resolved_until
                            .is_none_or(|before| before < misfires_resolved_until)
                    );
                    position.done_until = done_until;
                    position.misfires_resolved_until = Some(misfires_resolved_until);
                    missed_all += missed;
                }
                wait => return (fired, missed_all, wait),
            }
        }
    }

    /// The number of ticks that an outage of `seconds` makes the policy skip, and whether there were
    /// more.
    fn missed_in(one: &Schedule, seconds: i64) -> (u64, bool) {
        let position = SchedulePosition::from_schedule(one);
        let now = Timestamp::from_unix_ms(one.created_at.unix_ms() + seconds * 1_000).unwrap();
        match plan(one).next_action(&position, now) {
            ScheduleAction::MisfiresResolved {
                missed,
                missed_is_minimum,
                ..
            } => (missed, missed_is_minimum),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn missed_ticks_are_counted_or_said_to_be_at_least_so_many() {
        const DAY_S: i64 = 86_400;
        let with_policy = |mut one: Schedule| {
            one.misfire = Misfire::Skip;
            one
        };
        let every = with_policy(schedule(None, Some(1_000)));
        // All but those of the last minute, which is the grace period.
        assert_eq!(missed_in(&every, DAY_S), (86_400 - 60, false));
        assert_eq!(missed_in(&every, 365 * DAY_S), (365 * 86_400 - 60, false));
        let cron = with_policy(schedule(Some("* * * * * *"), None));
        let few = missed_in(&cron, 3_600);
        assert_eq!(few, (3_600 - 60, false));
        assert_eq!(missed_in(&cron, DAY_S), (10_000, true));
    }

    #[test]
    fn interval_is_counted_from_its_start_or_creation() {
        let mut every = schedule(None, Some(15_000));
        let now = every.created_at;
        let tick = |schedule: &Schedule, after| plan(schedule).tick_after(after);
        assert_eq!(tick(&every, now), Some(at("2026-12-24T17:00:15Z")));
        assert_eq!(
            tick(&every, at("2026-12-24T17:00:15Z")),
            Some(at("2026-12-24T17:00:30Z"))
        );
        every.start = Some(at("2026-12-24T18:00:00Z"));
        assert_eq!(tick(&every, now), every.start);
        every.start = Some(at("2026-12-24T16:00:07Z"));
        assert_eq!(tick(&every, now), Some(at("2026-12-24T17:00:07Z")));
        every.end = Some(at("2026-12-24T17:00:06Z"));
        assert_eq!(tick(&every, now), None);
    }

    #[test]
    fn misfire_policy_decides_which_late_ticks_are_enqueued() {
        let mut hourly = schedule(Some("0 * * * *"), None);
        // No scheduler ran for a little over three hours: the ticks at 18:00, 19:00 and 20:00 are late.
        let now = at("2026-12-24T20:10:00Z");
        let mut outcome = |misfire, misfire_max| {
            hourly.misfire = misfire;
            hourly.misfire_max = misfire_max;
            let plan = plan(&hourly);
            let mut position = SchedulePosition::from_schedule(&hourly);
            let (fired, missed, next) = run(&plan, &mut position, now);
            let tick = at("2026-12-24T21:00:00Z");
            assert_eq!(next, ScheduleAction::Wait { tick, at: tick });
            let hours: Vec<i64> = fired
                .iter()
                .map(|tick| tick.unix_ms() / 3_600_000 % 24)
                .collect();
            (hours, missed)
        };
        assert_eq!(outcome(Misfire::Skip, None), (vec![], 3));
        assert_eq!(outcome(Misfire::Once, None), (vec![20], 2));
        assert_eq!(outcome(Misfire::All, None), (vec![18, 19, 20], 0));
        assert_eq!(outcome(Misfire::All, Some(2)), (vec![19, 20], 1));
    }

    #[test]
    fn tick_within_the_grace_period_is_no_misfire() {
        let mut often = schedule(None, Some(1_000));
        often.misfire = Misfire::Skip;
        let mut position = SchedulePosition::from_schedule(&often);
        let now = ms(often.created_at.unix_ms() + 30_500);
        let (fired, missed, _) = run(&plan(&often), &mut position, now);
        assert_eq!((fired.len(), missed), (30, 0));
    }

    #[test]
    fn misfires_of_a_whole_year_are_counted_up_to_a_limit() {
        let mut often = schedule(Some("* * * * * *"), None);
        often.misfire = Misfire::All;
        often.misfire_grace = Some(WireDuration::from_secs(10));
        let mut position = SchedulePosition::from_schedule(&often);
        let now = at("2027-12-24T17:00:00Z");
        let (fired, missed, _) = run(&plan(&often), &mut position, now);
        assert_eq!((fired.len(), missed), (100 + 10, 10_000));
        assert_eq!(position.done_until, now);
    }

    #[test]
    fn clock_set_back_repeats_no_tick() {
        let every = schedule(None, Some(60_000));
        let mut position = SchedulePosition::from_schedule(&every);
        let later = ms(every.created_at.unix_ms() + 600_000);
        let plan = plan(&every);
        assert!(!run(&plan, &mut position, later).0.is_empty());
        let done = position;
        let (fired, missed, _) = run(&plan, &mut position, every.created_at);
        assert_eq!((fired, missed, position), (vec![], 0, done));
    }

    #[test]
    fn next_run_set_by_a_user_comes_first() {
        let mut hourly = schedule(Some("0 * * * *"), None);
        let by_hand = at("2026-12-24T17:20:00Z");
        hourly.next_run = Some(by_hand);
        let mut position = SchedulePosition::from_schedule(&hourly);
        let plan = plan(&hourly);
        assert_eq!(plan.next(&position), Some(by_hand));
        let (fired, _, next) = run(&plan, &mut position, at("2026-12-24T17:20:01Z"));
        assert_eq!(fired, [by_hand]);
        let tick = at("2026-12-24T18:00:00Z");
        assert_eq!(next, ScheduleAction::Wait { tick, at: tick });
        // A late one is enqueued as well: a user requested it.
        hourly.misfire = Misfire::Once;
        let mut position = SchedulePosition::from_schedule(&hourly);
        let (fired, _, _) = run(&plan, &mut position, at("2026-12-24T17:50:00Z"));
        assert_eq!(fired, [by_hand]);
    }

    #[test]
    fn schedule_ends_after_repeat_jobs() {
        let mut every = schedule(None, Some(1_000));
        every.repeat = Some(3);
        let mut position = SchedulePosition::from_schedule(&every);
        let now = ms(every.created_at.unix_ms() + 30_000);
        let (fired, _, next) = run(&plan(&every), &mut position, now);
        assert_eq!((fired.len(), next), (3, ScheduleAction::End));
    }

    #[test]
    fn invalid_schedule_is_refused_by_field() {
        let field = |change: &dyn Fn(&mut Schedule)| {
            let mut bad = schedule(Some("0 5 * * *"), None);
            change(&mut bad);
            match check_schedule(&bad).unwrap_err() {
                ScheduleError::Field { field, .. } => field,
                ScheduleError::Cron(_) => "expression",
                ScheduleError::Envelope(_) => "envelope",
            }
        };
        let hour = Some(WireDuration::from_secs(3_600));
        assert_eq!(field(&|bad| bad.cron = None), "cron");
        assert_eq!(field(&|bad| bad.every = hour), "every");
        assert_eq!(
            field(&|bad| bad.cron = Some("61 * * * *".to_owned())),
            "expression"
        );
        assert_eq!(
            field(&|bad| bad.cron = Some("0 0 30 2 *".to_owned())),
            "expression"
        );
        assert_eq!(
            field(&|bad| bad.tz = Some("Europe/Bielefeld".to_owned())),
            "tz"
        );
        assert_eq!(field(&|bad| bad.repeat = Some(0)), "repeat");
        assert_eq!(field(&|bad| bad.misfire_max = Some(0)), "misfire_max");
        assert_eq!(field(&|bad| bad.end = Some(bad.created_at)), "end");
        let later = |bad: &mut Schedule| bad.misfire = serde_json::from_str("\"latest\"").unwrap();
        assert_eq!(field(&later), "misfire");
        let no_envelope = serde_json::from_str::<Box<serde_json::value::RawValue>>("{}").unwrap();
        assert_eq!(field(&|bad| bad.envelope = no_envelope.clone()), "envelope");
        let mut fast = schedule(None, Some(99));
        assert!(matches!(
            check_schedule(&fast),
            Err(ScheduleError::Field { field: "every", .. })
        ));
        fast.every = Some(WireDuration(std::time::Duration::from_millis(100)));
        assert!(check_schedule(&fast).is_ok());
    }

    #[test]
    fn schedule_with_a_policy_of_a_later_version_has_no_ticks() {
        let mut later = schedule(Some("0 5 * * *"), None);
        later.overlap = serde_json::from_str("\"limit\"").unwrap();
        let why = TickPlan::new(&later, &mut CronCache::default()).unwrap_err();
        assert_eq!(
            why.to_string(),
            "schedule: `overlap`: `limit` is not an overlap policy; use one of allow, skip, queue, replace"
        );
        // A trigger enqueues no job of it either.
        assert_eq!(TickEnvelope::new(&later).unwrap_err().path, "overlap");
    }

    proptest! {
        /// However often and whenever the plan is evaluated, no tick fires twice or out of order, and
        /// every tick that does not fire is counted as missed.
        #[test]
        fn every_tick_fires_once_or_is_counted_as_missed(
            every_ms in 100_u64..100_000,
            steps_ms in proptest::collection::vec(-50_000_i64..200_000, 1..30),
            misfire in prop_oneof![Just(Misfire::Skip), Just(Misfire::Once), Just(Misfire::All)],
            misfire_max in 1_u32..20,
            jitter_ms in 0_u64..5_000,
        ) {
            let mut every = schedule(None, Some(every_ms));
            every.misfire = misfire;
            every.misfire_max = Some(misfire_max);
            every.jitter = Some(WireDuration(std::time::Duration::from_millis(jitter_ms)));
            let plan = plan(&every);
            let mut position = SchedulePosition::from_schedule(&every);
            let (mut fired_all, mut missed_all) = (Vec::new(), 0);
            let mut now_ms = every.created_at.unix_ms();
            for step_ms in steps_ms {
                now_ms += step_ms;
                let (fired, missed, _) = run(&plan, &mut position, ms(now_ms));
                fired_all.extend(fired);
                missed_all += missed;
            }
            prop_assert!(fired_all.is_sorted_by(|a, b| a < b));
            let passed = position.done_until.unix_ms() - every.created_at.unix_ms();
            let due = u64::try_from(passed).unwrap() / every_ms;
            prop_assert_eq!(fired_all.len() as u64 + missed_all, due);
        }

        /// Every scheduler that continues a schedule computes the same jitter.
        #[test]
        fn jitter_is_the_same_in_every_scheduler(tick_ms in 0_i64..10_000_000_000, jitter_ms in 0_u64..100_000) {
            let mut every = schedule(None, Some(1_000));
            every.jitter = Some(WireDuration(std::time::Duration::from_millis(jitter_ms)));
            let tick = ms(tick_ms);
            let fire_at = plan(&every).fire_at(tick);
            prop_assert_eq!(fire_at, plan(&every).fire_at(tick));
            prop_assert!(fire_at >= tick && fire_at.unix_ms() <= tick_ms + i64::try_from(jitter_ms).unwrap());
        }
    }
}
