//! Pulling jobs: demand that equals free slots, kept standing on one subscription.
//!
//! A request for `n` messages stands at the server until it is filled or expires; what it brings
//! and what it gives back are both counted here, so that the caller always knows how much it has
//! asked for and not yet got.

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

/// How long a request stands. Short enough that a queue whose consumer was paused is served soon
/// after it resumes (measured: within a second of the resumption at 5 s, up to 29 s later at 30).
const PULL_EXPIRES: Duration = Duration::from_secs(5);

/// After this long without the server's word, a request is taken for lost.
const PULL_LOST_AFTER: Duration = Duration::from_secs(8);

/// A job's message in this worker's hands.
pub struct Delivery {
    /// The queue it came from.
    pub queue: QueueName,
    /// The id in its subject; none for a bare job. The error text where the token is no id.
    pub subject_id: Option<Result<JobId, String>>,
    /// The producer's `Nats-Msg-Id`.
    pub message_id: Option<String>,
    /// The envelope's bytes.
    pub payload: Bytes,
    /// Its sequence in the queue's stream.
    pub sequence: u64,
    /// How often it has been delivered; the first is 1.
    pub delivery: u64,
    /// When the server took it.
    pub enqueue_time: Timestamp,
    /// A worker has handed it on to those that have the labels it requires.
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
    /// Removes the message, and waits until the server has said so.
    ///
    /// # Errors
    /// [`BrokerError::Timeout`] where the server has not; the message may then come again.
    pub async fn ack(&self) -> Result<(), BrokerError> {
        self.answer("+ACK").await
    }

    /// Tells the server that work goes on, and waits until it has heard.
    ///
    /// # Errors
    /// [`BrokerError::Timeout`] where it has not.
    pub async fn renew(&self) -> Result<(), BrokerError> {
        self.answer("+WPI").await
    }

    /// Gives the message back for another worker to take at once.
    ///
    /// # Errors
    /// [`BrokerError::Timeout`] where the server has not answered; it then comes back by itself
    /// after `ack_wait`.
    pub async fn nak(&self) -> Result<(), BrokerError> {
        self.answer("-NAK").await
    }

    async fn answer(&self, kind: &'static str) -> Result<(), BrokerError> {
        self.client
            .request(self.reply.clone(), Bytes::from_static(kind.as_bytes()))
            .await
            .map(|_| ())
            .map_err(|_| BrokerError::Timeout("answering for a message"))
    }

    /// Whether it is no job, only a bell: the job of its subject, which waits, is to be looked at.
    #[must_use]
    pub fn is_recheck(&self) -> bool {
        self.headers
            .get(super::blocked_index::RECHECK_HEADER)
            .is_some()
    }

    /// The same delivery as one of another envelope.
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

    /// The time that it was held until, where it was.
    #[must_use]
    pub fn scheduled_for(&self) -> Option<Timestamp> {
        let header = self.headers.get(SCHEDULED_FOR_HEADER)?;
        header.as_str().parse().ok()
    }

    /// The trace context a producer sent along.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.headers
            .get("traceparent")
            .map(async_nats::HeaderValue::as_str)
    }
}

/// What came of the demand.
#[derive(Debug)]
pub enum PullEvent {
    /// A job, from this feed.
    Delivered(usize, Box<Delivery>),
    /// A feed gave back demand of this kind: it has nothing (now) for it.
    Unfilled(usize, PullKind),
    /// A feed's consumer is gone, for one because the queue was removed.
    ConsumerDeleted(usize),
    /// The connection was lost and is back; all demand has to be stated anew.
    Reset,
}

/// The two kinds of request. Their answers come by different subscriptions, since a delivery
/// does not say which request it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullKind {
    /// Stands until a job comes.
    Expiring,
    /// Is answered with what is there now.
    NoWait,
}

/// What was asked of a queue and has not yet come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingPulls {
    /// By standing requests.
    pub expiring: u64,
    /// By requests to be answered at once.
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

