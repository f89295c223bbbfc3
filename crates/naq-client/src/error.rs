//! The errors of the library, and their kinds.

use naq_core::{BackfillError, ScheduleError, StartDelayError};
use naq_jetstream::{BrokerError, BrokerErrorKind};
use naq_protocol::{
    EnvelopeError, InvalidName, JobId, QueueName, ScheduleId, ScheduleStatus, State, Timestamp,
    escape,
};

use crate::config::ConfigError;

/// Why an operation of the client failed.
///
/// A message says what failed and why, in one line. What a caller can do about an error follows
/// from its [`kind`](ClientError::kind).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// NATS could not be reached, refused the request, or holds other data than expected.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The settings are invalid; only [`Client::from_env`](crate::Client::from_env) reads them.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An earlier version of naq has started the managed local server, with a token for its clients.
    #[error(
        "an earlier version of naq has started the managed server, with a token instead of a key"
    )]
    EarlierServer,
    /// No setting is about NATS, and no managed local server runs.
    #[error("no NATS server is configured, and no managed server of this user runs")]
    NoServer,
    /// Settings are about NATS, such as credentials, and none is its address. They may be for any
    /// server, and any user of the machine may listen at the default port of NATS.
    #[error("NATS is configured without an address, so naq does not connect")]
    AddressMissing,
    /// The envelope is invalid, so no worker would accept it.
    #[error(transparent)]
    Invalid(#[from] EnvelopeError),
    /// The name of a queue, job or schedule is invalid.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The schedule is invalid.
    #[error(transparent)]
    ScheduleError(#[from] ScheduleError),
    /// No schedule has this name.
    #[error("there is no schedule `{0}`")]
    NoSuchSchedule(String),
    /// Another schedule already has this name.
    #[error("the schedule `{schedule}` already exists with a different {fields}")]
    ScheduleExists {
        /// The name of the schedule.
        schedule: ScheduleId,
        /// The fields that differ, separated by commas.
        fields: String,
    },
    /// A schedule that a schedule set describes already exists and does not belong to the set.
    #[error("the schedule `{schedule}` {}", describe_owner(.set.as_deref()))]
    ScheduleOwnedElsewhere {
        /// The name of the schedule.
        schedule: ScheduleId,
        /// The set that owns the schedule. `None` means that no set owns it.
        set: Option<String>,
    },
    /// The schedule has no more ticks, so it can be neither paused nor resumed.
    #[error("the schedule `{0}` has ended")]
    ScheduleEnded(ScheduleId),
    /// Only a later version of naq knows the schedule's status, so the schedule can be neither paused
    /// nor resumed here.
    #[error(
        "the schedule `{schedule}` is {status}, a status of a later version of naq; use that version"
    )]
    UnknownScheduleStatus {
        /// The name of the schedule.
        schedule: ScheduleId,
        /// The schedule's status.
        status: ScheduleStatus,
    },
    /// The range of a backfill is invalid.
    #[error(transparent)]
    InvalidBackfill(#[from] BackfillError),
    /// No worker with this id or name runs.
    #[error("there is no worker `{0}`")]
    NoSuchWorker(String),
    /// Several workers with this name run.
    #[error("several workers are named `{0}`; give an id")]
    AmbiguousWorker(String),
    /// Neither a record nor a message of this job exists.
    #[error("there is no job `{0}`: it was never enqueued here, or its record has expired")]
    NoSuchJob(JobId),
    /// The operation needs a job that has ended.
    #[error("the job `{job}` has not ended: it is {state}")]
    NotEnded {
        /// The job.
        job: JobId,
        /// The job's state.
        state: State,
    },
    /// The stored envelope is invalid, so the job cannot be rerun.
    #[error("the job `{job}` cannot be run again: {problem}")]
    NotRerunnable {
        /// The job.
        job: JobId,
        /// What is wrong, for people.
        problem: String,
        /// What is wrong with the envelope.
        source: EnvelopeError,
    },
    /// Only a later version of naq knows the job's state, so the job cannot be cancelled here.
    #[error("the job `{job}` is {state}, a state of a later version of naq; use that version")]
    UnknownJobState {
        /// The job.
        job: JobId,
        /// The job's state.
        state: State,
    },
    /// The job's envelope is no longer stored, so the job cannot be rerun.
    #[error("the envelope of the job `{0}` is no longer stored, so it cannot be run again")]
    NoEnvelope(JobId),
    /// There is no dead letter of this job.
    #[error("there is no failed job `{0}`")]
    NoDeadLetter(JobId),
    /// The job cannot start at the requested time.
    #[error(transparent)]
    InvalidDueTime(#[from] StartDelayError),
    /// The job is not delayed: it is in its queue, has started, or has ended.
    #[error("the job `{job}` {}", not_delayed(*.state))]
    NotDelayed {
        /// The job.
        job: JobId,
        /// The job's state.
        state: State,
    },
    /// The due time of the delayed job has passed, so the server may already be moving it into its
    /// queue.
    #[error("the job `{job}` was due at {due} and is on its way into its queue")]
    AlreadyDue {
        /// The job.
        job: JobId,
        /// The due time.
        due: Timestamp,
    },
    /// Another program delayed the job by a server-side schedule that is not a single time.
    #[error(
        "the job `{job}` has no due time: another program delayed it by the server-side schedule `{}`",
        escape(.schedule)
    )]
    NoDueTime {
        /// The job.
        job: JobId,
        /// The schedule, as the server stores it.
        schedule: String,
    },
    /// The queue contains at least as many jobs as the caller allows.
    #[error("the queue `{queue}` contains {depth} jobs; the limit is {max}")]
    QueueFull {
        /// The queue.
        queue: QueueName,
        /// How many jobs are queued or delayed there.
        depth: u64,
        /// The caller's limit.
        max: u64,
    },
}

