//! Delayed jobs: jobs that start at a delayed_subject time, and retries that wait for their next attempt.
//!
//! A delayed job is a message under `naq.delayed.<queue>.<job>` in its queue's stream, which the
//! server itself moves into the queue when its time comes. A message published to the same subject
//! replaces the one before, so each such write names the sequence that it replaces: a job that has
//! moved into its queue meanwhile is not delayed a second time.

use std::collections::VecDeque;

use async_nats::HeaderMap;
use async_nats::header::{
    HeaderName, HeaderValue, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_ROLLUP, NATS_SCHEDULE,
    NATS_SCHEDULE_NEXT, NATS_SCHEDULE_TARGET, NATS_SCHEDULER,
};
use bytes::Bytes;
use futures_util::stream::{self, FuturesUnordered, StreamExt};

use super::jobs::{EnqueueAck, MessageState, NewJob};
use super::label_routes::ENQUEUE_TIME_HEADER;
use super::names::Names;
use super::stream_api::{MessageSelector, StoredMessage};
use super::{Broker, BrokerError};
use naq_core::ExistingJob;
use naq_protocol::{JobId, QueueName, Record, State, Timestamp};

/// The time at which a delayed job was to start. The message keeps the header when it moves into
/// the queue.
pub(super) const SCHEDULED_FOR_HEADER: &str = "Naq-Scheduled-For";

/// When a delayed job was paused.
const PAUSED_HEADER: &str = "Naq-Paused";

/// Number of attempts so far, on the message of a job that waits for a retry.
const ATTEMPT_HEADER: &str = "Naq-Attempt";

/// The subject whose sequence is expected, if it is not the message's own subject.
const EXPECTED_SUBJECT_HEADER: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// Number of ranges of a stream that are read concurrently.
const READ_RANGES: u64 = 32;

/// Number of delayed jobs that a range is sized for.
const JOBS_PER_RANGE: u64 = 8;

/// Maximum length of a range, in sequences per delayed job. It bounds memory where delayed jobs are
/// denser than before.
const GAP_MAX: u64 = 32;

/// What the message under the subject of a delayed job stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DelayedMessageKind {
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
    kind: DelayedMessageKind,
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

    fn read(names: &Names, queue: &QueueName, message: &StoredMessage) -> Option<DelayedJob> {
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
            enqueue_time: header(ENQUEUE_TIME_HEADER).parse().unwrap_or(stored),
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
        SCHEDULED_FOR_HEADER,
        PAUSED_HEADER,
        ATTEMPT_HEADER,
        ENQUEUE_TIME_HEADER,
    ];
    name.starts_with("nats-") || ours.iter().any(|ours| name.eq_ignore_ascii_case(ours))
}

/// Makes the server hold a message until `due`, and then publish it to `target`.
pub(super) fn delay_until(headers: &mut HeaderMap, due: Timestamp, target: impl Into<String>) {
    headers.insert(NATS_SCHEDULE, format!("@at {due}"));
    headers.insert(NATS_SCHEDULE_TARGET, target.into());
    headers.insert(NATS_ROLLUP, "sub");
}

/// The time at which the message's job was to start. `None` for a job that was enqueued without a
/// time.
pub(super) fn scheduled_for(message: &StoredMessage) -> Option<Timestamp> {
    message.header(SCHEDULED_FOR_HEADER)?.parse().ok()
}

/// Number of attempts that a job had when it was delayed for a retry; its message keeps the number
/// when it is back in the queue. 0 for any other message.
pub(super) fn attempts(message: &StoredMessage) -> u32 {
    let attempts = message.header(ATTEMPT_HEADER);
    attempts
        .and_then(|attempts| attempts.parse().ok())
        .unwrap_or(0)
}

