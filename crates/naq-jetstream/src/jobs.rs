//! Jobs in their queues: enqueue, find and remove their messages.

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::blocked_index::RECHECK_HEADER;
use super::delayed::{SCHEDULED_FOR_HEADER, delay_until, delayed_state, scheduled_for};
use super::delivery::is_rerouted;
use super::label_routes::ENQUEUE_TIME_HEADER;
use super::publish::PendingWrite;
use super::stream_api::{MessageSelector, StoredMessage};
use super::{Broker, BrokerError};
use naq_core::{ExistingJob, StartDelay};
use naq_protocol::{JobId, QueueName, Record, Timestamp};

/// A job to be enqueued.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The job's id; it becomes the last token of the subject.
    pub job_id: JobId,
    /// The queue that the job goes to.
    pub queue: QueueName,
    /// The envelope's bytes, as the producer wrote them.
    pub payload: Bytes,
    /// Whether a user chose the id and may have used it before, so that the server has to detect
    /// duplicates.
    pub has_user_id: bool,
    /// When the job starts. `None` means at once.
    pub start: Option<StartDelay>,
}

impl NewJob {
    /// A job with a generated id, which no other job has.
    #[must_use]
    pub fn new(queue: QueueName, payload: Bytes) -> NewJob {
        NewJob {
            job_id: JobId::generate(),
            queue,
            payload,
            has_user_id: false,
            start: None,
        }
    }

    /// A job with an id that a user chose.
    #[must_use]
    pub fn with_id(job_id: JobId, queue: QueueName, payload: Bytes) -> NewJob {
        NewJob {
            job_id,
            queue,
            payload,
            has_user_id: true,
            start: None,
        }
    }

    /// The same job, delayed until `start`.
    #[must_use]
    pub fn delayed(mut self, start: StartDelay) -> NewJob {
        self.start = Some(start);
        self
    }

    /// The time until which the job is delayed. `None` if it goes into its queue at once.
    #[must_use]
    pub fn delayed_until(&self) -> Option<Timestamp> {
        self.start
            .filter(|start| !start.is_due)
            .map(|start| start.due)
    }
}

/// The server's acknowledgement of an enqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnqueueAck {
    /// The sequence of the job's message in its queue.
    pub sequence: u64,
    /// Whether a message with this id existed already; the sequence is that message's.
    pub duplicate: bool,
}

/// Where a job's message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageState {
    /// In the queue.
    Queued,
    /// Delayed until its time.
    Delayed {
        /// When the job starts. `None` if the server's rule is not a time.
        due: Option<Timestamp>,
        /// Whether the job is paused: it is delayed beyond its time, until it is resumed.
        is_paused: bool,
        /// Whether the job waits for a retry.
        is_retry: bool,
    },
}

/// A job's message, as stored in its queue.
#[derive(Clone, Debug)]
pub struct JobMessage {
    /// The queue.
    pub queue: QueueName,
    /// Its sequence in the queue's stream.
    pub sequence: u64,
    /// The envelope's bytes.
    pub payload: Bytes,
    /// When the server stored the job's first message.
    pub time: Timestamp,
    /// Whether the message is queued or delayed.
    pub state: MessageState,
    /// The time until which the job is or was delayed. `None` if it was never delayed.
    pub scheduled_for: Option<Timestamp>,
}

impl JobMessage {
    /// The state of the job, to decide what enqueueing it again does.
    #[must_use]
    pub fn standing(&self) -> ExistingJob {
        match self.state {
            MessageState::Queued => ExistingJob::Queued {
                scheduled_for: self.scheduled_for,
            },
            MessageState::Delayed { due, is_retry, .. } => ExistingJob::Delayed { due, is_retry },
        }
    }
}

impl Broker {
    /// Publishes a job to its queue, or delays it, without waiting for the server's
    /// acknowledgement, so that many publishes can be in flight.
    ///
    /// # Errors
    /// Returns an error if the message cannot be sent.
    pub async fn send_job(&self, job: NewJob) -> Result<PendingWrite, BrokerError> {
        let mut headers = HeaderMap::new();
        if job.has_user_id {
            // also if a job with this id is queued and the new one is delayed, or the other way
            // round: the server remembers the ids of a whole stream
            headers.insert(async_nats::header::NATS_MESSAGE_ID, job.job_id.as_str());
        }
        self.send_with(job, headers).await
    }

    /// Publishes a job again, after its acknowledgement was lost, or if the server remembers its id
    /// although its message is gone. The server stores it only if no message of the job is in the
    /// queue. (If there was one and it has been processed meanwhile, the job's record absorbs the
    /// second message.)
    async fn resend_job(&self, job: NewJob) -> Result<PendingWrite, BrokerError> {
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        self.send_with(job, headers).await
    }

