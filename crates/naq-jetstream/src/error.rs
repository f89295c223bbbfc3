//! Errors between naq and NATS.

use std::error::Error;
use std::sync::Arc;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::context::{ObjectStoreError, ObjectStoreErrorKind};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};

use crate::connection::connect_failure::ConnectFailure;
use crate::connection::denial::Denial;
use naq_core::ExistingJob;
use naq_protocol::{InvalidName, JobId, ScheduleId};

/// The error behind an error. Shared, since errors are cloned.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// What can go wrong between naq and NATS, distinguished by what a caller can do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// No connection could be opened.
    #[error("cannot connect to NATS at {url}: {problem}")]
    Connect {
        /// The address, without credentials.
        url: String,
        /// The kind of cause.
        failure: ConnectFailure,
        /// What happened, for people.
        problem: String,
        /// The error behind it. `None` if an option is invalid.
        source: Option<Cause>,
    },
    /// A remote server requires no credentials, and the options do not allow that.
    #[error(
        "{url} is another host and no credentials are given: anyone who can reach that server can run commands on its workers"
    )]
    InsecureServer {
        /// The address, without credentials.
        url: String,
    },
    /// The server does not support what naq needs.
    #[error("{0}")]
    UnsupportedServer(String),
    /// A stream or consumer that someone else made has a setting with which naq does not work.
    #[error("{object} has `{setting}` {found} where naq needs {wanted}: {reason}")]
    Unsuitable {
        /// The stream or consumer.
        object: String,
        /// The setting's name in the JetStream API.
        setting: &'static str,
        /// The value that it has.
        found: String,
        /// The value that naq needs.
        wanted: String,
        /// Why naq does not change it.
        reason: String,
    },
    /// A stream has as many consumers as it may have, so that a set of required labels gets none.
    #[error("the stream `{stream}` has as many consumers as it may have{}, one for each set of required labels; remove those named `{route_consumers}` of which the labels are not required any more, or raise the stream's `max_consumers`", describe_max(*.consumers_max))]
    TooManyConsumers {
        /// The stream of the queue.
        stream: String,
        /// How many it may have, if it has a limit of its own.
        consumers_max: Option<i64>,
        /// The names of the consumers of label sets, with a wildcard.
        route_consumers: String,
    },
    /// The prefix of the names is invalid.
    #[error("prefix: {0}")]
    InvalidPrefix(InvalidName),
    /// There is no JetStream for this user.
    #[error("{0}")]
    NoJetStream(NoJetStream),
    /// The queue does not exist.
    #[error("there is no queue `{0}`")]
    QueueNotFound(String),
    /// The stream, bucket or object does not exist.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The position from which a list should continue belongs to a stream that was removed, or that has lost
    /// its last messages.
    #[error("the list that the cursor belongs to no longer exists; start again without a cursor")]
    StaleCursor,
    /// A compare-and-set found another revision.
    #[error("another client changed it first")]
    Conflict,
    /// The same id was used with another envelope.
    #[error("the job id `{0}` is taken by another envelope")]
    JobIdConflict(String),
    /// The job exists already, with another start time.
    #[error("the job `{job}` exists already, {}", describe_due_time_conflict(*.standing))]
    DueTimeConflict {
        /// The job.
        job: JobId,
        /// Its state.
        standing: ExistingJob,
    },
    /// The message is larger than the server allows.
    #[error("{bytes} bytes are more than the server accepts in one message ({bytes_max})")]
    TooLarge {
        /// Size of the message, in bytes.
        bytes: usize,
        /// The server's limit, in bytes.
        bytes_max: usize,
    },
    /// The server's or the account's storage is full.
    #[error("the NATS storage is full: {0}")]
    StorageFull(#[source] Cause),
    /// The server did not answer in time.
    #[error("no answer from NATS in time while {0}")]
    Timeout(&'static str),
    /// The user lacks a permission.
    #[error("NATS denies {denial} while {doing}")]
    PermissionDenied {
        /// What naq was doing.
        doing: &'static str,
        /// What is denied, with the subject.
        denial: Denial,
    },
    /// The connection is closed.
    #[error("the connection to NATS is lost: {0}")]
    ConnectionLost(#[source] Cause),
    /// The server refused a request for another reason.
    #[error("NATS refused while {doing}: {source}")]
    Refused {
        /// What naq was doing.
        doing: &'static str,
        /// The server's error.
        source: Cause,
    },
    /// A stored schedule cannot be parsed.
    #[error("the schedule `{schedule}` cannot be read: {source}")]
    InvalidSchedule {
        /// The schedule.
        schedule: ScheduleId,
        /// Why it cannot be parsed.
        source: Cause,
    },
    /// A stored value is not what naq stores there.
    #[error(transparent)]
    InvalidData(InvalidData),
    /// A value is never stored: it cannot be written as JSON, or is not what naq may store.
    #[error(transparent)]
    Unstorable(InvalidData),
}

/// Where JetStream is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoJetStream {
    /// The server runs without JetStream.
    Server,
    /// The server has JetStream, and the account of this user does not.
    Account,
    /// No server has the JetStream domain of this name.
    Domain(String),
}

impl std::fmt::Display for NoJetStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoJetStream::Server => f.write_str("this NATS server runs without JetStream"),
            NoJetStream::Account => {
                f.write_str("JetStream is not enabled for the account of this user")
            }
            NoJetStream::Domain(domain) => {
                write!(f, "no server answers for the JetStream domain `{domain}`")
            }
        }
    }
}

