//! Jobs of one concurrency key on many workers: how often a second they take one of its slots and release
//! it, and what the key costs jobs.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use super::super::own_server::OwnServer;
use super::super::process::{Bench, Worker};
use super::super::program::{JobProgram, payload};
use super::super::throughput::{Load, Throughput};
use super::super::{Args, median};
use super::{Row, Sides, job_count};
use crate::cli::exit::Failure;
use crate::cli::session::Session;
use crate::local_server::SyncInterval;
use naq_client::Client;
use naq_protocol::{JobId, QueueName, SlotHolder, UnknownFields};

/// Part of the jobs of a measurement that are run with the key: a job that finds no slot costs several others.
const JOBS_PART: u32 = 10;

/// Slots of each worker, so that the workers' slots are no more than the larger limit.
const SLOTS_EACH: usize = 4;

pub(super) async fn measure(
    session: &Session,
    args: &Args,
    workers: u32,
) -> Result<Vec<Row>, Failure> {
    let own = OwnServer::start(session, args, "key", SyncInterval::EverySecond).await?;
    let measured = compare(&own, workers).await;
    own.end(measured).await
}

async fn compare(own: &OwnServer, workers: u32) -> Result<Vec<Row>, Failure> {
    let bench = &own.bench;
    let mut clients = Vec::new();
    for _ in 0..workers {
        clients.push(own.connect().await?);
    }
    let mut rows = Vec::new();
    for limit in [4 * workers, workers] {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..bench.rounds {
            without.push(takes_per_s(bench, &clients[..1], limit).await?);
            with.push(takes_per_s(bench, &clients, limit).await?);
        }
        rows.push(Row::new(
            format!(
                "slots of a key of limit {limit} taken and released: by {workers} workers : by one"
            ),
            "takes/s",
            median(with),
            median(without),
        ));
    }
    let sides = jobs_with_key(bench, workers).await?;
    rows.push(sides.row(format!(
        "jobs on {workers} workers with one key of limit {} : without a key",
        4 * workers
    )));
    Ok(rows)
}

/// How often a second the clients together take a slot and release it. Each client does so for as many jobs at
/// once as it has slots, up to its part of the limit.
async fn takes_per_s(bench: &Bench, clients: &[Client], limit: u32) -> Result<f64, Failure> {
    let key = format!("bench-{limit}");
    let until = Instant::now() + Duration::from_secs_f64(bench.seconds / 2.0);
    let takes = |client: Client| {
        let (key, queue) = (&key, &bench.queue);
        async move {
            let mut count = 0_u32;
            while count == 0 || Instant::now() < until {
                take_and_release(&client, key, queue, limit).await?;
                count += 1;
            }
            Ok::<u32, Failure>(count)
        }
    };
    let begun = Instant::now();
    let each = (limit as usize / clients.len()).clamp(1, SLOTS_EACH);
    let jobs = clients
        .iter()
        .flat_map(|client| std::iter::repeat_n(client.clone(), each));
    let counts = try_join_all(jobs.map(takes)).await?;
    Ok(f64::from(counts.into_iter().sum::<u32>()) / begun.elapsed().as_secs_f64())
}

async fn take_and_release(
    client: &Client,
    key: &str,
    queue: &QueueName,
    limit: u32,
) -> Result<(), Failure> {
    let holder = SlotHolder {
        job: JobId::generate(),
        queue: queue.clone(),
        sequence: 1,
        unknown: UnknownFields::default(),
    };
    let broker = client.broker();
    // fewer take slots at once than there are
    if !broker.acquire_slot(key, limit, &holder).await? {
        return Err(Failure::general(format!("no slot of {key} is free")));
    }
    Ok(broker.release_slot(key, &holder.job).await?)
}

/// Jobs with a key and without one, on the same workers.
async fn jobs_with_key(bench: &Bench, workers: u32) -> Result<Sides, Failure> {
    let started = (0..workers).map(|_| bench.worker(SLOTS_EACH));
    let workers_of_bench: Vec<Worker> = try_join_all(started).await?;
    let plain = JobProgram::usual().envelope();
    let mut keyed = plain.clone();
    keyed.concurrency_key = Some("bench-jobs".to_owned());
    keyed.concurrency_max = Some(4 * workers);
    let load = Load {
        workers: &workers_of_bench,
        queues: std::slice::from_ref(&bench.queue),
    };
    let run = async |envelope| -> Result<Throughput, Failure> {
        let payload = payload(envelope)?;
        let count = (job_count(bench) / JOBS_PART).max(20);
        load.run(bench, count, |_| payload.clone()).await
    };
    let mut sides = Sides::default();
    for _ in 0..bench.rounds {
        sides.without.push(run(&plain).await?);
        sides.with.push(run(&keyed).await?);
    }
    for worker in workers_of_bench {
        worker.end().await;
    }
    Ok(sides)
}
