//! Pulls jobs: pull requests that match the worker's free slots, on one subscription.
//!
//! A pull request for `n` messages is open at the server until it is filled or expires. The
//! messages it brings and the ones it leaves unfilled are both counted here, so that the caller
//! always knows how many messages are requested and not yet delivered.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::{HeaderMap, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::connect::{ConnectionPurpose, ConnectionWatch, RECONNECT_BACKOFF, open};
use super::delayed::SCHEDULED_FOR_HEADER;
use super::label_routes::ENQUEUE_TIME_HEADER;
use super::stream_api::StoredMessage;
use super::{Broker, BrokerError};
use naq_protocol::{JobId, QueueName, Timestamp};

/// How long a pull request is open. It is short, so that a queue whose consumer was paused is
/// served soon after it resumes (measured: within a second of the resumption at 5 s, up to 29 s
/// later at 30 s).
const PULL_EXPIRES: Duration = Duration::from_secs(5);

/// After this long without a reply from the server, the pull requests are taken for lost.
const PULL_LOST_AFTER: Duration = Duration::from_secs(8);

/// A job's message, delivered to this worker.
pub struct Delivery {
    /// The queue it came from.
    pub queue: QueueName,
    /// The id in its subject. `None` if the producer chose no id; the error text if the token is
    /// not a valid id.
    pub subject_id: Option<Result<JobId, String>>,
    /// The producer's `Nats-Msg-Id`.
    pub message_id: Option<String>,
    /// The envelope's bytes.
    pub payload: Bytes,
    /// Its sequence in the queue's stream.
    pub sequence: u64,
    /// How often the message has been delivered, this delivery included.
    pub delivery: u64,
    /// When the server stored the job's first message.
    pub enqueue_time: Timestamp,
    /// Whether a worker rerouted it to workers with the labels it requires.
    pub is_rerouted: bool,
    pub(super) headers: HeaderMap,
    reply: async_nats::Subject,
    client: async_nats::Client,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("queue", &self.queue)
            .field("sequence", &self.sequence)
            .field("delivery", &self.delivery)
            .finish_non_exhaustive()
    }
}

impl Delivery {
    /// Acknowledges the message, and waits until the server has confirmed that it is removed.
    ///
    /// # Errors
    /// Returns [`BrokerError::Timeout`] if the server does not confirm; the message may then be
    /// redelivered.
    pub async fn ack(&self) -> Result<(), BrokerError> {
        self.send_ack("+ACK").await
    }

    /// Extends the time until redelivery by another `ack_wait`, and waits until the server has
    /// confirmed it.
    ///
    /// # Errors
    /// Returns [`BrokerError::Timeout`] if the server does not confirm.
    pub async fn renew(&self) -> Result<(), BrokerError> {
        self.send_ack("+WPI").await
    }

    /// Negatively acknowledges the message: the server redelivers it at once, to any worker.
    ///
    /// # Errors
    /// Returns [`BrokerError::Timeout`] if the server does not confirm; the message is then
    /// redelivered after `ack_wait`.
    pub async fn nak(&self) -> Result<(), BrokerError> {
        self.send_ack("-NAK").await
    }

    async fn send_ack(&self, kind: &'static str) -> Result<(), BrokerError> {
        self.client
            .request(self.reply.clone(), Bytes::from_static(kind.as_bytes()))
            .await
            .map(|_| ())
            .map_err(|_| BrokerError::Timeout("answering for a message"))
    }

    /// Whether the message is a recheck and not a job: the blocked job that its subject names is to
    /// be evaluated again.
    #[must_use]
    pub fn is_recheck(&self) -> bool {
        self.headers
            .get(super::blocked_index::RECHECK_HEADER)
            .is_some()
    }

    /// The same delivery with another envelope.
    #[must_use]
    pub fn with_payload(&self, payload: Bytes) -> Delivery {
        Delivery {
            queue: self.queue.clone(),
            subject_id: self.subject_id.clone(),
            message_id: self.message_id.clone(),
            payload,
            sequence: self.sequence,
            delivery: self.delivery,
            enqueue_time: self.enqueue_time,
            is_rerouted: self.is_rerouted,
            headers: self.headers.clone(),
            reply: self.reply.clone(),
            client: self.client.clone(),
        }
    }