/// The state of a delayed message.
pub(super) fn delayed_state(message: &StoredMessage) -> MessageState {
    let schedule = message
        .header("Nats-Schedule")
        .and_then(|schedule| schedule.strip_prefix("@at ")?.parse().ok());
    let is_paused = message.header(PAUSED_HEADER).is_some();
    MessageState::Delayed {
        due: if is_paused {
            scheduled_for(message)
        } else {
            schedule
        },
        is_paused,
        is_retry: message.header(ATTEMPT_HEADER).is_some(),
    }
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
        headers.insert(ATTEMPT_HEADER, attempts.to_string());
        let subject = self.names.delayed(&job.queue, &job.job_id);
        let pending = self.send(subject, headers, job.payload).await?;
        self.confirm_job(&job.queue, pending).await
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

    /// Looks for a delayed job in all queues.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn find_delayed(&self, job: &JobId) -> Result<Option<DelayedJob>, BrokerError> {
        let queues = self.queue_names().await?;
        let mut reads: FuturesUnordered<_> = queues
            .iter()
            .map(|queue| self.read_delayed(queue, job))
            .collect();
        while let Some(read) = reads.next().await {
            if let Some(delayed) = read? {
                return Ok(Some(delayed));
            }
        }
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
                headers.insert(PAUSED_HEADER, at.to_string());
                naq_core::paused_until()
            }
            None => due,
        };
        delay_until(&mut headers, until, delayed.target.as_str());
        headers.insert(SCHEDULED_FOR_HEADER, due.to_string());
        headers.insert(ENQUEUE_TIME_HEADER, delayed.enqueue_time.to_string());
        let sequence = delayed.sequence.to_string();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence);
        let subject = self.names.delayed(&delayed.queue, &delayed.job_id);
        let sent = self.send(subject, headers, delayed.payload.clone()).await?;
        let stored = self.confirm_job(&delayed.queue, sent).await?;
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
            headers.insert(SCHEDULED_FOR_HEADER, due.to_string());
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
        let sent = self.send(target.to_owned(), headers, payload).await?;
        self.confirm_job(queue, sent).await.map(drop)
    }

    /// Lists delayed jobs on demand, those of one queue or of all, queue by queue in the order in
    /// which they were stored; after the position of a cursor, if one is given.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn list_delayed(
        &self,
        queue: Option<&QueueName>,
        after: Option<&DelayedJobCursor>,
    ) -> Result<DelayedJobListing, BrokerError> {
        let mut queues: VecDeque<QueueName> = match queue {
            Some(queue) => VecDeque::from([queue.clone()]),
            None => self.queue_names().await?.into(),
        };
        let mut from = 1;
        if let Some(after) = after {
            queues.retain(|queue| *queue >= after.queue);
            if queues.front() == Some(&after.queue) {
                from = after.sequence + 1;
            }
        }
        Ok(DelayedJobListing {
            broker: self.clone(),
            queues,
            from,
            gap: 1,
            ready: VecDeque::new(),
        })
    }
}

/// A position in a listing of delayed jobs, from which a delayed_subject listing continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayedJobCursor {
    queue: QueueName,
    sequence: u64,
}

impl DelayedJobCursor {
    /// The position of a delayed job.
    #[must_use]
    pub fn of(delayed: &DelayedJob) -> DelayedJobCursor {
        DelayedJobCursor {
            queue: delayed.queue.clone(),
            sequence: delayed.sequence,
        }
    }
}

impl std::fmt::Display for DelayedJobCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.sequence, self.queue)
    }
}

impl std::str::FromStr for DelayedJobCursor {
    type Err = String;
    fn from_str(text: &str) -> Result<DelayedJobCursor, String> {
        let read = || {
            let (sequence, queue) = text.split_once('.')?;
            Some(DelayedJobCursor {
                queue: QueueName::new(queue).ok()?,
                sequence: sequence.parse().ok()?,
            })
        };
        read().ok_or_else(|| {
            "not a position in a listing; pass the cursor that an earlier page returned".to_owned()
        })
    }
}

