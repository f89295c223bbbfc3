//! Records of jobs: stored, watched and consumed.

pub(crate) mod change;
pub(crate) mod consumer;
pub(crate) mod events;
pub(crate) mod record;