/// Invalid data: a description, and the error behind it.
#[derive(Clone, Debug)]
pub struct InvalidData {
    text: String,
    source: Option<Cause>,
}

impl std::fmt::Display for InvalidData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for InvalidData {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let source = self.source.as_ref()?;
        Some(source.as_ref())
    }
}

impl From<String> for InvalidData {
    fn from(text: String) -> InvalidData {
        InvalidData { text, source: None }
    }
}

/// The kind of a [`BrokerError`]: what a caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BrokerErrorKind {
    /// An address or prefix is invalid, or a file of credentials or certificates cannot be read.
    InvalidOptions,
    /// NATS cannot be reached or refuses the connection, or the connection is closed.
    Connection,
    /// The server does not support what naq needs, or is not secure enough.
    Unsupported,
    /// A queue, stream, bucket or object does not exist.
    NotFound,
    /// Another client changed it first, or the id is taken.
    Conflict,
    /// The message is larger than the server allows.
    TooLarge,
    /// The server's or the account's storage is full.
    StorageFull,
    /// The server did not answer in time.
    Timeout,
    /// The user lacks a permission.
    PermissionDenied,
    /// The server refused a request for another reason.
    Refused,
    /// Data is invalid: what is stored, or what was to be stored.
    InvalidData,
}

fn describe_max(max: Option<i64>) -> String {
    max.map_or_else(String::new, |max| format!(" ({max})"))
}

fn describe_due_time_conflict(standing: ExistingJob) -> String {
    match standing {
        ExistingJob::Started => "and has started".to_owned(),
        ExistingJob::Queued { .. } => "in its queue".to_owned(),
        ExistingJob::Delayed { due, .. } => {
            let until = due.map_or_else(String::new, |due| format!(" until {due}"));
            format!("delayed{until}")
        }
    }
}

impl BrokerError {
    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> BrokerErrorKind {
        match self {
            BrokerError::Connect {
                failure: ConnectFailure::Options,
                ..
            } => BrokerErrorKind::InvalidOptions,
            BrokerError::Connect { .. } | BrokerError::ConnectionLost(_) => {
                BrokerErrorKind::Connection
            }
            BrokerError::InsecureServer { .. }
            | BrokerError::UnsupportedServer(_)
            | BrokerError::Unsuitable { .. }
            | BrokerError::NoJetStream(_) => BrokerErrorKind::Unsupported,
            BrokerError::InvalidPrefix(_) => BrokerErrorKind::InvalidOptions,
            BrokerError::QueueNotFound(_) | BrokerError::NotFound(_) | BrokerError::StaleCursor => {
                BrokerErrorKind::NotFound
            }
            BrokerError::Conflict
            | BrokerError::JobIdConflict(_)
            | BrokerError::DueTimeConflict { .. } => BrokerErrorKind::Conflict,
            BrokerError::TooLarge { .. } => BrokerErrorKind::TooLarge,
            BrokerError::StorageFull(_) => BrokerErrorKind::StorageFull,
            BrokerError::Timeout(_) => BrokerErrorKind::Timeout,
            BrokerError::PermissionDenied { .. } => BrokerErrorKind::PermissionDenied,
            BrokerError::Refused { .. } | BrokerError::TooManyConsumers { .. } => {
                BrokerErrorKind::Refused
            }
            BrokerError::InvalidSchedule { .. }
            | BrokerError::InvalidData(_)
            | BrokerError::Unstorable(_) => BrokerErrorKind::InvalidData,
        }
    }

