//! Changes of records as they are stored: watched by observers, who also see the messages that
//! enter queues, or consumed by a durable consumer that misses none.
//!
//! Live changes are core messages that the server republishes; those of records are numbered by
//! their sequence in the bucket. If a sequence is skipped, or the connection was lost, the bucket
//! is read from there on: it has the latest revision of each record, so that no end of a job is
//! missed, although intermediate states may be.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::{self, AckKind};
use async_nats::{HeaderMap, Subscriber};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::blocked_index::RECHECK_HEADER;
use super::connect::{ConnectionWatch, RECONNECT_BACKOFF};
use super::delayed::{attempts, delayed_state};
use super::jobs::{JobMessage, MessageState, job_message};
use super::listing::job_id_of;
use super::names::Names;
use super::stream_api::StoredMessage;
use super::stream_reader::{StreamMessage, StreamRead};
use super::{Broker, BrokerError};
use naq_protocol::{JobId, Record, Timestamp};

/// On a record that was stored again with another TTL: the revision that it is a copy of.
pub(super) const COPY_OF: &str = "Naq-Copy-Of";

/// A record that was stored.
#[derive(Clone, Debug)]
pub struct RecordChange {
    /// The record.
    pub record: Record,
    /// Its revision: the sequence in the bucket's stream.
    pub revision: u64,
    /// The revision before it, 0 if it is the job's first. `None` if that is unknown.
    pub previous: Option<u64>,
    /// The revision that it repeats with another TTL. `None` if the record itself changed.
    pub copy_of: Option<u64>,
    /// When the server stored it. `None` if the message does not state it.
    pub time: Option<Timestamp>,
}

/// A message of a job that entered a queue, or that is delayed.
#[derive(Clone, Debug)]
pub struct EnqueuedMessage {
    /// The job.
    pub job_id: JobId,
    /// The message.
    pub message: JobMessage,
    /// Number of earlier attempts, if the message is a retry; else 0.
    pub attempts: u32,
    /// When the server stored it.
    pub time: Timestamp,
}

/// An event of a watch on all records and queues.
#[derive(Debug)]
pub enum BrokerEvent {
    /// A record was stored.
    RecordStored(Box<RecordChange>),
    /// A job's message was stored in a queue, for the first time or again.
    MessageEnqueued(Box<EnqueuedMessage>),
    /// The connection was lost. Later events are read from the bucket, which does not have the
    /// intermediate states of the meantime.
    ConnectionLost,
}

/// The connection of a watch. It is separate from the general one: a message that no client can
/// parse breaks the connection that it arrives on.
struct EventConnection {
    broker: Broker,
    live: Subscriber,
    /// The bucket's last sequence when the subscription became active.
    position: u64,
    /// The generation of the connection, as of its last event.
    generation: u64,
}

impl EventConnection {
    async fn open(broker: &Broker) -> Result<EventConnection, BrokerError> {
        let mut broker = broker.open_observer().await?;
        let generation = broker.link.mark_seen().generation;
        let live = broker
            .client
            .subscribe(broker.names.events())
            .await
            .map_err(|error| BrokerError::ConnectionLost(error.to_string()))?;
        // answered after the subscription is active, since the server processes one connection in
        // order
        let stream = Names::bucket_stream(&broker.names.results_bucket());
        let position = broker.last_sequence(&stream).await?;
        Ok(EventConnection {
            broker,
            live,
            position,
            generation,
        })
    }

    /// Opens a connection, and retries until it succeeds.
    async fn open_with_retry(broker: &Broker) -> EventConnection {
        let mut failures = 0;
        loop {
            match EventConnection::open(broker).await {
                Ok(connection) => return connection,
                Err(error) => tracing::debug!("cannot open the connection for events yet: {error}"),
            }
            failures += 1;
            tokio::time::sleep(RECONNECT_BACKOFF.pause(failures, rand::random())).await;
        }
    }
}

/// A watch on all records and queues.
pub struct BrokerEventWatch {
    broker: Broker,
    link: ConnectionWatch,
    connection: EventConnection,
    /// Everything up to this revision was seen.
    contiguous_up_to: u64,
    /// The newest revision that was seen.
    position: u64,
    /// Whether changes after `contiguous_up_to` may be missing and have to be read.
    gap: bool,
    catching_up: Option<mpsc::Receiver<Result<StreamMessage, BrokerError>>>,
}

impl BrokerEventWatch {
    /// Waits for the next event. Cancel safe.
    ///
    /// # Errors
    /// Returns an error if the server refuses a request. If the connection is lost, it waits for
    /// the connection to come back.
    pub async fn next(&mut self) -> Result<BrokerEvent, BrokerError> {
        loop {
            let step = if let Some(messages) = &mut self.catching_up {
                match messages.recv().await {
                    Some(Ok(message)) => Ok(self.take(message)),
                    Some(Err(error)) => Err(error),
                    None => {
                        self.catching_up = None;
                        self.contiguous_up_to = self.position;
                        Ok(None)
                    }
                }
            } else if self.gap {
                self.catch_up().await.map(|()| None)
            } else {
                Ok(self.live().await)
            };
            match step {
                Ok(Some(change)) => return Ok(change),
                Ok(None) => {}
                Err(error) if error.is_transient() && self.link.state().connected => {
                    tracing::debug!("cannot catch up yet: {error}");
                    self.catching_up = None;
                    self.gap = true;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) if self.link.state().connected => return Err(error),
                Err(_) => {
                    self.catching_up = None;
                    self.gap = true;
                    self.link.changed().await;
                }
            }
        }
    }

