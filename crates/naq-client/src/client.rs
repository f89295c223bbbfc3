//! [`Client`]: connecting, and reading jobs.

use std::time::Duration;

use naq_core::ClockSkew;
use naq_jetstream::{
    Broker, CheckedLayout, CheckedOperation, ConnectOptions, ConnectionState, DeadLetter,
    QueueInfo, RequestObserver, Role, StorageUsage,
};
use naq_protocol::{
    JobId, LeaderInfo, QueueName, Record, SchedulerInfo, Timestamp, WorkerInfo, WorkerState,
};

use super::ClientError;
use super::clock::Clock;
use super::raw_envelope::as_json;
use super::record_changes::RecordChangeConsumer;
use super::unclaimed::record_of;

/// How long a worker may be silent before another worker gets its jobs, unless
/// [`Client::with_ack_wait`] sets it. The default of the setting `ack_wait`.
const ACK_WAIT_DEFAULT: Duration = Duration::from_secs(30);

/// How long the record of an ended job is kept, unless its envelope or
/// [`Client::with_result_ttl`] sets it. The default of the setting `default_result_ttl`.
const RESULT_TTL_DEFAULT: Duration = Duration::from_secs(7 * 86_400);

/// A connection to naq. Clones share the connection.
///
/// ```no_run
/// use naq_client::{Client, ClientError, ConnectOptions};
///
/// # async fn example() -> Result<(), ClientError> {
/// let client = Client::connect(ConnectOptions {
///     url: "nats://127.0.0.1:4222".to_owned(),
///     token: Some("secret".to_owned()),
///     ..ConnectOptions::default()
/// })
/// .await?;
/// for worker in client.list_workers().await? {
///     println!("{}: {} of {} slots", worker.name, worker.running, worker.concurrency);
/// }
/// for queue in client.list_queues().await? {
///     println!("{}: {} jobs queued", queue.name, queue.depth);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) broker: Broker,
    pub(crate) clock: Clock,
    pub(crate) ack_wait: Duration,
    pub(crate) result_ttl: Duration,
}

impl Client {
    /// Connects to NATS, by an address such as `nats://127.0.0.1:4222` or by [`ConnectOptions`] for
    /// credentials, TLS and everything else.
    ///
    /// # Errors
    /// Returns [`BrokerError::Connect`](crate::BrokerError::Connect) if no connection can be made,
    /// [`BrokerError::UnsupportedServer`](crate::BrokerError::UnsupportedServer) if the server is too
    /// old, and [`BrokerError::InsecureServer`](crate::BrokerError::InsecureServer) if it is on
    /// another host and no credentials are given.
    pub async fn connect(options: impl Into<ConnectOptions>) -> Result<Client, ClientError> {
        Ok(Client {
            broker: Broker::connect(&options.into()).await?,
            clock: Clock::default(),
            ack_wait: ACK_WAIT_DEFAULT,
            result_ttl: RESULT_TTL_DEFAULT,
        })
    }

    /// Sets the time for which a worker may be silent before another worker gets its jobs, at least
    /// one second. It matters where the client creates or changes a queue, and has to be the
    /// workers' `ack_wait`. Default: 30 seconds.
    #[must_use]
    pub fn with_ack_wait(mut self, ack_wait: Duration) -> Client {
        self.ack_wait = ack_wait;
        self
    }

    /// Sets how long the record of a job is kept that this client cancels and whose envelope sets
    /// no time. Zero means forever. Default: 7 days.
    #[must_use]
    pub fn with_result_ttl(mut self, result_ttl: Duration) -> Client {
        self.result_ttl = result_ttl;
        self
    }

