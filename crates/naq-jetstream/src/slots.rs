//! Slots: how many jobs of a concurrency key run at once, whichever worker has them.
//!
//! One value a key names the jobs that have a slot, and is changed by compare-and-set. A slot
//! belongs to a job, not to a worker, so a crash does not lose it: whoever runs the job next has
//! it already. One whose job has ended, or whose message is gone, is taken over. Jobs that find
//! no slot wait, each with a key of its own, and whoever gives a slot back releases the oldest.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::failpoint::failpoint;
use super::names::Names;
use super::stream_api::MessageSelector;
use super::{Broker, BrokerError};
use naq_protocol::{JobId, QueueName};

/// How long the value of a key stays of which no job runs.
const IDLE_TTL: Duration = Duration::from_secs(3_600);

/// How many holders are checked where all slots are taken, for ones that are gone.
const CHECKS_MAX: usize = 16;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Slots {
    /// The key itself, for people.
    key: String,
    /// As many as the last one who asked allows.
    max: u32,
    holders: Vec<SlotHolder>,
}

/// A job that has a slot, and the message by which it has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotHolder {
    /// The job.
    pub job: JobId,
    /// The queue it came by.
    pub queue: QueueName,
    /// Its message's sequence in the queue's stream.
    pub sequence: u64,
}

impl Broker {
    /// Takes a slot of a key for a job, if fewer than `max` have one. Returns whether it has
    /// one now. Asking again does no harm.
    ///
    /// # Errors
    /// Where the server refuses or does not answer.
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
                held.clone_from(holder);
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

    /// Gives a job's slot back, if it has one, and releases as many of those that wait for one as
    /// there are free. Doing it again does no harm.
    ///
    /// # Errors
    /// Where the server refuses or does not answer: it is then to be done again.
    pub async fn release_slot(&self, key: &str, job: &JobId) -> Result<(), BrokerError> {
        let free = loop {
            let (mut slots, revision) = self.read_slots(key).await?;
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
                Some(job) => self.release(job).await?,
                None => false,
            };
            if waits {
                released += 1;
                continue;
            }
            self.purge_subjects(&bucket, &message.subject, None).await?;
            // it may have begun to wait anew just before its key went
            if let Some(job) = &job
                && self.release(job).await?
            {
                released += 1;
            }
        }
        Ok(())
    }

    /// Puts down that a job waits for a slot of a key.
    ///
    /// # Errors
    /// Where the server refuses or does not answer.
    pub async fn index_slot_waiter(&self, key: &str, job: &JobId) -> Result<(), BrokerError> {
        self.create_key(self.names.slot_waiter(key, job), Bytes::new())
            .await
    }

    /// Whether a job that put itself down as waiting could have a slot by now.
    ///
    /// # Errors
    /// Where the server refuses or does not answer.
    pub async fn has_free_slot(&self, key: &str, max: u32) -> Result<bool, BrokerError> {
        let (slots, _) = self.read_slots(key).await?;
        Ok(slots.holders.len() < max as usize)
    }

    /// Removes what was put down of a job that waits for a slot no more.
    ///
    /// # Errors
    /// Where the server refuses or does not answer.
    pub async fn remove_slot_waiter(&self, key: &str, job: &JobId) -> Result<(), BrokerError> {
        let bucket = Names::bucket_stream(&self.names.dependents_bucket());
        self.purge_subjects(&bucket, &self.names.slot_waiter(key, job), None)
            .await
            .map(drop)
    }

    /// A holder whose job has ended, or whose message nobody will be given again.
    async fn find_stale_holder(
        &self,
        holders: &[SlotHolder],
    ) -> Result<Option<SlotHolder>, BrokerError> {
        for holder in holders.iter().take(CHECKS_MAX) {
            let (record, _) = self.read_record(&holder.job).await?;
            if record
                .as_ref()
                .is_some_and(|record| record.state.is_terminal())
            {
                return Ok(Some(holder.clone()));
            }
            // a job that runs does so by its lease's message, whichever it took the slot by
            let sequence = record
                .and_then(|record| record.lease)
                .map_or(holder.sequence, |lease| lease.sequence);
            if self.payload_at(&holder.queue, sequence).await?.is_none() {
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
        let slots = serde_json::from_slice(&payload).map_err(|error| {
            BrokerError::InvalidData(format!("the slots of `{key}` cannot be read: {error}"))
        })?;
        Ok((slots, message.sequence))
    }

    async fn write_slots(
        &self,
        key: &str,
        slots: &Slots,
        revision: u64,
    ) -> Result<(), BrokerError> {
        let value = serde_json::to_vec(slots).map_err(|error| {
            BrokerError::InvalidData(format!("cannot be written as JSON: {error}"))
        })?;
        let mut made = false;
        loop {
            let mut headers = HeaderMap::new();
            headers.insert(
                async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
                revision.to_string().as_str(),
            );
            if slots.holders.is_empty() {
                headers.insert(
                    async_nats::header::NATS_MESSAGE_TTL,
                    format!("{}s", IDLE_TTL.as_secs()),
                );
            }
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
