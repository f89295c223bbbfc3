//! Measures what grows: the same work with much of something and with little or none of it, interleaved in
//! one run, each on servers of its own.

mod concurrency_key;
mod followers;
mod labels;
mod output;
mod queues;
mod records;
mod schedules;
mod servers;

use clap::ValueEnum;

use super::cpu::CpuTime;
use super::process::{Bench, JOBS_PER_S, Worker};
use super::program::JobProgram;
use super::throughput::{Load, Throughput};
use super::{Args, figure, median, show};
use crate::cli::exit::Failure;
use crate::cli::session::Session;
use naq_protocol::QueueName;
use naq_protocol::units::ByteSize;

/// Slots of the workers that run jobs.
const SLOTS: usize = 16;

/// What to measure, and with how much.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct GrowthArgs {
    /// What to measure [default: everything]
    #[arg(value_name = "WHAT", value_enum)]
    what: Vec<Subject>,
    /// Number of queues with jobs, compared with one
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    queues: u32,
    /// Size of each job's output, compared with none
    #[arg(long, value_name = "SIZE", default_value = "64K")]
    output: ByteSize,
    /// Number of processes that follow all events, compared with none
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=250))]
    followers: u32,
    /// Number of records that `naq jobs --state failed` searches in vain, compared with none
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    records: u32,
    /// Number of lines of a file of schedules that is applied, compared with one
    #[arg(long, value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    lines: u32,
    /// Number of workers that share a concurrency key, compared with one
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..=100))]
    workers: u32,
    /// Number of label sets that jobs of one queue require, compared with none
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    label_sets: u32,
    /// Number of servers, each with a copy of everything, compared with one
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=5))]
    servers: u32,
}

/// What may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// Jobs of many queues on one worker
    Queues,
    /// Jobs that print much
    Output,
    /// Processes that follow all events while jobs run
    Followers,
    /// Records that a search for failed jobs reads
    Records,
    /// Memory of `naq schedule apply`
    Schedules,
    /// Workers that share a concurrency key
    Key,
    /// Label sets that jobs require
    Labels,
    /// A server that forces every write to the disk
    Sync,
    /// Servers that each keep a copy
    Replicas,
}

pub(super) async fn run(
    session: &Session,
    args: &Args,
    growth: &GrowthArgs,
) -> Result<(), Failure> {
    let all = growth.what.is_empty();
    for subject in Subject::value_variants() {
        if !all && !growth.what.contains(subject) {
            continue;
        }
        let rows = match subject {
            Subject::Queues => queues::measure(session, args, growth.queues).await?,
            Subject::Output => output::measure(session, args, growth.output).await?,
            Subject::Followers => followers::measure(session, args, growth.followers).await?,
            Subject::Records => records::measure(session, args, growth.records).await?,
            Subject::Schedules => schedules::measure(session, args, growth.lines).await?,
            Subject::Key => concurrency_key::measure(session, args, growth.workers).await?,
            Subject::Labels => labels::measure(session, args, growth.label_sets).await?,
            Subject::Sync => servers::measure_sync(session, args).await?,
            Subject::Replicas => servers::measure_replicas(session, args, growth.servers).await?,
        };
        show_rows(session.json, *subject, &rows)?;
    }
    Ok(())
}

/// One comparison: the same figure with much of something, and without.
struct Row {
    /// What was measured, for people.
    what: String,
    unit: &'static str,
    with: f64,
    without: f64,
    /// Processor time of each job, of all processes together, in microseconds. NaN where no jobs run.
    cpu_us: [f64; 2],
}

impl Row {
    /// A comparison of something else than jobs.
    fn new(what: impl Into<String>, unit: &'static str, with: f64, without: f64) -> Row {
        Row {
            what: what.into(),
            unit,
            with,
            without,
            cpu_us: [f64::NAN; 2],
        }
    }
}

/// Measurements with much of something and without, one of each for each round.
#[derive(Default)]
struct Sides {
    with: Vec<Throughput>,
    without: Vec<Throughput>,
}

impl Sides {
    /// The comparison of their medians.
    fn row(&self, what: impl Into<String>) -> Row {
        let per_s = |side: &[Throughput]| median(side.iter().map(|one| one.per_s).collect());
        let cpu = |side: &[Throughput]| {
            let times: Vec<CpuTime> = side.iter().map(|one| one.cpu).collect();
            CpuTime::median(&times).total()
        };
        Row {
            cpu_us: [cpu(&self.with), cpu(&self.without)],
            ..Row::new(what, "jobs/s", per_s(&self.with), per_s(&self.without))
        }
    }
}

fn show_rows(json: bool, subject: Subject, rows: &[Row]) -> Result<(), Failure> {
    let name = subject.to_possible_value();
    let name = name
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default();
    let rows = rows.iter().map(|row| {
        // small numbers of seconds, and large ones of jobs
        let decimals = if row.with.min(row.without) < 100.0 {
            3
        } else {
            0
        };
        vec![
            name.clone(),
            row.what.clone(),
            row.unit.to_owned(),
            figure(row.with, decimals),
            figure(row.without, decimals),
            figure(row.with / row.without, 2),
            figure(row.cpu_us[0], 0),
            figure(row.cpu_us[1], 0),
        ]
    });
    let header = [
        "growth",
        "what",
        "unit",
        "with",
        "without",
        "ratio",
        "with_us_per_job",
        "without_us_per_job",
    ];
    show(json, "growth", &header, &rows.collect::<Vec<_>>())
}

/// As many jobs as a measurement runs.
fn job_count(bench: &Bench) -> u32 {
    bench.count_at(JOBS_PER_S, 20)
}

/// Runs the jobs of a measurement on this worker.
async fn run_on(
    bench: &Bench,
    worker: &Worker,
    queues: &[QueueName],
) -> Result<Throughput, Failure> {
    let payload = JobProgram::usual().payload()?;
    let load = Load {
        workers: std::slice::from_ref(worker),
        queues,
    };
    load.run(bench, job_count(bench), |_| payload.clone()).await
}

/// Runs the jobs of a measurement on a new worker of the bench's queue.
async fn run_on_new_worker(bench: &Bench) -> Result<Throughput, Failure> {
    let worker = bench.worker(SLOTS).await?;
    let measured = run_on(bench, &worker, std::slice::from_ref(&bench.queue)).await?;
    worker.end().await;
    Ok(measured)
}
