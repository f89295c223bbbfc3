//! The wire types of naq: the envelopes, records, schedules and heartbeats that producers, workers,
//! schedulers and tools exchange over NATS, and the rules by which they are parsed.
//!
//! ```
//! use naq_protocol::{Envelope, RejectReason, Stdin};
//!
//! let envelope = Envelope::parse(br#"{"command": "./resize.sh", "args": ["a.png"], "timeout": "5m"}"#)?;
//! assert_eq!(envelope.summary(), "./resize.sh a.png");
//! assert_eq!(envelope.stdin_source(), Stdin::Empty);
//!
//! // Parsing is strict, and an error names the path of the invalid field.
//! let error = Envelope::parse(br#"{"command": "x", "env": {"A": 1}}"#).unwrap_err();
//! assert_eq!((error.reason, error.path.as_str()), (RejectReason::Invalid, "env.A"));
//! # Ok::<(), naq_protocol::EnvelopeError>(())
//! ```
//!
//! A producer in any language publishes an [`Envelope`] to a queue. A worker claims the job by
//! writing its [`Record`], and writes the outcome to the same record.
//!
//! # Semantics
//!
//! A job runs at least once: after a crash, its message is redelivered and it runs again. Its
//! outcome is recorded once: a record is written by compare-and-set, and a terminal state is final,
//! see [`State::can_become`].
//!
//! # Versions
//!
//! Every later version reads what this one writes. Unknown fields are ignored, and survive wherever
//! naq forwards an envelope or changes a record, a schedule or another stored object. Those of an
//! envelope that a worker must not ignore are refused with [`RejectReason::NotAllowed`]: unknown limits,
//! the names of what is planned, and what the envelope lists in `must_understand`. An unknown state, reason, status, policy, condition or strategy is read
//! as `Unknown` and shown as it is: naq leaves a record in an unknown state alone, enqueues no tick
//! by an unknown policy, and decides nothing by an unknown condition. Where a user sets such a name,
//! it is refused with the names that exist. An envelope whose `version` is too high is rejected with
//! [`RejectReason::UnsupportedVersion`], since a worker must not run a job that it only half
//! understands.
//!
//! # Errors
//!
//! [`EnvelopeError`] has a reason, the path of the field, and a message of one line. [`InvalidName`]
//! says why a text is no job id, queue name or schedule id. Both escape and shorten what they
//! quote, so that they are safe to show in a terminal.
//!
//! # Platform
//!
//! Any. The crate performs no I/O, reads no clock (except for the time in [`JobId::generate`]), and
//! depends on no runtime.
//!
//! `docs/glossary.md` is the glossary: the meaning of each term, and the type that stands for it.

mod argument;
mod artifact_pattern;
mod attempts;
mod audit;
mod closest_match;
mod dependency;
mod digest;
mod envelope;
mod envelope_schema;
mod envelope_setters;
mod envelope_validate;
mod error;
mod files;
mod flow;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzz;
mod input_sources;
mod inputs;
mod job_socket;
mod json;
mod lenient;
mod limits;
mod merge_patch;
mod names;
mod ordered_object;
mod output;
mod phase;
mod planned_fields;
mod record;
mod record_outline;
mod rerun;
mod retry;
mod schedule;
mod scheduler;
mod schema;
mod schema_conditions;
mod slots;
mod state;
mod text;
mod time;
mod trace_context;
pub mod units;
mod unknown_fields;
mod version;
mod wire_name;
mod worker;

pub use argument::Argument;
pub use artifact_pattern::{ARTIFACT_PATTERNS_MAX, ArtifactPattern};
pub use attempts::{Attempt, AttemptOutcome};
pub use audit::{
    AUDIT_NAME_CHARS_MAX, AUDIT_TEXT_CHARS_MAX, AuditAction, AuditEntry, AuditInterface,
};
pub use closest_match::closest_match;
pub use dependency::{DEPENDENCIES_MAX, Dependency, DependencyCondition};
pub use digest::{ShortDigest, is_equivalent, short_digest};
pub use envelope::{Envelope, Stdin};
pub use error::{EnvelopeError, RejectReason};
pub use files::{
    Artifact, FILE_BYTES_MAX, FILE_PATH_BYTES_MAX, FILES_BYTES_MAX, FILES_MAX, FileDigest,
    InvalidDigest, SCRIPT_BYTES_MAX, UploadedFile, check_file_path,
};
pub use flow::{FLOW_JOBS_MAX, FLOW_LABEL, Flow, FlowMember};
pub use input_sources::InputSource;
pub use inputs::{InputGap, Inputs, JobInput};
pub use job_socket::{
    JOB_SOCKET_VARIABLE, JOB_TOKEN_VARIABLE, JobReply, JobReplyError, JobRequest, JobRequestKind,
    JobStream,
};
pub use json::{DEPTH_MAX, VALUES_MAX};
pub use limits::{OUTPUT_BYTES_MAX, ResourceLimits};
pub use merge_patch::merge_patch;
pub use names::{
    InputName, InvalidName, JOB_ID_CHARS_MAX, JobId, NAME_CHARS_MAX, QueueName,
    SCHEDULE_ID_CHARS_MAX, ScheduleId, check_prefix, compact,
};
pub use output::CapturedOutput;
pub use phase::{InvalidPhase, Outcome, Phase};
pub use record::{
    BlockedOn, Exception, FAILED_ATTEMPT_TEXT_BYTES_MAX, FAILED_ATTEMPTS_MAX, FailedAttempt,
    INTERRUPTIONS_MAX, Interruption, JobProgress, Lease, Preparation, Record, ResourceUsage,
};
pub use record_outline::{Blocker, RecordOutline};
pub use rerun::rerun_envelope;
pub use retry::{Backoff, RetryDelay};
pub use schedule::{
    BACKFILL_LABEL, INTERVAL_MS_MIN, LeaderInfo, MISFIRE_GRACE_DEFAULT, MISFIRE_MAX_DEFAULT,
    MISFIRE_MAX_MAX, Misfire, Overlap, Schedule, ScheduleProgress, ScheduleStatus, TickEnvelope,
};
pub use scheduler::{SchedulerInfo, SchedulerState};
pub use schema::{SCHEMAS, schema};
pub use slots::{SlotHolder, Slots};
pub use state::{IllegalTransition, Reason, State};
pub use text::{command_line, escape, escape_json};
pub use time::Timestamp;
pub use trace_context::{InvalidTraceContext, TRACEPARENT_HEADER, TraceContext};
pub use unknown_fields::UnknownFields;
pub use wire_name::UnknownName;
pub use worker::{HEARTBEAT_JOBS_MAX, WorkerInfo, WorkerState};
