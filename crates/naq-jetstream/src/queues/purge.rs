//! Purging a queue: removes the jobs that no worker runs.
//!
//! The server can remove all messages before a sequence, and all of a subject, but not "all but
//! these". And a job whose message is removed while it runs has no message left: if its worker then
//! dies, no other worker reruns it. So deliveries are paused for a moment, the unacknowledged
//! messages are read, and everything else is removed: in one request if nothing is unacknowledged,
//! else one by one.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use async_nats::jetstream::consumer::Info as ConsumerInfo;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::Deserialize;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::jobs::message::job_id_of;
use crate::stream::stream_api::MessageSelector;
use naq_protocol::{JobId, QueueName, State, Timestamp};

/// How long a pause of deliveries lasts unless it is renewed: a purge that dies blocks the queue
/// for no longer.
const PAUSE: Duration = Duration::from_secs(30);

/// How often the pause is renewed.
const PAUSE_RENEWAL: Duration = Duration::from_secs(10);

/// Workers claim a delivered job within milliseconds. A delivered job that is still unclaimed after
/// this long does not run.
const CLAIM_GRACE: Duration = Duration::from_secs(1);

/// Number of ranges of a stream that are processed concurrently.
const DELETE_RANGES: u64 = 64;

const DOING: &str = "purging a queue";

/// The result of a purge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgeSummary {
    /// Jobs that were removed.
    pub removed: u64,
    /// Running jobs, which were kept.
    pub running: u64,
}

impl Broker {
    /// Removes the jobs of a queue that no worker runs. The queue stays. Deliveries are paused
    /// meanwhile.
    ///
    /// # Errors
    /// Returns [`BrokerError::QueueNotFound`] if the queue does not exist. Jobs that were removed
    /// before another error stay removed.
    pub async fn purge_queue(&self, queue: &QueueName) -> Result<PurgeSummary, BrokerError> {
        self.queue_handle(queue).await?;
        let consumers = self.consumers(queue).await?;
        // a consumer that a user paused stays paused until it is resumed
        let open: Vec<&ConsumerInfo> = consumers
            .iter()
            .filter(|consumer| !consumer.paused)
            .collect();
        let mut purging = std::pin::pin!(self.purge_while_paused(queue, &open));
        let purged = loop {
            tokio::select! {
                biased;
                purged = &mut purging => break purged,
                () = tokio::time::sleep(PAUSE_RENEWAL) => self.pause_deliveries(queue, &open).await?,
            }
        };
        for consumer in self.consumers(queue).await? {
            // a user may have paused the queue without an end meanwhile
            let ours = consumer.pause_remaining.is_some_and(|left| left <= PAUSE);
            if ours && open.iter().any(|open| open.name == consumer.name) {
                self.pause_consumer(queue, &consumer.name, None).await?;
            }
        }
        purged
    }

    /// Pauses the deliveries of some consumers for a while.
    async fn pause_deliveries(
        &self,
        queue: &QueueName,
        consumers: &[&ConsumerInfo],
    ) -> Result<(), BrokerError> {
        if consumers.is_empty() {
            return Ok(());
        }
        // by the server's clock, which may differ from ours
        #[derive(Deserialize)]
        struct Now {
            ts: Timestamp,
        }
        let stream = self.names.queue_stream(queue);
        let now = self
            .api_request::<Now>(
                format!("STREAM.INFO.{stream}"),
                &serde_json::json!({}),
                DOING,
            )
            .await?
            .map_err(|error| BrokerError::from_api(&error, DOING))?;
        let until = Timestamp(now.ts.0 + PAUSE);
        for consumer in consumers {
            self.pause_consumer(queue, &consumer.name, Some(until))
                .await?;
        }
        Ok(())
    }

    async fn purge_while_paused(
        &self,
        queue: &QueueName,
        open: &[&ConsumerInfo],
    ) -> Result<PurgeSummary, BrokerError> {
        self.pause_deliveries(queue, open).await?;
        let stream = self.names.queue_stream(queue);
        // jobs that are enqueued from here on are kept
        let state = &self.queue_handle(queue).await?.cached_info().state.clone();
        let meant = state.first_sequence.max(1)..=state.last_sequence;
        let (ack_pending, running) = self.ack_pending(queue).await?;
        let mut purged = PurgeSummary {
            removed: 0,
            running,
        };
        // everything but the rechecks of blocked jobs, which are not jobs of their own
        let later = self.names.all_delayed(queue);
        purged.removed += self
            .purge_subjects(&stream, &later, Some(meant.end() + 1))
            .await?;
        for subjects in [
            self.names.job_without_id(queue),
            self.names.jobs(queue),
            self.names.all_routed(queue),
        ] {
            purged.removed += self
                .purge_except(&stream, &subjects, &meant, &ack_pending)
                .await?;
        }
        Ok(purged)
    }

