//! Jobs that begin at a time of their own: enqueued, listed, and given other times.

use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use serde::Serialize;

use super::listing::runs;
use super::{Client, ClientError, Queue, as_json};
use naq_core::{Again, OnRetime, Retime, Standing, on_again, on_retime, start_at, start_in};
use naq_jetstream::{BrokerError, Held, HeldListing, HeldPlace, MessageState, NewJob, step};
use naq_protocol::{Envelope, JobId, QueueName, Record, State, Timestamp, says_the_same};

/// How long the server may take to put what is on its way into its queue.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// How often a change is tried while others change the job as well, or the server does not answer.
const TRIES: usize = 8;

/// A job that is held until its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OneShot {
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
    pub runs: Option<String>,
}

impl OneShot {
    fn new(held: &Held) -> OneShot {
        let labels = Envelope::parse(&held.payload).map(|envelope| envelope.labels);
        OneShot {
            job_id: held.job_id.clone(),
            queue: held.queue.clone(),
            due: held.due,
            paused: held.is_paused,
            enqueue_time: held.enqueue_time,
            labels: labels.unwrap_or_default(),
            runs: as_json(&held.payload).as_deref().and_then(runs),
        }
    }
}

/// Some one-shots of a list, and where it goes on.
#[derive(Clone, Debug)]
pub struct OneShotPage {
    /// The one-shots, in the order in which they were stored, queue by queue.
    pub one_shots: Vec<OneShot>,
    /// Where the next page begins; none where this is the last.
    pub next: Option<HeldPlace>,
}

/// All one-shots, read as they are asked for.
pub struct OneShots {
    listing: HeldListing,
}

impl OneShots {
    /// The next one; none where there are no more.
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn next(&mut self) -> Result<Option<OneShot>, ClientError> {
        Ok(self.listing.next().await?.as_ref().map(OneShot::new))
    }
}

/// What came of a wish for another time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retimed {
    /// It is held, so.
    Held(Box<OneShot>),
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
    /// # use naq::client::{Client, ClientError};
    /// # use naq::envelope::Envelope;
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
        let start = start_in(wait, envelope.expires_at, now());
        self.enqueue_starting(envelope, start.map_err(ClientError::Start)?)
            .await
    }

    /// Enqueues a job that is to begin at a time, or at once where that has passed. The server
    /// holds it: nothing of naq needs to run until then, and what was due while the server was
    /// down begins when it is back.
    ///
    /// ```no_run
    /// # use naq::client::{Client, ClientError};
    /// # use naq::envelope::{Envelope, JobId, Timestamp};
    /// # async fn example(client: Client, christmas: Timestamp) -> Result<(), ClientError> {
    /// let mut envelope = Envelope::command("./bells.sh", ["--all"]);
    /// envelope.job_id = Some(JobId::chosen("bells-2026")?);
    /// let queue = client.queue("church")?;
    /// let job = queue.enqueue_at(&envelope, christmas).await?;
    ///
    /// // until it begins, it can be given another time
    /// client.pause_one_shot(&job).await?;
    /// client.resume_one_shot(&job).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Queue::enqueue`]; [`ClientError::Start`] for a time that no server can hold it until,
    /// or by which it has expired; and [`BrokerError::OtherTime`] where the same envelope is there
    /// under the same id for another time.
    pub async fn enqueue_at(
        &self,
        envelope: &Envelope,
        due: Timestamp,
    ) -> Result<JobId, ClientError> {
        let start = start_at(due, envelope.expires_at, now());
        self.enqueue_starting(envelope, start.map_err(ClientError::Start)?)
            .await
    }
}

impl Client {
    /// Up to `limit` one-shots of one queue or of all, in the order in which they were stored,
    /// queue by queue. `after` is where an earlier page ended.
    ///
    /// ```no_run
    /// # use naq::client::{Client, ClientError};
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let mut after = None;
    /// loop {
    ///     let page = client.list_one_shots(None, after.as_ref(), 100).await?;
    ///     for job in page.one_shots {
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
    pub async fn list_one_shots(
        &self,
        queue: Option<&QueueName>,
        after: Option<&HeldPlace>,
        limit: usize,
    ) -> Result<OneShotPage, ClientError> {
        let mut listing = self.broker.list_held(queue, after).await?;
        let mut page = OneShotPage {
            one_shots: Vec::new(),
            next: None,
        };
        while let Some(held) = listing.next().await? {
            if page.one_shots.len() >= limit {
                return Ok(page);
            }
            page.one_shots.push(OneShot::new(&held));
            page.next = Some(HeldPlace::of(&held));
        }
        page.next = None;
        Ok(page)
    }

    /// All one-shots of one queue or of all, read as they are asked for.
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn one_shots(&self, queue: Option<&QueueName>) -> Result<OneShots, ClientError> {
        Ok(OneShots {
            listing: self.broker.list_held(queue, None).await?,
        })
    }

