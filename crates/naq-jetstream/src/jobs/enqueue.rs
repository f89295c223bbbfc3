//! Enqueues jobs.

use async_nats::HeaderMap;
use bytes::Bytes;

use super::message::{EnqueueAck, NewJob, delay_until};
use crate::broker::Broker;
use crate::error::BrokerError;
use crate::stream::publish::PendingWrite;
use crate::stream::store::LeaderWait;
use crate::stream::stream_api::MessageSelector;
use naq_protocol::{QueueName, TRACEPARENT_HEADER};

impl Broker {
    /// Publishes a job to its queue, or delays it, without waiting for the server's
    /// acknowledgement, so that many publishes can be in flight.
    ///
    /// # Errors
    /// Returns an error if the message cannot be sent.
    pub async fn send_job(&self, job: NewJob) -> Result<PendingWrite, BrokerError> {
        let headers = first_headers(&job);
        let (subject, headers) = self.message_of(&job, headers);
        self.send(subject, headers, job.payload).await
    }

    /// Publishes a job again, after its acknowledgement was lost, or if the server remembers its id
    /// although its message is gone. The server stores it only if no message of the job is in the
    /// queue. (If there was one and it has been processed meanwhile, the job's record absorbs the
    /// second message.)
    async fn resend_job(&self, job: NewJob) -> Result<PendingWrite, BrokerError> {
        let (subject, headers) = self.message_of(&job, repeated_headers());
        self.send(subject, headers, job.payload).await
    }

    /// The subject of a job's message, and all its headers.
    fn message_of(&self, job: &NewJob, mut headers: HeaderMap) -> (String, HeaderMap) {
        if let Some(trace) = job.trace {
            headers.insert(TRACEPARENT_HEADER, trace.to_string());
        }
        if let Some(start) = job.start {
            headers.insert(crate::headers::SCHEDULED_FOR, start.due.to_string());
        }
        let delayed_until = job.delayed_until();
        if job.has_user_id || delayed_until.is_some() {
            // the message id detects duplicates only within the server's window; this one as long
            // as a message of the job is in the queue. And a delayed message would be replaced.
            headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        }
        let subject = match delayed_until {
            Some(due) => {
                let target = self.names.job(&job.queue, &job.job_id);
                delay_until(&mut headers, due, target);
                self.names.delayed(&job.queue, &job.job_id)
            }
            None => self.names.job(&job.queue, &job.job_id),
        };
        (subject, headers)
    }

    /// Puts another message of a job into its queue, whatever other messages it has.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
    pub async fn republish(&self, job: NewJob) -> Result<(), BrokerError> {
        let (subject, headers) = self.message_of(&job, first_headers(&job));
        self.store_job(&job.queue, subject, headers, job.payload)
            .await
            .map(drop)
    }

