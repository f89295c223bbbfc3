//! Before a worker pulls: the streams and consumers it needs, made if they are missing.

use std::time::Duration;

use super::options::WorkerConfig;
use naq_core::ExponentialBackoff;
use naq_jetstream::{
    Broker, BrokerError, CheckedConsumer, LeaseQuerySubscription, PullSubscription,
};
use naq_protocol::QueueName;

/// Pauses while servers elect a leader, or do not answer.
const START_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// Pauses before a removed queue is created again.
const RECREATE_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// Creates what the worker needs. Returns the name of its consumers and the shortest `ack_wait`
/// among them. Servers that are about to elect a leader do not answer: the requests are repeated.
///
/// # Errors
/// Returns the first error other than a timeout.
pub(super) async fn prepare(
    broker: &Broker,
    options: &WorkerConfig,
) -> Result<(String, Duration), BrokerError> {
    let mut failures = 0;
    loop {
        match prepare_once(broker, options).await {
            Err(error @ BrokerError::Timeout(_)) => {
                tracing::warn!("not ready yet, retrying: {error}");
            }
            done => return done,
        }
        failures += 1;
        tokio::time::sleep(START_BACKOFF.pause(failures, rand::random())).await;
    }
}

async fn prepare_once(
    broker: &Broker,
    options: &WorkerConfig,
) -> Result<(String, Duration), BrokerError> {
    broker.ensure_layout().await?;
    let mut ack_wait = options.ack_wait;
    if let (Some(job), Some(queue)) = (&options.single_job, options.queues.first()) {
        let consumer = broker.ensure_single_job_consumer(queue, job, ack_wait);
        return Ok((consumer.await?, ack_wait));
    }
    for queue in &options.queues {
        broker.ensure_queue(queue).await?;
        let of_queue = broker
            .adopt_worker_consumer(queue, options.ack_wait)
            .await?;
        ack_wait = ack_wait.min(of_queue);
    }
    log_replicas(broker);
    Ok((broker.names().worker_consumer(), ack_wait))
}

/// Logs how many servers keep a copy of the streams.
fn log_replicas(broker: &Broker) {
    let replicas = match broker.replica_summary().counts {
        Some((least, most)) if least < most => format!("{least} to {most}"),
        Some((least, _)) => least.to_string(),
        None => return,
    };
    tracing::info!(replicas, "streams and buckets are ready");
}

/// Subscribes to the questions about this worker's leases, with as many retries as it takes if the
/// server does not answer.
///
/// # Errors
/// Returns the first error other than a timeout.
pub(super) async fn subscribe_lease_queries(
    broker: &Broker,
    worker_id: &str,
) -> Result<LeaseQuerySubscription, BrokerError> {
    let mut failures = 0;
    loop {
        match broker.subscribe_lease_queries(worker_id).await {
            Err(error @ BrokerError::Timeout(_)) => {
                tracing::warn!("not ready yet, retrying: {error}");
            }
            done => return done,
        }
        failures += 1;
        tokio::time::sleep(START_BACKOFF.pause(failures, rand::random())).await;
    }
}

/// Opens the subscription by which jobs arrive. It has a connection of its own, so the server may
/// be gone although it answered a moment ago: then it is waited for, as it is later on.
///
/// # Errors
/// Returns the first error other than a failed connection.
pub(super) async fn open_pull_subscription(
    broker: &Broker,
    options: &WorkerConfig,
    consumer: &str,
) -> Result<PullSubscription, BrokerError> {
    let mut failures = 0;
    loop {
        match broker
            .open_pull_subscription(&options.queues, consumer)
            .await
        {
            Err(error @ BrokerError::Connect { .. }) => {
                tracing::warn!("not ready yet, retrying: {error}");
            }
            done => return done,
        }
        failures += 1;
        tokio::time::sleep(START_BACKOFF.pause(failures, rand::random())).await;
    }
}

/// Recreates a consumer if it can deliver nothing because the server has lost its stream's messages. Retries
/// a few times, since a server that has just started may not answer yet.
/// Returns what was found. `None` if the server did not say.
pub(super) async fn check_consumer(
    broker: &Broker,
    queue: &QueueName,
    consumer: &str,
) -> Option<CheckedConsumer> {
    const TRIES: u32 = 4;
    for failures in 1..=TRIES {
        match broker.recreate_stale_consumer(queue, consumer).await {
            Ok(checked) => return checked,
            Err(error) => {
                tracing::debug!(%queue, consumer, "cannot check the consumer: {error}");
                tokio::time::sleep(RECREATE_BACKOFF.pause(failures, rand::random())).await;
            }
        }
    }
    None
}

/// Creates a removed queue and one of its consumers again, with as many retries as it takes.
pub(super) async fn recreate_consumer(
    broker: &Broker,
    queue: &QueueName,
    consumer: &str,
    ack_wait: Duration,
) {
    let mut failures = 0;
    while let Err(error) = recreate_consumer_once(broker, queue, consumer, ack_wait).await {
        tracing::warn!(%queue, "cannot create the queue again, retrying: {error}");
        failures += 1;
        tokio::time::sleep(RECREATE_BACKOFF.pause(failures, rand::random())).await;
    }
}

async fn recreate_consumer_once(
    broker: &Broker,
    queue: &QueueName,
    consumer: &str,
    ack_wait: Duration,
) -> Result<(), BrokerError> {
    broker.ensure_queue(queue).await?;
    broker.adopt_worker_consumer(queue, ack_wait).await?;
    if let Some(route) = broker.names().route_of_consumer(consumer) {
        broker.ensure_route_consumer(queue, route).await?;
    }
    Ok(())
}