    async fn live(&mut self) -> Option<BrokerEvent> {
        tokio::select! {
            biased;
            message = self.connection.live.next() => {
                let Some(message) = message else {
                    // the client's own task has ended, which only a message that makes it panic
                    // does
                    self.connection = EventConnection::open_with_retry(&self.broker).await;
                    self.gap = true;
                    return Some(BrokerEvent::ConnectionLost);
                };
                if is_of_queue(&message.subject) {
                    let arrived = StoredMessage::from_republished(&message)
                        .and_then(|message| self.broker.arrived(&message));
                    return arrived.map(|arrived| BrokerEvent::MessageEnqueued(Box::new(arrived)));
                }
                let headers = message.headers.unwrap_or_default();
                let revision: u64 = number(&headers, "Nats-Sequence")?;
                if revision <= self.position {
                    return None;
                }
                if revision > self.position + 1 {
                    self.gap = true;
                    return None;
                }
                let seen = self.contiguous_up_to;
                self.position = revision;
                self.contiguous_up_to = revision;
                let time = headers
                    .get("Nats-Time-Stamp")
                    .and_then(|time| time.as_str().parse().ok());
                stored(&headers, &message.payload, revision, time, seen)
            }
            link = self.connection.broker.link.changed() => {
                if link.connected && link.generation != self.connection.generation {
                    self.connection.generation = link.generation;
                    self.gap = true;
                    return Some(BrokerEvent::ConnectionLost);
                }
                None
            }
        }
    }

    async fn catch_up(&mut self) -> Result<(), BrokerError> {
        let bucket = self.broker.names.results_bucket();
        let stream = Names::bucket_stream(&bucket);
        // on the connection of the events, so that it is answered after that connection's
        // subscription is active again
        let last = match self.connection.broker.last_sequence(&stream).await {
            Ok(last) => last,
            Err(_) => {
                self.connection = EventConnection::open_with_retry(&self.broker).await;
                self.connection.position
            }
        };
        if last < self.contiguous_up_to {
            // the bucket was deleted and created again
            (self.contiguous_up_to, self.position) = (0, 0);
        }
        let scan = StreamRead {
            filter: format!("$KV.{bucket}.>"),
            deliver: DeliverPolicy::ByStartSequence {
                start_sequence: self.contiguous_up_to + 1,
            },
            headers_only: false,
        };
        self.catching_up = Some(self.broker.read_stream(&stream, scan).await?);
        self.gap = false;
        Ok(())
    }

    fn take(&mut self, message: StreamMessage) -> Option<BrokerEvent> {
        if message.sequence <= self.position {
            return None;
        }
        self.position = message.sequence;
        let time = Timestamp::from_unix_ms(message.time_unix_ms);
        stored(
            &message.headers,
            &message.payload,
            message.sequence,
            time,
            self.contiguous_up_to,
        )
    }
}

/// Whether a republished message is of a queue's stream. The subject of a record's change has only
/// the job after the prefix and the kind.
fn is_of_queue(subject: &str) -> bool {
    subject.split('.').count() > 3
}

/// The event of a stored record. `None` if the message is not a record, or is a copy of one that
/// was seen.
fn stored(
    headers: &HeaderMap,
    payload: &[u8],
    revision: u64,
    time: Option<Timestamp>,
    seen: u64,
) -> Option<BrokerEvent> {
    let changed = changed(headers, payload, revision, time)?;
    if changed.copy_of.is_some_and(|original| original <= seen) {
        return None;
    }
    Some(BrokerEvent::RecordStored(Box::new(changed)))
}

fn changed(
    headers: &HeaderMap,
    payload: &[u8],
    revision: u64,
    time: Option<Timestamp>,
) -> Option<RecordChange> {
    let record: Record = serde_json::from_slice(payload).ok()?;
    // a placeholder stands for a job that no worker has seen
    if record.placeholder {
        return None;
    }
    Some(RecordChange {
        record,
        revision,
        // each record is written by compare-and-set, whose header states the revision before it
        previous: number(headers, "Nats-Last-Sequence")
            .or_else(|| number(headers, "Nats-Expected-Last-Subject-Sequence")),
        copy_of: number(headers, COPY_OF),
        time,
    })
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.as_str().parse().ok()
}

/// The latest change of every record, oldest first, read on demand.
pub struct LatestRecordChanges(mpsc::Receiver<Result<StreamMessage, BrokerError>>);

