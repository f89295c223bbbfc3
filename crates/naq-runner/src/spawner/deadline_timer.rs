//! The timer that wakes the spawner at the earliest deadline of its jobs.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::super::boot_instant::BootInstant;

/// A timer by `CLOCK_BOOTTIME`, which counts the time that the machine is suspended: the timeout
/// of `poll` does not.
#[derive(Debug)]
pub(super) struct DeadlineTimer {
    timer: TimerFd,
    /// When it fires. `None` means never.
    armed: Option<BootInstant>,
}

impl DeadlineTimer {
    pub(super) fn new() -> Result<DeadlineTimer, Errno> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        Ok(DeadlineTimer {
            timer: TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?,
            armed: None,
        })
    }

    /// Makes the timer fire at `earliest` or before. It may fire early, since a timer that is set
    /// already is not set to a later time: most jobs end long before their deadline, and each
    /// would cost a system call.
    pub(super) fn arm(&mut self, earliest: Option<BootInstant>) {
        let Some(at) = earliest else { return };
        if self.armed.is_some_and(|armed| armed <= at) {
            return;
        }
        let expiration = Expiration::OneShot(TimeSpec::from_duration(at.since_boot()));
        let absolute = TimerSetTimeFlags::TFD_TIMER_ABSTIME;
        // The kernel refuses only invalid times, which a deadline cannot be.
        if self.timer.set(expiration, absolute).is_ok() {
            self.armed = Some(at);
        }
    }

    /// Disarms the timer after it has fired.
    pub(super) fn clear(&mut self) {
        let _ = self.timer.unset();
        self.armed = None;
    }
}

impl AsFd for DeadlineTimer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
