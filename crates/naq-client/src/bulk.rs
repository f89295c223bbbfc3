//! Enqueueing many jobs without waiting for each.

use std::collections::{HashSet, VecDeque};

use tokio::time::{Instant, timeout_at};

use super::existing_job::compare_with_existing;
use super::{Client, ClientError};
use naq_jetstream::{Broker, BrokerError, EnqueueAck, NewJob, PendingWrite, REQUEST_TIMEOUT};
use naq_protocol::JobId;

/// A job that was sent, and the pending answer of the server.
struct PendingEnqueue {
    job: NewJob,
    answer: PendingWrite,
    sent_at: Instant,
    /// Whether this is the second try, after its queue was created.
    is_repeated: bool,
}

impl Client {
    /// Starts to enqueue many jobs without waiting for each.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, NewJob, QueueName};
    /// # async fn example(client: Client) -> Result<(), ClientError> {
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

/// Enqueues many jobs at once, bounded in number and bytes. [`Client::bulk`](crate::Client::bulk)
/// starts it.
pub struct BulkEnqueue {
    broker: Broker,
    /// In the order in which they were sent, which is the order of the answers.
    pending: VecDeque<PendingEnqueue>,
    pending_bytes: usize,
    /// When the server last accepted a job.
    last_ack_at: Instant,
    failed: VecDeque<(JobId, BrokerError)>,
    confirmed: Vec<JobId>,
    enqueued: u64,
    duplicates: u64,
}

/// How many enqueues may be unanswered at the same time.
const BULK_JOBS_MAX: usize = 4_096;

/// How many bytes of envelopes may be unanswered at the same time.
const BULK_BYTES_MAX: usize = 32 << 20;

impl BulkEnqueue {
    pub(super) fn new(broker: Broker) -> BulkEnqueue {
        BulkEnqueue {
            broker,
            pending: VecDeque::new(),
            pending_bytes: 0,
            last_ack_at: Instant::now(),
            failed: VecDeque::new(),
            confirmed: Vec::new(),
            enqueued: 0,
            duplicates: 0,
        }
    }

    /// Sends one more job. Waits for earlier ones first if too many are unanswered.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if the connection is closed for good. A job that the server
    /// refuses is no error here; [`BulkEnqueue::take_rejected`] returns it.
    pub async fn push(&mut self, job: NewJob) -> Result<(), ClientError> {
        while self.pending.len() >= BULK_JOBS_MAX
            || (self.pending_bytes > 0 && self.pending_bytes + job.payload.len() > BULK_BYTES_MAX)
        {
            self.take_one().await?;
        }
        Ok(self.send(job, false).await?)
    }

    async fn send(&mut self, job: NewJob, is_repeated: bool) -> Result<(), BrokerError> {
        let answer = match self.broker.send_job(job.clone()).await {
            Ok(answer) => answer,
            Err(error @ BrokerError::TooLarge { .. }) => {
                self.failed.push_back((job.job_id, error));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.pending_bytes += job.payload.len();
        self.pending.push_back(PendingEnqueue {
            job,
            answer,
            sent_at: Instant::now(),
            is_repeated,
        });
        Ok(())
    }

    async fn take_one(&mut self) -> Result<(), BrokerError> {
        match self.pending.pop_front() {
            Some(sent) => match self.take_answer(sent).await? {
                Some(missed) => self.make_queue(missed).await,
                None => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// Waits for the answer for a job. Returns the job if its queue has to be created first.
    async fn take_answer(&mut self, sent: PendingEnqueue) -> Result<Option<NewJob>, BrokerError> {
        let PendingEnqueue {
            job,
            answer,
            sent_at,
            is_repeated,
        } = sent;
        // Answers arrive in the order of the requests. If the last answer is long past, all requests
        // that were unanswered then are lost together, so they do not time out one after another.
        let lost_at = sent_at.max(self.last_ack_at) + REQUEST_TIMEOUT;
        let answered = timeout_at(lost_at, self.broker.confirm_job(&job.queue, answer)).await;
        let confirmed = answered.unwrap_or(Err(BrokerError::Timeout("storing a message")));
        if confirmed.is_ok() {
            self.last_ack_at = Instant::now();
        }
        self.pending_bytes -= job.payload.len();
        match confirmed {
            Ok(enqueued) => self.take_enqueued(job, enqueued).await?,
            Err(BrokerError::QueueNotFound(_)) if !is_repeated => return Ok(Some(job)),
            Err(
                error @ (BrokerError::QueueNotFound(_)
                | BrokerError::Timeout(_)
                | BrokerError::Conflict),
            ) => match self.broker.enqueue_after_error(job.clone(), error).await {
                Ok(enqueued) => self.take_enqueued(job, enqueued).await?,
                Err(error) => self.failed.push_back((job.job_id, error)),
            },
            Err(error) => self.failed.push_back((job.job_id, error)),
        }
        Ok(None)
    }

    /// Creates the queue of a job that found none, once, and sends again, in their order, all jobs
    /// that were sent before the queue existed.
    async fn make_queue(&mut self, first: NewJob) -> Result<(), BrokerError> {
        let mut made = HashSet::new();
        let mut missed = vec![first];
        for sent in std::mem::take(&mut self.pending) {
            missed.extend(self.take_answer(sent).await?);
        }
        for job in missed {
            if made.insert(job.queue.clone())
                && let Err(error) = self.broker.ensure_queue_and_consumer(&job.queue).await
            {
                made.remove(&job.queue);
                self.failed.push_back((job.job_id, error));
                continue;
            }
            self.send(job, true).await?;
        }
        Ok(())
    }

    /// Counts a job that the server has stored, unless what it stored is another job under its id.
    async fn take_enqueued(
        &mut self,
        job: NewJob,
        enqueued: EnqueueAck,
    ) -> Result<(), BrokerError> {
        if enqueued.duplicate
            && job.has_user_id
            && let Err(error) = compare_with_existing(&self.broker, &job, enqueued.sequence).await
        {
            self.failed.push_back((job.job_id, error));
            return Ok(());
        }
        self.count(job.job_id, enqueued);
        Ok(())
    }

    fn count(&mut self, job_id: JobId, enqueued: EnqueueAck) {
        self.enqueued += 1;
        self.duplicates += u64::from(enqueued.duplicate);
        self.confirmed.push(job_id);
    }

    /// Returns the jobs that the server has confirmed since the last call, in the order in which they
    /// were sent.
    pub fn take_confirmed(&mut self) -> Vec<JobId> {
        std::mem::take(&mut self.confirmed)
    }

    /// Waits until the server has answered for every job. Returns how many jobs are enqueued.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if the connection is closed for good.
    pub async fn finish(&mut self) -> Result<u64, ClientError> {
        while !self.pending.is_empty() {
            self.take_one().await?;
        }
        Ok(self.enqueued)
    }

    /// Returns how many jobs are enqueued so far, duplicates included.
    #[must_use]
    pub fn enqueued(&self) -> u64 {
        self.enqueued
    }

    /// Returns how many of the enqueued jobs the server already had.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Returns the next job that was refused, and why. `None` means that there are no more.
    pub fn take_rejected(&mut self) -> Option<(JobId, ClientError)> {
        let (job_id, error) = self.failed.pop_front()?;
        Some((job_id, error.into()))
    }
}
