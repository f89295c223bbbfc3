//! A job's record: its claim, progress and outcome, stored as one value under the job's id.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::dependency::Dependency;
use crate::files::Artifact;
use crate::lenient;
use crate::names::{JobId, QueueName, ScheduleId};
use crate::output::CapturedOutput;
use crate::state::{IllegalTransition, Reason, State};
use crate::time::Timestamp;
use crate::unknown_fields::{UnknownFields, keeps_unknown_fields};
use crate::wire_name::UnknownName;

/// A worker's lease on a job: its right to run the job while it keeps the message that the lease
/// names.
#[derive(Clone, Debug, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct Lease {
    /// The worker that holds the lease.
    pub worker_id: String,
    /// The sequence of its message in the queue's stream.
    #[serde(deserialize_with = "lenient::integer")]
    pub sequence: u64,
    /// The delivery count of that message when the job was claimed; the first delivery is 1.
    #[serde(deserialize_with = "lenient::integer")]
    pub delivery: u64,
    /// Whether the worker runs the job alone: as its only job, or as its only suspect and in a
    /// spawner process of its own. A crash is then the job's.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub alone: bool,
    /// Whether the worker claimed the job while it ran as many others as it may, to start it as soon as one of
    /// them ends. Nobody knows whether such a job has started, so its worker's crash is not counted as the
    /// job's.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub claimed_ahead: bool,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

/// Leases are equal if worker, sequence and delivery are: `alone`, `claimed_ahead` and unknown fields do
/// not count.
impl PartialEq for Lease {
    fn eq(&self, other: &Lease) -> bool {
        let token = |lease: &Lease| (lease.sequence, lease.delivery);
        self.worker_id == other.worker_id && token(self) == token(other)
    }
}

/// Number of interruptions that a record lists; older ones are dropped.
pub const INTERRUPTIONS_MAX: usize = 16;

/// An attempt that ended without an outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct Interruption {
    /// The worker that ran the attempt.
    pub worker_id: String,
    /// When another worker, or the same one later, found out.
    pub at: Timestamp,
    /// Whether the worker or its spawner process crashed. Otherwise the worker gave its lease up
    /// during an outage of NATS and stopped the job, which is no crash.
    pub crashed: bool,
    /// Whether other jobs ran in the process that crashed, or may have. Nobody knows which of them
    /// was the cause, so the crash is not counted, and the job became a suspect.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub shared: bool,
    /// The number of the attempt. Absent in a record of an earlier version.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    pub attempt: Option<u32>,
    /// When the attempt started. Absent in a record of an earlier version.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub started_at: Option<Timestamp>,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

/// Number of failed attempts that a record lists; older ones are dropped.
pub const FAILED_ATTEMPTS_MAX: usize = 16;

/// Number of bytes that a failed attempt keeps of the end of each of its outputs, and of its error.
pub const FAILED_ATTEMPT_TEXT_BYTES_MAX: usize = 1_024;

/// An attempt that failed and was followed by a retry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct FailedAttempt {
    /// The number of the attempt.
    #[serde(deserialize_with = "lenient::integer")]
    pub attempt: u32,
    /// The worker that ran it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    /// When it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Why it failed.
    pub reason: Reason,
    /// The exit code of its first process.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    pub exit_code: Option<i32>,
    /// The signal that killed its first process.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    pub signal: Option<i32>,
    /// What went wrong: at most the first 1,024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The resources that it used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<ResourceUsage>,
    /// The last 1,024 bytes of its standard output, as text. Absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout_tail: Option<String>,
    /// The last 1,024 bytes of its standard error, as text. Absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr_tail: Option<String>,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

/// What an attempt did before its start, outside of the job's timeout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct Preparation {
    /// What it wrote, standard output first: at most the last 4,096 bytes.
    pub output: String,
    /// How long it took, in milliseconds.
    #[serde(deserialize_with = "lenient::integer")]
    pub wall_ms: u64,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

