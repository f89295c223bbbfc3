//! When a schedule's next tick is, and what becomes of ticks that nobody enqueued in time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use naq_cron::{Cron, CronError, Timezone, TimezoneError};
use naq_protocol::{
    EnvelopeError, INTERVAL_MS_MIN, MISFIRE_GRACE_DEFAULT, MISFIRE_MAX_DEFAULT, MISFIRE_MAX_MAX,
    Misfire, Schedule, ScheduleId, TickEnvelope, Timestamp,
};

/// Ticks that were left out are counted up to this many: a schedule of each second whose
/// scheduler was away for a year is not walked through.
const MISSED_COUNT_MAX: u64 = 10_000;

/// How far back the last late ticks are looked for at first.
const LOOKBACK_INITIAL_MS: i64 = 60_000;

/// What is wrong with a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Its cron expression.
    #[error("{0}")]
    Cron(#[from] CronError),
    /// Its envelope.
    #[error("{0}")]
    Envelope(#[from] EnvelopeError),
    /// One of its fields.
    #[error("schedule: `{field}`: {problem}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What is wrong with it, and what to do.
        problem: String,
    },
}

impl ScheduleError {
    pub(super) fn field(field: &'static str, problem: impl Into<String>) -> ScheduleError {
        ScheduleError::Field {
            field,
            problem: problem.into(),
        }
    }
}

/// Cron expressions that were parsed: schedules share those they have in common.
#[derive(Debug, Default)]
pub struct CronCache(HashMap<String, Arc<Cron>>);

impl CronCache {
    fn get(&mut self, expression: &str) -> Result<Arc<Cron>, CronError> {
        if let Some(known) = self.0.get(expression) {
            return Ok(known.clone());
        }
        let cron = Arc::new(Cron::parse(expression)?);
        self.0.insert(expression.to_owned(), cron.clone());
        Ok(cron)
    }

    /// Forgets expressions that no schedule has any more.
    pub fn evict_unused(&mut self) {
        self.0.retain(|_, cron| Arc::strong_count(cron) > 1);
    }

    /// How many expressions are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Clone, Debug)]
enum TickRule {
    Cron { cron: Arc<Cron>, zone: Timezone },
    Every { interval_ms: i64, anchor_ms: i64 },
}

/// When a schedule's ticks are, made ready to be asked often.
#[derive(Clone, Debug)]
pub struct TickPlan {
    cadence: TickRule,
    start_ms: Option<i64>,
    end_ms: Option<i64>,
    repeat: Option<u64>,
    jitter_ms: i64,
    misfire: Misfire,
    misfire_max: usize,
    grace_ms: i64,
    /// What the jitter of this schedule is drawn from.
    seed: u64,
}

/// How far a schedule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulePosition {
    /// Every tick up to this time is done with.
    pub done_until: Timestamp,
    /// A next tick that was set by hand; past `done_until` it comes before any other.
    pub next_run: Option<Timestamp>,
    /// Jobs made so far.
    pub runs: u64,
    /// Late ticks up to this time have been judged: those after `done_until` are to be enqueued.
    pub misfires_resolved_until: Option<Timestamp>,
}

impl SchedulePosition {
    /// Where a stored schedule is.
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

/// What a schedule is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleAction {
    /// Nothing before this time.
    Wait {
        /// The next tick.
        tick: Timestamp,
        /// When it is to be enqueued: the same, or later by the jitter.
        at: Timestamp,
    },
    /// Enqueue this tick.
    Fire {
        /// Its time.
        tick: Timestamp,
    },
    /// Late ticks were judged: go on from here.
    MisfiresResolved {
        /// Every tick up to this time is done with now.
        done_until: Timestamp,
        /// Those between this and `done_until` are to be enqueued.
        misfires_resolved_until: Timestamp,
        /// How many are left out, as far as they were counted.
        missed: u64,
    },
    /// There are no more ticks.
    End,
}

