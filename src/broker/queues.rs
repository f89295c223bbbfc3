//! Queues as things to list, pause, empty and remove.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt, TryStreamExt};
use serde::Serialize;

use super::{Broker, BrokerError};
use crate::envelope::{QueueName, Timestamp};

/// What a queue is made with.
#[derive(Clone, Debug)]
pub struct QueueSettings {
    /// How many servers keep a copy.
    pub replicas: usize,
}

impl Default for QueueSettings {
    fn default() -> QueueSettings {
        QueueSettings { replicas: 1 }
    }
}

/// A queue at a moment.
#[derive(Clone, Debug, Serialize)]
pub struct QueueInfo {
    /// Its name.
    pub name: QueueName,
    /// Jobs that wait for a worker.
    pub depth: u64,
    /// Jobs that workers hold.
    pub running: u64,
    /// Jobs held until their time: scheduled, or waiting to be tried again.
    pub later: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// When the oldest message still there was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
    /// Whether it is paused.
    pub paused: bool,
    /// How many servers keep a copy.
    pub replicas: usize,
}

/// A pause without an end, as the server has none.
const PAUSE: Duration = Duration::from_secs(50 * 365 * 86_400);

impl Broker {
    /// The names of all queues.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn queue_names(&self) -> Result<Vec<QueueName>, BrokerError> {
        let mut names: Vec<QueueName> = self
            .jetstream
            .stream_names()
            .map_err(|error| refused("listing queues", &error))
            .try_filter_map(|stream| async move { Ok(self.names.queue_of_stream(&stream)) })
            .try_collect()
            .await?;
        names.sort();
        Ok(names)
    }

    /// All queues and how they stand.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn list_queues(&self) -> Result<Vec<QueueInfo>, BrokerError> {
        let names = self.queue_names().await?;
        let mut looks: FuturesUnordered<_> =
            names.iter().map(|queue| self.queue_info(queue)).collect();
        let mut queues = Vec::new();
        while let Some(info) = looks.next().await {
            match info {
                Ok(info) => queues.push(info),
                Err(BrokerError::QueueMissing(_)) => {}
                Err(error) => return Err(error),
            }
        }
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(queues)
    }

    /// How a queue stands.
    ///
    /// # Errors
    /// [`BrokerError::QueueMissing`] where there is none of this name.
    pub async fn queue_info(&self, queue: &QueueName) -> Result<QueueInfo, BrokerError> {
        let mut stream = self
            .jetstream
            .get_stream(self.names.queue_stream(queue))
            .await
            .map_err(|error| match error.to_string() {
                text if text.contains("not found") => BrokerError::QueueMissing(queue.to_string()),
                message => BrokerError::Refused {
                    doing: "reading a queue's state",
                    message,
                },
            })?;
        let later = stream
            .info_with_subjects(self.names.all_later(queue))
            .await
            .map_err(|error| refused("reading a queue's state", &error))?
            .try_collect::<Vec<_>>()
            .await
            .map_err(|error| refused("reading a queue's state", &error))?
            .len() as u64;
        let info = stream
            .info()
            .await
            .map_err(|error| refused("reading a queue's state", &error))?;
        let (messages, bytes, first, replicas) = (
            info.state.messages,
            info.state.bytes,
            info.state.first_timestamp,
            info.config.num_replicas,
        );
        let consumer = stream
            .consumer_info(self.names.worker_consumer())
            .await
            .ok();
        let running = consumer
            .as_ref()
            .map_or(0, |consumer| consumer.num_ack_pending as u64);
        Ok(QueueInfo {
            name: queue.clone(),
            depth: messages.saturating_sub(running + later),
            running,
            later,
            bytes,
            oldest: (messages > 0).then_some(Timestamp(first)),
            paused: consumer.is_some_and(|consumer| consumer.paused),
            replicas,
        })
    }

    /// How many messages a queue holds, in whatever state: none once every job has been recorded
    /// and acknowledged.
    ///
    /// # Errors
    /// [`BrokerError::QueueMissing`] where there is none of this name.
    pub async fn queue_messages(&self, queue: &QueueName) -> Result<u64, BrokerError> {
        let stream = self.queue_handle(queue).await?;
        Ok(stream.cached_info().state.messages)
    }

    /// Stops the delivery of a queue's jobs. Running ones go on.
    ///
    /// # Errors
    /// [`BrokerError::QueueMissing`] where there is none of this name.
    pub async fn pause_queue(
        &self,
        queue: &QueueName,
        now: Timestamp,
        ack_wait: Duration,
    ) -> Result<(), BrokerError> {
        let stream = self.queue_handle(queue).await?;
        // a queue that no worker has served yet has no consumer to pause
        self.ensure_worker_consumer(queue, ack_wait).await?;
        stream
            .pause_consumer(&self.names.worker_consumer(), now.0 + PAUSE)
            .await
            .map(|_| ())
            .map_err(|error| refused("pausing a queue", &error))
    }

    /// Takes up the delivery of a queue's jobs again.
    ///
    /// # Errors
    /// [`BrokerError::QueueMissing`] where there is none of this name.
    pub async fn resume_queue(&self, queue: &QueueName) -> Result<(), BrokerError> {
        let stream = self.queue_handle(queue).await?;
        match stream.resume_consumer(&self.names.worker_consumer()).await {
            Ok(_) => Ok(()),
            // no worker has served it yet, so nobody has paused it
            Err(error) if error.to_string().contains("consumer not found") => Ok(()),
            Err(error) => Err(refused("resuming a queue", &error)),
        }
    }

    /// Removes a queue and every job in it.
    ///
    /// # Errors
    /// [`BrokerError::QueueMissing`] where there is none of this name.
    pub async fn remove_queue(&self, queue: &QueueName) -> Result<(), BrokerError> {
        self.queue_handle(queue).await?;
        self.jetstream
            .delete_stream(self.names.queue_stream(queue))
            .await
            .map(|_| ())
            .map_err(|error| refused("removing a queue", &error))
    }

    /// Removes every job of a queue; the queue stays. Returns how many there were.
    ///
    /// # Errors
    /// [`BrokerError::QueueMissing`] where there is none of this name.
    pub async fn purge_queue(&self, queue: &QueueName) -> Result<u64, BrokerError> {
        let stream = self.queue_handle(queue).await?;
        stream
            .purge()
            .await
            .map(|purged| purged.purged)
            .map_err(|error| refused("purging a queue", &error))
    }

    pub(super) async fn queue_handle(
        &self,
        queue: &QueueName,
    ) -> Result<async_nats::jetstream::stream::Stream, BrokerError> {
        self.jetstream
            .get_stream(self.names.queue_stream(queue))
            .await
            .map_err(|error| match error.to_string() {
                text if text.contains("not found") => BrokerError::QueueMissing(queue.to_string()),
                message => BrokerError::Refused {
                    doing: "looking for a queue",
                    message,
                },
            })
    }
}

fn refused(doing: &'static str, error: &dyn std::fmt::Display) -> BrokerError {
    BrokerError::Refused {
        doing,
        message: error.to_string(),
    }
}
