//! Jobs of many queues on one worker, compared with jobs of one queue.

use super::super::Args;
use super::super::own_server::OwnServer;
use super::super::process::Bench;
use super::super::throughput::Throughput;
use super::{Row, SLOTS, Sides, run_on, run_on_new_worker};
use crate::cli::exit::Failure;
use crate::cli::session::Session;
use crate::local_server::SyncInterval;
use naq_client::QueueSettings;
use naq_protocol::QueueName;

pub(super) async fn measure(
    session: &Session,
    args: &Args,
    count: u32,
) -> Result<Vec<Row>, Failure> {
    let own = OwnServer::start(session, args, "queues", SyncInterval::EverySecond).await?;
    let measured = compare(&own.bench, count).await;
    let sides = own.end(measured).await?;
    Ok(vec![sides.row(format!(
        "{count} queues with jobs in all : one queue"
    ))])
}

async fn compare(bench: &Bench, count: u32) -> Result<Sides, Failure> {
    let names = (0..count).map(|at| QueueName::new(format!("{}-{at}", bench.queue)));
    let queues: Vec<QueueName> = names.collect::<Result<_, _>>()?;
    for queue in &queues {
        let queue = bench.client.queue(queue.as_str())?;
        queue.add(&QueueSettings::default()).await?;
    }
    let mut sides = Sides::default();
    for _ in 0..bench.rounds {
        sides.without.push(run_on_new_worker(bench).await?);
        sides.with.push(run_on_all(bench, &queues).await?);
    }
    Ok(sides)
}

async fn run_on_all(bench: &Bench, queues: &[QueueName]) -> Result<Throughput, Failure> {
    let worker = bench.worker_of(queues, SLOTS, &[]).await?;
    let measured = run_on(bench, &worker, queues).await?;
    worker.end().await;
    Ok(measured)
}
