//! Finds consumers whose state belongs to a stream that the server has lost, and recreates them.
//!
//! A server that loses power loses what it had not flushed to its disk, and not the same of
//! everything: a stream may lose its last messages, or exist no more and be created again, while the
//! state of its consumer survives. Such a consumer waits for sequences that the stream will reach
//! much later, and delivers nothing until then. Since 2.14 the server itself finds a consumer that is
//! past the end of its stream, but only while it starts, and not if the stream is created again.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{FromConsumer, Info as ConsumerInfo, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::ConsumerCreateStrictErrorKind;

use crate::broker::Broker;
use crate::error::{BrokerError, has_consumer_code};
use naq_protocol::{QueueName, Timestamp};

const DOING: &str = "checking a queue's consumer";

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
        let delivered = info.delivered.stream_sequence;
        if !existed && delivered > 0 && info.delivered.last_active.is_none() {
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
            recreated += usize::from(self.recreate_stale_consumer(queue, &consumer).await?);
        }
        Ok(recreated)
    }

    /// Recreates a consumer of a queue if it is past the end of its stream. The new one has the same
    /// settings, and delivers all messages that are in the stream. A job that runs meanwhile is not run
    /// twice: its record names the worker that runs it. Returns whether the consumer was recreated.
    ///
    /// # Errors
    /// Returns an error if the server refuses a request or does not answer.
    pub async fn recreate_stale_consumer(
        &self,
        queue: &QueueName,
        consumer: &str,
    ) -> Result<bool, BrokerError> {
        match self.describe_consumer(queue, consumer).await? {
            Some(info) => self.recreate_if_past_the_end(queue, info).await,
            None => Ok(false),
        }
    }

    async fn recreate_if_past_the_end(
        &self,
        queue: &QueueName,
        consumer: ConsumerInfo,
    ) -> Result<bool, BrokerError> {
        // The stream is read after the consumer: so the consumer cannot have delivered a message that the
        // stream did not have yet.
        let last = self.last_sequence(&self.names.queue_stream(queue)).await?;
        let delivered = consumer.delivered.stream_sequence;
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
        let stream = self
            .jetstream
            .get_stream_no_info(self.names.queue_stream(queue))
            .await
            .map_err(|error| self.request_error(DOING, error))?;
        let name = self.names.queue_stream(queue);
        let asking = stream.consumer_info(consumer);
        match self.until_denied(DOING, &name, asking).await? {
            Ok(info) => Ok(Some(info)),
            Err(error) => match error.kind() {
                ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => Ok(None),
                ConsumerInfoErrorKind::JetStream(api)
                    if [ErrorCode::CONSUMER_NOT_FOUND, ErrorCode::STREAM_NOT_FOUND]
                        .contains(&api.error_code()) =>
                {
                    Ok(None)
                }
                ConsumerInfoErrorKind::JetStream(api) => Err(BrokerError::from_api(&api, DOING)),
                _ => Err(self.request_error(DOING, error)),
            },
        }
    }

    async fn recreate_consumer(
        &self,
        queue: &QueueName,
        former: ConsumerInfo,
    ) -> Result<(), BrokerError> {
        let is_paused = former.paused;
        let config = pull::Config::try_from_consumer_config(former.config)
            .map_err(|error| self.request_error(DOING, error))?;
        let stream = self
            .jetstream
            .get_stream_no_info(self.names.queue_stream(queue))
            .await
            .map_err(|error| self.request_error(DOING, error))?;
        let name = self.names.queue_stream(queue);
        let deleting = stream.delete_consumer(&former.name);
        match self.until_denied(DOING, &name, deleting).await? {
            Ok(_) => {}
            // another process recreates it at this moment
            Err(error) if has_consumer_code(&error, ErrorCode::CONSUMER_NOT_FOUND) => {}
            Err(error) => return Err(self.request_error(DOING, error)),
        }
        let creating = self.jetstream.create_consumer_strict_on_stream(
            pull::Config {
                pause_until: config.pause_until.filter(|_| is_paused),
                ..config.clone()
            },
            name.clone(),
        );
        match self.until_denied(DOING, &name, creating).await? {
            Ok(_) => Ok(()),
            // A worker that missed the consumer meanwhile has made it, without the user's settings.
            Err(error) if error.kind() == ConsumerCreateStrictErrorKind::AlreadyExists => {
                self.set_max_ack_pending(queue, &former.name, config.max_ack_pending)
                    .await?;
                match config.pause_until.filter(|_| is_paused) {
                    Some(until) => {
                        self.pause_consumer(queue, &former.name, Some(Timestamp(until)))
                            .await
                    }
                    None => Ok(()),
                }
            }
            Err(error) => Err(self.request_error(DOING, error)),
        }
    }
}
