//! Workers' heartbeats.

use std::time::Duration;

use async_nats::HeaderMap;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::heartbeats::REMOVED_MARKER_TTL;
use crate::names::Names;
use crate::stream::publish::PendingWrite;
use crate::stream::stream_api::MessageSelector;
use naq_protocol::{Timestamp, WorkerInfo};

/// How long a request to drain a worker is kept, for a worker that is disconnected. A worker that starts again has
/// another id.
const DRAIN_REQUEST_TTL: Duration = Duration::from_secs(86_400);

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

    /// Whether the heartbeat of a worker is stored and has not expired.
    ///
    /// # Errors
    /// Returns an error if the server does not answer or denies the read.
    pub async fn worker_heartbeat_exists(&self, worker_id: &str) -> Result<bool, BrokerError> {
        let bucket = self.names.workers_bucket();
        self.heartbeat_exists(&bucket, &self.names.worker(worker_id))
            .await
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

    /// Stores the request that a worker drains. The worker reads it when it is [notified](Broker::notify_drain),
    /// when it reconnects, and from time to time.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
    pub async fn request_drain(
        &self,
        worker_id: &str,
        requested_at: Timestamp,
    ) -> Result<(), BrokerError> {
        let payload = serde_json::json!({ "requested_at": requested_at }).to_string();
        let mut headers = HeaderMap::new();
        let ttl = format!("{}s", DRAIN_REQUEST_TTL.as_secs());
        headers.insert(async_nats::header::NATS_MESSAGE_TTL, ttl);
        let subject = self.names.drain_request(worker_id);
        self.store(subject, headers, payload.into()).await.map(drop)
    }

    /// Whether a request is stored that this worker drains.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
    pub async fn is_drain_requested(&self, worker_id: &str) -> Result<bool, BrokerError> {
        let stream = Names::bucket_stream(&self.names.workers_bucket());
        let subject = self.names.drain_request(worker_id);
        let found = self.read_message(&stream, MessageSelector::LastBySubject(&subject));
        // the marker of an expired request has no payload
        let is_request = |payload: bytes::Bytes| !payload.is_empty();
        Ok(found
            .await?
            .is_some_and(|found| is_request(found.payload())))
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
