//! `spawn CONC SECS [CONTAINMENT] [spawners=N] -- PROG [ARG...]`: how many
//! processes a second the runner starts and captures, at a concurrency, for a
//! number of seconds. Prints one line of JSON. Without arguments (as `cargo
//! bench` calls it) it does nothing.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program"
)]

use std::time::{Duration, Instant};

use naq_runner::{Command, Program, Runner, RunnerConfig, Termination};

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let Some(split) = args.iter().position(|a| a == "--") else {
        return;
    };
    let (settings, program) = (&args[..split], &args[split + 1..]);
    let concurrency: usize = settings[0].parse().unwrap();
    let seconds: f64 = settings[1].parse().unwrap();
    let mut options = RunnerConfig::new(concurrency);
    options.spawner_program = Some(env!("CARGO_BIN_EXE_naq").into());
    for setting in &settings[2..] {
        match setting.strip_prefix("spawners=") {
            Some(n) => options.spawners = Some(n.parse().unwrap()),
            None => options.containment = Some(setting.parse().unwrap()),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let runner = Runner::start(options).await.unwrap();
        let program = Program::Path {
            program: program[0].clone(),
            args: program[1..].to_vec(),
        };
        let before = cpu_us();
        let started = Instant::now();
        let end = started + Duration::from_secs_f64(seconds);
        let mut slots = tokio::task::JoinSet::new();
        for _ in 0..concurrency {
            let (runner, program) = (runner.clone(), program.clone());
            slots.spawn(async move {
                let mut jobs: u64 = 0;
                while Instant::now() < end {
                    let job = runner.start_job(Command::new("bench", program.clone()));
                    let ended = job.wait().await;
                    assert_eq!(ended.end, Termination::Exited(0));
                    jobs += 1;
                }
                jobs
            });
        }
        let jobs: u64 = slots.join_all().await.into_iter().sum();
        let elapsed = started.elapsed().as_secs_f64();
        let worker_us = (cpu_us() - before) as f64 / jobs as f64;
        println!(
            "{{\"jobs_s\":{:.1},\"n\":{jobs},\"worker_us\":{worker_us:.1},\"containment\":\"{}\"}}",
            jobs as f64 / elapsed,
            runner.containment(),
        );
        runner.shutdown().await;
    });
}

/// CPU time of this process so far, microseconds.
fn cpu_us() -> i64 {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
}
