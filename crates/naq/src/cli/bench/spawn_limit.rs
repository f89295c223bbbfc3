//! Measures how fast this machine can start processes without naq.

use std::time::Duration;

use super::process::Bench;
use super::program::JobProgram;
use crate::cli::exit::Failure;
use naq_runner::{SPAWN_LIMIT_ARGUMENT, monotonic};

/// How fast this machine starts, captures and reaps a program without naq.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpawnLimit {
    /// Processes a second.
    pub(super) per_s: f64,
    /// Processor time of each process, in microseconds.
    pub(super) child_us: f64,
    /// Processor time that starting and reading it takes its parent, in microseconds.
    pub(super) parent_us: f64,
    /// Time from the start to the end of a process, in milliseconds: the median and the 99th percentile of
    /// the slowest loop.
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

impl SpawnLimit {
    /// Measures it for the duration of a measurement with several loops at once, each of which starts one
    /// process after another, and waits for `pause` between two.
    pub(super) async fn measure(
        bench: &Bench,
        concurrency: usize,
        program: &JobProgram,
        pause: Duration,
    ) -> Result<SpawnLimit, Failure> {
        // Late enough that all loops have been started by then.
        let start = monotonic() + Duration::from_millis(300);
        let numbers = [start.as_secs_f64(), bench.seconds, pause.as_secs_f64()];
        let numbers = numbers.map(|number| number.to_string());
        let loops: Vec<_> = (0..concurrency)
            .map(|_| {
                let env = bench.job_env.iter().map(String::as_str);
                let mut args = vec![SPAWN_LIMIT_ARGUMENT];
                args.extend(numbers.iter().map(String::as_str));
                args.extend(env.chain(["--"]));
                args.extend(program.argv.iter().map(String::as_str));
                bench.spawn_naq(&args)
            })
            .collect();
        let mut sums = [0.0; 3];
        let mut times = [0.0_f64; 2];
        for one in loops {
            let ended = one.wait().await;
            let [count, parent, child, p50, p99] =
                numbers_of(&ended.stdout.head).ok_or_else(|| {
                    let program = &program.name;
                    Failure::general(format!(
                        "the loop that measures the spawn limit could not start {program}"
                    ))
                })?;
            for (sum, value) in sums.iter_mut().zip([count, parent, child]) {
                *sum += value;
            }
            times = [times[0].max(p50), times[1].max(p99)];
        }
        let [count, parent, child] = sums;
        Ok(SpawnLimit {
            per_s: count / bench.seconds,
            child_us: child / count,
            parent_us: parent / count,
            p50_ms: times[0] / 1e3,
            p99_ms: times[1] / 1e3,
        })
    }

    /// Processor time of parent and process, in microseconds.
    pub(super) fn total_us(&self) -> f64 {
        self.child_us + self.parent_us
    }

    /// The median of each figure.
    pub(super) fn median(limits: &[SpawnLimit]) -> SpawnLimit {
        let of =
            |figure: fn(&SpawnLimit) -> f64| super::median(limits.iter().map(figure).collect());
        SpawnLimit {
            per_s: of(|limit| limit.per_s),
            child_us: of(|limit| limit.child_us),
            parent_us: of(|limit| limit.parent_us),
            p50_ms: of(|limit| limit.p50_ms),
            p99_ms: of(|limit| limit.p99_ms),
        }
    }
}

/// The numbers of a line, if there are so many of them.
fn numbers_of<const COUNT: usize>(line: &[u8]) -> Option<[f64; COUNT]> {
    let line = str::from_utf8(line).ok()?;
    let numbers = line.split_whitespace().map(str::parse);
    let numbers: Vec<f64> = numbers.collect::<Result<_, _>>().ok()?;
    numbers.try_into().ok()
}
