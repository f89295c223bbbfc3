//! Backfills: the ticks of a schedule in a range of the past, to be enqueued although they were missed, or
//! although the schedule did not exist yet.

use std::fmt;

use super::misfire::{one_ms_after, one_ms_before};
use super::plan::TickPlan;
use naq_protocol::Timestamp;

/// Most ticks of one backfill.
pub const BACKFILL_TICKS_MAX: usize = 1_000;

/// Ticks of a backfill unless its request says otherwise.
pub const BACKFILL_TICKS_DEFAULT: usize = 100;

/// Which ticks of a range come first, and are taken if there are more than the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackfillOrder {
    /// The earliest tick is enqueued first.
    #[default]
    Oldest,
    /// The latest tick is enqueued first.
    Newest,
}

impl BackfillOrder {
    /// Every order.
    pub const ALL: [BackfillOrder; 2] = [BackfillOrder::Oldest, BackfillOrder::Newest];

    /// Its name in options and requests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            BackfillOrder::Oldest => "oldest",
            BackfillOrder::Newest => "newest",
        }
    }
}

impl fmt::Display for BackfillOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for BackfillOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<BackfillOrder, String> {
        let mut all = BackfillOrder::ALL.into_iter();
        all.find(|order| order.name() == text)
            .ok_or_else(|| format!("`{text}` is not an order; the orders are oldest and newest"))
    }
}

/// A range of time, and how many of its ticks to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackfillRange {
    /// The earliest tick is at this time or after it.
    pub from: Timestamp,
    /// Every tick is before this time, so that ranges that follow each other have no tick in common.
    pub to: Timestamp,
    /// The most ticks to take, 1 to [`BACKFILL_TICKS_MAX`].
    pub limit: usize,
    /// Which ticks to take first.
    pub order: BackfillOrder,
}

/// Why a range cannot be backfilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackfillError {
    /// It contains no time.
    #[error("`to` is not after `from`")]
    Empty,
    /// It ends in the future, where the scheduler enqueues ticks.
    #[error("`to` is in the future; the scheduler enqueues the ticks that are not due yet")]
    Future,
    /// The limit is out of range.
    #[error("`limit` is out of range; 1 to {BACKFILL_TICKS_MAX}")]
    Limit,
}

impl BackfillError {
    /// The field of the range that is wrong.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            BackfillError::Empty | BackfillError::Future => "to",
            BackfillError::Limit => "limit",
        }
    }
}

impl BackfillRange {
    /// Checks the range at the time `now`.
    ///
    /// # Errors
    /// Returns [`BackfillError`] if it is empty or ends in the future, or if its limit is out of range.
    pub fn check(&self, now: Timestamp) -> Result<(), BackfillError> {
        match self {
            _ if !(1..=BACKFILL_TICKS_MAX).contains(&self.limit) => Err(BackfillError::Limit),
            _ if self.to > now => Err(BackfillError::Future),
            _ if self.to <= self.from => Err(BackfillError::Empty),
            _ => Ok(()),
        }
    }
}

/// The ticks of a backfill.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackfillTicks {
    /// In the order in which they are to be enqueued.
    pub ticks: Vec<Timestamp>,
    /// How many more ticks the range has.
    pub more: u64,
    /// `more` is a lower bound: the ticks of a cron expression are counted up to 10,000.
    pub more_is_minimum: bool,
}