/// A consumer of a queue, and what was asked of it.
struct PullSource {
    queue: QueueName,
    consumer: String,
    next_subject: String,
    pending_pulls: PendingPulls,
    /// When the server last gave a sign: it answers every request in bounded time.
    last_reply_at: Instant,
    /// How many messages the server said stand behind the last one.
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

/// The connection that deliveries come by, and what is subscribed on it.
struct PullConnection {
    client: async_nats::Client,
    link: ConnectionWatch,
    /// Where standing requests are answered, and where those to be answered at once.
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

    /// Opens one, however often it takes.
    async fn open_with_retry(broker: Broker) -> PullConnection {
        let mut failures = 0;
        loop {
            match PullConnection::open(&broker).await {
                Ok(line) => return line,
                Err(error) => tracing::debug!("no connection for deliveries yet: {error}"),
            }
            failures += 1;
            tokio::time::sleep(RECONNECT_BACKOFF.pause(failures, rand::random())).await;
        }
    }
}

/// The demand on a worker's queues. A feed is a consumer of a queue, named by its index: they are
/// only ever added.
///
/// It has a connection of its own: a message that the client library cannot read costs the
/// connection it comes by, and answers, records and renewals must not go with it.
pub struct PullSubscription {
    broker: Broker,
    line: PullConnection,
    /// A new line on its way, where the old one has broken for good.
    reopening: Option<JoinHandle<PullConnection>>,
    /// The demand was taken back.
    closed: bool,
    consumers: Vec<PullSource>,
    /// The feeds of each stream. Nearly always there is one.
    by_stream: HashMap<String, Vec<usize>>,
    /// Which connection the demand was stated on.
    link_generation: u64,
    /// Something has come by the line since the demand was last counted: its subscriptions stand.
    is_subscribed: bool,
    /// Where requests go then, and which connection it was when the first one went.
    requests_link: ConnectionWatch,
    requests_generation: Option<u64>,
    /// Requests of an earlier count answer under an earlier number, and are not counted.
    generation: u64,
}

impl Broker {
    /// A delivery of a message that was read and not delivered to us, to be handed back with.
    pub(super) fn delivery_from_stored(
        &self,
        queue: &QueueName,
        consumer: &str,
        message: &StoredMessage,
        consumer_sequence: u64,
    ) -> Delivery {
        // the server goes by the stream's sequence; the consumer's has only to be one it gave
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

    /// Opens the feed of some queues. Nothing is asked for yet.
    ///
    /// `consumer` is the consumer to pull from, the same name for each queue.
    ///
    /// # Errors
    /// Where the subscription cannot be made.
    pub async fn open_pull_subscription(
        &self,
        queues: &[QueueName],
        consumer: &str,
    ) -> Result<PullSubscription, BrokerError> {
        let mut line = PullConnection::open(self).await?;
        // what happened before the feed was open does not concern it
        let link_generation = line.link.mark_seen().generation;
        let mut consumers = PullSubscription {
            broker: self.clone(),
            line,
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
    /// Adds the feed of a consumer of a queue, and returns its index. Nothing is asked for yet.
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

    /// The number of feeds; each is named by its index below it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.consumers.len()
    }

    /// Whether there is no feed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.consumers.is_empty()
    }

    /// The queue of a feed.
    #[must_use]
    pub fn queue(&self, index: usize) -> &QueueName {
        &self.consumers[index].queue
    }

    /// The consumer of a feed.
    #[must_use]
    pub fn consumer(&self, index: usize) -> &str {
        &self.consumers[index].consumer
    }

    /// The feed of a consumer of a queue.
    #[must_use]
    pub fn index_of(&self, queue: &QueueName, consumer: &str) -> Option<usize> {
        self.consumers
            .iter()
            .position(|feed| feed.queue == *queue && feed.consumer == consumer)
    }

    /// What was asked of a feed and has not yet come.
    #[must_use]
    pub fn pending_pulls(&self, index: usize) -> PendingPulls {
        self.consumers[index].pending_pulls
    }

    /// How many messages the server said stood behind the last one a feed delivered.
    #[must_use]
    pub fn num_pending(&self, index: usize) -> u64 {
        self.consumers[index].pending
    }

    /// Asks a feed for `count` more jobs.
    ///
    /// # Errors
    /// Where the request could not be sent.
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
                &self.line.expiring.inbox,
            ),
            PullKind::NoWait => (
                format!(r#"{{"batch":{count},"no_wait":true}}"#),
                &self.line.no_wait.inbox,
            ),
        };
        let reply = format!("{inbox}.{}.{index}", self.generation);
        // a line that is only on its way brings a reset, after which all is asked for again
        if self.reopening.is_none() {
            // By the connection that has answers and records to send at the same moment: a packet
            // the less. Not before the line is heard of, since a request whose answer nobody is
            // subscribed to is dropped.
            let client = if self.is_subscribed {
                self.requests_generation
                    .get_or_insert_with(|| self.requests_link.state().generation);
                &self.broker.client
            } else {
                &self.line.client
            };
            client
                .publish_with_reply(subject, reply, request.into())
                .await
                .map_err(|error| BrokerError::ConnectionLost(error.to_string()))?;
        }
        let feed = &mut self.consumers[index];
        *feed.pending_pulls.of(kind) += count;
        feed.last_reply_at = Instant::now();
        Ok(())
    }