    /// The time until which the job was delayed. `None` if it was not delayed.
    #[must_use]
    pub fn scheduled_for(&self) -> Option<Timestamp> {
        let header = self.headers.get(SCHEDULED_FOR_HEADER)?;
        header.as_str().parse().ok()
    }

    /// The producer's trace context.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.headers
            .get("traceparent")
            .map(async_nats::HeaderValue::as_str)
    }
}

/// An event of a pull subscription.
#[derive(Debug)]
pub enum PullEvent {
    /// A message from the consumer with this index.
    Delivered(usize, Box<Delivery>),
    /// Pull requests of this kind to a consumer ended unfilled: the consumer has no further
    /// messages now.
    Unfilled(usize, PullKind),
    /// The consumer does not exist, for example because its queue was removed.
    ConsumerDeleted(usize),
    /// The connection was lost and is back: all pull requests have to be sent again.
    Reset,
}

/// The two kinds of pull request. Each has a reply subject of its own, since a delivery does not
/// say which request it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullKind {
    /// Open until it is filled or expires.
    Expiring,
    /// Answered at once with the messages that are available.
    NoWait,
}

/// Number of messages requested from a consumer and not yet delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingPulls {
    /// By open requests.
    pub expiring: u64,
    /// By requests that are answered at once.
    pub no_wait: u64,
}

impl PendingPulls {
    fn of(&mut self, kind: PullKind) -> &mut u64 {
        match kind {
            PullKind::Expiring => &mut self.expiring,
            PullKind::NoWait => &mut self.no_wait,
        }
    }
}

/// A consumer of a queue, and the pull requests to it.
struct PullSource {
    queue: QueueName,
    consumer: String,
    next_subject: String,
    pending_pulls: PendingPulls,
    /// When the server last replied. It answers every request within a bounded time.
    last_reply_at: Instant,
    /// How many messages wait behind the last one delivered, according to the server.
    pending: u64,
}

struct ReplyInbox {
    inbox: String,
    subscriber: Subscriber,
}

impl ReplyInbox {
    async fn open(client: &async_nats::Client) -> Result<ReplyInbox, BrokerError> {
        let inbox = client.new_inbox();
        let subscriber = client
            .subscribe(format!("{inbox}.*.*"))
            .await
            .map_err(|error| BrokerError::ConnectionLost(error.to_string()))?;
        Ok(ReplyInbox { inbox, subscriber })
    }
}

/// The connection of the deliveries, with its subscriptions.
struct PullConnection {
    client: async_nats::Client,
    link: ConnectionWatch,
    /// Reply subjects of the open requests, and of those that are answered at once.
    expiring: ReplyInbox,
    no_wait: ReplyInbox,
}

impl PullConnection {
    async fn open(broker: &Broker) -> Result<PullConnection, BrokerError> {
        let (client, link) = open(&broker.options, ConnectionPurpose::Deliveries).await?;
        Ok(PullConnection {
            expiring: ReplyInbox::open(&client).await?,
            no_wait: ReplyInbox::open(&client).await?,
            client,
            link,
        })
    }

    /// Opens a connection, and retries until it succeeds.
    async fn open_with_retry(broker: Broker) -> PullConnection {
        let mut failures = 0;
        loop {
            match PullConnection::open(&broker).await {
                Ok(connection) => return connection,
                Err(error) => {
                    tracing::debug!("cannot open the connection for deliveries yet: {error}")
                }
            }
            failures += 1;
            tokio::time::sleep(RECONNECT_BACKOFF.pause(failures, rand::random())).await;
        }
    }
}

/// The pull requests to a worker's queues. Each consumer has an index; consumers are only ever
/// added.
///
/// Deliveries have a connection of their own: a message that the client library cannot parse breaks
/// the connection it arrives on, and acknowledgements, records and lease renewals must not be lost
/// with it.
pub struct PullSubscription {
    broker: Broker,
    connection: PullConnection,
    /// A new connection that is being opened, if the old one is broken for good.
    reopening: Option<JoinHandle<PullConnection>>,
    /// Whether the subscription was closed.
    closed: bool,
    consumers: Vec<PullSource>,
    /// The indexes of each stream's consumers. Nearly always there is one.
    by_stream: HashMap<String, Vec<usize>>,
    /// Generation of the connection when the pull requests were last counted from zero.
    link_generation: u64,
    /// Whether anything has arrived on the connection since then: if so, its subscriptions are
    /// active.
    is_subscribed: bool,
    /// The connection on which requests are sent from then on, and its generation at the first
    /// request.
    requests_link: ConnectionWatch,
    requests_generation: Option<u64>,
    /// Number of the current count. Replies to requests of an earlier count carry an earlier number
    /// and are ignored.
    generation: u64,
}

