//! What all deliveries of a worker share.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::claim_ahead::ClaimAhead;
use super::file_cache::FileCache;
use super::job_log::JobLog;
use super::job_socket::JobSocket;
use super::lease::HeldLeases;
use super::metrics::WorkerMetrics;
use super::options::WorkerConfig;
use super::prepared_scripts::PreparedScripts;
use super::stay_awake::StayAwake;
use super::warm::WarmPools;
use naq_client::Client;
use naq_jetstream::{Broker, BrokerError, BrokerErrorKind, LabelRoute};
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
    /// The same connection, for reading outputs.
    pub(super) client: Client,
    pub(super) runner: Runner,
    pub(super) worker_id: String,
    pub(super) options: WorkerConfig,
    /// The socket through which jobs use what they are granted. `None` if the worker grants nothing.
    pub(super) job_socket: Option<JobSocket>,
    /// The leases of this worker.
    pub(super) leases: HeldLeases,
    /// One permit, for the suspect that runs alone: see [`naq_core::RunAlone`]. It is held until the
    /// outcome is recorded, so that the next suspect cannot be taken for the cause of its crash.
    pub(super) running_alone: Semaphore,
    /// The log of the jobs.
    pub(super) job_log: JobLog,
    /// One permit for each job that runs or whose outcome is not recorded yet: as many as jobs may run at once,
    /// and as may be claimed ahead. The slot of a job that has ended is free at once, so that the next job is
    /// requested and claimed, or started, meanwhile; but a server which stores nothing does not fill this
    /// worker's memory with outcomes.
    pub(super) outcomes: Semaphore,
    /// How many jobs are claimed beyond those that have a place.
    pub(super) claim_ahead: ClaimAhead,
    /// Whether the worker waits for answers without giving up the processor.
    pub(super) awake: StayAwake,
    /// The scripts that need no more preparation.
    pub(super) prepared_scripts: PreparedScripts,
    /// The warm processes.
    pub(super) warm: WarmPools,
    /// The runners whose programs this worker has found, with their versions.
    pub(super) runners: Mutex<BTreeMap<String, String>>,
    /// The writes that NATS refuses at the moment.
    pub(super) refused_writes: RefusedWrites,
    /// The metrics of this worker.
    pub(super) metrics: WorkerMetrics,
    /// The uploaded files that this worker has read.
    pub(super) files: FileCache,
    /// The label routes that this worker has registered.
    pub(super) registered_routes: RegisteredRoutes,
}

/// Claims, outcomes and what follows from them that could not be stored at the first attempt, and are
/// tried again. While there is one, the worker takes no job: its outcome could not be recorded either.
#[derive(Default)]
pub(super) struct RefusedWrites {
    refused: Mutex<Refused>,
    /// Notified when the last of them is stored.
    stored: Notify,
}

#[derive(Default)]
struct Refused {
    count: usize,
    /// The last error.
    why: Option<String>,
}

impl RefusedWrites {
    fn lock(&self) -> MutexGuard<'_, Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one write, refused by this error, until the returned value is dropped.
    pub(super) fn count(&self, error: &BrokerError) -> RefusedWrite<'_> {
        let mut refused = self.lock();
        refused.count += 1;
        if refused.count == 1 {
            if error.kind() == BrokerErrorKind::StorageFull {
                tracing::warn!(
                    "NATS has no room for outcomes, taking no jobs until it has; `naq purge --results --older-than 1d` frees room: {error}"
                );
            } else {
                tracing::warn!(
                    "NATS does not store outcomes, taking no jobs until it does: {error}"
                );
            }
        }
        refused.why = Some(error.to_string());
        RefusedWrite(self)
    }

    pub(super) fn exist(&self) -> bool {
        self.lock().count > 0
    }

    /// Number of refused writes, and the last error. `None` if there are none.
    pub(super) fn summary(&self) -> Option<(usize, String)> {
        let refused = self.lock();
        (refused.count > 0).then(|| (refused.count, refused.why.clone().unwrap_or_default()))
    }

    /// Waits until the last refused write has been stored. Cancel safe.
    pub(super) async fn all_stored(&self) {
        self.stored.notified().await;
    }
}

/// A write that is counted as refused.
pub(super) struct RefusedWrite<'a>(&'a RefusedWrites);

impl Drop for RefusedWrite<'_> {
    fn drop(&mut self) {
        let mut refused = self.0.lock();
        refused.count -= 1;
        if refused.count == 0 {
            *refused = Refused::default();
            self.0.stored.notify_one();
        }
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

    /// Forgets all routes, so that each is registered again when needed.
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
