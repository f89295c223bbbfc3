//! The decisions of naq, as pure functions: a state and an event go in, the new state and the
//! effects to carry out come back.
//!
//! Nothing here performs I/O or reads a clock. Time, randomness and identities are arguments, so a
//! test can walk a job or a schedule through any order of events.
//!
//! ```
//! use naq_core::{RescheduleRequest, OnReschedule, on_reschedule};
//!
//! let now = "2026-12-24T17:00:00Z".parse()?;
//! let due = "2026-12-24T18:00:00Z".parse()?;
//!
//! // A job that is due in an hour can still be paused …
//! let decision = on_reschedule(Some(due), false, RescheduleRequest::Pause, now);
//! assert_eq!(decision, OnReschedule::DelayUntil { due, is_paused: true });
//!
//! // … but not in the second before it is due: the server may be enqueuing it already.
//! let decision = on_reschedule(Some(due), false, RescheduleRequest::Pause, due);
//! assert_eq!(decision, OnReschedule::TooLate(due));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Semantics
//!
//! A job runs at least once, and its outcome is recorded once. The functions here keep that
//! promise together with their callers, who must follow one order: decide, record, acknowledge.
//!
//! - Every record is written by compare-and-set on the revision that the decision was based on. If
//!   the write is refused, the caller reads the record again and decides again.
//! - A message is acknowledged only after the record that its decision returned was written. After
//!   a crash between the two, the message is redelivered, and [`decide_delivery`] returns
//!   [`DeliveryDecision::AlreadyFinished`] or [`DeliveryDecision::DuplicateMessage`] for it.
//! - A worker's right to a job is a lease, which names one delivery of one message. Only a later
//!   delivery of that message, or the proof that the message is gone, takes the lease over, and
//!   only after the worker that holds it was asked: [`decide_takeover`].
//!
//! # Errors
//!
//! Decisions about jobs cannot fail. Decisions about schedules and delayed jobs return
//! [`ScheduleError`] or [`StartDelayError`], which say what is wrong and what to do in one line.
//!
//! # Platform
//!
//! Any: the crate depends on `naq-protocol` and `naq-cron`, and on no runtime.
//!
//! `docs/glossary.md` is the glossary: the meaning of each term, and the type that stands for it.

mod audit;
mod clock_skew;
mod failure_group;
mod job;
mod retry_backoff;
mod schedule;

pub use audit::{AuditActor, AuditChange, audit_entry};
pub use clock_skew::{CLOCK_SKEW_MAX, ClockSkew};
pub use failure_group::{FAILURE_ERROR_CHARS_MAX, FailureGroup, failure_group};
pub use job::attempt::{AttemptEnd, FinishedAttempt, OnEnd, end_attempt, program_error};
pub use job::backoff::{FailureClass, classify_failure, retry_delay};
pub use job::cancel::{OnCancel, on_cancel};
pub use job::delivery::{
    ConcurrencySlot, DEPENDENCY_TIMEOUT_DEFAULT, DeliveryContext, DeliveryDecision, RunAlone,
    decide_delivery,
};
pub use job::dependency::{DependencyStatus, Evaluation, evaluate, satisfies_condition};
pub use job::reconcile::{
    OnDependencyEdge, fail_lost_job, may_have_never_run, needs_message, needs_replacement_message,
    on_dependency_edge,
};
pub use job::refusal::{fail_unrecordable, refused_record, rejected_record};
pub use job::result_ttl::{RECORD_TTL_MIN, clamp_result_ttl, result_ttl};
pub use job::routing::{has_required_labels, rerouted_record};
pub use job::slots::{ChangedSlots, SlotAnswer, SlotChange, change_slots};
pub use job::takeover::{HolderReply, LeaseEnd, Takeover, decide_takeover};
pub use job::waiting::{QueueFacts, WaitCause, WaitFacts, describe_missing_labels, wait_cause};
pub use retry_backoff::ExponentialBackoff;
pub use schedule::backfill::{
    BACKFILL_TICKS_DEFAULT, BACKFILL_TICKS_MAX, BackfillError, BackfillOrder, BackfillRange,
    BackfillTicks,
};
pub use schedule::delay::{
    ExistingJob, OnReenqueue, OnReschedule, RescheduleRequest, StartDelay, StartDelayError,
    check_expiry, delay_for, delay_until, delayed_until_max, on_reenqueue, on_reschedule,
    paused_until,
};
pub use schedule::failed_starts::{
    FailedStarts, RUNS_CHECKED, failed_starts, has_never_started, ticks_before,
};
pub use schedule::pause::{OnChange, continue_from, on_pause, on_resume, was_activated_by_status};
pub use schedule::plan::{
    ScheduleAction, SchedulePosition, TickPlan, check_schedule, prepare_schedule,
};
pub use schedule::progress::{
    count_enqueued, discard_future_progress, merge_progress, ticks_counted, trigger,
};
pub use schedule::update::{
    OnApply, ScheduleChange, definition_text, differing_fields, on_apply, replace_definition,
    update,
};
pub use schedule::{CronCache, ScheduleError};
