//! Pulls jobs: pull requests that match the worker's free slots, on one subscription.
//!
//! A pull request for `n` messages is open at the server until it is filled or expires. The
//! messages it brings and the ones it leaves unfilled are both counted here, so that the caller
//! always knows how many messages are requested and not yet delivered.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use async_nats::StatusCode;
use futures_util::StreamExt;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::connection::PullConnection;
use crate::broker::Broker;
use crate::connection::state::ConnectionWatch;
use crate::error::BrokerError;
use crate::pull::delivery::{AckSubject, Delivery};
use naq_protocol::QueueName;

/// How long a pull request is open. It is short, so that a queue whose consumer was paused is
/// served soon after it resumes (measured: within a second of the resumption at 5 s, up to 29 s
/// later at 30 s).
const PULL_EXPIRES: Duration = Duration::from_secs(5);

/// After this long without a reply from the server, the pull requests are taken for lost.
const PULL_LOST_AFTER: Duration = Duration::from_secs(8);

/// Number of requests before a reset that are remembered.
const COLLAPSED_MAX: u64 = 65_536;

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
    request_times: RequestTimes,
}

/// When the requests were sent that are pending, one queue for each kind, oldest first.
#[derive(Debug, Default)]
struct RequestTimes {
    expiring: VecDeque<(Duration, u64)>,
    no_wait: VecDeque<(Duration, u64)>,
}

impl RequestTimes {
    fn of(&mut self, kind: PullKind) -> &mut VecDeque<(Duration, u64)> {
        match kind {
            PullKind::Expiring => &mut self.expiring,
            PullKind::NoWait => &mut self.no_wait,
        }
    }

    fn add(&mut self, kind: PullKind, sent_at: Duration, count: u64) {
        self.of(kind).push_back((sent_at, count));
    }

    /// Dates all pending requests as the oldest one. After a reset, messages that answer earlier
    /// requests may still arrive, and nothing tells them from the others.
    fn collapse(&mut self) {
        for queue in [&mut self.expiring, &mut self.no_wait] {
            let count = queue.iter().map(|(_, count)| count).sum();
            if let Some((oldest, _)) = queue.front().copied() {
                queue.clear();
                queue.push_back((oldest, COLLAPSED_MAX.min(count)));
            }
        }
    }

    /// Removes `count` of the oldest requests, and returns when the first of them was sent.
    ///
    /// In whichever order the server fills requests, the message delivered `n`th was not sent
    /// before the `n`th oldest request: the first `n` messages fill `n` requests, so at least one
    /// of these is as young, and later messages are sent later.
    fn take(&mut self, kind: PullKind, mut count: u64) -> Option<Duration> {
        let queue = self.of(kind);
        let sent_at = queue.front().map(|(sent_at, _)| *sent_at);
        while count > 0
            && let Some((_, left)) = queue.front_mut()
        {
            let taken = count.min(*left);
            *left -= taken;
            count -= taken;
            if *left == 0 {
                queue.pop_front();
            }
        }
        sent_at
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
            request_times: RequestTimes::default(),
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

    /// Requests `count` more messages from a consumer. `sent_at` is the caller's time, which the
    /// deliveries that answer the request carry.
    ///
    /// # Errors
    /// Returns [`BrokerError::ConnectionLost`] if the request cannot be sent.
    pub async fn request(
        &mut self,
        index: usize,
        count: u64,
        kind: PullKind,
        sent_at: Duration,
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
                .map_err(BrokerError::connection_lost)?;
        }
        let source = &mut self.consumers[index];
        *source.pending_pulls.of(kind) += count;
        source.request_times.add(kind, sent_at, count);
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
        let was_closed = std::mem::replace(&mut self.closed, true);
        if let Some(opening) = self.reopening.take() {
            opening.abort();
            return deliveries;
        }
        // a server that is away would not answer, and cannot deliver
        if was_closed || !self.connection.link.state().connected {
            return deliveries;
        }
        let deadline = Instant::now() + CLOSE_MAX;
        for kind in [PullKind::NoWait, PullKind::Expiring] {
            let subscriber = match kind {
                PullKind::NoWait => &mut self.connection.no_wait.subscriber,
                PullKind::Expiring => &mut self.connection.expiring.subscriber,
            };
            if subscriber.drain().await.is_err() {
                continue;
            }
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
            source.request_times.collapse();
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
        let requested_at = source.request_times.take(kind, 1).unwrap_or_default();
        let (queue, client) = (source.queue.clone(), self.broker.client.clone());
        let delivery =
            Delivery::from_message(queue, &ack, message, reply.clone(), client, requested_at);
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
        // the server gives one code for every end of a request; only the text of ADR-13 tells them
        // apart
        let gone = status == StatusCode::NO_RESPONDERS
            || (status == StatusCode::REQUEST_TERMINATED
                && (description.contains("Consumer Deleted")
                    || description.contains("Stream Deleted")));
        if gone {
            source.pending_pulls = PendingPulls::default();
            source.request_times = RequestTimes::default();
            return Some(PullEvent::ConsumerDeleted(index));
        }
        if status == StatusCode::IDLE_HEARTBEAT {
            return None;
        }
        let pending_pulls = source.pending_pulls.of(kind);
        // if the server does not report how much of the request is unfilled, all of it is
        let ended = unfilled.unwrap_or(*pending_pulls).min(*pending_pulls);
        *pending_pulls -= ended;
        source.request_times.take(kind, ended);
        source.last_reply_at = Instant::now();
        source.pending = 0;
        Some(PullEvent::Unfilled(index, kind))
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The server may fill pending requests in any order: the time that a delivery carries is
        /// never later than that of the request that it answers or of an earlier delivery's.
        #[test]
        fn a_delivery_is_never_dated_after_the_server_sent_it(
            steps in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..200),
        ) {
            let mut times = RequestTimes::default();
            // the send times of the requests that the server still has
            let mut open: Vec<u64> = Vec::new();
            let mut last_sent = 0;
            for (now, (is_request, chosen)) in (1_u64..).zip(steps) {
                if is_request || open.is_empty() {
                    times.add(PullKind::Expiring, Duration::from_secs(now), 1);
                    open.push(now);
                } else {
                    let answered = open.remove(chosen.index(open.len()));
                    // the server sends a message after it got the request, and after its last one
                    last_sent = last_sent.max(answered);
                    let dated = times.take(PullKind::Expiring, 1).unwrap();
                    prop_assert!(dated <= Duration::from_secs(last_sent));
                }
            }
        }
    }

    #[test]
    fn requests_that_ended_unfilled_are_removed_oldest_first() {
        let mut times = RequestTimes::default();
        let at = Duration::from_secs;
        times.add(PullKind::NoWait, at(1), 3);
        times.add(PullKind::NoWait, at(2), 2);
        times.take(PullKind::NoWait, 4);
        assert_eq!(times.take(PullKind::NoWait, 1), Some(at(2)));
        assert_eq!(times.take(PullKind::NoWait, 1), None);
    }
}
