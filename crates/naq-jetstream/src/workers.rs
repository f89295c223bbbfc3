//! Workers' heartbeats.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use crate::stream::stream_reader::StreamRead;
use naq_protocol::WorkerInfo;

impl Broker {
    /// Writes a worker's heartbeat, which expires after `ttl` unless it is written again. Not
    /// acknowledged: the next one follows soon.
    ///
    /// # Errors
    /// Returns an error if the heartbeat cannot be sent.
    pub async fn heartbeat(&self, info: &WorkerInfo, ttl: Duration) -> Result<(), BrokerError> {
        let payload = serde_json::to_vec(info)
            .map_err(|error| BrokerError::not_json("the heartbeat", error))?;
        let mut headers = HeaderMap::new();
        headers.insert(
            async_nats::header::NATS_MESSAGE_TTL,
            format!("{}s", ttl.as_secs().max(1)),
        );
        self.client
            .publish_with_headers(self.names.worker(&info.worker_id), headers, payload.into())
            .await
            .map_err(BrokerError::connection_lost)
    }

    /// Removes the heartbeat of a worker that shuts down.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn remove_worker(&self, worker_id: &str) -> Result<(), BrokerError> {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        headers.insert(async_nats::header::NATS_MESSAGE_TTL, "600s");
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
