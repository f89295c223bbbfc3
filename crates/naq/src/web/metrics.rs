//! `/metrics`: what the dashboard counts, and the state of the cluster.

mod schedules;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::Method;
use futures_util::StreamExt;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::live::Live;
use super::overview::slots;
use crate::clock;
use crate::metrics::{
    self as table, ConnectionMetrics, Counter, Format, Gauge, LABEL_VALUES_MAX, LabelValue,
    LabelValues, Metrics, OTHER, Role,
};
use naq_client::{BrokerErrorKind, Client, ClientError, QueueInfo, StorageUsage};
use naq_protocol::{QueueName, Timestamp, WorkerInfo, WorkerState};
use schedules::KnownSchedules;

/// Time limit for reading the state of the cluster. Prometheus gives up after 10 s.
const READ_MAX: Duration = Duration::from_secs(5);

/// Shortest time between two reads of the state of the cluster.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Number of queues that are read at the same time.
const READS_MAX: usize = 32;

/// The last state of the cluster that was read.
#[derive(Default)]
struct LastCluster {
    shown: Option<(Instant, Arc<Metrics>)>,
    schedules: KnownSchedules,
}

/// The handles of the dashboard.
pub(super) struct WebMetrics {
    metrics: Metrics,
    connection: ConnectionMetrics,
    live_clients: Gauge,
    /// Requests with an unknown token, and failed logins.
    pub(super) auth_failures: Counter,
    /// Whether everyone who can reach the address may read the metrics.
    pub(super) is_open: bool,
    /// Locked during a read, so that any number of requests causes one read.
    cluster: Mutex<LastCluster>,
    is_storage_denied: AtomicBool,
}

impl WebMetrics {
    /// `is_open` permits everyone who can reach the address to read the metrics.
    pub(super) fn new(is_open: bool) -> WebMetrics {
        let metrics = Metrics::new(&[Role::Dashboard]);
        WebMetrics {
            connection: metrics.connection(),
            live_clients: metrics.gauge(table::LIVE_CLIENTS, []),
            auth_failures: metrics.counter(table::AUTH_FAILURES, []),
            metrics,
            is_open,
            cluster: Mutex::default(),
            is_storage_denied: AtomicBool::new(false),
        }
    }

    /// Counts an answer. `route` is the template of its route. `None` means that no route has the path.
    pub(super) fn on_answer(
        &self,
        route: Option<&'static str>,
        method: &Method,
        status: u16,
        took: Duration,
    ) {
        let route: LabelValue = route.unwrap_or(OTHER).into();
        // a client may send any word as the method
        let method: LabelValue = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            Method::OPTIONS => "OPTIONS",
            _ => OTHER,
        }
        .into();
        let code = LabelValue::Name(status.to_string().into());
        let requests = self
            .metrics
            .counter(table::HTTP_REQUESTS, [route.clone(), method.clone(), code]);
        requests.inc();
        let seconds = self.metrics.histogram(table::HTTP_SECONDS, [route, method]);
        seconds.observe(took.as_secs_f64());
    }

    /// The answer to a scrape.
    pub(super) async fn answer(&self, client: &Client, live: &Live, format: Format) -> String {
        let read = tokio::time::timeout(READ_MAX, self.read_cluster(client, live)).await;
        // if NATS does not answer, the metrics of this process are still reported
        let cluster = read.unwrap_or_else(|_| Arc::new(Metrics::of_one_scrape()));
        let connection = client.connection_state();
        self.connection
            .set(connection.connected, connection.connections);
        self.live_clients.set(live.viewers() as f64);
        self.metrics.encode(&[&cluster], format)
    }
}

impl WebMetrics {
    /// The metrics of the cluster, at most a second old. Those that NATS denies or does not answer for are
    /// missing.
    async fn read_cluster(&self, client: &Client, live: &Live) -> Arc<Metrics> {
        let mut last = self.cluster.lock().await;
        if let Some((read_at, cluster)) = &last.shown
            && read_at.elapsed() < REFRESH_INTERVAL_MIN
        {
            return Arc::clone(cluster);
        }
        let cluster = Metrics::of_one_scrape();
        let (snapshot, kept, storage, schedules) = tokio::join!(
            live.snapshot(),
            client.count_kept_failures(),
            self.read_storage(client),
            last.schedules.refresh(client),
        );
        if let Ok(snapshot) = snapshot {
            let (queues, workers) = (&snapshot.facts.queues, &snapshot.facts.workers);
            let oldest = read_oldest(client, queues).await;
            show_queues(&cluster, queues, workers, &oldest, clock::now());
            show_workers(&cluster, workers);
        }
        if let Ok(kept) = kept {
            cluster.gauge(table::FAILED_KEPT, []).set(kept as f64);
        }
        if let Some(storage) = storage {
            cluster.gauge(table::STORAGE, []).set(storage.bytes as f64);
            if let Some(max) = storage.bytes_max {
                cluster.gauge(table::STORAGE_LIMIT, []).set(max as f64);
            }
        }
        match schedules {
            Ok(()) => last.schedules.show(&cluster),
            Err(error) => tracing::debug!("cannot read the schedules for a monitor: {error}"),
        }
        let cluster = Arc::new(cluster);
        last.shown = Some((Instant::now(), Arc::clone(&cluster)));
        cluster
    }

