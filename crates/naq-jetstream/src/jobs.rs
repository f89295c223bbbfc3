//! Jobs in their queues: put there, found there, removed from there.

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

/// An envelope on its way to a queue.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The job's id; it becomes the last token of the subject.
    pub job_id: JobId,
    /// The queue.
    pub queue: QueueName,
    /// The envelope's bytes, as the producer wrote them.
    pub payload: Bytes,
    /// Someone chose the id, and may have used it before: the server is to tell.
    pub has_user_id: bool,
    /// When it is to begin; none for at once.
    pub start: Option<StartDelay>,
}

impl NewJob {
    /// A job under an id that is made here, and that nobody can have used before.
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

    /// A job under an id that someone chose.
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

    /// The same job, to begin then.
    #[must_use]
    pub fn delayed(mut self, start: StartDelay) -> NewJob {
        self.start = Some(start);
        self
    }

    /// What it is held until; none where it goes into its queue at once.
    #[must_use]
    pub fn delayed_until(&self) -> Option<Timestamp> {
        self.start
            .filter(|start| !start.is_due)
            .map(|start| start.due)
    }
}

/// What became of an enqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnqueueAck {
    /// The sequence of the job's message in its queue.
    pub sequence: u64,
    /// A message of this id was there already; the sequence is that one's.
    pub duplicate: bool,
}

/// Where a job's message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageState {
    /// In the queue.
    Queued,
    /// Held until its time.
    Delayed {
        /// When it is due; none where the server goes by something else than a time.
        due: Option<Timestamp>,
        /// Someone paused it: it is held beyond its time, until it is resumed.
        is_paused: bool,
        /// To be tried again.
        is_retry: bool,
    },
}

/// A job's message, found in its queue.
#[derive(Clone, Debug)]
pub struct JobMessage {
    /// The queue.
    pub queue: QueueName,
    /// Its sequence in the queue's stream.
    pub sequence: u64,
    /// The envelope's bytes.
    pub payload: Bytes,
    /// When the server took it.
    pub time: Timestamp,
    /// Where it is.
    pub state: MessageState,
    /// The time it is or was held until.
    pub scheduled_for: Option<Timestamp>,
}

impl JobMessage {
    /// How the job stands, for one who enqueues it again.
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
    /// Sends a job to its queue, or to where it is held until its time, without waiting for the
    /// server's word, so that many can be under way.
    ///
    /// # Errors
    /// Where it could not be sent at all.
    pub async fn send_job(&self, job: NewJob) -> Result<PendingWrite, BrokerError> {
        let mut headers = HeaderMap::new();
        if job.has_user_id {
            // also where one of its id is in line and the other held: the server minds the ids of
            // a whole stream
            headers.insert(async_nats::header::NATS_MESSAGE_ID, job.job_id.as_str());
        }
        self.send_with(job, headers).await
    }

    /// Sends a job once more whose answer was lost, or whose id the server minds although its
    /// message is gone: taken where it is not in line already. (Where it was, and has been worked
    /// off meanwhile, its record absorbs the second one.)
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
            // for as long as it stands in line, and not only while the server minds the id; and
            // what is held would be replaced
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

    /// Puts a further message of a job into its queue, whatever others it has.
    ///
    /// # Errors
    /// Where the server refuses or does not answer.
    pub async fn republish(&self, job: NewJob) -> Result<(), BrokerError> {
        let queue = job.queue.clone();
        let pending = self.send_job(job).await?;
        self.confirm_job(&queue, pending).await.map(|_| ())
    }

    /// Waits for the server's word on a job that was sent.
    ///
    /// # Errors
    /// [`BrokerError::QueueNotFound`] where no queue took it, and whatever the server refused for.
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

    /// Puts a job into its queue, making the queue where there is none.
    ///
    /// A publish whose answer got lost is repeated under the same id, which the server absorbs.
    ///
    /// # Errors
    /// Where the server refuses or does not answer.
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

    /// Goes on with an enqueue that met this error: makes the queue where it is missing, and
    /// repeats what may not have arrived, in such a way that it counts once.
    ///
    /// # Errors
    /// As [`Broker::enqueue`].
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
            // a chosen id is recognised by the server, a made one by its subject
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