impl Broker {
    /// A delivery made from a stored message that was not delivered to this process, in order to
    /// nak it.
    pub(super) fn delivery_from_stored(
        &self,
        queue: &QueueName,
        consumer: &str,
        message: &StoredMessage,
        consumer_sequence: u64,
    ) -> Delivery {
        // the server reads only the stream sequence; the consumer sequence has to be one it has
        // assigned
        let reply = format!(
            "$JS.ACK.{}.{consumer}.1.{}.{consumer_sequence}.{}.0",
            self.names.queue_stream(queue),
            message.sequence,
            message.time.unix_ms() * 1_000_000,
        );
        Delivery {
            queue: queue.clone(),
            subject_id: subject_id(&message.subject),
            message_id: message.header("Nats-Msg-Id"),
            payload: message.payload(),
            sequence: message.sequence,
            delivery: 1,
            enqueue_time: message.time,
            is_rerouted: is_rerouted(&message.subject),
            headers: HeaderMap::new(),
            reply: reply.into(),
            client: self.client.clone(),
        }
    }

    /// Opens a pull subscription to some queues. No messages are requested yet.
    ///
    /// `consumer` is the name of the consumer to pull from, the same for each queue.
    ///
    /// # Errors
    /// Returns an error if the connection or its subscriptions cannot be opened.
    pub async fn open_pull_subscription(
        &self,
        queues: &[QueueName],
        consumer: &str,
    ) -> Result<PullSubscription, BrokerError> {
        let mut connection = PullConnection::open(self).await?;
        // changes of the connection before this point do not concern the subscription
        let link_generation = connection.link.mark_seen().generation;
        let mut consumers = PullSubscription {
            broker: self.clone(),
            connection,
            reopening: None,
            closed: false,
            consumers: Vec::new(),
            by_stream: HashMap::new(),
            link_generation,
            is_subscribed: false,
            requests_link: self.link.clone(),
            requests_generation: None,
            generation: 0,
        };
        for queue in queues {
            consumers.add(queue.clone(), consumer.to_owned());
        }
        Ok(consumers)
    }
}

impl PullSubscription {
    /// Adds a consumer of a queue, and returns its index. No messages are requested yet.
    pub fn add(&mut self, queue: QueueName, consumer: String) -> usize {
        let index = self.consumers.len();
        let stream = self.broker.names.queue_stream(&queue);
        self.consumers.push(PullSource {
            next_subject: format!(
                "{}.CONSUMER.MSG.NEXT.{stream}.{consumer}",
                self.broker.api_prefix
            ),
            queue,
            consumer,
            pending_pulls: PendingPulls::default(),
            last_reply_at: Instant::now(),
            pending: 0,
        });
        self.by_stream.entry(stream).or_default().push(index);
        index
    }

