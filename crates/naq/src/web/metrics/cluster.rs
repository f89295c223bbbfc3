//! The state of the cluster, read from NATS for each scrape.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;

use super::super::live::Live;
use super::super::overview::slots;
use super::super::record_index::{RecordIndex, SharedIndex};
use super::schedules::KnownSchedules;
use crate::clock;
use crate::metrics::{self as table, LABEL_VALUES_MAX, LabelValues, Metrics};
use naq_client::{Blocker, BrokerErrorKind, Client, ClientError, QueueInfo, StorageUsage};
use naq_protocol::{QueueName, Timestamp, WorkerInfo, WorkerState};

/// Shortest time between two reads of the state of the cluster.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Number of queues that are read at the same time.
const READS_MAX: usize = 32;

/// The last state of the cluster that was read.
#[derive(Default)]
pub(super) struct Cluster {
    last: Option<(Instant, Arc<Metrics>)>,
    schedules: KnownSchedules,
    is_storage_denied: bool,
}

impl Cluster {
    /// The metrics of the cluster, at most a second old. Those that NATS denies or does not answer for are
    /// missing.
    pub(super) async fn read(
        &mut self,
        client: &Client,
        live: &Live,
        index: Option<&SharedIndex>,
    ) -> Arc<Metrics> {
        if let Some((read_at, cluster)) = &self.last
            && read_at.elapsed() < REFRESH_INTERVAL_MIN
        {
            return Arc::clone(cluster);
        }
        let cluster = Metrics::of_one_scrape();
        let (snapshot, kept, storage, schedules) = tokio::join!(
            live.snapshot(),
            client.count_kept_failures(),
            read_storage(client, &mut self.is_storage_denied),
            self.schedules.refresh(client),
        );
        if let Ok(snapshot) = snapshot {
            let (queues, workers) = (&snapshot.facts.queues, &snapshot.facts.workers);
            let oldest = read_oldest(client, queues).await;
            show_queues(&cluster, queues, workers, &oldest, clock::now());
            show_workers(&cluster, workers);
            if let Ok(jobs) = client.count_blocked_by_labels(workers).await {
                let gauge = cluster.gauge(table::BLOCKED, ["labels".into()]);
                gauge.set(jobs as f64);
            }
        }
        for (blocker, jobs) in index
            .and_then(|index| index.read(RecordIndex::blocked))
            .into_iter()
            .flatten()
        {
            let why = match blocker {
                Blocker::Dependencies => "dependency",
                Blocker::ConcurrencyKey => "key",
            };
            cluster.gauge(table::BLOCKED, [why.into()]).set(jobs as f64);
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
            Ok(()) => self.schedules.show(&cluster),
            Err(error) => tracing::debug!("cannot read the schedules for a monitor: {error}"),
        }
        let cluster = Arc::new(cluster);
        self.last = Some((Instant::now(), Arc::clone(&cluster)));
        cluster
    }
}

/// The storage of the account. After a denial, this does not ask again.
async fn read_storage(client: &Client, is_denied: &mut bool) -> Option<StorageUsage> {
    if *is_denied {
        return None;
    }
    match client.fetch_storage_usage().await {
        Ok(usage) => Some(usage),
        Err(ClientError::Broker(error)) if error.kind() == BrokerErrorKind::PermissionDenied => {
            *is_denied = true;
            None
        }
        Err(_) => None,
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
    use crate::metrics::Format;

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