impl TickPlan {
    /// From a schedule.
    ///
    /// # Errors
    /// [`ScheduleError`] with the field that is wrong.
    pub fn new(schedule: &Schedule, crons: &mut CronCache) -> Result<TickPlan, ScheduleError> {
        let cadence = tick_rule(schedule, crons)?;
        if schedule.repeat == Some(0) {
            return Err(ScheduleError::field(
                "repeat",
                "it is 0; leave it out for no end",
            ));
        }
        if let (Some(start), Some(end)) = (schedule.start, schedule.end)
            && start > end
        {
            return Err(ScheduleError::field("end", "it is before the start"));
        }
        let misfire_max = schedule.misfire_max.unwrap_or(MISFIRE_MAX_DEFAULT);
        if !(1..=MISFIRE_MAX_MAX).contains(&misfire_max) {
            return Err(ScheduleError::field(
                "misfire_max",
                format!("it is out of range; 1 to {MISFIRE_MAX_MAX}"),
            ));
        }
        let grace = schedule.misfire_grace.unwrap_or(MISFIRE_GRACE_DEFAULT);
        Ok(TickPlan {
            cadence,
            start_ms: schedule.start.map(Timestamp::unix_ms),
            end_ms: schedule.end.map(Timestamp::unix_ms),
            repeat: schedule.repeat,
            jitter_ms: millis(schedule.jitter.unwrap_or_default().0),
            misfire: schedule.misfire,
            misfire_max: misfire_max as usize,
            grace_ms: millis(grace.0),
            seed: seed(&schedule.schedule_id),
        })
    }

