//! The streams, buckets and consumers: what each is for, and its configuration.
//!
//! Creating one that exists is cheap and harmless, so every caller that needs one creates it;
//! nothing is created before it is needed.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::{
    Config, ConsumerCreateStrictErrorKind, DiscardPolicy, Republish, RetentionPolicy, StorageType,
};

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use crate::queues::queue::QueueSettings;
use naq_protocol::QueueName;

/// How long a marker is kept after a key's TTL: it preserves the removal across a crash of a server
/// without replicas.
const MARKER_TTL: Duration = Duration::from_secs(600);

/// How long live output is kept.
const LOGS_AGE_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Maximum size of the live output that is kept, in bytes.
const LOGS_BYTES_MAX: i64 = 256 << 20;

/// Maximum number of open pull requests of a queue's consumer: one for each free slot of each
/// worker.
const PULLS_MAX: i64 = 65_536;

/// The result of creating a stream.
enum StreamCreation {
    /// The stream exists with the requested configuration.
    Created,
    /// The stream exists with another configuration.
    AlreadyExists,
}

impl Broker {
    /// Creates the streams and buckets that every worker needs, in addition to its queues.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn ensure_layout(&self) -> Result<(), BrokerError> {
        let (results, workers, failed, logs) = tokio::join!(
            self.ensure_results(),
            self.ensure_workers(),
            self.ensure_dead_letters(),
            self.ensure_logs(),
        );
        results.and(workers).and(failed).and(logs)
    }

    pub(crate) async fn ensure_results(&self) -> Result<(), BrokerError> {
        let bucket = self.names.results_bucket();
        let mut config = self.bucket_config(&bucket, "the record of every job");
        config.republish = Some(Republish {
            source: format!("$KV.{bucket}.>"),
            destination: self.names.events(),
            headers_only: false,
        });
        self.ensure_stream(config).await
    }

    pub(crate) async fn ensure_schedulers(&self) -> Result<(), BrokerError> {
        self.ensure_stream(self.bucket_config(
            &self.names.schedulers_bucket(),
            "the heartbeat of every scheduler",
        ))
        .await
    }

    pub(crate) async fn ensure_workers(&self) -> Result<(), BrokerError> {
        self.ensure_stream(self.bucket_config(
            &self.names.workers_bucket(),
            "the heartbeat of every worker",
        ))
        .await
    }

    pub(crate) async fn ensure_dependents(&self) -> Result<(), BrokerError> {
        self.ensure_stream(
            self.bucket_config(&self.names.dependents_bucket(), "the index of blocked jobs"),
        )
        .await
    }

    pub(crate) async fn ensure_removed_queues(&self) -> Result<(), BrokerError> {
        self.ensure_stream(self.bucket_config(
            &self.names.removed_queues_bucket(),
            "the first sequences of queues that were removed and are created again",
        ))
        .await
    }

    pub(crate) async fn ensure_slots(&self) -> Result<(), BrokerError> {
        self.ensure_stream(self.bucket_config(
            &self.names.slots_bucket(),
            "which jobs hold the slots of a concurrency key",
        ))
        .await
    }

    pub(crate) async fn ensure_label_routes(&self) -> Result<(), BrokerError> {
        self.ensure_stream(self.bucket_config(
            &self.names.requires_bucket(),
            "the labels that jobs require",
        ))
        .await
    }

    pub(crate) async fn ensure_schedules(&self) -> Result<(), BrokerError> {
        let bucket = self.names.schedules_bucket();
        let mut config = self.bucket_config(&bucket, "every schedule");
        config.republish = Some(Republish {
            source: format!("$KV.{bucket}.>"),
            destination: self.names.schedule_events(),
            headers_only: false,
        });
        self.ensure_stream(config).await
    }

    pub(crate) async fn ensure_leader_lease(&self) -> Result<(), BrokerError> {
        let mut config = self.bucket_config(
            &self.names.leader_lease_bucket(),
            "which scheduler is the leader",
        );
        config.republish = Some(Republish {
            source: self.names.leader_lease(),
            destination: self.names.leader_lease_events(),
            headers_only: false,
        });
        self.ensure_stream(config).await
    }

    pub(crate) async fn ensure_dead_letters(&self) -> Result<(), BrokerError> {
        self.ensure_stream(Config {
            name: self.names.dead_letter_stream(),
            description: Some("failed and rejected jobs, whole".to_owned()),
            subjects: vec![self.names.all_dead_letters()],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            // a second copy of the same dead letter replaces the first
            max_messages_per_subject: 1,
            discard_new_per_subject: false,
            allow_rollup: true,
            allow_direct: true,
            num_replicas: self.options.replicas,
            ..Config::default()
        })
        .await
    }

    pub(crate) async fn ensure_logs(&self) -> Result<(), BrokerError> {
        let mut config = Config {
            name: self.names.logs_stream(),
            description: Some("live output of jobs that run for over a second".to_owned()),
            subjects: vec![self.names.all_logs()],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            discard: DiscardPolicy::Old,
            max_age: LOGS_AGE_MAX,
            max_bytes: LOGS_BYTES_MAX,
            allow_direct: true,
            num_replicas: self.options.replicas,
            ..Config::default()
        };
        match self.ensure_stream(config.clone()).await {
            Err(BrokerError::StorageFull(_)) => {
                // `max_bytes` is reserved storage: for a small account, limit the number of
                // messages instead
                config.max_bytes = -1;
                config.max_messages = 1_000;
                self.ensure_stream(config).await
            }
            made => made,
        }
    }

    /// Creates a queue with the settings of this connection, if it does not exist.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn ensure_queue(&self, queue: &QueueName) -> Result<(), BrokerError> {
        self.add_queue(
            queue,
            &QueueSettings {
                replicas: self.options.replicas,
                ..QueueSettings::default()
            },
        )
        .await
    }

    /// Creates a queue with these settings. An existing queue keeps its settings, except for
    /// `max_running` if it is given.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn add_queue(
        &self,
        queue: &QueueName,
        settings: &QueueSettings,
    ) -> Result<(), BrokerError> {
        let subjects = vec![
            self.names.job_without_id(queue),
            self.names.jobs(queue),
            self.names.all_delayed(queue),
            self.names.all_routed(queue),
            self.names.all_rechecks(queue),
        ];
        let (source, destination) = self.names.queue_events();
        let republish = Republish {
            source,
            destination,
            headers_only: false,
        };
        let made = self
            .create_stream_if_missing(Config {
                name: self.names.queue_stream(queue),
                description: Some(format!("naq queue {queue}")),
                subjects: subjects.clone(),
                retention: RetentionPolicy::WorkQueue,
                storage: StorageType::File,
                // a stream with message schedules cannot refuse messages when full; it has no limit
                // to reach
                discard: DiscardPolicy::Old,
                num_replicas: settings.replicas,
                first_sequence: self.first_sequence(queue).await?,
                allow_rollup: true,
                allow_message_schedules: true,
                allow_atomic_publish: true,
                republish: Some(republish.clone()),
                ..Config::default()
            })
            .await?;
        if let StreamCreation::AlreadyExists = made {
            self.add_missing_subjects(queue, subjects, republish)
                .await?;
        }
        if settings.max_running.is_some() {
            self.set_max_running(queue, settings.max_running, settings.ack_wait)
                .await?;
        }
        Ok(())
    }

    /// Adds the subjects and the republishing that the stream of an existing queue lacks because an
    /// earlier naq created it. Its other settings are the operator's.
    async fn add_missing_subjects(
        &self,
        queue: &QueueName,
        subjects: Vec<String>,
        republish: Republish,
    ) -> Result<(), BrokerError> {
        const DOING: &str = "changing a queue";
        let stream = self.queue_handle(queue).await?;
        let mut config = stream.cached_info().config.clone();
        let lacking: Vec<String> = subjects
            .into_iter()
            .filter(|subject| !config.subjects.contains(subject))
            .collect();
        if lacking.is_empty() && config.republish.is_some() {
            return Ok(());
        }
        let is_needed = !lacking.is_empty();
        config.subjects.extend(lacking);
        config.republish.get_or_insert(republish);
        match self.jetstream.update_stream(config).await {
            Ok(_) => Ok(()),
            Err(error) if !is_needed => {
                tracing::warn!(%queue, "cannot republish what enters the queue; events will lack its new jobs: {error}");
                Ok(())
            }
            Err(error) => match error.kind() {
                CreateStreamErrorKind::TimedOut => Err(self.timeout_error(DOING)),
                _ => Err(BrokerError::refused(DOING, error)),
            },
        }
    }

    /// Creates the consumer that all workers of a queue share. An existing consumer keeps its
    /// settings. Returns its `ack_wait`: how long the server waits before it redelivers a message.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn ensure_worker_consumer(
        &self,
        queue: &QueueName,
        ack_wait: Duration,
    ) -> Result<Duration, BrokerError> {
        const DOING: &str = "creating the queue's consumer";
        let made = self
            .jetstream
            .create_consumer_strict_on_stream(
                pull::Config {
                    durable_name: Some(self.names.worker_consumer()),
                    filter_subjects: vec![self.names.job_without_id(queue), self.names.jobs(queue)],
                    max_ack_pending: -1,
                    ..pull_config(ack_wait)
                },
                self.names.queue_stream(queue),
            )
            .await;
        match made {
            Ok(_) => Ok(ack_wait),
            // it exists with other settings: a limit of running jobs, a pause, another ack_wait
            Err(error) if error.kind() == ConsumerCreateStrictErrorKind::AlreadyExists => {
                Ok(self.worker_consumer_info(queue).await?.config.ack_wait)
            }
            Err(error) => Err(match error.kind() {
                ConsumerCreateStrictErrorKind::TimedOut => self.timeout_error(DOING),
                ConsumerCreateStrictErrorKind::JetStream(api) => BrokerError::from_api(&api, DOING),
                _ => BrokerError::refused(DOING, error),
            }),
        }
    }

    /// Creates a consumer that delivers one job of a queue and no other, and expires when unused.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request, for example because a worker serves the
    /// whole queue.
    pub async fn ensure_single_job_consumer(
        &self,
        queue: &QueueName,
        job: &naq_protocol::JobId,
        ack_wait: Duration,
    ) -> Result<String, BrokerError> {
        let name = format!("{}-run-{job}", self.names.prefix());
        self.jetstream
            .create_consumer_on_stream(
                pull::Config {
                    name: Some(name.clone()),
                    filter_subject: self.names.job(queue, job),
                    inactive_threshold: Duration::from_secs(300),
                    ..pull_config(ack_wait)
                },
                self.names.queue_stream(queue),
            )
            .await
            .map_err(|error| BrokerError::refused("creating a consumer for one job", error))?;
        Ok(name)
    }

    async fn ensure_stream(&self, config: Config) -> Result<(), BrokerError> {
        // an existing stream may have other settings (replicas, limits): those are the operator's
        self.create_stream_if_missing(config).await.map(|_| ())
    }

    async fn create_stream_if_missing(
        &self,
        config: Config,
    ) -> Result<StreamCreation, BrokerError> {
        const DOING: &str = "creating a stream";
        match self.jetstream.create_stream(config).await {
            Ok(_) => Ok(StreamCreation::Created),
            Err(error) => match error.kind() {
                CreateStreamErrorKind::JetStream(api)
                    if api.error_code() == ErrorCode::STREAM_NAME_EXIST =>
                {
                    Ok(StreamCreation::AlreadyExists)
                }
                CreateStreamErrorKind::JetStream(api) => Err(BrokerError::from_api(&api, DOING)),
                CreateStreamErrorKind::TimedOut => Err(self.timeout_error(DOING)),
                CreateStreamErrorKind::JetStreamUnavailable => Err(BrokerError::UnsupportedServer(
                    "this NATS server has no JetStream; start it with -js".to_owned(),
                )),
                _ => Err(BrokerError::refused(DOING, error)),
            },
        }
    }

    fn bucket_config(&self, bucket: &str, description: &str) -> Config {
        Config {
            name: Names::bucket_stream(bucket),
            description: Some(description.to_owned()),
            subjects: vec![format!("$KV.{bucket}.>")],
            max_messages_per_subject: 1,
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            num_replicas: self.options.replicas,
            allow_message_ttl: true,
            subject_delete_marker_ttl: Some(MARKER_TTL),
            max_bytes: -1,
            ..Config::default()
        }
    }

    /// A timeout, or the reason for it: a request without permission is not answered, but the
    /// server reports the violation on the connection.
    pub(crate) fn timeout_error(&self, doing: &'static str) -> BrokerError {
        match self.link.state().denied {
            Some(message) => BrokerError::PermissionDenied(format!("while {doing}: {message}")),
            None => BrokerError::Timeout(doing),
        }
    }
}

pub(crate) fn pull_config(ack_wait: Duration) -> pull::Config {
    pull::Config {
        ack_policy: AckPolicy::Explicit,
        ack_wait,
        max_deliver: -1,
        max_waiting: PULLS_MAX,
        max_ack_pending: -1,
        ..pull::Config::default()
    }
}
