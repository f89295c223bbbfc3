//! Jobs that begin at a time of their own: enqueued, listed, and given other times.

use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use serde::Serialize;

use super::client::as_json;
use super::listing::command;
use super::{Client, ClientError, Queue};
use naq_core::{
    ExistingJob, OnReenqueue, OnReschedule, RescheduleRequest, delay_for, delay_until,
    on_reenqueue, on_reschedule,
};
use naq_jetstream::{
    BrokerError, DelayedJob, DelayedJobCursor, DelayedJobListing, MessageState, NewJob, failpoint,
};
use naq_protocol::{Envelope, JobId, QueueName, Record, State, Timestamp, is_equivalent};

/// How long the server may take to put what is on its way into its queue.
const IN_TRANSIT_MAX: Duration = Duration::from_secs(2);

/// How often a change is tried while others change the job as well, or the server does not answer.
const ATTEMPTS_MAX: usize = 8;

/// A job that is held until its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DelayedJobSummary {
    /// The job.
    pub job_id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// When it is to begin; none where another program had the server hold it by something else
    /// than a time. For one that is paused it may be over.
    pub due: Option<Timestamp>,
    /// It waits, whatever the time, until it is resumed.
    pub paused: bool,
    /// When it was enqueued.
    pub enqueue_time: Timestamp,
    /// The envelope's labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What it runs, in one line; none where its envelope is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl DelayedJobSummary {
    fn new(held: &DelayedJob) -> DelayedJobSummary {
        let labels = Envelope::parse(&held.payload).map(|envelope| envelope.labels);
        DelayedJobSummary {
            job_id: held.job_id.clone(),
            queue: held.queue.clone(),
            due: held.due,
            paused: held.is_paused,
            enqueue_time: held.enqueue_time,
            labels: labels.unwrap_or_default(),
            command: as_json(&held.payload).as_deref().and_then(command),
        }
    }
}

/// Some one-shots of a list, and where it goes on.
#[derive(Clone, Debug)]
pub struct DelayedJobPage {
    /// The one-shots, in the order in which they were stored, queue by queue.
    pub delayed_jobs: Vec<DelayedJobSummary>,
    /// Where the next page begins; none where this is the last.
    pub next: Option<DelayedJobCursor>,
}

/// All one-shots, read as they are asked for.
pub struct DelayedJobs {
    listing: DelayedJobListing,
}

impl DelayedJobs {
    /// The next one; none where there are no more.
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn next(&mut self) -> Result<Option<DelayedJobSummary>, ClientError> {
        Ok(self
            .listing
            .next()
            .await?
            .as_ref()
            .map(DelayedJobSummary::new))
    }
}

/// What came of a wish for another time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rescheduled {
    /// It is held, so.
    Delayed(Box<DelayedJobSummary>),
    /// It waits to be tried again, until then.
    Retrying {
        /// Its queue.
        queue: QueueName,
        /// When.
        due: Timestamp,
    },
    /// It is in its queue.
    Queued {
        /// The queue.
        queue: QueueName,
    },
}

