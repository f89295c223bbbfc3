//! `naq bench`: measures naq's rates, and in the same run the rates that this machine can reach
//! without naq.
//!
//! Compared rates are measured alternately in the same run, and the median of the rounds is shown,
//! because figures from different runs on a shared machine are not comparable.
//!
//! Of all verbs only this one uses the connection below the client: to publish without naq's checks,
//! to read messages with the time at which the server stored them, and to write schedules by the
//! hundred thousand.

mod cpu;
mod enqueue;
mod functions;
mod growth;
mod http;
mod job_times;
mod jobs;
mod latency;
mod memory;
mod own_server;
mod process;
mod program;
mod records;
mod schedule;
mod spawn_limit;
mod static_program;
mod throughput;
mod web;

use clap::Subcommand;

use super::exit::Failure;
use super::json::Measurement;
use super::render::{self, Column};
use super::session::Session;

/// Number of jobs of each pipelined enqueue: about as many as a measurement one by one enqueues, so that all
/// measurements fill the stream alike.
const ENQUEUED_JOBS: u32 = 50_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: Option<BenchVerb>,
    /// Number of rounds; the median is shown
    #[arg(long, global = true, value_name = "COUNT", default_value_t = 3)]
    rounds: usize,
    /// Approximate duration of each measurement, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 3.0)]
    seconds: f64,
}

#[derive(Debug, Subcommand)]
enum BenchVerb {
    /// Measure jobs per second, from enqueue to stored result, the processor time of each, and the spawn limit
    Jobs {
        /// Numbers of jobs that run at once, separated by commas
        #[arg(
            long,
            value_name = "COUNTS",
            value_delimiter = ',',
            default_value = "1,4,16,64"
        )]
        concurrency: Vec<usize>,
    },
    /// Measure enqueues per second, one by one and pipelined, and bare publishes
    Enqueue {
        /// Number of jobs of each pipelined measurement
        #[arg(long, value_name = "COUNT", default_value_t = ENQUEUED_JOBS, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
        jobs: u32,
    },
    /// Measure the time from enqueue to stored result on an idle worker, and a cold `naq enqueue`
    Latency,
    /// Measure how late ticks are enqueued, a burst of ticks, and a takeover by another scheduler
    Schedule {
        /// Number of schedules that are due at once, and are taken over
        #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
        schedules: u32,
    },
    /// Measure the memory of an idle worker, and of one whose job prints 10 GB
    Memory {
        /// Size of the job's output
        #[arg(long, value_name = "SIZE", default_value = "10G")]
        output: naq_protocol::units::ByteSize,
    },
    /// Measure the same work with much of something and with little: queues, output, followers, records …
    Growth(growth::GrowthArgs),
    /// Measure calls of Python and Node functions, in processes of their own and in warm ones
    Functions(functions::FunctionsArgs),
    /// Measure the dashboard with many records and open pages, on a server of its own
    Web(web::WebArgs),
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    if args.rounds == 0 || !(0.1..=600.0).contains(&args.seconds) {
        return Err(Failure::usage(
            "--rounds must be 1 or more and --seconds 0.1 to 600",
        ));
    }
    if matches!(
        args.what,
        Some(BenchVerb::Web(_) | BenchVerb::Growth(_) | BenchVerb::Functions(_))
    ) {
        show_machine(session.json, None)?;
    }
    match &args.what {
        Some(BenchVerb::Web(web)) => web::run(session, &args, *web).await?,
        Some(BenchVerb::Growth(growth)) => growth::run(session, &args, growth).await?,
        Some(BenchVerb::Functions(functions)) => functions::run(session, &args, functions).await?,
        _ => on_the_users_server(session, &args).await?,
    }
    Ok(0)
}

/// Runs the measurements that need no server of their own.
async fn on_the_users_server(session: &Session, args: &Args) -> Result<(), Failure> {
    let (client, managed) = session.connect_or_start().await?;
    let mut bench = process::Bench::start(session, client, args.rounds, args.seconds).await?;
    let server = managed
        .as_ref()
        .map(crate::local_server::ManagedServer::pid);
    bench.server_pids = server
        .and_then(|pid| pid.try_into().ok())
        .into_iter()
        .collect();
    show_machine(session.json, Some(bench.client.server()))?;
    let all = args.what.is_none();
    if let Some(BenchVerb::Jobs { concurrency }) = &args.what {
        jobs::run(&bench, concurrency).await?;
    } else if all {
        jobs::run(&bench, &[1, 4, 16, 64]).await?;
    }
    if let Some(BenchVerb::Enqueue { jobs }) = args.what {
        enqueue::run(&bench, jobs).await?;
    } else if all {
        enqueue::run(&bench, ENQUEUED_JOBS).await?;
    }
    if all || matches!(args.what, Some(BenchVerb::Latency)) {
        latency::run(&bench).await?;
    }
    if let Some(BenchVerb::Schedule { schedules }) = args.what {
        schedule::run(&bench, schedules).await?;
    } else if all {
        schedule::run(&bench, 100_000).await?;
    }
    if let Some(BenchVerb::Memory { output }) = &args.what {
        memory::run(&bench, output.0).await?;
    } else if all {
        memory::run(&bench, 10 << 30).await?;
    }
    bench.end().await
}

/// The median of measurements.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The quantile of measurements: the value below which the given part of them lies.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into a list of measurements"
    )]
    let at = ((values.len() as f64 * part) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// What a table has in place of a figure that could not be measured. JSON leaves its field out.
const ABSENT: &str = "-";

/// A figure with so many decimals.
fn figure(value: f64, decimals: usize) -> String {
    if value.is_finite() {
        format!("{value:.decimals$}")
    } else {
        ABSENT.to_owned()
    }
}

/// Prints figures as a table, or as JSON.
fn show(
    json: bool,
    name: &str,
    header: &[&'static str],
    rows: &[Vec<String>],
) -> Result<(), Failure> {
    if json {
        for row in rows {
            let mut figures = serde_json::Map::new();
            for (key, value) in header.iter().zip(row) {
                let value = match value.parse::<f64>() {
                    Ok(number) if number.is_finite() => serde_json::json!(number),
                    Ok(_) => continue,
                    Err(_) if value == ABSENT => continue,
                    Err(_) => serde_json::json!(value),
                };
                figures.insert((*key).to_owned(), value);
            }
            render::print_json(&Measurement {
                bench: name,
                figures,
            })?;
        }
    } else {
        let columns = header.iter().map(|title| Column::new(title));
        render::print_table(&columns.collect::<Vec<_>>(), rows)?;
        render::print_line("")?;
    }
    Ok(())
}

/// Prints with `--json` what the figures were measured on, so that a file of them says so.
///
/// `server` is absent where each measurement has a server of its own.
fn show_machine(json: bool, server: Option<String>) -> Result<(), Failure> {
    if !json {
        return Ok(());
    }
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let build = match cfg!(debug_assertions) {
        true => "debug",
        false => "release",
    };
    let figures: [(&str, serde_json::Value); 5] = [
        ("processors", processors.into()),
        ("architecture", std::env::consts::ARCH.into()),
        ("kernel", kernel.trim().into()),
        ("naq", env!("CARGO_PKG_VERSION").into()),
        ("build", build.into()),
    ];
    let server = server.map(|server| ("server", server.into()));
    let figures = figures.into_iter().chain(server);
    let figures = figures.map(|(name, value)| (name.to_owned(), value));
    Ok(render::print_json(&Measurement {
        bench: "machine",
        figures: figures.collect(),
    })?)
}
