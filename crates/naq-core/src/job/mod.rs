//! The life of one job: what a delivered message, the end of an attempt, a cancel request or a
//! crash means for the job's record.
//!
//! A job goes through these files in order: [`delivery`] decides whether a message starts an
//! attempt, [`attempt`] decides what follows the attempt's end. Both use [`dependency`],
//! [`backoff`] and, for the changes to the record that they share, [`transition`].

pub(crate) mod attempt;
pub(crate) mod backoff;
pub(crate) mod cancel;
pub(crate) mod delivery;
pub(crate) mod dependency;
mod error_line;
pub(crate) mod reconcile;
pub(crate) mod refusal;
pub(crate) mod result_ttl;
pub(crate) mod routing;
pub(crate) mod slots;
#[cfg(test)]
mod state_machine_proptest;
#[cfg(test)]
pub(crate) mod stored_record;
pub(crate) mod takeover;
mod transition;
pub(crate) mod waiting;
