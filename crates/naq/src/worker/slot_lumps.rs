//! The slots of concurrency keys that this worker takes ahead and gives to its jobs itself.
//!
//! A key whose limit is large has one write for many jobs: a job takes a slot of the worker's lump, and
//! its end makes the slot free for the next one here. What jobs did not need for a moment is returned,
//! and when another worker waits, every unused slot at once. [`naq_core::WorkerLump`] decides; here are
//! the writes, one at a time for each key.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::options::WorkerConfig;
use crate::clock::{BootInstant, now};
use naq_core::{SlotPlan, SlotRequest, SlotWrite, WorkerLump};
use naq_jetstream::{Broker, BrokerError};
use naq_protocol::{SlotHolder, Slots};

/// Slots that no job needed for this long are returned.
const PERIOD: Duration = Duration::from_millis(500);

/// A job whose key has no free slot waits for one of this worker's own jobs to end only if these take
/// less than this in the mean; otherwise it is blocked at once.
const SHORT_USE_MAX: Duration = Duration::from_millis(10);

/// How long it waits at most, in mean uses. A blocked job takes a dozen requests to the server.
const USES_WAITED_MAX: u32 = 8;

/// The slots that this worker has taken ahead, by concurrency key.
pub(super) struct SlotLumps {
    worker_id: String,
    /// How long a job of this worker may run once the worker is cut off.
    lease: Duration,
    takeover_after: Duration,
    concurrency: u32,
    keys: Mutex<HashMap<String, Arc<KeySlots>>>,
    /// The silent workers that a task of this worker observes, each with the key of its slots.
    observed: Mutex<HashSet<(String, String)>>,
}

/// The slots of one key.
pub(super) struct KeySlots {
    key: String,
    state: Mutex<KeyState>,
    /// Held during a change of the stored slots, so that this worker has at most one on its way.
    writing: tokio::sync::Mutex<()>,
    /// When the last request to all other workers was begun; held during one.
    pub(super) asking: tokio::sync::Mutex<Option<Instant>>,
    /// The lump is used again after a pause.
    used: Notify,
}

struct KeyState {
    lump: WorkerLump,
    /// A write may have failed, so that the stored slots may list too large a lump.
    is_unsettled: bool,
    has_keeper: bool,
    /// The keeper waits until the lump is used again.
    is_resting: bool,
    /// Whether a job has taken or put back a slot in this period.
    is_active: bool,
    /// How long a job uses a slot, in the mean.
    mean_use: Duration,
    /// The jobs of this worker that wait for one of its slots.
    waiting: VecDeque<WaitingJob>,
}

struct WaitingJob {
    max: u32,
    slot: oneshot::Sender<SlotHold>,
}

/// What the keeper of a lump does at the end of a period.
enum Upkeep {
    /// Nothing is left of the lump.
    End,
    /// Wait until the lump is used again.
    Rest,
    Nothing,
    /// Return so many slots.
    Return(u32),
    Renew,
}

/// A slot for a job.
pub(super) enum AcquiredSlot {
    /// The job is listed among the holders.
    Listed,
    /// The slot belongs to the worker's lump.
    Ahead(SlotHold),
}

/// A slot of the lump that a job uses. Dropping it puts the slot back.
pub(super) struct SlotHold {
    slots: Arc<KeySlots>,
    taken_at: Instant,
}

impl SlotHold {
    /// The key that the slot is of.
    pub(super) fn slots(&self) -> Arc<KeySlots> {
        Arc::clone(&self.slots)
    }
}

impl Drop for SlotHold {
    fn drop(&mut self) {
        if let Some(next) = self.slots.end_use(self.taken_at) {
            // if that job does not wait any more, this drops the slot, which puts it back
            let _ = next.send(self.slots.hold());
        }
    }
}

impl KeySlots {
    fn lock(&self) -> MutexGuard<'_, KeyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another worker waits for slots that this one does not use.
    pub(super) fn must_return(&self) -> bool {
        let state = self.lock();
        state.lump.is_wanted() && state.lump.unused() > 0
    }

    fn on_use(&self, state: &mut KeyState) {
        state.is_active = true;
        if std::mem::take(&mut state.is_resting) {
            self.used.notify_one();
        }
    }

