//! What a Rust program uses: [`Client`] and [`Queue`], with the verbs of the command line.
//!
//! ```no_run
//! use naq::broker::ConnectOptions;
//! use naq::client::Client;
//! use naq::envelope::Envelope;
//!
//! # async fn example() -> Result<(), naq::client::ClientError> {
//! let client = Client::connect(&ConnectOptions::default()).await?;
//! let queue = client.queue("build")?;
//! let job = queue.enqueue(&Envelope::command("./script.sh", ["arg"])).await?;
//! let record = client.wait(&job).await?;
//! println!("{}: {}", record.state, client.read_stdout(&record).await?.len());
//! # Ok(())
//! # }
//! ```
//!
//! A job runs at least once, and its outcome is recorded once. An enqueue that has returned is
//! stored.

mod bulk;
mod cancel;
pub mod config;
mod dead_letters;
mod delayed_jobs;
mod events;
mod filter;
mod flow;
mod listing;
mod missing_labels;
mod rerun;
mod schedule_sets;
mod schedules;
mod ttl;
mod waiter;

pub use bulk::BulkEnqueue;
pub use cancel::CancelOutcome;
pub use dead_letters::{DeadLetterCount, DeadLetterFilter, DeadLetterList, RetryOutcome};
pub use delayed_jobs::{DelayedJobPage, DelayedJobSummary, DelayedJobs, Rescheduled};
pub use events::{JobEvent, JobEvents, LatestJobEvents};
pub use filter::{JobFilter, LabelFilter};
pub use flow::DependencyNode;
pub use listing::{JobPage, JobSummary};
pub use rerun::Rerun;
pub use schedule_sets::{ScheduleSetAction, ScheduleSetOptions, ScheduleSetPlan, ScheduleSetStep};
pub use schedules::{
    AddScheduleOutcome, AddedSchedule, LastOutcome, ListedSchedule, NewSchedule, Recurrence,
    ScheduleFilter, ScheduleList, ScheduleSummary, UpdatedSchedule,
};
pub use waiter::Waiter;

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;

use naq_core::{ScheduleError, StartDelay, StartDelayError};
use naq_jetstream::{
    Broker, BrokerError, ConnectOptions, EnqueueAck, NewJob, PurgeSummary, QueueInfo, QueueSettings,
};
use naq_protocol::{
    CapturedOutput, Envelope, EnvelopeError, InvalidName, JobId, QueueName, Record, ScheduleId,
    State, Timestamp, WorkerInfo, escape, is_equivalent,
};

/// What can go wrong for a user of the library.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// NATS.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The envelope.
    #[error(transparent)]
    Invalid(#[from] EnvelopeError),
    /// A name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A schedule.
    #[error(transparent)]
    ScheduleError(#[from] ScheduleError),
    /// No schedule of this name is there.
    #[error("there is no schedule `{0}`")]
    NoSuchSchedule(String),
    /// The name stands for another schedule.
    #[error(
        "the schedule `{schedule}` is there already, with another {fields}; `naq job-control {schedule} reschedule` changes it, --replace puts this one in its place"
    )]
    ScheduleExists {
        /// Its name.
        schedule: ScheduleId,
        /// The fields in which the two differ.
        fields: String,
    },
    /// A schedule that a set describes is there outside the set.
    #[error("the schedule `{schedule}` {}", describe_owner(.set.as_deref()))]
    ScheduleOwnedElsewhere {
        /// Its name.
        schedule: ScheduleId,
        /// The set it is in.
        set: Option<String>,
    },
    /// The schedule has no more ticks.
    #[error("the schedule `{0}` has ended")]
    ScheduleEnded(ScheduleId),
    /// No job of this id is known.
    #[error("no job `{0}` is known: it was never enqueued here, or its record has gone")]
    NoSuchJob(JobId),
    /// The job has not ended yet.
    #[error("the job `{job}` has not ended, it is {state}")]
    NotEnded {
        /// The job.
        job: JobId,
        /// Where it is.
        state: State,
    },
    /// The job can be run again as little as it could be run.
    #[error("the job `{job}` cannot be run again: {problem}")]
    NotRerunnable {
        /// The job.
        job: JobId,
        /// Why.
        problem: String,
    },
    /// The job's envelope was not kept.
    #[error("the envelope of the job `{0}` was not kept, so there is nothing to run again")]
    NoEnvelope(JobId),
    /// The failed stream does not have the job.
    #[error("no failed job `{0}` is kept; `naq retry` runs any ended job again")]
    NoDeadLetter(JobId),
    /// The job cannot begin at the time that was asked for.
    #[error("{0}")]
    InvalidDueTime(StartDelayError),
    /// The job is not held until its time any more, or never was.
    #[error("the job `{job}` {}", not_delayed(*.state))]
    NotDelayed {
        /// The job.
        job: JobId,
        /// Where it is.
        state: State,
    },
    /// The job's time has come, and it may be on its way into its queue.
    #[error("the time of the job `{job}` has come, {due}: it is on its way into its queue")]
    AlreadyDue {
        /// The job.
        job: JobId,
        /// When.
        due: Timestamp,
    },
    /// The job is held by something else than a time.
    #[error(
        "the job `{job}` is held by another program's rule, `{}`, and not until a time", escape(.schedule)
    )]
    NoDueTime {
        /// The job.
        job: JobId,
        /// The rule, in the server's words.
        schedule: String,
    },
    /// The queue has as many jobs as the caller allows.
    #[error("the queue `{queue}` holds {depth} jobs, and --max-jobs allows {max}")]
    QueueFull {
        /// The queue.
        queue: QueueName,
        /// How many it holds.
        depth: u64,
        /// How many it may hold.
        max: u64,
    },
}

