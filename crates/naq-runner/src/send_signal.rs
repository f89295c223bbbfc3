//! Sends signals to processes from a listing. After the listing, a process can end and another one can get
//! its id: a job that forks endlessly uses all ids within a second. So this opens a descriptor of the process
//! and compares it with the listing before it sends the signal.

use std::os::fd::OwnedFd;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

/// Sends signals to a process if `is_listed` still returns true. A process that has ended gets none.
pub(super) fn send_signals(pid: i32, signals: &[Signal], is_listed: impl FnOnce() -> bool) {
    let Some(process) = open(pid) else { return };
    if !is_listed() {
        return;
    }
    for signal in signals {
        match &process {
            Process::Held(descriptor) => {
                let signal = rustix::process::Signal::from_named_raw(*signal as i32);
                if let Some(signal) = signal {
                    let _ = pidfd_send_signal(descriptor, signal);
                }
            }
            Process::Number(pid) => {
                let _ = kill(*pid, *signal);
            }
        }
    }
}

enum Process {
    /// A descriptor, which never refers to another process.
    Held(OwnedFd),
    /// A process id, on a kernel without such descriptors.
    Number(Pid),
}

/// `None` if the process has ended.
fn open(pid: i32) -> Option<Process> {
    let number = rustix::process::Pid::from_raw(pid)?;
    match pidfd_open(number, PidfdFlags::empty()) {
        Ok(descriptor) => Some(Process::Held(descriptor)),
        Err(rustix::io::Errno::SRCH) => None,
        // A kernel before 5.3, or no free descriptor: a kill must not fail for that.
        Err(_) => Some(Process::Number(Pid::from_raw(pid))),
    }
}
