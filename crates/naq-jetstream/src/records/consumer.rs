//! A durable consumer of all changes of records, which misses none.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::{self, AckKind};
use futures_util::StreamExt;

use super::RETRY_PAUSE;
use super::change::{RecordChange, parse_change};
use crate::broker::Broker;
use crate::connection::state::ConnectionWatch;
use crate::error::BrokerError;
use crate::names::Names;
use naq_protocol::Timestamp;

/// Maximum number of unacknowledged changes of a consumer, including those that wait for
/// redelivery.
const ACK_PENDING_MAX: i64 = 1_000;

/// How long the server keeps an unused consumer: by then most records that it would deliver have
/// expired too.
const CONSUMER_INACTIVE_MAX: Duration = Duration::from_secs(90 * 86_400);

/// Number of changes that are requested ahead.
const CHANGES_AHEAD: usize = 64;

/// Every change from a moment on. Each is redelivered until it is acknowledged, across restarts.
pub struct RecordChangeConsumer {
    name: String,
    stream: jetstream::stream::Stream<()>,
    messages: pull::Stream,
    link: ConnectionWatch,
    /// Whether the connection was lost since the server's state was last compared with what was
    /// delivered.
    is_unchecked: bool,
    /// The newest revision that was delivered here.
    newest: u64,
}

/// A change that has to be acknowledged.
pub struct RecordChangeDelivery {
    /// The change.
    pub changed: RecordChange,
    /// How often it has been delivered, this delivery included.
    pub delivery: u64,
    message: jetstream::Message,
}

impl RecordChangeConsumer {
    /// Waits for the next change. Cancel safe.
    ///
    /// # Errors
    /// Returns an error if the consumer was removed, or if the server has lost changes that were
    /// delivered: later changes would have the revisions of those.
    pub async fn next(&mut self) -> Result<RecordChangeDelivery, BrokerError> {
        use async_nats::jetstream::consumer::pull::MessagesErrorKind;
        loop {
            if self.is_unchecked {
                self.check_continuity().await?;
                self.is_unchecked = false;
            }
            let message = tokio::select! {
                message = self.messages.next() => message,
                link = self.link.changed() => {
                    self.is_unchecked |= link.connected;
                    continue;
                }
            };
            let message = match message {
                Some(Ok(message)) => message,
                Some(Err(error)) => match error.kind() {
                    MessagesErrorKind::ConsumerDeleted | MessagesErrorKind::PushBasedConsumer => {
                        return Err(BrokerError::connection_lost(format!(
                            "the consumer {} was removed",
                            self.name
                        )));
                    }
                    // redelivered once the connection is back
                    _ => {
                        tracing::debug!("no changes for now; retrying: {error}");
                        self.is_unchecked = true;
                        tokio::time::sleep(RETRY_PAUSE).await;
                        continue;
                    }
                },
                None => return Err(BrokerError::connection_lost("the changes ended")),
            };
            let Ok(info) = message.info() else { continue };
            let time = Timestamp::from_unix_ms(info.published.timestamp_millis());
            let delivery = u64::try_from(info.delivered).unwrap_or(1);
            self.newest = self.newest.max(info.stream_sequence);
            let headers = message.headers.clone().unwrap_or_default();
            let change = parse_change(&headers, &message.payload, info.stream_sequence, time);
            match change {
                Some(changed) => {
                    return Ok(RecordChangeDelivery {
                        changed,
                        delivery,
                        message,
                    });
                }
                // a removed record is not a change to report
                None => drop(message.ack().await),
            }
        }
    }