/// Delayed jobs, read on demand. The server lists many subjects slowly, and a work queue allows
/// only one consumer for a subject, so the listing uses neither: it makes many concurrent reads,
/// each of the next delayed job in a range of the stream.
pub struct DelayedJobListing {
    broker: Broker,
    /// Queues that are still to be read, the first one from the sequence `from`.
    queues: VecDeque<QueueName>,
    from: u64,
    /// Average number of sequences per delayed job, from the last reads.
    gap: u64,
    ready: VecDeque<DelayedJob>,
}

impl DelayedJobListing {
    /// The next delayed job that has not started. `None` at the end.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn next(&mut self) -> Result<Option<DelayedJob>, BrokerError> {
        loop {
            if let Some(delayed) = self.ready.pop_front() {
                return Ok(Some(delayed));
            }
            let Some(queue) = self.queues.front().cloned() else {
                return Ok(None);
            };
            if !self.read_ranges(&queue).await? {
                self.queues.pop_front();
                self.from = 1;
                self.gap = 1;
            }
        }
    }

    /// Reads the ranges after the next delayed job of a queue. Returns false if there is no further
    /// job.
    async fn read_ranges(&mut self, queue: &QueueName) -> Result<bool, BrokerError> {
        let broker = &self.broker;
        let length = self.gap * JOBS_PER_RANGE;
        let Some((sequence, first)) = broker.next_delayed(queue, self.from).await? else {
            return Ok(false);
        };
        let ranges: Vec<Vec<Option<DelayedJob>>> = stream::iter(0..READ_RANGES)
            .map(|range| {
                let from = sequence + 1 + range * length;
                broker.scan_delayed(queue, from, from + length)
            })
            .buffered(usize::try_from(READ_RANGES).unwrap_or(1))
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .collect::<Result<_, _>>()?;
        let read: u64 = ranges.iter().map(|range| range.len() as u64).sum();
        self.gap = (READ_RANGES * length / read.max(1)).clamp(1, GAP_MAX);
        self.from = sequence + 1 + READ_RANGES * length;
        self.ready.extend(first);
        self.ready.extend(ranges.into_iter().flatten().flatten());
        Ok(true)
    }
}

impl Broker {
    /// The delayed jobs in a range of a queue's stream; `None` for each delayed message of another
    /// kind.
    async fn scan_delayed(
        &self,
        queue: &QueueName,
        mut from: u64,
        end: u64,
    ) -> Result<Vec<Option<DelayedJob>>, BrokerError> {
        let mut found = Vec::new();
        while from < end {
            let Some((sequence, delayed)) = self.next_delayed(queue, from).await? else {
                break;
            };
            if sequence >= end {
                break;
            }
            found.push(delayed);
            from = sequence + 1;
        }
        Ok(found)
    }

    /// The first delayed message from a sequence on: its sequence, and the job unless it is a
    /// retry.
    async fn next_delayed(
        &self,
        queue: &QueueName,
        from: u64,
    ) -> Result<Option<(u64, Option<DelayedJob>)>, BrokerError> {
        let stream = self.names.queue_stream(queue);
        let subjects = self.names.all_delayed(queue);
        let next = MessageSelector::NextBySubject(&subjects, from);
        let Some(message) = self.read_message(&stream, next).await? else {
            return Ok(None);
        };
        let delayed = DelayedJob::read(&self.names, queue, &message);
        let is_start_delay = match &delayed {
            Some(delayed) => match delayed.kind {
                DelayedMessageKind::Initial => true,
                DelayedMessageKind::Retry => false,
                DelayedMessageKind::Unmarked => self.has_not_started(&delayed.job_id).await?,
            },
            None => false,
        };
        Ok(Some((message.sequence, delayed.filter(|_| is_start_delay))))
    }

    /// Whether no worker has started the job yet.
    async fn has_not_started(&self, job: &JobId) -> Result<bool, BrokerError> {
        match self.read_record(job).await {
            Ok((record, _)) => Ok(!record.is_some_and(|record| has_begun(&record))),
            Err(BrokerError::InvalidData(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

fn has_begun(record: &Record) -> bool {
    !record.placeholder && record.state != State::Scheduled
}
