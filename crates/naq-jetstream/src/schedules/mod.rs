//! Schedules, and the lease of the scheduler that fires them.

pub(crate) mod leader_lease;
pub(crate) mod schedule;
pub(crate) mod schedulers;
mod server_clock;
