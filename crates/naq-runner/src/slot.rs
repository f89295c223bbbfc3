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
    pub(super) fn new(pool: &Arc<Pool>, id: SlotId) -> Slot {
        Slot {
            pool: Arc::clone(pool),
            id,
        }
    }

    pub(super) fn id(&self) -> SlotId {
        self.id
    }

    /// Waits until it is kept free for its holder.
    pub(super) async fn granted(&self) {
        loop {
            let mut granted = std::pin::pin!(self.pool.slots_granted.notified());
            granted.as_mut().enable();
            if self.pool.lock().slots.is_idle(self.id) {
                return;
            }
            granted.await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.release_slot(self.id);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.id).finish()
    }
}