    /// The first tick after a time, by the cadence, within start and end.
    #[must_use]
    pub fn tick_after(&self, after: Timestamp) -> Option<Timestamp> {
        let after_ms = match self.start_ms {
            Some(start_ms) => after.unix_ms().max(start_ms - 1),
            None => after.unix_ms(),
        };
        let tick = match &self.cadence {
            TickRule::Cron { cron, zone } => {
                Timestamp(cron.next_after(Timestamp::from_unix_ms(after_ms)?.0, *zone)?)
            }
            TickRule::Every {
                interval_ms,
                anchor_ms,
            } => {
                // the anchor itself is a tick only where someone has asked for it as the start
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

    /// The next tick from a position; none where there are no more.
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

    /// What is to be done at a time.
    #[must_use]
    pub fn next_action(&self, position: &SchedulePosition, now: Timestamp) -> ScheduleAction {
        let Some(tick) = self.next(position) else {
            return ScheduleAction::End;
        };
        if position
            .misfires_resolved_until
            .is_some_and(|judged| tick <= judged)
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

    /// When a tick is to be enqueued: at its time, or later by its jitter, which is the same
    /// whoever reckons it.
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

    /// Whether a tick that is enqueued at `at` is on time: within its grace.
    #[must_use]
    pub fn is_on_time(&self, tick: Timestamp, at: Timestamp) -> bool {
        at.unix_ms() - tick.unix_ms() < self.grace_ms + self.jitter_ms
    }

    /// How late a tick may be and still count as being on time.
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms.unsigned_abs())
    }

    /// Which of the late ticks, the first of which is `first`, are enqueued after all.
    fn resolve_misfires(
        &self,
        position: &SchedulePosition,
        first: Timestamp,
        late_until: Timestamp,
    ) -> ScheduleAction {
        let kept_max = match self.misfire {
            Misfire::Skip => 0,
            Misfire::Once => 1,
            Misfire::All => self.misfire_max,
        };
        let kept_from = self.last_ticks(first, late_until, kept_max);
        let (done_until, missed) = match kept_from {
            Some(kept_from) => {
                let missed = self.count_ticks(first, kept_from);
                // one that was set by hand is its own beginning
                let done_until = if missed == 0 {
                    position.done_until
                } else {
                    one_ms_before(kept_from)
                };
                (done_until, missed)
            }
            None => (
                late_until,
                self.count_ticks(first, one_ms_after(late_until)),
            ),
        };
        ScheduleAction::MisfiresResolved {
            done_until,
            misfires_resolved_until: late_until,
            missed,
        }
    }

    /// The first of the last `count` ticks from `first` up to `until`; none for no tick.
    fn last_ticks(&self, first: Timestamp, until: Timestamp, count: usize) -> Option<Timestamp> {
        if count == 0 {
            return None;
        }
        let mut back_ms = LOOKBACK_INITIAL_MS;
        loop {
            let from_ms = until.unix_ms().saturating_sub(back_ms);
            let is_whole = from_ms <= first.unix_ms();
            let mut ticks = std::collections::VecDeque::with_capacity(count.min(64));
            let mut next = if is_whole {
                Some(first)
            } else {
                self.tick_after(Timestamp::from_unix_ms(from_ms)?)
            };
            while let Some(tick) = next.filter(|tick| *tick <= until) {
                if ticks.len() == count {
                    ticks.pop_front();
                }
                ticks.push_back(tick);
                next = self.tick_after(tick);
            }
            if is_whole || ticks.len() == count {
                return ticks.pop_front();
            }
            back_ms = back_ms.saturating_mul(4);
        }
    }

    /// How many ticks there are from `first` up to but not including `end`, as far as they are
    /// counted.
    fn count_ticks(&self, first: Timestamp, end: Timestamp) -> u64 {
        let mut count = 0;
        let mut next = Some(first);
        while let Some(tick) = next.filter(|tick| *tick < end) {
            count += 1;
            if count == MISSED_COUNT_MAX {
                break;
            }
            next = self.tick_after(tick);
        }
        count
    }
}

/// Checks a schedule that is to be stored, with its envelope.
///
/// # Errors
/// [`ScheduleError`], also where it would never make a job.
pub fn check_schedule(schedule: &Schedule) -> Result<TickPlan, ScheduleError> {
    TickEnvelope::new(schedule)?;
    let plan = TickPlan::new(schedule, &mut CronCache::default())?;
    if plan
        .next(&SchedulePosition::from_schedule(schedule))
        .is_none()
    {
        return Err(match schedule.end {
            Some(_) => ScheduleError::field("end", "there is no tick before it"),
            None => ScheduleError::field("repeat", "it has made as many jobs already"),
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
                    "an interval is the same in every zone; it is for `cron`",
                ));
            }
            let interval_ms = millis(every.0);
            if interval_ms.unsigned_abs() < INTERVAL_MS_MIN {
                return Err(ScheduleError::field(
                    "every",
                    format!("it is under {INTERVAL_MS_MIN} ms, the shortest interval"),
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
            "`cron` is there as well; give one of the two",
        )),
        (None, None) => Err(ScheduleError::field(
            "cron",
            "neither this nor `every` is there; give one of the two",
        )),
    }
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn one_ms_before(time: Timestamp) -> Timestamp {
    Timestamp::from_unix_ms(time.unix_ms() - 1).unwrap_or(time)
}

fn one_ms_after(time: Timestamp) -> Timestamp {
    Timestamp::from_unix_ms(time.unix_ms() + 1).unwrap_or(time)
}

/// A number that goes with a name: FNV-1a.
fn seed(name: &ScheduleId) -> u64 {
    name.as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// Spreads a number over all numbers: the finaliser of SplitMix64.
fn splitmix64(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::units::WireDuration;
    use naq_protocol::{Overlap, QueueName, ScheduleProgress, ScheduleStatus};
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn ms(unix_ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(unix_ms).unwrap()
    }

    fn schedule(cron: Option<&str>, every_ms: Option<u64>) -> Schedule {
        let now = at("2026-12-24T17:00:00Z");
        Schedule {
            schedule_id: ScheduleId::new("nightly").unwrap(),
            queue: QueueName::new("default").unwrap(),
            envelope: serde_json::from_str(r#"{"command":"true"}"#).unwrap(),
            cron: cron.map(str::to_owned),
            tz: None,
            every: every_ms.map(|ms| WireDuration(std::time::Duration::from_millis(ms))),
            anchor: None,
            repeat: None,
            start: None,
            end: None,
            jitter: None,
            misfire: Misfire::Once,
            misfire_max: None,
            misfire_grace: None,
            overlap: Overlap::Allow,
            set: None,
            created_at: now,
            status: ScheduleStatus::Active,
            paused_reason: None,
            next_run: None,
            progress: ScheduleProgress::from(now),
        }
    }

    fn plan(schedule: &Schedule) -> TickPlan {
        TickPlan::new(schedule, &mut CronCache::default()).unwrap()
    }

    /// Goes on at a time until there is something to wait for: the ticks that are enqueued, how
    /// many are left out, and what follows.
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

    #[test]
    fn an_interval_is_counted_from_its_beginning() {
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
    fn late_ticks_follow_the_policy() {
        let mut hourly = schedule(Some("0 * * * *"), None);
        // away for three hours and a bit: 18, 19, 20 o'clock are late
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
    fn what_is_just_late_is_not_missed() {
        let mut often = schedule(None, Some(1_000));
        often.misfire = Misfire::Skip;
        let mut position = SchedulePosition::from_schedule(&often);
        let now = ms(often.created_at.unix_ms() + 30_500);
        let (fired, missed, _) = run(&plan(&often), &mut position, now);
        assert_eq!((fired.len(), missed), (30, 0));
    }

    #[test]
    fn a_year_away_is_not_walked_through() {
        let mut often = schedule(Some("* * * * * *"), None);
        often.misfire = Misfire::All;
        often.misfire_grace = Some(WireDuration::from_secs(10));
        let mut position = SchedulePosition::from_schedule(&often);
        let now = at("2027-12-24T17:00:00Z");
        let (fired, missed, _) = run(&plan(&often), &mut position, now);
        assert_eq!((fired.len(), missed), (100 + 10, MISSED_COUNT_MAX));
        assert_eq!(position.done_until, now);
    }

    #[test]
    fn a_clock_that_goes_back_repeats_nothing() {
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
    fn a_run_that_was_set_by_hand_comes_first() {
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
        // also one that is late, whatever the policy: someone asked for it
        hourly.misfire = Misfire::Once;
        let mut position = SchedulePosition::from_schedule(&hourly);
        let (fired, _, _) = run(&plan, &mut position, at("2026-12-24T17:50:00Z"));
        assert_eq!(fired, [by_hand]);
    }

    #[test]
    fn it_ends_when_it_has_repeated_enough() {
        let mut every = schedule(None, Some(1_000));
        every.repeat = Some(3);
        let mut position = SchedulePosition::from_schedule(&every);
        let now = ms(every.created_at.unix_ms() + 30_000);
        let (fired, _, next) = run(&plan(&every), &mut position, now);
        assert_eq!((fired.len(), next), (3, ScheduleAction::End));
    }

    #[test]
    fn bad_ones_are_refused_by_field() {
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

    proptest! {
        /// However often and whenever it is looked at: no tick twice, none out of order, and none
        /// missing that is not counted as missed.
        #[test]
        fn every_tick_is_enqueued_or_counted(
            every_ms in 100_u64..100_000,
            looks in proptest::collection::vec(-50_000_i64..200_000, 1..30),
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
            for look in looks {
                now_ms += look;
                let (fired, missed, _) = run(&plan, &mut position, ms(now_ms));
                fired_all.extend(fired);
                missed_all += missed;
            }
            prop_assert!(fired_all.is_sorted_by(|a, b| a < b));
            let passed = position.done_until.unix_ms() - every.created_at.unix_ms();
            let due = u64::try_from(passed).unwrap() / every_ms;
            prop_assert_eq!(fired_all.len() as u64 + missed_all, due);
        }

        /// Whoever goes on from what another has stored enqueues the same ticks.
        #[test]
        fn jitter_is_the_same_for_everyone(tick_ms in 0_i64..10_000_000_000, jitter_ms in 0_u64..100_000) {
            let mut every = schedule(None, Some(1_000));
            every.jitter = Some(WireDuration(std::time::Duration::from_millis(jitter_ms)));
            let tick = ms(tick_ms);
            let fire_at = plan(&every).fire_at(tick);
            prop_assert_eq!(fire_at, plan(&every).fire_at(tick));
            prop_assert!(fire_at >= tick && fire_at.unix_ms() <= tick_ms + i64::try_from(jitter_ms).unwrap());
        }
    }
}