impl Queue {
    /// Enqueues a job that is to begin after a while, as [`Queue::enqueue_at`] does. The same
    /// envelope under the same id is a repeat of the same request for as long as the job is held,
    /// and the first time stands.
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
        wait: Duration,
    ) -> Result<JobId, ClientError> {
        let start = delay_for(wait, envelope.expires_at, self.client.now());
        self.enqueue_delayed(envelope, start.map_err(ClientError::InvalidDueTime)?)
            .await
    }

    /// Enqueues a job that is to begin at a time, or at once where that has passed. The server
    /// holds it: nothing of naq needs to run until then, and what was due while the server was
    /// down begins when it is back.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError};
    /// # use naq_client::{Envelope, JobId, Timestamp};
    /// # async fn example(client: Client, christmas: Timestamp) -> Result<(), ClientError> {
    /// let mut envelope = Envelope::command("./bells.sh", ["--all"]);
    /// envelope.job_id = Some(JobId::from_user("bells-2026")?);
    /// let queue = client.queue("church")?;
    /// let job = queue.enqueue_at(&envelope, christmas).await?;
    ///
    /// // until it begins, it can be given another time
    /// client.pause_delayed_job(&job).await?;
    /// client.resume_delayed_job(&job).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Queue::enqueue`]; [`ClientError::InvalidDueTime`] for a time that no server can hold it until,
    /// or by which it has expired; and [`BrokerError::DueTimeConflict`] where the same envelope is there
    /// under the same id for another time.
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
    /// Up to `limit` one-shots of one queue or of all, in the order in which they were stored,
    /// queue by queue. `after` is where an earlier page ended.
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
    /// Where NATS does not answer.
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
        while let Some(held) = listing.next().await? {
            if page.delayed_jobs.len() >= limit {
                return Ok(page);
            }
            page.delayed_jobs.push(DelayedJobSummary::new(&held));
            page.next = Some(DelayedJobCursor::of(&held));
        }
        page.next = None;
        Ok(page)
    }

    /// All one-shots of one queue or of all, read as they are asked for.
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn delayed_jobs(
        &self,
        queue: Option<&QueueName>,
    ) -> Result<DelayedJobs, ClientError> {
        Ok(DelayedJobs {
            listing: self.broker.list_delayed(queue, None).await?,
        })
    }

    /// The `limit` one-shots of one queue or of all that are due first, those that are paused
    /// last. Every one is looked at, and no more than these are kept: of a million it takes a
    /// while.
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn next_delayed_jobs(
        &self,
        queue: Option<&QueueName>,
        limit: usize,
    ) -> Result<Vec<DelayedJobSummary>, ClientError> {
        let mut delayed_jobs = self.delayed_jobs(queue).await?;
        let mut latest: BinaryHeap<ByDue> = BinaryHeap::with_capacity(limit + 1);
        while let Some(one_shot) = delayed_jobs.next().await? {
            latest.push(ByDue(one_shot));
            if latest.len() > limit {
                latest.pop();
            }
        }
        let sorted = latest.into_sorted_vec();
        Ok(sorted.into_iter().map(|one| one.0).collect())
    }

    /// A job that is held until its time.
    ///
    /// # Errors
    /// [`ClientError::NoSuchJob`] where there is no such job, and [`ClientError::NotDelayed`] where
    /// it is in its queue, has begun, or ended.
    pub async fn fetch_delayed_job(&self, job: &JobId) -> Result<DelayedJobSummary, ClientError> {
        match self.locate(job).await? {
            JobLocation::Delayed(held) => Ok(DelayedJobSummary::new(&held)),
            JobLocation::Started(record, _) => Err(not_delayed(job, record.state)),
            JobLocation::Queued(_) => Err(not_delayed(job, State::Queued)),
            JobLocation::NotFound => Err(ClientError::NoSuchJob(job.clone())),
        }
    }

    /// Has a one-shot wait, whatever its time, until it is resumed. One that is paused stays so.
    ///
    /// # Errors
    /// [`ClientError::NoSuchJob`] where there is no such job; [`ClientError::NotDelayed`] where it is
    /// in its queue, has begun, or ended, and [`ClientError::AlreadyDue`] where it may be about
    /// to.
    pub async fn pause_delayed_job(&self, job: &JobId) -> Result<DelayedJobSummary, ClientError> {
        match self.reschedule(job, RescheduleRequest::Pause).await? {
            Rescheduled::Delayed(one_shot) => Ok(*one_shot),
            Rescheduled::Retrying { .. } => Err(not_delayed(job, State::Retrying)),
            Rescheduled::Queued { .. } => Err(not_delayed(job, State::Queued)),
        }
    }

    /// Has a one-shot that is paused begin at its time, or at once where that is over. One that is
    /// not paused stays as it is.
    ///
    /// # Errors
    /// As [`Client::pause_delayed_job`].
    pub async fn resume_delayed_job(&self, job: &JobId) -> Result<Rescheduled, ClientError> {
        self.reschedule(job, RescheduleRequest::Resume).await
    }

    /// Gives a one-shot another time to begin at; at once where that is over. One that is paused
    /// stays so, but for that. A job that waits to be tried again is tried then.
    ///
    /// # Errors
    /// As [`Client::pause_delayed_job`], and [`ClientError::InvalidDueTime`] for a time that no server can
    /// hold it until, or by which it has expired.
    pub async fn reschedule_delayed_job(
        &self,
        job: &JobId,
        due: Timestamp,
    ) -> Result<Rescheduled, ClientError> {
        let start = delay_until(due, None, self.now()).map_err(ClientError::InvalidDueTime)?;
        self.reschedule(job, RescheduleRequest::At(start)).await
    }

    /// Puts a one-shot into its queue now, also where it is paused; and a job that waits to be
    /// tried again.
    ///
    /// # Errors
    /// [`ClientError::NoSuchJob`] where there is no such job, and [`ClientError::NotDelayed`] where
    /// it is in its queue, has begun, or ended.
    pub async fn run_delayed_job_now(&self, job: &JobId) -> Result<Rescheduled, ClientError> {
        self.reschedule(job, RescheduleRequest::StartNow).await
    }

    async fn reschedule(
        &self,
        job: &JobId,
        wish: RescheduleRequest,
    ) -> Result<Rescheduled, ClientError> {
        let mut last = BrokerError::Conflict;
        // an answer got lost: what is there may be our own doing
        let mut may_be_done = false;
        for _ in 0..ATTEMPTS_MAX {
            let tried = match self.locate(job).await? {
                JobLocation::NotFound => return Err(ClientError::NoSuchJob(job.clone())),
                JobLocation::Queued(queue) if may_be_done => {
                    return Ok(Rescheduled::Queued { queue });
                }
                JobLocation::Queued(_) => return Err(not_delayed(job, State::Queued)),
                JobLocation::Started(record, _)
                    if may_be_done && record.state != State::Retrying =>
                {
                    let queue = record.queue;
                    return Ok(Rescheduled::Queued { queue });
                }
                JobLocation::Started(record, revision) => {
                    self.reschedule_retry(*record, revision, wish).await
                }
                JobLocation::Delayed(held) => self.reschedule_delayed_once(&held, wish).await,
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

    /// Does it with a one-shot, once.
    async fn reschedule_delayed_once(
        &self,
        held: &DelayedJob,
        wish: RescheduleRequest,
    ) -> Result<Rescheduled, ClientError> {
        let now = self.now();
        let queue = held.queue.clone();
        match on_reschedule(held.due, held.is_paused, wish, now) {
            OnReschedule::Unchanged => {
                Ok(Rescheduled::Delayed(Box::new(DelayedJobSummary::new(held))))
            }
            OnReschedule::Enqueue => {
                self.broker.enqueue_delayed_now(held).await?;
                Ok(Rescheduled::Queued { queue })
            }
            OnReschedule::TooLate(due) => Err(ClientError::AlreadyDue {
                job: held.job_id.clone(),
                due,
            }),
            OnReschedule::NotTimed => Err(ClientError::NoDueTime {
                job: held.job_id.clone(),
                schedule: held.schedule().to_owned(),
            }),
            OnReschedule::DelayUntil { due, is_paused } => {
                let expires_at = Envelope::parse(&held.payload)
                    .ok()
                    .and_then(|envelope| envelope.expires_at);
                delay_until(due, expires_at, now).map_err(ClientError::InvalidDueTime)?;
                let paused_at = is_paused.then_some(now);
                let stored_at = self.broker.reschedule_delayed(held, due, paused_at).await?;
                let was_due = held.due.filter(|_| !held.is_paused);
                if was_due.is_some_and(|due| stored_at >= due) {
                    // by the server's clock its time had come: what was on its way goes on
                    tokio::time::sleep(IN_TRANSIT_MAX).await;
                    if self
                        .broker
                        .read_delayed(&queue, &held.job_id)
                        .await?
                        .is_none()
                    {
                        return Err(BrokerError::Conflict.into());
                    }
                }
                Ok(Rescheduled::Delayed(Box::new(DelayedJobSummary {
                    due: Some(due),
                    paused: is_paused,
                    ..DelayedJobSummary::new(held)
                })))
            }
        }
    }

    /// Does it with a job that has a record: where it waits to be tried again, its record first
    /// says when. Whatever of its messages comes before that is held again, and whatever comes
    /// once more is absorbed, so none of this can be half done.
    async fn reschedule_retry(
        &self,
        mut record: Record,
        revision: u64,
        wish: RescheduleRequest,
    ) -> Result<Rescheduled, ClientError> {
        let job = record.job_id.clone();
        let due = match wish {
            RescheduleRequest::At(start) if record.state == State::Retrying => start.due,
            RescheduleRequest::StartNow if record.state == State::Retrying => self.now(),
            _ => return Err(not_delayed(&job, record.state)),
        };
        let is_now = !matches!(wish, RescheduleRequest::At(start) if !start.is_due);
        let broker = &self.broker;
        let Some(payload) = broker.envelope_of(&record).await? else {
            // it moves from one place to the next
            return Err(BrokerError::Conflict.into());
        };
        record.next_attempt_at = Some(due);
        broker.write_record(&record, revision, None).await?;
        failpoint("reschedule.written");
        let queue = record.queue;
        if is_now {
            broker.enqueue_retry_now(&queue, &job, payload).await?;
            return Ok(Rescheduled::Queued { queue });
        }
        let held = NewJob::with_id(job, queue.clone(), payload);
        broker.delay_retry(held, due, record.attempt).await?;
        Ok(Rescheduled::Retrying { queue, due })
    }

    async fn locate(&self, job: &JobId) -> Result<JobLocation, ClientError> {
        loop {
            let (record, revision) = self.broker.read_record(job).await?;
            if let Some(record) = record.filter(|record| !record.placeholder) {
                return Ok(JobLocation::Started(Box::new(record), revision));
            }
            let held = self.broker.find_delayed(job).await?;
            match held {
                // it has begun since, and failed
                Some(held) if held.is_retry() && self.has_changed(job, revision).await? => continue,
                Some(held) => return Ok(JobLocation::Delayed(Box::new(held))),
                None => {}
            }
            match self.broker.find_message(job).await? {
                Some(message) if message.state == MessageState::Queued => {
                    return Ok(JobLocation::Queued(message.queue));
                }
                Some(_) => continue,
                None => {}
            }
            // a worker may have taken it between the looks
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
    /// Its record, and the revision of that.
    Started(Box<Record>, u64),
    NotFound,
}

fn not_delayed(job: &JobId, state: State) -> ClientError {
    ClientError::NotDelayed {
        job: job.clone(),
        state,
    }
}

/// One-shots by when they begin; those that wait for no time come last.
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

/// Compares a job that is enqueued with what stands under its id already, at that sequence of the
/// queue's stream or wherever it has moved on to: fine where the two are the same request.
pub(super) async fn compare_with_existing(
    broker: &naq_jetstream::Broker,
    job: &NewJob,
    sequence: u64,
) -> Result<(), BrokerError> {
    if let Some(earlier) = broker
        .find_existing(&job.queue, &job.job_id, sequence)
        .await?
    {
        return same_request(job, earlier.standing(), &earlier.payload);
    }
    if let (Some(record), _) = broker.read_record(&job.job_id).await?
        && !record.placeholder
    {
        return match broker.envelope_of(&record).await? {
            Some(envelope) => same_request(job, ExistingJob::Started, &envelope),
            None => Ok(()),
        };
    }
    // the server minds the id, and someone has removed the job
    let again = broker.enqueue_after_removal(job.clone()).await?;
    match again.duplicate {
        false => Ok(()),
        true => match broker
            .find_existing(&job.queue, &job.job_id, again.sequence)
            .await?
        {
            Some(earlier) => same_request(job, earlier.standing(), &earlier.payload),
            None => Ok(()),
        },
    }
}

/// Fine where a job that is enqueued is the same request as the one that stands under its id.
pub(super) fn same_request(
    job: &NewJob,
    standing: ExistingJob,
    earlier: &[u8],
) -> Result<(), BrokerError> {
    let same = is_equivalent(earlier, &job.payload);
    match on_reenqueue(standing, same, job.start.as_ref()) {
        OnReenqueue::Duplicate => Ok(()),
        OnReenqueue::IdConflict => Err(BrokerError::JobIdConflict(job.job_id.to_string())),
        OnReenqueue::DifferentTime(standing) => Err(BrokerError::DueTimeConflict {
            job: job.job_id.clone(),
            standing,
        }),
    }
}