    /// Waits for the next job or for news of the demand. Cancel safe.
    pub async fn next(&mut self) -> PullEvent {
        loop {
            if let Some(opening) = &mut self.reopening {
                let opened = opening.await;
                self.reopening = None;
                match opened {
                    Ok(line) => self.line = line,
                    Err(_) => self.reopen(),
                }
                if self.reopening.is_none() {
                    self.link_generation = self.line.link.mark_seen().generation;
                    self.reset_pending();
                    return PullEvent::Reset;
                }
                continue;
            }
            let lost_at = self
                .consumers
                .iter()
                .filter(|feed| feed.pending_pulls != PendingPulls::default())
                .map(|feed| feed.last_reply_at + PULL_LOST_AFTER)
                .min();
            let (message, kind) = tokio::select! {
                biased;
                message = self.line.no_wait.subscriber.next() => (message, PullKind::NoWait),
                message = self.line.expiring.subscriber.next() => (message, PullKind::Expiring),
                link = self.line.link.changed() => {
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
                // the client itself has ended, which only bytes that it panics over make it do
                tracing::warn!("the connection for deliveries broke; opening another");
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

    /// Takes all demand back. Returns the jobs that had come by the time the server knew.
    pub async fn close(&mut self) -> Vec<Delivery> {
        /// The server ends a subscription at once; a cut connection must not hold up an end.
        const CLOSE_MAX: Duration = Duration::from_secs(2);
        let mut deliveries = Vec::new();
        self.closed = true;
        if let Some(opening) = self.reopening.take() {
            opening.abort();
            return deliveries;
        }
        for kind in [PullKind::NoWait, PullKind::Expiring] {
            let subscriber = match kind {
                PullKind::NoWait => &mut self.line.no_wait.subscriber,
                PullKind::Expiring => &mut self.line.expiring.subscriber,
            };
            if subscriber.drain().await.is_err() {
                continue;
            }
            let deadline = Instant::now() + CLOSE_MAX;
            loop {
                let subscriber = match kind {
                    PullKind::NoWait => &mut self.line.no_wait.subscriber,
                    PullKind::Expiring => &mut self.line.expiring.subscriber,
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

    /// Counts from nothing, and does not hear what the requests so far may still answer.
    fn reset_pending(&mut self) {
        self.generation += 1;
        self.is_subscribed = false;
        self.requests_generation = None;
        for feed in &mut self.consumers {
            feed.pending_pulls = PendingPulls::default();
        }
    }

    fn read(&mut self, message: async_nats::Message, kind: PullKind) -> Option<PullEvent> {
        // a job's message may carry a status of its own (servers before 2.14 pass it on): only
        // what cannot be answered is the server's word on a request
        let Some(reply) = message.reply.clone() else {
            return self.read_status(&message, kind);
        };
        let place = AckSubject::parse(&reply)?;
        let of_stream = self.by_stream.get(place.stream)?;
        let index = *of_stream
            .iter()
            .find(|index| self.consumers[**index].consumer == place.consumer)?;
        let feed = &mut self.consumers[index];
        let pending_pulls = feed.pending_pulls.of(kind);
        *pending_pulls = pending_pulls.saturating_sub(1);
        feed.pending = place.pending;
        let subject_id = subject_id(message.subject.as_str());
        let headers = message.headers.unwrap_or_default();
        let delivery = Delivery {
            queue: feed.queue.clone(),
            subject_id,
            message_id: headers
                .get(async_nats::header::NATS_MESSAGE_ID)
                .map(|value| value.as_str().to_owned()),
            payload: message.payload,
            sequence: place.sequence,
            delivery: place.delivery,
            enqueue_time: rerouted_enqueue_time(message.subject.as_str(), &headers)
                .unwrap_or(place.time),
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
        let feed = self.consumers.get_mut(index)?;
        let status = message.status?;
        let description = message.description.as_deref().unwrap_or_default();
        let unfilled = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Pending-Messages"))
            .and_then(|value| value.as_str().parse::<u64>().ok());
        tracing::trace!(queue = %feed.queue, %status, description, ?unfilled, "status of a pull");
        let gone = status == StatusCode::NO_RESPONDERS
            || (status == StatusCode::REQUEST_TERMINATED
                && (description.contains("Consumer Deleted")
                    || description.contains("Stream Deleted")));
        if gone {
            feed.pending_pulls = PendingPulls::default();
            return Some(PullEvent::ConsumerDeleted(index));
        }
        if status == StatusCode::IDLE_HEARTBEAT {
            return None;
        }
        let pending_pulls = feed.pending_pulls.of(kind);
        // where the server does not say how much of it comes back, it is all of it
        *pending_pulls = unfilled.map_or(0, |unfilled| pending_pulls.saturating_sub(unfilled));
        feed.last_reply_at = Instant::now();
        feed.pending = 0;
        Some(PullEvent::Unfilled(index, kind))
    }
}

/// The id in a job's subject: `prefix.queue.NAME`, `prefix.queue.NAME.ID`, or
/// `prefix.route.NAME.SET.ID` where a worker has handed it on.
fn subject_id(subject: &str) -> Option<Result<JobId, String>> {
    let token = subject.splitn(4, '.').nth(3)?;
    let id = match route_key_and_id(subject) {
        // the name may be one by place, which is longer than one that was chosen
        Some((_, id)) => JobId::new(id),
        None => JobId::from_user(token),
    };
    Some(id.map_err(|error| error.to_string()))
}

/// The key of the labels and the id in the subject of a job that was handed on.
fn route_key_and_id(subject: &str) -> Option<(&str, &str)> {
    let mut tokens = subject.splitn(4, '.').skip(1);
    if tokens.next()? != "route" {
        return None;
    }
    tokens.nth(1)?.split_once('.')
}

/// Whether a subject is that of a job that was handed on.
pub(super) fn is_rerouted(subject: &str) -> bool {
    route_key_and_id(subject).is_some()
}

/// When a job that was handed on was enqueued: the server's time of its message is when it was
/// handed on.
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

/// What the server writes into the reply subject of a delivery (ADR-15):
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time ns>.<pending>`,
/// or the longer form with domain and account in front of the stream.
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
    fn reads_both_forms_of_the_reply() {
        for reply in [
            "$JS.ACK.naq_queue_build.naq-worker.3.100.7.1790230470084404000.42",
            "$JS.ACK.hub.hash.naq_queue_build.naq-worker.3.100.7.1790230470084404000.42",
            "$JS.ACK.hub.hash.naq_queue_build.naq-worker.3.100.7.1790230470084404000.42.token",
        ] {
            let place = AckSubject::parse(reply).unwrap();
            assert_eq!(
                (place.stream, place.consumer),
                ("naq_queue_build", "naq-worker"),
                "{reply}"
            );
            assert_eq!(
                (place.delivery, place.sequence, place.pending),
                (3, 100, 42)
            );
            assert_eq!(place.time.unix_ms(), 1_790_230_470_084);
        }
        assert!(AckSubject::parse("_INBOX.x").is_none());
    }

    #[test]
    fn an_id_is_found_in_either_subject() {
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
