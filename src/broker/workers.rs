//! Workers' heartbeats.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::names::Names;
use super::{Broker, BrokerError};
use crate::envelope::WorkerInfo;

/// A message read in bulk.
pub(super) struct BulkMessage {
    pub(super) subject: String,
    pub(super) sequence: u64,
    pub(super) time_unix_ms: i64,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

impl Broker {
    /// Writes a worker's heartbeat, which goes after `ttl` unless it is written again. Not
    /// waited for: the next one is soon.
    ///
    /// # Errors
    /// Where it could not be sent.
    pub async fn beat(&self, info: &WorkerInfo, ttl: Duration) -> Result<(), BrokerError> {
        let payload = serde_json::to_vec(info).map_err(|error| {
            BrokerError::Unreadable(format!("the heartbeat cannot be written as JSON: {error}"))
        })?;
        let mut headers = HeaderMap::new();
        headers.insert(
            async_nats::header::NATS_MESSAGE_TTL,
            format!("{}s", ttl.as_secs().max(1)),
        );
        self.client
            .publish_with_headers(self.names.worker(&info.worker_id), headers, payload.into())
            .await
            .map_err(|error| BrokerError::Lost(error.to_string()))
    }

    /// Removes the heartbeat of a worker that ends.
    ///
    /// # Errors
    /// Where the server does not answer.
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

    /// Every worker whose heartbeat is fresh, by name.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn list_workers(&self) -> Result<Vec<WorkerInfo>, BrokerError> {
        let bucket = self.names.workers_bucket();
        let stream = Names::bucket_stream(&bucket);
        let mut messages = self
            .read_last_of_each(&stream, &format!("$KV.{bucket}.>"))
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

    /// Reads the last message of every subject under a filter, as they come; none where the
    /// stream does not exist. The channel is short, so memory is bounded by the reader.
    pub(super) async fn read_last_of_each(
        &self,
        stream: &str,
        filter: &str,
    ) -> Result<mpsc::Receiver<Result<BulkMessage, BrokerError>>, BrokerError> {
        const DOING: &str = "reading a bucket";
        const IDLE_MAX: Duration = Duration::from_secs(10);
        let (sender, receiver) = mpsc::channel(256);
        let consumer = self
            .jetstream
            .create_consumer_on_stream(
                pull::Config {
                    deliver_policy: DeliverPolicy::LastPerSubject,
                    ack_policy: AckPolicy::None,
                    filter_subject: filter.to_owned(),
                    inactive_threshold: Duration::from_secs(30),
                    memory_storage: true,
                    num_replicas: 1,
                    ..pull::Config::default()
                },
                stream,
            )
            .await;
        let consumer = match consumer {
            Ok(consumer) => consumer,
            Err(error) if error.to_string().contains("stream not found") => return Ok(receiver),
            Err(error) => {
                return Err(BrokerError::Refused {
                    doing: DOING,
                    message: error.to_string(),
                });
            }
        };
        let mut remaining = consumer.cached_info().num_pending;
        if remaining == 0 {
            return Ok(receiver);
        }
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(500)
            .messages()
            .await
            .map_err(|error| BrokerError::Refused {
                doing: DOING,
                message: error.to_string(),
            })?;
        tokio::spawn(async move {
            while remaining > 0 {
                let next = tokio::time::timeout(IDLE_MAX, messages.next()).await;
                let read = match next {
                    Ok(Some(Ok(message))) => match message.info() {
                        Ok(info) => {
                            remaining = info.pending;
                            Ok(BulkMessage {
                                subject: message.subject.to_string(),
                                sequence: info.stream_sequence,
                                time_unix_ms: info.published.timestamp_millis(),
                                headers: message.headers.clone().unwrap_or_default(),
                                payload: message.payload.clone(),
                            })
                        }
                        Err(error) => Err(BrokerError::Unreadable(error.to_string())),
                    },
                    Ok(Some(Err(error))) => Err(BrokerError::Refused {
                        doing: DOING,
                        message: error.to_string(),
                    }),
                    Ok(None) => break,
                    Err(_) => Err(BrokerError::Timeout(DOING)),
                };
                let failed = read.is_err();
                if sender.send(read).await.is_err() || failed {
                    break;
                }
            }
        });
        Ok(receiver)
    }
}
