//! Processor time of processes, and how much of it a job costs which of them.

use std::fs;

use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// Length of the kernel's unit of a process's times in `/proc`, in microseconds: it counts in hundredths of
/// a second for programs, on every architecture that naq runs on.
const TICK_US: u64 = 10_000;

/// Processor time of what takes part in running jobs, in microseconds. A share that cannot be read is NaN,
/// and so is a sum that includes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct CpuTime {
    /// The workers themselves.
    pub(super) worker: f64,
    /// The spawners, and the first processes of their namespaces.
    pub(super) spawners: f64,
    /// nats-server. NaN if naq does not manage it.
    pub(super) server: f64,
    /// This process, which enqueues the jobs.
    pub(super) producer: f64,
    /// The processes of the jobs: what their spawners have waited for.
    pub(super) child: f64,
}

impl CpuTime {
    /// Reads what these workers, servers and this process have used so far.
    pub(super) fn read(workers: &[u32], servers: &[u32]) -> CpuTime {
        let spawners: Vec<u32> = workers.iter().flat_map(|pid| children(*pid)).collect();
        let inits = spawners.iter().flat_map(|pid| children(*pid));
        let keepers: Vec<u32> = spawners.iter().copied().chain(inits).collect();
        let sum = |pids: &[u32]| pids.iter().map(|pid| process_us(*pid)).sum();
        CpuTime {
            worker: sum(workers),
            spawners: sum(&keepers),
            server: if servers.is_empty() {
                f64::NAN
            } else {
                sum(servers)
            },
            producer: process_us(std::process::id()),
            child: keepers.iter().map(|pid| waited_for_us(*pid)).sum(),
        }
    }

    /// What was used since an earlier reading, for each of so many jobs.
    pub(super) fn per_job(self, before: CpuTime, jobs: u32) -> CpuTime {
        let jobs = f64::from(jobs.max(1));
        // `clamp` keeps NaN, which `max` would turn into 0
        let of = |share: fn(&CpuTime) -> f64| {
            (share(&self) - share(&before)).clamp(0.0, f64::INFINITY) / jobs
        };
        CpuTime {
            worker: of(|time| time.worker),
            spawners: of(|time| time.spawners),
            server: of(|time| time.server),
            producer: of(|time| time.producer),
            child: of(|time| time.child),
        }
    }

    /// What all processes but the jobs' used.
    pub(super) fn overhead(&self) -> f64 {
        self.worker + self.spawners + self.server + self.producer
    }

    /// What all processes used.
    pub(super) fn total(&self) -> f64 {
        self.overhead() + self.child
    }

    /// The median of each share.
    pub(super) fn median(times: &[CpuTime]) -> CpuTime {
        let of = |share: fn(&CpuTime) -> f64| super::median(times.iter().map(share).collect());
        CpuTime {
            worker: of(|time| time.worker),
            spawners: of(|time| time.spawners),
            server: of(|time| time.server),
            producer: of(|time| time.producer),
            child: of(|time| time.child),
        }
    }
}

/// Processor time of all threads of a process, ended ones included, in microseconds. NaN if the process
/// does not exist.
pub(super) fn process_us(pid: u32) -> f64 {
    let clock = || -> Option<ClockId> {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?);
        clock_getcpuclockid(pid).ok()
    };
    let time = clock().and_then(|clock| clock_gettime(clock).ok());
    time.map_or(f64::NAN, |time| {
        std::time::Duration::from(time).as_secs_f64() * 1e6
    })
}

/// Processor time of the children that a process has waited for, in microseconds, to the hundredth of a
/// second. NaN if it cannot be read.
fn waited_for_us(pid: u32) -> f64 {
    let ticks = || -> Option<u64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // the name of the program, in parentheses, may contain blanks
        let (_, fields) = stat.rsplit_once(')')?;
        let mut times = fields.split_whitespace().skip(13);
        let user: u64 = times.next()?.parse().ok()?;
        let system: u64 = times.next()?.parse().ok()?;
        Some(user + system)
    };
    #[expect(clippy::cast_precision_loss, reason = "a time of minutes")]
    let time = ticks().map_or(f64::NAN, |ticks| (ticks * TICK_US) as f64);
    time
}

/// The child processes of a process. A thread that has started some lists them.
pub(super) fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let lists = threads.into_iter().flatten().flatten();
    lists
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            let pids = list.split_whitespace().map(str::parse);
            pids.filter_map(Result::ok).collect::<Vec<u32>>()
        })
        .collect()
}

/// All descendants of a process.
pub(super) fn descendants(pid: u32) -> Vec<u32> {
    let mut found = children(pid);
    let mut at = 0;
    while let Some(next) = found.get(at) {
        found.extend(children(*next));
        at += 1;
    }
    found
}
