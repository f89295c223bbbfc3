//! What a job asks of its worker over the worker's socket: one JSON object per line, and one line
//! per reply.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::names::{JobId, QueueName};
use crate::record::Record;
use crate::time::Timestamp;
use crate::units::WireDuration;

/// The variable of a job that holds the path of its worker's socket. Empty means that the worker
/// grants its jobs nothing.
pub const JOB_SOCKET_VARIABLE: &str = "NAQ_JOB_SOCKET";

/// The variable of a job that holds the token of its requests.
pub const JOB_TOKEN_VARIABLE: &str = "NAQ_JOB_TOKEN";

/// What a job may ask for. Each name is a value of `request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobRequestKind {
    /// Enqueue `envelope` to `queue`.
    Enqueue,
    /// Return the record of `job_id`, and what the job waits for.
    Status,
    /// Return the record of `job_id` once the job has ended, or after `timeout`.
    Wait,
    /// Return what `stream` of `job_id` keeps: a line with its length, then that many bytes.
    Output,
}

/// A stream of a job's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStream {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
}

/// A request of a job to its worker.
///
/// An unknown field is refused, unlike in an envelope: a worker that ignored it would do something
/// else than the job asked for.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// The job's token.
    pub token: String,
    /// What the job asks for.
    pub request: JobRequestKind,
    /// The queue of a new job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueName>,
    /// The envelope of a new job. It is stored as it is written here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Box<RawValue>>,
    /// The delay of a new job.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    pub delay: Option<WireDuration>,
    /// The time at which a new job starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The job to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// How long to wait for the end of the job. The worker may reply earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<WireDuration>,
    /// The stream to read; standard output if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<JobStream>,
}

impl JobRequest {
    /// A request without arguments.
    #[must_use]
    pub fn new(token: impl Into<String>, request: JobRequestKind) -> JobRequest {
        JobRequest {
            token: token.into(),
            request,
            queue: None,
            envelope: None,
            delay: None,
            at: None,
            job_id: None,
            timeout: None,
            stream: None,
        }
    }
}

/// Omits the token and the envelope, which may contain secrets.
impl fmt::Debug for JobRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobRequest")
            .field("request", &self.request)
            .field("queue", &self.queue)
            .field("job_id", &self.job_id)
            .finish_non_exhaustive()
    }
}

/// A worker's reply to a job, one line. Exactly one field is present, apart from `waits_for`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct JobReply {
    /// The id of the job that was enqueued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// The record that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<Box<Record>>,
    /// What the job of `record` waits for: an object, with the name of the cause as `cause`. `None` if
    /// the job has ended, is running or will be started at once, or if only its record was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<Box<RawValue>>,
    /// The number of bytes of output that follow the line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Why the request failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<JobReplyError>,
}

impl JobReply {
    /// The reply to an enqueue.
    #[must_use]
    pub fn enqueued(job_id: JobId) -> JobReply {
        JobReply {
            job_id: Some(job_id),
            ..JobReply::default()
        }
    }

    /// The reply with a record, and with what its job waits for.
    #[must_use]
    pub fn status(record: Record, waits_for: Option<Box<RawValue>>) -> JobReply {
        JobReply {
            waits_for,
            ..JobReply::record(record)
        }
    }

    /// The reply with a record.
    #[must_use]
    pub fn record(record: Record) -> JobReply {
        JobReply {
            record: Some(Box::new(record)),
            ..JobReply::default()
        }
    }

    /// The line before an output.
    #[must_use]
    pub fn output(bytes: u64) -> JobReply {
        JobReply {
            bytes: Some(bytes),
            ..JobReply::default()
        }
    }
}

impl From<JobReplyError> for JobReply {
    fn from(error: JobReplyError) -> JobReply {
        JobReply {
            error: Some(error),
            ..JobReply::default()
        }
    }
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReplyError {
    /// The stable word for the kind of error: `denied`, or one that `naq` prints with `--json`.
    pub code: String,
    /// What failed and why, in one line.
    pub message: String,
    /// What to do about it. `None` means that the message suffices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl JobReplyError {
    /// An error without a hint.
    #[must_use]
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> JobReplyError {
        JobReplyError {
            code: code.into(),
            message: message.into(),
            hint: None,
        }
    }

    /// The refusal of a worker that does not grant a right (`enqueue` or `read`), or not for `queue`
    /// (`None` means not at all). `flag` is the grant to start the worker with.
    #[must_use]
    pub fn not_granted(right: &str, queue: Option<&QueueName>, flag: &str) -> JobReplyError {
        let limit = queue.map_or(String::new(), |queue| format!(" for queue `{queue}`"));
        JobReplyError {
            hint: Some(format!("start it with `--grant {flag}`")),
            ..JobReplyError::new(
                DENIED,
                format!("this worker does not grant `{right}`{limit}"),
            )
        }
    }
}

/// The [`JobReplyError::code`] of what the worker does not grant.
const DENIED: &str = "denied";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_the_text_of_its_envelope() {
        let line = r#"{"token":"t","request":"enqueue","queue":"q","envelope":{"command": "x","later_field":12345678901234567890123}}"#;
        let request: JobRequest = serde_json::from_str(line).unwrap();
        assert_eq!(request.request, JobRequestKind::Enqueue);
        assert_eq!(
            request.envelope.unwrap().get(),
            r#"{"command": "x","later_field":12345678901234567890123}"#
        );
    }

    #[test]
    fn unknown_requests_and_fields_are_refused_by_name() {
        for (line, word) in [
            (r#"{"token":"t","request":"purge"}"#, "purge"),
            (
                r#"{"token":"t","request":"status","job":"a"}"#,
                "unknown field `job`",
            ),
            (r#"{"request":"status","job_id":"a"}"#, "token"),
        ] {
            let error = serde_json::from_str::<JobRequest>(line).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn debug_hides_the_token() {
        let request = JobRequest::new("secret", JobRequestKind::Status);
        assert!(!format!("{request:?}").contains("secret"));
    }
}
