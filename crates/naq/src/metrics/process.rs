//! The standard metrics of a process, read from the kernel for each scrape.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;

use super::handles::{Gauge, SecondsCounter};

/// The handles of these metrics.
pub(super) struct ProcessFigures {
    pub(super) cpu: SecondsCounter,
    pub(super) resident: Gauge,
    pub(super) open_fds: Gauge,
    pub(super) max_fds: Gauge,
}

/// The time, in seconds since the Unix epoch.
#[expect(
    clippy::disallowed_methods,
    reason = "the start of the process is shown, and nothing is decided by it"
)]
pub(super) fn unix_seconds() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or(Duration::ZERO).as_secs_f64()
}

impl ProcessFigures {
    /// Updates all of them. One that cannot be read keeps its value.
    pub(super) fn read(&self) {
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let cpu_us =
                usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
            let now = cpu_us as f64 / 1e6;
            self.cpu.inc_by((now - self.cpu.get()).max(0.0));
        }
        if let Some(kib) = resident_kib() {
            self.resident.set((kib << 10) as f64);
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            // one of the descriptors belongs to this listing
            self.open_fds.set(open.count().saturating_sub(1) as f64);
        }
        if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            self.max_fds.set(soft as f64);
        }
    }
}

/// Memory of this process in RAM, in KiB. `None` if the kernel does not show it.
pub(crate) fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}
