//! Completes the index of unsuccessful jobs: with the records of an earlier version of naq, and of programs that write
//! records and no entries.

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::leader_lease::LeaderLease;
use naq_jetstream::{Broker, BrokerError};

/// Number of entries that are looked up at once.
const CONCURRENT_READS_MAX: usize = 64;

/// Adds the entries that the index lacks. An error leaves the rest to the next comparison.
pub(super) async fn complete_index(broker: &Broker, lease: &LeaderLease) {
    match add_missing(broker, lease).await {
        Ok(0) => {}
        Ok(added) => tracing::info!(added, "completed the index of unsuccessful jobs"),
        Err(error) => {
            tracing::warn!("cannot complete the index of unsuccessful jobs yet: {error}");
        }
    }
}

/// Returns how many entries were added.
async fn add_missing(broker: &Broker, lease: &LeaderLease) -> Result<u64, BrokerError> {
    let mut comparison = broker.compare_unsuccessful().await?;
    let mut added = 0;
    let mut checks = FuturesUnordered::new();
    while let Some(job) = comparison.next().await? {
        if !lease.is_held() {
            return Ok(added);
        }
        checks.push(async move { broker.index_unsuccessful(&job).await });
        if checks.len() >= CONCURRENT_READS_MAX
            && let Some(is_added) = checks.next().await
        {
            added += u64::from(is_added?);
        }
    }
    while let Some(is_added) = checks.next().await {
        added += u64::from(is_added?);
    }
    drop(checks);
    broker.end_comparison(comparison).await?;
    Ok(added)
}
