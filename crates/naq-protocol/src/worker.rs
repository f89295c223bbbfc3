//! The heartbeat that a worker writes to the bucket `naq_workers`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::{JobId, QueueName};
use crate::time::Timestamp;
use crate::unknown_fields::{UnknownFields, keeps_unknown_fields};
use crate::wire_name::{UnknownName, wire_name};

/// Number of running jobs that a heartbeat names.
pub const HEARTBEAT_JOBS_MAX: usize = 100;

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WorkerState {
    /// It runs no job.
    Idle,
    /// It runs at least one job.
    Busy,
    /// It starts no more jobs, and exits when the running ones have ended.
    Draining,
    /// A state that only a later version of naq defines.
    #[schemars(skip)]
    Unknown(UnknownName),
}

wire_name!(WorkerState, "a state of a worker", {
    Idle => "idle",
    Busy => "busy",
    Draining => "draining",
});

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if passes a reference"
)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A worker's heartbeat.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct WorkerInfo {
    /// The worker's id, unique to this process.
    pub worker_id: String,
    /// The worker's name; the host's name unless it was set.
    pub name: String,
    /// The host that the worker runs on.
    pub hostname: String,
    /// Its process id on that host.
    pub pid: u32,
    /// The version of naq.
    pub version: String,
    /// The queues that it pulls from, in order of priority.
    pub queues: Vec<QueueName>,
    /// How many jobs it runs at once at most.
    pub concurrency: u32,
    /// What the worker is doing.
    pub state: WorkerState,
    /// How many jobs it runs now, with those whose outcome is not recorded yet.
    pub running: u32,
    /// The ids of its running jobs, at most 100.
    pub jobs: Vec<JobId>,
    /// How many jobs have ended since it started.
    pub jobs_ended: u64,
    /// How many of its claims and outcomes NATS does not store at the moment, for example because the
    /// store is full. While there are any, the worker takes no more jobs.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unstored_outcomes: u32,
    /// Why NATS does not store them. `None` if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unstored_error: Option<String>,
    /// How it contains the processes of a job: `cgroup`, `namespace` or `subreaper`.
    pub containment: String,
    /// How it keeps the memory limit of a job: `enforced` by the kernel, or `watched`, so that a job
    /// may use more between two samples. `None` from a worker of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
    /// The runners whose programs this worker has found, each with the version of its program; an empty text
    /// if the program does not say it. Empty until the worker has looked, some seconds after its start.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub runners: BTreeMap<String, String>,
    /// The labels of the worker.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When the worker started.
    pub started_at: Timestamp,
    /// When it wrote this heartbeat.
    pub last_seen: Timestamp,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

keeps_unknown_fields!(WorkerInfo);
