//! Finds and removes the messages of a job.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::message::{JobMessage, MessageState, delayed_state, job_message};
use crate::broker::Broker;
use crate::error::BrokerError;
use crate::queues::denied_queues::DeniedQueues;
use crate::stream::stream_api::{MessageSelector, StoredMessage};
use crate::subjects::subject_id;
use naq_protocol::{JobId, QueueName, Record};

/// Where the envelope of a job is stored, by its record.
#[derive(Clone, Debug)]
pub struct EnvelopeLocation {
    job_id: JobId,
    queue: QueueName,
    /// The object that holds it, if it was too large for the record.
    object: Option<String>,
    /// The sequence of the message by which the job runs.
    lease_sequence: Option<u64>,
}

impl EnvelopeLocation {
    /// Where the envelope of this record's job is, if the record itself does not contain it.
    #[must_use]
    pub fn of(record: &Record) -> EnvelopeLocation {
        EnvelopeLocation {
            job_id: record.job_id.clone(),
            queue: record.queue.clone(),
            object: record.envelope_object.clone(),
            lease_sequence: record.lease().map(|lease| lease.sequence),
        }
    }
}

impl Broker {
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
            && message.header(crate::headers::RECHECK).is_none()
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
            && message.header(crate::headers::RECHECK).is_none()
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

    /// Looks for a job's message in all queues that the user may read, concurrently.
    ///
    /// # Errors
    /// Returns an error if the server does not answer, or denies every queue.
    pub async fn find_message(&self, job: &JobId) -> Result<Option<JobMessage>, BrokerError> {
        let queues = self.queue_names().await?;
        let mut reads: FuturesUnordered<_> = queues
            .iter()
            .map(|queue| self.find_in_queue(queue, job))
            .collect();
        let mut denied = DeniedQueues::default();
        while let Some(read) = reads.next().await {
            if let Some(message) = denied.leave_out(read)?.flatten() {
                return Ok(Some(message));
            }
        }
        denied.check_some_readable()?;
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
        fail::fail_point!("envelope.read");
        let location = EnvelopeLocation::of(record);
        if let Some(envelope) = self.envelope_at(&location).await? {
            return Ok(Some(envelope));
        }
        // The job's state may have changed since its record was read, and its message may no longer exist.
        // The record of an ended job contains the envelope.
        let (Some(now), _) = self.read_record(&record.job_id).await? else {
            return Ok(None);
        };
        match &now.envelope {
            Some(envelope) => Ok(Some(Bytes::copy_from_slice(envelope.get().as_bytes()))),
            None => self.envelope_at(&EnvelopeLocation::of(&now)).await,
        }
    }

    /// Reads the envelope of a job whose record does not contain it, as [`Broker::envelope_of`] does.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn envelope_at(
        &self,
        location: &EnvelopeLocation,
    ) -> Result<Option<Bytes>, BrokerError> {
        if let Some(object) = &location.object {
            return match self.get_object(object).await {
                Ok(bytes) => Ok(Some(bytes.into())),
                Err(BrokerError::NotFound(_)) => Ok(None),
                Err(error) => Err(error),
            };
        }
        let (queue, job_id) = (&location.queue, &location.job_id);
        if let Some(sequence) = location.lease_sequence {
            return self.payload_at(queue, sequence, job_id).await;
        }
        let stream = self.names.queue_stream(queue);
        for subject in [
            self.names.delayed(queue, job_id),
            self.names.job(queue, job_id),
        ] {
            let message = self
                .read_message(&stream, MessageSelector::NextBySubject(&subject, 1))
                .await?;
            if let Some(message) =
                message.filter(|message| message.header(crate::headers::RECHECK).is_none())
            {
                return Ok(Some(message.payload()));
            }
        }
        let message = self.find_in_queue(queue, job_id).await?;
        Ok(message.map(|message| message.payload))
    }

    /// Reads the envelope of a job by the sequence of its message, as a lease names it. `None` if the
    /// message is gone. A stream that was created again, or that lost its tail, gives the sequence
    /// to another job, which counts as gone too.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn payload_at(
        &self,
        queue: &QueueName,
        sequence: u64,
        job: &JobId,
    ) -> Result<Option<Bytes>, BrokerError> {
        let stream = self.names.queue_stream(queue);
        let message = self
            .read_message(&stream, MessageSelector::BySequence(sequence))
            .await?;
        // a message without an id in its subject may be the job's
        let is_of_job = |message: &StoredMessage| {
            subject_id(&message.subject).is_none_or(|id| id.as_ref() == Ok(job))
        };
        Ok(message.filter(is_of_job).map(|message| message.payload()))
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

/// The sequence in an id of the form `<queue>-seq-<sequence>`.
fn sequence_of_id(queue: &QueueName, job: &JobId) -> Option<u64> {
    let (of_queue, sequence) = job.queue_and_sequence()?;
    (of_queue == queue.as_str()).then_some(sequence)
}
