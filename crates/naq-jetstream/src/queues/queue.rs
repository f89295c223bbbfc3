//! Queues: list, pause, resume, limit and remove them.

use std::num::NonZeroU32;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::Info as ConsumerInfo;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};

use crate::broker::Broker;
use crate::error::{BrokerError, has_consumer_code, is_stream_not_found};
use crate::names::Names;
use crate::queues::denied_queues::DeniedQueues;
use crate::stream::stream_api::MessageSelector;
use naq_protocol::{QueueName, Timestamp};

/// Settings of a new queue.
#[derive(Clone, Debug)]
pub struct QueueSettings {
    /// Number of servers that keep a copy. `None` means that of the connection, see
    /// [`ConnectOptions::replicas`](crate::ConnectOptions).
    pub replicas: Option<usize>,
    /// How many of its jobs may run at once, as set by [`Broker::set_max_running`]. `None` means no
    /// limit other than the workers' slots.
    pub max_running: Option<NonZeroU32>,
    /// How long the server waits for an acknowledgement or extension before it redelivers a job. It
    /// applies until a worker has served the queue.
    pub ack_wait: Duration,
}

impl Default for QueueSettings {
    fn default() -> QueueSettings {
        QueueSettings {
            replicas: None,
            max_running: None,
            ack_wait: Duration::from_secs(30),
        }
    }
}

/// The state of a queue.
#[derive(Clone, Debug, Serialize)]
pub struct QueueInfo {
    /// Its name.
    pub name: QueueName,
    /// Jobs that wait for a worker.
    pub depth: u64,
    /// Jobs that are delivered to workers.
    pub running: u64,
    /// Delayed jobs: those with a start time, and retries.
    pub delayed: u64,
    /// Size of the stored messages, in bytes.
    pub bytes: u64,
    /// When the server stored the oldest message that still exists. `None` if the queue is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
    /// Whether deliveries are paused.
    pub paused: bool,
    /// How many of its jobs may run at once. `None` means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_running: Option<NonZeroU32>,
    /// Number of servers that keep a copy.
    pub replicas: usize,
}

/// Up to this many delayed jobs are counted by their subjects. A larger number is computed from the
/// other counts, and may be off by the messages that come and go meanwhile; counting a million
/// subjects takes the server seconds.
const DELAYED_COUNT_MAX: u64 = 50_000;

/// Maximum number of messages that may still arrive in a queue while it is being removed.
const REMOVAL_GAP: u64 = 10_000;

/// A pause without an end: the server requires one, so it is far away.
const PAUSE: Duration = Duration::from_secs(50 * 365 * 86_400);

