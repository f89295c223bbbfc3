//! Client of the naq job runner: enqueue jobs, wait for their results, manage schedules and queues.
//!
//! A job is any command, described by an [`Envelope`]. A [`Client`] stores envelopes in queues on
//! NATS JetStream, and `naq worker` processes run them. This crate is all that a program needs in
//! order to enqueue jobs and read their outcomes: it starts no process and contains no worker.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use naq_client::{Client, ClientError, Envelope};
//!
//! # async fn example() -> Result<(), ClientError> {
//! let client = Client::connect("nats://127.0.0.1:4222").await?;
//! let queue = client.queue("build")?;
//!
//! let envelope = Envelope::command("./build.sh", ["--release"])
//!     .with_job_id("build-4711")?
//!     .with_timeout(Duration::from_secs(600));
//!
//! let job = queue.enqueue(&envelope).await?;
//! let record = client.wait(&job).await?;
//! println!("{}: exit code {:?}", record.state(), record.exit_code);
//! println!("{}", String::from_utf8_lossy(&client.read_stdout(&record).await?));
//! # Ok(())
//! # }
//! ```
//!
//! [`Client::from_env`] connects as the `naq` command does: by `naq.toml`, `NAQ_*` variables, a NATS
//! context or a running local server.
//!
//! # Semantics
//!
//! - An enqueue that has returned `Ok` is stored: it survives restarts of the server, and it is
//!   replicated as the queue is.
//! - A job runs at least once. A worker that loses its lease (it died, or it was cut off from NATS)
//!   does not stop the job from running again elsewhere, so commands should tolerate a second run.
//! - A job's outcome is recorded once. The first outcome stands; a later attempt cannot overwrite it.
//! - Enqueueing the same envelope under the same job id again is the same request and has no
//!   effect. Another envelope under that id is refused with [`BrokerError::JobIdConflict`].
//! - Futures may be dropped at any time. A request that was already sent may still take effect.
//!
//! # Platforms
//!
//! Linux, macOS and Windows: a test checks that the dependency tree of each target contains no
//! platform-specific runner or CLI crate. Workers run on Linux only.
//!
//! # Errors
//!
//! Fallible functions return [`ClientError`]. [`ClientError::kind`] sorts its variants into a
//! few [`ErrorKind`]s by what a caller can do about them, and [`std::error::Error::source`] returns
//! the underlying error. New variants and kinds may be added; both enums are non-exhaustive.
//!
//! `docs/glossary.md` is the glossary: the meaning of each term, and the type that stands for it.

mod audit;
mod bulk;
mod cancel;
mod client;
mod clock;
pub mod config;
mod dead_letter_groups;
mod dead_letters;
mod delayed_jobs;
mod error;
mod events;
mod existing_job;
mod failure_group_id;
mod filter;
mod flow;
mod from_env;
mod full_store;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzz;
mod job_files;
mod listing;
mod log_chunk;
mod logs;
mod output_parts;
mod private_file;
mod queue;
mod raw_envelope;
mod record_changes;
mod record_outlines;
mod record_summary;
mod rerun;
mod schedule_backfill;
mod schedule_sets;
mod schedules;
pub mod server_state;
mod stored_output;
mod ttl;
mod unclaimed;
mod waiter;
mod waiting;
mod workers;

pub use audit::{AuditActionFilter, AuditFilter, AuditFollow, AuditList, AuditPage, AuditRecord};
pub use bulk::BulkEnqueue;
pub use cancel::CancelOutcome;
pub use client::Client;
pub use config::environment;
pub use dead_letter_groups::{DeadLetterGroup, DeadLetterGroups};
pub use dead_letters::{
    DeadLetterCount, DeadLetterFilter, DeadLetterList, MatchingDeadLetters, RetryOutcome,
};
pub use delayed_jobs::{DelayedJobPage, DelayedJobSummary, DelayedJobs, Rescheduled};
pub use error::{ClientError, ErrorKind};
pub use events::{JobEvent, JobEvents, LatestJobEvents, RecordObserver, RecordUpdate};
pub use failure_group_id::FailureGroupId;
pub use filter::{JobFilter, LabelFilter};
pub use flow::DependencyNode;
pub use from_env::managed_server_dir;
pub use full_store::describe_unstored;
pub use job_files::ArtifactContent;
pub use listing::{JobPage, JobSearch, JobSummary};
pub use log_chunk::LogChunk;
pub use logs::Logs;
pub use output_parts::{OutputGap, OutputParts, PartPosition};
#[doc(hidden)]
pub use private_file::write_private_file;
pub use queue::Queue;
pub use record_changes::RecordChangeConsumer;
pub use record_outlines::RecordOutlines;
pub use record_summary::RecordSummary;
pub use rerun::Rerun;
pub use schedule_backfill::{Backfill, BackfillRun};
pub use schedule_sets::{
    ForeignSchedule, ScheduleSet, ScheduleSetAction, ScheduleSetOptions, ScheduleSetPlan,
    ScheduleSetStep,
};
pub use schedules::{
    AddScheduleOutcome, AddedSchedule, LastOutcome, ListedSchedule, NewSchedule, PutSchedule,
    Recurrence, ScheduleFilter, ScheduleList, ScheduleRun, ScheduleSummary, UpdatedSchedule,
};
pub use stored_output::StoredOutput;
pub use waiter::Waiter;
pub use workers::DrainRequested;

pub use naq_core::{
    BACKFILL_TICKS_DEFAULT, BACKFILL_TICKS_MAX, BackfillError, BackfillOrder, BackfillRange,
    CLOCK_SKEW_MAX, ClockSkew, ExistingJob, FailedStarts, ScheduleChange, ScheduleError,
    StartDelay, StartDelayError, WaitCause,
};
pub use naq_jetstream::{
    AccountNames, AuditWriter, BrokerError, BrokerErrorKind, CheckedLayout, CheckedOperation,
    ConnectFailure, ConnectOptions, ConnectionState, DeadLetter, DelayedJobCursor, Denial,
    DeniedAction, FindServerProcess, InvalidRole, JobCursor, Login, Names, NeededRole, NewJob,
    NoJetStream, OutlinedChange, OutlinedRecord, OutputStream, PurgeSummary, QueueInfo,
    QueueSettings, RecordBucketState, RecordChange, RecordChangeDelivery, RecordRevisions, Remedy,
    ResultsPurgeSummary, RevisionBatch, RevisionBound, RevisionsLeft, Role, RoleUser,
    SINGLE_JOB_QUEUE, ServerProcess, SettingDifference, StorageUsage, StoreFileError, StoredFile,
    UserKey, UsersConfig, needed_role,
};
#[doc(hidden)]
pub use naq_jetstream::{
    DENIALS_LOG_TARGET, FileContent, RequestKind, RequestObserver, SMALL_FILE_BYTES_MAX, accounts,
    process_identity, read_file, read_text_file, socket_user, text_of_file,
};
pub use naq_protocol::{
    Argument, Artifact, AuditAction, AuditEntry, AuditInterface, Backoff, BlockedOn, Blocker,
    CapturedOutput, Dependency, DependencyCondition, Envelope, EnvelopeError, FileDigest, Flow,
    FlowMember, InvalidName, JobId, JobProgress, LeaderInfo, Misfire, Overlap, QueueName, Reason,
    Record, RecordOutline, RejectReason, ResourceLimits, ResourceUsage, RetryDelay, Schedule,
    ScheduleId, ScheduleProgress, ScheduleStatus, SchedulerInfo, SchedulerState, State, Stdin,
    Timestamp, UnknownFields, UploadedFile, WorkerInfo, WorkerState, units,
};