/// The exception by which an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct Exception {
    /// The name of its type, such as `ValueError`: at most the first 256 bytes.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its message: at most the first 4,096 bytes.
    pub message: String,
    /// The trace, in the form of its language: at most the last 16,384 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Whether every retry would fail in the same way.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub fatal: bool,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

/// What a blocked job waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct BlockedOn {
    /// The dependencies that are not satisfied yet.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub dependencies: Vec<Dependency>,
    /// The concurrency key whose slots are all in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// When the job was blocked.
    pub since: Timestamp,
    /// When a dependency that is still missing fails the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

/// The resources that a job's processes used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct ResourceUsage {
    /// The largest resident set size of any one process, in bytes.
    #[serde(deserialize_with = "lenient::integer")]
    pub max_rss_bytes: u64,
    /// CPU time in user mode, in milliseconds.
    #[serde(deserialize_with = "lenient::integer")]
    pub cpu_user_ms: u64,
    /// CPU time in the kernel, in milliseconds.
    #[serde(deserialize_with = "lenient::integer")]
    pub cpu_system_ms: u64,
    /// Time from start to end, in milliseconds.
    #[serde(deserialize_with = "lenient::integer")]
    pub wall_ms: u64,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

/// The progress that a job reported last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct JobProgress {
    /// Percentage, 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// A message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