impl TickPlan {
    /// The ticks of a range by the cron expression or the interval, between `start` and `end` of the schedule. A
    /// next run that a user set is none of them, and `repeat` does not limit them: it counts the jobs that the
    /// scheduler enqueues.
    #[must_use]
    pub fn backfill(&self, range: &BackfillRange) -> BackfillTicks {
        let last = one_ms_before(range.to);
        let first = self.tick_after(one_ms_before(range.from));
        let Some(first) = first.filter(|first| *first <= last) else {
            return BackfillTicks::default();
        };
        let begin = match range.order {
            BackfillOrder::Oldest => Some(first),
            BackfillOrder::Newest => self.last_ticks(first, last, range.limit),
        };
        let mut ticks: Vec<Timestamp> = std::iter::successors(begin, |tick| self.tick_after(*tick))
            .take_while(|tick| *tick <= last)
            .take(range.limit)
            .collect();
        let total = self.count_ticks(first, one_ms_after(last));
        let more = total.saturating_sub(ticks.len() as u64);
        if range.order == BackfillOrder::Newest {
            ticks.reverse();
        }
        BackfillTicks {
            ticks,
            more,
            more_is_minimum: more > 0 && self.is_uncounted(total),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CronCache;
    use crate::schedule::test_schedule::{at, ms, schedule};
    use proptest::prelude::*;

    fn plan(cron: Option<&str>, tz: Option<&str>, every_ms: Option<u64>) -> TickPlan {
        let mut one = schedule(cron, every_ms);
        one.tz = tz.map(str::to_owned);
        TickPlan::new(&one, &mut CronCache::default()).unwrap()
    }

    fn range(from: &str, to: &str, limit: usize, order: BackfillOrder) -> BackfillRange {
        BackfillRange {
            from: at(from),
            to: at(to),
            limit,
            order,
        }
    }

    fn times(found: &BackfillTicks) -> Vec<String> {
        let ticks = found.ticks.iter();
        ticks
            .map(|tick| tick.to_string().replace(":00.000Z", "Z"))
            .collect()
    }

    #[test]
    fn a_backfill_has_the_ticks_from_its_beginning_and_before_its_end() {
        let daily = plan(Some("0 3 * * *"), None, None);
        let of = |limit, order| {
            daily.backfill(&range(
                "2026-11-01T03:00:00Z",
                "2026-11-04T03:00:00Z",
                limit,
                order,
            ))
        };
        let all = [
            "2026-11-01T03:00Z",
            "2026-11-02T03:00Z",
            "2026-11-03T03:00Z",
        ];
        let found = of(10, BackfillOrder::Oldest);
        assert_eq!(
            (times(&found), found.more),
            (all.map(str::to_owned).to_vec(), 0)
        );
        let mut reversed = all.to_vec();
        reversed.reverse();
        assert_eq!(times(&of(10, BackfillOrder::Newest)), reversed);
        let found = of(2, BackfillOrder::Oldest);
        assert_eq!(
            (times(&found), found.more),
            (all[..2].iter().map(ToString::to_string).collect(), 1)
        );
        let found = of(2, BackfillOrder::Newest);
        assert_eq!(times(&found), reversed[..2]);
        assert_eq!((found.more, found.more_is_minimum), (1, false));
    }

    #[test]
    fn a_backfill_of_times_that_clocks_skip_or_repeat_follows_the_zone() {
        let berlin = |cron| plan(Some(cron), Some("Europe/Berlin"), None);
        let of = |plan: &TickPlan, from: &str, to: &str| {
            times(&plan.backfill(&range(from, to, 100, BackfillOrder::Oldest)))
        };
        // 02:30 does not exist on 29 March, and occurs twice on 25 October
        let daily = berlin("30 2 * * *");
        let spring = of(&daily, "2026-03-28T00:00:00Z", "2026-03-31T00:00:00Z");
        assert_eq!(
            spring,
            [
                "2026-03-28T01:30Z",
                "2026-03-29T01:00Z",
                "2026-03-30T00:30Z"
            ]
        );
        let autumn = of(&daily, "2026-10-24T00:00:00Z", "2026-10-27T00:00:00Z");
        assert_eq!(
            autumn,
            [
                "2026-10-24T00:30Z",
                "2026-10-25T00:30Z",
                "2026-10-26T01:30Z"
            ]
        );
        let hourly = berlin("0 * * * *");
        let night = of(&hourly, "2026-10-24T22:00:00Z", "2026-10-25T03:00:00Z");
        assert_eq!(night.len(), 5, "{night:?}");
    }

    #[test]
    fn an_interval_has_no_ticks_before_it_began() {
        let every = plan(None, None, Some(60_000));
        let of = |from: &str, to: &str| {
            times(&every.backfill(&range(from, to, 100, BackfillOrder::Oldest)))
        };
        // it was created at 17:00
        assert_eq!(of("2026-12-24T16:00:00Z", "2026-12-24T17:00:01Z"), [""; 0]);
        assert_eq!(
            of("2026-12-24T16:00:00Z", "2026-12-24T17:02:30Z"),
            ["2026-12-24T17:01Z", "2026-12-24T17:02Z"]
        );
    }

    #[test]
    fn the_ticks_of_a_long_range_are_counted_up_to_a_limit() {
        let year = range(
            "2025-01-01T00:00:00Z",
            "2026-01-01T00:00:00Z",
            2,
            BackfillOrder::Newest,
        );
        let each_second = plan(Some("* * * * * *"), None, None).backfill(&year);
        let last = ["2025-12-31T23:59:59.000Z", "2025-12-31T23:59:58.000Z"];
        assert_eq!(times(&each_second), last);
        assert_eq!(
            (each_second.more, each_second.more_is_minimum),
            (9_998, true)
        );
        let mut every = schedule(None, Some(1_000));
        every.start = Some(at("2025-01-01T00:00:00Z"));
        let every = TickPlan::new(&every, &mut CronCache::default()).unwrap();
        let every = every.backfill(&year);
        assert_eq!(
            (every.more, every.more_is_minimum),
            (365 * 86_400 - 2, false)
        );
    }

    #[test]
    fn a_range_that_cannot_be_backfilled_is_refused() {
        let now = at("2026-12-24T17:00:00Z");
        let valid = range(
            "2026-12-23T17:00:00Z",
            "2026-12-24T17:00:00Z",
            1,
            BackfillOrder::Oldest,
        );
        assert_eq!(valid.check(now), Ok(()));
        let with = |change: &dyn Fn(&mut BackfillRange)| {
            let mut wrong = valid;
            change(&mut wrong);
            wrong.check(now).unwrap_err()
        };
        assert_eq!(with(&|wrong| wrong.from = wrong.to), BackfillError::Empty);
        assert_eq!(
            with(&|wrong| wrong.to = ms(now.unix_ms() + 1)),
            BackfillError::Future
        );
        assert_eq!(with(&|wrong| wrong.limit = 0), BackfillError::Limit);
        assert_eq!(
            with(&|wrong| wrong.limit = BACKFILL_TICKS_MAX + 1),
            BackfillError::Limit
        );
        for order in BackfillOrder::ALL {
            assert_eq!(order.to_string().parse(), Ok(order));
        }
        assert!("random".parse::<BackfillOrder>().is_err());
    }

    /// Crons with a cadence, with times of day, and with rare times.
    fn any_plan() -> impl Strategy<Value = TickPlan> {
        const CRONS: &[&str] = &[
            "*/7 * * * *",
            "0 */2 * * *",
            "30 2 * * *",
            "15 1-3 * * SUN",
            "0 0 1 * *",
        ];
        const ZONES: &[&str] = &[
            "UTC",
            "Europe/Berlin",
            "Australia/Lord_Howe",
            "America/St_Johns",
            "Africa/Casablanca",
        ];
        let (crons, zones) = (
            proptest::sample::select(CRONS),
            proptest::sample::select(ZONES),
        );
        let cron = (crons, zones).prop_map(|(cron, zone)| plan(Some(cron), Some(zone), None));
        let every = (100_u64..100_000_000).prop_map(|every_ms| plan(None, None, Some(every_ms)));
        prop_oneof![3 => cron, 1 => every]
    }

    proptest! {
        /// Whatever the limit, the ticks are those that the scheduler computes one after another.
        #[test]
        fn a_backfill_has_the_ticks_of_the_scheduler(
            plan in any_plan(),
            from_h in 0_i64..9_000,
            minutes in 1_i64..40_000,
            limit in 1_usize..200,
        ) {
            // with clock changes of every zone in reach
            let from = ms(at("2026-01-01T00:00:00Z").unix_ms() + from_h * 3_600_000);
            let to = ms(from.unix_ms() + minutes * 60_000);
            let of = |order| plan.backfill(&BackfillRange { from, to, limit, order });
            let all: Vec<Timestamp> =
                std::iter::successors(plan.tick_after(one_ms_before(from)), |tick| plan.tick_after(*tick))
                    .take_while(|tick| *tick < to)
                    .take(10_000)
                    .collect();
            let (oldest, newest) = (of(BackfillOrder::Oldest), of(BackfillOrder::Newest));
            let taken = limit.min(all.len());
            prop_assert_eq!(&oldest.ticks[..], &all[..taken]);
            prop_assert_eq!(oldest.ticks.len(), newest.ticks.len());
            prop_assert_eq!((oldest.more, oldest.more_is_minimum), (newest.more, newest.more_is_minimum));
            if all.len() < 10_000 {
                let latest: Vec<Timestamp> = all.iter().rev().take(limit).copied().collect();
                prop_assert_eq!(newest.ticks, latest);
                prop_assert_eq!(oldest.more, (all.len() - taken) as u64);
                prop_assert!(!oldest.more_is_minimum);
            }
        }

        /// A range and the one that follows it have each tick of both once.
        #[test]
        fn ranges_that_follow_each_other_have_each_tick_once(
            plan in any_plan(),
            from_h in 0_i64..9_000,
            (first_m, second_m) in (1_i64..3_000, 1_i64..3_000),
        ) {
            let from = ms(at("2026-01-01T00:00:00Z").unix_ms() + from_h * 3_600_000);
            let middle = ms(from.unix_ms() + first_m * 60_000);
            let to = ms(middle.unix_ms() + second_m * 60_000);
            let of = |from, to| {
                let range = BackfillRange { from, to, limit: BACKFILL_TICKS_MAX, order: BackfillOrder::Oldest };
                plan.backfill(&range)
            };
            let (first, second, both) = (of(from, middle), of(middle, to), of(from, to));
            prop_assume!(both.more == 0);
            prop_assert_eq!([first.ticks, second.ticks].concat(), both.ticks);
        }
    }
}
