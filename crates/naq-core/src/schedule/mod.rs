//! When jobs start: the ticks of a schedule, and delayed jobs, which start once at a later time.
//!
//! [`plan`] computes ticks from a schedule, [`misfire`] decides which late ticks are still enqueued,
//! [`update`] changes a schedule, [`pause`] pauses and resumes it, [`progress`] counts its ticks, and
//! [`delay`] is about delayed jobs, and [`backfill`] about ticks of the past. [`failed_starts`] recognizes a schedule whose jobs never run.

pub(crate) mod backfill;
mod cron_cache;
pub(crate) mod delay;
mod error;
pub(crate) mod failed_starts;
mod misfire;
pub(crate) mod pause;
pub(crate) mod plan;
pub(crate) mod progress;
#[cfg(test)]
mod test_schedule;
pub(crate) mod update;

pub use cron_cache::CronCache;
pub use error::ScheduleError;
