//! Limits that the kernel enforces by a signal: distinguishes its signals from others.

use naq_core::AttemptEnd;
use naq_protocol::units::ByteSize;
use naq_runner::{ResourceLimits, Termination, Usage};

/// What a shell adds to the signal of a program to make an exit code.
const SHELL_SIGNAL_BASE: i32 = 128;

/// A limit whose signal ended a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HitLimit {
    CpuTime(u64),
    FileSize(u64),
}

/// The end of an attempt whose first process ended because of a limit on CPU time or file size, with
/// an explanation. `None` if no such limit ended it.
///
/// `SIGXCPU` comes from the limit if the job has one and used half as much CPU time or more; so does
/// the `SIGKILL` that the kernel sends a second later to a process that ignores it, if the job used
/// three quarters. The kernel limits by the time of its clock ticks, which on a busy machine is more
/// than the exact time that it reports. `SIGXFSZ` comes from the limit
/// if the job has one. A shell that reports the signal of its child by its exit code has ended by
/// itself: the reason stays the exit code, and only the explanation names the limit.
pub(super) fn limit_end(
    end: &Termination,
    limits: &ResourceLimits,
    usage: &Usage,
) -> Option<(AttemptEnd, String)> {
    match *end {
        Termination::Signalled(signal) => {
            let hit = hit_limit(signal, limits, usage)?;
            let (end, limit) = match hit {
                HitLimit::CpuTime(_) => (AttemptEnd::CpuTimeExceeded, hit.describe()),
                HitLimit::FileSize(_) => (AttemptEnd::FileSizeExceeded, hit.describe()),
            };
            Some((end, format!("it {limit} and was stopped")))
        }
        Termination::Exited(code) => {
            let hit = hit_limit(code - SHELL_SIGNAL_BASE, limits, usage)?;
            let limit = hit.describe();
            Some((
                AttemptEnd::Exited(code),
                format!("a process that it started {limit} and was stopped"),
            ))
        }
        Termination::NotStarted(_) | Termination::SpawnerDied { .. } => None,
    }
}

impl HitLimit {
    fn describe(self) -> String {
        match self {
            HitLimit::CpuTime(seconds) => format!("used up its CPU time limit of {seconds}s"),
            HitLimit::FileSize(bytes) => format!(
                "wrote a file up to its file size limit of {}",
                ByteSize(bytes)
            ),
        }
    }
}

fn hit_limit(signal: i32, limits: &ResourceLimits, usage: &Usage) -> Option<HitLimit> {
    match signal {
        libc::SIGXFSZ => limits.file_size_bytes.map(HitLimit::FileSize),
        libc::SIGXCPU | libc::SIGKILL => {
            let seconds = limits.cpu_time_s?;
            let used_ms = usage.cpu_user_ms + usage.cpu_system_ms;
            let limit_ms = seconds.saturating_mul(1_000);
            let used_ms_min = match signal {
                libc::SIGKILL => limit_ms.saturating_add(1_000) / 4 * 3,
                _ => limit_ms / 2,
            };
            (used_ms >= used_ms_min).then_some(HitLimit::CpuTime(seconds))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(end: Termination, used_ms: u64) -> Option<AttemptEnd> {
        let limits = ResourceLimits {
            cpu_time_s: Some(1),
            file_size_bytes: Some(4_096),
            ..ResourceLimits::default()
        };
        let usage = Usage {
            cpu_user_ms: used_ms,
            ..Usage::default()
        };
        limit_end(&end, &limits, &usage).map(|(end, _)| end)
    }

    #[test]
    fn signals_of_limits_are_distinguished_from_others() {
        use Termination::{Exited, Signalled};
        let cpu_time = Some(AttemptEnd::CpuTimeExceeded);
        assert_eq!(end(Signalled(libc::SIGXCPU), 1_004), cpu_time);
        // on a busy machine
        assert_eq!(end(Signalled(libc::SIGXCPU), 869), cpu_time);
        // sent by someone else
        assert_eq!(end(Signalled(libc::SIGXCPU), 20), None);
        // SIGXCPU was ignored
        assert_eq!(end(Signalled(libc::SIGKILL), 2_004), cpu_time);
        assert_eq!(end(Signalled(libc::SIGKILL), 1_200), None);
        assert_eq!(
            end(Signalled(libc::SIGXFSZ), 0),
            Some(AttemptEnd::FileSizeExceeded)
        );
        let by_shell = AttemptEnd::Exited(128 + libc::SIGXFSZ);
        assert_eq!(end(Exited(128 + libc::SIGXFSZ), 0), Some(by_shell));
        assert_eq!(end(Exited(1), 5_000), None);
    }

    #[test]
    fn without_a_limit_a_signal_is_a_signal() {
        let none = ResourceLimits::default();
        for signal in [libc::SIGXCPU, libc::SIGXFSZ, libc::SIGKILL] {
            let end = Termination::Signalled(signal);
            assert_eq!(limit_end(&end, &none, &Usage::default()), None);
        }
    }
}
