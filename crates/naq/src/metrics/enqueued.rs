//! Counts the jobs that this process enqueues.

use std::sync::{Arc, Mutex, PoisonError};

use super::labels::LabelValues;
use super::registry::Metrics;
use super::table;
use naq_protocol::QueueName;

/// Counts jobs by queue.
pub(crate) struct EnqueuedJobs {
    metrics: Arc<Metrics>,
    via: &'static str,
    queues: Mutex<LabelValues>,
}

impl EnqueuedJobs {
    /// `via` is the value of the label: by which way this process enqueues jobs.
    pub(crate) fn new(metrics: &Arc<Metrics>, via: &'static str) -> EnqueuedJobs {
        EnqueuedJobs {
            metrics: Arc::clone(metrics),
            via,
            queues: Mutex::default(),
        }
    }

    /// Adds jobs that the server has stored in a queue.
    pub(crate) fn add(&self, queue: &QueueName, jobs: u64) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = [queues.of(queue.as_str()), self.via.into()];
        self.metrics.counter(table::ENQUEUED, labels).inc_by(jobs);
    }
}
