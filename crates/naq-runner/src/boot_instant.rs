//! Time since the machine was booted, by which deadlines of jobs are kept.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time by `CLOCK_BOOTTIME`. Nobody can set this clock, it is the same for all
/// processes of the machine, and unlike `Instant` it continues while the machine is suspended: a
/// lease of 30 seconds is over after 30 seconds, also on a laptop whose lid was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(Duration);

impl BootInstant {
    /// The current time.
    #[must_use]
    pub fn now() -> BootInstant {
        let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
        // a kernel without this clock is older than any that naq runs on
        BootInstant(time.map(Duration::from).unwrap_or_default())
    }

    /// The time from `earlier` to this; zero if `earlier` is later.
    #[must_use]
    pub fn duration_since(self, earlier: BootInstant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The time that has passed since then.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        BootInstant::now().duration_since(self)
    }

    /// The point in time this long after the machine was booted.
    #[must_use]
    pub fn after_boot(since_boot: Duration) -> BootInstant {
        BootInstant(since_boot)
    }

    /// The time since the machine was booted.
    #[must_use]
    pub fn since_boot(self) -> Duration {
        self.0
    }

    /// Nanoseconds since boot, as frames contain them.
    pub(super) fn to_nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX - 1)
    }

    pub(super) fn from_nanos(nanos: u64) -> BootInstant {
        BootInstant(Duration::from_nanos(nanos))
    }
}

impl Add<Duration> for BootInstant {
    type Output = BootInstant;

    fn add(self, by: Duration) -> BootInstant {
        BootInstant(self.0.saturating_add(by))
    }
}

impl Sub<Duration> for BootInstant {
    type Output = BootInstant;

    fn sub(self, by: Duration) -> BootInstant {
        BootInstant(self.0.saturating_sub(by))
    }
}
