//! Label routes that this worker serves: the sets of required labels that it has.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use tokio::sync::mpsc;

use super::context::WorkerContext;
use super::options::WorkerConfig;
use super::report::Report;
use naq_core::ExponentialBackoff;
use naq_jetstream::{Broker, BrokerError, LabelRoute, LabelRouteEvent};
use naq_protocol::QueueName;

/// Time between two checks that routes are registered.
const REGISTRATION_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Maximum number of routes of a check, since each costs a request. The next check continues behind them.
const ROUTES_PER_CHECK: usize = 256;

/// Number of routes that are checked at once.
const CONCURRENT_CHECKS_MAX: usize = 16;

/// Pauses before the watch is opened again.
const RETRY_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// Whether this worker serves any label routes.
pub(super) fn serves_routes(options: &WorkerConfig) -> bool {
    !options.labels.is_empty() && options.single_job.is_none()
}

/// The label routes that this worker can serve, by queue and key.
type Routes = HashMap<(QueueName, String), LabelRoute>;

/// Finds the label routes that this worker can serve.
struct RouteWatcher {
    context: Arc<WorkerContext>,
    reports: mpsc::Sender<Report>,
    served: Routes,
    /// Those for which the queue's stream has no room.
    refused: Routes,
    /// How many of the served routes have been checked in this round.
    checked: usize,
}

/// The loop of the worker has ended.
struct LoopEnded;

/// Finds the label routes that this worker can serve, now and as they are registered, and reports
/// to the loop the consumers to pull from. Runs until the loop has ended.
pub(super) async fn watch_routes(context: Arc<WorkerContext>, reports: mpsc::Sender<Report>) {
    let mut watcher = RouteWatcher {
        context,
        reports,
        served: HashMap::new(),
        refused: HashMap::new(),
        checked: 0,
    };
    let mut failures = 0;
    loop {
        match watcher.watch(&mut failures).await {
            Ok(LoopEnded) => return,
            Err(error) => {
                tracing::warn!("cannot watch the label routes, retrying: {error}");
            }
        }
        failures += 1;
        tokio::time::sleep(RETRY_BACKOFF.pause(failures, rand::random())).await;
    }
}

impl RouteWatcher {
    /// Sets `failures` to 0 whenever the server has carried out all requests.
    async fn watch(&mut self, failures: &mut u32) -> Result<LoopEnded, BrokerError> {
        let broker = self.context.broker.clone();
        // the watch before the list, so that no route is registered unseen between the two
        let mut watch = broker.watch_label_routes().await?;
        let mut event = LabelRouteEvent::Resync;
        loop {
            let registered = match event {
                LabelRouteEvent::Changed(route) => vec![route],
                LabelRouteEvent::Resync | LabelRouteEvent::Gap => {
                    broker.list_label_routes().await?
                }
            };
            for route in registered {
                if self.is_for_this_worker(&route)
                    && let ControlFlow::Break(ended) = self.serve(route).await?
                {
                    return Ok(ended);
                }
            }
            *failures = 0;
            event = loop {
                tokio::select! {
                    event = watch.next() => break event?,
                    () = tokio::time::sleep(REGISTRATION_CHECK_INTERVAL) => {
                        register_again(&broker, self.next_to_check()).await?;
                        if let ControlFlow::Break(ended) = self.serve_refused().await? {
                            return Ok(ended);
                        }
                    }
                }
            };
        }
    }

    /// Whether this worker serves the queue and has the labels, and does not serve the route yet.
    fn is_for_this_worker(&self, route: &LabelRoute) -> bool {
        let place = (route.queue.clone(), route.key.clone());
        matches_worker(&self.context.options, route) && !self.served.contains_key(&place)
    }

    /// The served routes of the next check.
    fn next_to_check(&mut self) -> Vec<LabelRoute> {
        if self.checked >= self.served.len() {
            self.checked = 0;
        }
        let rest = self.served.values().skip(self.checked);
        let routes: Vec<LabelRoute> = rest.take(ROUTES_PER_CHECK).cloned().collect();
        self.checked += routes.len();
        routes
    }

    /// Serves a route. If the queue's stream has no room for its consumer, that is logged once, and tried
    /// again later.
    async fn serve(&mut self, route: LabelRoute) -> Result<ControlFlow<LoopEnded>, BrokerError> {
        let place = (route.queue.clone(), route.key.clone());
        let broker = &self.context.broker;
        let consumer = match broker.ensure_route_consumer(&route.queue, &route.key).await {
            Err(error @ BrokerError::TooManyConsumers { .. }) => {
                if let Entry::Vacant(entry) = self.refused.entry(place) {
                    tracing::error!(
                        queue = %route.queue,
                        labels = ?route.labels,
                        "jobs that require these labels wait, and this worker, which has the labels, cannot run them: {error}"
                    );
                    entry.insert(route);
                }
                return Ok(ControlFlow::Continue(()));
            }
            made => made?,
        };
        self.refused.remove(&place);
        self.served.insert(place, route.clone());
        let available = Report::RouteAvailable {
            queue: route.queue,
            consumer,
        };
        Ok(match self.reports.send(available).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(LoopEnded),
        })
    }

    /// Tries one of the refused routes of each queue, and its others if there is room now.
    async fn serve_refused(&mut self) -> Result<ControlFlow<LoopEnded>, BrokerError> {
        let mut full = HashSet::new();
        loop {
            let mut refused = self.refused.values();
            let next = refused.find(|route| !full.contains(&route.queue)).cloned();
            let Some(route) = next else {
                return Ok(ControlFlow::Continue(()));
            };
            let (queue, before) = (route.queue.clone(), self.refused.len());
            if let ControlFlow::Break(ended) = self.serve(route).await? {
                return Ok(ControlFlow::Break(ended));
            }
            if self.refused.len() == before {
                full.insert(queue);
            }
        }
    }
}

/// Registers again those of these routes that someone removed, alone or with their bucket, so
/// that other workers find them.
async fn register_again(broker: &Broker, routes: Vec<LabelRoute>) -> Result<(), BrokerError> {
    let mut checks = stream::iter(routes)
        .map(|route| async move {
            let is_registered = broker.is_label_route_registered(&route).await?;
            Ok::<_, BrokerError>((!is_registered).then_some(route))
        })
        .buffer_unordered(CONCURRENT_CHECKS_MAX);
    let mut missing = Vec::new();
    while let Some(checked) = checks.next().await {
        missing.extend(checked?);
    }
    for route in &missing {
        broker.register_label_route(route).await?;
    }
    if !missing.is_empty() {
        tracing::info!(
            routes = missing.len(),
            "label routes were removed; registered those of this worker again"
        );
    }
    Ok(())
}

/// Whether this worker serves the queue and has the labels.
fn matches_worker(options: &WorkerConfig, route: &LabelRoute) -> bool {
    options.queues.contains(&route.queue)
        && naq_core::has_required_labels(&options.labels, &route.labels)
}