/// A job's record in the bucket `naq_results`. A worker claims the job and records its outcome by
/// compare-and-set on this record.
///
/// The state and the fields that belong to it (`reason`, `lease`, `waits`, `finished_at` and
/// `next_attempt_at`) are set together, by [`Record::set_phase`], so that no other state carries
/// them. They are read by methods of the same names. A record is read from its bytes whatever they
/// combine; [`Record::phase`] tells whether they fit.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(
    description = "A job's record in the bucket `naq_results`. A worker claims the job and records its outcome by compare-and-set on this record."
)]
pub struct Record {
    /// The id of the job.
    pub job_id: JobId,
    /// The queue of the job.
    pub queue: QueueName,
    /// The state of the job.
    pub(crate) state: State,
    /// Why the job finished as it did, or why its last attempt failed; absent after a success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<Reason>,
    /// The number of the current or last attempt; 0 before the first one.
    #[serde(deserialize_with = "lenient::integer")]
    pub attempt: u32,
    /// A number that only grows over the attempts of the job, also if the bucket loses its last records
    /// or is made again: the time of the claim in milliseconds since the Unix epoch, but more than the
    /// attempt before. A job passes it on, so that writes of a stale attempt can be refused.
    #[serde(
        default,
        deserialize_with = "lenient::integer_or_default",
        skip_serializing_if = "is_zero"
    )]
    pub fence: u64,
    /// How many workers or spawner processes crashed that ran the job alone, or ran it as a suspect.
    #[serde(
        default,
        deserialize_with = "lenient::integer_or_default",
        skip_serializing_if = "is_zero"
    )]
    pub crashes: u32,
    /// How many attempts ended in a crash that other jobs may have caused. Like `crashes` they use up
    /// no retry, and unlike `crashes` they never fail the job.
    #[serde(
        default,
        deserialize_with = "lenient::integer_or_default",
        skip_serializing_if = "is_zero"
    )]
    pub shared_crashes: u32,
    /// Whether the job may have crashed a worker or a spawner process that also ran other jobs. Such
    /// a job runs alone, one at a time on each worker, until an attempt ends without a crash.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub suspect: bool,
    /// How many attempts were stopped because their worker lost its lease during an outage of NATS.
    /// They use up no retry.
    #[serde(
        default,
        deserialize_with = "lenient::integer_or_default",
        skip_serializing_if = "is_zero"
    )]
    pub lost_leases: u32,
    /// The last attempts that ended by a crash or a lost lease, oldest first; at most 16.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub interruptions: Vec<Interruption>,
    /// The last attempts that failed and were retried, oldest first; at most 16. While the job waits
    /// for a retry, the last of them is also what the record's own fields describe.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub failed_attempts: Vec<FailedAttempt>,
    /// How many workers in a row could not start the job because their machines were short of
    /// something.
    #[serde(
        default,
        deserialize_with = "lenient::integer_or_default",
        skip_serializing_if = "is_zero"
    )]
    pub failed_starts: u32,
    /// The worker that runs or last ran the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    /// The worker's lease, while the job is running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lease: Option<Lease>,
    /// When the server stored the job's message.
    pub enqueue_time: Timestamp,
    /// When the current or last attempt started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the job finished or, while it waits for a retry, when its last attempt ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) finished_at: Option<Timestamp>,
    /// When the next attempt may start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_attempt_at: Option<Timestamp>,
    /// The exit code of the last attempt's first process.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    pub exit_code: Option<i32>,
    /// The signal that killed the last attempt's first process.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    pub signal: Option<i32>,
    /// The standard output of the last attempt: the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<CapturedOutput>,
    /// The standard error of the last attempt: the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<CapturedOutput>,
    /// The structured result that the job sent over its control channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub result: Option<Box<RawValue>>,
    /// The progress that the job reported last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<JobProgress>,
    /// The checkpoint that the job reported last; the next attempt receives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub checkpoint: Option<Box<RawValue>>,
    /// The resources that the last attempt used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<ResourceUsage>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The exception by which the last attempt failed, as the job reported it over its control channel.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub exception: Option<Exception>,
    /// What the last attempt did before its start, such as installing what its script needs. Absent if it had
    /// nothing to do.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub preparation: Option<Preparation>,
    /// Problems that did not make the job fail.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub warnings: Vec<String>,
    /// Whether processes outlived the first one and were killed.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub leaked: bool,
    /// Whether a cancel was requested.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub cancel_requested: bool,
    /// Whether other jobs depend on this one.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub has_dependents: bool,
    /// Whether the record is a placeholder: other jobs depend on the job, but no worker has seen it,
    /// and it may not exist.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub placeholder: bool,
    /// What the job waits for, while it is blocked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waits: Option<BlockedOn>,
    /// The sequence of the message by which the job was blocked, or by which the attempt ran that is
    /// retried. The message is removed; if it is redelivered before that, it must not start the job.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    pub superseded_sequence: Option<u64>,
    /// Whether all dependencies are satisfied; they are then not looked up again.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub dependencies_met: bool,
    /// The digest of the envelope's bytes, which reveals another envelope under the same id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envelope_digest: Option<String>,
    /// The job that this job reruns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<JobId>,
    /// The schedule that enqueued the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
    /// The tick of its schedule, or the start for which the job was enqueued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<Timestamp>,
    /// The W3C trace context from the headers of its message. That of the envelope takes precedence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The envelope's labels.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// The envelope, while the job is blocked and after it has finished. It contains names of secrets,
    /// never their values.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub envelope: Option<Box<RawValue>>,
    /// The object in the bucket `naq_files` that holds the structured result, if it is too large for
    /// the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_object: Option<String>,
    /// The object in the bucket `naq_files` that holds the envelope, if it is too large for the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envelope_object: Option<String>,
    /// The files that the last attempt has left, as far as they are kept.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub artifacts: Vec<Artifact>,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
    /// The first transition since the record was read or created that [`State::can_become`] rules
    /// out. `None` means that there was no such transition.
    #[serde(skip)]
    #[schemars(skip)]
    pub(crate) illegal_transition: Option<IllegalTransition>,
}

keeps_unknown_fields!(
    Exception,
    Preparation,
    Lease,
    Interruption,
    FailedAttempt,
    BlockedOn,
    ResourceUsage,
    JobProgress,
    Record,
);

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