    /// Fails if the server has lost the consumer, or changes that were delivered, as in a power cut. A
    /// server that does not answer has lost nothing.
    async fn check_continuity(&self) -> Result<(), BrokerError> {
        let lost = |what: String| {
            let error = format!("{what}; start again to continue with the changes from now on");
            Err(BrokerError::connection_lost(error))
        };
        // The consumer before the stream, which only grows unless it has lost something.
        let delivered = match self.stream.consumer_info(&self.name).await {
            Ok(info) => info.delivered.stream_sequence,
            Err(error)
                if matches!(
                    error.kind(),
                    ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound
                ) =>
            {
                return lost(format!("the server has lost the consumer {}", self.name));
            }
            Err(_) => return Ok(()),
        };
        match self.stream.get_info().await {
            Ok(info) if info.state.last_sequence < delivered.max(self.newest) => {
                lost("the server has lost changes of records".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Whether every change up to a revision is acknowledged.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn is_acknowledged(&self, revision: u64) -> Result<bool, BrokerError> {
        let info = self.stream.consumer_info(&self.name).await;
        match info {
            Ok(info) => Ok(info.ack_floor.stream_sequence >= revision),
            Err(error) => Err(BrokerError::refused("reading a consumer's state", error)),
        }
    }
}

impl RecordChangeDelivery {
    /// Acknowledges the change. If the acknowledgement is lost, the change is redelivered.
    pub async fn ack(&self) {
        self.answer(AckKind::Ack).await;
    }

    /// Negatively acknowledges the change: it is redelivered after `wait`.
    pub async fn nak_after(&self, wait: Duration) {
        self.answer(AckKind::Nak(Some(wait))).await;
    }

    /// Extends the time until redelivery, while the change is being processed.
    pub async fn in_progress(&self) {
        self.answer(AckKind::Progress).await;
    }

    async fn answer(&self, kind: AckKind) {
        if let Err(error) = self.message.ack_with(kind).await {
            tracing::debug!("a change could not be acknowledged and will be redelivered: {error}");
        }
    }
}

impl Broker {
    /// Consumes all changes under a durable name: the first time from now on, later from where the
    /// last consumer stopped, unless it has been unused for three months. Several processes that
    /// consume under the same name share the changes.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn consume_record_changes(
        &self,
        name: &str,
        ack_wait: Duration,
    ) -> Result<RecordChangeConsumer, BrokerError> {
        const DOING: &str = "creating a consumer of changes";
        self.ensure_results().await?;
        let bucket = self.names.results_bucket();
        let stream = Names::bucket_stream(&bucket);
        let config = pull::Config {
            durable_name: Some(name.to_owned()),
            description: Some("naq events".to_owned()),
            deliver_policy: DeliverPolicy::New,
            ack_policy: AckPolicy::Explicit,
            ack_wait,
            max_deliver: -1,
            max_ack_pending: ACK_PENDING_MAX,
            inactive_threshold: CONSUMER_INACTIVE_MAX,
            filter_subject: format!("$KV.{bucket}.>"),
            ..pull::Config::default()
        };
        let create = || {
            self.jetstream
                .create_consumer_on_stream(config.clone(), &stream)
        };
        let mut consumer: PullConsumer = self
            .until_denied(DOING, &stream, create())
            .await?
            .map_err(|error| self.request_error(DOING, error))?;
        let delivered = consumer.cached_info().delivered.stream_sequence;
        let last = self.last_sequence(&stream).await?;
        if delivered > last {
            tracing::warn!(
                consumer = name,
                delivered,
                last,
                "consumer is past the end of its stream; the server has lost messages, recreating the consumer"
            );
            let deleting = self.jetstream.delete_consumer_from_stream(name, &stream);
            deleting
                .await
                .map_err(|error| self.request_error(DOING, error))?;
            consumer = create()
                .await
                .map_err(|error| self.request_error(DOING, error))?;
        }
        let mut link = self.link.clone();
        link.mark_seen();
        let messages = consumer
            .stream()
            .max_messages_per_batch(CHANGES_AHEAD)
            .messages()
            .await
            .map_err(|error| self.request_error(DOING, error))?;
        let stream = self
            .jetstream
            .get_stream_no_info(&stream)
            .await
            .map_err(|error| self.request_error(DOING, error))?;
        Ok(RecordChangeConsumer {
            name: name.to_owned(),
            stream,
            messages,
            link,
            is_unchecked: false,
            newest: 0,
        })
    }
}