    /// Replaces the wall clock, for tests.
    #[must_use]
    pub fn with_clock(mut self, now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Client {
        self.clock = Clock::new(now);
        self
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns the connection itself, for naq's own worker, scheduler and `naq bench`. Not a stable
    /// interface.
    #[doc(hidden)]
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Returns the maximum size of a message, including its headers, in bytes, as the server announces
    /// it. A larger envelope is refused.
    #[must_use]
    pub fn message_bytes_max(&self) -> usize {
        self.broker.message_bytes_max()
    }

    /// Returns whether the connection to NATS is open, and how often it was opened.
    #[must_use]
    pub fn connection_state(&self) -> ConnectionState {
        self.broker.connection().state()
    }

    /// Calls `observer` with each request that NATS answers from now on, and the time until its answer. Not a stable
    /// interface.
    #[doc(hidden)]
    pub fn observe_requests(&self, observer: RequestObserver) {
        self.broker.observe_requests(observer);
    }

    /// Returns the server's version and address, for people.
    #[must_use]
    pub fn server(&self) -> String {
        self.broker.server()
    }

    /// Compares the streams, buckets and consumers of naq that exist with what it needs. With `fix`,
    /// changes what NATS permits to change; nothing that is stored is lost by that.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn check_layout(&self, fix: bool) -> Result<Vec<CheckedLayout>, ClientError> {
        Ok(self.broker.check_layout(fix).await?)
    }

    /// Checks whether this connection's user may do what a role needs on these queues, and nothing that is
    /// forbidden to the role. Changes nothing. With `publish_only` a producer needs to read nothing.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn check_permissions(
        &self,
        role: Role,
        queues: &[QueueName],
        publish_only: bool,
    ) -> Result<Vec<CheckedOperation>, ClientError> {
        let checking = self.broker.check_permissions(role, queues, publish_only);
        Ok(checking.await?)
    }

    /// Waits until everything that was sent has left this process.
    ///
    /// # Errors
    /// Returns [`BrokerError::ConnectionLost`](crate::BrokerError::ConnectionLost) if the connection
    /// is closed for good.
    pub async fn flush(&self) -> Result<(), ClientError> {
        Ok(self.broker.flush().await?)
    }

