//! What lists and events have in common about a job.

use serde::Serialize;

use naq_protocol::{JobId, QueueName, Reason, Record, RecordOutline, State};

/// The part of a job's record that both [`JobSummary`](crate::JobSummary) and
/// [`JobEvent`](crate::JobEvent) contain. In JSON, its fields are the containing object's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(rename = "record_summary")]
#[non_exhaustive]
pub struct RecordSummary {
    /// The job.
    pub job_id: JobId,
    /// The job's queue.
    pub queue: QueueName,
    /// The job's state.
    pub state: State,
    /// Why the job ended as it did. `None` means that it has not ended, or succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What went wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many attempts have started.
    pub attempt: u32,
    /// The exit code of the last attempt. `None` means that none has exited by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that killed the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The job that this job reruns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<JobId>,
}

impl From<&Record> for RecordSummary {
    fn from(record: &Record) -> RecordSummary {
        RecordSummary {
            job_id: record.job_id.clone(),
            queue: record.queue.clone(),
            state: record.state(),
            reason: record.reason(),
            error: record.error.clone(),
            attempt: record.attempt,
            exit_code: record.exit_code,
            signal: record.signal,
            rerun_of: record.rerun_of.clone(),
        }
    }
}

impl RecordSummary {
    /// The summary of a record of which only the outline was read.
    pub(super) fn of_outline(job_id: JobId, outline: RecordOutline) -> RecordSummary {
        RecordSummary {
            job_id,
            queue: outline.queue,
            state: outline.state,
            reason: outline.reason,
            error: outline.error,
            attempt: outline.attempt,
            exit_code: outline.exit_code,
            signal: outline.signal,
            rerun_of: outline.rerun_of,
        }
    }
}