    /// The `limit` one-shots of one queue or of all that are due first, those that are paused
    /// last. Every one is looked at, and no more than these are kept: of a million it takes a
    /// while.
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn next_one_shots(
        &self,
        queue: Option<&QueueName>,
        limit: usize,
    ) -> Result<Vec<OneShot>, ClientError> {
        let mut one_shots = self.one_shots(queue).await?;
        let mut latest: BinaryHeap<ByDue> = BinaryHeap::with_capacity(limit + 1);
        while let Some(one_shot) = one_shots.next().await? {
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
    /// [`ClientError::NoSuchJob`] where there is no such job, and [`ClientError::NotHeld`] where
    /// it is in its queue, has begun, or ended.
    pub async fn fetch_one_shot(&self, job: &JobId) -> Result<OneShot, ClientError> {
        match self.look(job).await? {
            Look::Held(held) => Ok(OneShot::new(&held)),
            Look::Begun(record, _) => Err(not_held(job, record.state)),
            Look::Queued(_) => Err(not_held(job, State::Queued)),
            Look::Missing => Err(ClientError::NoSuchJob(job.clone())),
        }
    }

    /// Has a one-shot wait, whatever its time, until it is resumed. One that is paused stays so.
    ///
    /// # Errors
    /// [`ClientError::NoSuchJob`] where there is no such job; [`ClientError::NotHeld`] where it is
    /// in its queue, has begun, or ended, and [`ClientError::TimeHasCome`] where it may be about
    /// to.
    pub async fn pause_one_shot(&self, job: &JobId) -> Result<OneShot, ClientError> {
        match self.retime(job, Retime::Pause).await? {
            Retimed::Held(one_shot) => Ok(*one_shot),
            Retimed::Retrying { .. } => Err(not_held(job, State::Retrying)),
            Retimed::Queued { .. } => Err(not_held(job, State::Queued)),
        }
    }

    /// Has a one-shot that is paused begin at its time, or at once where that is over. One that is
    /// not paused stays as it is.
    ///
    /// # Errors
    /// As [`Client::pause_one_shot`].
    pub async fn resume_one_shot(&self, job: &JobId) -> Result<Retimed, ClientError> {
        self.retime(job, Retime::Resume).await
    }

    /// Gives a one-shot another time to begin at; at once where that is over. One that is paused
    /// stays so, but for that. A job that waits to be tried again is tried then.
    ///
    /// # Errors
    /// As [`Client::pause_one_shot`], and [`ClientError::Start`] for a time that no server can
    /// hold it until, or by which it has expired.
    pub async fn reschedule_one_shot(
        &self,
        job: &JobId,
        due: Timestamp,
    ) -> Result<Retimed, ClientError> {
        let start = start_at(due, None, now()).map_err(ClientError::Start)?;
        self.retime(job, Retime::At(start)).await
    }

    /// Puts a one-shot into its queue now, also where it is paused; and a job that waits to be
    /// tried again.
    ///
    /// # Errors
    /// [`ClientError::NoSuchJob`] where there is no such job, and [`ClientError::NotHeld`] where
    /// it is in its queue, has begun, or ended.
    pub async fn run_one_shot_now(&self, job: &JobId) -> Result<Retimed, ClientError> {
        self.retime(job, Retime::Begin).await
    }

    async fn retime(&self, job: &JobId, wish: Retime) -> Result<Retimed, ClientError> {
        let mut last = BrokerError::Conflict;
        // an answer got lost: what is there may be our own doing
        let mut may_be_done = false;
        for _ in 0..TRIES {
            let tried = match self.look(job).await? {
                Look::Missing => return Err(ClientError::NoSuchJob(job.clone())),
                Look::Queued(queue) if may_be_done => return Ok(Retimed::Queued { queue }),
                Look::Queued(_) => return Err(not_held(job, State::Queued)),
                Look::Begun(record, _) if may_be_done && record.state != State::Retrying => {
                    let queue = record.queue;
                    return Ok(Retimed::Queued { queue });
                }
                Look::Begun(record, revision) => self.retime_retry(*record, revision, wish).await,
                Look::Held(held) => self.retime_held(&held, wish).await,
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
    async fn retime_held(&self, held: &Held, wish: Retime) -> Result<Retimed, ClientError> {
        let now = now();
        let queue = held.queue.clone();
        match on_retime(held.due, held.is_paused, wish, now) {
            OnRetime::Keep => Ok(Retimed::Held(Box::new(OneShot::new(held)))),
            OnRetime::Begin => {
                self.broker.begin_held(held).await?;
                Ok(Retimed::Queued { queue })
            }
            OnRetime::TooLate(due) => Err(ClientError::TimeHasCome {
                job: held.job_id.clone(),
                due,
            }),
            OnRetime::NoTime => Err(ClientError::NoTime {
                job: held.job_id.clone(),
                schedule: held.schedule().to_owned(),
            }),
            OnRetime::Hold { due, is_paused } => {
                let expires_at = Envelope::parse(&held.payload)
                    .ok()
                    .and_then(|envelope| envelope.expires_at);
                start_at(due, expires_at, now).map_err(ClientError::Start)?;
                let paused_at = is_paused.then_some(now);
                let stored_at = self.broker.hold_anew(held, due, paused_at).await?;
                let was_due = held.due.filter(|_| !held.is_paused);
                if was_due.is_some_and(|due| stored_at >= due) {
                    // by the server's clock its time had come: what was on its way goes on
                    tokio::time::sleep(ON_ITS_WAY).await;
                    if self.broker.read_held(&queue, &held.job_id).await?.is_none() {
                        return Err(BrokerError::Conflict.into());
                    }
                }
                Ok(Retimed::Held(Box::new(OneShot {
                    due: Some(due),
                    paused: is_paused,
                    ..OneShot::new(held)
                })))
            }
        }
    }

    /// Does it with a job that has a record: where it waits to be tried again, its record first
    /// says when. Whatever of its messages comes before that is held again, and whatever comes
    /// once more is absorbed, so none of this can be half done.
    async fn retime_retry(
        &self,
        mut record: Record,
        revision: u64,
        wish: Retime,
    ) -> Result<Retimed, ClientError> {
        let job = record.job_id.clone();
        let due = match wish {
            Retime::At(start) if record.state == State::Retrying => start.due,
            Retime::Begin if record.state == State::Retrying => now(),
            _ => return Err(not_held(&job, record.state)),
        };
        let is_now = !matches!(wish, Retime::At(start) if !start.has_come);
        let broker = &self.broker;
        let Some(payload) = broker.envelope_of(&record).await? else {
            // it moves from one place to the next
            return Err(BrokerError::Conflict.into());
        };
        record.next_attempt_at = Some(due);
        broker.write_record(&record, revision, None).await?;
        step("retime.written");
        let queue = record.queue;
        if is_now {
            broker.begin_retry(&queue, &job, payload).await?;
            return Ok(Retimed::Queued { queue });
        }
        let held = NewJob::chosen(job, queue.clone(), payload);
        broker.hold_retry(held, due, record.attempt).await?;
        Ok(Retimed::Retrying { queue, due })
    }

    async fn look(&self, job: &JobId) -> Result<Look, ClientError> {
        loop {
            let (record, revision) = self.broker.read_record(job).await?;
            if let Some(record) = record.filter(|record| !record.placeholder) {
                return Ok(Look::Begun(Box::new(record), revision));
            }
            let held = self.broker.find_held(job).await?;
            match held {
                // it has begun since, and failed
                Some(held) if held.is_retry() && self.has_changed(job, revision).await? => continue,
                Some(held) => return Ok(Look::Held(Box::new(held))),
                None => {}
            }
            match self.broker.find_message(job).await? {
                Some(message) if message.state == MessageState::Queued => {
                    return Ok(Look::Queued(message.queue));
                }
                Some(_) => continue,
                None => {}
            }
            // a worker may have taken it between the looks
            if !self.has_changed(job, revision).await? {
                return Ok(Look::Missing);
            }
        }
    }

    async fn has_changed(&self, job: &JobId, revision: u64) -> Result<bool, ClientError> {
        Ok(self.broker.read_record(job).await?.1 != revision)
    }
}

/// Where a job was found.
enum Look {
    Held(Box<Held>),
    Queued(QueueName),
    /// Its record, and the revision of that.
    Begun(Box<Record>, u64),
    Missing,
}

fn not_held(job: &JobId, state: State) -> ClientError {
    ClientError::NotHeld {
        job: job.clone(),
        state,
    }
}

/// One-shots by when they begin; those that wait for no time come last.
struct ByDue(OneShot);

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
pub(super) async fn compare_with_earlier(
    broker: &naq_jetstream::Broker,
    job: &NewJob,
    sequence: u64,
) -> Result<(), BrokerError> {
    if let Some(earlier) = broker
        .find_earlier(&job.queue, &job.job_id, sequence)
        .await?
    {
        return same_request(job, earlier.standing(), &earlier.payload);
    }
    if let (Some(record), _) = broker.read_record(&job.job_id).await?
        && !record.placeholder
    {
        return match broker.envelope_of(&record).await? {
            Some(envelope) => same_request(job, Standing::Begun, &envelope),
            None => Ok(()),
        };
    }
    // the server minds the id, and someone has removed the job
    let again = broker.enqueue_removed(job.clone()).await?;
    match again.duplicate {
        false => Ok(()),
        true => match broker
            .find_earlier(&job.queue, &job.job_id, again.sequence)
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
    standing: Standing,
    earlier: &[u8],
) -> Result<(), BrokerError> {
    let same = says_the_same(earlier, &job.payload);
    match on_again(standing, same, job.start.as_ref()) {
        Again::Repeat => Ok(()),
        Again::Taken => Err(BrokerError::IdTaken(job.job_id.to_string())),
        Again::OtherTime(standing) => Err(BrokerError::OtherTime {
            job: job.job_id.clone(),
            standing,
        }),
    }
}

/// The wall clock: who gives a time to begin at should not have to bring the present one.
fn now() -> Timestamp {
    #[expect(
        clippy::disallowed_methods,
        reason = "a job's time is compared with the present one, here for the library's user"
    )]
    std::time::SystemTime::now().into()
}
