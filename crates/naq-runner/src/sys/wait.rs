//! Reaping with resource usage, which `nix` does not offer.
#![expect(unsafe_code, reason = "wait4 has no safe wrapper")]

use libc::c_int;
use nix::errno::Errno;

/// A reaped process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reaped {
    /// Its process id, which the system may reuse from now on.
    pub(crate) pid: c_int,
    /// Exit code, or the negated number of the signal that terminated it.
    pub(crate) status: i32,
    /// Largest resident set, in bytes, of it or a child it waited for.
    pub(crate) max_rss_bytes: u64,
    /// User CPU time of it and the children it waited for, in microseconds.
    pub(crate) user_us: u64,
    /// System CPU time of the same processes, in microseconds.
    pub(crate) system_us: u64,
}

/// The outcome of [`reap`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reap {
    /// A child that has ended.
    One(Reaped),
    /// Children exist, but none has ended.
    NoneEnded,
    /// No child exists.
    NoChildren,
}

/// Reaps any child that has ended, without waiting.
pub(crate) fn reap() -> Reap {
    let mut status: c_int = 0;
    // SAFETY: rusage is plain data, for which all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers refer to live locals.
        let pid = unsafe { libc::wait4(-1, &mut status, libc::WNOHANG, &mut usage) };
        if pid == 0 {
            return Reap::NoneEnded;
        }
        if pid < 0 {
            match Errno::last() {
                Errno::EINTR => continue,
                _ => return Reap::NoChildren,
            }
        }
        let status = if libc::WIFEXITED(status) {
            libc::WEXITSTATUS(status)
        } else {
            -libc::WTERMSIG(status)
        };
        let us = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
        return Reap::One(Reaped {
            pid,
            status,
            max_rss_bytes: usage.ru_maxrss as u64 * 1024,
            user_us: us(usage.ru_utime),
            system_us: us(usage.ru_stime),
        });
    }
}
