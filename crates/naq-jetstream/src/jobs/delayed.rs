//! Delayed jobs: jobs that start at a later time, and retries that wait for their next attempt.
//!
//! A delayed job is a message under `naq.delayed.<queue>.<job>` in its queue's stream, which the
//! server itself moves into the queue when its time comes. A message published to the same subject
//! replaces the one before, so each such write names the sequence that it replaces: a job that has
//! moved into its queue meanwhile is not delayed a second time.

use async_nats::HeaderMap;
use async_nats::header::{
    HeaderName, HeaderValue, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_SCHEDULE_NEXT,
    NATS_SCHEDULER,
};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::message::{EnqueueAck, MessageState, NewJob, delay_until, delayed_state, scheduled_for};
use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use crate::queues::denied_queues::DeniedQueues;
use crate::stream::stream_api::{MessageSelector, StoredMessage};
use naq_core::ExistingJob;
use naq_protocol::{JobId, QueueName, Timestamp};

/// The subject whose sequence is expected, if it is not the message's own subject.
const EXPECTED_SUBJECT_HEADER: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// What the message under the subject of a delayed job stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DelayedMessageKind {
    Initial,
    Retry,
    /// Published by another program or an earlier naq: only the job's record shows whether it has
    /// started.
    Unmarked,
}

/// A delayed job.
#[derive(Clone, Debug)]
pub struct DelayedJob {
    /// The job.
    pub job_id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// Its sequence in the queue's stream.
    pub sequence: u64,
    /// The envelope's bytes.
    pub payload: Bytes,
    /// When the job starts; in the past for a job that was paused beyond its time. `None` if the
    /// server's rule is not a time.
    pub due: Option<Timestamp>,
    /// Whether the job is paused.
    pub is_paused: bool,
    /// When it was first enqueued.
    pub enqueue_time: Timestamp,
    pub(super) kind: DelayedMessageKind,
    /// The server's rule, as the message states it.
    schedule: String,
    target: String,
    /// The other headers of the message.
    headers: Vec<(String, String)>,
}

impl DelayedJob {
    /// Whether the job waits for a retry.
    #[must_use]
    pub fn is_retry(&self) -> bool {
        self.kind == DelayedMessageKind::Retry
    }

    /// The server's rule for the message, in NATS' syntax: `@at TIME` for a time.
    #[must_use]
    pub fn schedule(&self) -> &str {
        &self.schedule
    }

    /// The state of the job, to decide what enqueueing it again does.
    #[must_use]
    pub fn standing(&self) -> ExistingJob {
        ExistingJob::Delayed {
            due: self.due,
            is_retry: self.is_retry(),
        }
    }

    pub(super) fn read(
        names: &Names,
        queue: &QueueName,
        message: &StoredMessage,
    ) -> Option<DelayedJob> {
        let job_id = JobId::new(message.subject.splitn(4, '.').nth(3)?).ok()?;
        let MessageState::Delayed {
            due,
            is_paused,
            is_retry,
        } = delayed_state(message)
        else {
            return None;
        };
        let kind = match (is_retry, scheduled_for(message)) {
            (true, _) => DelayedMessageKind::Retry,
            (false, Some(_)) => DelayedMessageKind::Initial,
            (false, None) => DelayedMessageKind::Unmarked,
        };
        let header = |name: &str| message.header(name).unwrap_or_default();
        // with the precision that the header has when the message is stored again
        let stored = Timestamp::from_unix_ms(message.time.unix_ms()).unwrap_or(message.time);
        Some(DelayedJob {
            queue: queue.clone(),
            sequence: message.sequence,
            payload: message.payload(),
            due,
            is_paused,
            enqueue_time: header(crate::headers::ENQUEUE_TIME)
                .parse()
                .unwrap_or(stored),
            kind,
            schedule: header("Nats-Schedule"),
            target: message
                .header("Nats-Schedule-Target")
                .unwrap_or_else(|| names.job(queue, &job_id)),
            headers: message
                .header_list()
                .into_iter()
                .filter(|(name, _)| !is_reserved_header(name))
                .collect(),
            job_id,
        })
    }

    /// The headers to keep on another message of the job.
    fn kept_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            // a name or value that no header may have did not arrive in a header
            if let (Ok(name), Ok(value)) =
                (name.parse::<HeaderName>(), value.parse::<HeaderValue>())
            {
                headers.append(name, value);
            }
        }
        headers
    }
}

fn is_reserved_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let ours = [
        crate::headers::SCHEDULED_FOR,
        crate::headers::PAUSED,
        crate::headers::ATTEMPT,
        crate::headers::ENQUEUE_TIME,
    ];
    name.starts_with("nats-") || ours.iter().any(|ours| name.eq_ignore_ascii_case(ours))
}