    /// Whether the same call may succeed later with nothing but time passed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self.kind(),
            BrokerErrorKind::Timeout | BrokerErrorKind::StorageFull | BrokerErrorKind::Refused
        )
    }

    /// Whether the same write fails whenever it is repeated: what is written is too large or is
    /// not what naq may store. An error of a read says nothing about a write.
    #[must_use]
    pub fn is_final_for_write(&self) -> bool {
        matches!(
            self,
            BrokerError::TooLarge { .. } | BrokerError::Unstorable(_)
        )
    }

    /// Whether a blocked job can never be released: its record cannot be read, or its message is too
    /// large.
    pub(crate) fn is_final_for_release(&self) -> bool {
        matches!(self, BrokerError::InvalidData(_)) || self.is_final_for_write()
    }

    /// A value that naq must not store.
    pub(crate) fn unstorable(text: String) -> BrokerError {
        BrokerError::Unstorable(text.into())
    }

    /// Invalid data without an error behind it.
    #[must_use]
    pub fn invalid_data(text: impl Into<String>) -> BrokerError {
        BrokerError::InvalidData(text.into().into())
    }

    /// A value that cannot be written as JSON.
    pub(crate) fn not_json(what: &str, error: serde_json::Error) -> BrokerError {
        BrokerError::Unstorable(InvalidData {
            text: format!("{what} cannot be written as JSON: {error}"),
            source: Some(Arc::new(error)),
        })
    }

    /// A stored value that cannot be parsed.
    pub(crate) fn unreadable(
        what: &str,
        error: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> BrokerError {
        let source = Cause::from(error.into());
        BrokerError::InvalidData(InvalidData {
            text: format!("{what} cannot be read: {source}"),
            source: Some(source),
        })
    }

    pub(crate) fn connection_lost(error: impl Into<Box<dyn Error + Send + Sync>>) -> BrokerError {
        BrokerError::ConnectionLost(error.into().into())
    }

    pub(crate) fn refused(
        doing: &'static str,
        error: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> BrokerError {
        BrokerError::Refused {
            doing,
            source: error.into().into(),
        }
    }

    /// Converts an error of the JetStream API by its code.
    pub(crate) fn from_api(
        error: &async_nats::jetstream::Error,
        doing: &'static str,
    ) -> BrokerError {
        match error.error_code() {
            // the second code means that another write of the subject is in flight among the
            // servers of a cluster
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE
            | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => BrokerError::Conflict,
            ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
                BrokerError::NoJetStream(NoJetStream::Account)
            }
            ErrorCode::JETSTREAM_NOT_ENABLED => BrokerError::NoJetStream(NoJetStream::Server),
            // the stream has no leader yet
            ErrorCode::CLUSTER_NOT_AVAILABLE => BrokerError::Timeout(doing),
            ErrorCode::STREAM_NOT_FOUND => BrokerError::NotFound("the stream".to_owned()),
            ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::MEMORY_RESOURCES_EXCEEDED
            | ErrorCode::STREAM_STORE_FAILED => BrokerError::StorageFull(Arc::new(error.clone())),
            _ => BrokerError::refused(doing, error.clone()),
        }
    }
}

/// Whether the error means that the stream does not exist.
pub(crate) fn is_stream_not_found(error: &GetStreamError) -> bool {
    matches!(
        error.kind(),
        GetStreamErrorKind::JetStream(api) if api.error_code() == ErrorCode::STREAM_NOT_FOUND
    )
}

/// Whether the error of a request about a consumer has this code.
pub(crate) fn has_consumer_code(error: &ConsumerError, code: ErrorCode) -> bool {
    matches!(error.kind(), ConsumerErrorKind::JetStream(api) if api.error_code() == code)
}

/// Whether the error means that the object store does not exist.
pub(crate) fn is_object_store_not_found(error: &ObjectStoreError) -> bool {
    error.kind() == ObjectStoreErrorKind::GetStore
        && error
            .source()
            .and_then(|source| source.downcast_ref::<GetStreamError>())
            .is_some_and(is_stream_not_found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_source() {
        let parsed = serde_json::from_str::<u32>("x").unwrap_err();
        let expected = parsed.to_string();
        for error in [
            BrokerError::unreadable("the record", parsed),
            BrokerError::refused("testing", expected.clone()),
            BrokerError::connection_lost(expected.clone()),
        ] {
            assert_eq!(error.source().unwrap().to_string(), expected, "{error:?}");
            assert!(error.to_string().ends_with(&expected), "{error}");
        }
        assert!(BrokerError::invalid_data("text").source().is_none());
    }

    #[test]
    fn only_an_error_of_the_write_itself_is_final_for_it() {
        let parsed = || serde_json::from_str::<u32>("x").unwrap_err();
        let too_large = BrokerError::TooLarge {
            bytes: 2,
            bytes_max: 1,
        };
        for (error, is_final) in [
            (too_large, true),
            (BrokerError::not_json("the record", parsed()), true),
            (BrokerError::unstorable("a succeeded job".to_owned()), true),
            // of a record that the write depends on
            (BrokerError::unreadable("the record of a", parsed()), false),
            (BrokerError::invalid_data("no envelope"), false),
            (BrokerError::Conflict, false),
            (BrokerError::Timeout("testing"), false),
        ] {
            assert_eq!(error.is_final_for_write(), is_final, "{error:?}");
        }
    }

    #[test]
    fn an_api_error_is_classified_by_its_code() {
        let kind = |code: u64| {
            let error = serde_json::json!({ "code": 400, "err_code": code, "description": "" });
            let error = serde_json::from_value(error).unwrap();
            BrokerError::from_api(&error, "testing").kind()
        };
        assert_eq!(kind(10_071), BrokerErrorKind::Conflict);
        assert_eq!(kind(10_059), BrokerErrorKind::NotFound);
        assert_eq!(kind(10_047), BrokerErrorKind::StorageFull);
        assert_eq!(kind(10_008), BrokerErrorKind::Timeout);
        assert_eq!(kind(10_039), BrokerErrorKind::Unsupported);
        assert_eq!(kind(10_076), BrokerErrorKind::Unsupported);
        assert_eq!(kind(10_058), BrokerErrorKind::Refused);
    }
}
