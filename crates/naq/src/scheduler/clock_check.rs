//! Whether the clock of this machine can be trusted with schedules: it is compared with the server's,
//! and watched for jumps in between.

use std::fmt;
use std::time::Duration;

use crate::clock::{self, BootInstant};
use naq_jetstream::{Broker, BrokerError};
use naq_protocol::Timestamp;

/// How far the clock may be from the server's for a scheduler to lead.
pub(super) const CLOCK_SKEW_MAX: Duration = Duration::from_secs(2);

/// Time between two comparisons with the server's clock.
pub(super) const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Pause between two comparisons while the clock is off.
const RECHECK_PAUSE: Duration = Duration::from_secs(1);

/// Time between two lines of the log about a clock that is off.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// By how much the wall clock may move against the time since boot until it counts as set. Less than
/// this is the daily work of NTP.
const JUMP_MS_MIN: i64 = 500;

/// How far the wall clock is ahead of the server's, or behind it if negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClockSkew {
    ahead_ms: i64,
    /// The answer took this long, so the skew is known no better than by half of it.
    round_trip_ms: i64,
}

impl ClockSkew {
    /// Measures it by one request.
    ///
    /// # Errors
    /// Returns the broker's error if the server does not answer or refuses.
    pub(super) async fn measure(broker: &Broker) -> Result<ClockSkew, BrokerError> {
        let (asked_at, since) = (clock::now(), BootInstant::now());
        let server = broker.server_time().await?;
        let round_trip_ms = millis(since.elapsed());
        Ok(ClockSkew::new(asked_at, server, round_trip_ms))
    }

    /// The server has read its clock at some time within the round trip.
    fn new(asked_at: Timestamp, server: Timestamp, round_trip_ms: i64) -> ClockSkew {
        ClockSkew {
            ahead_ms: asked_at.unix_ms() + round_trip_ms / 2 - server.unix_ms(),
            round_trip_ms,
        }
    }

    /// Whether the clock is surely too far from the server's.
    pub(super) fn is_excessive(self) -> bool {
        let surely_ms = self.ahead_ms.abs() - self.round_trip_ms / 2;
        surely_ms > millis(CLOCK_SKEW_MAX)
    }
}

impl fmt::Display for ClockSkew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = Duration::from_millis(self.ahead_ms.unsigned_abs()).as_secs_f64();
        let side = if self.ahead_ms < 0 {
            "behind"
        } else {
            "ahead of"
        };
        write!(f, "{seconds:.1} s {side} the server's")
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// How far the clock is from the server's, if that is too far for a leader. A server that cannot be
/// asked makes no difference: it cannot be led either.
pub(super) async fn excessive_skew(broker: &Broker) -> Option<ClockSkew> {
    match ClockSkew::measure(broker).await {
        Ok(skew) => Some(skew).filter(|skew| skew.is_excessive()),
        Err(error) => {
            tracing::warn!("cannot compare the clock with the server's: {error}");
            None
        }
    }
}

/// Waits until the clock is right. Logs once a minute why it waits.
pub(super) async fn wait_for_right_clock(broker: &Broker) {
    let mut logged_at: Option<BootInstant> = None;
    while let Some(skew) = excessive_skew(broker).await {
        if logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            tracing::error!("the clock is {skew}: this scheduler waits until it is right");
            logged_at = Some(BootInstant::now());
        }
        tokio::time::sleep(RECHECK_PAUSE).await;
    }
    if logged_at.is_some() {
        tracing::info!("the clock is right again");
    }
}

/// The wall clock against the time since boot, which nobody can set.
#[derive(Clone, Copy, Debug)]
pub(super) struct WallClock {
    wall: Timestamp,
    boot: BootInstant,
}

impl WallClock {
    pub(super) fn now() -> WallClock {
        WallClock {
            wall: clock::now(),
            boot: BootInstant::now(),
        }
    }

    /// The time since then.
    pub(super) fn elapsed(self) -> Duration {
        self.boot.elapsed()
    }

    /// What the wall clock would show now if it had not been set since then.
    pub(super) fn expected_now(self) -> Timestamp {
        clock::saturating_add(self.wall, self.elapsed())
    }

    /// Whether the wall clock was set since then.
    pub(super) fn was_set(self) -> bool {
        let now = WallClock::now();
        let wall_ms = now.wall.unix_ms() - self.wall.unix_ms();
        let boot_ms = millis(now.boot.duration_since(self.boot));
        (wall_ms - boot_ms).abs() >= JUMP_MS_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skew(asked_at_ms: i64, server_ms: i64, round_trip_ms: i64) -> ClockSkew {
        let at = |ms| Timestamp::from_unix_ms(ms).unwrap();
        ClockSkew::new(at(asked_at_ms), at(server_ms), round_trip_ms)
    }

    #[test]
    fn skew_is_excessive_only_if_the_round_trip_does_not_explain_it() {
        for (asked_at_ms, server_ms, round_trip_ms, is_excessive) in [
            (10_000, 10_000, 0, false),
            (12_000, 10_000, 0, false),
            (12_001, 10_000, 0, true),
            (7_999, 10_000, 0, true),
            // The answer took four seconds, and the clocks may agree.
            (10_000, 14_000, 4_000, false),
            (10_000, 10_000, 4_000, false),
            (10_000, 16_100, 4_000, true),
        ] {
            let skew = skew(asked_at_ms, server_ms, round_trip_ms);
            assert_eq!(skew.is_excessive(), is_excessive, "{skew:?}");
        }
    }

    #[test]
    fn skew_is_shown_with_its_side() {
        assert_eq!(
            skew(3_610_000, 10_000, 0).to_string(),
            "3600.0 s ahead of the server's"
        );
        assert_eq!(
            skew(10_000, 12_500, 0).to_string(),
            "2.5 s behind the server's"
        );
    }
}
