//! The only crate that uses NATS: connection, layout, jobs, records, live output, workers.
//!
//! Everything above it works with envelopes, records and queues. This crate decides nothing about a
//! job's life; it stores and moves messages, and reports exactly how an operation failed.

mod bench_publish;
mod blocked_index;
mod connect;
mod control;
mod dead_letters;
mod delayed;
mod delivery;
mod failpoint;
mod finish_job;
mod flows;
mod jobs;
mod label_routes;
mod listing;
mod logs;
mod names;
mod objects;
mod poison_messages;
mod publish;
mod purge;
mod queues;
mod reconcile;
mod record_events;
mod records;
mod reverse_scan;
mod schedules;
mod slots;
mod stream_api;
mod stream_reader;
mod topology;
mod workers;

pub use connect::{ConnectOptions, ConnectionState, ConnectionWatch};
pub use control::{ControlCommand, ControlSubscription, ReceivedCommand};
pub use dead_letters::{DeadLetter, DeadLetterScan, DeadLetters};
pub use delayed::{DelayedJob, DelayedJobCursor, DelayedJobListing};
pub use delivery::{Delivery, PendingPulls, PullEvent, PullKind, PullSubscription};
pub use failpoint::failpoint;
pub use finish_job::SlotWaiter;
pub use jobs::{EnqueueAck, JobMessage, MessageState, NewJob};
pub use label_routes::{LabelRoute, LabelRouteEvent, LabelRouteWatch, label_route_key};
pub use listing::{JobCursor, JobListOptions, JobListing, ListedJob, RecordOrMessage};
pub use logs::{LogChunk, LogStream, OutputStream};
pub use names::Names;
pub use publish::PendingWrite;
pub use purge::PurgeSummary;
pub use queues::{QueueInfo, QueueSettings};
pub use reconcile::{
    BlockedIndexEntry, BlockedIndexKey, BlockedIndexListing, OrphanedMessage, RecordListing,
};
pub use record_events::{
    BrokerEvent, BrokerEventWatch, EnqueuedMessage, LatestRecordChanges, RecordChange,
    RecordChangeConsumer, RecordChangeDelivery,
};
pub use records::{RecordEvent, RecordWatch, StoredRecord};
pub use schedules::{
    LeaderLeaseEvent, LeaderLeaseWatch, ScheduleEvent, ScheduleListing, ScheduleWatch,
    StoredLeaderLease, StoredSchedule,
};
pub use slots::SlotHolder;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;

use naq_core::ExistingJob;
use naq_protocol::JobId;

/// A connection to NATS with naq's layout on it. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    client: async_nats::Client,
    jetstream: async_nats::jetstream::Context,
    names: Arc<Names>,
    /// Prefix of the subjects of the JetStream API.
    api_prefix: Arc<str>,
    link: ConnectionWatch,
    /// The options to open further connections with.
    options: Arc<ConnectOptions>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// The names of streams, buckets and subjects on this connection.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The state of the connection.
    #[must_use]
    pub fn connection(&self) -> &ConnectionWatch {
        &self.link
    }

    /// Maximum size of a message including headers, in bytes, as the server announces it.
    #[must_use]
    pub fn message_bytes_max(&self) -> usize {
        self.client.max_payload()
    }

    /// The server's version and address, for people.
    #[must_use]
    pub fn server(&self) -> String {
        let info = self.client.server_info();
        format!(
            "nats-server {} at {}:{}",
            info.version, info.host, info.port
        )
    }

    /// Waits until everything sent so far has left this process.
    ///
    /// # Errors
    /// Returns [`BrokerError::ConnectionLost`] if the connection is closed.
    pub async fn flush(&self) -> Result<(), BrokerError> {
        self.client
            .flush()
            .await
            .map_err(|error| BrokerError::ConnectionLost(error.to_string()))
    }
}

