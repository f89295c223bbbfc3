//! The wire types: what producers, workers and tools say to each other, and how it is read.
//!
//! This room parses and validates. It does no I/O and reads no clock; it knows neither NATS nor
//! processes.

mod closest_match;
mod dependency;
mod escape;
mod flow;
mod job;
mod json;
mod names;
mod ordered_object;
mod record;
mod rerun;
mod schedule;
mod schema;
pub mod units;
mod worker;

pub use closest_match::closest_match;
pub use dependency::{DEPENDENCIES_MAX, Dependency, DependencyCondition};
pub use escape::escape;
pub use flow::{FLOW_JOBS_MAX, FLOW_LABEL, Flow, FlowMember};
pub use job::{
    Backoff, Envelope, OUTPUT_BYTES_MAX, ResourceLimits, RetryDelay, Stdin, is_equivalent,
};
pub use json::DEPTH_MAX;
pub use names::{
    InvalidName, JOB_ID_CHARS_MAX, JobId, NAME_CHARS_MAX, QueueName, SCHEDULE_ID_CHARS_MAX,
    ScheduleId,
};
pub use record::{
    BlockedOn, CapturedOutput, JobProgress, Lease, Reason, Record, ResourceUsage, State, Timestamp,
};
pub use rerun::rerun_envelope;
pub use schedule::{
    INTERVAL_MS_MIN, LeaderInfo, MISFIRE_GRACE_DEFAULT, MISFIRE_MAX_DEFAULT, MISFIRE_MAX_MAX,
    Misfire, Overlap, Schedule, ScheduleProgress, ScheduleStatus, TickEnvelope,
};
pub use schema::{SCHEMAS, schema};
pub use worker::{WorkerInfo, WorkerState};

/// Why an envelope never became a job.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// The bytes are not a well-formed envelope.
    Invalid,
    /// The envelope is of a version this naq does not know.
    UnsupportedVersion,
    /// The worker's policy refuses what it asks for.
    NotAllowed,
}

impl RejectReason {
    /// The reason as it stands in records and headers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RejectReason::Invalid => "invalid",
            RejectReason::UnsupportedVersion => "unsupported_version",
            RejectReason::NotAllowed => "not_allowed",
        }
    }
}

impl std::fmt::Display for RejectReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The longest account of what is wrong with an envelope, in characters.
const MESSAGE_CHARS_MAX: usize = 500;

/// What is wrong with an envelope, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct EnvelopeError {
    /// The kind of refusal.
    pub reason: RejectReason,
    /// The path of the offending field (`env.A`, `args[2]`), empty for the envelope itself.
    pub path: String,
    /// What is wrong, in words, with line and column where the text is at fault.
    pub message: String,
}

impl EnvelopeError {
    /// A refusal at a path. What it quotes of the envelope is escaped: it goes to logs.
    pub fn new(
        reason: RejectReason,
        path: impl Into<String>,
        message: impl Into<String>,
    ) -> EnvelopeError {
        let mut message = message.into();
        // it may quote a value of any length
        if let Some((end, _)) = message.char_indices().nth(MESSAGE_CHARS_MAX) {
            message.truncate(end);
            message.push('…');
        }
        EnvelopeError {
            reason,
            path: escape(&path.into()),
            message: escape(&message),
        }
    }
}

impl std::fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() {
            write!(f, "envelope: {}", self.message)
        } else {
            write!(f, "envelope: `{}`: {}", self.path, self.message)
        }
    }
}