impl LatestRecordChanges {
    /// The next change. `None` at the end.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn next(&mut self) -> Result<Option<RecordChange>, BrokerError> {
        while let Some(message) = self.0.recv().await {
            let message = message?;
            let time = Timestamp::from_unix_ms(message.time_unix_ms);
            let job_message = changed(&message.headers, &message.payload, message.sequence, time);
            if job_message.is_some() {
                return Ok(job_message);
            }
        }
        Ok(None)
    }
}

/// Maximum number of unacknowledged changes of a consumer, including those that wait for
/// redelivery.
const ACK_PENDING_MAX: i64 = 1_000;

/// Pause before a refused request is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

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
    /// Returns an error if the consumer was removed.
    pub async fn next(&mut self) -> Result<RecordChangeDelivery, BrokerError> {
        use async_nats::jetstream::consumer::pull::MessagesErrorKind;
        loop {
            let message = match self.messages.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => match error.kind() {
                    MessagesErrorKind::ConsumerDeleted | MessagesErrorKind::PushBasedConsumer => {
                        return Err(BrokerError::ConnectionLost(format!(
                            "the consumer {} was removed",
                            self.name
                        )));
                    }
                    // redelivered once the connection is back
                    _ => {
                        tracing::debug!("no changes for now; retrying: {error}");
                        tokio::time::sleep(RETRY_PAUSE).await;
                        continue;
                    }
                },
                None => return Err(BrokerError::ConnectionLost("the changes ended".to_owned())),
            };
            let Ok(info) = message.info() else { continue };
            let time = Timestamp::from_unix_ms(info.published.timestamp_millis());
            let delivery = u64::try_from(info.delivered).unwrap_or(1);
            let headers = message.headers.clone().unwrap_or_default();
            let job_message = changed(&headers, &message.payload, info.stream_sequence, time);
            match job_message {
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

    /// Whether every change up to a revision is acknowledged.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn is_acknowledged(&self, revision: u64) -> Result<bool, BrokerError> {
        let info = self.stream.consumer_info(&self.name).await;
        match info {
            Ok(info) => Ok(info.ack_floor.stream_sequence >= revision),
            Err(error) => Err(BrokerError::Refused {
                doing: "reading a consumer's state",
                message: error.to_string(),
            }),
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
    /// The event of a message stored in a queue's stream. `None` for messages that are not a step
    /// in a job's life: rechecks and rerouted jobs.
    fn arrived(&self, message: &StoredMessage) -> Option<EnqueuedMessage> {
        if message.header(RECHECK_HEADER).is_some() {
            return None;
        }
        let (queue, state) = match self.names.queue_of_job(&message.subject) {
            Some(queue) => (queue, MessageState::Queued),
            None => (
                self.names.queue_of_delayed(&message.subject)?,
                delayed_state(message),
            ),
        };
        Some(EnqueuedMessage {
            job_id: job_id_of(&queue, message),
            message: job_message(&queue, message, state),
            attempts: attempts(message),
            time: message.time,
        })
    }

    /// Watches all records, and the messages that enter queues, from now on.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn watch_events(&self) -> Result<BrokerEventWatch, BrokerError> {
        let connection = EventConnection::open(self).await?;
        Ok(BrokerEventWatch {
            broker: self.clone(),
            link: self.link.clone(),
            contiguous_up_to: connection.position,
            position: connection.position,
            connection,
            gap: false,
            catching_up: None,
        })
    }

    /// Lists the latest change of every record, oldest first.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn latest_record_changes(&self) -> Result<LatestRecordChanges, BrokerError> {
        let bucket = self.names.results_bucket();
        let scan = StreamRead::last_per_subject(format!("$KV.{bucket}.>"));
        let stream = Names::bucket_stream(&bucket);
        Ok(LatestRecordChanges(self.read_stream(&stream, scan).await?))
    }

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
        let refused = |message: String| BrokerError::Refused {
            doing: "making a consumer of changes",
            message,
        };
        self.ensure_results().await?;
        let bucket = self.names.results_bucket();
        let stream = Names::bucket_stream(&bucket);
        let consumer: PullConsumer = self
            .jetstream
            .create_consumer_on_stream(
                pull::Config {
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
                },
                &stream,
            )
            .await
            .map_err(|error| refused(error.to_string()))?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(CHANGES_AHEAD)
            .messages()
            .await
            .map_err(|error| refused(error.to_string()))?;
        let stream = self
            .jetstream
            .get_stream_no_info(&stream)
            .await
            .map_err(|error| refused(error.to_string()))?;
        Ok(RecordChangeConsumer {
            name: name.to_owned(),
            stream,
            messages,
        })
    }

    /// The last sequence of a stream; 0 if the stream is empty or does not exist.
    pub(super) async fn last_sequence(&self, stream: &str) -> Result<u64, BrokerError> {
        match self.jetstream.get_stream(stream).await {
            Ok(job_message) => Ok(job_message.cached_info().state.last_sequence),
            Err(error) if error.to_string().contains("not found") => Ok(0),
            Err(error) => Err(BrokerError::Refused {
                doing: "reading a stream's state",
                message: error.to_string(),
            }),
        }
    }
}
