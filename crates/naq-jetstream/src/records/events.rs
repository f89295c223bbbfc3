//! Events of all jobs: changes of records as they are stored, and the messages that enter queues.
//!
//! Live changes are core messages that the server republishes; those of records are numbered by
//! their sequence in the bucket. If a sequence is skipped, or the connection was lost, the bucket is
//! read from there on: it has the latest revision of each record, so that no end of a job is
//! missed, although intermediate states may be. If the bucket was created again, it is read from its
//! beginning.

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::{HeaderMap, Message};
use tokio::sync::mpsc;

use super::RETRY_PAUSE;
use super::change::OutlinedChange;
use crate::broker::Broker;
use crate::connection::connect::RECONNECT_BACKOFF;
use crate::connection::state::ConnectionWatch;
use crate::error::BrokerError;
use crate::headers::RECHECK;
use crate::jobs::message::{
    JobMessage, MessageState, attempts, delayed_state, job_id_of, job_message,
};
use crate::names::Names;
use crate::stream::stream_api::StoredMessage;
use crate::stream::stream_reader::{StreamMessage, StreamRead, StreamTip};
use crate::watch::{Parsed, Watch, WatchEvent, sequence};
use naq_protocol::{JobId, RecordOutline, Timestamp};

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
    RecordStored(Box<OutlinedChange>),
    /// A record was stored under another revision, and its job did not change as far as this version can
    /// tell: it has another TTL, or only a later version can read it.
    RecordReplaced(Box<OutlinedChange>),
    /// A record was removed or has expired, or its key has something else than the record of a job that a worker
    /// has seen.
    RecordRemoved {
        /// The job.
        job_id: JobId,
        /// The revision of the message that says so.
        revision: u64,
    },
    /// Changes after a revision were missed: what the bucket has stored since, up to another revision, follows.
    CatchUpStarted {
        /// The last revision before the gap.
        after: u64,
        /// The last revision of the bucket.
        up_to: u64,
    },
    /// Everything that was missed has been reported.
    CatchUpFinished,
    /// The bucket was created again: the records before this event do not exist.
    BucketReplaced,
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
    live: Watch<BrokerEvent>,
    /// When the bucket was created. `None` if it does not exist.
    created_at: Option<Timestamp>,
}

impl EventConnection {
    async fn open(broker: &Broker, scope: EventScope) -> Result<EventConnection, BrokerError> {
        let broker = broker.open_observer().await?;
        let subjects = vec![match scope {
            EventScope::All => broker.names.events(),
            EventScope::Records => broker.names.record_events(),
        }];
        let mut live = Watch::open(&broker, subjects, parse_event)
            .await?
            .skip_seen();
        // answered after the subscription is active, since the server processes one connection in
        // order
        let stream = Names::bucket_stream(&broker.names.results_bucket());
        let tip = broker.stream_tip(&stream).await?;
        live.set_position(tip.last_sequence);
        Ok(EventConnection {
            broker,
            live,
            created_at: tip.created_at,
        })
    }

    /// Opens a connection, and retries until it succeeds.
    async fn open_with_retry(broker: &Broker, scope: EventScope) -> EventConnection {
        let mut failures = 0;
        loop {
            match EventConnection::open(broker, scope).await {
                Ok(connection) => return connection,
                Err(error) => tracing::debug!("cannot open the connection for events yet: {error}"),
            }
            failures += 1;
            tokio::time::sleep(RECONNECT_BACKOFF.pause(failures, rand::random())).await;
        }
    }
}

/// What a watch receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventScope {
    /// Changes of records, and messages that enter queues.
    All,
    /// Changes of records: the server sends nothing of the queues.
    Records,
}

/// A watch on all records, and on queues if its scope has them.
pub struct BrokerEventWatch {
    broker: Broker,
    scope: EventScope,
    link: ConnectionWatch,
    connection: EventConnection,
    /// Everything up to this revision was seen. Behind the live watch's position only while the
    /// bucket is being read.
    contiguous_up_to: u64,
    /// Whether changes after `contiguous_up_to` may be missing and have to be read.
    gap: bool,
    catching_up: Option<mpsc::Receiver<Result<StreamMessage, BrokerError>>>,
    /// When the bucket was created, as of the last read of its state. `None` if it did not exist.
    created_at: Option<Timestamp>,
}

