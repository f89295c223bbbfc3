//! What a worker says of itself in the bucket `naq_workers`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::{JobId, QueueName};
use super::record::Timestamp;

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// No job runs.
    Idle,
    /// At least one job runs.
    Busy,
    /// It takes no more jobs and ends when the running ones have.
    Draining,
}

impl std::fmt::Display for WorkerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            WorkerState::Idle => "idle",
            WorkerState::Busy => "busy",
            WorkerState::Draining => "draining",
        })
    }
}

/// A worker's heartbeat.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WorkerInfo {
    /// The worker's id, unique to this run of it.
    pub worker_id: String,
    /// The name it was given; the host's where it was given none.
    pub name: String,
    /// The host it runs on.
    pub hostname: String,
    /// Its process id there.
    pub pid: u32,
    /// naq's version.
    pub version: String,
    /// The queues it serves, in order.
    pub queues: Vec<QueueName>,
    /// How many jobs it runs at once.
    pub concurrency: u32,
    /// What it is doing.
    pub state: WorkerState,
    /// How many jobs run now.
    pub running: u32,
    /// The ids of running jobs, 100 at most.
    pub jobs: Vec<JobId>,
    /// Jobs ended since it started.
    pub jobs_ended: u64,
    /// How trees of processes are held together: cgroup, namespace or subreaper.
    pub containment: String,
    /// The labels it was started with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When it started.
    pub started_at: Timestamp,
    /// When it wrote this.
    pub last_seen: Timestamp,
}