impl Broker {
    /// Delays a job for a retry until `due`, after this many attempts. Repeating it changes the
    /// time.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
    pub async fn delay_retry(
        &self,
        job: NewJob,
        due: Timestamp,
        attempts: u32,
    ) -> Result<EnqueueAck, BrokerError> {
        let mut headers = HeaderMap::new();
        delay_until(&mut headers, due, self.names.job(&job.queue, &job.job_id));
        headers.insert(crate::headers::ATTEMPT, attempts.to_string());
        let subject = self.names.delayed(&job.queue, &job.job_id);
        self.store_job(&job.queue, subject, headers, job.payload)
            .await
    }

    /// Reads a delayed job of a queue. `None` if the job is not delayed in this queue.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn read_delayed(
        &self,
        queue: &QueueName,
        job: &JobId,
    ) -> Result<Option<DelayedJob>, BrokerError> {
        let stream = self.names.queue_stream(queue);
        let subject = self.names.delayed(queue, job);
        let message = self
            .read_message(&stream, MessageSelector::LastBySubject(&subject))
            .await?;
        Ok(message.and_then(|message| DelayedJob::read(&self.names, queue, &message)))
    }

    /// Looks for a delayed job in all queues that the user may read.
    ///
    /// # Errors
    /// Returns an error if the server does not answer, or denies every queue.
    pub async fn find_delayed(&self, job: &JobId) -> Result<Option<DelayedJob>, BrokerError> {
        let queues = self.queue_names().await?;
        let mut reads: FuturesUnordered<_> = queues
            .iter()
            .map(|queue| self.read_delayed(queue, job))
            .collect();
        let mut denied = DeniedQueues::default();
        while let Some(read) = reads.next().await {
            if let Some(delayed) = denied.leave_out(read)?.flatten() {
                return Ok(Some(delayed));
            }
        }
        denied.check_some_readable()?;
        Ok(None)
    }

    /// Reschedules a delayed job. `paused_at` is the time at which it was paused, if it is to wait
    /// beyond `due` until it is resumed. Returns when the server stored the change, by the server's
    /// clock: if that is after the old due time, the job may already have been moving into its
    /// queue.
    ///
    /// # Errors
    /// Returns [`BrokerError::Conflict`] if the delayed message has changed or moved into its
    /// queue.
    pub async fn reschedule_delayed(
        &self,
        delayed: &DelayedJob,
        due: Timestamp,
        paused_at: Option<Timestamp>,
    ) -> Result<Timestamp, BrokerError> {
        let mut headers = delayed.kept_headers();
        let until = match paused_at {
            Some(at) => {
                headers.insert(crate::headers::PAUSED, at.to_string());
                naq_core::paused_until()
            }
            None => due,
        };
        delay_until(&mut headers, until, delayed.target.as_str());
        headers.insert(crate::headers::SCHEDULED_FOR, due.to_string());
        headers.insert(
            crate::headers::ENQUEUE_TIME,
            delayed.enqueue_time.to_string(),
        );
        let sequence = delayed.sequence.to_string();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence);
        let subject = self.names.delayed(&delayed.queue, &delayed.job_id);
        let stored = self
            .store_job(&delayed.queue, subject, headers, delayed.payload.clone())
            .await?;
        let stream = self.names.queue_stream(&delayed.queue);
        let stored = self
            .read_message(&stream, MessageSelector::BySequence(stored.sequence))
            .await?;
        // the message has already moved into its queue
        stored
            .map(|stored| stored.time)
            .ok_or(BrokerError::Conflict)
    }

    /// Puts a delayed job into its queue now, as the server does when the job's time comes: in one
    /// step with the removal of the delayed message.
    ///
    /// # Errors
    /// Returns [`BrokerError::Conflict`] if the delayed message has changed or moved into its
    /// queue.
    pub async fn enqueue_delayed_now(&self, delayed: &DelayedJob) -> Result<(), BrokerError> {
        let mut headers = delayed.kept_headers();
        if let Some(due) = delayed.due {
            headers.insert(crate::headers::SCHEDULED_FOR, due.to_string());
        }
        let delayed_subject = self.names.delayed(&delayed.queue, &delayed.job_id);
        let sequence = delayed.sequence.to_string();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence);
        headers.insert(EXPECTED_SUBJECT_HEADER, delayed_subject.as_str());
        self.put_into_queue(
            &delayed.queue,
            &delayed.target,
            delayed_subject,
            headers,
            delayed.payload.clone(),
        )
        .await
    }

    /// Puts a job that waits for a retry into its queue now. Before the call, its record has to say
    /// that its time has come.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
    pub async fn enqueue_retry_now(
        &self,
        queue: &QueueName,
        job: &JobId,
        payload: Bytes,
    ) -> Result<(), BrokerError> {
        let target = self.names.job(queue, job);
        let delayed_subject = self.names.delayed(queue, job);
        self.put_into_queue(queue, &target, delayed_subject, HeaderMap::new(), payload)
            .await
    }

    async fn put_into_queue(
        &self,
        queue: &QueueName,
        target: &str,
        delayed_subject: String,
        mut headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), BrokerError> {
        headers.insert(NATS_SCHEDULER, delayed_subject);
        headers.insert(NATS_SCHEDULE_NEXT, "purge");
        self.store_job(queue, target.to_owned(), headers, payload)
            .await
            .map(drop)
    }
}
