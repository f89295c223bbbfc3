//! Pauses between attempts at an operation that fails: exponential, bounded, with jitter.

use std::time::Duration;

/// Pauses that double with each failure in a row, up to a maximum.
///
/// Jitter takes away up to half of a pause, so that processes that lost the same server do not
/// all come back to it in the same instant. This is naq's own retrying of requests and
/// connections; how a *job* is retried is up to its envelope, see [`retry_delay`](super::retry_delay).
///
/// ```
/// # use std::time::Duration;
/// # use naq_core::ExponentialBackoff;
/// let backoff = ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(2));
/// assert_eq!(backoff.pause(1, 1.0), Duration::from_millis(50));
/// assert_eq!(backoff.pause(2, 1.0), Duration::from_millis(100));
/// assert_eq!(backoff.pause(2, 0.0), Duration::from_millis(50));
/// assert_eq!(backoff.pause(1_000, 1.0), Duration::from_secs(2));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExponentialBackoff {
    first: Duration,
    max: Duration,
}

impl ExponentialBackoff {
    /// `first` is the longest pause after the first failure, `max` the longest after any.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> ExponentialBackoff {
        ExponentialBackoff { first, max }
    }

    /// The pause after failure number `failures` in a row (the first is 1), at least half of
    /// [`pause_max`](Self::pause_max) and at most all of it. `chance`, a random number in 0..1,
    /// chooses within that range.
    #[must_use]
    pub fn pause(&self, failures: u32, chance: f64) -> Duration {
        let whole = self.pause_max(failures);
        whole.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }

    /// The longest pause after failure number `failures` in a row (the first is 1).
    #[must_use]
    pub fn pause_max(&self, failures: u32) -> Duration {
        let factor = 2_u32.saturating_pow(failures.saturating_sub(1));
        self.first.saturating_mul(factor).min(self.max)
    }

    /// Whether the pauses have reached their maximum, which is when a failure that was worth a
    /// debug line becomes worth a warning.
    #[must_use]
    pub fn is_at_max(&self, failures: u32) -> bool {
        self.pause_max(failures) >= self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn backoff_doubles_up_to_its_maximum() {
        let backoff = ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let pauses: Vec<u128> = (0..=8).map(|n| backoff.pause_max(n).as_millis()).collect();
        assert_eq!(pauses, [50, 50, 100, 200, 400, 800, 1_600, 2_000, 2_000]);
        assert!(!backoff.is_at_max(6) && backoff.is_at_max(7) && backoff.is_at_max(u32::MAX));
    }

    proptest! {
        #[test]
        fn backoff_jitter_takes_away_half_at_most(failures: u32, chance in 0.0_f64..1.0, first_ms in 1_u64..10_000, max_ms in 1_u64..1_000_000) {
            let backoff = ExponentialBackoff::new(
                Duration::from_millis(first_ms),
                Duration::from_millis(max_ms),
            );
            let pause = backoff.pause(failures, chance);
            prop_assert!(pause <= backoff.pause_max(failures));
            prop_assert!(pause >= backoff.pause_max(failures) / 2);
            prop_assert!(pause <= Duration::from_millis(max_ms));
        }
    }
}