    async fn send_with(
        &self,
        job: NewJob,
        mut headers: HeaderMap,
    ) -> Result<PendingWrite, BrokerError> {
        if let Some(start) = job.start {
            headers.insert(SCHEDULED_FOR_HEADER, start.due.to_string());
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
        self.send(subject, headers, job.payload).await
    }

    /// Puts another message of a job into its queue, whatever other messages it has.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
    pub async fn republish(&self, job: NewJob) -> Result<(), BrokerError> {
        let queue = job.queue.clone();
        let pending = self.send_job(job).await?;
        self.confirm_job(&queue, pending).await.map(|_| ())
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
            Err(BrokerError::Timeout(doing)) => Err(self.timeout_error(doing)),
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
        match error {
            BrokerError::QueueNotFound(_) => self.ensure_queue(&job.queue).await?,
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
                Err(BrokerError::QueueNotFound(_)) if attempts_left > 0 => {
                    self.ensure_queue(&job.queue).await?;
                }
                Err(BrokerError::Timeout(_)) if attempts_left > 0 => {}
                done => return done,
            }
            attempts_left -= 1;
        }
    }

    /// Enqueues a job whose id the server remembers although its message is gone and it has no
    /// record: its message was removed.
    ///
    /// # Errors
    /// Returns the same errors as [`Broker::enqueue`].
    pub async fn enqueue_after_removal(&self, job: NewJob) -> Result<EnqueueAck, BrokerError> {
        let pending = self.resend_job(job.clone()).await?;
        match self.confirm_job(&job.queue, pending).await {
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
            None => return Err(self.timeout_error("storing a message")),
        };
        Ok(EnqueueAck {
            sequence,
            duplicate: true,
        })
    }

