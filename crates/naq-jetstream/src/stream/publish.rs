//! Publishes that the server acknowledges, one by one or many in flight.

use std::time::{Duration, Instant};

use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;

use crate::broker::Broker;
use crate::connection::denial::DenialWatch;
use crate::error::BrokerError;
use crate::request_timings::{RequestKind, RequestTimings};

/// A publish that has been sent and not yet acknowledged. Dropping it does not undo it.
#[derive(Debug)]
#[must_use = "a write is only done once it is confirmed"]
pub struct PendingWrite {
    ack: PublishAckFuture,
    subject: Subject,
    denials: DenialWatch,
    timings: RequestTimings,
    sent_at: Instant,
}

/// The server's acknowledgement of a stored message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublishAck {
    /// Its sequence in the stream.
    pub(crate) sequence: u64,
    /// Whether a message with the same id existed already; the sequence is that message's.
    pub(crate) duplicate: bool,
}

impl PendingWrite {
    /// Waits for the server's acknowledgement.
    pub(crate) async fn confirmed(mut self) -> Result<PublishAck, BrokerError> {
        let ack = tokio::select! {
            biased;
            ack = self.ack => {
                self.timings.report(RequestKind::Publish, self.sent_at.elapsed());
                ack.map_err(from_publish)?
            }
            denial = self.denials.request_denied(&self.subject) => {
                return Err(BrokerError::PermissionDenied { doing: DOING, denial });
            }
        };
        Ok(PublishAck {
            sequence: ack.sequence,
            duplicate: ack.duplicate,
        })
    }
}

impl Broker {
    /// Publishes a message to a stream. Waits only if too many publishes are in flight.
    pub(crate) async fn send(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<PendingWrite, BrokerError> {
        let bytes = payload.len();
        let subject = Subject::from(subject);
        // before the message is sent
        let denials = self.link.denials();
        let sent_at = Instant::now();
        let sent = self
            .jetstream
            .publish_with_headers(subject.clone(), headers, payload)
            .await;
        match sent {
            Ok(ack) => Ok(PendingWrite {
                ack,
                subject,
                denials,
                timings: self.timings.clone(),
                sent_at,
            }),
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(BrokerError::TooLarge {
                    bytes,
                    bytes_max: self.message_bytes_max(),
                })
            }
            Err(error) => Err(from_publish(error)),
        }
    }
}

const DOING: &str = "storing a message";

fn from_publish(error: PublishError) -> BrokerError {
    match error.kind() {
        PublishErrorKind::StreamNotFound => BrokerError::NotFound("the stream".to_owned()),
        PublishErrorKind::WrongLastSequence | PublishErrorKind::WrongLastMessageId => {
            BrokerError::Conflict
        }
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => BrokerError::Timeout(DOING),
        PublishErrorKind::MaxAckPending
        | PublishErrorKind::MaxPayloadExceeded
        | PublishErrorKind::Other => {
            let source = std::error::Error::source(&error)
                .and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
            match source {
                Some(api) => BrokerError::from_api(api, DOING),
                None => BrokerError::refused(DOING, error),
            }
        }
    }
}

/// The headers of a compare-and-set, with an optional TTL.
pub(crate) fn revision_headers(expected: u64, ttl: Option<Duration>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
        expected.to_string().as_str(),
    );
    if let Some(ttl) = ttl {
        headers.insert(
            async_nats::header::NATS_MESSAGE_TTL,
            format!("{}s", ttl.as_secs().max(1)),
        );
    }
    headers
}

/// How long the marker of a removed key is kept.
const MARKER_TTL: Duration = Duration::from_secs(600);

/// The headers of the marker that removes a key, if its revision is still `expected`.
pub(crate) fn removal_headers(expected: u64) -> HeaderMap {
    let mut headers = revision_headers(expected, Some(MARKER_TTL));
    headers.insert("KV-Operation", "DEL");
    headers
}
