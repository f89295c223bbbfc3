//! Schedulers' heartbeats.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use crate::stream::stream_reader::StreamRead;
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
        let payload = serde_json::to_vec(info)
            .map_err(|error| BrokerError::not_json("the heartbeat", error))?;
        let mut headers = HeaderMap::new();
        headers.insert(
            async_nats::header::NATS_MESSAGE_TTL,
            format!("{}s", ttl.as_secs().max(1)),
        );
        let subject = self.names.scheduler(process);
        let payload = Bytes::from(payload);
        let sent = self.send(subject.clone(), headers.clone(), payload.clone());
        match sent.await?.confirmed().await {
            Err(BrokerError::NotFound(_)) => {
                self.ensure_schedulers().await?;
                let sent = self.send(subject, headers, payload).await?;
                sent.confirmed().await.map(|_| ())
            }
            written => written.map(|_| ()),
        }
    }

    /// Removes the heartbeat of a scheduler that shuts down.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn remove_scheduler(&self, process: &JobId) -> Result<(), BrokerError> {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        headers.insert(async_nats::header::NATS_MESSAGE_TTL, "600s");
        self.send(self.names.scheduler(process), headers, Bytes::new())
            .await?
            .confirmed()
            .await
            .map(|_| ())
    }

    /// Lists the schedulers whose heartbeat has not expired, by host and instance id.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn list_schedulers(&self) -> Result<Vec<SchedulerInfo>, BrokerError> {
        let bucket = self.names.schedulers_bucket();
        let stream = Names::bucket_stream(&bucket);
        let mut messages = self
            .read_stream(
                &stream,
                StreamRead::last_per_subject(format!("$KV.{bucket}.>")),
            )
            .await?;
        let mut schedulers = Vec::new();
        while let Some(message) = messages.recv().await {
            if let Ok(info) = serde_json::from_slice::<SchedulerInfo>(&message?.payload) {
                schedulers.push(info);
            }
        }
        schedulers.sort_by(|a, b| {
            (&a.hostname, &a.instance_id, a.pid).cmp(&(&b.hostname, &b.instance_id, b.pid))
        });
        Ok(schedulers)
    }
}
