//! Storing the progress of schedules: a little later than it is made, and at most once a second for
//! each schedule.
//!
//! What a leader did not store before it died, the next leader does again, and the ids of the ticks
//! make that harmless.

use std::time::Duration;

use futures_util::future::FutureExt;
use tokio::task::unconstrained;
use tokio::time::Instant;

use super::leader::{Freshness, Leader, StoreResult};
use super::schedule_index::EntryId;
use crate::clock;
use naq_jetstream::{BrokerError, failpoint};

/// Number of schedules that are stored at once.
const WRITES_MAX: usize = 1_024;

/// Number of schedules that are stored at once while ticks are due: ticks come first.
const WRITES_MAX_WHILE_FIRING: usize = 64;

/// How long after the begin of a burst no progress is stored, unless a tick waits for it. Most bursts are over by
/// then, and the server has enqueued their ticks sooner.
const WRITES_HELD_MAX: Duration = Duration::from_secs(2);

/// Time between two writes of one schedule at least, however often it is due.
const STORE_INTERVAL_MIN: Duration = Duration::from_secs(1);

impl Leader<'_> {
    /// Queues a schedule to be stored, but not sooner than [`STORE_INTERVAL_MIN`] after it was last
    /// stored.
    pub(super) fn mark_dirty(&mut self, entry_id: EntryId) {
        let Some(entry) = self.index.get(entry_id) else {
            return;
        };
        if entry.is_dirty {
            return;
        }
        entry.is_dirty = true;
        if entry.is_writing {
            return;
        }
        let now = Instant::now();
        match entry.written_at.map(|at| at + STORE_INTERVAL_MIN) {
            Some(at) if at > now && !self.is_finishing => self.dirty.push_back((at, entry_id)),
            _ => self.dirty.push_front((now, entry_id)),
        }
    }

    /// Queues a schedule again whose change by another writer lacked progress made here.
    pub(super) fn remark_dirty(&mut self, entry_id: EntryId) {
        if let Some(entry) = self.index.get(entry_id)
            && std::mem::take(&mut entry.is_dirty)
        {
            self.mark_dirty(entry_id);
        }
    }

    /// Queues a schedule to be stored next, since one of its ticks waits for that.
    pub(super) fn store_first(&mut self, entry_id: EntryId) {
        if let Some(entry) = self.index.get(entry_id) {
            entry.is_dirty = true;
            if !entry.is_writing {
                self.urgent.push_back(entry_id);
            }
        }
    }

    /// Starts to store the schedules that are due for it, up to the number of concurrent writes.
    pub(super) fn store_due(&mut self, has_more: bool) {
        let now = Instant::now();
        self.burst_since = has_more.then(|| self.burst_since.unwrap_or(now));
        while self.writes.len() < WRITES_MAX
            && let Some(entry_id) = self.urgent.pop_front()
        {
            self.store(entry_id);
        }
        while self.has_room_to_store(has_more) {
            match self.dirty.front() {
                Some((at, entry_id)) if *at <= now => {
                    let entry_id = *entry_id;
                    self.dirty.pop_front();
                    self.store(entry_id);
                }
                _ => return,
            }
        }
    }

    /// Whether one more schedule may be stored now.
    pub(super) fn has_room_to_store(&self, has_more_ticks: bool) -> bool {
        let is_held = self
            .burst_since
            .is_some_and(|since| since.elapsed() < WRITES_HELD_MAX);
        let writes_max = match has_more_ticks {
            true if is_held => 0,
            true => WRITES_MAX_WHILE_FIRING,
            false => WRITES_MAX,
        };
        self.writes.len() < writes_max
    }

    fn store(&mut self, entry_id: EntryId) {
        let Some(entry) = self.index.get(entry_id) else {
            return;
        };
        if !entry.is_dirty || entry.is_writing {
            return;
        }
        entry.is_dirty = false;
        entry.is_writing = true;
        entry.written_at = Some(Instant::now());
        let (broker, me) = (self.client.broker().clone(), self.writer_id.clone());
        let (lease, expected) = (self.lease.clone(), entry.revision);
        let schedule = entry.schedule.clone();
        let skipped = schedule.progress.skipped;
        let store = async move {
            failpoint("progress.due");
            if !lease.is_held() {
                return (entry_id, StoreResult::NotLeader);
            }
            let written = match broker.send_schedule(&schedule, expected, Some(&me)).await {
                Ok(sent) => broker.confirm_schedule(sent).await,
                Err(error) => Err(error),
            };
            let written = match written {
                Ok(revision) => {
                    failpoint("progress.stored");
                    StoreResult::Stored { revision, skipped }
                }
                Err(BrokerError::Conflict) => {
                    // boxed, since it is rare and would make the future of every write several times larger
                    let reading = broker.read_stored_schedule(&schedule.schedule_id).boxed();
                    match reading.await {
                        Ok(stored) => StoreResult::Conflict(stored),
                        Err(error) => StoreResult::Failed(error),
                    }
                }
                Err(error) => StoreResult::Failed(error),
            };
            (entry_id, written)
        };
        self.writes.push(unconstrained(store).boxed());
    }

    /// Handles the result of storing a schedule.
    pub(super) fn on_stored(&mut self, (entry_id, written): (EntryId, StoreResult)) {
        let Some(entry) = self.index.get(entry_id) else {
            return;
        };
        entry.is_writing = false;
        let is_dirty = std::mem::take(&mut entry.is_dirty);
        match written {
            StoreResult::Stored { revision, skipped } => {
                entry.revision = entry.revision.max(revision);
                entry.skipped_stored = entry.skipped_stored.max(skipped);
                let waits = entry.awaits_store;
                let is_ready = waits && entry.skips_are_stored();
                entry.awaits_store = waits && !is_ready;
                if waits && !is_ready {
                    self.store_first(entry_id);
                } else if is_dirty {
                    self.mark_dirty(entry_id);
                }
                if is_ready {
                    self.advance(entry_id, clock::now());
                }
            }
            // the loop notices that itself
            StoreResult::NotLeader => {}
            StoreResult::Conflict(stored) => {
                if stored.revision == entry.revision {
                    // the watch has delivered this change while the write was refused
                    self.mark_dirty(entry_id);
                } else {
                    self.on_schedule(stored);
                    self.mark_dirty(entry_id);
                }
            }
            StoreResult::Failed(error) => {
                if matches!(error, BrokerError::NotFound(_)) {
                    // The bucket was removed, and the schedules with it: no tick until they are read.
                    self.freshness = Freshness::Suspect;
                }
                let schedule_id = entry.schedule.schedule_id.as_str();
                tracing::warn!(schedule_id, "cannot store the progress, retrying: {error}");
                self.mark_dirty(entry_id);
            }
        }
    }
}
