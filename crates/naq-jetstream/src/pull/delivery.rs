//! A delivered message, and how it is acknowledged.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::stream::stream_api::{MessageSelector, StoredMessage};
use crate::subjects::{is_rerouted, route_key_and_id, subject_id};
use naq_protocol::{JobId, QueueName, TRACEPARENT_HEADER, Timestamp};

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
    /// When the server stored the message, in nanoseconds since the Unix epoch. With the queue and
    /// the sequence it identifies the message: a stream that was created again, or that lost its
    /// tail, gives a sequence to another message.
    pub stored_at_ns: i64,
    /// How often the message has been delivered, this delivery included.
    pub delivery: u64,
    /// When the pull request was sent that the message answers, or an earlier time, by the clock of
    /// the caller of [`PullSubscription::request`](super::subscription::PullSubscription::request).
    /// The server cannot have sent the message before.
    pub requested_at: Duration,
    /// When the server stored the job's first message.
    pub enqueue_time: Timestamp,
    /// Whether a worker rerouted it to workers with the labels it requires.
    pub is_rerouted: bool,
    pub(crate) headers: HeaderMap,
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
    /// The delivery of a message that arrived with this reply subject.
    pub(super) fn from_message(
        queue: QueueName,
        ack: &AckSubject<'_>,
        message: async_nats::Message,
        reply: async_nats::Subject,
        client: async_nats::Client,
        requested_at: Duration,
    ) -> Delivery {
        let subject = message.subject.as_str();
        let headers = message.headers.unwrap_or_default();
        Delivery {
            queue,
            subject_id: subject_id(subject),
            message_id: headers
                .get(async_nats::header::NATS_MESSAGE_ID)
                .map(|value| value.as_str().to_owned()),
            payload: message.payload,
            sequence: ack.sequence,
            stored_at_ns: ack.time_ns,
            delivery: ack.delivery,
            requested_at,
            enqueue_time: rerouted_enqueue_time(subject, &headers).unwrap_or(ack.time),
            is_rerouted: is_rerouted(subject),
            headers,
            reply,
            client,
        }
    }

    /// Acknowledges the message, and waits until the server has confirmed that it is removed.
    ///
    /// # Errors
    /// Returns [`BrokerError::Timeout`] if the server does not confirm; the message may then be
    /// redelivered.
    pub async fn ack(&self) -> Result<(), BrokerError> {
        self.send_ack("+ACK").await
    }

    /// Acknowledges the message, and does not wait for an answer. If it is lost, the message is redelivered.
    ///
    /// # Errors
    /// Returns [`BrokerError::Timeout`] if the connection has ended for good.
    pub async fn ack_unconfirmed(&self) -> Result<(), BrokerError> {
        self.client
            .publish(self.reply.clone(), Bytes::from_static(b"+ACK"))
            .await
            .map_err(|_| BrokerError::Timeout("acknowledging a message"))
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
            .map_err(|_| BrokerError::Timeout("acknowledging a message"))
    }

    /// Whether the message is a recheck and not a job: the blocked job that its subject names is to
    /// be evaluated again.
    #[must_use]
    pub fn is_recheck(&self) -> bool {
        self.headers.get(crate::headers::RECHECK).is_some()
    }

    /// Whether the message was published by a worker for another attempt at its job, which has a
    /// record then.
    #[must_use]
    pub fn is_retry(&self) -> bool {
        self.headers.get(crate::headers::ATTEMPT).is_some()
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
            stored_at_ns: self.stored_at_ns,
            delivery: self.delivery,
            requested_at: self.requested_at,
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
        let header = self.headers.get(crate::headers::SCHEDULED_FOR)?;
        header.as_str().parse().ok()
    }

    /// The producer's trace context.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.headers
            .get(TRACEPARENT_HEADER)
            .map(async_nats::HeaderValue::as_str)
    }
}

impl Broker {
    /// Whether the queue's stream still has this very message under the delivery's sequence. An
    /// acknowledgement names only the sequence, so after the stream was removed and created again it
    /// would remove another job's message.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn is_message_stored(&self, delivery: &Delivery) -> Result<bool, BrokerError> {
        let stream = self.names.queue_stream(&delivery.queue);
        let stored = self
            .read_message(&stream, MessageSelector::BySequence(delivery.sequence))
            .await?;
        Ok(stored.is_some_and(|stored| stored_at_ns(stored.time) == delivery.stored_at_ns))
    }

    /// A delivery made from a stored message that was not delivered to this process, in order to
    /// nak it.
    pub(crate) fn delivery_from_stored(
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
            stored_at_ns(message.time),
        );
        Delivery {
            queue: queue.clone(),
            subject_id: subject_id(&message.subject),
            message_id: message.header("Nats-Msg-Id"),
            payload: message.payload(),
            sequence: message.sequence,
            stored_at_ns: stored_at_ns(message.time),
            delivery: 1,
            requested_at: Duration::ZERO,
            enqueue_time: message.time,
            is_rerouted: is_rerouted(&message.subject),
            headers: HeaderMap::new(),
            reply: reply.into(),
            client: self.client.clone(),
        }
    }
}

/// The server's time of a message in nanoseconds since the Unix epoch.
fn stored_at_ns(time: Timestamp) -> i64 {
    time.0.timestamp_nanos_opt().unwrap_or_default()
}

/// When a rerouted job was enqueued: the server's time of its message is the time of the rerouting.
fn rerouted_enqueue_time(subject: &str, headers: &HeaderMap) -> Option<Timestamp> {
    route_key_and_id(subject)?;
    headers
        .get(crate::headers::ENQUEUE_TIME)?
        .as_str()
        .parse()
        .ok()
}

/// The reply subject of a delivery, as the server writes it (ADR-15):
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time ns>.<pending>`, or
/// the longer form with domain and account in front of the stream.
pub(super) struct AckSubject<'a> {
    pub(super) stream: &'a str,
    pub(super) consumer: &'a str,
    pub(super) delivery: u64,
    pub(super) sequence: u64,
    pub(super) time: Timestamp,
    /// The same time in nanoseconds since the Unix epoch.
    pub(super) time_ns: i64,
    pub(super) pending: u64,
}

impl AckSubject<'_> {
    pub(super) fn parse(reply: &str) -> Option<AckSubject<'_>> {
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
            time_ns,
            pending: rest[6].parse().ok()?,
        })
    }
}

/// Parses any text as a subject for acknowledgements, and checks what it accepts.
#[cfg(any(fuzzing, test))]
pub(crate) fn check_ack_subject(reply: &str) {
    if let Some(ack) = AckSubject::parse(reply) {
        assert!(reply.contains(ack.stream) && reply.contains(ack.consumer));
        assert_eq!(ack.time.unix_ms(), ack.time_ns / 1_000_000);
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
}
