//! The clocks by which workers and schedulers go: the wall clock, which anyone may set, and the
//! time since the machine was booted, by which leases expire.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

use naq_protocol::Timestamp;

pub(crate) use naq_runner::BootInstant;

/// Further away than any time that is waited for here.
const FAR_OFF: Duration = Duration::from_secs(50 * 365 * 86_400);

/// The wall clock: for schedules, records and people, never to measure time with.
#[expect(
    clippy::disallowed_methods,
    reason = "the binary is the edge where time enters"
)]
pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}

/// `by` after `time`, or `time` itself if that is no valid timestamp.
pub(crate) fn saturating_add(time: Timestamp, by: Duration) -> Timestamp {
    let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_unix_ms(time.unix_ms().saturating_add(by_ms)).unwrap_or(time)
}

/// `by` before `time`, or `time` itself if that is no valid timestamp.
pub(crate) fn saturating_sub(time: Timestamp, by: Duration) -> Timestamp {
    let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_unix_ms(time.unix_ms().saturating_sub(by_ms)).unwrap_or(time)
}

/// When a lease that the server granted stops being trusted here.
///
/// The server counts from when it handled the request, which is after the request was sent.
/// Counting from before the request, and for less than the server's own time, makes the holder
/// give up first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeaseExpiry(BootInstant);

impl LeaseExpiry {
    /// The expiry of a lease that is trusted for `trusted_for` from `requested_at`: the time
    /// just before the request for it was sent.
    pub(crate) fn new(requested_at: BootInstant, trusted_for: Duration) -> LeaseExpiry {
        LeaseExpiry(requested_at + trusted_for)
    }

    /// The point in time itself.
    pub(crate) fn at(self) -> BootInstant {
        self.0
    }

    pub(crate) fn has_passed(self) -> bool {
        BootInstant::now() >= self.0
    }

    /// The time left; zero once the lease has expired.
    pub(crate) fn remaining(self) -> Duration {
        self.0.duration_since(BootInstant::now())
    }
}

/// Reports when the wall clock is set, which the kernel does too when the machine resumes from
/// suspension.
pub(crate) struct ClockWatch {
    timer: TimerFd,
    /// A duplicate of the timer's descriptor, registered with the runtime.
    ready: AsyncFd<OwnedFd>,
}

impl ClockWatch {
    /// # Errors
    /// Returns the error of the kernel if it grants no timer.
    pub(crate) fn new() -> io::Result<ClockWatch> {
        let timer = TimerFd::new(
            ClockId::CLOCK_REALTIME,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        arm(&timer)?;
        let ready = naq_runner::register_readable(timer.as_fd().try_clone_to_owned()?)?;
        Ok(ClockWatch { timer, ready })
    }

    /// Waits until the wall clock is set or the machine resumes from suspension. Cancel safe.
    pub(crate) async fn was_set(&self) {
        loop {
            let Ok(mut guard) = self.ready.readable().await else {
                return std::future::pending().await;
            };
            // the kernel cancels the timer when the clock is set, and the read fails with that error
            let cancelled = guard.try_io(|_| self.timer.wait().map_err(io::Error::from));
            if cancelled.is_ok() && arm(&self.timer).is_ok() {
                return;
            }
        }
    }
}

/// Sets the timer so far into the future that it only fires because the clock is set.
fn arm(timer: &TimerFd) -> io::Result<()> {
    let at = now().unix_ms().unsigned_abs();
    let far_off = Duration::from_millis(at) + FAR_OFF;
    timer.set(
        Expiration::OneShot(TimeSpec::from_duration(far_off)),
        TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET,
    )?;
    Ok(())
}
