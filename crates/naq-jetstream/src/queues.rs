//! Queues as things to list, pause, empty and remove.

use std::num::NonZeroU32;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{FromConsumer, Info as ConsumerInfo, pull};
use futures_util::stream::{FuturesUnordered, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::names::Names;
use super::stream_api::MessageSelector;
use super::{Broker, BrokerError};
use naq_protocol::{QueueName, Timestamp};

/// What a queue is made with.
#[derive(Clone, Debug)]
pub struct QueueSettings {
    /// How many servers keep a copy.
    pub replicas: usize,
    /// How many of its jobs may run at once, as [`Broker::set_max_running`] sets it; none for as
    /// many as there are slots.
    pub max_running: Option<NonZeroU32>,
    /// How long the server waits for word of a running job before it gives the job to another
    /// worker. It counts where there is a limit and no worker has served the queue yet.
    pub ack_wait: Duration,
}

impl Default for QueueSettings {
    fn default() -> QueueSettings {
        QueueSettings {
            replicas: 1,
            max_running: None,
            ack_wait: Duration::from_secs(30),
        }
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
    pub delayed: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// When the oldest message still there was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
    /// Whether it is paused.
    pub paused: bool,
    /// How many of its jobs may run at once; none where there is no such limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_running: Option<NonZeroU32>,
    /// How many servers keep a copy.
    pub replicas: usize,
}

/// Up to so many jobs that are held until their time are counted by their subjects. Of more the
/// number follows from the others, which may be off by what comes and goes meanwhile; counting a
/// million takes the server seconds.
const DELAYED_COUNT_MAX: u64 = 50_000;

/// How many messages may still come to a queue while it is being removed.
const REMOVAL_GAP: u64 = 10_000;

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
                Err(BrokerError::QueueNotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(queues)
    }

    /// How a queue stands.
    ///
    /// # Errors
    /// [`BrokerError::QueueNotFound`] where there is none of this name.
    pub async fn queue_info(&self, queue: &QueueName) -> Result<QueueInfo, BrokerError> {
        let stream = self.queue_handle(queue).await?;
        let consumers = self.consumers(queue).await?;
        let info = stream.cached_info();
        let messages = info.state.messages;
        let running: u64 = consumers.iter().map(ack_pending).sum();
        let main = self.names.worker_consumer();
        let main = consumers.iter().find(|consumer| consumer.name == main);
        // what no consumer counts is held until its time, or requires labels no worker has had
        let in_line: u64 = consumers.iter().map(|consumer| consumer.num_pending).sum();
        let uncounted = messages.saturating_sub(running + in_line);
        let rechecks = self.names.all_rechecks(queue);
        let rechecks = self.count_subjects(queue, &rechecks).await?;
        let delayed = if main.is_some() && uncounted > DELAYED_COUNT_MAX {
            let routed = self.names.all_routed(queue);
            let routed_counted: u64 = consumers
                .iter()
                .filter(|consumer| self.names.route_of_consumer(&consumer.name).is_some())
                .map(|consumer| consumer.num_pending + ack_pending(consumer))
                .sum();
            let routed = self.count_subjects(queue, &routed).await?;
            uncounted.saturating_sub(rechecks + routed.saturating_sub(routed_counted))
        } else {
            let delayed = self.names.all_delayed(queue);
            self.count_subjects(queue, &delayed).await?
        };
        Ok(QueueInfo {
            name: queue.clone(),
            depth: messages.saturating_sub(running + delayed + rechecks),
            running,
            delayed,
            bytes: info.state.bytes,
            oldest: (messages > 0).then_some(Timestamp(info.state.first_timestamp)),
            paused: main.is_some_and(|consumer| consumer.paused),
            max_running: main
                .and_then(|consumer| u32::try_from(consumer.config.max_ack_pending).ok())
                .and_then(NonZeroU32::new),
            replicas: info.config.num_replicas,
        })
    }

    /// How many subjects with messages a queue has under a filter, without listing them.
    async fn count_subjects(&self, queue: &QueueName, filter: &str) -> Result<u64, BrokerError> {
        const DOING: &str = "counting jobs";
        /// Past the end of any list: the answer has the total and no page.
        const PAST_THE_END: u64 = 1 << 31;
        #[derive(Deserialize)]
        struct Counted {
            #[serde(default)]
            total: u64,
        }
        let stream = self.names.queue_stream(queue);
        let request = serde_json::json!({ "subjects_filter": filter, "offset": PAST_THE_END });
        match self
            .api_request::<Counted>(format!("STREAM.INFO.{stream}"), &request, DOING)
            .await?
        {
            Ok(counted) => Ok(counted.total),
            Err(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Err(BrokerError::QueueNotFound(queue.to_string()))
            }
            Err(error) => Err(BrokerError::from_api(&error, DOING)),
        }
    }

    /// The consumers of a queue: that of its workers, and those of jobs that require labels.
    pub(super) async fn consumers(
        &self,
        queue: &QueueName,
    ) -> Result<Vec<ConsumerInfo>, BrokerError> {
        let stream = self
            .jetstream
            .get_stream_no_info(self.names.queue_stream(queue))
            .await
            .map_err(|error| refused("listing a queue's consumers", &error))?;
        stream
            .consumers()
            .try_collect()
            .await
            .map_err(|error| refused("listing a queue's consumers", &error))
    }

    /// How the consumer of a queue's workers stands.
    pub(super) async fn worker_consumer_info(
        &self,
        queue: &QueueName,
    ) -> Result<ConsumerInfo, BrokerError> {
        let stream = self
            .jetstream
            .get_stream_no_info(self.names.queue_stream(queue))
            .await
            .map_err(|error| refused("reading a queue's state", &error))?;
        stream
            .consumer_info(self.names.worker_consumer())
            .await
            .map_err(|error| refused("reading a queue's state", &error))
    }

    /// How many messages a queue holds, in whatever state: none once every job has been recorded
    /// and acknowledged.
    ///
    /// # Errors
    /// [`BrokerError::QueueNotFound`] where there is none of this name.
    pub async fn queue_messages(&self, queue: &QueueName) -> Result<u64, BrokerError> {
        let stream = self.queue_handle(queue).await?;
        Ok(stream.cached_info().state.messages)
    }

    /// Stops the delivery of a queue's jobs. Running ones go on.
    ///
    /// # Errors
    /// [`BrokerError::QueueNotFound`] where there is none of this name.
    pub async fn pause_queue(
        &self,
        queue: &QueueName,
        now: Timestamp,
        ack_wait: Duration,
    ) -> Result<(), BrokerError> {
        self.queue_handle(queue).await?;
        // a queue that no worker has served yet has no consumer to pause
        self.ensure_worker_consumer(queue, ack_wait).await?;
        let until = Some(Timestamp(now.0 + PAUSE));
        for consumer in self.job_consumers(queue).await? {
            self.pause_consumer(queue, &consumer, until).await?;
        }
        Ok(())
    }

    /// Takes up the delivery of a queue's jobs again.
    ///
    /// # Errors
    /// [`BrokerError::QueueNotFound`] where there is none of this name.
    pub async fn resume_queue(&self, queue: &QueueName) -> Result<(), BrokerError> {
        self.queue_handle(queue).await?;
        for consumer in self.job_consumers(queue).await? {
            self.pause_consumer(queue, &consumer, None).await?;
        }
        Ok(())
    }

    /// Sets how many jobs of a queue may run at once, on all workers together; none for as many
    /// as there are slots. It counts from now on: jobs that run go on, also where they are more.
    /// Jobs that require labels are counted apart, those of each set of labels by themselves.
    ///
    /// # Errors
    /// [`BrokerError::QueueNotFound`] where there is none of this name.
    pub async fn set_max_running(
        &self,
        queue: &QueueName,
        max_running: Option<NonZeroU32>,
        ack_wait: Duration,
    ) -> Result<(), BrokerError> {
        self.queue_handle(queue).await?;
        // a queue that no worker has served yet has no consumer to keep it
        self.ensure_worker_consumer(queue, ack_wait).await?;
        let count = max_running.map_or(-1, |count| count.get().into());
        for consumer in self.job_consumers(queue).await? {
            self.set_max_ack_pending(queue, &consumer, count).await?;
        }
        Ok(())
    }

    /// The names of the consumers that a queue's settings go for, the workers' own first: that
    /// is the one a new consumer takes them from.
    async fn job_consumers(&self, queue: &QueueName) -> Result<Vec<String>, BrokerError> {
        let main = self.names.worker_consumer();
        let mut names: Vec<String> = self
            .consumers(queue)
            .await?
            .into_iter()
            .map(|consumer| consumer.name)
            .filter(|name| *name == main || self.names.route_of_consumer(name).is_some())
            .collect();
        names.sort_by_key(|name| *name != main);
        Ok(names)
    }

    /// Changes the most messages a consumer may have out, and nothing else about it.
    pub(super) async fn set_max_ack_pending(
        &self,
        queue: &QueueName,
        consumer: &str,
        count: i64,
    ) -> Result<(), BrokerError> {
        const DOING: &str = "setting how many jobs of a queue may run";
        let stream = self
            .jetstream
            .get_stream_no_info(self.names.queue_stream(queue))
            .await
            .map_err(|error| refused(DOING, &error))?;
        let info = stream
            .consumer_info(consumer)
            .await
            .map_err(|error| refused(DOING, &error))?;
        let mut config =
            pull::Config::try_from_consumer_config(info.config).map_err(|e| refused(DOING, &e))?;
        config.max_ack_pending = count;
        stream
            .update_consumer(config)
            .await
            .map(|_| ())
            .map_err(|error| refused(DOING, &error))
    }

    /// Stops a consumer's deliveries until then, or takes them up again.
    pub(super) async fn pause_consumer(
        &self,
        queue: &QueueName,
        consumer: &str,
        until: Option<Timestamp>,
    ) -> Result<(), BrokerError> {
        let doing = match until {
            Some(_) => "pausing a queue",
            None => "resuming a queue",
        };
        let stream = self
            .jetstream
            .get_stream_no_info(self.names.queue_stream(queue))
            .await
            .map_err(|error| refused(doing, &error))?;
        let done = match until {
            Some(until) => stream.pause_consumer(consumer, until.0).await,
            None => stream.resume_consumer(consumer).await,
        };
        match done {
            Ok(_) => Ok(()),
            // it delivers nothing any more
            Err(error) if error.to_string().contains("consumer not found") => Ok(()),
            Err(error) => Err(refused(doing, &error)),
        }
    }

    /// Removes a queue and every job in it. Jobs that run go on and are recorded.
    ///
    /// # Errors
    /// [`BrokerError::QueueNotFound`] where there is none of this name.
    pub async fn remove_queue(&self, queue: &QueueName) -> Result<(), BrokerError> {
        let stream = self.queue_handle(queue).await?;
        let last = stream.cached_info().state.last_sequence;
        self.ensure_removed_queues().await?;
        let next = (last + REMOVAL_GAP).to_string();
        self.send(
            self.names.removed_queue(queue),
            HeaderMap::new(),
            next.into(),
        )
        .await?
        .confirmed()
        .await?;
        self.jetstream
            .delete_stream(self.names.queue_stream(queue))
            .await
            .map(|_| ())
            .map_err(|error| refused("removing a queue", &error))
    }

    /// The sequence that a new queue begins at: where one of its name was removed, one that no
    /// message of that had. Jobs may be named by it, and must not be taken for those before.
    pub(super) async fn first_sequence(
        &self,
        queue: &QueueName,
    ) -> Result<Option<u64>, BrokerError> {
        let bucket = Names::bucket_stream(&self.names.removed_queues_bucket());
        let subject = self.names.removed_queue(queue);
        let removed = self
            .read_message(&bucket, MessageSelector::LastBySubject(&subject))
            .await?;
        Ok(removed.and_then(|message| {
            let payload = message.payload();
            std::str::from_utf8(&payload).ok()?.parse().ok()
        }))
    }

    pub(super) async fn queue_handle(
        &self,
        queue: &QueueName,
    ) -> Result<async_nats::jetstream::stream::Stream, BrokerError> {
        self.jetstream
            .get_stream(self.names.queue_stream(queue))
            .await
            .map_err(|error| match error.to_string() {
                text if text.contains("not found") => BrokerError::QueueNotFound(queue.to_string()),
                message => BrokerError::Refused {
                    doing: "looking for a queue",
                    message,
                },
            })
    }
}

fn ack_pending(consumer: &ConsumerInfo) -> u64 {
    consumer.num_ack_pending as u64
}

pub(super) fn refused(doing: &'static str, error: &dyn std::fmt::Display) -> BrokerError {
    BrokerError::Refused {
        doing,
        message: error.to_string(),
    }
}