fn not_delayed(state: State) -> String {
    match state {
        State::Retrying => "waits to be tried again: that can be at another time, or now, but it cannot be paused; its queue can".to_owned(),
        state => format!("is not held until a time: it is {state}"),
    }
}

fn describe_owner(set: Option<&str>) -> String {
    match set {
        Some(set) => format!("belongs to the set `{}`", escape(set)),
        None => "is there already, and was not made by this set".to_owned(),
    }
}

/// A connection to naq. Clones share it.
///
/// ```no_run
/// use naq::broker::ConnectOptions;
/// use naq::client::Client;
///
/// # async fn example() -> Result<(), naq::client::ClientError> {
/// let client = Client::connect(&ConnectOptions {
///     url: "nats://127.0.0.1:4222".to_owned(),
///     token: Some("secret".to_owned()),
///     ..ConnectOptions::default()
/// })
/// .await?;
/// for worker in client.list_workers().await? {
///     println!("{}: {} of {} slots", worker.name, worker.running, worker.concurrency);
/// }
/// for queue in client.list_queues().await? {
///     println!("{}: {} jobs wait", queue.name, queue.depth);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    broker: Broker,
}

/// A queue on a connection.
///
/// ```no_run
/// # use naq::client::{Client, ClientError};
/// use std::time::Duration;
///
/// use naq::envelope::units::WireDuration;
/// use naq::envelope::{Envelope, JobId};
///
/// # async fn example(client: Client) -> Result<(), ClientError> {
/// let queue = client.queue("nightly")?;
/// let mut envelope = Envelope::command("./backup.sh", ["--all"]);
/// envelope.job_id = Some(JobId::from_user("backup-2026-12-24")?);
/// envelope.timeout = Some(WireDuration(Duration::from_secs(3_600)));
/// envelope.max_retries = Some(3);
/// let job = queue.enqueue(&envelope).await?;
///
/// // the same envelope under the same id is the same request
/// assert_eq!(queue.enqueue(&envelope).await?, job);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Queue {
    client: Client,
    name: QueueName,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// As [`Broker::connect`].
    pub async fn connect(options: &ConnectOptions) -> Result<Client, ClientError> {
        Ok(Client {
            broker: Broker::connect(options).await?,
        })
    }

    /// The connection itself.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// A queue by its name. It need not exist yet.
    ///
    /// # Errors
    /// [`ClientError::Name`] where the name cannot be one.
    pub fn queue(&self, name: impl AsRef<str>) -> Result<Queue, ClientError> {
        Ok(Queue {
            client: self.clone(),
            name: QueueName::new(name)?,
        })
    }

    /// A job in whatever state: its record, or, where no worker has taken it yet, what its
    /// message says. The envelope is filled in where it is still to be had.
    ///
    /// # Errors
    /// [`ClientError::NoSuchJob`] where neither is there.
    pub async fn fetch_job(&self, job: &JobId) -> Result<Record, ClientError> {
        let (present, _) = self.broker.read_record(job).await?;
        if let Some(mut record) = present.filter(|record| !record.placeholder) {
            if record.envelope.is_none() {
                record.envelope = self.envelope_of(&record).await?;
            }
            return Ok(record);
        }
        let Some(message) = self.broker.find_message(job).await? else {
            // a worker may have taken it between the two looks
            return match self.broker.read_record(job).await?.0 {
                Some(record) if !record.placeholder => Ok(record),
                _ => Err(ClientError::NoSuchJob(job.clone())),
            };
        };
        Ok(cancel::record_of(job, &message))
    }

    /// The outcome of a job; none where it has not ended.
    ///
    /// ```no_run
    /// # use naq::client::{Client, ClientError};
    /// # use naq::envelope::JobId;
    /// # async fn example(client: Client, job: JobId) -> Result<(), ClientError> {
    /// match client.fetch_result(&job).await? {
    ///     Some(record) => println!("{}, exit code {:?}", record.state, record.exit_code),
    ///     None => println!("not yet"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ClientError::NoSuchJob`] where there is no such job.
    pub async fn fetch_result(&self, job: &JobId) -> Result<Option<Record>, ClientError> {
        let record = self.fetch_job(job).await?;
        Ok(record.state.is_terminal().then_some(record))
    }

    async fn envelope_of(
        &self,
        record: &Record,
    ) -> Result<Option<Box<serde_json::value::RawValue>>, ClientError> {
        let bytes = self.broker.envelope_of(record).await?;
        Ok(bytes.and_then(|bytes| as_json(&bytes)))
    }

    /// Waits for a job to end.
    ///
    /// # Errors
    /// [`ClientError::NoSuchJob`] where there is no such job.
    pub async fn wait(&self, job: &JobId) -> Result<Record, ClientError> {
        let mut ended = None;
        self.wait_each(std::slice::from_ref(job), |record| ended = Some(record))
            .await?;
        ended.ok_or_else(|| ClientError::NoSuchJob(job.clone()))
    }

    /// Waits for every one of some jobs to end, telling of each as it does. Cancel safe.
    ///
    /// ```no_run
    /// # use naq::client::{Client, ClientError};
    /// # use naq::envelope::JobId;
    /// # async fn example(client: Client, jobs: Vec<JobId>) -> Result<(), ClientError> {
    /// client
    ///     .wait_each(&jobs, |record| println!("{}: {}", record.job_id, record.state))
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ClientError::NoSuchJob`] for the first one there is none of.
    pub async fn wait_each(
        &self,
        jobs: &[JobId],
        tell: impl FnMut(Record),
    ) -> Result<(), ClientError> {
        self.waiter(jobs).await?.each(tell).await
    }

    /// Begins to wait for some jobs, which need not be enqueued yet: what happens to them from
    /// now on is not missed.
    ///
    /// # Errors
    /// Where the watch cannot be made.
    pub async fn waiter(&self, jobs: &[JobId]) -> Result<Waiter, ClientError> {
        // the bucket makes the events: before the first worker it may not be there
        let watch = self.broker.watch_records(jobs).await?;
        Ok(Waiter::new(self.clone(), watch, jobs))
    }

    /// The bytes of a job's standard output, as far as they were kept.
    ///
    /// # Errors
    /// Where they are an object that cannot be read.
    pub async fn read_stdout(&self, record: &Record) -> Result<Vec<u8>, ClientError> {
        self.read_output(record.stdout.as_ref()).await
    }

    /// The bytes of a job's standard error, as far as they were kept.
    ///
    /// # Errors
    /// Where they are an object that cannot be read.
    pub async fn read_stderr(&self, record: &Record) -> Result<Vec<u8>, ClientError> {
        self.read_output(record.stderr.as_ref()).await
    }

    /// The structured result of a job as JSON text, where it gave one.
    ///
    /// # Errors
    /// Where it is an object that cannot be read.
    pub async fn read_result(&self, record: &Record) -> Result<Option<String>, ClientError> {
        if let Some(object) = &record.result_object {
            let bytes = self.broker.get_object(object).await?;
            return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
        }
        Ok(record.result.as_ref().map(|result| result.get().to_owned()))
    }

    async fn read_output(&self, output: Option<&CapturedOutput>) -> Result<Vec<u8>, ClientError> {
        let Some(output) = output else {
            return Ok(Vec::new());
        };
        if let Some(object) = &output.object {
            return Ok(self.broker.get_object(object).await?);
        }
        let mut bytes = output.head_bytes();
        bytes.extend(output.tail_bytes());
        Ok(bytes)
    }

    /// Every worker whose heartbeat is fresh.
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn list_workers(&self) -> Result<Vec<WorkerInfo>, ClientError> {
        Ok(self.broker.list_workers().await?)
    }

    /// All queues and how they stand.
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn list_queues(&self) -> Result<Vec<QueueInfo>, ClientError> {
        Ok(self.broker.list_queues().await?)
    }

    /// Enqueues one job of a queue after another without waiting for each.
    ///
    /// ```no_run
    /// # use naq::client::Client;
    /// use naq::broker::NewJob;
    /// use naq::envelope::QueueName;
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let queue = QueueName::new("squares")?;
    /// let mut bulk = client.bulk();
    /// for number in 0..100_000 {
    ///     let envelope = format!(r#"{{"command": "expr", "args": [{number}, "*", {number}]}}"#);
    ///     bulk.push(NewJob::new(queue.clone(), envelope.into())).await?;
    /// }
    /// bulk.finish().await?;
    /// while let Some((job, error)) = bulk.take_rejected() {
    ///     eprintln!("{job} was refused: {error}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn bulk(&self) -> BulkEnqueue {
        BulkEnqueue::new(self.broker.clone())
    }
}

