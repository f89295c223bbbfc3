//! What a scheduler is doing, shared by the parts that change it and its heartbeat.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::clock;
use naq_protocol::{SchedulerState, Timestamp};

/// What a scheduler does, for its heartbeat.
pub(super) struct SchedulerStatus {
    state: Mutex<(SchedulerState, Timestamp)>,
    enqueued: AtomicU64,
    changed: Notify,
}

impl SchedulerStatus {
    pub(super) fn new() -> SchedulerStatus {
        SchedulerStatus {
            state: Mutex::new((SchedulerState::StandingBy, clock::now())),
            enqueued: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// Notes a change of the state; a heartbeat reports it at once.
    pub(super) fn set(&self, state: SchedulerState) {
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
