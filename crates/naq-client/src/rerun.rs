//! Rerunning an ended job, as a new job.

use bytes::Bytes;

use super::{Client, ClientError, Queue};
use naq_core::StartDelay;
use naq_jetstream::{DeadLetter, NewJob};
use naq_protocol::{Envelope, JobId, QueueName, Record, State};

/// A new job that reruns an ended one and is not enqueued yet.
#[derive(Debug)]
#[non_exhaustive]
pub struct Rerun {
    client: Client,
    job_id: JobId,
    rerun_of: JobId,
    queue: QueueName,
    payload: Bytes,
    /// The dead letter of the old job, which is removed once the new job is enqueued.
    failed: Option<DeadLetter>,
}

impl Rerun {
    /// Returns the new job's id.
    #[must_use]
    pub fn job_id(&self) -> &JobId {
        &self.job_id
    }

    /// Returns the job that it reruns.
    #[must_use]
    pub fn rerun_of(&self) -> &JobId {
        &self.rerun_of
    }

    /// Returns the dead letter of the old job. `None` if it has none, or has ended in another way since.
    #[must_use]
    pub fn dead_letter(&self) -> Option<&DeadLetter> {
        self.failed.as_ref()
    }

    /// Returns the envelope of the new job.
    #[must_use]
    pub fn envelope(&self) -> &[u8] {
        &self.payload
    }

    /// The same with another envelope. The id of the new job is the one of the envelope, or a new one: the id
    /// that follows from the old job stands for its own envelope.
    ///
    /// # Errors
    /// Returns [`ClientError::Invalid`] if the envelope is invalid.
    pub fn with_envelope(mut self, envelope: Vec<u8>) -> Result<Rerun, ClientError> {
        let parsed = Envelope::parse(&envelope)?;
        self.job_id = parsed.job_id.unwrap_or_else(JobId::generate);
        self.payload = envelope.into();
        Ok(self)
    }

    /// Enqueues the new job so that it starts after a delay, and keeps the dead letter of the old one. Until
    /// the new job starts, [`Client::cancel_if`] takes the retry back. The caller removes the dead letter
    /// afterwards; if it does not, another retry enqueues nothing and removes it, unless the new job was
    /// cancelled.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if the server refuses the job, which then is not enqueued.
    pub async fn enqueue_delayed(self, start: StartDelay) -> Result<JobId, ClientError> {
        let job = NewJob::with_id(self.job_id.clone(), self.queue.clone(), self.payload);
        let queue = Queue::new(self.client.clone(), self.queue);
        queue.enqueue_job(job.delayed(start)).await
    }

    /// Enqueues the new job, then removes the dead letter of the old one.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if the server refuses the job, which then is not enqueued.
    pub async fn enqueue(self) -> Result<JobId, ClientError> {
        // the id follows from the ended job, so another client may enqueue it at this moment
        let job = NewJob::with_id(self.job_id.clone(), self.queue.clone(), self.payload);
        let queue = Queue::new(self.client.clone(), self.queue);
        queue.enqueue_job(job).await?;
        if let Some(failed) = &self.failed
            && let Err(error) = self.client.broker.remove_dead_letter(failed).await
        {
            // harmless: a second retry of the dead letter enqueues the same job id
            tracing::warn!(job_id = %self.rerun_of, %error, "cannot remove the dead letter of a job that is rerun");
        }
        Ok(self.job_id)
    }
}

impl Client {
    /// Runs an ended job again: enqueues a new job with the same envelope in the same queue, and
    /// returns its id. The new job's `rerun_of` names the old job.
    ///
    /// The new envelope has no id, no `expires_at` and no dependencies. The dead letter of a failed
    /// job is removed. Clients that retry a job at the same time, or before its last rerun has ended,
    /// enqueue one job and get the same id.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError};
    /// # use naq_client::JobId;
    /// # async fn example(client: Client, job: JobId) -> Result<(), ClientError> {
    /// let again = client.retry(&job).await?;
    /// assert_eq!(client.wait(&again).await?.rerun_of, Some(job));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::NotEnded`] if the job has not ended, [`ClientError::NotRerunnable`] if
    /// its envelope is invalid, [`ClientError::NoEnvelope`] if the envelope is no longer stored, and
    /// [`ClientError::NoSuchJob`] if the job does not exist.
    pub async fn retry(&self, job: &JobId) -> Result<JobId, ClientError> {
        self.prepare_retry(job).await?.enqueue().await
    }

