//! Jobs that require labels: which sets of them this worker serves, and handing on what it does
//! not.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::attempt::{AttemptContext, Done, acknowledge, retry_while_leased};
use super::lease::MessageLease;
use super::{Report, WorkerConfig};
use naq_core::ExponentialBackoff;
use naq_jetstream::{
    Broker, BrokerError, Delivery, LabelRoute, LabelRouteEvent, failpoint, label_route_key,
};
use naq_protocol::{Envelope, QueueName, Record};

/// How many sets of labels a worker remembers to have registered; then it registers them anew.
const REGISTERED_ROUTES_MAX: usize = 1_024;

/// How many sets of labels a worker serves in one queue. Each costs a request every few seconds.
const ROUTES_PER_QUEUE_MAX: usize = 256;

/// Pauses before a request in the background is tried again.
pub(super) const RETRY_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// The sets this worker has registered, by queue and key.
#[derive(Default)]
pub(super) struct RegisteredRoutes(Mutex<HashSet<(QueueName, String)>>);

impl RegisteredRoutes {
    fn has(&self, route: &LabelRoute) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&(route.queue.clone(), route.key.clone()))
    }

    fn add(&self, route: &LabelRoute) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REGISTERED_ROUTES_MAX {
            known.clear();
        }
        known.insert((route.queue.clone(), route.key.clone()));
    }
}

/// A job's record as it was decided upon.
pub(super) struct RecordSnapshot {
    pub(super) present: Option<Box<Record>>,
    pub(super) revision: u64,
}

/// Hands a job on to workers that have the labels it requires: keeps what is to be kept of the
/// record, registers the set, publishes the envelope to it, acknowledges. `running` is the record
/// that would be written if it ran here.
///
/// None where the record has changed meanwhile: decide again.
pub(super) async fn reroute_by_labels(
    context: &AttemptContext,
    lease: &MessageLease,
    delivery: &Delivery,
    envelope: &Envelope,
    before: RecordSnapshot,
    running: Box<Record>,
) -> Option<Done> {
    let job_id = running.job_id.clone();
    if let Some(record) = naq_core::rerouted_record(before.present.as_deref(), running) {
        let revision = before.revision;
        match retry_while_leased(lease, || {
            context.broker.write_record(&record, revision, None)
        })
        .await
        {
            Ok(_) => {}
            Err(BrokerError::Conflict) => return None,
            Err(_) => return Some(Done::LeaseLost),
        }
    }
    let route = LabelRoute {
        queue: delivery.queue.clone(),
        key: label_route_key(&envelope.requires),
        labels: envelope.requires.clone(),
    };
    let broker = &context.broker;
    if !context.registered.has(&route) {
        if retry_while_leased(lease, || broker.register_label_route(&route))
            .await
            .is_err()
        {
            return Some(Done::LeaseLost);
        }
        context.registered.add(&route);
        failpoint("reroute.registered");
    }
    if retry_while_leased(lease, || {
        broker.reroute_by_labels(delivery, &job_id, &route.key)
    })
    .await
    .is_err()
    {
        return Some(Done::LeaseLost);
    }
    failpoint("reroute.published");
    tracing::debug!(%job_id, queue = %delivery.queue, "handed on to a worker that has the labels it requires");
    Some(acknowledge(lease, Done::NothingToRun).await)
}

/// Whether this worker has to look for jobs that require labels at all.
pub(super) fn serves_routes(options: &WorkerConfig) -> bool {
    !options.labels.is_empty() && options.single_job.is_none()
}

/// Finds the sets of labels that this worker has, now and as they are registered, and tells the
/// loop of the consumers to pull from.
pub(super) async fn watch_routes(context: Arc<AttemptContext>, reports: mpsc::Sender<Report>) {
    let mut served = HashSet::new();
    let mut failures = 0;
    loop {
        match watch_routes_once(&context, &reports, &mut served).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!("cannot look for jobs that require labels: {error}");
            }
        }
        failures += 1;
        tokio::time::sleep(RETRY_BACKOFF.pause(failures, rand::random())).await;
    }
}

/// Ends without an error only where the loop is gone.
async fn watch_routes_once(
    context: &AttemptContext,
    reports: &mpsc::Sender<Report>,
    served: &mut HashSet<(QueueName, String)>,
) -> Result<(), BrokerError> {
    let broker = &context.broker;
    // the watch first, so that nothing is registered unseen between the two
    let mut watch = broker.watch_label_routes().await?;
    let mut news = LabelRouteEvent::Resync;
    loop {
        let registered = match news {
            LabelRouteEvent::Registered(route) => vec![route],
            LabelRouteEvent::Resync => broker.list_label_routes().await?,
        };
        for route in registered {
            if !matches_worker(&context.options, &route) {
                continue;
            }
            let place = (route.queue.clone(), route.key.clone());
            if served.contains(&place) {
                continue;
            }
            let of_queue = served.iter().filter(|(queue, _)| *queue == route.queue);
            if of_queue.count() >= ROUTES_PER_QUEUE_MAX {
                tracing::warn!(
                    queue = %route.queue,
                    "jobs require over {ROUTES_PER_QUEUE_MAX} different sets of this worker's labels; it takes no more of them"
                );
                continue;
            }
            let consumer = broker
                .ensure_route_consumer(&route.queue, &route.key)
                .await?;
            served.insert(place);
            let line = Report::RouteAvailable {
                queue: route.queue,
                consumer,
            };
            if reports.send(line).await.is_err() {
                return Ok(());
            }
        }
        news = watch.next().await;
    }
}

/// Whether this worker serves the queue and has the labels.
fn matches_worker(options: &WorkerConfig, route: &LabelRoute) -> bool {
    options.queues.contains(&route.queue)
        && naq_core::has_required_labels(&options.labels, &route.labels)
}

/// Makes a queue and one of its consumers again where they were removed.
pub(super) async fn recreate_consumer(
    broker: &Broker,
    queue: &QueueName,
    consumer: &str,
    ack_wait: Duration,
) -> Result<(), BrokerError> {
    broker.ensure_queue(queue).await?;
    broker.ensure_worker_consumer(queue, ack_wait).await?;
    if let Some(set) = broker.names().route_of_consumer(consumer) {
        broker.ensure_route_consumer(queue, set).await?;
    }
    Ok(())
}
