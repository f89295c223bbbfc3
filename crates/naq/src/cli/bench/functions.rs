//! Measures calls of functions, in processes of their own and in warm ones: how many a second, how long one
//! takes on an idle worker, and the memory of the warm processes.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::cpu::{children, descendants};
use super::job_times::{JobTimes, between_ms};
use super::memory::pss_bytes;
use super::own_server::OwnServer;
use super::process::{Bench, PAUSE, Worker};
use super::program::payload;
use super::throughput::{Load, Throughput};
use super::{Args, figure, median, quantile, show};
use crate::cli::exit::Failure;
use crate::cli::render;
use crate::cli::session::Session;
use crate::local_server::SyncInterval;
use naq_client::JobFilter;
use naq_protocol::{Argument, Envelope, JobId, Record, State};
use naq_runner::Termination;

/// What to measure with.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct FunctionsArgs {
    /// Runners whose functions are called [default: all of these]
    #[arg(value_name = "RUNNER", value_parser = ["python", "node"])]
    runners: Vec<String>,
    /// Number of calls that run at once, and of warm processes
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    slots: u16,
}

/// The modules that are called: a function of some microseconds, so that a call costs what calling costs.
const MODULES: [(&str, &str); 2] = [
    (
        "bench_tasks.py",
        "import json\n\n\ndef count_words(text):\n    return len(text.split())\n",
    ),
    (
        "bench_tasks.mjs",
        "export const countWords = (text) => text.split(/\\s+/).length;\n",
    ),
];

/// What is counted.
const TEXT: &str = "the quick brown fox jumps over the lazy dog";

/// Time limit for warm processes to be ready.
const WARM_TIME_MAX: Duration = Duration::from_secs(60);

/// Number of calls at once by which it is estimated how many fit into the time of a measurement.
const CALLS_MIN: u32 = 16;

/// What a record says if a call ran in a process of its own although warm ones are kept.
const COLD_WARNING: &str = "and not in a warm one";

/// A way to call a function.
struct Way {
    name: &'static str,
    runner: &'static str,
    function: &'static str,
    /// The mode of its warm processes. `None` if each call gets a process of its own.
    mode: Option<&'static str>,
}

const WAYS: [Way; 7] = [
    way("python, cold", "python", None),
    way("python, warm by fork", "python", Some("fork")),
    way("python, warm by standby", "python", Some("standby")),
    way("python, warm by reuse", "python", Some("reuse")),
    way("node, cold", "node", None),
    way("node, warm by reuse", "node", Some("reuse")),
    way("node, warm by standby", "node", Some("standby")),
];

const fn way(name: &'static str, runner: &'static str, mode: Option<&'static str>) -> Way {
    let function = match runner.as_bytes() {
        b"python" => "bench_tasks:count_words",
        _ => "./bench_tasks.mjs:countWords",
    };
    Way {
        name,
        runner,
        function,
        mode,
    }
}

/// What was measured of one way.
#[derive(Default)]
struct Measured {
    per_s: Vec<f64>,
    cpu_us: Vec<f64>,
    latency_ms: Vec<f64>,
    /// Of these calls, from the claim to the stored outcome: what the worker takes.
    worker_ms: Vec<f64>,
    /// Memory of the warm processes, and of the worker with its spawners, in MiB.
    warm_mib: Vec<f64>,
    tree_mib: Vec<f64>,
    processes: usize,
}

pub(super) async fn run(
    session: &Session,
    args: &Args,
    functions: &FunctionsArgs,
) -> Result<(), Failure> {
    let own = OwnServer::start(session, args, "functions", SyncInterval::EverySecond).await?;
    let measured = measure(&own.bench, functions).await;
    own.end(measured).await
}

async fn measure(bench: &Bench, functions: &FunctionsArgs) -> Result<(), Failure> {
    let (slots, runners) = (functions.slots, &functions.runners);
    let mut ways = Vec::new();
    for way in WAYS {
        if !runners.is_empty() && !runners.iter().any(|runner| runner == way.runner) {
            continue;
        }
        let check = bench
            .spawn_naq(&["runner", "check", way.runner])
            .wait()
            .await;
        match check.end {
            Termination::Exited(0) => ways.push((way, Measured::default())),
            _ => render::note(format_args!("without {}: it does not run here", way.name)),
        }
    }
    let folder = write_files(bench)?;
    for _ in 0..bench.rounds {
        for (way, measured) in &mut ways {
            measure_way(bench, &folder, way, slots, measured).await?;
        }
    }
    show_rates(bench, slots, &mut ways)?;
    show_memory(bench, slots, &ways)
}

