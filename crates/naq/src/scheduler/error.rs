//! The errors of the scheduler.

use naq_jetstream::BrokerError;

/// Why a scheduler cannot run.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// NATS refused a request or did not answer.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The kernel grants no timer to watch the wall clock.
    #[error("the kernel grants no timer to watch the clock: {0}")]
    Clock(#[source] std::io::Error),
}
