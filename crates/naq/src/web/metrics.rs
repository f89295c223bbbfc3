//! `/metrics`: what the dashboard counts, with the state of the cluster.

mod cluster;
mod schedules;

use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use tokio::sync::Mutex;

use super::live::Live;
use super::record_index::SharedIndex;
use crate::metrics::{
    self as table, ConnectionMetrics, Counter, EnqueuedJobs, Format, Gauge, LabelValue, Metrics,
    OTHER, Role,
};
use cluster::Cluster;
use naq_client::Client;

/// Time limit for reading the state of the cluster. Prometheus gives up after 10 s.
const READ_MAX: Duration = Duration::from_secs(5);

/// The handles of the dashboard.
pub(super) struct WebMetrics {
    metrics: Arc<Metrics>,
    connection: ConnectionMetrics,
    live_clients: Gauge,
    /// Jobs that requests have enqueued.
    pub(super) enqueued: EnqueuedJobs,
    /// Requests with an unknown token, and failed logins.
    pub(super) auth_failures: Counter,
    /// Whether everyone who can reach the address may read the metrics.
    pub(super) is_open: bool,
    /// Locked during a read, so that any number of requests causes one read.
    cluster: Mutex<Cluster>,
}

impl WebMetrics {
    /// `is_open` permits everyone who can reach the address to read the metrics.
    pub(super) fn new(client: &Client, is_open: bool) -> WebMetrics {
        let metrics = Arc::new(Metrics::new(&[Role::Dashboard]));
        metrics.observe_requests(client);
        WebMetrics {
            connection: metrics.connection(),
            enqueued: EnqueuedJobs::new(&metrics, "api"),
            live_clients: metrics.gauge(table::LIVE_CLIENTS, []),
            auth_failures: metrics.counter(table::AUTH_FAILURES, []),
            metrics,
            is_open,
            cluster: Mutex::default(),
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

    /// The answer to a scrape. `streams` is the number of open streams.
    pub(super) async fn answer(
        &self,
        client: &Client,
        live: &Live,
        index: Option<&SharedIndex>,
        streams: usize,
        format: Format,
    ) -> String {
        let reading = async { self.cluster.lock().await.read(client, live, index).await };
        let read = tokio::time::timeout(READ_MAX, reading).await;
        // if NATS does not answer, the metrics of this process are still reported
        let cluster = read.unwrap_or_else(|_| Arc::new(Metrics::of_one_scrape()));
        self.connection.set(&client.connection_state());
        self.live_clients.set(streams as f64);
        Arc::clone(&self.metrics)
            .scrape(Some(cluster), format)
            .await
    }
}
