//! What time it is: by the wall, which someone may set, and since the machine was started.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

use naq_protocol::Timestamp;

/// Further off than anything here is waited for.
const FAR_OFF: Duration = Duration::from_secs(50 * 365 * 86_400);

/// The time of day, by which schedules go.
#[expect(clippy::disallowed_methods, reason = "time enters here")]
pub(super) fn now() -> Timestamp {
    SystemTime::now().into()
}

/// A time and a while after it.
pub(super) fn saturating_add(time: Timestamp, by: Duration) -> Timestamp {
    let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_unix_ms(time.unix_ms().saturating_add(by_ms)).unwrap_or(time)
}

/// A time and a while before it.
pub(super) fn saturating_sub(time: Timestamp, by: Duration) -> Timestamp {
    let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_unix_ms(time.unix_ms().saturating_sub(by_ms)).unwrap_or(time)
}

/// A time since the machine was started. Nobody sets this clock, and it runs on while the machine
/// sleeps, so what was promised for some seconds is over after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BootInstant(Duration);

impl BootInstant {
    pub(super) fn now() -> BootInstant {
        let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
        // a kernel without this clock is older than any that naq runs on
        BootInstant(time.map(Duration::from).unwrap_or_default())
    }

    pub(super) fn after(self, span: Duration) -> BootInstant {
        BootInstant(self.0 + span)
    }

    /// How long it is since then.
    pub(super) fn elapsed(self) -> Duration {
        BootInstant::now().0.saturating_sub(self.0)
    }

    /// How long it is from now until then; nothing where it has passed.
    pub(super) fn remaining(self) -> Duration {
        self.0.saturating_sub(BootInstant::now().0)
    }
}

/// Tells when the time of day was set.
pub(super) struct ClockWatch {
    timer: TimerFd,
    /// The same timer, to be waited for.
    ready: AsyncFd<OwnedFd>,
}

impl ClockWatch {
    pub(super) fn new() -> io::Result<ClockWatch> {
        let timer = TimerFd::new(
            ClockId::CLOCK_REALTIME,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        arm(&timer)?;
        let ready = naq_runner::register_readable(timer.as_fd().try_clone_to_owned()?)?;
        Ok(ClockWatch { timer, ready })
    }

    /// Waits until the time of day is set, by someone or by waking from sleep. Cancel safe.
    pub(super) async fn was_set(&self) {
        loop {
            let Ok(mut guard) = self.ready.readable().await else {
                return std::future::pending().await;
            };
            // the kernel cancels the timer when the clock is set: the read fails with that
            let cancelled = guard.try_io(|_| self.timer.wait().map_err(io::Error::from));
            if cancelled.is_ok() && arm(&self.timer).is_ok() {
                return;
            }
        }
    }
}

/// Sets a timer that will not go off but for the clock being set.
fn arm(timer: &TimerFd) -> io::Result<()> {
    let at = now().unix_ms().unsigned_abs();
    let far_off = Duration::from_millis(at) + FAR_OFF;
    timer.set(
        Expiration::OneShot(TimeSpec::from_duration(far_off)),
        TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET,
    )?;
    Ok(())
}