    /// Number of consumers; their indexes are the numbers below it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.consumers.len()
    }

    /// Whether the subscription has no consumer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.consumers.is_empty()
    }

    /// The queue of a consumer.
    #[must_use]
    pub fn queue(&self, index: usize) -> &QueueName {
        &self.consumers[index].queue
    }

    /// The name of a consumer.
    #[must_use]
    pub fn consumer(&self, index: usize) -> &str {
        &self.consumers[index].consumer
    }

    /// The index of a queue's consumer.
    #[must_use]
    pub fn index_of(&self, queue: &QueueName, consumer: &str) -> Option<usize> {
        self.consumers
            .iter()
            .position(|source| source.queue == *queue && source.consumer == consumer)
    }

    /// Number of messages requested from a consumer and not yet delivered.
    #[must_use]
    pub fn pending_pulls(&self, index: usize) -> PendingPulls {
        self.consumers[index].pending_pulls
    }

    /// How many messages waited behind the last one that a consumer delivered, according to the
    /// server.
    #[must_use]
    pub fn num_pending(&self, index: usize) -> u64 {
        self.consumers[index].pending
    }

    /// Requests `count` more messages from a consumer.
    ///
    /// # Errors
    /// Returns [`BrokerError::ConnectionLost`] if the request cannot be sent.
    pub async fn request(
        &mut self,
        index: usize,
        count: u64,
        kind: PullKind,
    ) -> Result<(), BrokerError> {
        let subject = self.consumers[index].next_subject.clone();
        let (request, inbox) = match kind {
            PullKind::Expiring => (
                format!(
                    r#"{{"batch":{count},"expires":{}}}"#,
                    PULL_EXPIRES.as_nanos()
                ),
                &self.connection.expiring.inbox,
            ),
            PullKind::NoWait => (
                format!(r#"{{"batch":{count},"no_wait":true}}"#),
                &self.connection.no_wait.inbox,
            ),
        };
        let reply = format!("{inbox}.{}.{index}", self.generation);
        // while a connection is being opened nothing is sent: it ends with a reset, after which the
        // caller requests everything again
        if self.reopening.is_none() {
            // Send on the general connection, which has acknowledgements and records to send at the
            // same moment: it saves a packet. Not before something has arrived on the connection of
            // the deliveries, since the server drops a request whose reply subject nobody is
            // subscribed to.
            let client = if self.is_subscribed {
                self.requests_generation
                    .get_or_insert_with(|| self.requests_link.state().generation);
                &self.broker.client
            } else {
                &self.connection.client
            };
            client
                .publish_with_reply(subject, reply, request.into())
                .await
                .map_err(|error| BrokerError::ConnectionLost(error.to_string()))?;
        }
        let source = &mut self.consumers[index];
        *source.pending_pulls.of(kind) += count;
        source.last_reply_at = Instant::now();
        Ok(())
    }

    /// Waits for the next delivery or another event. Cancel safe.
    pub async fn next(&mut self) -> PullEvent {
        loop {
            if let Some(opening) = &mut self.reopening {
                let opened = opening.await;
                self.reopening = None;
                match opened {
                    Ok(connection) => self.connection = connection,
                    Err(_) => self.reopen(),
                }
                if self.reopening.is_none() {
                    self.link_generation = self.connection.link.mark_seen().generation;
                    self.reset_pending();
                    return PullEvent::Reset;
                }
                continue;
            }
            let lost_at = self
                .consumers
                .iter()
                .filter(|source| source.pending_pulls != PendingPulls::default())
                .map(|source| source.last_reply_at + PULL_LOST_AFTER)
                .min();
            let (message, kind) = tokio::select! {
                biased;
                message = self.connection.no_wait.subscriber.next() => (message, PullKind::NoWait),
                message = self.connection.expiring.subscriber.next() => (message, PullKind::Expiring),
                link = self.connection.link.changed() => {
                    if link.connected && link.generation != self.link_generation {
                        self.link_generation = link.generation;
                        self.reset_pending();
                        return PullEvent::Reset;
                    }
                    continue;
                }
                link = self.requests_link.changed() => {
                    let asked_on = self.requests_generation;
                    if link.connected && asked_on.is_some_and(|asked_on| link.generation != asked_on) {
                        self.reset_pending();
                        return PullEvent::Reset;
                    }
                    continue;
                }
                () = until(lost_at) => {
                    self.reset_pending();
                    return PullEvent::Reset;
                }
            };
            let Some(message) = message else {
                if self.closed {
                    return std::future::pending().await;
                }
                // the client's own task has ended, which only a message that makes it panic does
                tracing::warn!("connection for deliveries broke; opening another");
                self.reopen();
                continue;
            };
            self.is_subscribed = true;
            if let Some(event) = self.read(message, kind) {
                return event;
            }
        }
    }

    fn reopen(&mut self) {
        self.reopening = Some(tokio::spawn(PullConnection::open_with_retry(
            self.broker.clone(),
        )));
    }

    /// Closes the subscription. Returns the messages that were delivered before the server ended
    /// it.
    pub async fn close(&mut self) -> Vec<Delivery> {
        /// The server ends a subscription at once; a broken connection must not delay shutdown.
        const CLOSE_MAX: Duration = Duration::from_secs(2);
        let mut deliveries = Vec::new();
        self.closed = true;
        if let Some(opening) = self.reopening.take() {
            opening.abort();
            return deliveries;
        }
        for kind in [PullKind::NoWait, PullKind::Expiring] {
            let subscriber = match kind {
                PullKind::NoWait => &mut self.connection.no_wait.subscriber,
                PullKind::Expiring => &mut self.connection.expiring.subscriber,
            };
            if subscriber.drain().await.is_err() {
                continue;
            }
            let deadline = Instant::now() + CLOSE_MAX;
            loop {
                let subscriber = match kind {
                    PullKind::NoWait => &mut self.connection.no_wait.subscriber,
                    PullKind::Expiring => &mut self.connection.expiring.subscriber,
                };
                let Ok(Some(message)) = tokio::time::timeout_at(deadline, subscriber.next()).await
                else {
                    break;
                };
                if let Some(PullEvent::Delivered(_, delivery)) = self.read(message, kind) {
                    deliveries.push(*delivery);
                }
            }
        }
        deliveries
    }

    /// Counts pull requests from zero, and ignores later replies to the earlier ones.
    fn reset_pending(&mut self) {
        self.generation += 1;
        self.is_subscribed = false;
        self.requests_generation = None;
        for source in &mut self.consumers {
            source.pending_pulls = PendingPulls::default();
        }
    }

    fn read(&mut self, message: async_nats::Message, kind: PullKind) -> Option<PullEvent> {
        // a job's message may carry a status header of its own (servers before 2.14 pass it on):
        // only a message without a reply subject is the server's status of a request
        let Some(reply) = message.reply.clone() else {
            return self.read_status(&message, kind);
        };
        let ack = AckSubject::parse(&reply)?;
        let of_stream = self.by_stream.get(ack.stream)?;
        let index = *of_stream
            .iter()
            .find(|index| self.consumers[**index].consumer == ack.consumer)?;
        let source = &mut self.consumers[index];
        let pending_pulls = source.pending_pulls.of(kind);
        *pending_pulls = pending_pulls.saturating_sub(1);
        source.pending = ack.pending;
        let subject_id = subject_id(message.subject.as_str());
        let headers = message.headers.unwrap_or_default();
        let delivery = Delivery {
            queue: source.queue.clone(),
            subject_id,
            message_id: headers
                .get(async_nats::header::NATS_MESSAGE_ID)
                .map(|value| value.as_str().to_owned()),
            payload: message.payload,
            sequence: ack.sequence,
            delivery: ack.delivery,
            enqueue_time: rerouted_enqueue_time(message.subject.as_str(), &headers)
                .unwrap_or(ack.time),
            is_rerouted: is_rerouted(message.subject.as_str()),
            headers,
            reply,
            client: self.broker.client.clone(),
        };
        Some(PullEvent::Delivered(index, Box::new(delivery)))
    }

    fn read_status(&mut self, message: &async_nats::Message, kind: PullKind) -> Option<PullEvent> {
        let mut tokens = message.subject.as_str().rsplit('.');
        let index: usize = tokens.next()?.parse().ok()?;
        let generation: u64 = tokens.next()?.parse().ok()?;
        if generation != self.generation {
            return None;
        }
        let source = self.consumers.get_mut(index)?;
        let status = message.status?;
        let description = message.description.as_deref().unwrap_or_default();
        let unfilled = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Pending-Messages"))
            .and_then(|value| value.as_str().parse::<u64>().ok());
        tracing::trace!(queue = %source.queue, %status, description, ?unfilled, "status of a pull");
        let gone = status == StatusCode::NO_RESPONDERS
            || (status == StatusCode::REQUEST_TERMINATED
                && (description.contains("Consumer Deleted")
                    || description.contains("Stream Deleted")));
        if gone {
            source.pending_pulls = PendingPulls::default();
            return Some(PullEvent::ConsumerDeleted(index));
        }
        if status == StatusCode::IDLE_HEARTBEAT {
            return None;
        }
        let pending_pulls = source.pending_pulls.of(kind);
        // if the server does not report how much of the request is unfilled, all of it is
        *pending_pulls = unfilled.map_or(0, |unfilled| pending_pulls.saturating_sub(unfilled));
        source.last_reply_at = Instant::now();
        source.pending = 0;
        Some(PullEvent::Unfilled(index, kind))
    }
}

