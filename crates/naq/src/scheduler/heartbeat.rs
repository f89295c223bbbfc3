//! The heartbeat of a scheduler: what it does, how far its clock is off, and that it lives.

use std::time::Duration;

use tokio::time::timeout;

use super::clock_check;
use super::status::SchedulerStatus;
use crate::clock;
use naq_jetstream::{Broker, BrokerError};
use naq_protocol::{JobId, LeaderInfo, SchedulerInfo, UnknownFields};

/// Time between two heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Time after which the server removes a heartbeat.
const HEARTBEAT_TTL: Duration = Duration::from_secs(15);

/// How long a heartbeat waits for the server's clock.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a scheduler that stops waits until its heartbeat is removed. It expires by itself.
const REMOVAL_TIMEOUT: Duration = Duration::from_millis(500);

/// Writes heartbeats until it is dropped. A scheduler works without them, so it ends for no error.
pub(super) async fn write_heartbeats(
    broker: &Broker,
    process: &JobId,
    leader: &LeaderInfo,
    status: &SchedulerStatus,
) {
    let started_at = clock::now();
    loop {
        let skew = timeout(CLOCK_TIMEOUT, clock_check::measure(broker)).await;
        let (state, since) = status.state();
        let info = SchedulerInfo {
            instance_id: leader.instance_id.clone(),
            hostname: leader.hostname.clone(),
            pid: leader.pid,
            version: leader.version.clone(),
            state,
            since,
            clock_offset_ms: skew.ok().and_then(Result::ok).map(|skew| skew.ahead_ms()),
            enqueued: status.enqueued(),
            started_at,
            last_seen: clock::now(),
            unknown: UnknownFields::default(),
        };
        match broker
            .scheduler_heartbeat(process, &info, HEARTBEAT_TTL)
            .await
        {
            Ok(()) => {}
            Err(error @ BrokerError::PermissionDenied { .. }) => {
                tracing::warn!("`naq scheduler list` will not show this scheduler: {error}");
                return std::future::pending().await;
            }
            Err(error) => tracing::debug!("cannot write the heartbeat: {error}"),
        }
        tokio::select! {
            () = tokio::time::sleep(HEARTBEAT_INTERVAL) => {}
            () = status.changed() => {}
        }
    }
}

/// Removes the heartbeat of a scheduler that stops.
pub(super) async fn remove_heartbeat(broker: &Broker, process: &JobId) {
    let removed = timeout(REMOVAL_TIMEOUT, broker.remove_scheduler(process)).await;
    if !matches!(removed, Ok(Ok(()))) {
        tracing::debug!("cannot remove the heartbeat; it expires by itself");
    }
}
