//! What a scheduler is doing, shared by the parts that change it and its heartbeat.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::metrics::SchedulerMetrics;
use crate::clock;
use crate::metrics::Metrics;
use naq_protocol::{SchedulerState, Timestamp};

/// What a scheduler does, for its heartbeat.
pub(super) struct SchedulerStatus {
    state: Mutex<(SchedulerState, Timestamp)>,
    enqueued: AtomicU64,
    changed: Notify,
    /// The metrics.
    pub(super) metrics: SchedulerMetrics,
}

impl SchedulerStatus {
    pub(super) fn new(metrics: &Arc<Metrics>) -> SchedulerStatus {
        SchedulerStatus {
            state: Mutex::new((SchedulerState::StandingBy, clock::now())),
            enqueued: AtomicU64::new(0),
            changed: Notify::new(),
            metrics: SchedulerMetrics::new(metrics),
        }
    }

    /// Notes a change of the state; a heartbeat reports it at once.
    pub(super) fn set(&self, state: SchedulerState) {
        self.metrics.set_leading(state == SchedulerState::Leading);
        let mut present = self.lock();
        if present.0 != state {
            *present = (state, clock::now());
            self.changed.notify_one();
        }
    }

    /// Counts a tick that was enqueued.
    pub(super) fn count_enqueued(&self) {
        self.enqueued.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of ticks that were enqueued.
    pub(super) fn enqueued(&self) -> u64 {
        self.enqueued.load(Ordering::Relaxed)
    }

    /// The state, and since when.
    pub(super) fn state(&self) -> (SchedulerState, Timestamp) {
        *self.lock()
    }

    /// Waits for a change of the state. Cancel safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (SchedulerState, Timestamp)> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
