//! What all deliveries of a worker share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::job_log::JobLog;
use super::job_socket::JobSocket;
use super::lease::HeldLeases;
use super::options::WorkerConfig;
use naq_jetstream::{Broker, LabelRoute};
use naq_protocol::QueueName;
use naq_runner::Runner;

/// Number of label routes that a worker remembers as registered. Beyond it, all are forgotten and
/// registered again when needed.
const REGISTERED_ROUTES_MAX: usize = 1_024;

/// How long a label route counts as registered. Its bucket may be removed at any time, and a job on a
/// route that no worker can find would wait unseen.
const ROUTE_REGISTERED_MAX: Duration = Duration::from_secs(10);

/// What every delivery of a worker needs.
pub(super) struct WorkerContext {
    pub(super) broker: Broker,
    pub(super) runner: Runner,
    pub(super) worker_id: String,
    pub(super) options: WorkerConfig,
    /// Where jobs use what they are granted. `None` if that is nothing.
    pub(super) job_socket: Option<JobSocket>,
    /// The leases of this worker.
    pub(super) leases: HeldLeases,
    /// Bounds the outcomes that are not recorded yet. A job's slot becomes free only once there
    /// is room for its outcome, so that a slow server slows this worker down and does not fill
    /// its memory.
    pub(super) unrecorded_outcomes: Semaphore,
    /// One permit, for the suspect that runs alone: see [`naq_core::RunAlone`]. It is held until the
    /// outcome is recorded, so that the next suspect cannot be taken for the cause of its crash.
    pub(super) running_alone: Semaphore,
    /// Number of outcomes that NATS has refused to store so far, or not answered for.
    pub(super) refused_outcomes: RefusedOutcomes,
    /// The log of the jobs.
    pub(super) job_log: JobLog,
    /// The label routes that this worker has registered.
    pub(super) registered_routes: RegisteredRoutes,
}

/// Outcomes that could not be recorded at the first attempt, and are tried again. While there is
/// one, the worker starts no job: its outcome could not be recorded either.
#[derive(Default)]
pub(super) struct RefusedOutcomes(AtomicUsize);

impl RefusedOutcomes {
    /// Counts one outcome until the returned value is dropped.
    pub(super) fn count(&self) -> RefusedOutcome<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        RefusedOutcome(&self.0)
    }

    pub(super) fn exist(&self) -> bool {
        self.number() > 0
    }

    pub(super) fn number(&self) -> u32 {
        u32::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }
}

/// An outcome that is counted as refused.
pub(super) struct RefusedOutcome<'a>(&'a AtomicUsize);

impl Drop for RefusedOutcome<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// When this worker has registered label routes, by queue and key.
#[derive(Default)]
pub(super) struct RegisteredRoutes(Mutex<HashMap<(QueueName, String), Instant>>);

impl RegisteredRoutes {
    pub(super) fn contains(&self, route: &LabelRoute) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(route.queue.clone(), route.key.clone()))
            .is_some_and(|at| at.elapsed() < ROUTE_REGISTERED_MAX)
    }

    /// Forgets all, so that they are registered again when needed.
    pub(super) fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub(super) fn insert(&self, route: &LabelRoute) {
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.len() >= REGISTERED_ROUTES_MAX {
            routes.clear();
        }
        routes.insert((route.queue.clone(), route.key.clone()), Instant::now());
    }
}
