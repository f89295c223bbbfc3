//! Misfires: which of the ticks that no scheduler enqueued in time are still enqueued.

use std::collections::VecDeque;

use naq_protocol::Timestamp;

use super::plan::{ScheduleAction, SchedulePosition, TickPlan, TickRule};

/// Skipped ticks of a cron expression are counted up to this number, so that a schedule with a tick each second costs
/// little even after an outage of a year.
const MISSED_COUNT_MAX: u64 = 10_000;

/// How far back the last late ticks are searched at first.
const LOOKBACK_INITIAL_MS: i64 = 60_000;

impl TickPlan {
    /// Decides which of the late ticks from `first` to `late_until` are still enqueued.
    pub(super) fn resolve_misfires(
        &self,
        position: &SchedulePosition,
        first: Timestamp,
        late_until: Timestamp,
    ) -> ScheduleAction {
        let kept_from = self.last_ticks(first, late_until, self.late_ticks_max);
        let (done_until, missed) = match kept_from {
            Some(kept_from) => {
                let missed = self.count_ticks(first, kept_from);
                // Without a skipped tick the position stays: moving it to just before
                // `kept_from` would drop a `next_run` that a user set.
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
            missed_is_minimum: self.is_uncounted(missed),
        }
    }

    /// Whether counting has stopped at this number.
    pub(super) fn is_uncounted(&self, count: u64) -> bool {
        matches!(self.rule, TickRule::Cron { .. }) && count >= MISSED_COUNT_MAX
    }

    /// The first of the last `count` ticks from `first` up to and including `until`. `None` if
    /// `count` is 0.
    ///
    /// Walking every tick since `first` would take long after a long outage, so this looks back from
    /// `until`, four times further each time, until it has seen enough ticks.
    pub(super) fn last_ticks(
        &self,
        first: Timestamp,
        until: Timestamp,
        count: usize,
    ) -> Option<Timestamp> {
        if count == 0 {
            return None;
        }
        let mut back_ms = LOOKBACK_INITIAL_MS;
        loop {
            let from_ms = until.unix_ms().saturating_sub(back_ms);
            let reaches_first = from_ms <= first.unix_ms();
            let mut ticks = VecDeque::with_capacity(count.min(64));
            let mut next = if reaches_first {
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
            if reaches_first || ticks.len() == count {
                return ticks.pop_front();
            }
            back_ms = back_ms.saturating_mul(4);
        }
    }

    /// The number of ticks from `first` up to but not including `end`. Those of a cron expression are
    /// counted up to [`MISSED_COUNT_MAX`].
    pub(super) fn count_ticks(&self, first: Timestamp, end: Timestamp) -> u64 {
        let mut count = 0;
        if let TickRule::Every { interval_ms, .. } = self.rule
            && let Some(second) = self.tick_after(first).filter(|second| *second < end)
        {
            // `first` may be set by hand; from the second tick on they are evenly spaced.
            let span_ms = end.unix_ms() - 1 - second.unix_ms();
            return u64::try_from(span_ms / interval_ms).map_or(2, |further| further + 2);
        }
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

pub(super) fn one_ms_before(time: Timestamp) -> Timestamp {
    Timestamp::from_unix_ms(time.unix_ms() - 1).unwrap_or(time)
}

pub(super) fn one_ms_after(time: Timestamp) -> Timestamp {
    Timestamp::from_unix_ms(time.unix_ms() + 1).unwrap_or(time)
}
