//! A job as a message: to be enqueued, or read from a queue's stream.

use async_nats::HeaderMap;
use async_nats::header::{NATS_ROLLUP, NATS_SCHEDULE, NATS_SCHEDULE_TARGET};
use bytes::Bytes;

use crate::stream::stream_api::StoredMessage;
use crate::subjects::is_rerouted;
use naq_core::{ExistingJob, StartDelay};
use naq_protocol::{Envelope, JobId, QueueName, Timestamp, TraceContext};

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
    /// The trace that the job belongs to. `None` if the envelope names it, or if there is none.
    pub trace: Option<TraceContext>,
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
            trace: None,
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
            trace: None,
        }
    }

    /// The same job, delayed until `start`.
    #[must_use]
    pub fn delayed(mut self, start: StartDelay) -> NewJob {
        self.start = Some(start);
        self
    }

    /// The same job, as a part of this trace.
    #[must_use]
    pub fn traced(mut self, trace: Option<TraceContext>) -> NewJob {
        self.trace = trace;
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

pub(crate) fn job_message(
    queue: &QueueName,
    message: &StoredMessage,
    state: MessageState,
) -> JobMessage {
    // the time of a rerouted or rescheduled message is not the time of the enqueue
    let enqueued = message
        .header(crate::headers::ENQUEUE_TIME)
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

/// The id that a worker uses for the job: from the subject, the envelope or the message id, else
/// made of queue and sequence.
pub(crate) fn job_id_of(queue: &QueueName, message: &StoredMessage) -> JobId {
    // the last token after prefix, kind and queue
    let named = message
        .subject
        .split('.')
        .skip(3)
        .last()
        .and_then(|id| JobId::new(id).ok());
    named
        .or_else(|| Envelope::parse(&message.payload()).ok()?.job_id)
        .or_else(|| JobId::from_user(message.header("Nats-Msg-Id")?).ok())
        .unwrap_or_else(|| JobId::for_sequence(queue, message.sequence))
}

/// Makes the server hold a message until `due`, and then publish it to `target`.
pub(crate) fn delay_until(headers: &mut HeaderMap, due: Timestamp, target: impl Into<String>) {
    headers.insert(NATS_SCHEDULE, format!("@at {due}"));
    headers.insert(NATS_SCHEDULE_TARGET, target.into());
    headers.insert(NATS_ROLLUP, "sub");
}

/// The time at which the message's job was to start. `None` for a job that was enqueued without a
/// time.
pub(crate) fn scheduled_for(message: &StoredMessage) -> Option<Timestamp> {
    message.header(crate::headers::SCHEDULED_FOR)?.parse().ok()
}

/// Number of attempts that a job had when it was delayed for a retry; its message keeps the number
/// when it is back in the queue. 0 for any other message.
pub(crate) fn attempts(message: &StoredMessage) -> u32 {
    let attempts = message.header(crate::headers::ATTEMPT);
    attempts
        .and_then(|attempts| attempts.parse().ok())
        .unwrap_or(0)
}

/// The state of a delayed message.
pub(crate) fn delayed_state(message: &StoredMessage) -> MessageState {
    let schedule = message
        .header("Nats-Schedule")
        .and_then(|schedule| schedule.strip_prefix("@at ")?.parse().ok());
    let is_paused = message.header(crate::headers::PAUSED).is_some();
    MessageState::Delayed {
        due: if is_paused {
            scheduled_for(message)
        } else {
            schedule
        },
        is_paused,
        is_retry: message.header(crate::headers::ATTEMPT).is_some(),
    }
}