    fn end_period(&self) -> Upkeep {
        let mut state = self.lock();
        let surplus = state.lump.end_period();
        let is_active = std::mem::take(&mut state.is_active);
        if state.lump.is_empty() && !state.is_unsettled {
            state.has_keeper = false;
            Upkeep::End
        } else if surplus > 0 || state.is_unsettled {
            Upkeep::Return(surplus)
        } else if is_active && state.lump.needs_renewal(BootInstant::now().since_boot()) {
            Upkeep::Renew
        } else if !is_active && state.lump.unused() == 0 {
            state.is_resting = true;
            Upkeep::Rest
        } else {
            Upkeep::Nothing
        }
    }

    /// A slot of the lump, if that takes no write.
    fn take(self: &Arc<Self>, max: u32) -> Option<SlotHold> {
        let mut state = self.lock();
        if !state.lump.take(max, BootInstant::now().since_boot()) {
            return None;
        }
        self.on_use(&mut state);
        Some(self.hold())
    }

    fn hold(self: &Arc<Self>) -> SlotHold {
        SlotHold {
            slots: Arc::clone(self),
            taken_at: Instant::now(),
        }
    }

    /// A job that used a slot since then has ended. Returns the job that gets the slot; without one it is
    /// put back.
    fn end_use(&self, taken_at: Instant) -> Option<oneshot::Sender<SlotHold>> {
        let mut state = self.lock();
        state.mean_use = (state.mean_use * 7 + taken_at.elapsed()) / 8;
        self.on_use(&mut state);
        let now = BootInstant::now().since_boot();
        while let Some(next) = state.waiting.pop_front() {
            if next.slot.is_closed() {
                continue;
            }
            if state.lump.may_pass(next.max, now) {
                return Some(next.slot);
            }
            state.waiting.push_front(next);
            break;
        }
        state.lump.release(now);
        None
    }

    /// Waits for a slot that a job of this worker passes on, if that is worth it.
    async fn wait_for_own(self: &Arc<Self>, max: u32) -> Option<SlotHold> {
        if let Some(hold) = self.take(max) {
            return Some(hold);
        }
        let (patience, passed) = {
            let mut state = self.lock();
            if !state.lump.is_used() || state.mean_use > SHORT_USE_MAX {
                return None;
            }
            let (slot, passed) = oneshot::channel();
            state.waiting.push_back(WaitingJob { max, slot });
            (state.mean_use * USES_WAITED_MAX, passed)
        };
        tokio::time::timeout(patience, passed).await.ok()?.ok()
    }
}

impl SlotLumps {
    pub(super) fn new(worker_id: &str, options: &WorkerConfig) -> SlotLumps {
        SlotLumps {
            worker_id: worker_id.to_owned(),
            lease: options.ack_wait + options.outage_grace,
            takeover_after: options.takeover_after,
            concurrency: u32::try_from(options.concurrency).unwrap_or(u32::MAX),
            keys: Mutex::default(),
            observed: Mutex::default(),
        }
    }

    pub(super) fn worker_id(&self) -> &str {
        &self.worker_id
    }

    /// How long a connection must exist before the silence of another worker means anything.
    pub(super) fn takeover_after(&self) -> Duration {
        self.takeover_after
    }

    fn observed(&self) -> MutexGuard<'_, HashSet<(String, String)>> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a silent worker is observed. Returns false if it is already.
    pub(super) fn begin_observing(&self, key: &str, worker_id: &str) -> bool {
        self.observed()
            .insert((key.to_owned(), worker_id.to_owned()))
    }

