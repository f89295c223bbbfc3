//! Creates streams again that are removed while a process uses them, and logs what is lost.
//!
//! Most writers create a missing stream at once. This is for the others: publishes that nobody
//! acknowledges, and readers, for which a missing stream looks like an empty one.

use std::time::Duration;

use tokio::time::Instant;

use super::streams::StreamSpec;
use crate::broker::Broker;
use crate::error::BrokerError;

/// Time between two reads of the list of streams.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Time between two warnings about streams of a cluster that have one replica.
const REPLICA_WARNING_INTERVAL: Duration = Duration::from_secs(3_600);

impl Broker {
    /// Creates again what is removed of naq's streams and buckets, for as long as it is polled. A
    /// queue is left to the workers that serve it. Also warns once an hour of streams that a lost
    /// server of a cluster would lose.
    ///
    /// `on_recreated` is called with the name of each stream that is created again.
    pub async fn keep_streams(&self, mut on_recreated: impl FnMut(&str)) {
        let mut warned_at: Option<Instant> = None;
        loop {
            let is_time = warned_at.is_none_or(|at| at.elapsed() >= REPLICA_WARNING_INTERVAL);
            if is_time && self.warn_of_single_replicas() {
                warned_at = Some(Instant::now());
            }
            match self.recreate_removed_streams().await {
                Ok(recreated) => recreated.iter().for_each(|stream| on_recreated(stream)),
                // each further request would be one more error in the log
                Err(error @ BrokerError::PermissionDenied { .. }) => {
                    tracing::warn!("removed streams will not be noticed: {error}");
                    std::future::pending::<()>().await;
                }
                Err(error) => tracing::debug!("cannot look for removed streams: {error}"),
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Creates the streams again that existed at the last call and do not any more. Returns their
    /// names.
    async fn recreate_removed_streams(&self) -> Result<Vec<String>, BrokerError> {
        const DOING: &str = "listing streams";
        let existing = self.stream_names(DOING).await?;
        let mut recreated = Vec::new();
        for spec in StreamSpec::of_workers(&self.names) {
            if existing.contains(&spec.name) {
                self.layout.mark_existing(&spec.name);
            } else if self.layout.existed(&spec.name) {
                let name = spec.name.clone();
                self.ensure_stream(spec).await?;
                recreated.push(name);
            }
        }
        Ok(recreated)
    }

    /// Warns of streams that have one replica on a cluster, unless that is what the settings say.
    fn warn_of_single_replicas(&self) -> bool {
        let single = self.replica_summary().single;
        if single.is_empty() || self.options.replicas == Some(1) {
            return false;
        }
        tracing::warn!(
            streams = single.join(" "),
            "these streams have one replica on a cluster, so the loss of one server can lose what they store; `naq server check --fix` raises the number"
        );
        true
    }
}
