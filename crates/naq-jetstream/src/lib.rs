//! The only crate that uses NATS: connection, layout, jobs, records, live output, workers.
//!
//! Everything above it works with envelopes, records and queues. This crate decides nothing about a
//! job's life; it stores and moves messages, and reports exactly how an operation failed.
//!
//! `docs/glossary.md` is the glossary: the meaning of each term, and the type that stands for it.

mod audit;
mod audit_writer;
mod bench_publish;
mod broker;
mod connection;
mod control;
mod dead_letters;
mod dependencies;
mod error;
mod failpoint;
mod file_read;
mod finish_job;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzz;
mod headers;
mod heartbeats;
mod jobs;
mod layout;
mod leases;
mod logs;
mod names;
mod permissions;
mod pull;
mod queues;
mod reconcile;
mod records;
mod request_failure;
mod request_timings;
mod requests;
mod routing;
mod schedules;
mod slot_queues;
mod slots;
mod stream;
mod subjects;
mod usage;
mod user_database;
mod watch;
mod workers;

pub use audit::{AuditListing, AuditStream, StoredAuditEntry};
pub use audit_writer::AuditWriter;
pub use broker::{Broker, REQUEST_TIMEOUT};
pub use connection::connect::DENIALS_LOG_TARGET;
pub use connection::connect_failure::ConnectFailure;
pub use connection::connection_ends::socket_user;
pub use connection::denial::{Denial, DeniedAction};
pub use connection::options::ConnectOptions;
pub use connection::server_process::{FindServerProcess, ServerProcess, process_identity};
pub use connection::state::{ConnectionState, ConnectionWatch};
pub use control::{ControlCommand, ControlSubscription, ReceivedCommand};
pub use dead_letters::dead_letter::{DeadLetter, DeadLetterScan, DeadLetters};
pub use error::{BrokerError, BrokerErrorKind, Cause, InvalidData, NoJetStream};
pub use failpoint::{failpoint, failpoint_value};
pub use file_read::{FileContent, SMALL_FILE_BYTES_MAX, read_file, read_text_file, text_of_file};
pub use finish_job::SlotWaiter;
pub use jobs::delayed::DelayedJob;
pub use jobs::delayed_listing::{DelayedJobCursor, DelayedJobListing};
pub use jobs::find::EnvelopeLocation;
pub use jobs::indexed_scan::{RecordRevisions, RevisionBatch, RevisionBound, RevisionsLeft};
pub use jobs::listing::{JobCursor, JobListOptions, JobListing, ListedJob, RecordOrMessage};
pub use jobs::message::{EnqueueAck, JobMessage, MessageState, NewJob};
pub use layout::memory::ReplicaSummary;
pub use layout::server_check::CheckedLayout;
pub use layout::setting::{Remedy, SettingDifference};
pub use leases::{LeaseQuery, LeaseQuerySubscription, LeaseState, ReceivedLeaseQuery};
pub use logs::{LogChunk, LogStream, OutputStream};
pub use names::{Names, SINGLE_JOB_QUEUE};
pub use permissions::forbidden::forbidden_operations;
pub use permissions::needed_role::{NeededRole, needed_role};
pub use permissions::operation::{Operation, Permissions};
pub use permissions::probe::{CheckedOperation, ProbedSubject};
pub use permissions::role::{InvalidRole, Role};
pub use permissions::roles::permissions;
pub use permissions::server_config::{AccountNames, Login, RoleUser, UsersConfig};
pub use permissions::user_key::{InvalidSeed, UserKey};
pub use pull::delivery::Delivery;
pub use pull::subscription::{PendingPulls, PullEvent, PullKind, PullSubscription};
pub use queues::purge::PurgeSummary;
pub use queues::queue::{QueueInfo, QueueSettings};
pub use queues::stale_consumer::CheckedConsumer;
pub use reconcile::{
    BlockedIndexEntry, BlockedIndexKey, BlockedIndexListing, OrphanedMessage, RecordListing,
};
pub use records::change::{LatestRecordChanges, OutlinedChange, RecordChange};
pub use records::consumer::{RecordChangeConsumer, RecordChangeDelivery};
pub use records::events::{BrokerEvent, BrokerEventWatch, EnqueuedMessage, EventScope};
pub use records::outline::{OutlinedRecord, RecordBucketState, RecordOutlines};
pub use records::purge_results::ResultsPurgeSummary;
pub use records::record::{RecordEvent, RecordWatch, StoredRecord};
pub use records::unsuccessful::{UnsuccessfulComparison, UnsuccessfulRecord};
pub use request_timings::{RequestKind, RequestObserver};
pub use requests::{ReceivedRequest, RequestSubscription};
pub use routing::label_routes::{LabelRoute, LabelRouteEvent, LabelRouteWatch, label_route_key};
pub use schedules::leader_lease::{LeaderLeaseEvent, LeaderLeaseWatch, StoredLeaderLease};
pub use schedules::schedule::{
    ScheduleEvent, ScheduleListing, ScheduleWatch, SchedulesState, StoredSchedule,
};
pub use stream::objects::{ObjectChunk, StoredObject};
pub use stream::publish::PendingWrite;
pub use stream::stored_files::{StoreFileError, StoredFile, StoredUpload, UPLOAD_KEPT_MIN};
pub use usage::StorageUsage;
pub use user_database::{Account, accounts};
pub use watch::{Watch, WatchEvent};
