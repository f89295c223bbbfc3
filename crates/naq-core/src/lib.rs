//! Decisions about a job's life: state and event in, new state and effects out.
//!
//! Pure: no I/O and no clock. Time, randomness and identities come in as arguments, so that
//! every rule can be tested by walking it.

mod backoff;
mod cancel;
mod dependency;
mod one_shot;
mod redefine;
mod requirement;
mod schedule;
mod sweep;
mod transition;
#[cfg(test)]
mod walk;

pub use backoff::{Verdict, delay, judge};
pub use cancel::{OnCancel, on_cancel};
pub use dependency::{Prospect, Weighed, meets, weigh};
pub use one_shot::{
    Again, BadStart, OnRetime, Retime, Standing, StartTime, check_expiry, held_until_max, on_again,
    on_retime, paused_until, start_at, start_in,
};
pub use redefine::{
    OnApply, OnChange, ScheduleChange, differences, modify, on_apply, on_pause, on_resume, redefine,
};
pub use requirement::{hand_on, satisfies};
pub use schedule::{BadSchedule, Crons, Plan, Position, Step, check_schedule};
pub use sweep::{OnEdge, lost, needs_another, needs_message, on_edge};
pub use transition::{
    Attempt, AttemptEnd, DEPENDENCY_TIMEOUT, Delivered, KeySlot, OnDelivery, OnEnd, RECORD_TTL_MIN,
    end_attempt, kept_for, on_delivery, reject, result_ttl,
};
