//! Heartbeats: the value of a key that expires unless it is written again.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use crate::stream::publish::PendingWrite;
use crate::stream::stream_api::MessageSelector;

/// How long the marker of a removed heartbeat stays, so that watches see the removal.
pub(crate) const REMOVED_MARKER_TTL: Duration = Duration::from_secs(600);

/// Maximum size of all heartbeats of a bucket, in bytes: those of some hundred thousand workers.
const HEARTBEAT_BYTES_MAX: usize = 64 << 20;

impl Broker {
    /// Sends a heartbeat, which expires after `ttl`, in whole seconds of at least one.
    pub(crate) async fn send_heartbeat(
        &self,
        subject: String,
        info: &impl Serialize,
        ttl: Duration,
    ) -> Result<PendingWrite, BrokerError> {
        let payload = serde_json::to_vec(info)
            .map_err(|error| BrokerError::not_json("the heartbeat", error))?;
        let mut headers = HeaderMap::new();
        headers.insert(
            async_nats::header::NATS_MESSAGE_TTL,
            format!("{}s", ttl.as_secs().max(1)),
        );
        self.send(subject, headers, payload.into()).await
    }

    /// Removes a heartbeat. The marker of the removal expires after `marker_ttl`.
    pub(crate) async fn remove_heartbeat(
        &self,
        subject: String,
        marker_ttl: Duration,
    ) -> Result<(), BrokerError> {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        headers.insert(
            async_nats::header::NATS_MESSAGE_TTL,
            format!("{}s", marker_ttl.as_secs()),
        );
        self.send(subject, headers, Bytes::new())
            .await?
            .confirmed()
            .await
            .map(|_| ())
    }

    /// Whether a heartbeat is stored. The marker of one that was removed has no payload.
    pub(crate) async fn heartbeat_exists(
        &self,
        bucket: &str,
        subject: &str,
    ) -> Result<bool, BrokerError> {
        let stream = Names::bucket_stream(bucket);
        let found = self
            .read_message(&stream, MessageSelector::LastBySubject(subject))
            .await?;
        Ok(found.is_some_and(|found| !found.payload().is_empty()))
    }

    /// Reads the heartbeats of a bucket that have not expired. One that cannot be parsed is left out.
    pub(crate) async fn read_heartbeats<Info: DeserializeOwned>(
        &self,
        bucket: &str,
    ) -> Result<Vec<Info>, BrokerError> {
        let stream = Names::bucket_stream(bucket);
        let mut messages = self.read_keys(&stream, &format!("$KV.{bucket}.*")).await?;
        let (mut heartbeats, mut bytes) = (BTreeMap::new(), 0);
        while let Some(message) = messages.recv().await {
            let message = message?;
            bytes += message.payload.len();
            if bytes > HEARTBEAT_BYTES_MAX {
                return Err(BrokerError::UnsupportedServer(format!(
                    "NATS sends more than 64 MiB of heartbeats in {bucket}"
                )));
            }
            // one that is written again during the reading is read twice
            match serde_json::from_slice::<Info>(&message.payload) {
                Ok(info) => heartbeats.insert(message.subject, info),
                Err(_) => heartbeats.remove(&message.subject),
            };
        }
        Ok(heartbeats.into_values().collect())
    }
}