    /// Stores a message of a job in its queue, which existed a moment ago.
    pub(super) async fn store_job(
        &self,
        queue: &QueueName,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<EnqueueAck, BrokerError> {
        match self.store(subject, headers, payload).await {
            Ok(stored) => Ok(EnqueueAck {
                sequence: stored.sequence,
                duplicate: stored.duplicate,
            }),
            Err(BrokerError::NotFound(_)) => Err(BrokerError::QueueNotFound(queue.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Waits for the server's acknowledgement of a job that was sent.
    ///
    /// # Errors
    /// Returns [`BrokerError::QueueNotFound`] if the queue does not exist, and otherwise the reason
    /// for which the server refused the message.
    pub async fn confirm_job(
        &self,
        queue: &QueueName,
        pending: PendingWrite,
    ) -> Result<EnqueueAck, BrokerError> {
        match pending.confirmed().await {
            Ok(confirmed) => Ok(EnqueueAck {
                sequence: confirmed.sequence,
                duplicate: confirmed.duplicate,
            }),
            Err(BrokerError::NotFound(_)) => Err(BrokerError::QueueNotFound(queue.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Enqueues a job, and creates its queue if it does not exist.
    ///
    /// A publish whose acknowledgement is lost is repeated under the same id, which the server
    /// deduplicates.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
    pub async fn enqueue(&self, job: NewJob) -> Result<EnqueueAck, BrokerError> {
        let pending = self.send_job(job.clone()).await?;
        match self.confirm_job(&job.queue, pending).await {
            Err(
                error @ (BrokerError::QueueNotFound(_)
                | BrokerError::Timeout(_)
                | BrokerError::Conflict),
            ) => self.enqueue_after_error(job, error).await,
            done => done,
        }
    }

    /// Continues an enqueue that failed with this error: creates the queue if it is missing, and
    /// repeats a publish that may not have arrived, in such a way that the job is stored once.
    ///
    /// # Errors
    /// Returns the same errors as [`Broker::enqueue`].
    pub async fn enqueue_after_error(
        &self,
        job: NewJob,
        error: BrokerError,
    ) -> Result<EnqueueAck, BrokerError> {
        let mut leader = LeaderWait::default();
        let subject = self.names.job(&job.queue, &job.job_id);
        match error {
            BrokerError::QueueNotFound(_) => {
                leader.wait(&subject).await?;
                self.ensure_queue_and_consumer(&job.queue).await?;
            }
            BrokerError::Conflict => return self.existing_message(&job).await,
            _ => {}
        }
        let mut attempts_left = 3;
        loop {
            // the server recognises a chosen id by its message id, and a generated one by its
            // subject
            let pending = if job.has_user_id {
                self.send_job(job.clone()).await?
            } else {
                self.resend_job(job.clone()).await?
            };
            match self.confirm_job(&job.queue, pending).await {
                Err(BrokerError::Conflict) => return self.existing_message(&job).await,
                Err(BrokerError::QueueNotFound(_)) => {
                    leader.wait(&subject).await?;
                    self.ensure_queue_and_consumer(&job.queue).await?;
                }
                Err(BrokerError::Timeout(_)) if attempts_left > 0 => attempts_left -= 1,
                done => return done,
            }
        }
    }

    /// Enqueues a job whose id the server remembers although its message is gone and it has no
    /// record: its message was removed.
    ///
    /// # Errors
    /// Returns the same errors as [`Broker::enqueue`].
    pub async fn enqueue_after_removal(&self, job: NewJob) -> Result<EnqueueAck, BrokerError> {
        let (subject, headers) = self.message_of(&job, repeated_headers());
        let payload = job.payload.clone();
        match self.store_job(&job.queue, subject, headers, payload).await {
            Err(BrokerError::Conflict) => self.existing_message(&job).await,
            done => done,
        }
    }

    /// Finds the message that already exists under the job's id, queued or delayed, for the caller
    /// to compare. If there is none, the job has been processed, or the message is still in flight
    /// among the servers and may not arrive.
    async fn existing_message(&self, job: &NewJob) -> Result<EnqueueAck, BrokerError> {
        let stream = self.names.queue_stream(&job.queue);
        let subject = match job.delayed_until() {
            Some(_) => self.names.delayed(&job.queue, &job.job_id),
            None => self.names.job(&job.queue, &job.job_id),
        };
        let existing = self
            .read_message(&stream, MessageSelector::NextBySubject(&subject, 1))
            .await?;
        let existing = match existing {
            Some(message) => Some(message.sequence),
            // it may have moved into the queue meanwhile
            None => self
                .find_in_queue(&job.queue, &job.job_id)
                .await?
                .map(|message| message.sequence),
        };
        let sequence = match existing {
            Some(sequence) => sequence,
            None if self.read_record(&job.job_id).await?.0.is_some() => 0,
            None => return Err(BrokerError::Timeout("storing a message")),
        };
        Ok(EnqueueAck {
            sequence,
            duplicate: true,
        })
    }
}

/// The headers of a job's first message that depend on its id.
fn first_headers(job: &NewJob) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if job.has_user_id {
        // also if a job with this id is queued and the new one is delayed, or the other way
        // round: the server remembers the ids of a whole stream
        headers.insert(async_nats::header::NATS_MESSAGE_ID, job.job_id.as_str());
    }
    headers
}

/// The headers of a message that is stored only if no message of the job is.
fn repeated_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
    headers
}
