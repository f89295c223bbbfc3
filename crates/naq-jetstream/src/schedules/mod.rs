//! Schedules, and the lease of the scheduler that fires them.

pub(crate) mod leader_lease;
pub(crate) mod schedule;
mod server_clock;
