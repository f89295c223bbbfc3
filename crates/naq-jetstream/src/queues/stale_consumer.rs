//! Finds consumers whose state belongs to a stream that the server has lost, and recreates them.
//!
//! A server that loses power loses what it had not flushed to its disk, and not the same of
//! everything: a stream may lose its last messages, or exist no more and be created again, while the
//! state of its consumer survives. Such a consumer waits for sequences that the stream will reach
//! much later, and delivers nothing until then. Since 2.14 the server itself finds a consumer that is
//! past the end of its stream, but only while it starts, and not if the stream is created again.

use async_nats::jetstream::ErrorCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use crate::broker::Broker;
use crate::error::BrokerError;
use naq_protocol::{QueueName, Timestamp};

const DOING: &str = "checking a queue's consumer";

/// A consumer as the server describes it. Its settings are not parsed into a type of the client library:
/// the new consumer would lose those that the library does not know.
#[derive(Deserialize)]
struct ConsumerInfo {
    name: String,
    config: Map<String, Value>,
    delivered: Delivered,
    #[serde(default)]
    paused: bool,
}

/// What was found of a consumer that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedConsumer {
    /// Whether it was past the end of its stream, and was recreated.
    pub was_stale: bool,
    /// Whether it limits how many jobs may run at once.
    pub is_limited: bool,
}

#[derive(Deserialize)]
struct Delivered {
    /// How many messages the consumer has delivered.
    consumer_seq: u64,
    /// Sequence, in the stream, of the last delivered message. A consumer that has delivered nothing starts
    /// with the one before the first of the stream.
    stream_seq: u64,
    /// When the consumer last delivered something. The server does not say so after it has restarted.
    last_active: Option<IgnoredAny>,
}

impl Broker {
    /// Whether a queue has a consumer of this name.
    pub(crate) async fn has_consumer(
        &self,
        queue: &QueueName,
        consumer: &str,
    ) -> Result<bool, BrokerError> {
        let described = self.describe_consumer(queue, consumer).await?;
        Ok(described.is_some())
    }

    /// Recreates a stale consumer. `existed` says whether it existed before the caller ensured it.
    pub(crate) async fn recreate_if_stale(
        &self,
        queue: &QueueName,
        consumer: &str,
        existed: bool,
    ) -> Result<(), BrokerError> {
        let Some(info) = self.describe_consumer(queue, consumer).await? else {
            return Ok(());
        };
        // It did not exist a moment ago. If it has delivered something, but not since then, the server
        // has taken over what an earlier consumer of the name left on the disk. The stream may have
        // grown past that already.
        let delivered = info.delivered.stream_seq;
        if !existed && info.delivered.consumer_seq > 0 && info.delivered.last_active.is_none() {
            tracing::warn!(
                %queue, consumer, delivered,
                "consumer has the state of a lost stream; recreating the consumer"
            );
            return self.recreate_consumer(queue, info).await;
        }
        self.recreate_if_past_the_end(queue, info).await.map(drop)
    }

    /// Recreates each consumer of a queue's jobs that is past the end of its stream. Returns how many
    /// there were.
    ///
    /// # Errors
    /// Returns an error if the server refuses a request or does not answer.
    pub async fn recreate_stale_consumers(&self, queue: &QueueName) -> Result<usize, BrokerError> {
        let mut recreated = 0;
        for consumer in self.job_consumers(queue).await? {
            let checked = self.recreate_stale_consumer(queue, &consumer).await?;
            recreated += usize::from(checked.is_some_and(|checked| checked.was_stale));
        }
        Ok(recreated)
    }

    /// Recreates a consumer of a queue if it is past the end of its stream. The new one has the same
    /// settings, and delivers all messages that are in the stream. A job that runs meanwhile is not run
    /// twice: its record names the worker that runs it. Returns what was found; `None` if there is no such
    /// consumer.
    ///
    /// # Errors
    /// Returns an error if the server refuses a request or does not answer.
    pub async fn recreate_stale_consumer(
        &self,
        queue: &QueueName,
        consumer: &str,
    ) -> Result<Option<CheckedConsumer>, BrokerError> {
        let Some(info) = self.describe_consumer(queue, consumer).await? else {
            return Ok(None);
        };
        let limit = info.config.get("max_ack_pending").and_then(Value::as_i64);
        let is_limited = limit.is_some_and(|limit| limit > 0);
        let was_stale = self.recreate_if_past_the_end(queue, info).await?;
        Ok(Some(CheckedConsumer {
            was_stale,
            is_limited,
        }))
    }

    async fn recreate_if_past_the_end(
        &self,
        queue: &QueueName,
        consumer: ConsumerInfo,
    ) -> Result<bool, BrokerError> {
        // The stream is read after the consumer: so the consumer cannot have delivered a message that the
        // stream did not have yet.
        let last = self.last_sequence(&self.names.queue_stream(queue)).await?;
        let delivered = consumer.delivered.stream_seq;
        if delivered <= last {
            return Ok(false);
        }
        tracing::warn!(
            %queue, consumer = consumer.name, delivered, last,
            "consumer is past the end of its stream; the server has lost messages, recreating the consumer"
        );
        self.recreate_consumer(queue, consumer).await?;
        Ok(true)
    }

    /// A consumer as the server describes it. `None` if it does not exist.
    async fn describe_consumer(
        &self,
        queue: &QueueName,
        consumer: &str,
    ) -> Result<Option<ConsumerInfo>, BrokerError> {
        let subject = format!(
            "CONSUMER.INFO.{}.{consumer}",
            self.names.queue_stream(queue)
        );
        let described = self.api_request(subject, &json!({}), DOING).await?;
        match described {
            Ok(info) => Ok(Some(info)),
            Err(error)
                if [ErrorCode::CONSUMER_NOT_FOUND, ErrorCode::STREAM_NOT_FOUND]
                    .contains(&error.error_code()) =>
            {
                Ok(None)
            }
            Err(error) => Err(BrokerError::from_api(&error, DOING)),
        }
    }

    async fn recreate_consumer(
        &self,
        queue: &QueueName,
        former: ConsumerInfo,
    ) -> Result<(), BrokerError> {
        let (stream, consumer) = (self.names.queue_stream(queue), former.name);
        let mut config = former.config;
        if !former.paused {
            config.remove("pause_until");
        }
        let subject = format!("CONSUMER.DELETE.{stream}.{consumer}");
        let deleted = self
            .api_request::<IgnoredAny>(subject, &json!({}), DOING)
            .await?;
        match deleted {
            Ok(_) => {}
            // another process recreates it at this moment
            Err(error) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND => {}
            Err(error) => return Err(BrokerError::from_api(&error, DOING)),
        }
        let written = self
            .write_consumer(queue, &consumer, "create", &config, DOING)
            .await?;
        match written {
            Ok(()) => Ok(()),
            // A worker that missed the consumer meanwhile has made it, without the user's settings.
            Err(error) if error.error_code() == ErrorCode::CONSUMER_ALREADY_EXISTS => {
                if let Some(count) = config.get("max_ack_pending").and_then(Value::as_i64) {
                    self.set_max_ack_pending(queue, &consumer, count).await?;
                }
                let until = config.get("pause_until").and_then(Value::as_str);
                match until.and_then(|until| until.parse::<Timestamp>().ok()) {
                    Some(until) => self.pause_consumer(queue, &consumer, Some(until)).await,
                    None => Ok(()),
                }
            }
            Err(error) => Err(BrokerError::from_api(&error, DOING)),
        }
    }
}