fn as_json(bytes: &[u8]) -> Option<Box<serde_json::value::RawValue>> {
    serde_json::from_slice(bytes).ok()
}

impl Queue {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &QueueName {
        &self.name
    }

    /// Enqueues a job; its id is the envelope's, or a new one. The queue is made where there is
    /// none.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] for an envelope that no worker would take, and
    /// [`BrokerError::JobIdConflict`] where the id stands for another envelope already.
    pub async fn enqueue(&self, envelope: &Envelope) -> Result<JobId, ClientError> {
        self.enqueue_job(self.new_job(envelope)?).await
    }

    /// Enqueues a job that is to begin then, as [`Queue::enqueue_at`] and [`Queue::enqueue_in`]
    /// do.
    ///
    /// # Errors
    /// As [`Queue::enqueue_at`].
    pub async fn enqueue_delayed(
        &self,
        envelope: &Envelope,
        start: StartDelay,
    ) -> Result<JobId, ClientError> {
        self.enqueue_job(self.new_job(envelope)?.delayed(start))
            .await
    }

    fn new_job(&self, envelope: &Envelope) -> Result<NewJob, ClientError> {
        envelope.validate()?;
        let payload = serde_json::to_vec(envelope).map_err(|error| {
            EnvelopeError::new(naq_protocol::RejectReason::Invalid, "", error.to_string())
        })?;
        Ok(match envelope.job_id.clone() {
            Some(job_id) => NewJob::with_id(job_id, self.name.clone(), payload.into()),
            None => NewJob::new(self.name.clone(), payload.into()),
        })
    }