/// Writes the modules. Returns their folder.
fn write_files(bench: &Bench) -> Result<String, Failure> {
    let mut folder = String::new();
    for (name, source) in MODULES {
        let path = bench.file(name, source.as_bytes())?;
        folder = path.trim_end_matches(name).trim_end_matches('/').to_owned();
    }
    Ok(folder)
}

async fn measure_way(
    bench: &Bench,
    folder: &str,
    way: &Way,
    slots: u16,
    measured: &mut Measured,
) -> Result<(), Failure> {
    let mut options = vec![format!("--workdir={folder}")];
    if let Some(mode) = way.mode {
        options.push(format!("--warm={}:{mode}={slots}", way.runner));
    }
    if way.mode.is_some() && way.runner == "python" {
        options.push("--preload=bench_tasks".to_owned());
    }
    let queue = std::slice::from_ref(&bench.queue);
    let worker = bench.worker_of(queue, slots.into(), &options).await?;
    let call = envelope(way);
    if way.mode.is_some() {
        wait_until_warm(bench, &call, way).await?;
    }
    let payload = payload(&call)?;
    measured
        .latency_ms
        .extend(latencies(bench, &payload).await?);
    measured
        .worker_ms
        .extend(times_of_worker(bench, &payload).await?);
    if way.mode.is_some() {
        measure_memory(&worker, measured).await;
    }
    let throughput = throughput(bench, &worker, &payload).await?;
    measured.per_s.push(throughput.per_s);
    measured.cpu_us.push(throughput.cpu.total());
    worker.end().await;
    Ok(())
}

fn envelope(way: &Way) -> Envelope {
    let mut call = Envelope::command("", [] as [&str; 0]);
    call.command = None;
    call.function = Some(way.function.to_owned());
    call.runner = Some(way.runner.to_owned());
    call.args = vec![Argument::from(TEXT)];
    call
}