    /// Returns a job in any state: its record, or what its message says if no worker has claimed it
    /// yet. The envelope is included if it is still stored.
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchJob`] if neither a record nor a message exists.
    pub async fn fetch_job(&self, job: &JobId) -> Result<Record, ClientError> {
        let (present, _) = self.broker.read_record(job).await?;
        if let Some(mut record) = present.filter(|record| !record.placeholder) {
            if record.envelope.is_none() {
                record.envelope = self.envelope_of(&record).await?;
            }
            return Ok(record);
        }
        let Some(message) = self.broker.find_message(job).await? else {
            // A worker may have claimed the job between the two reads.
            return match self.broker.read_record(job).await?.0 {
                Some(record) if !record.placeholder => Ok(record),
                _ => Err(ClientError::NoSuchJob(job.clone())),
            };
        };
        Ok(record_of(job, &message))
    }

    /// Returns the record of a job that has ended. `None` means that the job has not ended.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, JobId};
    /// # async fn example(client: Client, job: JobId) -> Result<(), ClientError> {
    /// match client.fetch_result(&job).await? {
    ///     Some(record) => println!("{}, exit code {:?}", record.state(), record.exit_code),
    ///     None => println!("not yet"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchJob`] if the job does not exist.
    pub async fn fetch_result(&self, job: &JobId) -> Result<Option<Record>, ClientError> {
        let record = self.fetch_job(job).await?;
        Ok(record.state().is_terminal().then_some(record))
    }

    pub(crate) async fn envelope_of(
        &self,
        record: &Record,
    ) -> Result<Option<Box<serde_json::value::RawValue>>, ClientError> {
        let bytes = self.broker.envelope_of(record).await?;
        Ok(bytes.and_then(|bytes| as_json(&bytes)))
    }

    /// Returns the structured result of a job as JSON text. `None` means that the job reported none.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if the result is a stored object that cannot be read.
    pub async fn read_result(&self, record: &Record) -> Result<Option<String>, ClientError> {
        if let Some(object) = &record.result_object {
            let bytes = self.broker.get_object(object).await?;
            return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
        }
        Ok(record.result.as_ref().map(|result| result.get().to_owned()))
    }

    /// Returns the envelope of a failed job, as its producer wrote it.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if the envelope is a stored object that cannot be read.
    pub async fn read_dead_letter_envelope(
        &self,
        job: &DeadLetter,
    ) -> Result<bytes::Bytes, ClientError> {
        Ok(self.broker.dead_letter_envelope(job).await?)
    }

    /// Returns the headers of a failed job's message, names and values.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if the headers are a stored object that cannot be read.
    pub async fn read_dead_letter_headers(
        &self,
        job: &DeadLetter,
    ) -> Result<Vec<(String, String)>, ClientError> {
        let Some(object) = &job.headers_object else {
            return Ok(job.headers.clone());
        };
        let bytes = self.broker.get_object(object).await?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    }

    /// Returns every worker whose last heartbeat has not expired.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn list_workers(&self) -> Result<Vec<WorkerInfo>, ClientError> {
        Ok(self.broker.list_workers().await?)
    }

    /// Returns whether the heartbeat of a worker is stored. One that is not written again in time is removed by the
    /// server.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer or denies the read.
    pub async fn worker_heartbeat_exists(&self, worker_id: &str) -> Result<bool, ClientError> {
        Ok(self.broker.worker_heartbeat_exists(worker_id).await?)
    }

    /// Returns whether the heartbeat of a scheduler is stored, by the id of its process.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer or denies the read.
    pub async fn scheduler_heartbeat_exists(&self, process: &JobId) -> Result<bool, ClientError> {
        Ok(self.broker.scheduler_heartbeat_exists(process).await?)
    }

    /// Returns the scheduler that leads. `None` means that no scheduler runs, or that the last leader
    /// died and its lease has expired.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer or denies the read.
    pub async fn fetch_leader(&self) -> Result<Option<LeaderInfo>, ClientError> {
        Ok(self.broker.read_leader_lease().await?.leader)
    }

    /// Returns every scheduler whose last heartbeat has not expired, the leader and those that wait for
    /// its lease.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn list_schedulers(&self) -> Result<Vec<SchedulerInfo>, ClientError> {
        Ok(self.broker.list_schedulers().await?)
    }

    /// Measures how far this machine's clock is from the server's. `None` means that it cannot be known,
    /// because neither a worker nor a scheduler has run on this server.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer or denies the read.
    pub async fn measure_clock_skew(&self) -> Result<Option<ClockSkew>, ClientError> {
        let (asked_at, since) = (self.now(), tokio::time::Instant::now());
        let server = self.broker.read_server_time().await?;
        Ok(server.map(|server| ClockSkew::new(asked_at, server, since.elapsed())))
    }

    /// Returns the storage that naq's account uses in JetStream.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer or denies the request.
    pub async fn fetch_storage_usage(&self) -> Result<StorageUsage, ClientError> {
        Ok(self.broker.storage_usage().await?)
    }

    /// Returns the number of dead letters, without reading them.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer or denies the read.
    pub async fn count_kept_failures(&self) -> Result<u64, ClientError> {
        Ok(self.broker.count_dead_letters().await?)
    }

    /// Returns the number of jobs that wait for a worker with the labels that they require, and that none of these
    /// workers can run. Jobs that no worker has received yet are not among them.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer or denies the read.
    pub async fn count_blocked_by_labels(
        &self,
        workers: &[WorkerInfo],
    ) -> Result<u64, ClientError> {
        let mut jobs = 0;
        for route in self.broker.list_label_routes().await? {
            let is_served = workers.iter().any(|worker| {
                worker.state != WorkerState::Draining
                    && worker.queues.contains(&route.queue)
                    && naq_core::has_required_labels(&worker.labels, &route.labels)
            });
            if !is_served {
                jobs += self.broker.count_rerouted(&route).await?;
            }
        }
        Ok(jobs)
    }

    /// Returns all queues with their depth, running jobs and settings.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn list_queues(&self) -> Result<Vec<QueueInfo>, ClientError> {
        Ok(self.broker.list_queues().await?)
    }

    /// Returns the changes of records by the durable consumer of this name, creating the consumer if
    /// it does not exist.
    ///
    /// The server delivers each change until it is acknowledged, so after a crash the consumer
    /// resumes where it was: each change is handled at least once. A change that is not acknowledged
    /// within the client's `ack_wait` is delivered again.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS refuses the consumer.
    pub async fn consume_record_changes(
        &self,
        name: &str,
    ) -> Result<RecordChangeConsumer, ClientError> {
        let consumer = self.broker.consume_record_changes(name, self.ack_wait);
        Ok(RecordChangeConsumer(consumer.await?))
    }
}
