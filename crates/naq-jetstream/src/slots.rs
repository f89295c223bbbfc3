//! Concurrency slots: they limit how many jobs of a concurrency key run at once, on all workers
//! together.
//!
//! One value for each key names the jobs that have a slot, and is changed by compare-and-set. A
//! slot belongs to a job, not to a worker, so a crash does not lose it: the worker that runs the
//! job next has the slot already. A slot whose job has ended, or whose message is gone, is taken
//! over. Jobs that find no slot are blocked, each under an index key of its own, and releasing a
//! slot releases the oldest of them.

use std::time::Duration;

use bytes::Bytes;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::failpoint::failpoint;
use crate::names::Names;
use crate::stream::publish::revision_headers;
use crate::stream::stream_api::MessageSelector;
use naq_protocol::{JobId, Record, SlotHolder, Slots};

/// How long the value of a key is kept while no job has a slot.
const IDLE_TTL: Duration = Duration::from_secs(3_600);

/// Maximum number of holders that are checked for being stale when all slots are taken.
const CHECKS_MAX: usize = 16;

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
        let mut checked = false;
        loop {
            let (mut slots, revision) = self.read_slots(key).await?;
            slots.max = max;
            if let Some(held) = slots.holders.iter_mut().find(|held| held.job == holder.job) {
                if held == holder {
                    return Ok(true);
                }
                held.queue.clone_from(&holder.queue);
                held.sequence = holder.sequence;
            } else if slots.holders.len() < max as usize {
                slots.holders.push(holder.clone());
            } else {
                if checked {
                    return Ok(false);
                }
                checked = true;
                let Some(gone) = self.find_stale_holder(&slots.holders).await? else {
                    return Ok(false);
                };
                slots.holders.retain(|held| *held != gone);
                slots.holders.push(holder.clone());
            }
            match self.write_slots(key, &slots, revision).await {
                Ok(()) => {
                    failpoint("slot.acquired");
                    return Ok(true);
                }
                Err(BrokerError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Releases a job's slot, if it has one, and then as many waiting jobs as there are free slots.
    /// Repeating it does no harm.
    ///
    /// # Errors
    /// Returns an error if the server refuses a write or does not answer; call it again then.
    pub async fn release_slot(&self, key: &str, job: &JobId) -> Result<(), BrokerError> {
        let free = loop {
            let (mut slots, revision) = match self.read_slots(key).await {
                Ok(read) => read,
                // There is no slot to release, and the job that had it has ended all the same. One
                // of those that wait is released, as for any other job that ends: it is rejected with
                // an explanation when it requests a slot.
                Err(BrokerError::InvalidData(error)) => {
                    tracing::error!(job_id = %job, "cannot release a slot: {error}");
                    break 1;
                }
                Err(error) => return Err(error),
            };
            let held = slots.holders.len();
            slots.holders.retain(|held| held.job != *job);
            let free = (slots.max as usize).saturating_sub(slots.holders.len());
            if slots.holders.len() == held {
                break free;
            }
            match self.write_slots(key, &slots, revision).await {
                Ok(()) => {
                    failpoint("slot.released");
                    break free;
                }
                Err(BrokerError::Conflict) => {}
                Err(error) => return Err(error),
            }
        };
        self.release_slot_waiters(key, free).await
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
    ) -> Result<(), BrokerError> {
        let value =
            serde_json::to_vec(slots).map_err(|error| BrokerError::not_json("the value", error))?;
        let mut made = false;
        loop {
            let ttl = slots.holders.is_empty().then_some(IDLE_TTL);
            let headers = revision_headers(revision, ttl);
            let pending = self
                .send(self.names.slots(key), headers, value.clone().into())
                .await?;
            match pending.confirmed().await {
                Err(BrokerError::NotFound(_)) if !made => {
                    made = true;
                    self.ensure_slots().await?;
                }
                done => return done.map(|_| ()),
            }
        }
    }
}
