//! Changes of records as they are stored: followed by an onlooker, who hears of what comes into
//! queues too, or worked off by one who must not miss any.
//!
//! Live changes are core messages that the server repeats, those of records numbered by their place
//! in the bucket. Where a number is skipped, or the connection was lost, the bucket is read from
//! there: it has the latest of each record, so that no end is missed, though a state that was left
//! again may be.

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

/// On a record that was stored again with another time to live: the revision it is a copy of.
pub(super) const COPY_OF: &str = "Naq-Copy-Of";

/// A record that was stored.
#[derive(Clone, Debug)]
pub struct RecordChange {
    /// The record.
    pub record: Record,
    /// Its revision: the sequence in the bucket's stream.
    pub revision: u64,
    /// The revision it follows, 0 where it is the job's first; none where that is not known.
    pub previous: Option<u64>,
    /// The revision that it merely repeats, with another time to live.
    pub copy_of: Option<u64>,
    /// When the server stored it, where it says so.
    pub time: Option<Timestamp>,
}

/// A message of a job that came into a queue, or that is held there until its time.
#[derive(Clone, Debug)]
pub struct EnqueuedMessage {
    /// The job.
    pub job_id: JobId,
    /// The message.
    pub message: JobMessage,
    /// How many attempts there were before, where it is to be tried again.
    pub attempts: u32,
    /// When the server stored it.
    pub time: Timestamp,
}

/// News of a watch.
#[derive(Debug)]
pub enum BrokerEvent {
    /// A record was stored.
    RecordStored(Box<RecordChange>),
    /// A job was put into a queue, for the first time or again.
    MessageEnqueued(Box<EnqueuedMessage>),
    /// The connection was lost. What follows is read from the bucket: states that were left again
    /// meanwhile are not in it.
    ConnectionLost,
}

/// The connection that an onlooker is told by. It is one of its own: bytes of a producer that no
/// client can read cost the connection they come by.
struct EventConnection {
    broker: Broker,
    live: Subscriber,
    /// The bucket's last sequence when the subscription stood.
    position: u64,
    /// The number of its connection; news of it is of another.
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
        // answered after the subscription stands, since one connection is served in order
        let stream = Names::bucket_stream(&broker.names.results_bucket());
        let position = broker.last_sequence(&stream).await?;
        Ok(EventConnection {
            broker,
            live,
            position,
            generation,
        })
    }

    /// Opens one, however often it takes.
    async fn open_with_retry(broker: &Broker) -> EventConnection {
        let mut failures = 0;
        loop {
            match EventConnection::open(broker).await {
                Ok(connection) => return connection,
                Err(error) => tracing::debug!("no connection to look on by yet: {error}"),
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
    /// Up to here everything was seen.
    contiguous_up_to: u64,
    /// The newest that was seen.
    position: u64,
    /// Something after `contiguous_up_to` may be missing, and is to be read.
    gap: bool,
    catching_up: Option<mpsc::Receiver<Result<StreamMessage, BrokerError>>>,
}

impl BrokerEventWatch {
    /// Waits for the next news. Cancel safe.
    ///
    /// # Errors
    /// Where the server refuses; a connection that is lost is waited for.
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
                    // the client itself has ended, which only bytes that it panics over make it do
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
        // by the line, so that it is answered after the line's subscription stands again
        let last = match self.connection.broker.last_sequence(&stream).await {
            Ok(last) => last,
            Err(_) => {
                self.connection = EventConnection::open_with_retry(&self.broker).await;
                self.connection.position
            }
        };
        if last < self.contiguous_up_to {
            // another bucket than the one that was followed
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

/// Whether a repeated message is of a queue's stream: one of a record has the job and no more after
/// the prefix and the kind.
fn is_of_queue(subject: &str) -> bool {
    subject.split('.').count() > 3
}

/// A change, where the message is a record and not a copy of one that was seen.
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
    // a placeholder stands for a job that nobody has seen
    if record.placeholder {
        return None;
    }
    Some(RecordChange {
        record,
        revision,
        // each is written by compare-and-set, which says what it follows
        previous: number(headers, "Nats-Last-Sequence")
            .or_else(|| number(headers, "Nats-Expected-Last-Subject-Sequence")),
        copy_of: number(headers, COPY_OF),
        time,
    })
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.as_str().parse().ok()
}

/// The latest change of every record, oldest first, as they come.
pub struct LatestRecordChanges(mpsc::Receiver<Result<StreamMessage, BrokerError>>);

impl LatestRecordChanges {
    /// The next one; none where there are no more.
    ///
    /// # Errors
    /// Where the server does not answer.
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

/// How many changes may be out at once to one who works them off: those that wait to be tried
/// again among them.
const ACK_PENDING_MAX: i64 = 1_000;

/// How long a server that refuses is left alone before it is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// How long a name is remembered that nobody works under: by then most records that would be told
/// under it are gone too.
const CONSUMER_INACTIVE_MAX: Duration = Duration::from_secs(90 * 86_400);

/// How many changes are asked for ahead.
const CHANGES_AHEAD: usize = 64;

/// Every change from a moment on, each told until it is answered for, across restarts.
pub struct RecordChangeConsumer {
    name: String,
    stream: jetstream::stream::Stream<()>,
    messages: pull::Stream,
}

/// A change that is to be answered for.
pub struct RecordChangeDelivery {
    /// The change.
    pub changed: RecordChange,
    /// How often it has been told, this time included.
    pub delivery: u64,
    message: jetstream::Message,
}

impl RecordChangeConsumer {
    /// Waits for the next change. Cancel safe.
    ///
    /// # Errors
    /// Where the consumer was removed.
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
                    // told again once the connection is back
                    _ => {
                        tracing::debug!("changes are waited for: {error}");
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
                // a removed record: nothing to tell
                None => drop(message.ack().await),
            }
        }
    }

    /// Whether everything up to a revision was answered for.
    ///
    /// # Errors
    /// Where the server does not answer.
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
    /// It is done with; where this word is lost, it is told again.
    pub async fn ack(&self) {
        self.answer(AckKind::Ack).await;
    }

    /// It is not done with, and to be told again after a while.
    pub async fn nak_after(&self, wait: Duration) {
        self.answer(AckKind::Nak(Some(wait))).await;
    }

    /// It is still worked on, and not to be told again yet.
    pub async fn in_progress(&self) {
        self.answer(AckKind::Progress).await;
    }

    async fn answer(&self, kind: AckKind) {
        if let Err(error) = self.message.ack_with(kind).await {
            tracing::debug!("a change was not answered for: {error}");
        }
    }
}

impl Broker {
    /// What the message of a queue's stream is to one who looks on: none where it is no step in a
    /// job's life, but a bell, or a job that was handed on to workers with labels.
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

    /// Watches all records, and what comes into queues, from now on.
    ///
    /// # Errors
    /// Where the server does not answer.
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

    /// Reads the latest change of every record, oldest first.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn latest_record_changes(&self) -> Result<LatestRecordChanges, BrokerError> {
        let bucket = self.names.results_bucket();
        let scan = StreamRead::last_per_subject(format!("$KV.{bucket}.>"));
        let stream = Names::bucket_stream(&bucket);
        Ok(LatestRecordChanges(self.read_stream(&stream, scan).await?))
    }

    /// Works off all changes under a name: from now on the first time, from where it was left
    /// from then on, unless that is three months ago. Whoever does so under the same name at the
    /// same time takes a share.
    ///
    /// # Errors
    /// Where the server refuses.
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

    /// The sequence of a stream's last message; 0 where there is none, or no stream.
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