impl Record {
    /// A record without history and without the fields that belong to its state.
    pub(crate) fn empty(
        job_id: JobId,
        queue: QueueName,
        state: State,
        enqueue_time: Timestamp,
    ) -> Record {
        Record {
            job_id,
            queue,
            state,
            reason: None,
            attempt: 0,
            fence: 0,
            crashes: 0,
            shared_crashes: 0,
            suspect: false,
            lost_leases: 0,
            interruptions: Vec::new(),
            failed_attempts: Vec::new(),
            failed_starts: 0,
            worker_id: None,
            lease: None,
            enqueue_time,
            started_at: None,
            finished_at: None,
            next_attempt_at: None,
            exit_code: None,
            signal: None,
            stdout: None,
            stderr: None,
            result: None,
            progress: None,
            checkpoint: None,
            usage: None,
            error: None,
            exception: None,
            preparation: None,
            warnings: Vec::new(),
            leaked: false,
            cancel_requested: false,
            has_dependents: false,
            placeholder: false,
            waits: None,
            superseded_sequence: None,
            dependencies_met: false,
            envelope_digest: None,
            rerun_of: None,
            schedule_id: None,
            scheduled_for: None,
            traceparent: None,
            labels: BTreeMap::new(),
            envelope: None,
            result_object: None,
            envelope_object: None,
            artifacts: Vec::new(),
            unknown: UnknownFields::default(),
            illegal_transition: None,
        }
    }

    /// Reads what it can of a stored record that is invalid, so that a list does not hide the job: its queue
    /// and its state as they are written, and in `error` why the rest cannot be read. The state is
    /// [`State::Unknown`] whatever its name is. `None` if the bytes name no queue and no state.
    #[must_use]
    pub fn unreadable(
        job_id: JobId,
        bytes: &[u8],
        stored_at: Timestamp,
        problem: &serde_json::Error,
    ) -> Option<Record> {
        #[derive(Deserialize)]
        struct Readable {
            queue: QueueName,
            state: String,
        }
        let readable: Readable = serde_json::from_slice(bytes).ok()?;
        let state = State::Unknown(UnknownName::new(&readable.state));
        let mut record = Record::empty(job_id, readable.queue, state, stored_at);
        record.error = Some(format!("the record cannot be read: {problem}"));
        Some(record)
    }

    /// The state of the job.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Why the job finished as it did, or why its last attempt failed. `None` after a success.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// The worker's lease. `None` unless the job is running.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// When the job finished or, while it waits for a retry, when its last attempt ended. `None` in
    /// any other state.
    #[must_use]
    pub fn finished_at(&self) -> Option<Timestamp> {
        self.finished_at
    }

    /// When the next attempt may start. `None` unless the job is delayed or retrying.
    #[must_use]
    pub fn next_attempt_at(&self) -> Option<Timestamp> {
        self.next_attempt_at
    }

    /// What the job waits for. `None` unless the job is blocked, or the record is a placeholder.
    #[must_use]
    pub fn waits(&self) -> Option<&BlockedOn> {
        self.waits.as_ref()
    }

    /// Number of attempts that ended without an outcome, by a crash or a lost lease. None of them is
    /// a failure of the job, so none uses up a retry.
    #[must_use]
    pub fn interrupted_attempts(&self) -> u32 {
        self.crashes
            .saturating_add(self.shared_crashes)
            .saturating_add(self.lost_leases)
    }

    /// The exit status that a shell would report: the exit code, 128 plus the signal, 124 after a
    /// timeout, 127 for a program that could not be started, and 1 for any other unsuccessful end.
    #[must_use]
    pub fn shell_exit_code(&self) -> u8 {
        let code = |code: i32| u8::try_from(code & 0xff).unwrap_or(1);
        match (self.state, self.reason) {
            (State::Succeeded, _) => self.exit_code.map_or(0, code),
            (_, Some(Reason::Timeout)) => 124,
            (_, Some(Reason::Spawn)) => 127,
            _ => match (self.exit_code, self.signal) {
                (_, Some(signal)) => code(128 + signal),
                (Some(0) | None, None) => 1,
                (Some(exit), None) => code(exit),
            },
        }
    }
}
