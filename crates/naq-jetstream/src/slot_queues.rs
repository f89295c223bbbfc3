//! Changes of slots that wait for their turn to be written.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::error::BrokerError;
use naq_core::{SlotAnswer, SlotChange};
use naq_protocol::Slots;

/// The queues of all keys whose slots this process changes now, each with the number of its users.
#[derive(Debug, Default)]
pub(crate) struct SlotQueues(Mutex<HashMap<String, (Arc<SlotQueue>, usize)>>);

impl SlotQueues {
    /// The queue of a key. It exists for as long as it is used.
    pub(crate) fn of<'a>(&'a self, key: &'a str) -> UsedQueue<'a> {
        let mut queues = lock(&self.0);
        let (queue, users) = queues.entry(key.to_owned()).or_default();
        *users += 1;
        UsedQueue {
            queues: self,
            key,
            queue: Arc::clone(queue),
        }
    }
}

/// A queue that is in use. The last one that is dropped removes the queue.
pub(crate) struct UsedQueue<'a> {
    queues: &'a SlotQueues,
    key: &'a str,
    queue: Arc<SlotQueue>,
}

impl Deref for UsedQueue<'_> {
    type Target = SlotQueue;

    fn deref(&self) -> &SlotQueue {
        &self.queue
    }
}

impl Drop for UsedQueue<'_> {
    fn drop(&mut self) {
        let mut queues = lock(&self.queues.0);
        if let Some((_, users)) = queues.get_mut(self.key) {
            *users -= 1;
            if *users == 0 {
                queues.remove(self.key);
            }
        }
    }
}

/// The changes of a key's slots that wait.
#[derive(Debug, Default)]
pub(crate) struct SlotQueue {
    waiting: Mutex<Vec<QueuedChange>>,
    /// One writes at a time. Contains the value that was written last, with its revision.
    turn: tokio::sync::Mutex<Option<(Slots, u64)>>,
}

/// A change, and who waits for its answer.
#[derive(Debug)]
pub(crate) struct QueuedChange {
    pub(crate) change: SlotChange,
    answer: oneshot::Sender<Result<SlotAnswer, BrokerError>>,
}

impl QueuedChange {
    /// Whether its answer is still awaited. A change that is not, for example since its job's lease is lost, must
    /// not be carried out later.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.answer.is_closed()
    }

    pub(crate) fn answer(self, answer: Result<SlotAnswer, BrokerError>) {
        // nobody may wait any more
        let _ = self.answer.send(answer);
    }
}

impl SlotQueue {
    /// Queues a change. The receiver gets its answer.
    pub(crate) fn add(
        &self,
        change: SlotChange,
    ) -> oneshot::Receiver<Result<SlotAnswer, BrokerError>> {
        let (answer, receiver) = oneshot::channel();
        lock(&self.waiting).push(QueuedChange { change, answer });
        receiver
    }

    /// Waits for the turn to write. Cancel safe.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, Option<(Slots, u64)>> {
        self.turn.lock().await
    }

    /// Moves all changes that wait to the end of `batch`.
    pub(crate) fn drain_into(&self, batch: &mut Vec<QueuedChange>) {
        batch.append(&mut lock(&self.waiting));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_exists_for_as_long_as_it_is_used() {
        let queues = SlotQueues::default();
        let (first, second) = (queues.of("a"), queues.of("a"));
        assert!(Arc::ptr_eq(&first.queue, &second.queue));
        drop(first);
        assert_eq!(lock(&queues.0).len(), 1);
        drop(second);
        assert!(lock(&queues.0).is_empty());
    }
}