/// What a caller can do about a [`ClientError`]. The `naq` command turns each kind into an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument, a name or a setting is invalid. Correct it.
    Usage,
    /// NATS is unreachable, too old, did not answer, or denied the request. Check the connection
    /// and the permissions; the same call may succeed later.
    Unavailable,
    /// The job, queue, schedule or stored data does not exist.
    NotFound,
    /// What exists contradicts the request: an id that is in use, or a state that does not allow
    /// the operation.
    Conflict,
    /// The envelope or the requested change is not acceptable. Repeating the call does not help.
    Refused,
    /// A queue or the server's storage is full.
    Full,
    /// Anything else: the server refused, or stored data cannot be read.
    Failed,
}

impl ClientError {
    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            ClientError::Broker(error) => broker_kind(error),
            ClientError::Config(_)
            | ClientError::Name(_)
            | ClientError::AddressMissing
            | ClientError::InvalidBackfill(_) => ErrorKind::Usage,
            ClientError::NoServer | ClientError::EarlierServer => ErrorKind::Unavailable,
            ClientError::Invalid(_) => ErrorKind::Refused,
            ClientError::ScheduleError(ScheduleError::Envelope(_)) => ErrorKind::Refused,
            ClientError::ScheduleError(_) => ErrorKind::Usage,
            ClientError::NoSuchJob(_)
            | ClientError::NoSuchSchedule(_)
            | ClientError::NoSuchWorker(_)
            | ClientError::AmbiguousWorker(_)
            | ClientError::NoDeadLetter(_)
            | ClientError::NoEnvelope(_) => ErrorKind::NotFound,
            ClientError::NotEnded { .. }
            | ClientError::ScheduleExists { .. }
            | ClientError::ScheduleOwnedElsewhere { .. }
            | ClientError::ScheduleEnded(_)
            | ClientError::UnknownJobState { .. }
            | ClientError::UnknownScheduleStatus { .. }
            | ClientError::NotDelayed { .. }
            | ClientError::AlreadyDue { .. } => ErrorKind::Conflict,
            ClientError::NotRerunnable { .. }
            | ClientError::InvalidDueTime(_)
            | ClientError::NoDueTime { .. } => ErrorKind::Refused,
            ClientError::QueueFull { .. } => ErrorKind::Full,
        }
    }
}

fn broker_kind(error: &BrokerError) -> ErrorKind {
    match error.kind() {
        BrokerErrorKind::InvalidOptions => ErrorKind::Usage,
        BrokerErrorKind::Connection
        | BrokerErrorKind::Unsupported
        | BrokerErrorKind::Timeout
        | BrokerErrorKind::PermissionDenied => ErrorKind::Unavailable,
        BrokerErrorKind::NotFound => ErrorKind::NotFound,
        BrokerErrorKind::Conflict => ErrorKind::Conflict,
        BrokerErrorKind::TooLarge => ErrorKind::Refused,
        BrokerErrorKind::StorageFull => ErrorKind::Full,
        _ => ErrorKind::Failed,
    }
}

fn not_delayed(state: State) -> String {
    match state {
        State::Retrying => {
            "waits to be retried: it can be retried at another time or now, but not paused"
                .to_owned()
        }
        state => format!("is not delayed: it is {state}"),
    }
}

fn describe_owner(set: Option<&str>) -> String {
    match set {
        Some(set) => format!("belongs to the schedule set `{}`", escape(set)),
        None => "already exists and does not belong to this schedule set".to_owned(),
    }
}
