//! Delayed jobs: enqueued, listed, paused and rescheduled.

use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use serde::Serialize;

use super::raw_envelope::{as_json, command};
use super::{Client, ClientError, Queue};
use naq_core::{OnReschedule, RescheduleRequest, delay_for, delay_until, on_reschedule};
use naq_jetstream::{
    BrokerError, DelayedJob, DelayedJobCursor, DelayedJobListing, MessageState, NewJob, failpoint,
};
use naq_protocol::{Envelope, JobId, QueueName, Record, State, Timestamp};

/// How long the server may take to move a job that is due into its queue.
const IN_TRANSIT_MAX: Duration = Duration::from_secs(2);

/// How often a change is tried while other clients change the job or the server does not answer.
const ATTEMPTS_MAX: usize = 8;

/// A delayed job in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DelayedJobSummary {
    /// The job.
    pub job_id: JobId,
    /// The job's queue.
    pub queue: QueueName,
    /// When the job starts. `None` means that another program delayed it by a server-side schedule
    /// that is not a single time. The due time of a paused job may have passed.
    pub due: Option<Timestamp>,
    /// Whether the job waits until it is resumed, even after its due time.
    pub paused: bool,
    /// When the job was enqueued.
    pub enqueue_time: Timestamp,
    /// The envelope's labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What the job runs, in one line. `None` means that its envelope is invalid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl DelayedJobSummary {
    fn new(delayed: &DelayedJob) -> DelayedJobSummary {
        let labels = Envelope::parse(&delayed.payload).map(|envelope| envelope.labels);
        DelayedJobSummary {
            job_id: delayed.job_id.clone(),
            queue: delayed.queue.clone(),
            due: delayed.due,
            paused: delayed.is_paused,
            enqueue_time: delayed.enqueue_time,
            labels: labels.unwrap_or_default(),
            command: as_json(&delayed.payload).as_deref().and_then(command),
        }
    }
}

/// A page of a list of delayed jobs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DelayedJobPage {
    /// The delayed jobs, queue by queue, in the order in which they were stored.
    pub delayed_jobs: Vec<DelayedJobSummary>,
    /// Where the next page starts. `None` means that this is the last page.
    pub next: Option<DelayedJobCursor>,
}

/// Delayed jobs, read as [`DelayedJobs::next`] is called. [`Client::delayed_jobs`] returns it.
pub struct DelayedJobs {
    listing: DelayedJobListing,
}

impl DelayedJobs {
    /// Returns the next one. `None` means that there are no more.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn next(&mut self) -> Result<Option<DelayedJobSummary>, ClientError> {
        Ok(self
            .listing
            .next()
            .await?
            .as_ref()
            .map(DelayedJobSummary::new))
    }
}

/// The outcome of changing when a job starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rescheduled {
    /// The job is delayed, as described.
    Delayed(Box<DelayedJobSummary>),
    /// The job waits for its next attempt.
    Retrying {
        /// The queue.
        queue: QueueName,
        /// When the next attempt starts.
        due: Timestamp,
    },
    /// The job is in its queue.
    Queued {
        /// The queue.
        queue: QueueName,
    },
}

impl Queue {
    /// Enqueues a job that starts after a delay, as [`Queue::enqueue_at`] does. Enqueueing the same
    /// envelope under the same id again while the job is delayed has no effect: the first due time
    /// stands.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use naq_client::{Client, ClientError};
    /// # use naq_client::Envelope;
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let reminder = Envelope::command("./remind.sh", ["standup"]);
    /// let job = client
    ///     .queue("mail")?
    ///     .enqueue_in(&reminder, Duration::from_secs(15 * 60))
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Queue::enqueue_at`].
    pub async fn enqueue_in(
        &self,
        envelope: &Envelope,
        delay: Duration,
    ) -> Result<JobId, ClientError> {
        let start = delay_for(delay, envelope.expires_at, self.client.now());
        self.enqueue_delayed(envelope, start.map_err(ClientError::InvalidDueTime)?)
            .await
    }

    /// Enqueues a job that starts at a time, or at once if that time has passed. The NATS server
    /// delays it: no naq process needs to run until then, and jobs that become due while the server
    /// is down start when it is up again.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError};
    /// # use naq_client::{Envelope, Timestamp};
    /// # async fn example(client: Client, christmas: Timestamp) -> Result<(), ClientError> {
    /// let envelope = Envelope::command("./bells.sh", ["--all"]).with_job_id("bells-2026")?;
    /// let queue = client.queue("church")?;
    /// let job = queue.enqueue_at(&envelope, christmas).await?;
    ///
    /// // until it starts, it can be paused, resumed and rescheduled
    /// client.pause_delayed_job(&job).await?;
    /// client.resume_delayed_job(&job).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Queue::enqueue`]. Returns [`ClientError::InvalidDueTime`] if the time is out of range or
    /// the job expires before it, and [`BrokerError::DueTimeConflict`] if the same envelope was
    /// enqueued under the same id for another time.
    pub async fn enqueue_at(
        &self,
        envelope: &Envelope,
        due: Timestamp,
    ) -> Result<JobId, ClientError> {
        let start = delay_until(due, envelope.expires_at, self.client.now());
        self.enqueue_delayed(envelope, start.map_err(ClientError::InvalidDueTime)?)
            .await
    }
}