impl Broker {
    /// The names of all queues, sorted.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn queue_names(&self) -> Result<Vec<QueueName>, BrokerError> {
        const DOING: &str = "listing queues";
        let streams = self.stream_names(DOING).await?;
        let mut names: Vec<QueueName> = streams
            .iter()
            .filter_map(|stream| self.names.queue_of_stream(stream))
            .collect();
        names.sort();
        Ok(names)
    }

    /// The state of all queues that the user may read, sorted by name.
    ///
    /// # Errors
    /// Returns an error if the server does not answer, or denies each of them.
    pub async fn list_queues(&self) -> Result<Vec<QueueInfo>, BrokerError> {
        let names = self.queue_names().await?;
        let mut reads: FuturesUnordered<_> =
            names.iter().map(|queue| self.queue_info(queue)).collect();
        let (mut queues, mut denied) = (Vec::new(), DeniedQueues::default());
        while let Some(info) = reads.next().await {
            match info {
                Err(BrokerError::QueueNotFound(_)) => {}
                info => queues.extend(denied.leave_out(info)?),
            }
        }
        denied.check_some_readable()?;
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(queues)
    }

    /// The state of a queue.
    ///
    /// # Errors
    /// Returns [`BrokerError::QueueNotFound`] if the queue does not exist.
    pub async fn queue_info(&self, queue: &QueueName) -> Result<QueueInfo, BrokerError> {
        let stream = self.queue_handle(queue).await?;
        let consumers = self.consumers(queue).await?;
        let info = stream.cached_info();
        let messages = info.state.messages;
        let running: u64 = consumers.iter().map(ack_pending).sum();
        let main = self.names.worker_consumer();
        let main = consumers.iter().find(|consumer| consumer.name == main);
        // a message that no consumer counts is delayed, or requires labels that no worker has had
        // yet
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

    /// Counts the subjects under a filter that have messages, without listing them.
    pub(crate) async fn count_subjects(
        &self,
        queue: &QueueName,
        filter: &str,
    ) -> Result<u64, BrokerError> {
        const DOING: &str = "counting jobs";
        /// An offset past the end of any list: the reply has the total and no page.
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

    /// The consumers of a queue: the one of all workers, and those of jobs that require labels.
    pub(crate) async fn consumers(
        &self,
        queue: &QueueName,
    ) -> Result<Vec<ConsumerInfo>, BrokerError> {
        const DOING: &str = "listing a queue's consumers";
        let list = format!("CONSUMER.LIST.{}", self.names.queue_stream(queue));
        let mut consumers = Vec::new();
        self.read_pages(list, DOING, |consumer| consumers.push(consumer))
            .await?;
        Ok(consumers)
    }

    /// The state of the consumer that all workers of a queue share.
    pub(crate) async fn worker_consumer_info(
        &self,
        queue: &QueueName,
    ) -> Result<ConsumerInfo, BrokerError> {
        const DOING: &str = "reading a queue's state";
        let name = self.names.queue_stream(queue);
        let stream = self
            .jetstream
            .get_stream_no_info(&name)
            .await
            .map_err(|error| self.request_error(DOING, error))?;
        let asking = stream.consumer_info(self.names.worker_consumer());
        self.until_denied(DOING, &name, asking)
            .await?
            .map_err(|error| self.request_error(DOING, error))
    }

    /// Number of messages of a queue, in any state: 0 once every job is recorded and acknowledged.
    ///
    /// # Errors
    /// Returns [`BrokerError::QueueNotFound`] if the queue does not exist.
    pub async fn queue_messages(&self, queue: &QueueName) -> Result<u64, BrokerError> {
        let stream = self.queue_handle(queue).await?;
        Ok(stream.cached_info().state.messages)
    }

    /// Pauses the delivery of a queue's jobs. Running jobs continue.
    ///
    /// # Errors
    /// Returns [`BrokerError::QueueNotFound`] if the queue does not exist.
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

    /// Resumes the delivery of a queue's jobs.
    ///
    /// # Errors
    /// Returns [`BrokerError::QueueNotFound`] if the queue does not exist.
    pub async fn resume_queue(&self, queue: &QueueName) -> Result<(), BrokerError> {
        self.queue_handle(queue).await?;
        for consumer in self.job_consumers(queue).await? {
            self.pause_consumer(queue, &consumer, None).await?;
        }
        Ok(())
    }

    /// Sets how many jobs of a queue may run at once, on all workers together. `None` means no
    /// limit other than the workers' slots. It applies from now on: running jobs continue even if
    /// they are more. Jobs that require labels are counted separately for each label set.
    ///
    /// # Errors
    /// Returns [`BrokerError::QueueNotFound`] if the queue does not exist.
    pub async fn set_max_running(
        &self,
        queue: &QueueName,
        max_running: Option<NonZeroU32>,
        ack_wait: Duration,
    ) -> Result<(), BrokerError> {
        self.queue_handle(queue).await?;
        // a queue that no worker has served yet has no consumer to set the limit on
        self.ensure_worker_consumer(queue, ack_wait).await?;
        let count = max_running.map_or(-1, |count| count.get().into());
        for consumer in self.job_consumers(queue).await? {
            self.set_max_ack_pending(queue, &consumer, count).await?;
        }
        Ok(())
    }

    /// The names of the consumers that a queue's settings apply to. The workers' shared consumer
    /// comes first, since a new consumer copies its settings from that one.
    pub(super) async fn job_consumers(
        &self,
        queue: &QueueName,
    ) -> Result<Vec<String>, BrokerError> {
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

    /// Sets the maximum number of unacknowledged messages of a consumer, and nothing else.
    pub(crate) async fn set_max_ack_pending(
        &self,
        queue: &QueueName,
        consumer: &str,
        count: i64,
    ) -> Result<(), BrokerError> {
        const DOING: &str = "setting how many jobs of a queue may run";
        self.set_in_consumer(queue, consumer, "max_ack_pending", count.into(), DOING)
            .await
    }

    /// Changes one setting of a consumer, and nothing else.
    pub(crate) async fn set_in_consumer(
        &self,
        queue: &QueueName,
        consumer: &str,
        setting: &str,
        value: serde_json::Value,
        doing: &'static str,
    ) -> Result<(), BrokerError> {
        // Not parsed into a type of the client library: settings that it does not know, of a later
        // server or naq, would be reset by the update.
        #[derive(Deserialize)]
        struct Consumer {
            config: serde_json::Map<String, serde_json::Value>,
        }
        let stream = self.names.queue_stream(queue);
        let info = format!("CONSUMER.INFO.{stream}.{consumer}");
        let mut config = self
            .api_request::<Consumer>(info, &serde_json::json!({}), doing)
            .await?
            .map_err(|error| BrokerError::from_api(&error, doing))?
            .config;
        config.insert(setting.to_owned(), value);
        self.write_consumer(queue, consumer, "update", &config, doing)
            .await?
            .map_err(|error| BrokerError::from_api(&error, doing))
    }

    /// Creates (`create`) or changes (`update`) a consumer. Returns the server's error if it refuses.
    pub(crate) async fn write_consumer(
        &self,
        queue: &QueueName,
        consumer: &str,
        action: &str,
        config: &serde_json::Map<String, serde_json::Value>,
        doing: &'static str,
    ) -> Result<Result<(), async_nats::jetstream::Error>, BrokerError> {
        let stream = self.names.queue_stream(queue);
        // The server's permissions for one filter are those of its subject.
        let filter = config
            .get("filter_subject")
            .and_then(serde_json::Value::as_str)
            .map(|filter| format!(".{filter}"))
            .unwrap_or_default();
        let subject = format!("CONSUMER.CREATE.{stream}.{consumer}{filter}");
        let request = serde_json::json!({
            "stream_name": stream, "config": config, "action": action,
        });
        let written = self
            .api_request::<serde::de::IgnoredAny>(subject, &request, doing)
            .await?;
        Ok(written.map(drop))
    }

    /// Pauses a consumer's deliveries until a time, or resumes them.
    pub(crate) async fn pause_consumer(
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
            .map_err(|error| self.request_error(doing, error))?;
        let changing = async {
            match until {
                Some(until) => stream.pause_consumer(consumer, until.0).await,
                None => stream.resume_consumer(consumer).await,
            }
        };
        let about = self.names.queue_stream(queue);
        match self.until_denied(doing, &about, changing).await? {
            Ok(_) => Ok(()),
            // a removed consumer delivers nothing
            Err(error) if has_consumer_code(&error, ErrorCode::CONSUMER_NOT_FOUND) => Ok(()),
            Err(error) => Err(self.request_error(doing, error)),
        }
    }

    /// Removes a queue and all its jobs. Running jobs continue and are recorded.
    ///
    /// # Errors
    /// Returns [`BrokerError::QueueNotFound`] if the queue does not exist.
    pub async fn remove_queue(&self, queue: &QueueName) -> Result<(), BrokerError> {
        let stream = self.queue_handle(queue).await?;
        let last = stream.cached_info().state.last_sequence;
        self.ensure_removed_queues().await?;
        let next = (last + REMOVAL_GAP).to_string();
        let subject = self.names.removed_queue(queue);
        self.store(subject, HeaderMap::new(), next.into()).await?;
        const DOING: &str = "removing a queue";
        let name = self.names.queue_stream(queue);
        self.until_denied(DOING, &name, self.jetstream.delete_stream(&name))
            .await?
            .map(|_| ())
            .map_err(|error| self.request_error(DOING, error))
    }

    /// The first sequence of a new queue: if a queue of this name was removed, one that none of its
    /// messages had. Job ids may be made of the sequence, and must not repeat those of earlier
    /// jobs.
    pub(crate) async fn first_sequence(
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

    pub(crate) async fn queue_handle(
        &self,
        queue: &QueueName,
    ) -> Result<async_nats::jetstream::stream::Stream, BrokerError> {
        const DOING: &str = "looking for a queue";
        let name = self.names.queue_stream(queue);
        self.until_denied(DOING, &name, self.jetstream.get_stream(&name))
            .await?
            .map_err(|error| {
                if is_stream_not_found(&error) {
                    BrokerError::QueueNotFound(queue.to_string())
                } else {
                    self.request_error(DOING, error)
                }
            })
    }
}

fn ack_pending(consumer: &ConsumerInfo) -> u64 {
    consumer.num_ack_pending as u64
}
