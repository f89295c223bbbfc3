//! Reads a stream in bulk from its beginning, without buffering it.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::connection::denial::DenialWatch;
use crate::error::{BrokerError, has_consumer_code, is_stream_not_found};
use crate::stream::stream_api::MessageSelector;
use naq_protocol::Timestamp;

/// A message of a bulk read.
pub(crate) struct StreamMessage {
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    pub(crate) time_unix_ms: i64,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
}

/// The end of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamTip {
    /// The last sequence; 0 if the stream is empty or does not exist.
    pub(crate) last_sequence: u64,
    /// When the stream was created. `None` if it does not exist.
    pub(crate) created_at: Option<Timestamp>,
    /// Number of its subjects.
    pub(crate) subjects: u64,
}

/// The messages of a stream to read.
#[derive(Clone, Debug)]
pub(crate) struct StreamRead {
    /// Subject of the messages, which may have wildcards.
    pub(crate) filter: String,
    /// Which of them, and from where.
    pub(crate) deliver: DeliverPolicy,
    /// Whether to leave out the payloads.
    pub(crate) headers_only: bool,
}

impl StreamRead {
    /// The last message of each subject.
    pub(crate) fn last_per_subject(filter: impl Into<String>) -> StreamRead {
        StreamRead {
            filter: filter.into(),
            deliver: DeliverPolicy::LastPerSubject,
            headers_only: false,
        }
    }
}

const DOING: &str = "reading a stream";

/// Sends the remaining messages of a consumer to the reader, until it drops its end, an error occurs or
/// the server denies the request for them.
async fn forward(
    mut messages: pull::Stream,
    mut remaining: u64,
    mut denials: DenialWatch,
    request: &str,
    reader: &mpsc::Sender<Result<StreamMessage, BrokerError>>,
) {
    const IDLE_MAX: Duration = Duration::from_secs(10);
    while remaining > 0 {
        let next = tokio::select! {
            biased;
            next = tokio::time::timeout(IDLE_MAX, messages.next()) => next,
            denial = denials.request_denied(request) => {
                let denied = BrokerError::PermissionDenied { doing: DOING, denial };
                // the reader may have left
                let _ = reader.send(Err(denied)).await;
                return;
            }
        };
        let read = match next {
            Ok(Some(Ok(message))) => match message.info() {
                Ok(info) => {
                    // Counting down would end the read too early: a key that is written meanwhile
                    // moves to the end of the stream.
                    remaining = info.pending;
                    Ok(StreamMessage {
                        subject: message.subject.to_string(),
                        sequence: info.stream_sequence,
                        time_unix_ms: info.published.timestamp_millis(),
                        headers: message.headers.clone().unwrap_or_default(),
                        payload: message.payload.clone(),
                    })
                }
                Err(error) => Err(BrokerError::unreadable("a delivery's subject", error)),
            },
            Ok(Some(Err(error))) => Err(BrokerError::refused(DOING, error)),
            Ok(None) => break,
            Err(_) => Err(BrokerError::Timeout(DOING)),
        };
        let failed = read.is_err();
        if reader.send(read).await.is_err() || failed {
            break;
        }
    }
}

impl Broker {
    /// Reads the current messages of a stream as they arrive; yields nothing if the stream does not
    /// exist. The channel is short, so the reader bounds the memory.
    pub(crate) async fn read_stream(
        &self,
        stream: &str,
        scan: StreamRead,
    ) -> Result<mpsc::Receiver<Result<StreamMessage, BrokerError>>, BrokerError> {
        let (sender, receiver) = mpsc::channel(64);
        let creating = self.jetstream.create_consumer_on_stream(
            pull::Config {
                deliver_policy: scan.deliver,
                ack_policy: AckPolicy::None,
                filter_subject: scan.filter,
                headers_only: scan.headers_only,
                inactive_threshold: Duration::from_secs(30),
                memory_storage: true,
                num_replicas: 1,
                ..pull::Config::default()
            },
            stream,
        );
        // Not the stream: the removal of the consumer of an earlier read may be denied at this moment,
        // which does no harm.
        let about = format!("{}.CONSUMER.CREATE.{stream}", self.api_prefix);
        let consumer = match self.until_denied(DOING, &about, creating).await? {
            Ok(consumer) => consumer,
            Err(error) if has_consumer_code(&error, ErrorCode::STREAM_NOT_FOUND) => {
                return Ok(receiver);
            }
            Err(error) => {
                return Err(self.request_error(DOING, error));
            }
        };
        let remaining = consumer.cached_info().num_pending;
        let (jetstream, of_stream) = (self.jetstream.clone(), stream.to_owned());
        let name = consumer.cached_info().name.clone();
        // the consumer would expire, but only after it has been idle for long, and a server allows a
        // limited number of them
        let remove = async move {
            let _ = jetstream
                .delete_consumer_from_stream(&name, &of_stream)
                .await;
        };
        if remaining == 0 {
            tokio::spawn(remove);
            return Ok(receiver);
        }
        // before the first request for messages
        let denials = self.link.denials();
        let next = format!("{}.CONSUMER.MSG.NEXT.{stream}", self.api_prefix);
        let messages = consumer
            .stream()
            .max_messages_per_batch(500)
            .messages()
            .await
            .map_err(|error| self.request_error(DOING, error))?;
        tokio::spawn(async move {
            forward(messages, remaining, denials, &next, &sender).await;
            remove.await;
        });
        Ok(receiver)
    }

    /// The last sequence of a stream; 0 if the stream is empty or does not exist.
    pub(crate) async fn last_sequence(&self, stream: &str) -> Result<u64, BrokerError> {
        Ok(self.stream_tip(stream).await?.last_sequence)
    }

    /// The end of a stream.
    pub(crate) async fn stream_tip(&self, stream: &str) -> Result<StreamTip, BrokerError> {
        const DOING: &str = "reading a stream's state";
        let asking = self.jetstream.get_stream(stream);
        match self.until_denied(DOING, stream, asking).await? {
            Ok(found) => {
                let info = found.cached_info();
                Ok(StreamTip {
                    last_sequence: info.state.last_sequence,
                    created_at: Some(Timestamp(info.created)),
                    subjects: info.state.subjects_count,
                })
            }
            Err(error) if is_stream_not_found(&error) => Ok(StreamTip::default()),
            Err(error) => Err(self.request_error(DOING, error)),
        }
    }

    /// Reads the keys of a bucket under a filter: a few keys one by one, which creates nothing at
    /// the server; more keys in bulk.
    pub(crate) async fn read_keys(
        &self,
        stream: &str,
        filter: &str,
    ) -> Result<mpsc::Receiver<Result<StreamMessage, BrokerError>>, BrokerError> {
        const FEW: usize = 16;
        let (sender, receiver) = mpsc::channel(FEW);
        let mut from = 1;
        for _ in 0..FEW {
            let next = self
                .read_message(stream, MessageSelector::NextBySubject(filter, from))
                .await?;
            let Some(message) = next else {
                return Ok(receiver);
            };
            from = message.sequence + 1;
            let message = StreamMessage {
                sequence: message.sequence,
                time_unix_ms: message.time.unix_ms(),
                headers: HeaderMap::new(),
                payload: message.payload(),
                subject: message.subject,
            };
            // the channel has room for all of them
            let _ = sender.try_send(Ok(message));
        }
        self.read_stream(stream, StreamRead::last_per_subject(filter))
            .await
    }
}
