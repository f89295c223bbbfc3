//! The consumer of a new queue, and which worker decides about it.
//!
//! The process that creates a queue creates the consumer of its workers too, so that what measures the queue from
//! outside (an autoscaler, a monitor) finds the number of waiting jobs before the first worker has started. That
//! process does not know how the workers are configured, so the first worker may change the consumer's `ack_wait`.

use std::time::Duration;

use async_nats::jetstream::consumer::Info as ConsumerInfo;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::SINGLE_JOB_QUEUE;
use naq_protocol::QueueName;

/// The `ack_wait` of a consumer that is created with its queue: the default of the setting.
pub(crate) const NEW_ACK_WAIT: Duration = Duration::from_secs(30);

impl Broker {
    /// Creates a queue with the settings of this connection, if it does not exist, and its consumer. For a process
    /// that serves no queue.
    ///
    /// # Errors
    /// As [`Broker::add_queue`].
    pub async fn ensure_queue_and_consumer(&self, queue: &QueueName) -> Result<(), BrokerError> {
        self.ensure_queue(queue).await?;
        self.create_first_consumer(queue, NEW_ACK_WAIT).await;
        Ok(())
    }

    /// Creates the consumer of a queue unless it has one. A failure is harmless, since the first worker creates a
    /// missing consumer: a producer may have the permission to create the stream only.
    ///
    /// The queue of `naq run` gets none: it has a consumer for each job, and a work queue delivers a message to one
    /// consumer only.
    pub(super) async fn create_first_consumer(&self, queue: &QueueName, ack_wait: Duration) {
        const DOING: &str = "creating the consumer of a new queue";
        if queue.as_str() == SINGLE_JOB_QUEUE {
            return;
        }
        let stream = self.names.queue_stream(queue);
        let config = self.worker_consumer_config(queue, ack_wait);
        let failure = match self.create_consumer(DOING, &stream, config).await {
            Ok(Ok(())) => return,
            Ok(Err(refusal)) => refusal.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::debug!(%queue, "the queue's first worker creates its consumer: {failure}");
    }

    /// Creates the consumer that all workers of a queue share, for a worker: as [`Broker::ensure_worker_consumer`],
    /// and gives a consumer that no worker has used yet the worker's own `ack_wait`.
    ///
    /// Two workers with different settings that start at the same moment may both change it. The one whose value is
    /// replaced learns of it when it starts again; until then it may lose its lease too early, and is asked before
    /// another worker starts its job.
    ///
    /// # Errors
    /// As [`Broker::ensure_worker_consumer`].
    pub async fn adopt_worker_consumer(
        &self,
        queue: &QueueName,
        ack_wait: Duration,
    ) -> Result<Duration, BrokerError> {
        const DOING: &str = "setting how long a queue waits for a sign of life";
        let found = self.ensure_worker_consumer(queue, ack_wait).await?;
        if found == ack_wait || !is_unused(&self.worker_consumer_info(queue).await?) {
            return Ok(found);
        }
        let nanos = u64::try_from(ack_wait.as_nanos()).unwrap_or(u64::MAX);
        let name = self.names.worker_consumer();
        self.set_in_consumer(queue, &name, "ack_wait", nanos.into(), DOING)
            .await?;
        Ok(ack_wait)
    }
}

/// Whether no worker has got or requested a job from a consumer.
fn is_unused(consumer: &ConsumerInfo) -> bool {
    consumer.delivered.consumer_sequence == 0 && consumer.num_waiting == 0
}
