//! A slot that its holder has before its job.

use std::fmt;
use std::sync::Arc;

use super::pool::Pool;
use super::slots::SlotId;

/// One of the slots that jobs run in ([`RunnerConfig::concurrency`](super::RunnerConfig::concurrency)), kept free until
/// its holder [starts a job in it](super::Runner::start_job_in), or drops this. Free again when that job has ended.
pub struct Slot {
    pool: Arc<Pool>,
    id: SlotId,
}

impl Slot {
    /// A slot that is free. `None` if all are taken.
    pub(super) fn try_take(pool: &Arc<Pool>) -> Option<Slot> {
        let mut state = pool.lock();
        let is_free = state.slots_taken() < pool.options.concurrency;
        if !is_free || state.slots.first_awaited().is_some() {
            return None;
        }
        let id = state.next_id();
        state.slots.wait(id);
        state.slots.grant_next();
        Some(Slot {
            pool: Arc::clone(pool),
            id,
        })
    }

    /// Waits until a slot is free. Cancel safe.
    pub(super) async fn take(pool: &Arc<Pool>) -> Slot {
        let slot = Slot::request(pool);
        loop {
            let mut granted = std::pin::pin!(pool.slots_granted.notified());
            granted.as_mut().enable();
            if pool.lock().slots.is_idle(slot.id) {
                break;
            }
            granted.await;
        }
        slot
    }

    /// A slot that is waited for, and may be free already.
    fn request(pool: &Arc<Pool>) -> Slot {
        let mut state = pool.lock();
        let id = state.next_id();
        state.slots.wait(id);
        pool.dispatch(&mut state);
        Slot {
            pool: Arc::clone(pool),
            id,
        }
    }

    pub(super) fn id(&self) -> SlotId {
        self.id
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.slots.release(self.id);
        self.pool.dispatch(&mut state);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.id).finish()
    }
}
