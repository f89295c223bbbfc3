//! Measures the spawn limit: how many processes per second this machine starts,
//! captures and reaps with nothing else around them. `naq bench` compares naq's own
//! rate with it.

use std::ffi::{CString, c_char};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::pipe2;

use super::sys::child::{ChildPlan, RLIMITS_MAX};
use super::sys::clone::Cloner;

/// The hidden first argument that runs [`spawn_limit_main`]:
/// `naq __spawn-limit START SECONDS PAUSE [NAME=VALUE…] -- PROGRAM [ARGUMENT…]`. START
/// is a time of [`monotonic`], so that several processes begin and end together. PAUSE
/// is how many seconds to wait between two processes. The
/// variables are the environment of the program, whose startup cost depends on it:
/// `LANG` alone makes `true` open a dozen files.
pub const SPAWN_LIMIT_ARGUMENT: &str = "__spawn-limit";

/// Time since a fixed moment that is the same for all processes of this machine.
#[must_use]
pub fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Starts a program repeatedly, one process at a time, in a session of its own and
/// with its output captured. After the given time, prints how often it did, the
/// processor time that all this took itself and the processes, and the median and the
/// 99th percentile of the time from the start to the end of one, all in microseconds.
/// Run several of these at once to measure with concurrency.
pub fn spawn_limit_main() -> ! {
    let mut args = std::env::args().skip(2);
    let mut number = || args.next().and_then(|text| text.parse::<f64>().ok());
    let (start, seconds, pause) = (number(), number(), number());
    let strings = |args: Vec<String>| -> Vec<CString> {
        args.into_iter()
            .filter_map(|arg| CString::new(arg).ok())
            .collect()
    };
    let env = strings(args.by_ref().take_while(|arg| arg != "--").collect());
    let argv = strings(args.collect());
    let (Some(start), Some(seconds), Some(pause), false) = (start, seconds, pause, argv.is_empty())
    else {
        std::process::exit(64);
    };
    let times = Times {
        start: Duration::from_secs_f64(start),
        length: Duration::from_secs_f64(seconds),
        pause: Duration::from_secs_f64(pause),
    };
    match measure(&times, &env, &argv) {
        Ok(line) => {
            let written = std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes());
            std::process::exit(i32::from(written.is_err()));
        }
        Err(_) => std::process::exit(71),
    }
}

/// When to start processes.
struct Times {
    /// A time of [`monotonic`].
    start: Duration,
    length: Duration,
    pause: Duration,
}

/// Maximum number of processes whose duration is kept: enough for percentiles, and small.
const DURATIONS_MAX: usize = 200_000;

/// Measures, and returns the line to print.
fn measure(times: &Times, env: &[CString], argv: &[CString]) -> Result<String, Errno> {
    let cpu_us = |who| -> Result<i64, Errno> {
        let usage = getrusage(who)?;
        let used = usage.user_time() + usage.system_time();
        Ok(used.num_microseconds())
    };
    let both = || {
        Ok([
            cpu_us(UsageWho::RUSAGE_SELF)?,
            cpu_us(UsageWho::RUSAGE_CHILDREN)?,
        ])
    };
    std::thread::sleep(times.start.saturating_sub(monotonic()));
    let before = both()?;
    let (count, mut durations_us) = start_processes(times, env, argv)?;
    let after = both()?;
    durations_us.sort_unstable();
    let quantile = |hundredths: usize| {
        let at = durations_us.len() * hundredths / 100;
        let value = durations_us.get(at).or(durations_us.last());
        value.copied().unwrap_or_default()
    };
    let [parent, child] = [0, 1].map(|at| after[at] - before[at]);
    let (p50, p99) = (quantile(50), quantile(99));
    Ok(format!("{count} {parent} {child} {p50} {p99}\n"))
}

/// Starts processes one after another. Returns how many, and how long each took in microseconds.
fn start_processes(
    times: &Times,
    env: &[CString],
    argv: &[CString],
) -> Result<(u64, Vec<u32>), Errno> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    let mut cloner = Cloner::new()?;
    let pointers = |list: &[CString]| -> Vec<*const c_char> {
        list.iter()
            .map(|string| string.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let candidates = pointers(&argv[..1]);
    let mut arguments = pointers(argv);
    let environment = pointers(env);
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let mut rlimits = [(0, none); RLIMITS_MAX];
    rlimits[0].0 = libc::RLIMIT_CORE as i32;
    // as much as a pipe holds
    let mut buffer = vec![0; 64 << 10];
    let mut count = 0;
    let mut durations_us = Vec::new();
    while count == 0 || monotonic() < times.start + times.length {
        let begun = monotonic();
        let (stdout, their_stdout) = pipe2(OFlag::O_CLOEXEC)?;
        let (stderr, their_stderr) = pipe2(OFlag::O_CLOEXEC)?;
        let mut plan = ChildPlan {
            own_keyring: false,
            parent: std::process::id() as i32,
            mounts: (-1, -1),
            rlimits,
            rlimits_len: 1,
            nice: 0,
            cgroup_procs: -1,
            user: None,
            ruleset: -1,
            cwd: c"/".as_ptr(),
            fds: [
                0,
                their_stdout.as_raw_fd(),
                their_stderr.as_raw_fd(),
                their_stderr.as_raw_fd(),
            ],
            candidates: candidates.as_ptr(),
            argv: arguments.as_mut_ptr(),
            named_by_path: false,
            socket: -1,
            envp: environment.as_ptr(),
            failed_step: 0,
            failed_errno: 0,
            failed_candidate: 0,
        };
        let pid = cloner.spawn(&mut plan, None)?;
        drop((their_stdout, their_stderr));
        for pipe in [stdout, stderr] {
            let mut pipe = std::fs::File::from(pipe);
            while pipe.read(&mut buffer).is_ok_and(|read| read > 0) {}
        }
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None)?;
        if plan.failed_step != 0 {
            return Err(Errno::from_raw(plan.failed_errno));
        }
        count += 1;
        if durations_us.len() < DURATIONS_MAX {
            let took = (monotonic() - begun).as_micros();
            durations_us.push(u32::try_from(took).unwrap_or(u32::MAX));
        }
        if !times.pause.is_zero() {
            std::thread::sleep(times.pause);
        }
    }
    Ok((count, durations_us))
}
