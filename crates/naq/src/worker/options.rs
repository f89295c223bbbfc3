//! What a worker takes and returns: its options, the commands it obeys, its summary and errors.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::grants::Grants;
use super::pull_planner::QueueOrder;
use super::secrets::SecretStore;
use crate::languages::{Languages, WarmPlan};
use crate::metrics::{Metrics, Role};
use crate::traces::Traces;
use crate::watchdog::{ServiceManager, Watchdog};
use naq_jetstream::BrokerError;
use naq_protocol::{JobId, JobProgress, QueueName, Record, ResourceLimits};
use naq_runner::{StreamKind, WarmError};

/// Tracing target of the log lines about single jobs, so that they can be filtered.
pub const JOBS_LOG_TARGET: &str = "naq::jobs";

/// Options of a worker.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Queues to serve; under [`QueueOrder::Strict`] the first has the highest priority.
    pub queues: Vec<QueueName>,
    /// Number of jobs that may run at once, at least 1.
    pub concurrency: usize,
    /// Name shown in lists of workers. `None` means the hostname.
    pub name: Option<String>,
    /// Labels of this worker, shown in lists and matched against what a job `requires`.
    pub labels: BTreeMap<String, String>,
    /// How the queues share the slots.
    pub order: QueueOrder,
    /// Default timeout for jobs whose envelope sets none. `None` means no limit.
    pub timeout: Option<Duration>,
    /// Time from SIGTERM to SIGKILL when a job is stopped.
    pub kill_grace: Duration,
    /// Default limits, each for jobs whose envelope does not set it.
    pub limits: ResourceLimits,
    /// Environment variables that an envelope may set although they make programs run other
    /// code: exact names, or prefixes that end in `*`.
    pub allow_env: Vec<String>,
    /// What jobs may do with naq over the worker's socket.
    pub grants: Grants,
    /// User and group of the jobs. `None` means those of this process.
    pub job_user: Option<(u32, u32)>,
    /// The runners of scripts and functions.
    pub languages: Languages,
    /// The warm processes, and how many of each.
    pub warm: Vec<(WarmPlan, usize)>,
    /// Source of the secrets that envelopes name.
    pub secrets: SecretStore,
    /// Default time that the record of a finished job is kept.
    pub result_ttl: Duration,
    /// How long the server waits for a sign of life of a running job before it delivers the
    /// message to another worker.
    pub ack_wait: Duration,
    /// How long this worker must have been connected before it takes a job over from a worker that
    /// does not reply.
    pub takeover_after: Duration,
    /// How long a job with `overlap_ok` may run past the end of its lease.
    pub outage_grace: Duration,
    /// Whether a refused connection means that NATS is down for everybody, although it is on
    /// another host or a cluster.
    pub trust_refused: bool,
    /// Time between two heartbeats.
    pub heartbeat_interval: Duration,
    /// Time after which the server removes a heartbeat that was not renewed.
    pub heartbeat_ttl: Duration,
    /// How long running jobs may continue after the worker was asked to drain.
    pub drain_timeout: Duration,
    /// Number of worker crashes under one job after which the job fails for good.
    pub max_worker_crashes: u32,
    /// Age of a job from which its output is published live.
    pub live_output_after: Duration,
    /// Number of attempts after which the worker exits. `None` means no limit.
    pub exit_after: Option<u64>,
    /// Time without a job after which the worker exits. `None` means never.
    pub exit_when_idle: Option<Duration>,
    /// Who learns that the worker is ready and that it is stopping. `None` means no one.
    pub service_manager: Option<ServiceManager>,
    /// Who learns that the worker's loop turns. `None` means no one.
    pub watchdog: Option<Watchdog>,
    /// The metrics of this worker.
    pub metrics: Arc<Metrics>,
    /// The traces of this worker's jobs.
    pub traces: Traces,
    /// Run this one job of the first queue and exit once it has finished, as `naq run` does. `None`
    /// means serve the queues.
    pub single_job: Option<JobId>,
    /// Receives a lossless copy of live output within this process, in place of NATS.
    pub output_tap: Option<mpsc::Sender<(StreamKind, bytes::Bytes)>>,
    /// Receives the progress that the job reports, within this process.
    pub progress_tap: Option<watch::Sender<JobProgress>>,
}

impl WorkerConfig {
    /// Default options for the given queues.
    #[must_use]
    pub fn new(queues: Vec<QueueName>, concurrency: usize) -> WorkerConfig {
        WorkerConfig {
            queues,
            concurrency,
            name: None,
            labels: BTreeMap::new(),
            order: QueueOrder::Fair,
            timeout: None,
            kill_grace: Duration::from_secs(10),
            limits: ResourceLimits::default(),
            allow_env: Vec::new(),
            grants: Grants::default(),
            job_user: None,
            languages: Languages::default(),
            warm: Vec::new(),
            secrets: SecretStore::empty(),
            result_ttl: Duration::from_secs(7 * 86_400),
            ack_wait: Duration::from_secs(30),
            takeover_after: Duration::from_secs(10),
            outage_grace: Duration::ZERO,
            trust_refused: false,
            heartbeat_interval: Duration::from_secs(5),
            heartbeat_ttl: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(30),
            max_worker_crashes: 3,
            live_output_after: Duration::from_secs(1),
            exit_after: None,
            exit_when_idle: None,
            service_manager: None,
            watchdog: None,
            metrics: Arc::new(Metrics::new(&[Role::Worker])),
            traces: Traces::default(),
            single_job: None,
            output_tap: None,
            progress_tap: None,
        }
    }
}

/// What the worker is to do, in order of urgency: a later variant overrides an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkerCommand {
    /// Run jobs.
    Run,
    /// Request no more jobs, let running ones finish within the drain timeout, exit.
    Drain,
    /// Cancel running jobs, which end as `cancelled`, and exit.
    Cancel,
    /// Kill running jobs now, requeue them, exit. Declared last, since a second signal requests it
    /// whatever the first one requested.
    Stop,
}

/// What a worker did, from start to exit.
#[derive(Clone, Debug, Default)]
pub struct WorkerSummary {
    /// Number of attempts whose outcome was recorded.
    pub jobs_ended: u64,
    /// Number of jobs that were stopped and requeued.
    pub requeued: u64,
    /// The last record written: with [`WorkerConfig::single_job`], that job's outcome.
    pub last_record: Option<Box<Record>>,
}

/// Why a worker cannot run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// NATS refused a request or did not answer.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Warm processes cannot be kept here.
    #[error("--warm: {0}")]
    Warm(#[from] WarmError),
    /// The socket of the jobs cannot be created.
    #[error("cannot listen on the socket for jobs: {0}")]
    JobSocket(#[source] std::io::Error),
}
