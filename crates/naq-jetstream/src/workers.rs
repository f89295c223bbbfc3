//! Workers' heartbeats.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use crate::stream::publish::PendingWrite;
use crate::stream::stream_reader::StreamRead;
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
        let payload = serde_json::to_vec(info)
            .map_err(|error| BrokerError::not_json("the heartbeat", error))?;
        let mut headers = HeaderMap::new();
        headers.insert(
            async_nats::header::NATS_MESSAGE_TTL,
            format!("{}s", ttl.as_secs().max(1)),
        );
        let subject = self.names.worker(&info.worker_id);
        self.send(subject, headers, payload.into()).await
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
        self.remove_heartbeat(worker_id, "600s").await
    }

    /// Finds out whether the server has room to store what workers write: it removes the heartbeat of
    /// a worker that does not exist.
    ///
    /// # Errors
    /// Returns [`BrokerError::StorageFull`] if it has none.
    pub async fn check_storage(&self) -> Result<(), BrokerError> {
        self.remove_heartbeat("storage-check", "1s").await
    }

    async fn remove_heartbeat(&self, worker_id: &str, ttl: &str) -> Result<(), BrokerError> {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        headers.insert(async_nats::header::NATS_MESSAGE_TTL, ttl);
        self.send(self.names.worker(worker_id), headers, Bytes::new())
            .await?
            .confirmed()
            .await
            .map(|_| ())
    }

    /// Lists the workers whose heartbeat has not expired, by name.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn list_workers(&self) -> Result<Vec<WorkerInfo>, BrokerError> {
        let bucket = self.names.workers_bucket();
        let stream = Names::bucket_stream(&bucket);
        let mut messages = self
            .read_stream(
                &stream,
                StreamRead::last_per_subject(format!("$KV.{bucket}.>")),
            )
            .await?;
        let mut workers = Vec::new();
        while let Some(message) = messages.recv().await {
            if let Ok(info) = serde_json::from_slice::<WorkerInfo>(&message?.payload) {
                workers.push(info);
            }
        }
        workers.sort_by(|a, b| (&a.name, &a.worker_id).cmp(&(&b.name, &b.worker_id)));
        Ok(workers)
    }
}
