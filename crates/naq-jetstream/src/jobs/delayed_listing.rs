//! Lists delayed jobs.

use std::collections::VecDeque;

use futures_util::stream::{self, StreamExt};

use super::delayed::{DelayedJob, DelayedMessageKind};
use crate::broker::Broker;
use crate::error::BrokerError;
use crate::queues::denied_queues::DeniedQueues;
use crate::stream::stream_api::MessageSelector;
use naq_protocol::{JobId, QueueName, Record, State};

/// Number of ranges of a stream that are read concurrently.
const READ_RANGES: u64 = 32;

/// Number of delayed jobs that a range is sized for.
const JOBS_PER_RANGE: u64 = 8;

/// Maximum length of a range, in sequences per delayed job. It bounds memory where delayed jobs are
/// denser than before.
const GAP_MAX: u64 = 32;

/// A position in a listing of delayed jobs, from which a later listing continues.
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
    /// What the server denies of all queues. `None` in a listing of one queue, which it may not deny.
    denied: Option<DeniedQueues>,
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
                if let Some(denied) = self.denied.take() {
                    denied.check_some_readable()?;
                }
                return Ok(None);
            };
            let read = self.read_ranges(&queue).await;
            let has_more = match self.denied.as_mut() {
                Some(denied) => denied.leave_out(read)?.unwrap_or(false),
                None => read?,
            };
            if !has_more {
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
    /// Lists delayed jobs on demand: those of one queue or of all that the user may read, queue by
    /// queue in the order in which they were stored. Begins after the position of a cursor, if one is
    /// given.
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
            denied: queue.is_none().then(DeniedQueues::default),
        })
    }

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
    !record.placeholder && record.state() != State::Scheduled
}
