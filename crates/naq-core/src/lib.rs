//! Decisions about a job's life: state and event in, new state and effects out.
//!
//! Pure: no I/O and no clock. Time, randomness and identities come in as arguments, so that
//! every rule can be tested by walking it.

mod backoff;
mod cancel;
mod delay;
mod dependency;
mod reconcile;
mod retry_backoff;
mod routing;
mod schedule;
#[cfg(test)]
mod state_machine_proptest;
mod transition;
mod update;

pub use backoff::{FailureClass, classify_failure, retry_delay};
pub use cancel::{OnCancel, on_cancel};
pub use delay::{
    ExistingJob, OnReenqueue, OnReschedule, RescheduleRequest, StartDelay, StartDelayError,
    check_expiry, delay_for, delay_until, delayed_until_max, on_reenqueue, on_reschedule,
    paused_until,
};
pub use dependency::{DependencyStatus, Evaluation, evaluate, satisfies_condition};
pub use reconcile::{
    OnDependencyEdge, fail_lost_job, needs_message, needs_replacement_message, on_dependency_edge,
};
pub use retry_backoff::ExponentialBackoff;
pub use routing::{has_required_labels, rerouted_record};
pub use schedule::{
    CronCache, ScheduleAction, ScheduleError, SchedulePosition, TickPlan, check_schedule,
};
pub use transition::{
    AttemptEnd, ConcurrencySlot, DEPENDENCY_TIMEOUT_DEFAULT, DeliveryContext, DeliveryDecision,
    FinishedAttempt, OnEnd, RECORD_TTL_MIN, clamp_result_ttl, decide_delivery, end_attempt,
    rejected_record, result_ttl,
};
pub use update::{
    OnApply, OnChange, ScheduleChange, differing_fields, on_apply, on_pause, on_resume,
    replace_definition, update,
};