    /// Prepares the job that [`Client::retry`] would enqueue, so that its id is known before it runs.
    ///
    /// # Errors
    /// As [`Client::retry`].
    pub async fn prepare_retry(&self, job: &JobId) -> Result<Rerun, ClientError> {
        let (record, failed) = tokio::try_join!(
            self.broker.read_record(job),
            self.broker.read_dead_letter(job)
        )?;
        match (record.0.filter(|record| !record.placeholder), failed) {
            (Some(record), _) if !record.state().is_terminal() => Err(ClientError::NotEnded {
                job: job.clone(),
                state: record.state(),
            }),
            (record, Some(failed)) if record.as_ref().is_none_or(has_failed) => {
                self.rerun_dead_letter(failed).await
            }
            (Some(record), _) => self.rerun_recorded(record).await,
            // a job that no worker has claimed yet has no record
            (None, _) => Err(ClientError::NotEnded {
                job: job.clone(),
                state: self.fetch_job(job).await?.state(),
            }),
        }
    }

    pub(super) async fn rerun_dead_letter(&self, failed: DeadLetter) -> Result<Rerun, ClientError> {
        let bytes = self.broker.dead_letter_envelope(&failed).await?;
        let job = &failed.job_id;
        let payload = naq_protocol::rerun_envelope(&bytes, job)
            .map_err(|invalid| not_runnable(job, failed.error.as_deref(), invalid))?;
        Ok(Rerun {
            client: self.clone(),
            job_id: self.rerun_of_dead_letter(&failed).await?,
            rerun_of: job.clone(),
            queue: failed.queue.clone(),
            payload: payload.into(),
            failed: Some(failed),
        })
    }

    /// The id of the first rerun that was not cancelled. A dead letter whose rerun exists is what a crash has
    /// left, so that a second retry enqueues the same id; but a rerun that was cancelled was taken back.
    async fn rerun_of_dead_letter(&self, failed: &DeadLetter) -> Result<JobId, ClientError> {
        let mut number = 1;
        loop {
            let rerun = JobId::for_rerun(&failed.job_id, failed.enqueue_time, number);
            let (record, _) = self.broker.read_record(&rerun).await?;
            match record {
                Some(record) if record.state() == State::Cancelled => number += 1,
                _ => return Ok(rerun),
            }
        }
    }

    async fn rerun_recorded(&self, record: Record) -> Result<Rerun, ClientError> {
        let job = &record.job_id;
        let bytes = match (&record.envelope, &record.envelope_object) {
            (Some(envelope), _) => envelope.get().as_bytes().to_vec(),
            (None, Some(object)) => self.broker.get_object(object).await?,
            (None, None) => return Err(ClientError::NoEnvelope(job.clone())),
        };
        let payload = naq_protocol::rerun_envelope(&bytes, job)
            .map_err(|invalid| not_runnable(job, record.error.as_deref(), invalid))?;
        Ok(Rerun {
            client: self.clone(),
            job_id: self.next_rerun(&record).await?,
            rerun_of: job.clone(),
            queue: record.queue.clone(),
            payload: payload.into(),
            failed: None,
        })
    }

    /// The id of the first rerun of a job that does not exist or has not ended.
    async fn next_rerun(&self, record: &Record) -> Result<JobId, ClientError> {
        let mut number = 1;
        loop {
            let rerun = JobId::for_rerun(&record.job_id, record.enqueue_time, number);
            match self.fetch_job(&rerun).await {
                Ok(earlier) if earlier.state().is_terminal() => number += 1,
                Ok(_) | Err(ClientError::NoSuchJob(_)) => return Ok(rerun),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a record agrees with the existence of a dead letter. A worker that dies between writing
/// the dead letter and the record leaves a dead letter of a job that may succeed later.
pub(super) fn has_failed(record: &Record) -> bool {
    matches!(record.state(), State::Failed | State::Rejected)
}

fn not_runnable(
    job: &JobId,
    why: Option<&str>,
    source: naq_protocol::EnvelopeError,
) -> ClientError {
    ClientError::NotRerunnable {
        job: job.clone(),
        problem: match why {
            Some(why) => format!("it was rejected ({why})"),
            None => source.to_string(),
        },
        source,
    }
}