    /// Removes the messages under a filter in a range of a stream, except the unacknowledged ones.
    ///
    /// If there are any, one by one: after a purge of subjects that a consumer serves, the server
    /// (2.15) recomputes the consumer's pending acknowledgements, and after a restart it can lose
    /// jobs over that.
    async fn purge_except(
        &self,
        stream: &str,
        subjects: &str,
        meant: &RangeInclusive<u64>,
        ack_pending: &BTreeSet<u64>,
    ) -> Result<u64, BrokerError> {
        let (first, last) = (*meant.start(), *meant.end());
        if ack_pending.is_empty() {
            return self.purge_subjects(stream, subjects, Some(last + 1)).await;
        }
        let mut removed = 0;
        let length = (last + 1)
            .saturating_sub(first)
            .div_ceil(DELETE_RANGES)
            .max(1);
        let mut ranges: FuturesUnordered<_> = (0..DELETE_RANGES)
            .map(|place| first + place * length)
            .take_while(|from| *from <= last)
            .map(|from| {
                let to = last.min(from + length - 1);
                self.delete_range(stream, subjects, from..=to, ack_pending)
            })
            .collect();
        while let Some(deleted) = ranges.next().await {
            removed += deleted?;
        }
        Ok(removed)
    }

    /// Removes the messages under a filter in a range of a stream, except the unacknowledged ones.
    async fn delete_range(
        &self,
        stream: &str,
        subjects: &str,
        range: RangeInclusive<u64>,
        ack_pending: &BTreeSet<u64>,
    ) -> Result<u64, BrokerError> {
        let mut removed = 0;
        let mut from = *range.start();
        while from <= *range.end() {
            let next = MessageSelector::NextBySubject(subjects, from);
            let Some(message) = self.read_message(stream, next).await? else {
                break;
            };
            let sequence = message.sequence;
            if range.contains(&sequence)
                && !ack_pending.contains(&sequence)
                && self.delete_message(stream, sequence).await?
            {
                removed += 1;
            }
            from = sequence + 1;
        }
        Ok(removed)
    }

    /// The sequences of a queue's unacknowledged messages, and the number of running jobs among
    /// them. Deliveries must be paused.
    async fn ack_pending(&self, queue: &QueueName) -> Result<(BTreeSet<u64>, u64), BrokerError> {
        let mut ack_pending = BTreeSet::new();
        let mut running = 0;
        let mut unclaimed = Vec::new();
        for consumer in self.consumers(queue).await? {
            if consumer.num_ack_pending == 0 {
                continue;
            }
            let mut out = self.unacked_messages(queue, &consumer, u64::MAX);
            while let Some(message) = out.next(self).await? {
                let job = job_id_of(queue, &message);
                if self.standing(&job, message.sequence).await? == AckPendingState::Running {
                    ack_pending.insert(message.sequence);
                    running += 1;
                } else {
                    unclaimed.push((job, message.sequence));
                }
            }
        }
        if !unclaimed.is_empty() {
            tokio::time::sleep(CLAIM_GRACE).await;
        }
        for (job, sequence) in unclaimed {
            match self.standing(&job, sequence).await? {
                AckPendingState::Running => running += 1,
                // about to be acknowledged: neither removed nor running
                AckPendingState::Ended => {}
                AckPendingState::Unclaimed => continue,
            }
            ack_pending.insert(sequence);
        }
        Ok((ack_pending, running))
    }

    /// The state of an unacknowledged message's job.
    async fn standing(&self, job: &JobId, sequence: u64) -> Result<AckPendingState, BrokerError> {
        let (record, _) = self.read_record(job).await?;
        Ok(match record {
            Some(record) if record.state().is_terminal() => AckPendingState::Ended,
            Some(record) => match record.state() {
                State::Running
                    if record
                        .lease()
                        .is_some_and(|lease| lease.sequence == sequence) =>
                {
                    AckPendingState::Running
                }
                // only a later version can tell: a worker of it may run the job by this message
                State::Unknown(_) => AckPendingState::Running,
                _ => AckPendingState::Unclaimed,
            },
            None => AckPendingState::Unclaimed,
        })
    }
}

/// The state of an unacknowledged message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AckPendingState {
    /// Its job runs by this message.
    Running,
    /// Its job has ended.
    Ended,
    /// It is not claimed, or was negatively acknowledged.
    Unclaimed,
}
