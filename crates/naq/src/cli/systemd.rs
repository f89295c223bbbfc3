//! What a service manager learns of a long-lived verb, by the protocol of `sd_notify(3)`.
//!
//! Without `NOTIFY_SOCKET` each call does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::watchdog::{ServiceManager, Watchdog};

/// Reports that start-up is complete: the process is connected to NATS and does its work.
///
/// A unit of `Type=notify` becomes active with this call, so whatever is ordered after it finds a
/// worker that accepts jobs.
pub(super) fn ready() {
    notify(NotifyState::Ready);
}

/// The watchdog that the manager has asked for (`WatchdogSec=`). `None` if it has asked for none.
pub(super) fn watchdog() -> Option<Watchdog> {
    sd_notify::watchdog_enabled().map(|timeout| Watchdog::new(timeout, alive))
}

/// What a worker reports.
pub(super) fn service_manager() -> ServiceManager {
    ServiceManager {
        ready,
        stopping: stopping_within,
    }
}

/// Reports that the process is alive.
fn alive() {
    notify(NotifyState::Watchdog);
}

/// Reports that the process is shutting down, so that the manager shows it as deactivating while
/// running jobs finish.
pub(super) fn stopping() {
    notify(NotifyState::Stopping);
}

/// Reports that the process is shutting down and needs up to `max` for it. Without this, the manager kills it after
/// `TimeoutStopSec=`, which would have to agree with the drain timeout.
fn stopping_within(max: Duration) {
    // In this order: the time counts from when the unit stops.
    stopping();
    // The library's own variant ends at 71 minutes.
    let message = format!("EXTEND_TIMEOUT_USEC={}", max.as_micros());
    notify(NotifyState::Custom(&message));
}

fn notify(state: NotifyState<'_>) {
    // A manager that does not listen must not stop the work.
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot notify the service manager; check NOTIFY_SOCKET");
    }
}
