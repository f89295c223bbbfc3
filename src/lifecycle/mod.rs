//! Decisions about a job's life: state and event in, new state and effects out.
//!
//! Pure: no I/O and no clock. Time, randomness and identities come in as arguments, so that
//! every rule can be tested by walking it.

mod backoff;
mod transition;

pub use backoff::{Verdict, delay, judge};
pub use transition::{
    Attempt, AttemptEnd, Delivered, OnDelivery, OnEnd, RECORD_TTL_MIN, end_attempt, on_delivery,
    reject, result_ttl,
};
