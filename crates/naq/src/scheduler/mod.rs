//! The scheduler: enqueues the jobs of schedules when their ticks are due.
//!
//! Any number of schedulers may run; one leads, and the others wait for its lease. The leader has
//! all schedules in memory and watches their changes, so nothing is polled. When a tick is due it
//! enqueues the job, and stores the schedule's progress a little later. What a leader did not store
//! before it died, the next leader does again; the ids of the ticks make that harmless.
//!
//! When a tick is due, and what happens to late ones, `naq_core` decides; this room has the clock.

mod clock_check;
mod complete_index;
mod error;
mod fire;
mod heartbeat;
mod leader;
mod leader_lease;
mod metrics;
mod options;
mod progress_store;
mod reconcile;
mod schedule_index;
mod status;
mod ticks;

pub use error::SchedulerError;
pub use options::{LockOptions, SchedulerConfig, SchedulerSummary};

use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use crate::process_id::{self, Service};
use crate::watchdog::WatchdogTimer;
use leader::TermEnd;
use leader_lease::LeaderLease;
use naq_client::Client;
use naq_jetstream::BrokerError;
use naq_protocol::{JobId, LeaderInfo, SchedulerState};
use status::SchedulerStatus;

/// Runs a scheduler until `stop` becomes true or its sender is dropped.
///
/// # Errors
/// Returns [`SchedulerError::Broker`] if the server refuses what a scheduler needs, before this
/// instance has led for the first time; later errors are logged, and it retries. Returns
/// [`SchedulerError::Clock`] if the kernel grants no timer.
pub async fn run_scheduler(
    client: Client,
    options: SchedulerConfig,
    mut stop: watch::Receiver<bool>,
) -> Result<SchedulerSummary, SchedulerError> {
    let name = match &options.instance_id {
        Some(name) => name.clone(),
        None => JobId::generate().to_string(),
    };
    let info = LeaderInfo {
        instance_id: name,
        hostname: nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        since: clock::now(),
    };
    let (process, status) = (
        process_id::new_id(Service::Scheduler),
        SchedulerStatus::new(&options.metrics),
    );
    options.metrics.observe_requests(&client);
    let shown = options.metrics.connection();
    let broker = client.broker().clone();
    let ended = tokio::select! {
        ended = lead_repeatedly(&client, &options, &info, &status, &mut stop) => ended,
        () = heartbeat::write_heartbeats(&broker, &process, &info, &status) => Ok(SchedulerSummary::default()),
        () = broker.connection().clone().follow(|state| shown.set(&state)) => Ok(SchedulerSummary::default()),
        () = broker.keep_streams(|_| {}) => Ok(SchedulerSummary::default()),
    };
    heartbeat::remove_heartbeat(&broker, &process).await;
    ended
}

/// The terms of this scheduler as the leader.
#[derive(Default)]
struct Terms {
    summary: SchedulerSummary,
    /// It has held the lease at least once.
    has_led_before: bool,
}

/// Leads whenever this scheduler gets the lease, until it is asked to stop.
async fn lead_repeatedly(
    client: &Client,
    options: &SchedulerConfig,
    info: &LeaderInfo,
    status: &SchedulerStatus,
    stop: &mut watch::Receiver<bool>,
) -> Result<SchedulerSummary, SchedulerError> {
    let mut info = info.clone();
    let mut terms = Terms::default();
    let mut watchdog = WatchdogTimer::new(options.watchdog);
    loop {
        info.since = clock::now();
        let ended = acquire_and_lead(
            client,
            options,
            &info,
            status,
            stop,
            &mut terms,
            &mut watchdog,
        )
        .await;
        match ended {
            Ok(TermEnd::Stopped) => return Ok(terms.summary),
            Ok(TermEnd::NotLeader) => tracing::warn!("no longer the leader"),
            // The next attempt waits until the clock is right.
            Ok(TermEnd::ClockOff) => {}
            // another scheduler, or this one, leads once the server works again
            Err(error) if is_retryable(&error, terms.has_led_before || terms.summary.terms > 0) => {
                tracing::warn!("cannot lead: {error}");
                tokio::select! {
                    () = tokio::time::sleep(RETRY_PAUSE) => {}
                    _ = stop.wait_for(|stop| *stop) => return Ok(terms.summary),
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Pause before another attempt to lead, after the server failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Waits for the lease, and leads.
async fn acquire_and_lead(
    client: &Client,
    options: &SchedulerConfig,
    info: &LeaderInfo,
    status: &SchedulerStatus,
    stop: &mut watch::Receiver<bool>,
    terms: &mut Terms,
    watchdog: &mut WatchdogTimer,
) -> Result<TermEnd, SchedulerError> {
    let waiting = watchdog.while_waiting(wait_to_lead(client, options, info, status, stop));
    let Some(lease) = waiting.await? else {
        return Ok(TermEnd::Stopped);
    };
    terms.has_led_before |= options.lock.is_some();
    leader::lead(
        client,
        options,
        lease,
        stop,
        &mut terms.summary,
        watchdog,
        status,
    )
    .await
}

/// Waits for the right time on the clock and for the lease. `None` means that the scheduler was asked
/// to stop.
async fn wait_to_lead(
    client: &Client,
    options: &SchedulerConfig,
    info: &LeaderInfo,
    status: &SchedulerStatus,
    stop: &mut watch::Receiver<bool>,
) -> Result<Option<LeaderLease>, BrokerError> {
    tokio::select! {
        () = clock_check::wait_for_right_clock(client.broker(), status) => {}
        _ = stop.wait_for(|stop| *stop) => return Ok(None),
    }
    status.set(SchedulerState::StandingBy);
    let lease = match options.lock {
        None => LeaderLease::without_lock(),
        Some(lock) => tokio::select! {
            lease = leader_lease::acquire(client.broker(), info, lock) => lease?,
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
        },
    };
    Ok(Some(lease))
}

/// Whether to try to lead again after an error. Servers that restart and elect leaders refuse all
/// kinds of requests meanwhile. If they have granted the lease before, such a refusal is taken to be
/// temporary; if not, it is an error of the setup.
fn is_retryable(error: &SchedulerError, has_led_before: bool) -> bool {
    let SchedulerError::Broker(error) = error else {
        return false;
    };
    match error {
        BrokerError::Timeout(_) => true,
        BrokerError::Refused { .. } | BrokerError::StorageFull(_) | BrokerError::NoJetStream(_) => {
            has_led_before
        }
        _ => false,
    }
}
