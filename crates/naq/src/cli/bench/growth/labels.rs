//! Jobs of one queue that require many label sets, compared with jobs that require none: how many sets are
//! served, and how fast.

use std::time::{Duration, Instant};

use super::super::Args;
use super::super::cpu::CpuTime;
use super::super::own_server::OwnServer;
use super::super::process::{Bench, Worker};
use super::super::program::{JobProgram, payload};
use super::super::throughput::{Load, Throughput, wait_until_empty};
use super::{Row, SLOTS, Sides, job_count};
use crate::cli::exit::Failure;
use crate::cli::session::Session;
use crate::local_server::SyncInterval;

/// Time without the end of any job after which the sets of the remaining jobs count as not served.
const STALLED_MAX: Duration = Duration::from_secs(20);

pub(super) async fn measure(
    session: &Session,
    args: &Args,
    sets: u32,
) -> Result<Vec<Row>, Failure> {
    let own = OwnServer::start(session, args, "labels", SyncInterval::EverySecond).await?;
    let measured = compare(&own.bench, sets).await;
    own.end(measured).await
}

async fn compare(bench: &Bench, sets: u32) -> Result<Vec<Row>, Failure> {
    let labels = (0..sets).map(|at| format!("--label={}=yes", label(at)));
    let labels: Vec<String> = labels.collect();
    let queue = std::slice::from_ref(&bench.queue);
    let worker = bench.worker_of(queue, SLOTS, &labels).await?;
    let plain = JobProgram::usual().payload()?;
    let jobs = job_count(bench).max(sets).next_multiple_of(sets);
    let load = Load {
        workers: std::slice::from_ref(&worker),
        queues: queue,
    };
    let mut sides = Sides::default();
    let mut served = f64::from(sets);
    for _ in 0..bench.rounds {
        let without = load.run(bench, jobs, |_| plain.clone()).await?;
        sides.without.push(without);
        let (with, unserved) = run_with_sets(bench, &worker, jobs, sets).await?;
        sides.with.push(with);
        // a set that is not served leaves all its jobs
        served = served.min(f64::from(sets) - unserved / f64::from(jobs / sets));
        bench.client.queue(bench.queue.as_str())?.purge().await?;
    }
    worker.end().await;
    Ok(vec![
        sides.row(format!("{sets} label sets of one queue : none")),
        Row::new(
            format!("label sets of one queue: served : required by jobs, of {sets}"),
            "sets",
            served,
            f64::from(sets),
        ),
    ])
}

/// Runs jobs that require these sets in turn. Returns how many jobs were left.
async fn run_with_sets(
    bench: &Bench,
    worker: &Worker,
    jobs: u32,
    sets: u32,
) -> Result<(Throughput, f64), Failure> {
    let mut payloads = Vec::new();
    for at in 0..sets {
        let mut envelope = JobProgram::usual().envelope();
        envelope.requires.insert(label(at), "yes".to_owned());
        payloads.push(payload(&envelope)?);
    }
    let workers = [worker.pid];
    let before = CpuTime::read(&workers, &bench.server_pids);
    let begun = Instant::now();
    let load = Load {
        workers: std::slice::from_ref(worker),
        queues: std::slice::from_ref(&bench.queue),
    };
    load.enqueue(bench, jobs, |at| payloads[(at % sets) as usize].clone())
        .await?;
    let left = wait_until_empty(bench, &bench.queue, STALLED_MAX).await?;
    let unserved = u32::try_from(left.messages).unwrap_or(jobs).min(jobs);
    let seconds = (left.changed_at - begun).as_secs_f64();
    let ended = jobs - unserved;
    let throughput = Throughput {
        per_s: f64::from(ended) / seconds,
        cpu: CpuTime::read(&workers, &bench.server_pids).per_job(before, ended),
    };
    Ok((throughput, f64::from(unserved)))
}

/// The name of a label. Each set has one.
fn label(at: u32) -> String {
    format!("set-{at}")
}
