//! Schedulers' heartbeats.

use std::time::Duration;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::heartbeats::REMOVED_MARKER_TTL;
use naq_protocol::{JobId, SchedulerInfo};

impl Broker {
    /// Writes a scheduler's heartbeat, which expires after `ttl` unless it is written again. `process`
    /// is a name of this process alone: two schedulers may have the same instance id. Creates the
    /// bucket if it does not exist.
    ///
    /// # Errors
    /// Returns an error if the server does not answer or refuses.
    pub async fn scheduler_heartbeat(
        &self,
        process: &JobId,
        info: &SchedulerInfo,
        ttl: Duration,
    ) -> Result<(), BrokerError> {
        let send = || self.send_heartbeat(self.names.scheduler(process), info, ttl);
        match send().await?.confirmed().await {
            Ok(_) => Ok(()),
            // a program that subscribes to the subject keeps the server from reporting that the bucket
            // is missing
            Err(BrokerError::NotFound(_) | BrokerError::Timeout(_)) => {
                self.ensure_schedulers().await?;
                send().await?.confirmed().await.map(drop)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the heartbeat of a scheduler is stored and has not expired.
    ///
    /// # Errors
    /// Returns an error if the server does not answer or denies the read.
    pub async fn scheduler_heartbeat_exists(&self, process: &JobId) -> Result<bool, BrokerError> {
        let bucket = self.names.schedulers_bucket();
        self.heartbeat_exists(&bucket, &self.names.scheduler(process))
            .await
    }

    /// Removes the heartbeat of a scheduler that shuts down.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn remove_scheduler(&self, process: &JobId) -> Result<(), BrokerError> {
        let subject = self.names.scheduler(process);
        self.remove_heartbeat(subject, REMOVED_MARKER_TTL).await
    }

    /// Lists the schedulers whose heartbeat has not expired, by host and instance id.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn list_schedulers(&self) -> Result<Vec<SchedulerInfo>, BrokerError> {
        let mut schedulers: Vec<SchedulerInfo> = self
            .read_heartbeats(&self.names.schedulers_bucket())
            .await?;
        schedulers.sort_by(|a, b| {
            (&a.hostname, &a.instance_id, a.pid).cmp(&(&b.hostname, &b.instance_id, b.pid))
        });
        Ok(schedulers)
    }
}
