//! What a service manager learns of a service: that it is ready, alive, stopping.
//!
//! The signs of life come from the loop whose life matters.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};

/// How often a loop reports that it turns.
#[derive(Clone, Copy, Debug)]
pub struct Watchdog {
    interval: Duration,
    report: fn(),
}

impl Watchdog {
    /// A watchdog that expects a report at least every `timeout`. `report` makes one; the loop calls it
    /// three times as often.
    #[must_use]
    pub fn new(timeout: Duration, report: fn()) -> Watchdog {
        Watchdog {
            interval: (timeout / 3).max(Duration::from_millis(1)),
            report,
        }
    }
}

/// What a worker reports to a service manager, apart from its signs of life.
#[derive(Clone, Copy, Debug)]
pub struct ServiceManager {
    /// Reports that the worker serves its queues.
    pub ready: fn(),
    /// Reports that the worker is stopping, and ends within this time if nothing else happens.
    pub stopping: fn(Duration),
}

/// The timer of a loop: a branch of its `select!`, so that a loop that is stuck reports nothing.
#[derive(Debug)]
pub(crate) struct WatchdogTimer(Option<(Interval, fn())>);

impl WatchdogTimer {
    /// The timer of a watchdog. `None` never reports.
    pub(crate) fn new(watchdog: Option<Watchdog>) -> WatchdogTimer {
        WatchdogTimer(watchdog.map(|watchdog| {
            let mut interval = tokio::time::interval(watchdog.interval);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            (interval, watchdog.report)
        }))
    }

    /// Waits until a report is due, and makes it. Cancel safe.
    pub(crate) async fn report(&mut self) {
        match &mut self.0 {
            Some((interval, report)) => {
                interval.tick().await;
                report();
            }
            None => std::future::pending().await,
        }
    }

    /// Waits for a future, and reports meanwhile. For stages before and between loops that have a bound
    /// of their own, or wait for the server as long as it takes.
    pub(crate) async fn while_waiting<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                biased;
                done = &mut future => return done,
                () = self.report() => {}
            }
        }
    }
}