impl Client {
    /// Returns up to `limit` delayed jobs of one queue or of all, queue by queue, in the order in which
    /// they were stored. `after` is the `next` of an earlier page.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError};
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let mut after = None;
    /// loop {
    ///     let page = client.list_delayed_jobs(None, after.as_ref(), 100).await?;
    ///     for job in page.delayed_jobs {
    ///         println!("{} of {}, due {:?}", job.job_id, job.queue, job.due);
    ///     }
    ///     after = page.next;
    ///     if after.is_none() {
    ///         return Ok(());
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn list_delayed_jobs(
        &self,
        queue: Option<&QueueName>,
        after: Option<&DelayedJobCursor>,
        limit: usize,
    ) -> Result<DelayedJobPage, ClientError> {
        let mut listing = self.broker.list_delayed(queue, after).await?;
        let mut page = DelayedJobPage {
            delayed_jobs: Vec::new(),
            next: None,
        };
        while let Some(delayed) = listing.next().await? {
            if page.delayed_jobs.len() >= limit {
                return Ok(page);
            }
            page.delayed_jobs.push(DelayedJobSummary::new(&delayed));
            page.next = Some(DelayedJobCursor::of(&delayed));
        }
        page.next = None;
        Ok(page)
    }

    /// Lists all delayed jobs of one queue or of all. They are read as [`DelayedJobs::next`] is called.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn delayed_jobs(
        &self,
        queue: Option<&QueueName>,
    ) -> Result<DelayedJobs, ClientError> {
        Ok(DelayedJobs {
            listing: self.broker.list_delayed(queue, None).await?,
        })
    }

    /// Returns the `limit` delayed jobs of one queue or of all that are due first, paused ones last.
    /// This reads every delayed job, which takes a while for a million of them, and keeps no more
    /// than `limit` in memory.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn next_delayed_jobs(
        &self,
        queue: Option<&QueueName>,
        limit: usize,
    ) -> Result<Vec<DelayedJobSummary>, ClientError> {
        let mut delayed_jobs = self.delayed_jobs(queue).await?;
        let mut latest: BinaryHeap<ByDue> = BinaryHeap::with_capacity(limit + 1);
        while let Some(delayed) = delayed_jobs.next().await? {
            latest.push(ByDue(delayed));
            if latest.len() > limit {
                latest.pop();
            }
        }
        let sorted = latest.into_sorted_vec();
        Ok(sorted.into_iter().map(|one| one.0).collect())
    }

    /// Returns a delayed job.
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchJob`] if the job does not exist, and [`ClientError::NotDelayed`] if
    /// it is in its queue, has started, or has ended.
    pub async fn fetch_delayed_job(&self, job: &JobId) -> Result<DelayedJobSummary, ClientError> {
        match self.locate(job).await? {
            JobLocation::Delayed(delayed) => Ok(DelayedJobSummary::new(&delayed)),
            JobLocation::Started(record, _) => Err(not_delayed(job, record.state())),
            JobLocation::Queued(_) => Err(not_delayed(job, State::Queued)),
            JobLocation::NotFound => Err(ClientError::NoSuchJob(job.clone())),
        }
    }

    /// Pauses a delayed job: it waits until it is resumed, even after its due time. A paused job stays
    /// paused.
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchJob`] if the job does not exist, [`ClientError::NotDelayed`] if it
    /// is in its queue, has started, or has ended, and [`ClientError::AlreadyDue`] if the server may
    /// be moving it into its queue at this moment.
    pub async fn pause_delayed_job(&self, job: &JobId) -> Result<DelayedJobSummary, ClientError> {
        match self.reschedule(job, RescheduleRequest::Pause).await? {
            Rescheduled::Delayed(delayed) => Ok(*delayed),
            Rescheduled::Retrying { .. } => Err(not_delayed(job, State::Retrying)),
            Rescheduled::Queued { .. } => Err(not_delayed(job, State::Queued)),
        }
    }

    /// Resumes a paused job: it starts at its due time, or at once if that has passed. A job that is
    /// not paused stays as it is.
    ///
    /// # Errors
    /// As [`Client::pause_delayed_job`].
    pub async fn resume_delayed_job(&self, job: &JobId) -> Result<Rescheduled, ClientError> {
        self.reschedule(job, RescheduleRequest::Resume).await
    }

    /// Reschedules a delayed job; it starts at once if the time has passed. A paused job gets the new
    /// due time and stays paused. A job that waits to be retried is retried at that time.
    ///
    /// # Errors
    /// As [`Client::pause_delayed_job`]. Returns [`ClientError::InvalidDueTime`] if the time is out of
    /// range or the job expires before it.
    pub async fn reschedule_delayed_job(
        &self,
        job: &JobId,
        due: Timestamp,
    ) -> Result<Rescheduled, ClientError> {
        let start = delay_until(due, None, self.now()).map_err(ClientError::InvalidDueTime)?;
        self.reschedule(job, RescheduleRequest::At(start)).await
    }

    /// Moves a delayed job into its queue now, even if it is paused; likewise a job that waits to be
    /// retried.
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchJob`] if the job does not exist, and [`ClientError::NotDelayed`] if
    /// it is in its queue, has started, or has ended.
    pub async fn run_delayed_job_now(&self, job: &JobId) -> Result<Rescheduled, ClientError> {
        self.reschedule(job, RescheduleRequest::StartNow).await
    }

    async fn reschedule(
        &self,
        job: &JobId,
        request: RescheduleRequest,
    ) -> Result<Rescheduled, ClientError> {
        let mut last = BrokerError::Conflict;
        // After a lost answer, the state that the next read finds may be the result of this call.
        let mut may_be_done = false;
        for _ in 0..ATTEMPTS_MAX {
            let tried = match self.locate(job).await? {
                JobLocation::NotFound => return Err(ClientError::NoSuchJob(job.clone())),
                JobLocation::Queued(queue) if may_be_done => {
                    return Ok(Rescheduled::Queued { queue });
                }
                JobLocation::Queued(_) => return Err(not_delayed(job, State::Queued)),
                JobLocation::Started(record, _)
                    if may_be_done && record.state() != State::Retrying =>
                {
                    let queue = record.queue;
                    return Ok(Rescheduled::Queued { queue });
                }
                JobLocation::Started(record, revision) => {
                    self.reschedule_retry(*record, revision, request).await
                }
                JobLocation::Delayed(delayed) => {
                    self.reschedule_delayed_once(&delayed, request).await
                }
            };
            match tried {
                Err(ClientError::Broker(
                    error @ (BrokerError::Conflict | BrokerError::Timeout(_)),
                )) => {
                    may_be_done |= matches!(error, BrokerError::Timeout(_));
                    last = error;
                }
                done => return done,
            }
        }
        Err(last.into())
    }

    /// Tries once to reschedule a delayed job.
    async fn reschedule_delayed_once(
        &self,
        delayed: &DelayedJob,
        request: RescheduleRequest,
    ) -> Result<Rescheduled, ClientError> {
        let now = self.now();
        let queue = delayed.queue.clone();
        match on_reschedule(delayed.due, delayed.is_paused, request, now) {
            OnReschedule::Unchanged => Ok(Rescheduled::Delayed(Box::new(DelayedJobSummary::new(
                delayed,
            )))),
            OnReschedule::Enqueue => {
                self.broker.enqueue_delayed_now(delayed).await?;
                Ok(Rescheduled::Queued { queue })
            }
            OnReschedule::TooLate(due) => Err(ClientError::AlreadyDue {
                job: delayed.job_id.clone(),
                due,
            }),
            OnReschedule::NotTimed => Err(ClientError::NoDueTime {
                job: delayed.job_id.clone(),
                schedule: delayed.schedule().to_owned(),
            }),
            OnReschedule::DelayUntil { due, is_paused } => {
                let expires_at = Envelope::parse(&delayed.payload)
                    .ok()
                    .and_then(|envelope| envelope.expires_at);
                delay_until(due, expires_at, now).map_err(ClientError::InvalidDueTime)?;
                let paused_at = is_paused.then_some(now);
                let stored_at = self
                    .broker
                    .reschedule_delayed(delayed, due, paused_at)
                    .await?;
                let was_due = delayed.due.filter(|_| !delayed.is_paused);
                if was_due.is_some_and(|due| stored_at >= due) {
                    // By the server's clock the job was already due, so the old message may be on its
                    // way into the queue. Wait for it, then check whether the new one exists.
                    tokio::time::sleep(IN_TRANSIT_MAX).await;
                    if self
                        .broker
                        .read_delayed(&queue, &delayed.job_id)
                        .await?
                        .is_none()
                    {
                        return Err(BrokerError::Conflict.into());
                    }
                }
                Ok(Rescheduled::Delayed(Box::new(DelayedJobSummary {
                    due: Some(due),
                    paused: is_paused,
                    ..DelayedJobSummary::new(delayed)
                })))
            }
        }
    }

    /// Reschedules a job that waits to be retried. The order matters: the record gets the new time
    /// first. A worker that gets a message of the job before that time delays it again, and drops
    /// duplicates, so an interruption after any step does no harm.
    async fn reschedule_retry(
        &self,
        mut record: Record,
        revision: u64,
        request: RescheduleRequest,
    ) -> Result<Rescheduled, ClientError> {
        let job = record.job_id.clone();
        let due = match request {
            RescheduleRequest::At(start) if record.state() == State::Retrying => start.due,
            RescheduleRequest::StartNow if record.state() == State::Retrying => self.now(),
            _ => return Err(not_delayed(&job, record.state())),
        };
        let is_now = !matches!(request, RescheduleRequest::At(start) if !start.is_due);
        let broker = &self.broker;
        let Some(payload) = broker.envelope_of(&record).await? else {
            // the message is being moved at this moment: try again
            return Err(BrokerError::Conflict.into());
        };
        if !record.set_next_attempt(due) {
            return Err(not_delayed(&job, record.state()));
        }
        broker.write_record(&record, revision, None).await?;
        failpoint("reschedule.written");
        let queue = record.queue;
        if is_now {
            broker.enqueue_retry_now(&queue, &job, payload).await?;
            return Ok(Rescheduled::Queued { queue });
        }
        let delayed = NewJob::with_id(job, queue.clone(), payload);
        broker.delay_retry(delayed, due, record.attempt).await?;
        Ok(Rescheduled::Retrying { queue, due })
    }

    async fn locate(&self, job: &JobId) -> Result<JobLocation, ClientError> {
        loop {
            let (record, revision) = self.broker.read_record(job).await?;
            if let Some(record) = record.filter(|record| !record.placeholder) {
                return Ok(JobLocation::Started(Box::new(record), revision));
            }
            let delayed = self.broker.find_delayed(job).await?;
            match delayed {
                // it has started and failed since the record was read
                Some(delayed) if delayed.is_retry() && self.has_changed(job, revision).await? => {
                    continue;
                }
                Some(delayed) => return Ok(JobLocation::Delayed(Box::new(delayed))),
                None => {}
            }
            match self.broker.find_message(job).await? {
                Some(message) if message.state == MessageState::Queued => {
                    return Ok(JobLocation::Queued(message.queue));
                }
                Some(_) => continue,
                None => {}
            }
            // a worker may have claimed it between the reads
            if !self.has_changed(job, revision).await? {
                return Ok(JobLocation::NotFound);
            }
        }
    }

    async fn has_changed(&self, job: &JobId, revision: u64) -> Result<bool, ClientError> {
        Ok(self.broker.read_record(job).await?.1 != revision)
    }
}

/// Where a job was found.
enum JobLocation {
    Delayed(Box<DelayedJob>),
    Queued(QueueName),
    /// The record and its revision.
    Started(Box<Record>, u64),
    NotFound,
}

fn not_delayed(job: &JobId, state: State) -> ClientError {
    ClientError::NotDelayed {
        job: job.clone(),
        state,
    }
}

/// Orders delayed jobs by due time; paused jobs and jobs without a due time come last.
struct ByDue(DelayedJobSummary);

impl ByDue {
    fn key(&self) -> (bool, Option<Timestamp>, &JobId) {
        let due = self.0.due.filter(|_| !self.0.paused);
        (due.is_none(), due, &self.0.job_id)
    }
}

impl PartialEq for ByDue {
    fn eq(&self, other: &ByDue) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ByDue {}

impl PartialOrd for ByDue {
    fn partial_cmp(&self, other: &ByDue) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByDue {
    fn cmp(&self, other: &ByDue) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}
