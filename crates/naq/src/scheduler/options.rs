//! What a scheduler takes and returns.

use std::sync::Arc;
use std::time::Duration;

use crate::metrics::Metrics;
use crate::watchdog::Watchdog;

/// Options of a scheduler.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Name of this instance in lists and logs. `None` means a generated name.
    pub instance_id: Option<String>,
    /// The leader lease. `None` means no lease: this scheduler leads regardless of others.
    pub lock: Option<LockOptions>,
    /// Number of ticks in a row that could not be enqueued after which a schedule is paused. 0
    /// means never.
    pub max_consecutive_failures: u32,
    /// Time between two runs of the reconciler.
    pub reconcile_interval: Duration,
    /// Time that the record of a job is kept which the reconciler fails because its message and its
    /// envelope are lost.
    pub result_ttl: Duration,
    /// The metrics of this scheduler.
    pub metrics: Arc<Metrics>,
    /// Who learns that the scheduler's loop turns. `None` means no one.
    pub watchdog: Option<Watchdog>,
}

/// How long the leader lease lasts.
#[derive(Clone, Copy, Debug)]
pub struct LockOptions {
    /// Time after which the server removes a lease that was not renewed, in whole seconds.
    pub ttl: Duration,
    /// Time between two renewals.
    pub renew_interval: Duration,
}

/// What a scheduler did, from start to exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerSummary {
    /// Number of ticks that were enqueued.
    pub enqueued: u64,
    /// Number of times that this instance became the leader.
    pub terms: u64,
}
