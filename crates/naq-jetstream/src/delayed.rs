//! Jobs that are held until their time: one-shots, and retries that wait.
//!
//! A held job is a message under `naq.delayed.<queue>.<job>` in its queue's stream, which the server
//! itself puts into the queue when its time comes. A message that is written again under the
//! subject replaces the one before, so each such write names the one it replaces: a job that has
//! moved on meanwhile is not held a second time.

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

/// The time that a one-shot was to begin at. It stays on the message when that has come.
pub(super) const SCHEDULED_FOR_HEADER: &str = "Naq-Scheduled-For";

/// When a held job was paused.
const PAUSED_HEADER: &str = "Naq-Paused";

/// How many attempts there were of a job that waits to be tried again.
const ATTEMPT_HEADER: &str = "Naq-Attempt";

/// The subject that the expected sequence is of, where it is not the message's own.
const EXPECTED_SUBJECT_HEADER: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// How many stretches of a stream are looked through at once.
const READ_RANGES: u64 = 32;

/// How many held jobs one of these is laid out for.
const JOBS_PER_RANGE: u64 = 8;

/// The longest stretch, in sequences for each held job: what bounds memory where held jobs stand
/// closer together than those before.
const GAP_MAX: u64 = 32;

/// What a message under a subject for held jobs is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DelayedMessageKind {
    Initial,
    Retry,
    /// Published by another program, or an earlier naq: the record tells.
    Unmarked,
}

/// A held job.
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
    /// When it is to begin, which for one that is paused may be over; none where the server goes
    /// by something else than a time.
    pub due: Option<Timestamp>,
    /// Someone paused it.
    pub is_paused: bool,
    /// When it was first enqueued.
    pub enqueue_time: Timestamp,
    kind: DelayedMessageKind,
    /// The server's rule, as it stands in the message.
    schedule: String,
    target: String,
    /// What the message carries along.
    headers: Vec<(String, String)>,
}

impl DelayedJob {
    /// Whether it is said to wait to be tried again.
    #[must_use]
    pub fn is_retry(&self) -> bool {
        self.kind == DelayedMessageKind::Retry
    }

    /// The server's rule for it, in its own words: `@at TIME` for a time.
    #[must_use]
    pub fn schedule(&self) -> &str {
        &self.schedule
    }

    /// How the job stands, for one who enqueues it again.
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
        // as it is written down where the message is stored again
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

    /// What it carries along, for another message of it.
    fn carried(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            // what no header may be has not come by one
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

/// What the server holds a message by.
pub(super) fn delay_until(headers: &mut HeaderMap, due: Timestamp, target: impl Into<String>) {
    headers.insert(NATS_SCHEDULE, format!("@at {due}"));
    headers.insert(NATS_SCHEDULE_TARGET, target.into());
    headers.insert(NATS_ROLLUP, "sub");
}

/// The time that a message was to begin at, where it was enqueued with one.
pub(super) fn scheduled_for(message: &StoredMessage) -> Option<Timestamp> {
    message.header(SCHEDULED_FOR_HEADER)?.parse().ok()
}

/// How many attempts a job had when it was held to be tried again, which its message says also
/// when it is back in line; 0 for any other.
pub(super) fn attempts(message: &StoredMessage) -> u32 {
    let attempts = message.header(ATTEMPT_HEADER);
    attempts
        .and_then(|attempts| attempts.parse().ok())
        .unwrap_or(0)
}

/// The state of a message that waits for its time.
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
    /// Holds a job that is to be tried again until then, after this many attempts. Doing it again
    /// moves the time.
    ///
    /// # Errors
    /// Where the server refuses or does not answer.
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

    /// A held job of a queue; none where it is not held there.
    ///
    /// # Errors
    /// Where the server does not answer.
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

    /// A held job, in whichever queue.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn find_delayed(&self, job: &JobId) -> Result<Option<DelayedJob>, BrokerError> {
        let queues = self.queue_names().await?;
        let mut looks: FuturesUnordered<_> = queues
            .iter()
            .map(|queue| self.read_delayed(queue, job))
            .collect();
        while let Some(look) = looks.next().await {
            if let Some(held) = look? {
                return Ok(Some(held));
            }
        }
        Ok(None)
    }

