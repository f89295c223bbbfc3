//! The scheduler: enqueues the jobs of schedules when their ticks are due.
//!
//! Any number of them may run; one leads, the others wait for its lock. The leader keeps all
//! schedules in memory and hears of every change, so that nothing is polled. When a tick is due it
//! enqueues the job, and stores how far the schedule is a little later: what a leader did not live
//! to store, the next one does again, and the id of the tick absorbs it.
//!
//! When a tick is due, and what becomes of late ones, is for `lifecycle` to say; this room has the
//! clock.

mod fire;
mod leader;
mod lock;
mod options;
mod reconcile;
mod schedule_index;

pub use options::{LockOptions, SchedulerConfig, SchedulerSummary};

use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use leader::TermEnd;
use lock::LeaderLease;
use naq_client::Client;
use naq_jetstream::BrokerError;
use naq_protocol::{JobId, LeaderInfo};

/// Runs until asked to stop: until `stop` has become true, or its sender is gone.
///
/// # Errors
/// Where the server refuses what a scheduler needs.
pub async fn run_scheduler(
    client: Client,
    options: SchedulerConfig,
    mut stop: watch::Receiver<bool>,
) -> Result<SchedulerSummary, BrokerError> {
    let name = match &options.instance_id {
        Some(name) => name.clone(),
        None => JobId::generate().to_string(),
    };
    let mut info = LeaderInfo {
        instance_id: name,
        hostname: nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        since: clock::now(),
    };
    let mut summary = SchedulerSummary::default();
    let mut has_had_lock = false;
    loop {
        info.since = clock::now();
        let ended = acquire_and_lead(
            &client,
            &options,
            &info,
            &mut stop,
            &mut summary,
            &mut has_had_lock,
        )
        .await;
        match ended {
            Ok(TermEnd::Stopped) => return Ok(summary),
            Ok(TermEnd::NotLeader) => tracing::warn!("no longer the leader"),
            // whoever gets the lock once the server can be worked with goes on
            Err(error) if is_retryable(&error, has_had_lock || summary.terms > 0) => {
                tracing::warn!("cannot lead: {error}");
                tokio::select! {
                    () = tokio::time::sleep(RETRY_PAUSE) => {}
                    _ = stop.wait_for(|stop| *stop) => return Ok(summary),
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// How long to wait where the server cannot be worked with.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Waits for the lock, and leads.
async fn acquire_and_lead(
    client: &Client,
    options: &SchedulerConfig,
    info: &LeaderInfo,
    stop: &mut watch::Receiver<bool>,
    summary: &mut SchedulerSummary,
    has_had_lock: &mut bool,
) -> Result<TermEnd, BrokerError> {
    let lease = match options.lock {
        None => LeaderLease::without_lock(),
        Some(lock) => tokio::select! {
            lease = lock::acquire(client.broker(), info, lock) => lease?,
            _ = stop.wait_for(|stop| *stop) => return Ok(TermEnd::Stopped),
        },
    };
    *has_had_lock |= options.lock.is_some();
    leader::lead(client, options, lease, stop, summary).await
}

/// Whether it is worth going on. Servers that go down, come up and elect leaders refuse all
/// manner of things meanwhile; where they have given the lock before, that is what it is.
fn is_retryable(error: &BrokerError, has_had_lock: bool) -> bool {
    match error {
        BrokerError::Timeout(_) => true,
        BrokerError::Refused { .. }
        | BrokerError::StorageFull(_)
        | BrokerError::UnsupportedServer(_) => has_had_lock,
        _ => false,
    }
}
