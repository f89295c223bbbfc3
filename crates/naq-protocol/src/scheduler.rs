//! The heartbeat that a scheduler writes to the bucket `naq_schedulers`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lenient;
use crate::time::Timestamp;
use crate::unknown_fields::{UnknownFields, keeps_unknown_fields};
use crate::wire_name::{UnknownName, wire_name};

/// What a scheduler is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SchedulerState {
    /// It is the leader, and enqueues ticks.
    Leading,
    /// It waits for the lease of the leader.
    StandingBy,
    /// It neither leads nor waits for the lease, since its clock is too far from the server's.
    ClockOff,
    /// A state that only a later version of naq defines.
    #[schemars(skip)]
    Unknown(UnknownName),
}

wire_name!(SchedulerState, "a state of a scheduler", {
    Leading => "leading",
    StandingBy => "standing_by",
    ClockOff => "clock_off",
});

/// A scheduler's heartbeat.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct SchedulerInfo {
    /// The scheduler's name, as in the leader's lease.
    pub instance_id: String,
    /// The host that the scheduler runs on.
    pub hostname: String,
    /// Its process id on that host.
    pub pid: u32,
    /// The version of naq.
    pub version: String,
    /// What the scheduler is doing.
    pub state: SchedulerState,
    /// When it began to do so.
    pub since: Timestamp,
    /// How many milliseconds its clock is ahead of the server's; negative if it is behind. Absent if the
    /// server did not answer.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    pub clock_offset_ms: Option<i64>,
    /// How many ticks it has enqueued since it started.
    pub enqueued: u64,
    /// When the scheduler started.
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

keeps_unknown_fields!(SchedulerInfo);
