//! Concurrency slots: they limit how many jobs of a concurrency key run at once, on all workers
//! together.
//!
//! One value for each key names the jobs that have a slot, and is changed by compare-and-set. What
//! several jobs of a process request and release at the same time is one write.
//!
//! A slot belongs to a job, not to a worker, so a crash does not lose it: the worker that runs the
//! job next has the slot already. A slot whose job has ended, or whose message is gone, is taken
//! over. Jobs that find no slot are blocked, each under an index key of its own, and releasing a
//! slot releases the oldest of them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot::error::TryRecvError;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::failpoint::failpoint;
use crate::names::Names;
use crate::slot_queues::{QueuedChange, SlotQueue};
use crate::stream::publish::revision_headers;
use crate::stream::stream_api::MessageSelector;
use naq_core::{SlotAnswer, SlotChange, change_slots};
use naq_protocol::{JobId, Record, SlotHolder, Slots};

/// How long the value of a key is kept while no job has a slot.
const IDLE_TTL: Duration = Duration::from_secs(3_600);

/// Maximum number of holders that are checked for being stale when all slots are taken.
const CHECKS_MAX: usize = 16;

/// Maximum pause after another process wrote the slots of a key first.
const CONFLICT_PAUSE_MAX: Duration = Duration::from_millis(50);

impl Broker {
    /// Acquires a slot of a key for a job, if fewer than `max` jobs have one. Returns whether the
    /// job has a slot now. Repeating it does no harm.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer, and
    /// [`BrokerError::InvalidData`] if the stored slots cannot be read. They are not replaced: more
    /// jobs than the key allows might run.
    pub async fn acquire_slot(
        &self,
        key: &str,
        max: u32,
        holder: &SlotHolder,
    ) -> Result<bool, BrokerError> {
        let mut instead_of = None;
        for is_last in [false, true] {
            let change = SlotChange::Acquire {
                holder: holder.clone(),
                max,
                instead_of: instead_of.take(),
            };
            if self.change_slot(key, change).await? == SlotAnswer::Acquired {
                return Ok(true);
            }
            if is_last {
                break;
            }
            let (slots, _) = self.read_slots(key).await?;
            if slots.holders.len() >= max as usize {
                instead_of = self.find_stale_holder(&slots.holders).await?;
                if instead_of.is_none() {
                    break;
                }
            }
        }
        Ok(false)
    }

    /// Releases a job's slot, if it has one, and then as many waiting jobs as there are free slots.
    /// Repeating it does no harm.
    ///
    /// # Errors
    /// Returns an error if the server refuses a write or does not answer; call it again then.
    pub async fn release_slot(&self, key: &str, job: &JobId) -> Result<(), BrokerError> {
        let change = SlotChange::Release { job: job.clone() };
        let waiters = match self.change_slot(key, change).await {
            Ok(SlotAnswer::Released { waiters }) => waiters,
            Ok(SlotAnswer::Acquired | SlotAnswer::Full) => 0,
            // There is no slot to release, and the job that had it has ended all the same. One
            // of those that wait is released, as for any other job that ends: it is rejected with
            // an explanation when it requests a slot.
            Err(BrokerError::InvalidData(error)) => {
                tracing::error!(job_id = %job, "cannot release a slot: {error}");
                1
            }
            Err(error) => return Err(error),
        };
        self.release_slot_waiters(key, waiters).await
    }

    /// Carries out a change together with those that other jobs of this process want of the same key meanwhile:
    /// they queue, and the one whose turn it is writes for all of them.
    async fn change_slot(&self, key: &str, change: SlotChange) -> Result<SlotAnswer, BrokerError> {
        let queue = self.slot_queues.of(key);
        loop {
            let mut answer = queue.add(change.clone());
            let mut turn = tokio::select! {
                biased;
                answered = &mut answer => match answered {
                    Ok(answered) => return answered,
                    // the task that was to write it was dropped before
                    Err(_) => continue,
                },
                turn = queue.turn() => turn,
            };
            // it may have been answered just before the turn
            match answer.try_recv() {
                Ok(answered) => return answered,
                Err(TryRecvError::Closed) => continue,
                Err(TryRecvError::Empty) => {}
            }
            self.change_slots_of(key, &queue, &mut turn).await;
            if let Ok(answered) = answer.try_recv() {
                return answered;
            }
        }
    }

