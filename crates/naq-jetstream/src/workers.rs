//! Workers' heartbeats.

use std::time::Duration;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::heartbeats::REMOVED_MARKER_TTL;
use crate::stream::publish::PendingWrite;
use naq_protocol::WorkerInfo;

impl Broker {
    /// Sends a worker's heartbeat, which expires after `ttl` unless it is written again.
    ///
    /// # Errors
    /// Returns an error if the heartbeat cannot be sent.
    pub async fn heartbeat(
        &self,
        info: &WorkerInfo,
        ttl: Duration,
    ) -> Result<PendingWrite, BrokerError> {
        let subject = self.names.worker(&info.worker_id);
        self.send_heartbeat(subject, info, ttl).await
    }

    /// Waits until a heartbeat is stored. If its bucket is missing, creates the bucket for the next
    /// one. A heartbeat that is not acknowledged in time may mean the same: a program that subscribes
    /// to its subject keeps the server from reporting that no stream does.
    ///
    /// # Errors
    /// Returns an error if the heartbeat is not stored.
    pub async fn confirm_heartbeat(&self, sent: PendingWrite) -> Result<(), BrokerError> {
        match sent.confirmed().await {
            Ok(_) => Ok(()),
            Err(BrokerError::NotFound(_) | BrokerError::Timeout(_)) => self.ensure_workers().await,
            Err(error) => Err(error),
        }
    }

    /// Removes the heartbeat of a worker that shuts down.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn remove_worker(&self, worker_id: &str) -> Result<(), BrokerError> {
        self.remove_heartbeat(self.names.worker(worker_id), REMOVED_MARKER_TTL)
            .await
    }

    /// Finds out whether the server has room to store what workers write: it removes the heartbeat of
    /// a worker that does not exist.
    ///
    /// # Errors
    /// Returns [`BrokerError::StorageFull`] if it has none.
    pub async fn check_storage(&self) -> Result<(), BrokerError> {
        let nobody = self.names.worker("storage-check");
        self.remove_heartbeat(nobody, Duration::from_secs(1)).await
    }

    /// Lists the workers whose heartbeat has not expired, by name.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn list_workers(&self) -> Result<Vec<WorkerInfo>, BrokerError> {
        let mut workers: Vec<WorkerInfo> =
            self.read_heartbeats(&self.names.workers_bucket()).await?;
        workers.sort_by(|a, b| (&a.name, &a.worker_id).cmp(&(&b.name, &b.worker_id)));
        Ok(workers)
    }
}
