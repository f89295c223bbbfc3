//! Creates the streams, buckets and consumers, and compares those that exist with what naq needs.
//!
//! Creating one that exists is cheap and harmless, so every caller that needs one creates it;
//! nothing is created before it is needed.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{ConsumerCreateStrictError, ConsumerCreateStrictErrorKind};
use async_nats::jetstream::{Error as ApiError, ErrorCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::consumers::{self, normalized, pull_config};
use super::memory::{Creation, REPLICAS_MAX, ReplicaSummary, Replicas};
use super::setting::{Config, Remedy, Setting, SettingDifference, changed_config, differences};
use super::streams::{MAX_CONSUMERS, StreamSpec};
use crate::broker::Broker;
use crate::error::BrokerError;
use crate::queues::queue::QueueSettings;
use naq_protocol::{JobId, QueueName, Timestamp};

const CREATING: &str = "creating a stream";
const COMPARING: &str = "comparing the settings of streams and consumers";
const CHANGING: &str = "changing the settings of streams and consumers";

/// A stream that is younger than this in the server's answer was created by that request.
const JUST_CREATED: Duration = Duration::from_secs(2);

// Codes of the JetStream API that are not in the client library.
/// A single server has no replicas.
const REPLICAS_NOT_SUPPORTED: u64 = 10_074;
/// The cluster has too few servers, or too few with room.
const NO_SUITABLE_PEERS: u64 = 10_005;
/// The account has limits, and none for streams with so many replicas.
const NO_TIERED_LIMIT: u64 = 10_120;
/// The stream has another consumer of these subjects.
const CONSUMER_NOT_UNIQUE: u64 = 10_100;
/// The stream has, or would have, more consumers than are permitted.
pub(crate) const CONSUMERS_MAX_REACHED: u64 = 10_026;

/// Whether the server refused to create a consumer because it cannot read what it has stored of an earlier one.
/// Other refusals have the same code.
fn is_stored_state_unreadable(error: &ConsumerCreateStrictError) -> bool {
    match error.kind() {
        ConsumerCreateStrictErrorKind::JetStream(api) => {
            api.error_code() == ErrorCode::CONSUMER_CREATE
                && api
                    .to_string()
                    .contains("error creating store for consumer")
        }
        _ => false,
    }
}

/// A stream as NATS reports it.
#[derive(Debug, Deserialize)]
pub(crate) struct StreamReport {
    pub(crate) config: Config,
    created: Timestamp,
    /// The server's time of the report.
    ts: Timestamp,
    cluster: Option<Value>,
}

/// A consumer as NATS reports it.
#[derive(Debug, Deserialize)]
struct ConsumerReport {
    config: Config,
}

impl StreamReport {
    pub(crate) fn replicas(&self) -> Replicas {
        let count = self.config.get("num_replicas").and_then(Value::as_u64);
        Replicas {
            count: usize::try_from(count.unwrap_or(1)).unwrap_or(1),
            is_clustered: self.cluster.is_some(),
        }
    }

    fn creation(&self) -> Creation {
        let age_ms = self.ts.unix_ms() - self.created.unix_ms();
        Creation {
            at: self.created,
            age: Duration::from_millis(u64::try_from(age_ms).unwrap_or(0)),
        }
    }
}

impl Broker {
    /// Creates the streams and buckets that every worker needs, in addition to its queues.
    ///
    /// # Errors
    /// Returns [`BrokerError::Unsuitable`] if one exists that naq cannot use, and other errors if the
    /// server refuses the request.
    pub async fn ensure_layout(&self) -> Result<(), BrokerError> {
        let (results, workers, failed, logs, files) = tokio::join!(
            self.ensure_indexed_results(),
            self.ensure_workers(),
            self.ensure_dead_letters(),
            self.ensure_logs(),
            // producers that may create no streams upload files
            self.ensure_files(),
        );
        results.and(workers).and(failed).and(logs).and(files)
    }

    pub(crate) async fn ensure_results(&self) -> Result<(), BrokerError> {
        self.ensure_stream(StreamSpec::results(&self.names)).await
    }

    /// Creates the bucket of records, and begins the index of unsuccessful jobs.
    pub(crate) async fn ensure_indexed_results(&self) -> Result<(), BrokerError> {
        self.ensure_results().await?;
        self.begin_unsuccessful_index().await
    }

    pub(crate) async fn ensure_workers(&self) -> Result<(), BrokerError> {
        self.ensure_stream(StreamSpec::workers(&self.names)).await
    }

    pub(crate) async fn ensure_schedulers(&self) -> Result<(), BrokerError> {
        self.ensure_stream(StreamSpec::schedulers(&self.names))
            .await
    }

    pub(crate) async fn ensure_dependents(&self) -> Result<(), BrokerError> {
        self.ensure_stream(StreamSpec::dependents(&self.names))
            .await
    }

    pub(crate) async fn ensure_removed_queues(&self) -> Result<(), BrokerError> {
        self.ensure_stream(StreamSpec::removed_queues(&self.names))
            .await
    }

    pub(crate) async fn ensure_slots(&self) -> Result<(), BrokerError> {
        self.ensure_stream(StreamSpec::slots(&self.names)).await
    }

    pub(crate) async fn ensure_label_routes(&self) -> Result<(), BrokerError> {
        self.ensure_stream(StreamSpec::label_routes(&self.names))
            .await
    }

    /// Creates the bucket of the schedules, if it does not exist.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn ensure_schedules(&self) -> Result<(), BrokerError> {
        self.ensure_stream(StreamSpec::schedules(&self.names)).await
    }

    pub(crate) async fn ensure_leader_lease(&self) -> Result<(), BrokerError> {
        self.ensure_stream(StreamSpec::leader_lease(&self.names))
            .await
    }

    pub(crate) async fn ensure_dead_letters(&self) -> Result<(), BrokerError> {
        self.ensure_stream(StreamSpec::dead_letters(&self.names))
            .await
    }

    pub(crate) async fn ensure_files(&self) -> Result<(), BrokerError> {
        self.ensure_stream(StreamSpec::files(&self.names)).await
    }

    pub(crate) async fn ensure_audit(&self) -> Result<(), BrokerError> {
        self.ensure_stream(StreamSpec::audit(&self.names)).await
    }

    pub(crate) async fn ensure_logs(&self) -> Result<(), BrokerError> {
        match self.ensure_stream(StreamSpec::logs(&self.names)).await {
            Err(error) if is_too_small(&error) => {
                self.ensure_stream(StreamSpec::small_logs(&self.names))
                    .await
            }
            made => made,
        }
    }

    /// Creates a queue with the settings of this connection, if it does not exist. A worker creates its consumer
    /// afterwards; another process calls [`Broker::ensure_queue_and_consumer`].
    ///
    /// # Errors
    /// As [`Broker::add_queue`].
    pub async fn ensure_queue(&self, queue: &QueueName) -> Result<(), BrokerError> {
        self.ensure_queue_stream(queue, self.options.replicas).await
    }

    async fn ensure_queue_stream(
        &self,
        queue: &QueueName,
        replicas: Option<usize>,
    ) -> Result<(), BrokerError> {
        let mut spec = StreamSpec::queue(&self.names, queue);
        if let Some(first) = self.first_sequence(queue).await? {
            spec.set_initial("first_seq", first);
        }
        self.create_or_adapt(&spec, replicas).await.map(|_| ())
    }

    /// Creates a queue with these settings, and the consumer of its workers. An existing queue keeps its settings,
    /// except for `max_running` if it is given and for what naq cannot do without.
    ///
    /// # Errors
    /// Returns [`BrokerError::Unsuitable`] if the queue's stream exists and naq cannot use it, and
    /// other errors if the server refuses the request.
    pub async fn add_queue(
        &self,
        queue: &QueueName,
        settings: &QueueSettings,
    ) -> Result<(), BrokerError> {
        let replicas = settings.replicas.or(self.options.replicas);
        self.ensure_queue_stream(queue, replicas).await?;
        self.create_first_consumer(queue, settings.ack_wait).await;
        if settings.max_running.is_some() {
            self.set_max_running(queue, settings.max_running, settings.ack_wait)
                .await?;
        }
        Ok(())
    }

    /// Creates the consumer that all workers of a queue share. An existing consumer keeps its
    /// settings, except for what naq cannot do without; it is recreated if it is
    /// [stale](Broker::recreate_stale_consumer). Returns its `ack_wait`: how long the server waits before
    /// it redelivers a message.
    ///
    /// # Errors
    /// Returns [`BrokerError::Unsuitable`] if the consumer exists and naq cannot use it, and other
    /// errors if the server refuses the request.
    pub async fn ensure_worker_consumer(
        &self,
        queue: &QueueName,
        ack_wait: Duration,
    ) -> Result<Duration, BrokerError> {
        const DOING: &str = "creating the queue's consumer";
        let name = self.names.worker_consumer();
        let stream = self.names.queue_stream(queue);
        let config = self.worker_consumer_config(queue, ack_wait);
        let existed = self.has_consumer(queue, &name).await?;
        let ack_wait = match self.create_consumer(DOING, &stream, config).await? {
            Ok(_) => ack_wait,
            // it exists with other settings: a limit of running jobs, a pause, another ack_wait
            Err(error) if error.kind() == ConsumerCreateStrictErrorKind::AlreadyExists => {
                let needed = consumers::worker_consumer(&self.names, queue);
                self.adapt_consumer(queue, &name, &needed).await?;
                self.worker_consumer_info(queue).await?.config.ack_wait
            }
            Err(error) => {
                return Err(match error.kind() {
                    ConsumerCreateStrictErrorKind::JetStream(api)
                        if api.error_code().0 == CONSUMER_NOT_UNIQUE =>
                    {
                        self.other_consumer_error(queue).await
                    }
                    ConsumerCreateStrictErrorKind::JetStream(api) => {
                        BrokerError::from_api(&api, DOING)
                    }
                    _ => self.request_error(DOING, error),
                });
            }
        };
        self.recreate_if_stale(queue, &name, existed).await?;
        Ok(ack_wait)
    }

    /// The settings of the consumer that all workers of a queue share.
    pub(super) fn worker_consumer_config(
        &self,
        queue: &QueueName,
        ack_wait: Duration,
    ) -> pull::Config {
        pull::Config {
            durable_name: Some(self.names.worker_consumer()),
            filter_subjects: vec![self.names.job_without_id(queue), self.names.jobs(queue)],
            max_ack_pending: -1,
            ..pull_config(ack_wait)
        }
    }

    /// Creates a durable consumer. If the server cannot read the state that it has stored of an earlier consumer
    /// of this name, it creates none on the disk any more, for a power cut may leave that state as zeros; such a
    /// consumer is created in the server's memory. It is lost with the server, and created again.
    ///
    /// # Errors
    /// The outer error is a denial, the inner one a refusal.
    pub(crate) async fn create_consumer(
        &self,
        doing: &'static str,
        stream: &str,
        config: pull::Config,
    ) -> Result<Result<(), ConsumerCreateStrictError>, BrokerError> {
        let create = |config| {
            let creating = self
                .jetstream
                .create_consumer_strict_on_stream(config, stream);
            self.until_denied(doing, stream, creating)
        };
        let mut created = create(config.clone()).await?;
        if created.as_ref().is_err_and(is_stored_state_unreadable) {
            tracing::error!(
                stream,
                consumer = config.durable_name,
                "NATS cannot read the state of a consumer that it has stored, as after a power cut; the consumer is \
                 created in memory"
            );
            let in_memory = pull::Config {
                memory_storage: true,
                ..config
            };
            created = create(in_memory).await?;
        }
        Ok(created.map(|_| ()))
    }

    /// Creates a consumer that delivers one job of a queue and no other, and expires when unused.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request, for example because a worker serves the
    /// whole queue.
    pub async fn ensure_single_job_consumer(
        &self,
        queue: &QueueName,
        job: &JobId,
        ack_wait: Duration,
    ) -> Result<String, BrokerError> {
        const DOING: &str = "creating a consumer for one job";
        let name = format!("{}-run-{job}", self.names.prefix());
        let stream = self.names.queue_stream(queue);
        let creating = self.jetstream.create_consumer_on_stream(
            pull::Config {
                name: Some(name.clone()),
                filter_subject: self.names.job(queue, job),
                inactive_threshold: Duration::from_secs(300),
                ..pull_config(ack_wait)
            },
            &stream,
        );
        self.until_denied(DOING, &stream, creating)
            .await?
            .map_err(|error| self.request_error(DOING, error))?;
        Ok(name)
    }

    /// The replicas of the streams that this process has created or compared so far.
    #[must_use]
    pub fn replica_summary(&self) -> ReplicaSummary {
        self.layout.replica_summary()
    }

    pub(super) async fn ensure_stream(&self, spec: StreamSpec) -> Result<(), BrokerError> {
        // A task that finds a recreated stream a moment later must not store anything before the first task
        // has raised its sequences.
        let lock = self.layout.lock_of(&spec.name);
        let _one_at_a_time = lock.lock().await;
        let recreated = self
            .create_or_adapt(&spec, self.options.replicas)
            .await?
            .filter(|creation| creation.age < JUST_CREATED);
        let Some(creation) = recreated else {
            return Ok(());
        };
        let raised = self.raise_sequences(&spec.name, creation).await;
        if raised.is_err() {
            self.layout.forget_created(&spec.name);
        }
        raised
    }

    /// Raises the sequences of a stream that was removed and has just been recreated, unless that is done.
    /// They must not repeat: watches and compare-and-set take them for revisions that they know.
    ///
    /// The first sequence is not a setting of the new stream: a server that lost power may still have its
    /// messages on disk and restore them when the stream is created, except for those before its first
    /// sequence.
    ///
    /// The new first sequence is the time of creation in microseconds, which no stream has reached: none
    /// gets a message every microsecond. All processes that had used the removed stream compute the same
    /// number, so none removes what another has stored since. But if a process has not noticed the
    /// removal, what it stores in between is lost. So a stream that is created for the first time, when
    /// many processes may start at once, keeps its sequences.
    async fn raise_sequences(&self, stream: &str, creation: Creation) -> Result<(), BrokerError> {
        if self.last_sequence(stream).await? != 0 {
            return Ok(());
        }
        let first = u64::try_from(creation.at.0.timestamp_micros()).ok();
        let removed = self.purge_subjects(stream, ">", first).await?;
        if removed > 0 {
            tracing::error!(
                stream,
                removed,
                "messages that were stored while the stream was being recreated are lost"
            );
        }
        Ok(())
    }

    /// Creates a stream, or changes an existing one to what naq needs. Returns when it was created, if it
    /// was removed before.
    async fn create_or_adapt(
        &self,
        spec: &StreamSpec,
        replicas: Option<usize>,
    ) -> Result<Option<Creation>, BrokerError> {
        let asked_at = Instant::now();
        let report = match self.create_stream(spec, replicas).await? {
            Some(report) => Some(report),
            None => self.adapt_stream(spec).await?,
        };
        let Some(report) = report else {
            return Ok(None);
        };
        let creation = report.creation();
        let was_removed = self.layout.set_created(&spec.name, creation, asked_at);
        if was_removed {
            report_loss(spec);
        }
        self.layout.set_replicas(&spec.name, report.replicas());
        Ok(was_removed.then_some(creation))
    }

    /// Creates a stream, or finds that it exists with the same settings. `None` means that it exists
    /// with other settings.
    async fn create_stream(
        &self,
        spec: &StreamSpec,
        replicas: Option<usize>,
    ) -> Result<Option<StreamReport>, BrokerError> {
        let mut to_try = self.layout.replicas_to_try(replicas).into_iter();
        let mut count = to_try.next().unwrap_or(1);
        let mut is_account_limited = false;
        loop {
            let subject = format!("STREAM.CREATE.{}", spec.name);
            let mut config = spec.new_config(count);
            if is_account_limited {
                config.insert(MAX_CONSUMERS.to_owned(), json!(-1));
            }
            let config = Value::Object(config);
            let error = match self.api_request(subject, &config, CREATING).await? {
                Ok(report) => {
                    self.report_few_replicas(replicas, &report);
                    return Ok(Some(report));
                }
                Err(error) => error,
            };
            if error.error_code() == ErrorCode::STREAM_NAME_EXIST {
                return Ok(None);
            }
            // the account's own limit is lower, and applies to a stream that sets none
            if error.error_code().0 == CONSUMERS_MAX_REACHED && !is_account_limited {
                is_account_limited = true;
                continue;
            }
            if error.error_code().0 == REPLICAS_NOT_SUPPORTED && replicas.is_none() {
                self.layout.mark_single_server();
            }
            match to_try.next() {
                Some(fewer) if is_about_replicas(&error) => count = fewer,
                _ => return Err(BrokerError::from_api(&error, CREATING)),
            }
        }
    }

    fn report_few_replicas(&self, wanted: Option<usize>, report: &StreamReport) {
        let Replicas {
            count,
            is_clustered,
        } = report.replicas();
        let is_few = wanted.is_none() && is_clustered && count < REPLICAS_MAX;
        if is_few && self.layout.is_first_report("", "num_replicas") {
            tracing::warn!(
                replicas = count,
                "the cluster has fewer than {REPLICAS_MAX} servers for a stream; once it has more, `naq server check --fix` raises the number of replicas"
            );
        }
    }

    /// Compares an existing stream with what naq needs, and changes what may be changed. `None` means
    /// that this user may not read its settings.
    async fn adapt_stream(&self, spec: &StreamSpec) -> Result<Option<StreamReport>, BrokerError> {
        let report = match self.stream_report(&spec.name).await {
            Ok(Some(report)) => report,
            Ok(None) => return Err(BrokerError::Timeout(COMPARING)),
            Err(BrokerError::PermissionDenied { denial, .. }) => {
                if self.layout.is_first_report(&spec.name, "permission") {
                    tracing::warn!(
                        stream = spec.name,
                        "cannot compare the stream's settings with what naq needs: NATS denies {denial}"
                    );
                }
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let object = format!("stream `{}`", spec.name);
        let differing = differences(&spec.settings, &report.config);
        self.refuse_impossible(&object, &differing)?;
        self.report_disadvantages(&object, &differing);
        let mut changes = automatic(&differing);
        if changes.is_empty() {
            return Ok(Some(report));
        }
        let changed = match self.change_stream(spec, &report.config, &changes).await {
            // the account's limit is lower; or nats-server is of 2.12, which cannot change it and has no
            // limit where a stream sets none
            Err(BrokerError::Unsuitable { .. })
                if changes.iter().any(|one| one.setting == MAX_CONSUMERS) =>
            {
                changes.retain(|one| one.setting != MAX_CONSUMERS);
                if changes.is_empty() {
                    return Ok(Some(report));
                }
                self.change_stream(spec, &report.config, &changes).await?
            }
            changed => changed?,
        };
        log_changes(&object, &changes);
        Ok(Some(changed))
    }

    /// Changes some settings of a stream, and leaves all others as they are.
    pub(crate) async fn change_stream(
        &self,
        spec: &StreamSpec,
        config: &Config,
        changes: &[&SettingDifference],
    ) -> Result<StreamReport, BrokerError> {
        let config = Value::Object(changed_config(config, changes.iter().copied()));
        let subject = format!("STREAM.UPDATE.{}", spec.name);
        let changed = self.api_request(subject, &config, CHANGING).await?;
        changed.map_err(|error| {
            let object = format!("stream `{}`", spec.name);
            refused_change(&object, changes, &error, CHANGING)
        })
    }

    /// Compares an existing consumer of a queue with what naq needs, and changes what may be changed.
    pub(crate) async fn adapt_consumer(
        &self,
        queue: &QueueName,
        consumer: &str,
        needed: &[Setting],
    ) -> Result<(), BrokerError> {
        let stream = self.names.queue_stream(queue);
        let Some(config) = self.consumer_config(&stream, consumer).await? else {
            return Err(BrokerError::Timeout(COMPARING));
        };
        let object = consumer_object(&stream, consumer);
        let differing = differences(needed, &config);
        self.refuse_impossible(&object, &differing)?;
        self.report_disadvantages(&object, &differing);
        let changes = automatic(&differing);
        if !changes.is_empty() {
            self.change_consumer(&stream, consumer, &config, &changes)
                .await?;
            log_changes(&object, &changes);
        }
        Ok(())
    }

    /// Changes some settings of a consumer, and leaves all others as they are.
    pub(crate) async fn change_consumer(
        &self,
        stream: &str,
        consumer: &str,
        config: &Config,
        changes: &[&SettingDifference],
    ) -> Result<(), BrokerError> {
        let config = changed_config(config, changes.iter().copied());
        let request = json!({ "stream_name": stream, "config": config, "action": "update" });
        // the server's permissions for one filter are those of its subject
        let filter = match request["config"]["filter_subjects"].as_array() {
            Some(filters) if filters.len() == 1 => filters[0].as_str().unwrap_or_default(),
            _ => "",
        };
        let subject = match filter {
            "" => format!("CONSUMER.CREATE.{stream}.{consumer}"),
            filter => format!("CONSUMER.CREATE.{stream}.{consumer}.{filter}"),
        };
        let changed: Result<ConsumerReport, ApiError> =
            self.api_request(subject, &request, CHANGING).await?;
        changed.map(drop).map_err(|error| {
            let object = consumer_object(stream, consumer);
            refused_change(&object, changes, &error, CHANGING)
        })
    }

    /// The settings of a stream. `None` if it does not exist.
    pub(crate) async fn stream_report(
        &self,
        stream: &str,
    ) -> Result<Option<StreamReport>, BrokerError> {
        let subject = format!("STREAM.INFO.{stream}");
        match self.api_request(subject, &json!({}), COMPARING).await? {
            Ok(report) => Ok(Some(report)),
            Err(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            Err(error) => Err(BrokerError::from_api(&error, COMPARING)),
        }
    }

    /// The settings of a consumer. `None` if it does not exist.
    pub(crate) async fn consumer_config(
        &self,
        stream: &str,
        consumer: &str,
    ) -> Result<Option<Config>, BrokerError> {
        let subject = format!("CONSUMER.INFO.{stream}.{consumer}");
        let report: Result<ConsumerReport, ApiError> =
            self.api_request(subject, &json!({}), COMPARING).await?;
        match report {
            Ok(report) => Ok(Some(normalized(report.config))),
            Err(error)
                if [ErrorCode::CONSUMER_NOT_FOUND, ErrorCode::STREAM_NOT_FOUND]
                    .contains(&error.error_code()) =>
            {
                Ok(None)
            }
            Err(error) => Err(BrokerError::from_api(&error, COMPARING)),
        }
    }

    fn refuse_impossible(
        &self,
        object: &str,
        differing: &[SettingDifference],
    ) -> Result<(), BrokerError> {
        let impossible = |one: &&SettingDifference| one.remedy == Remedy::Impossible;
        match differing.iter().find(impossible) {
            None => Ok(()),
            Some(difference) => Err(BrokerError::Unsuitable {
                object: object.to_owned(),
                setting: difference.setting,
                found: difference.found_text(),
                wanted: difference.wanted_text(),
                reason: "that cannot be changed".to_owned(),
            }),
        }
    }

    /// Warns of each setting with which jobs or records may be lost, once per process.
    fn report_disadvantages(&self, object: &str, differing: &[SettingDifference]) {
        for one in differing {
            let advice = match one.remedy {
                Remedy::OnRequest => "`naq server check --fix` changes it",
                Remedy::Tolerated => "it cannot be changed",
                Remedy::Automatic | Remedy::Impossible => continue,
            };
            if self.layout.is_first_report(object, one.setting) {
                tracing::warn!(
                    "{object} has `{}` {} where naq needs {}: jobs or records may be lost, or events missed; {advice}",
                    one.setting,
                    one.found_text(),
                    one.wanted_text()
                );
            }
        }
    }

    /// The queue's stream has as many consumers as it may have.
    pub(crate) async fn too_many_consumers(&self, queue: &QueueName) -> BrokerError {
        let stream = self.names.queue_stream(queue);
        let consumers_max = match self.stream_report(&stream).await {
            Ok(Some(report)) => report.config.get(MAX_CONSUMERS).and_then(Value::as_i64),
            Ok(None) | Err(_) => None,
        };
        BrokerError::TooManyConsumers {
            stream,
            consumers_max: consumers_max.filter(|max| *max > 0),
            route_consumers: self.names.route_consumer("*"),
        }
    }

    /// Why the consumer of a queue cannot be created although it does not exist: a work queue
    /// delivers each message to one consumer, and another one has the jobs.
    async fn other_consumer_error(&self, queue: &QueueName) -> BrokerError {
        let consumers = self.consumers(queue).await.unwrap_or_default();
        let others: Vec<String> = consumers
            .into_iter()
            .map(|consumer| consumer.name)
            .filter(|name| self.names.route_of_consumer(name).is_none())
            .collect();
        BrokerError::Unsuitable {
            object: format!("stream `{}`", self.names.queue_stream(queue)),
            setting: "consumers",
            found: others.join(" "),
            wanted: self.names.worker_consumer(),
            reason: "a work queue has one consumer for each subject".to_owned(),
        }
    }
}

/// Whether the server might create the stream with fewer replicas.
pub(crate) fn is_about_replicas(error: &ApiError) -> bool {
    [REPLICAS_NOT_SUPPORTED, NO_SUITABLE_PEERS, NO_TIERED_LIMIT].contains(&error.error_code().0)
}

/// Whether the account or the servers have no room for the size that a stream reserves.
fn is_too_small(error: &BrokerError) -> bool {
    match error {
        BrokerError::StorageFull(_) => true,
        BrokerError::Refused { source, .. } => source
            .downcast_ref::<ApiError>()
            .is_some_and(|api| api.error_code().0 == NO_SUITABLE_PEERS),
        _ => false,
    }
}

pub(crate) fn consumer_object(stream: &str, consumer: &str) -> String {
    format!("consumer `{consumer}` of stream `{stream}`")
}

fn automatic(differing: &[SettingDifference]) -> Vec<&SettingDifference> {
    let differing = differing.iter();
    differing
        .filter(|one| one.remedy == Remedy::Automatic)
        .collect()
}

fn log_changes(object: &str, changes: &[&SettingDifference]) {
    let names: Vec<_> = changes.iter().map(|one| one.setting).collect();
    tracing::info!(
        settings = names.join(" "),
        "{object} was changed to what naq needs"
    );
}

/// Names what is lost with a stream that was removed while this process used it.
fn report_loss(spec: &StreamSpec) {
    tracing::error!(
        stream = spec.name,
        "the stream was removed while in use and has been created again; its contents are lost: {}",
        spec.contents
    );
}

/// The server refuses to change the settings of a stream or consumer.
fn refused_change(
    object: &str,
    changes: &[&SettingDifference],
    error: &ApiError,
    doing: &'static str,
) -> BrokerError {
    let (Some(first), BrokerError::Refused { .. }) =
        (changes.first(), BrokerError::from_api(error, doing))
    else {
        return BrokerError::from_api(error, doing);
    };
    BrokerError::Unsuitable {
        object: object.to_owned(),
        setting: first.setting,
        found: first.found_text(),
        wanted: first.wanted_text(),
        reason: format!("NATS refuses the change: {error}"),
    }
}