    pub(super) fn end_observing(&self, key: &str, worker_id: &str) {
        self.observed()
            .remove(&(key.to_owned(), worker_id.to_owned()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<KeySlots>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slots of a key, which are forgotten by [`forget_if_unused`](Self::forget_if_unused).
    pub(super) fn of_key(&self, key: &str) -> Arc<KeySlots> {
        let mut keys = self.lock();
        if let Some(slots) = keys.get(key) {
            return Arc::clone(slots);
        }
        let first_renewal = now().unix_ms().unsigned_abs();
        let slots = Arc::new(KeySlots {
            key: key.to_owned(),
            state: Mutex::new(KeyState {
                lump: WorkerLump::new(self.worker_id.clone(), self.lease, first_renewal),
                is_unsettled: false,
                has_keeper: false,
                is_resting: false,
                is_active: false,
                mean_use: Duration::ZERO,
                waiting: VecDeque::new(),
            }),
            writing: tokio::sync::Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            used: Notify::new(),
        });
        keys.insert(key.to_owned(), Arc::clone(&slots));
        slots
    }

    /// Forgets a key of which this worker has no slots, unless another task uses it.
    pub(super) fn forget_if_unused(&self, slots: Arc<KeySlots>) {
        let mut keys = self.lock();
        let is_unused = {
            let state = slots.lock();
            state.lump.is_empty() && !state.is_unsettled && !state.has_keeper
        };
        // the map and the caller
        if is_unused && Arc::strong_count(&slots) == 2 {
            keys.remove(&slots.key);
        }
    }

    /// Acquires a slot for a job. `None` means that all are in use. `is_new` says that the job cannot be
    /// listed among the holders, so that the stored slots need not be read.
    ///
    /// # Errors
    /// Returns the errors of [`Broker::acquire_slot`]. Repeating it does no harm.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        broker: &Broker,
        key: &str,
        max: u32,
        holder: SlotHolder,
        is_new: bool,
    ) -> Result<Option<AcquiredSlot>, BrokerError> {
        let slots = self.of_key(key);
        let take = || is_new.then(|| slots.take(max)).flatten();
        if let Some(hold) = take() {
            return Ok(Some(AcquiredSlot::Ahead(hold)));
        }
        let writing = slots.writing.lock().await;
        // the write of another job has taken enough
        if let Some(hold) = take() {
            return Ok(Some(AcquiredSlot::Ahead(hold)));
        }
        let request = SlotRequest {
            holder,
            max,
            wanted: self.concurrency,
        };
        let mut sent_at = Duration::ZERO;
        let planned = broker
            .acquire_slot(key, |stored| {
                sent_at = BootInstant::now().since_boot();
                slots.lock().lump.request(stored, &request)
            })
            .await;
        let acquired = match planned {
            Ok(SlotPlan::Write(write)) => {
                self.confirm(broker, &slots, &write, sent_at);
                Some(if write.takes_from_lump() {
                    AcquiredSlot::Ahead(slots.hold())
                } else {
                    AcquiredSlot::Listed
                })
            }
            Ok(SlotPlan::Holds) => Some(AcquiredSlot::Listed),
            Ok(SlotPlan::Full) => {
                drop(writing);
                let passed = slots.wait_for_own(max).await;
                let acquired = passed.map(AcquiredSlot::Ahead);
                self.forget_if_unused(slots);
                return Ok(acquired);
            }
            Err(error) => {
                self.unsettle(broker, &slots);
                return Err(error);
            }
        };
        drop(writing);
        self.forget_if_unused(slots);
        Ok(acquired)
    }

    /// Returns the slots of a key that no job uses, and releases as many jobs that wait.
    ///
    /// # Errors
    /// Returns an error if the server refuses a write or does not answer. It is repeated until it
    /// succeeds, also if the caller does not repeat it.
    pub(super) async fn return_unused(
        self: &Arc<Self>,
        broker: &Broker,
        slots: &Arc<KeySlots>,
    ) -> Result<(), BrokerError> {
        let unused = slots.lock().lump.unused();
        self.return_slots(broker, slots, unused).await
    }

    async fn return_slots(
        self: &Arc<Self>,
        broker: &Broker,
        slots: &Arc<KeySlots>,
        count: u32,
    ) -> Result<(), BrokerError> {
        let writing = slots.writing.lock().await;
        let asked = {
            let mut state = slots.lock();
            let count = count.min(state.lump.unused());
            if count == 0 && !state.is_unsettled {
                return Ok(());
            }
            state.lump.shrink(count);
            state.lump.asked()
        };
        let sync = |lump: &mut WorkerLump, stored: &mut Slots| lump.sync(stored);
        let free = match self.write(broker, slots, sync).await {
            Ok(free) => free,
            Err(error) => {
                self.unsettle(broker, slots);
                return Err(error);
            }
        };
        slots.lock().is_unsettled = false;
        drop(writing);
        let released = broker.release_slot_waiters(&slots.key, free).await?;
        if released < free {
            slots.lock().lump.on_none_waits(asked);
        }
        Ok(())
    }

    /// Returns all slots that no job uses, since the worker exits.
    pub(super) async fn return_all(self: &Arc<Self>, broker: &Broker) {
        let all: Vec<_> = self.lock().values().cloned().collect();
        for slots in all {
            if let Err(error) = self.return_unused(broker, &slots).await {
                tracing::warn!(
                    key = slots.key,
                    "cannot return slots of a concurrency key; they are free once this worker counts as gone: {error}"
                );
            }
        }
    }

    /// Another worker waits for slots of a key. Returns how many slots this worker still has.
    pub(super) async fn on_wanted(self: &Arc<Self>, broker: &Broker, key: &str) -> u32 {
        let Some(slots) = self.lock().get(key).cloned() else {
            return 0;
        };
        slots.lock().lump.on_wanted();
        if let Err(error) = self.return_unused(broker, &slots).await {
            tracing::debug!(key, "cannot return slots yet: {error}");
        }
        slots.lock().lump.slots()
    }

    /// Writes a change of the lump, and returns how many slots of the key are free.
    async fn write(
        self: &Arc<Self>,
        broker: &Broker,
        slots: &Arc<KeySlots>,
        change: impl Fn(&mut WorkerLump, &mut Slots) -> Option<SlotWrite>,
    ) -> Result<usize, BrokerError> {
        let mut sent_at = Duration::ZERO;
        let (write, free) = broker
            .change_slots(&slots.key, |stored| {
                sent_at = BootInstant::now().since_boot();
                change(&mut slots.lock().lump, stored)
            })
            .await?;
        if let Some(write) = write {
            self.confirm(broker, slots, &write, sent_at);
        }
        Ok(free)
    }

    fn confirm(
        self: &Arc<Self>,
        broker: &Broker,
        slots: &Arc<KeySlots>,
        write: &SlotWrite,
        sent_at: Duration,
    ) {
        let mut state = slots.lock();
        state.lump.confirm(write, sent_at);
        state.is_unsettled = false;
        slots.on_use(&mut state);
        if !state.lump.is_empty() {
            self.ensure_keeper(broker, slots, &mut state);
        }
    }

    /// A write has failed: the keeper makes sure that the stored slots list no more than the lump has.
    fn unsettle(self: &Arc<Self>, broker: &Broker, slots: &Arc<KeySlots>) {
        let mut state = slots.lock();
        state.is_unsettled = true;
        slots.on_use(&mut state);
        self.ensure_keeper(broker, slots, &mut state);
    }

    fn ensure_keeper(
        self: &Arc<Self>,
        broker: &Broker,
        slots: &Arc<KeySlots>,
        state: &mut KeyState,
    ) {
        if !std::mem::replace(&mut state.has_keeper, true) {
            let keeping = Arc::clone(self).keep(broker.clone(), Arc::clone(slots));
            tokio::spawn(keeping);
        }
    }

    /// Returns what jobs do not need, and renews the lump while they use it, until nothing of it is left.
    async fn keep(self: Arc<Self>, broker: Broker, slots: Arc<KeySlots>) {
        loop {
            tokio::time::sleep(PERIOD).await;
            let kept = match slots.end_period() {
                Upkeep::End => break,
                Upkeep::Rest => {
                    slots.used.notified().await;
                    continue;
                }
                Upkeep::Nothing => Ok(()),
                Upkeep::Return(surplus) => self.return_slots(&broker, &slots, surplus).await,
                Upkeep::Renew => {
                    let _writing = slots.writing.lock().await;
                    let renew = |lump: &mut WorkerLump, stored: &mut Slots| lump.renew(stored);
                    self.write(&broker, &slots, renew).await.map(drop)
                }
            };
            if let Err(error) = kept {
                tracing::debug!(key = slots.key, "cannot write slots, retrying: {error}");
            }
        }
        self.forget_if_unused(slots);
    }
}