    /// Enqueues an envelope as it was written, under this id, or a new one. The caller has
    /// parsed it.
    ///
    /// # Errors
    /// As [`Queue::enqueue`].
    pub async fn enqueue_bytes(
        &self,
        chosen: Option<JobId>,
        payload: Bytes,
    ) -> Result<JobId, ClientError> {
        self.enqueue_job(match chosen {
            Some(job_id) => NewJob::with_id(job_id, self.name.clone(), payload),
            None => NewJob::new(self.name.clone(), payload),
        })
        .await
    }

    async fn enqueue_job(&self, job: NewJob) -> Result<JobId, ClientError> {
        let broker = &self.client.broker;
        // only an id that someone chose can have been used before
        if job.has_user_id {
            let ((record, _), held) = tokio::try_join!(
                broker.read_record(&job.job_id),
                broker.read_delayed(&self.name, &job.job_id)
            )?;
            if let Some(record) = record.filter(|record| !record.placeholder) {
                let earlier = self.client.fetch_job(&job.job_id).await?;
                let same = record.queue == self.name
                    && earlier.envelope.is_some_and(|envelope| {
                        is_equivalent(envelope.get().as_bytes(), &job.payload)
                    });
                return if same {
                    Ok(job.job_id)
                } else {
                    Err(BrokerError::JobIdConflict(job.job_id.to_string()).into())
                };
            }
            if let Some(held) = held {
                delayed_jobs::same_request(&job, held.standing(), &held.payload)?;
                return Ok(job.job_id);
            }
        }
        let EnqueueAck {
            sequence,
            duplicate,
        } = broker.enqueue(job.clone()).await?;
        if duplicate && job.has_user_id {
            delayed_jobs::compare_with_existing(broker, &job, sequence).await?;
        }
        Ok(job.job_id)
    }