/// What can go wrong between naq and NATS, distinguished by what a caller can do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// No connection could be made.
    #[error("cannot reach NATS at {url}: {problem}")]
    Connect {
        /// The address that was tried.
        url: String,
        /// What happened, with what to do.
        problem: String,
    },
    /// The server cannot do what naq needs.
    #[error("{0}")]
    UnsupportedServer(String),
    /// There is no such queue.
    #[error("there is no queue `{0}`")]
    QueueNotFound(String),
    /// There is no such stream, bucket or object.
    #[error("{0} is not there")]
    NotFound(String),
    /// A compare-and-set met another revision.
    #[error("someone else changed it first")]
    Conflict,
    /// The same id was used for another body.
    #[error("the job id `{0}` is taken by another envelope")]
    JobIdConflict(String),
    /// The job is there, and is to begin at another time.
    #[error("the job `{job}` is there already, {}", describe_due_time_conflict(.job, *.standing))]
    DueTimeConflict {
        /// The job.
        job: JobId,
        /// How it stands.
        standing: ExistingJob,
    },
    /// More bytes than the server takes in a message.
    #[error(
        "{bytes} bytes are more than the server takes in one message ({bytes_max}); put large input into a file or an object and pass its name"
    )]
    TooLarge {
        /// The size of the message.
        bytes: usize,
        /// The server's bound.
        bytes_max: usize,
    },
    /// The server's or the account's storage is full.
    #[error("the NATS storage is full: {0}; free some (`naq purge`) or raise the limit")]
    StorageFull(String),
    /// No answer in time.
    #[error("no answer from NATS in time while {0}; check the connection and the permissions")]
    Timeout(&'static str),
    /// The user may not do this.
    #[error("NATS denies this user {0}")]
    PermissionDenied(String),
    /// The connection is gone for good.
    #[error("the connection to NATS is lost: {0}")]
    ConnectionLost(String),
    /// The server refused, in its words.
    #[error("NATS refused while {doing}: {message}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// The server's words.
        message: String,
    },
    /// What is stored there is not what naq stores there.
    #[error("{0}")]
    InvalidData(String),
}

fn describe_due_time_conflict(job: &JobId, standing: ExistingJob) -> String {
    match standing {
        ExistingJob::Started => "and has begun".to_owned(),
        ExistingJob::Queued { .. } => "in its queue".to_owned(),
        ExistingJob::Delayed { due, .. } => {
            let until = due.map_or_else(String::new, |due| format!(" until {due}"));
            format!(
                "held{until}; `naq job-control {job} reschedule` gives it another time, and `run-now` begins it"
            )
        }
    }
}

impl BrokerError {
    /// Whether the same call may succeed later with nothing but time passed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            BrokerError::Timeout(_) | BrokerError::StorageFull(_) | BrokerError::Refused { .. }
        )
    }

    /// From an error of the JetStream API.
    fn from_api(error: &async_nats::jetstream::Error, doing: &'static str) -> BrokerError {
        match error.error_code() {
            // the second one: another write of the subject is under way among the servers
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE
            | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => BrokerError::Conflict,
            // no leader yet
            ErrorCode::CLUSTER_NOT_AVAILABLE => BrokerError::Timeout(doing),
            ErrorCode::STREAM_NOT_FOUND => BrokerError::NotFound("the stream".to_owned()),
            ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::MEMORY_RESOURCES_EXCEEDED
            | ErrorCode::STREAM_STORE_FAILED => BrokerError::StorageFull(error.to_string()),
            _ => BrokerError::Refused {
                doing,
                message: error.to_string(),
            },
        }
    }

    /// Converts an error of a JetStream API request.
    fn from_request(
        error: &async_nats::jetstream::context::RequestError,
        doing: &'static str,
    ) -> BrokerError {
        use async_nats::jetstream::context::RequestErrorKind;
        match error.kind() {
            RequestErrorKind::TimedOut => BrokerError::Timeout(doing),
            RequestErrorKind::NoResponders => BrokerError::UnsupportedServer(
                "this NATS server has no JetStream (start it with -js, or ask for it to be enabled for the account)"
                    .to_owned(),
            ),
            _ => BrokerError::Refused {
                doing,
                message: error.to_string(),
            },
        }
    }
}

/// Timeout of a request to the server.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