impl BrokerEventWatch {
    /// Everything up to this revision was reported, or existed before the watch.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.contiguous_up_to
    }

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
                        self.contiguous_up_to = self.connection.live.position();
                        Ok(Some(BrokerEvent::CatchUpFinished))
                    }
                }
            } else if self.gap {
                self.catch_up().await.map(Some)
            } else {
                self.live().await
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

    async fn live(&mut self) -> Result<Option<BrokerEvent>, BrokerError> {
        let event = self.connection.live.next_or_end().await?;
        self.contiguous_up_to = self.connection.live.position();
        Ok(match event {
            Some(WatchEvent::Changed(event)) => Some(event),
            Some(WatchEvent::Gap) => {
                self.gap = true;
                None
            }
            Some(WatchEvent::Resync) => {
                self.gap = true;
                Some(BrokerEvent::ConnectionLost)
            }
            // the client's own task has ended, which only a message that makes it panic does
            None => {
                self.reconnect().await;
                self.gap = true;
                Some(BrokerEvent::ConnectionLost)
            }
        })
    }

    /// Opens another connection, and returns the bucket's state as of its subscription. The position
    /// stays: what was stored between the two connections has to be read.
    async fn reconnect(&mut self) -> StreamTip {
        let position = self.connection.live.position();
        self.connection = EventConnection::open_with_retry(&self.broker, self.scope).await;
        let tip = StreamTip {
            last_sequence: self.connection.live.position(),
            created_at: self.connection.created_at,
            ..StreamTip::default()
        };
        self.connection.live.set_position(position);
        tip
    }

    /// Starts to read what was missed. If that is a bucket that was created again, reports it first, and is
    /// called again.
    async fn catch_up(&mut self) -> Result<BrokerEvent, BrokerError> {
        let bucket = self.broker.names.results_bucket();
        let stream = Names::bucket_stream(&bucket);
        // on the connection of the events, so that it is answered after that connection's
        // subscription is active again
        let tip = match self.connection.broker.stream_tip(&stream).await {
            Ok(tip) => tip,
            Err(_) => self.reconnect().await,
        };
        // a bucket that has lost its last messages gives their sequences to others
        let is_another = self.created_at.is_some() && tip.created_at != self.created_at;
        if is_another || tip.last_sequence < self.contiguous_up_to {
            self.created_at = tip.created_at;
            self.contiguous_up_to = 0;
            self.connection.live.set_position(0);
            return Ok(BrokerEvent::BucketReplaced);
        }
        self.created_at = tip.created_at;
        let scan = StreamRead {
            filter: format!("$KV.{bucket}.>"),
            deliver: DeliverPolicy::ByStartSequence {
                start_sequence: self.contiguous_up_to + 1,
            },
            headers_only: false,
        };
        self.catching_up = Some(self.broker.read_stream(&stream, scan).await?);
        self.gap = false;
        Ok(BrokerEvent::CatchUpStarted {
            after: self.contiguous_up_to,
            up_to: tip.last_sequence,
        })
    }

    fn take(&mut self, message: StreamMessage) -> Option<BrokerEvent> {
        if message.sequence <= self.connection.live.position() {
            return None;
        }
        self.connection.live.mark_seen_up_to(message.sequence);
        stored(
            &message.subject,
            &message.headers,
            &message.payload,
            message.sequence,
            Timestamp::from_unix_ms(message.time_unix_ms),
            self.contiguous_up_to,
        )
    }
}

/// Parses a republished message: a change of a record, or a message that entered a queue. Those of
/// queues are not numbered by the bucket.
fn parse_event(names: &Names, message: Message) -> Parsed<BrokerEvent> {
    if is_of_queue(&message.subject) {
        let enqueued = StoredMessage::from_republished(&message)
            .and_then(|message| enqueued(names, &message))
            .map(|enqueued| BrokerEvent::MessageEnqueued(Box::new(enqueued)));
        return Parsed::unordered(enqueued);
    }
    let Some(revision) = sequence(&message) else {
        return Parsed::unordered(None);
    };
    let headers = message.headers.unwrap_or_default();
    let time = headers
        .get("Nats-Time-Stamp")
        .and_then(|time| time.as_str().parse().ok());
    // without a gap everything before it was seen, so a copy is always one of a seen record
    let seen = revision.saturating_sub(1);
    Parsed {
        sequence: Some(revision),
        value: stored(
            &message.subject,
            &headers,
            &message.payload,
            revision,
            time,
            seen,
        ),
    }
}

/// Whether a republished message is of a queue's stream. The subject of a record's change has only
/// the job after the prefix and the kind.
fn is_of_queue(subject: &str) -> bool {
    subject.split('.').count() > 3
}

/// The event of a message of the bucket. `None` if its key is not the id of a job.
fn stored(
    subject: &str,
    headers: &HeaderMap,
    payload: &[u8],
    revision: u64,
    time: Option<Timestamp>,
    seen: u64,
) -> Option<BrokerEvent> {
    let job_id = JobId::new(subject.rsplit('.').next()?).ok()?;
    // the server states it in every message that it republishes
    let time = time.unwrap_or(Timestamp(chrono::DateTime::UNIX_EPOCH));
    let change = |outline| {
        let job_id = job_id.clone();
        Box::new(OutlinedChange::new(
            job_id, outline, headers, revision, time,
        ))
    };
    let outline = match RecordOutline::read(payload) {
        Ok(Some(outline)) => {
            let changed = change(outline);
            let is_seen = changed.copy_of.is_some_and(|original| original <= seen);
            return Some(match is_seen {
                true => BrokerEvent::RecordReplaced(changed),
                false => BrokerEvent::RecordStored(changed),
            });
        }
        Ok(None) => None,
        Err(problem) => RecordOutline::unreadable(&job_id, payload, time, &problem),
    };
    Some(match outline {
        Some(unreadable) => BrokerEvent::RecordReplaced(change(unreadable)),
        None => BrokerEvent::RecordRemoved { job_id, revision },
    })
}

/// The event of a message stored in a queue's stream. `None` for messages that are not a step
/// in a job's life: rechecks and rerouted jobs.
fn enqueued(names: &Names, message: &StoredMessage) -> Option<EnqueuedMessage> {
    if message.header(RECHECK).is_some() {
        return None;
    }
    let (queue, state) = match names.queue_of_job(&message.subject) {
        Some(queue) => (queue, MessageState::Queued),
        None => (
            names.queue_of_delayed(&message.subject)?,
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

impl Broker {
    /// Watches all records, and the messages that enter queues if the scope has them, from now on.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn watch_events(&self, scope: EventScope) -> Result<BrokerEventWatch, BrokerError> {
        let connection = EventConnection::open(self, scope).await?;
        Ok(BrokerEventWatch {
            broker: self.clone(),
            scope,
            link: self.link.clone(),
            contiguous_up_to: connection.live.position(),
            created_at: connection.created_at,
            connection,
            gap: false,
            catching_up: None,
        })
    }
}
