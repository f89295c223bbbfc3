//! What all deliveries of a worker share.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::options::WorkerConfig;
use naq_jetstream::{Broker, LabelRoute};
use naq_protocol::QueueName;
use naq_runner::Runner;

/// Number of label routes that a worker remembers as registered. Beyond it, all are forgotten and
/// registered again when needed.
const REGISTERED_ROUTES_MAX: usize = 1_024;

/// What every delivery of a worker needs.
pub(super) struct WorkerContext {
    pub(super) broker: Broker,
    pub(super) runner: Runner,
    pub(super) worker_id: String,
    pub(super) options: WorkerConfig,
    /// Bounds the outcomes that are not recorded yet. A job's slot becomes free only once there
    /// is room for its outcome, so that a slow server slows this worker down and does not fill
    /// its memory.
    pub(super) unrecorded_outcomes: Semaphore,
    /// The label routes that this worker has registered.
    pub(super) registered_routes: RegisteredRoutes,
}

/// Label routes that this worker has registered, by queue and key.
#[derive(Default)]
pub(super) struct RegisteredRoutes(Mutex<HashSet<(QueueName, String)>>);

impl RegisteredRoutes {
    pub(super) fn contains(&self, route: &LabelRoute) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&(route.queue.clone(), route.key.clone()))
    }

    pub(super) fn insert(&self, route: &LabelRoute) {
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.len() >= REGISTERED_ROUTES_MAX {
            routes.clear();
        }
        routes.insert((route.queue.clone(), route.key.clone()));
    }
}