    /// Enqueues a job whose id the server minds although its message is gone and there is no
    /// record of it: someone has removed it.
    ///
    /// # Errors
    /// As [`Broker::enqueue`].
    pub async fn enqueue_after_removal(&self, job: NewJob) -> Result<EnqueueAck, BrokerError> {
        let pending = self.resend_job(job.clone()).await?;
        match self.confirm_job(&job.queue, pending).await {
            Err(BrokerError::Conflict) => self.existing_message(&job).await,
            done => done,
        }
    }

    /// A message under the job's id stands in line or is held: where, for the caller to compare.
    /// One that is not found has been worked off, or is on its way among the servers and may not
    /// arrive.
    async fn existing_message(&self, job: &NewJob) -> Result<EnqueueAck, BrokerError> {
        let stream = self.names.queue_stream(&job.queue);
        let subject = match job.delayed_until() {
            Some(_) => self.names.delayed(&job.queue, &job.job_id),
            None => self.names.job(&job.queue, &job.job_id),
        };
        let there = self
            .read_message(&stream, MessageSelector::NextBySubject(&subject, 1))
            .await?;
        let there = match there {
            Some(message) => Some(message.sequence),
            // its time may have come meanwhile
            None => self
                .find_in_queue(&job.queue, &job.job_id)
                .await?
                .map(|message| message.sequence),
        };
        let sequence = match there {
            Some(sequence) => sequence,
            None if self.read_record(&job.job_id).await?.0.is_some() => 0,
            None => return Err(self.timeout_error("storing a message")),
        };
        Ok(EnqueueAck {
            sequence,
            duplicate: true,
        })
    }

    /// The message of a job that was there already when it was enqueued: the one the server
    /// named, or where it has moved on to since; none where it is gone.
    ///
    /// # Errors
    /// Where the server does not answer.
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

    /// Looks for a job's message in one queue: held for later, in line, or by its place where
    /// the id is made of one.
    ///
    /// # Errors
    /// Where the server does not answer.
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
        let needs = self.names.routed_copies_of_job(queue, job);
        if let Some(message) = self
            .read_message(&stream, MessageSelector::LastBySubject(&needs))
            .await?
        {
            return Ok(Some(job_message(queue, &message, MessageState::Queued)));
        }
        let later = self.names.delayed(queue, job);
        if let Some(message) = self
            .read_message(&stream, MessageSelector::LastBySubject(&later))
            .await?
        {
            return Ok(Some(job_message(queue, &message, delayed_state(&message))));
        }
        // its time may have come between the two looks
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

    /// Removes a job's messages from one queue: in line, held for later, waiting for a worker
    /// with labels, or by its place where the id is made of one. Returns how many there were.
    ///
    /// A message that a worker holds goes as well: the job goes on and is recorded, but is not
    /// run again where its worker dies. So ask the record first.
    ///
    /// # Errors
    /// Where the server does not answer; what was removed until then is removed.
    pub async fn remove_job_messages(
        &self,
        queue: &QueueName,
        job: &JobId,
    ) -> Result<u64, BrokerError> {
        let stream = self.names.queue_stream(queue);
        let mut removed = 0;
        // in the order in which a message moves on, so that none slips through between two steps
        for subject in [
            self.names.delayed(queue, job),
            self.names.recheck(queue, job),
        ] {
            removed += self.purge_subjects(&stream, &subject, None).await?;
        }
        // One by one: a purge of what a consumer serves has the server (2.15) reckon anew what
        // that consumer has out, and after a restart it can forget other jobs over that, which
        // then nobody is given again.
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

    /// Looks for a job's message in every queue, all at once.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn find_message(&self, job: &JobId) -> Result<Option<JobMessage>, BrokerError> {
        let queues = self.queue_names().await?;
        let mut looks: FuturesUnordered<_> = queues
            .iter()
            .map(|queue| self.find_in_queue(queue, job))
            .collect();
        while let Some(look) = looks.next().await {
            if let Some(message) = look? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// The bytes of the envelope that a record's job came with, where they are still to be had: on
    /// the record or beside it, by the message a worker holds, held for a retry, or in line. Where
    /// several messages stand in line under its id, the first is meant.
    ///
    /// # Errors
    /// Where the server does not answer.
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

    /// The envelope's bytes of a job that a worker holds, by the sequence in its lease.
    ///
    /// # Errors
    /// Where the server does not answer.
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

    /// The message of a queued job, by its sequence.
    ///
    /// # Errors
    /// Where the server does not answer.
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
    // the message of a job that was handed on, or given another time, is from then
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