    /// Reads the message of a job that already existed when it was enqueued: the one at the
    /// sequence that the server reported, or the one it has become since. `None` if it is gone.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn find_existing(
        &self,
        queue: &QueueName,
        job: &JobId,
        sequence: u64,
    ) -> Result<Option<JobMessage>, BrokerError> {
        let stream = self.names.queue_stream(queue);
        let named = match sequence {
            0 => None,
            sequence => {
                let which = MessageSelector::BySequence(sequence);
                self.read_message(&stream, which).await?
            }
        };
        match named {
            Some(message) if self.names.is_delayed(&message.subject) => {
                Ok(Some(job_message(queue, &message, delayed_state(&message))))
            }
            Some(message) => Ok(Some(job_message(queue, &message, MessageState::Queued))),
            None => self.find_in_queue(queue, job).await,
        }
    }

    /// Looks for a job's message in one queue: queued, rerouted, delayed, or by its sequence if the
    /// id is made of one.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn find_in_queue(
        &self,
        queue: &QueueName,
        job: &JobId,
    ) -> Result<Option<JobMessage>, BrokerError> {
        let stream = self.names.queue_stream(queue);
        let subject = self.names.job(queue, job);
        if let Some(message) = self
            .read_message(&stream, MessageSelector::LastBySubject(&subject))
            .await?
            && message.header(RECHECK_HEADER).is_none()
        {
            return Ok(Some(job_message(queue, &message, MessageState::Queued)));
        }
        let routed = self.names.routed_copies_of_job(queue, job);
        if let Some(message) = self
            .read_message(&stream, MessageSelector::LastBySubject(&routed))
            .await?
        {
            return Ok(Some(job_message(queue, &message, MessageState::Queued)));
        }
        let delayed_subject = self.names.delayed(queue, job);
        if let Some(message) = self
            .read_message(&stream, MessageSelector::LastBySubject(&delayed_subject))
            .await?
        {
            return Ok(Some(job_message(queue, &message, delayed_state(&message))));
        }
        // it may have moved from the delayed subject into the queue between the two reads
        if let Some(message) = self
            .read_message(&stream, MessageSelector::LastBySubject(&subject))
            .await?
            && message.header(RECHECK_HEADER).is_none()
        {
            return Ok(Some(job_message(queue, &message, MessageState::Queued)));
        }
        if let Some(sequence) = sequence_of_id(queue, job)
            && let Some(message) = self
                .read_message(&stream, MessageSelector::BySequence(sequence))
                .await?
            && message.subject == self.names.job_without_id(queue)
            && message.header("Nats-Msg-Id").is_none()
        {
            return Ok(Some(job_message(queue, &message, MessageState::Queued)));
        }
        Ok(None)
    }

    /// Removes a job's messages from one queue: queued, delayed, rerouted, or by its sequence if
    /// the id is made of one. Returns the number of removed messages.
    ///
    /// This includes the message of a running job: the job continues and is recorded, but is not
    /// rerun if its worker dies. Check the record first.
    ///
    /// # Errors
    /// Returns an error if the server does not answer. Messages that were removed before the error
    /// stay removed.
    pub async fn remove_job_messages(
        &self,
        queue: &QueueName,
        job: &JobId,
    ) -> Result<u64, BrokerError> {
        let stream = self.names.queue_stream(queue);
        let mut removed = 0;
        // in the order in which a message moves, so that none is missed between two steps
        for subject in [
            self.names.delayed(queue, job),
            self.names.recheck(queue, job),
        ] {
            removed += self.purge_subjects(&stream, &subject, None).await?;
        }
        // One by one: after a purge of subjects that a consumer serves, the server (2.15)
        // recomputes the consumer's pending acknowledgements, and after a restart it can lose those
        // of other jobs, which are then never redelivered.
        for subject in [
            self.names.job(queue, job),
            self.names.routed_copies_of_job(queue, job),
        ] {
            let mut from = 1;
            while let Some(message) = self
                .read_message(&stream, MessageSelector::NextBySubject(&subject, from))
                .await?
            {
                removed += u64::from(self.delete_message(&stream, message.sequence).await?);
                from = message.sequence + 1;
            }
        }
        if let Some(sequence) = sequence_of_id(queue, job)
            && let Some(message) = self
                .read_message(&stream, MessageSelector::BySequence(sequence))
                .await?
            && message.subject == self.names.job_without_id(queue)
            && message.header("Nats-Msg-Id").is_none()
        {
            removed += u64::from(self.delete_message(&stream, sequence).await?);
        }
        Ok(removed)
    }

    /// Looks for a job's message in all queues concurrently.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn find_message(&self, job: &JobId) -> Result<Option<JobMessage>, BrokerError> {
        let queues = self.queue_names().await?;
        let mut reads: FuturesUnordered<_> = queues
            .iter()
            .map(|queue| self.find_in_queue(queue, job))
            .collect();
        while let Some(read) = reads.next().await {
            if let Some(message) = read? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Reads the envelope of a record's job, as long as it exists: from the record or its object,
    /// or from the job's message, whether it is leased, delayed for a retry, or queued. If several
    /// messages of the job are queued, the first one counts.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn envelope_of(&self, record: &Record) -> Result<Option<Bytes>, BrokerError> {
        if let Some(envelope) = &record.envelope {
            return Ok(Some(Bytes::copy_from_slice(envelope.get().as_bytes())));
        }
        if let Some(object) = &record.envelope_object {
            return match self.get_object(object).await {
                Ok(bytes) => Ok(Some(bytes.into())),
                Err(BrokerError::NotFound(_)) => Ok(None),
                Err(error) => Err(error),
            };
        }
        if let Some(lease) = &record.lease {
            return self.payload_at(&record.queue, lease.sequence).await;
        }
        let stream = self.names.queue_stream(&record.queue);
        for subject in [
            self.names.delayed(&record.queue, &record.job_id),
            self.names.job(&record.queue, &record.job_id),
        ] {
            let message = self
                .read_message(&stream, MessageSelector::NextBySubject(&subject, 1))
                .await?;
            if let Some(message) =
                message.filter(|message| message.header(RECHECK_HEADER).is_none())
            {
                return Ok(Some(message.payload()));
            }
        }
        let message = self.find_in_queue(&record.queue, &record.job_id).await?;
        Ok(message.map(|message| message.payload))
    }

    /// Reads the envelope of a running job by the sequence in its lease. `None` if the message is
    /// gone.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn payload_at(
        &self,
        queue: &QueueName,
        sequence: u64,
    ) -> Result<Option<Bytes>, BrokerError> {
        let stream = self.names.queue_stream(queue);
        let message = self
            .read_message(&stream, MessageSelector::BySequence(sequence))
            .await?;
        Ok(message.map(|message| message.payload()))
    }

    /// Reads the message of a queued job by its sequence.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn job_message_at(
        &self,
        queue: &QueueName,
        sequence: u64,
    ) -> Result<Option<JobMessage>, BrokerError> {
        let stream = self.names.queue_stream(queue);
        let message = self
            .read_message(&stream, MessageSelector::BySequence(sequence))
            .await?;
        Ok(message.map(|message| job_message(queue, &message, MessageState::Queued)))
    }
}

pub(super) fn job_message(
    queue: &QueueName,
    message: &StoredMessage,
    state: MessageState,
) -> JobMessage {
    // the time of a rerouted or rescheduled message is not the time of the enqueue
    let enqueued = message
        .header(ENQUEUE_TIME_HEADER)
        .filter(|_| is_rerouted(&message.subject) || matches!(state, MessageState::Delayed { .. }))
        .and_then(|time| time.parse().ok());
    JobMessage {
        queue: queue.clone(),
        sequence: message.sequence,
        payload: message.payload(),
        time: enqueued.unwrap_or(message.time),
        state,
        scheduled_for: scheduled_for(message),
    }
}

/// The sequence in an id of the form `<queue>-<sequence>`.
fn sequence_of_id(queue: &QueueName, job: &JobId) -> Option<u64> {
    job.as_str()
        .strip_prefix(queue.as_str())?
        .strip_prefix('-')?
        .parse()
        .ok()
}