    /// Carries out and answers all changes that are queued. `last` is the value that this process wrote last, if it
    /// may still be the stored one.
    async fn change_slots_of(&self, key: &str, queue: &SlotQueue, last: &mut Option<(Slots, u64)>) {
        let mut batch = Vec::new();
        match self.write_changes(key, queue, last, &mut batch).await {
            Ok(answers) => {
                for (queued, answer) in batch.into_iter().zip(answers) {
                    queued.answer(Ok(answer));
                }
            }
            Err(error) => {
                for queued in batch {
                    queued.answer(Err(error.clone()));
                }
            }
        }
    }

    /// Moves the queued changes into `batch`, and writes the value that results from them. Returns their answers.
    async fn write_changes(
        &self,
        key: &str,
        queue: &SlotQueue,
        last: &mut Option<(Slots, u64)>,
        batch: &mut Vec<QueuedChange>,
    ) -> Result<Vec<SlotAnswer>, BrokerError> {
        let mut conflicts = 0;
        loop {
            let begun = Instant::now();
            queue.drain_into(batch);
            batch.retain(QueuedChange::is_awaited);
            let (slots, revision, is_fresh) = match last.take() {
                Some((slots, revision)) => (slots, revision, false),
                None => {
                    let (slots, revision) = self.read_slots(key).await?;
                    (slots, revision, true)
                }
            };
            let changes: Vec<SlotChange> =
                batch.iter().map(|queued| queued.change.clone()).collect();
            let changed = change_slots(slots, &changes);
            if !changed.is_changed {
                if is_fresh {
                    return Ok(changed.answers);
                }
                // another process may have changed the value since, and no write would tell
                continue;
            }
            match self.write_slots(key, &changed.slots, revision).await {
                Ok(revision) => {
                    fail_after(&changed.answers);
                    *last = Some((changed.slots, revision));
                    return Ok(changed.answers);
                }
                Err(BrokerError::Conflict) => {
                    let pause = conflict_pause(begun.elapsed(), conflicts, rand::random());
                    tokio::time::sleep(pause).await;
                    conflicts += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn release_slot_waiters(&self, key: &str, free: usize) -> Result<(), BrokerError> {
        let bucket = Names::bucket_stream(&self.names.dependents_bucket());
        let waiting = self.names.slot_waiters(key);
        let (mut released, mut from) = (0, 1);
        while released < free {
            let next = self
                .read_message(&bucket, MessageSelector::NextBySubject(&waiting, from))
                .await?;
            let Some(message) = next else { break };
            from = message.sequence + 1;
            let job = message
                .subject
                .rsplit('.')
                .next()
                .and_then(|token| JobId::new(token).ok());
            let waits = match &job {
                Some(job) => match self.release(job).await {
                    // the next one is released in its place
                    Err(error) if error.is_final_for_release() => {
                        tracing::error!(job_id = %job, "cannot release a job that waits for a slot: {error}");
                        continue;
                    }
                    released => released?,
                },
                None => false,
            };
            if waits {
                released += 1;
                continue;
            }
            self.purge_subjects(&bucket, &message.subject, None).await?;
            // the job may have been blocked again just before its key was removed
            if let Some(job) = &job
                && self.release(job).await?
            {
                released += 1;
            }
        }
        Ok(())
    }

    /// Indexes a job that waits for a slot of a key.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
    pub async fn index_slot_waiter(&self, key: &str, job: &JobId) -> Result<(), BrokerError> {
        self.create_key(self.names.slot_waiter(key, job), Bytes::new())
            .await
    }

    /// Whether a slot is free now, for a job that has just been indexed as waiting. Also true if the
    /// slots cannot be read: nothing would release the job, which is rejected when it requests a slot.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
    pub async fn has_free_slot(&self, key: &str, max: u32) -> Result<bool, BrokerError> {
        match self.read_slots(key).await {
            Ok((slots, _)) => Ok(slots.holders.len() < max as usize),
            Err(BrokerError::InvalidData(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Removes the index key of a job that no longer waits for a slot.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
    pub async fn remove_slot_waiter(&self, key: &str, job: &JobId) -> Result<(), BrokerError> {
        let bucket = Names::bucket_stream(&self.names.dependents_bucket());
        self.purge_subjects(&bucket, &self.names.slot_waiter(key, job), None)
            .await
            .map(drop)
    }

    /// Finds a holder whose job has ended, or whose message will not be redelivered.
    async fn find_stale_holder(
        &self,
        holders: &[SlotHolder],
    ) -> Result<Option<SlotHolder>, BrokerError> {
        for holder in holders.iter().take(CHECKS_MAX) {
            let record = match self.read_record(&holder.job).await {
                Ok((record, _)) => record,
                // its message says whether it may still run
                Err(BrokerError::InvalidData(_)) => None,
                Err(error) => return Err(error),
            };
            if record
                .as_ref()
                .is_some_and(|record| record.state().is_terminal())
            {
                return Ok(Some(holder.clone()));
            }
            // a running job runs by the message of its lease, even if it acquired the slot by
            // another
            let sequence = record
                .as_ref()
                .and_then(Record::lease)
                .map_or(holder.sequence, |lease| lease.sequence);
            let payload = self
                .payload_at(&holder.queue, sequence, &holder.job)
                .await?;
            if payload.is_none() {
                return Ok(Some(holder.clone()));
            }
        }
        Ok(None)
    }

    async fn read_slots(&self, key: &str) -> Result<(Slots, u64), BrokerError> {
        let bucket = Names::bucket_stream(&self.names.slots_bucket());
        let subject = self.names.slots(key);
        let message = self
            .read_message(&bucket, MessageSelector::LastBySubject(&subject))
            .await?;
        let fresh = Slots {
            key: key.to_owned(),
            ..Slots::default()
        };
        let Some(message) = message else {
            return Ok((fresh, 0));
        };
        let payload = message.payload();
        if payload.is_empty() {
            return Ok((fresh, message.sequence));
        }
        let slots = serde_json::from_slice(&payload)
            .map_err(|error| BrokerError::unreadable(&format!("the slots of `{key}`"), error))?;
        Ok((slots, message.sequence))
    }

    async fn write_slots(
        &self,
        key: &str,
        slots: &Slots,
        revision: u64,
    ) -> Result<u64, BrokerError> {
        let value =
            serde_json::to_vec(slots).map_err(|error| BrokerError::not_json("the value", error))?;
        let ttl = slots.holders.is_empty().then_some(IDLE_TTL);
        let headers = revision_headers(revision, ttl);
        let ensure = || self.ensure_slots();
        let stored = self.store_creating(self.names.slots(key), headers, value.into(), ensure);
        stored.await.map(|stored| stored.sequence)
    }
}

/// How long to wait after another process wrote first, `conflicts` times before: up to as long as a read and a write
/// take (`took`), and each time up to twice as long. Many processes that try again at once would refuse each other's
/// writes, while one that is left alone writes what all of its jobs want. `random` is between 0 and 1.
fn conflict_pause(took: Duration, conflicts: u32, random: f64) -> Duration {
    let most = took.min(CONFLICT_PAUSE_MAX) * (1 << conflicts.min(4));
    most.min(CONFLICT_PAUSE_MAX).mul_f64(random)
}

/// The failpoints after slots were acquired or released.
fn fail_after(answers: &[SlotAnswer]) {
    if answers.contains(&SlotAnswer::Acquired) {
        failpoint("slot.acquired");
    }
    if answers
        .iter()
        .any(|answer| matches!(answer, SlotAnswer::Released { .. }))
    {
        failpoint("slot.released");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_after_conflicts_grow_and_are_bounded() {
        let took = Duration::from_millis(2);
        assert_eq!(conflict_pause(took, 0, 0.5), Duration::from_millis(1));
        assert_eq!(conflict_pause(took, 3, 1.0), Duration::from_millis(16));
        for took in [took, Duration::MAX] {
            assert_eq!(conflict_pause(took, u32::MAX, 0.0), Duration::ZERO);
            assert!(conflict_pause(took, u32::MAX, 1.0) <= CONFLICT_PAUSE_MAX);
        }
    }
}