/// Calls until a call runs in a warm process.
async fn wait_until_warm(bench: &Bench, call: &Envelope, way: &Way) -> Result<(), Failure> {
    let queue = bench.client.queue(bench.queue.as_str())?;
    let begun = Instant::now();
    loop {
        let job = queue.enqueue(call).await?;
        let record: Record = bench.client.wait(&job).await?;
        if record.state() != State::Succeeded {
            let error = record.error.unwrap_or_default();
            return Err(Failure::general(format!(
                "{}: a call failed: {error}",
                way.name
            )));
        }
        let why_cold = record
            .warnings
            .iter()
            .find(|text| text.contains(COLD_WARNING));
        match why_cold {
            None => return Ok(()),
            Some(why) if begun.elapsed() >= WARM_TIME_MAX => {
                return Err(Failure::general(format!("{}: {why}", way.name)));
            }
            // a worker does not say when a process is ready
            Some(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// How long calls take on the idle worker, one at a time, in milliseconds.
async fn latencies(bench: &Bench, payload: &Bytes) -> Result<Vec<f64>, Failure> {
    let time = Duration::from_secs_f64(bench.seconds);
    let begun = Instant::now();
    let mut taken = Vec::new();
    while taken.is_empty() || begun.elapsed() < time {
        tokio::time::sleep(PAUSE).await;
        taken.push(bench.enqueue_to_result(payload).await?);
    }
    Ok(taken)
}

/// How long the idle worker takes for calls, one at a time, in milliseconds: from the claim to the stored outcome, by the
/// clock of the server.
async fn times_of_worker(bench: &Bench, payload: &Bytes) -> Result<Vec<f64>, Failure> {
    let queue = bench.client.queue(bench.queue.as_str())?;
    let mut events = bench.client.events(&JobFilter::default()).await?;
    let time = Duration::from_secs_f64(bench.seconds / 2.0);
    let begun = Instant::now();
    let mut taken = Vec::new();
    while taken.is_empty() || begun.elapsed() < time {
        tokio::time::sleep(PAUSE).await;
        let job = JobId::generate();
        queue.enqueue_new(job.clone(), payload.clone()).await?;
        let times = JobTimes::read(&mut events, &job).await?;
        taken.extend(between_ms(times.claimed, times.recorded));
    }
    Ok(taken)
}

/// Measures many calls at once: some first, to see how many fit into the time of a measurement.
async fn throughput(
    bench: &Bench,
    worker: &Worker,
    payload: &Bytes,
) -> Result<Throughput, Failure> {
    let load = Load {
        workers: std::slice::from_ref(worker),
        queues: std::slice::from_ref(&bench.queue),
    };
    let first = load.run(bench, CALLS_MIN, |_| payload.clone()).await?;
    let count = bench.count_at(first.per_s, CALLS_MIN);
    load.run(bench, count, |_| payload.clone()).await
}

/// Interval at which the warm processes are looked at until they change no more.
const SETTLE_INTERVAL: Duration = Duration::from_millis(100);

/// Number of intervals without a change after which all warm processes are ready: one that has run a call may have
/// ended, and its successor has still to load the modules.
const SETTLED_INTERVALS: u32 = 10;

/// Measures the memory of the warm processes, once they change no more.
async fn measure_memory(worker: &Worker, measured: &mut Measured) {
    let begun = Instant::now();
    let (mut seen, mut unchanged) = ((0, 0), 0);
    while unchanged < SETTLED_INTERVALS && begun.elapsed() < WARM_TIME_MAX {
        tokio::time::sleep(SETTLE_INTERVAL).await;
        let warm = warm_processes(worker);
        let now = (
            warm.len(),
            warm.iter().map(|pid| pss_bytes(*pid) >> 20).sum::<u64>(),
        );
        // until the first process has started there is nothing to measure
        unchanged = match now == seen && now.0 > 0 {
            true => unchanged + 1,
            false => 0,
        };
        seen = now;
    }
    let warm = warm_processes(worker);
    measured.processes = measured.processes.max(warm.len());
    let tree = descendants(worker.pid).into_iter().chain([worker.pid]);
    measured.tree_mib.push(mib(tree));
    measured.warm_mib.push(mib(warm.into_iter()));
}

/// The warm processes: what spawners have started that is not naq.
fn warm_processes(worker: &Worker) -> Vec<u32> {
    let spawners = children(worker.pid);
    let is_naq = |pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        spawners.contains(pid) || name.starts_with("naq")
    };
    let all = descendants(worker.pid).into_iter();
    all.filter(|pid| !is_naq(pid)).collect()
}

fn mib(pids: impl Iterator<Item = u32>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let bytes = pids.map(pss_bytes).sum::<u64>() as f64;
    bytes / f64::from(1 << 20)
}

fn show_rates(bench: &Bench, slots: u16, ways: &mut [(Way, Measured)]) -> Result<(), Failure> {
    let rows = ways.iter_mut().map(|(way, measured)| {
        vec![
            way.name.to_owned(),
            slots.to_string(),
            figure(median(measured.per_s.clone()), 0),
            figure(median(measured.cpu_us.clone()), 0),
            figure(quantile(&mut measured.latency_ms, 0.5), 2),
            figure(quantile(&mut measured.latency_ms, 0.99), 2),
            figure(quantile(&mut measured.worker_ms, 0.5), 2),
            figure(quantile(&mut measured.worker_ms, 0.99), 2),
        ]
    });
    let rows: Vec<_> = rows.collect();
    let header = [
        "function",
        "slots",
        "calls_per_s",
        "us_per_call",
        "p50_ms",
        "p99_ms",
        "worker_p50_ms",
        "worker_p99_ms",
    ];
    show(bench.json, "functions", &header, &rows)
}

fn show_memory(bench: &Bench, slots: u16, ways: &[(Way, Measured)]) -> Result<(), Failure> {
    let warm = ways.iter().filter(|(way, _)| way.mode.is_some());
    let rows = warm.map(|(way, measured)| {
        vec![
            way.name.to_owned(),
            slots.to_string(),
            measured.processes.to_string(),
            figure(median(measured.warm_mib.clone()), 1),
            figure(median(measured.tree_mib.clone()), 1),
        ]
    });
    let rows: Vec<_> = rows.collect();
    let header = [
        "warm",
        "slots",
        "processes",
        "processes_pss_mib",
        "worker_pss_mib",
    ];
    show(bench.json, "functions memory", &header, &rows)
}
