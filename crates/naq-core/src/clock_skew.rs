//! How far a clock is from the server's, and whether that is too far to compute times by it.

use std::fmt;
use std::time::Duration;

use naq_protocol::Timestamp;

/// How far the clock of a leading scheduler may be from the server's.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(2);

/// How far the wall clock is ahead of the server's, or behind it if negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSkew {
    ahead_ms: i64,
    /// How long the answer took. The skew is uncertain by half of it.
    round_trip_ms: i64,
}

impl ClockSkew {
    /// The skew by one request: the wall clock when it was sent, the server's clock in the answer, and
    /// the time between request and answer, within which the server has read its clock.
    #[must_use]
    pub fn new(asked_at: Timestamp, server: Timestamp, round_trip: Duration) -> ClockSkew {
        let round_trip_ms = millis(round_trip);
        ClockSkew {
            ahead_ms: asked_at.unix_ms() + round_trip_ms / 2 - server.unix_ms(),
            round_trip_ms,
        }
    }

    /// A skew that was measured earlier, in milliseconds; negative if the clock is behind.
    #[must_use]
    pub fn from_ahead_ms(ahead_ms: i64) -> ClockSkew {
        ClockSkew {
            ahead_ms,
            round_trip_ms: 0,
        }
    }

    /// Milliseconds by which the clock is ahead of the server's; negative if it is behind.
    #[must_use]
    pub fn ahead_ms(self) -> i64 {
        self.ahead_ms
    }

    /// Whether the clock is more than [`CLOCK_SKEW_MAX`] from the server's, whatever the round trip hides.
    #[must_use]
    pub fn is_excessive(self) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn skew(asked_at_ms: i64, server_ms: i64, round_trip_ms: u64) -> ClockSkew {
        let at = |ms| Timestamp::from_unix_ms(ms).unwrap();
        let round_trip = Duration::from_millis(round_trip_ms);
        ClockSkew::new(at(asked_at_ms), at(server_ms), round_trip)
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
