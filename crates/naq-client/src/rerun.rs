//! Running an ended job again, as a job of its own.

use bytes::Bytes;

use super::{Client, ClientError};
use naq_jetstream::{DeadLetter, NewJob};
use naq_protocol::{JobId, QueueName, Record, State};

/// A job that repeats another, and is not enqueued yet.
#[derive(Debug)]
pub struct Rerun {
    client: Client,
    job_id: JobId,
    rerun_of: JobId,
    queue: QueueName,
    payload: Bytes,
    /// What the failed stream has of the old job, and loses once the new one is enqueued.
    failed: Option<DeadLetter>,
}

impl Rerun {
    /// The new job's id.
    #[must_use]
    pub fn job_id(&self) -> &JobId {
        &self.job_id
    }

    /// The job it repeats.
    #[must_use]
    pub fn rerun_of(&self) -> &JobId {
        &self.rerun_of
    }

    /// Enqueues it. The old job's entry leaves the failed stream.
    ///
    /// # Errors
    /// Where the server refuses the job, which then is not enqueued.
    pub async fn enqueue(self) -> Result<JobId, ClientError> {
        let broker = &self.client.broker;
        broker
            .enqueue(NewJob {
                job_id: self.job_id.clone(),
                queue: self.queue,
                payload: self.payload,
                // an id out of the failed stream may be enqueued by another at this moment
                has_user_id: self.failed.is_some(),
                start: None,
            })
            .await?;
        if let Some(failed) = &self.failed
            && let Err(error) = broker.remove_dead_letter(failed).await
        {
            // enqueued it is, and a second retry of the entry makes the same job
            tracing::warn!(job_id = %self.rerun_of, "stays in the failed stream: {error}");
        }
        Ok(self.job_id)
    }
}

impl Client {
    /// Runs an ended job again: a new job with the same envelope, at once, in the same queue. It
    /// tells by `rerun_of` which job it repeats. Returns its id.
    ///
    /// Left out of the envelope are the id, `expires_at`, and what the old job waited for. A job
    /// that is repeated out of the failed stream leaves it, and two who do so at the same time
    /// make one job.
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
    /// [`ClientError::NotEnded`] for a job that has not ended, [`ClientError::NotRerunnable`] for
    /// one that was rejected and would be again, [`ClientError::NoEnvelope`] where the envelope
    /// was not kept, [`ClientError::NoSuchJob`] where there is no such job.
    pub async fn retry(&self, job: &JobId) -> Result<JobId, ClientError> {
        self.prepare_retry(job).await?.enqueue().await
    }

    /// The job that [`Client::retry`] would enqueue: its id is known before it is there.
    ///
    /// # Errors
    /// As [`Client::retry`].
    pub async fn prepare_retry(&self, job: &JobId) -> Result<Rerun, ClientError> {
        let (record, failed) = tokio::try_join!(
            self.broker.read_record(job),
            self.broker.read_dead_letter(job)
        )?;
        match (record.0.filter(|record| !record.placeholder), failed) {
            (Some(record), _) if !record.state.is_terminal() => Err(ClientError::NotEnded {
                job: job.clone(),
                state: record.state,
            }),
            (record, Some(failed)) if record.as_ref().is_none_or(has_failed) => {
                self.rerun_dead_letter(failed).await
            }
            (Some(record), _) => self.rerun_recorded(record).await,
            // one that no worker has taken has no record
            (None, _) => Err(ClientError::NotEnded {
                job: job.clone(),
                state: self.fetch_job(job).await?.state,
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
            job_id: JobId::for_rerun(job, failed.sequence, failed.time.unix_ms()),
            rerun_of: job.clone(),
            queue: failed.queue.clone(),
            payload: payload.into(),
            failed: Some(failed),
        })
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
            job_id: JobId::generate(),
            rerun_of: job.clone(),
            queue: record.queue.clone(),
            payload: payload.into(),
            failed: None,
        })
    }
}

/// Whether a record says what an entry of the failed stream says. Where a worker dies between the
/// two, the job may end otherwise than the entry has it.
pub(super) fn has_failed(record: &Record) -> bool {
    matches!(record.state, State::Failed | State::Rejected)
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