    /// Has a one-shot begin at another time; `paused_at` is when it was paused, where it is to
    /// wait beyond that time until someone resumes it. Returns when the server has stored that,
    /// by its own clock: where that is after the old time, the job may have been on its way.
    ///
    /// # Errors
    /// [`BrokerError::Conflict`] where it is not held as it was any more.
    pub async fn reschedule_delayed(
        &self,
        held: &DelayedJob,
        due: Timestamp,
        paused_at: Option<Timestamp>,
    ) -> Result<Timestamp, BrokerError> {
        let mut headers = held.carried();
        let until = match paused_at {
            Some(at) => {
                headers.insert(PAUSED_HEADER, at.to_string());
                naq_core::paused_until()
            }
            None => due,
        };
        delay_until(&mut headers, until, held.target.as_str());
        headers.insert(SCHEDULED_FOR_HEADER, due.to_string());
        headers.insert(ENQUEUE_TIME_HEADER, held.enqueue_time.to_string());
        let sequence = held.sequence.to_string();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence);
        let subject = self.names.delayed(&held.queue, &held.job_id);
        let sent = self.send(subject, headers, held.payload.clone()).await?;
        let stored = self.confirm_job(&held.queue, sent).await?;
        let stream = self.names.queue_stream(&held.queue);
        let stored = self
            .read_message(&stream, MessageSelector::BySequence(stored.sequence))
            .await?;
        // it has moved on already
        stored
            .map(|stored| stored.time)
            .ok_or(BrokerError::Conflict)
    }

    /// Puts a one-shot into its queue now, as the server does when its time has come: in one step
    /// with the removal of what is held.
    ///
    /// # Errors
    /// [`BrokerError::Conflict`] where it is not held as it was any more.
    pub async fn enqueue_delayed_now(&self, held: &DelayedJob) -> Result<(), BrokerError> {
        let mut headers = held.carried();
        if let Some(due) = held.due {
            headers.insert(SCHEDULED_FOR_HEADER, due.to_string());
        }
        let later = self.names.delayed(&held.queue, &held.job_id);
        let sequence = held.sequence.to_string();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence);
        headers.insert(EXPECTED_SUBJECT_HEADER, later.as_str());
        self.put_into_queue(
            &held.queue,
            &held.target,
            later,
            headers,
            held.payload.clone(),
        )
        .await
    }

    /// Puts a job that waits to be tried again into its queue now. Its record has to say by then
    /// that its time has come.
    ///
    /// # Errors
    /// Where the server refuses or does not answer.
    pub async fn enqueue_retry_now(
        &self,
        queue: &QueueName,
        job: &JobId,
        payload: Bytes,
    ) -> Result<(), BrokerError> {
        let target = self.names.job(queue, job);
        let later = self.names.delayed(queue, job);
        self.put_into_queue(queue, &target, later, HeaderMap::new(), payload)
            .await
    }

    async fn put_into_queue(
        &self,
        queue: &QueueName,
        target: &str,
        later: String,
        mut headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), BrokerError> {
        headers.insert(NATS_SCHEDULER, later);
        headers.insert(NATS_SCHEDULE_NEXT, "purge");
        let sent = self.send(target.to_owned(), headers, payload).await?;
        self.confirm_job(queue, sent).await.map(drop)
    }

    /// Lists held jobs as they are asked for, those of one queue or of all, in the order in which
    /// they were stored, queue by queue; from behind a place on, where one is given.
    ///
    /// # Errors
    /// Where the server does not answer.
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

/// A place in a listing of held jobs, which a later one can go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayedJobCursor {
    queue: QueueName,
    sequence: u64,
}

impl DelayedJobCursor {
    /// The place of a held job.
    #[must_use]
    pub fn of(held: &DelayedJob) -> DelayedJobCursor {
        DelayedJobCursor {
            queue: held.queue.clone(),
            sequence: held.sequence,
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
            "not a place in a listing; give what an earlier page ended with".to_owned()
        })
    }
}

/// Held jobs, read as they are asked for. Not by their subjects, which the server lists slowly
/// where they are many, nor by a consumer, which a work queue has one of for a subject: by many
/// reads at once, each of the next held job in a stretch of the stream.
pub struct DelayedJobListing {
    broker: Broker,
    /// Those that are still to be read, the first from `from` on.
    queues: VecDeque<QueueName>,
    from: u64,
    /// How many sequences there were for each held job.
    gap: u64,
    ready: VecDeque<DelayedJob>,
}

impl DelayedJobListing {
    /// The next one-shot; none where there are no more.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn next(&mut self) -> Result<Option<DelayedJob>, BrokerError> {
        loop {
            if let Some(held) = self.ready.pop_front() {
                return Ok(Some(held));
            }
            let Some(queue) = self.queues.front().cloned() else {
                return Ok(None);
            };
            if !self.read_on(&queue).await? {
                self.queues.pop_front();
                self.from = 1;
                self.gap = 1;
            }
        }
    }

    /// Reads a few stretches on from the next held job of a queue. False where there is none.
    async fn read_on(&mut self, queue: &QueueName) -> Result<bool, BrokerError> {
        let broker = &self.broker;
        let length = self.gap * JOBS_PER_RANGE;
        let Some((sequence, first)) = broker.next_delayed(queue, self.from).await? else {
            return Ok(false);
        };
        let walks: Vec<Vec<Option<DelayedJob>>> = stream::iter(0..READ_RANGES)
            .map(|walk| {
                let from = sequence + 1 + walk * length;
                broker.scan_delayed(queue, from, from + length)
            })
            .buffered(usize::try_from(READ_RANGES).unwrap_or(1))
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .collect::<Result<_, _>>()?;
        let read: u64 = walks.iter().map(|walk| walk.len() as u64).sum();
        self.gap = (READ_RANGES * length / read.max(1)).clamp(1, GAP_MAX);
        self.from = sequence + 1 + READ_RANGES * length;
        self.ready.extend(first);
        self.ready.extend(walks.into_iter().flatten().flatten());
        Ok(true)
    }
}

impl Broker {
    /// The held jobs of a queue in a stretch of its stream; none for each message that is none.
    async fn scan_delayed(
        &self,
        queue: &QueueName,
        mut from: u64,
        end: u64,
    ) -> Result<Vec<Option<DelayedJob>>, BrokerError> {
        let mut walked = Vec::new();
        while from < end {
            let Some((sequence, held)) = self.next_delayed(queue, from).await? else {
                break;
            };
            if sequence >= end {
                break;
            }
            walked.push(held);
            from = sequence + 1;
        }
        Ok(walked)
    }

    /// The first message of a held job from a sequence on: its sequence, and the job where it is
    /// a one-shot.
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
        let held = DelayedJob::read(&self.names, queue, &message);
        let is_one_shot = match &held {
            Some(held) => match held.kind {
                DelayedMessageKind::Initial => true,
                DelayedMessageKind::Retry => false,
                DelayedMessageKind::Unmarked => self.has_not_started(&held.job_id).await?,
            },
            None => false,
        };
        Ok(Some((message.sequence, held.filter(|_| is_one_shot))))
    }

    /// Whether no worker has seen a job yet.
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
