//! Measures jobs per second, from enqueue to stored result, and what a job costs each process, and compares
//! both with the rate at which this machine can start processes without naq.

use std::time::Duration;

use super::cpu::CpuTime;
use super::process::Bench;
use super::program::JobProgram;
use super::spawn_limit::SpawnLimit;
use super::throughput::{Load, Throughput};
use super::{figure, median, show};
use crate::cli::exit::Failure;
use crate::cli::render;

/// The part of the spawn limit by which it is estimated how many jobs fit into the time of a measurement.
const OF_LIMIT: f64 = 0.8;

/// A program at a number of slots, and what was measured.
struct Case {
    program: JobProgram,
    concurrency: usize,
    limits: Vec<SpawnLimit>,
    jobs: Vec<Throughput>,
}

pub(super) async fn run(bench: &Bench, concurrencies: &[usize]) -> Result<(), Failure> {
    let mut cases = cases(bench, concurrencies).await?;
    for _ in 0..bench.rounds {
        for case in &mut cases {
            let limit =
                SpawnLimit::measure(bench, case.concurrency, &case.program, Duration::ZERO).await?;
            case.limits.push(limit);
            let count = bench.count_at(limit.per_s * OF_LIMIT, 20);
            let jobs = run_jobs(bench, case.concurrency, count, &case.program).await?;
            case.jobs.push(jobs);
        }
    }
    show_rates(bench, &cases)?;
    show_cpu(bench, &cases)
}

/// The usual program at each number of slots, and a static one at the largest.
async fn cases(bench: &Bench, concurrencies: &[usize]) -> Result<Vec<Case>, Failure> {
    let case = |program: &JobProgram, concurrency: usize| Case {
        program: program.clone(),
        concurrency,
        limits: Vec::new(),
        jobs: Vec::new(),
    };
    let usual = JobProgram::usual();
    let mut cases: Vec<Case> = concurrencies
        .iter()
        .map(|slots| case(&usual, *slots))
        .collect();
    match JobProgram::nothing(bench).await? {
        Ok(nothing) => {
            let most = concurrencies.iter().copied().max().unwrap_or(1);
            cases.push(case(&nothing, most));
        }
        Err(reason) => render::note(format_args!(
            "without the row of a static program: {reason}"
        )),
    }
    Ok(cases)
}

/// Runs this many jobs on a new worker.
pub(super) async fn run_jobs(
    bench: &Bench,
    concurrency: usize,
    count: u32,
    program: &JobProgram,
) -> Result<Throughput, Failure> {
    let worker = bench.worker(concurrency).await?;
    let payload = program.payload()?;
    let load = Load {
        workers: std::slice::from_ref(&worker),
        queues: std::slice::from_ref(&bench.queue),
    };
    let measured = load.run(bench, count, |_| payload.clone()).await?;
    worker.end().await;
    Ok(measured)
}

fn show_rates(bench: &Bench, cases: &[Case]) -> Result<(), Failure> {
    let limit = |case: &Case| SpawnLimit::median(&case.limits).per_s;
    let row = |case: &Case| {
        let of_program = cases
            .iter()
            .filter(|one| one.program.name == case.program.name);
        let best = of_program.map(limit).fold(f64::NAN, f64::max);
        let rate = median(case.jobs.iter().map(|jobs| jobs.per_s).collect());
        vec![
            case.program.name.clone(),
            case.concurrency.to_string(),
            figure(limit(case), 0),
            figure(rate, 0),
            figure(rate / limit(case), 2),
            figure(rate / best, 2),
        ]
    };
    let header = [
        "program",
        "concurrency",
        "spawn_limit_per_s",
        "jobs_per_s",
        "of_limit",
        "of_best_limit",
    ];
    show(
        bench.json,
        "jobs",
        &header,
        &cases.iter().map(row).collect::<Vec<_>>(),
    )
}

fn show_cpu(bench: &Bench, cases: &[Case]) -> Result<(), Failure> {
    if bench.server_pids.is_empty() {
        render::note(
            "nats-server is not a managed one: its processor time, and the sums with it, are left out",
        );
    }
    let row = |case: &Case| {
        let limit = SpawnLimit::median(&case.limits);
        let cpu: Vec<CpuTime> = case.jobs.iter().map(|jobs| jobs.cpu).collect();
        let cpu = CpuTime::median(&cpu);
        let figures = [
            limit.total_us(),
            limit.child_us,
            limit.parent_us,
            cpu.total(),
            cpu.child,
            cpu.worker,
            cpu.spawners,
            cpu.server,
            cpu.producer,
            cpu.overhead(),
        ];
        let names = [case.program.name.clone(), case.concurrency.to_string()];
        let figures = figures.map(|microseconds| figure(microseconds, 0));
        let of_limit = figure(limit.total_us() / cpu.total(), 2);
        names.into_iter().chain(figures).chain([of_limit]).collect()
    };
    let header = [
        "program",
        "concurrency",
        "limit_us",
        "limit_child_us",
        "limit_parent_us",
        "naq_us",
        "child_us",
        "worker_us",
        "spawners_us",
        "server_us",
        "producer_us",
        "overhead_us",
        "of_limit",
    ];
    show(
        bench.json,
        "jobs cpu",
        &header,
        &cases.iter().map(row).collect::<Vec<_>>(),
    )
}