/// The id in a job's subject: `prefix.queue.NAME`, `prefix.queue.NAME.ID`, or
/// `prefix.route.NAME.KEY.ID` for a rerouted job.
fn subject_id(subject: &str) -> Option<Result<JobId, String>> {
    let token = subject.splitn(4, '.').nth(3)?;
    let id = match route_key_and_id(subject) {
        // the id may be made of queue and sequence, which is longer than a user may choose
        Some((_, id)) => JobId::new(id),
        None => JobId::from_user(token),
    };
    Some(id.map_err(|error| error.to_string()))
}

/// The route key and the id in the subject of a rerouted job.
fn route_key_and_id(subject: &str) -> Option<(&str, &str)> {
    let mut tokens = subject.splitn(4, '.').skip(1);
    if tokens.next()? != "route" {
        return None;
    }
    tokens.nth(1)?.split_once('.')
}

/// Whether a subject is that of a rerouted job.
pub(super) fn is_rerouted(subject: &str) -> bool {
    route_key_and_id(subject).is_some()
}

/// When a rerouted job was enqueued: the server's time of its message is the time of the rerouting.
fn rerouted_enqueue_time(subject: &str, headers: &HeaderMap) -> Option<Timestamp> {
    route_key_and_id(subject)?;
    headers.get(ENQUEUE_TIME_HEADER)?.as_str().parse().ok()
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// The reply subject of a delivery, as the server writes it (ADR-15):
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time ns>.<pending>`, or
/// the longer form with domain and account in front of the stream.
struct AckSubject<'a> {
    stream: &'a str,
    consumer: &'a str,
    delivery: u64,
    sequence: u64,
    time: Timestamp,
    pending: u64,
}

impl AckSubject<'_> {
    fn parse(reply: &str) -> Option<AckSubject<'_>> {
        let tokens: Vec<&str> = reply.split('.').collect();
        let rest = match tokens.len() {
            9 => &tokens[2..],
            n if n >= 11 => &tokens[4..],
            _ => return None,
        };
        let time_ns: i64 = rest[5].parse().ok()?;
        Some(AckSubject {
            stream: rest[0],
            consumer: rest[1],
            delivery: rest[2].parse().ok()?,
            sequence: rest[3].parse().ok()?,
            time: Timestamp::from_unix_ms(time_ns / 1_000_000)?,
            pending: rest[6].parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_ack_subject_are_parsed() {
        for reply in [
            "$JS.ACK.naq_queue_build.naq-worker.3.100.7.1790230470084404000.42",
            "$JS.ACK.hub.hash.naq_queue_build.naq-worker.3.100.7.1790230470084404000.42",
            "$JS.ACK.hub.hash.naq_queue_build.naq-worker.3.100.7.1790230470084404000.42.token",
        ] {
            let ack = AckSubject::parse(reply).unwrap();
            assert_eq!(
                (ack.stream, ack.consumer),
                ("naq_queue_build", "naq-worker"),
                "{reply}"
            );
            assert_eq!((ack.delivery, ack.sequence, ack.pending), (3, 100, 42));
            assert_eq!(ack.time.unix_ms(), 1_790_230_470_084);
        }
        assert!(AckSubject::parse("_INBOX.x").is_none());
    }

    #[test]
    fn a_job_id_is_read_from_queue_and_route_subjects() {
        let id = |subject: &str| subject_id(subject).map(|id| id.map(|id| id.to_string()));
        assert_eq!(id("naq.queue.build"), None);
        assert_eq!(id("naq.queue.build.j"), Some(Ok("j".to_owned())));
        assert_eq!(id("naq.route.build.0af3.j"), Some(Ok("j".to_owned())));
        let by_place = format!("{}-123456789", "q".repeat(64));
        let subject = format!("naq.route.{}.0af3.{by_place}", "q".repeat(64));
        assert_eq!(id(&subject), Some(Ok(by_place)));
        assert!(matches!(id("naq.queue.build.a.b"), Some(Err(_))));
    }
}