    /// The storage of the account. After a denial, this does not ask again.
    async fn read_storage(&self, client: &Client) -> Option<StorageUsage> {
        if self.is_storage_denied.load(Ordering::Relaxed) {
            return None;
        }
        match client.fetch_storage_usage().await {
            Ok(usage) => Some(usage),
            Err(ClientError::Broker(error))
                if error.kind() == BrokerErrorKind::PermissionDenied =>
            {
                self.is_storage_denied.store(true, Ordering::Relaxed);
                None
            }
            Err(_) => None,
        }
    }
}

/// The time since which the first job of each queue is queued, for the first 500 queues that contain jobs.
async fn read_oldest(client: &Client, queues: &[QueueInfo]) -> HashMap<QueueName, Timestamp> {
    let mut queued = Vec::new();
    for queue in queues.iter().take(LABEL_VALUES_MAX) {
        if queue.depth > 0 {
            queued.push(queue.name.clone());
        }
    }
    let reads = queued.into_iter().map(|name| async move {
        let queue = client.queue(name.as_str()).ok()?;
        let oldest = queue.oldest_queued().await.ok()??;
        Some((name, oldest))
    });
    let reads = futures_util::stream::iter(reads).buffer_unordered(READS_MAX);
    reads.filter_map(std::future::ready).collect().await
}

/// Sets the metrics of queues. Queues beyond the first 500 are added up as one.
fn show_queues(
    metrics: &Metrics,
    queues: &[QueueInfo],
    workers: &[WorkerInfo],
    oldest: &HashMap<QueueName, Timestamp>,
    now: Timestamp,
) {
    let mut labels = LabelValues::default();
    for queue in queues {
        let label = labels.of(queue.name.as_str());
        let add = |row, value: f64| {
            metrics.gauge(row, [label.clone()]).inc_by(value);
        };
        for (state, jobs) in [
            ("queued", queue.depth),
            ("running", queue.running),
            ("delayed", queue.delayed),
        ] {
            let labels = [label.clone(), state.into()];
            metrics.gauge(table::QUEUE_JOBS, labels).inc_by(jobs as f64);
        }
        add(table::QUEUE_SLOTS, slots(workers, queue) as f64);
        add(table::QUEUE_PAUSED, f64::from(u8::from(queue.paused)));
        add(table::QUEUE_SIZE, queue.bytes as f64);
        if let Some(max) = queue.max_running {
            add(table::QUEUE_MAX_RUNNING, f64::from(max.get()));
        }
        let since = oldest.get(&queue.name);
        let age = since.map(|since| (now.0 - since.0).to_std().unwrap_or_default());
        add(table::QUEUE_OLDEST, age.unwrap_or_default().as_secs_f64());
    }
}

/// Sets the numbers of workers.
fn show_workers(metrics: &Metrics, workers: &[WorkerInfo]) {
    for state in [WorkerState::Idle, WorkerState::Busy, WorkerState::Draining] {
        let count = workers
            .iter()
            .filter(|worker| worker.state == state)
            .count();
        let gauge = metrics.gauge(table::WORKERS, [state.as_static().into()]);
        gauge.set(count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_the_cluster_has_a_bounded_number_of_queues() {
        let queues = (0..502).map(|at| QueueInfo {
            name: QueueName::new(format!("q{at:03}")).unwrap(),
            depth: 2,
            running: 0,
            delayed: 0,
            bytes: 0,
            oldest: None,
            paused: false,
            max_running: None,
            replicas: 1,
        });
        let queues: Vec<QueueInfo> = queues.collect();
        let cluster = Metrics::of_one_scrape();
        show_queues(&cluster, &queues, &[], &HashMap::new(), clock::now());
        show_workers(&cluster, &[]);
        let text = cluster.encode(&[], Format::Text);
        let queued = text
            .lines()
            .filter(|line| line.contains("state=\"queued\""))
            .count();
        assert_eq!(queued, 501);
        for line in [
            "naq_queue_jobs{queue=\"q000\",state=\"queued\"} 2.0",
            "naq_queue_jobs{queue=\"q499\",state=\"queued\"} 2.0",
            "naq_queue_jobs{queue=\"other\",state=\"queued\"} 4.0",
            "naq_queue_slots{queue=\"q000\"} 0.0",
            "naq_workers{state=\"busy\"} 0.0",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "no `{line}` in {text}"
            );
        }
        assert!(!text.contains("naq_queue_max_running{"), "{text}");
    }
}