    /// Enqueues an envelope under an id that was just made, and so cannot have been used before:
    /// one round trip. The caller has parsed it.
    ///
    /// # Errors
    /// As [`Queue::enqueue`].
    pub async fn enqueue_new(&self, job_id: JobId, payload: Bytes) -> Result<(), ClientError> {
        let job = NewJob {
            job_id,
            queue: self.name.clone(),
            payload,
            has_user_id: false,
            start: None,
        };
        self.client.broker.enqueue(job).await?;
        Ok(())
    }

    /// Refuses where the queue holds `max` jobs or more.
    ///
    /// # Errors
    /// [`ClientError::QueueFull`].
    pub async fn check_capacity(&self, max: u64) -> Result<(), ClientError> {
        match self.client.broker.queue_info(&self.name).await {
            Ok(info) if info.depth + info.delayed >= max => Err(ClientError::QueueFull {
                queue: self.name.clone(),
                depth: info.depth + info.delayed,
                max,
            }),
            Ok(_) | Err(BrokerError::QueueNotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the queue; one that is there is left as it is.
    ///
    /// # Errors
    /// Where NATS refuses.
    pub async fn add(&self, settings: &QueueSettings) -> Result<(), ClientError> {
        Ok(self.client.broker.add_queue(&self.name, settings).await?)
    }

    /// How the queue stands.
    ///
    /// # Errors
    /// [`BrokerError::QueueNotFound`] where there is none.
    pub async fn info(&self) -> Result<QueueInfo, ClientError> {
        Ok(self.client.broker.queue_info(&self.name).await?)
    }

    /// Removes the queue's jobs but for those that run, and returns how many there were of each.
    /// Deliveries rest meanwhile.
    ///
    /// ```no_run
    /// # use naq::client::{Client, ClientError};
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let purged = client.queue("nightly")?.purge().await?;
    /// println!("{} jobs removed, {} still run", purged.removed, purged.running);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`BrokerError::QueueNotFound`] where there is none.
    pub async fn purge(&self) -> Result<PurgeSummary, ClientError> {
        Ok(self.client.broker.purge_queue(&self.name).await?)
    }

    /// Stops the delivery of the queue's jobs; running ones go on.
    ///
    /// # Errors
    /// [`BrokerError::QueueNotFound`] where there is none.
    pub async fn pause(&self, now: Timestamp, ack_wait: Duration) -> Result<(), ClientError> {
        Ok(self
            .client
            .broker
            .pause_queue(&self.name, now, ack_wait)
            .await?)
    }

    /// Sets how many of the queue's jobs may run at once, on all workers together; none for as
    /// many as there are slots. It counts at once, also for workers that are there.
    ///
    /// ```no_run
    /// # use std::num::NonZeroU32;
    /// # use std::time::Duration;
    /// # use naq::client::{Client, ClientError};
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let ack_wait = Duration::from_secs(30);
    /// client
    ///     .queue("reports")?
    ///     .set_max_running(NonZeroU32::new(2), ack_wait)
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`BrokerError::QueueNotFound`] where there is none.
    pub async fn set_max_running(
        &self,
        max_running: Option<NonZeroU32>,
        ack_wait: Duration,
    ) -> Result<(), ClientError> {
        Ok(self
            .client
            .broker
            .set_max_running(&self.name, max_running, ack_wait)
            .await?)
    }

    /// Takes up the delivery of the queue's jobs again.
    ///
    /// # Errors
    /// [`BrokerError::QueueNotFound`] where there is none.
    pub async fn resume(&self) -> Result<(), ClientError> {
        Ok(self.client.broker.resume_queue(&self.name).await?)
    }

    /// Removes the queue and every job in it.
    ///
    /// # Errors
    /// [`BrokerError::QueueNotFound`] where there is none.
    pub async fn remove(&self) -> Result<(), ClientError> {
        Ok(self.client.broker.remove_queue(&self.name).await?)
    }
}
