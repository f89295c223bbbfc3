//! Waiting for an answer without giving up the processor, while the machine has nothing else to do.
//!
//! A thread that sleeps is woken some 50 to 100 µs after its answer has arrived where a hypervisor has to start the
//! processor again, and a job on an idle worker waits for several answers, one after another. So the worker looks for
//! the answer again and again, for a time in which it is likely to arrive. It does so only for a job that is alone
//! here and has none behind it: others need the processor.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long a claim may take to be answered.
const CLAIM_MAX: Duration = Duration::from_micros(400);

/// How long a call in a warm process may take, with all messages to it and to its spawner.
const CALL_MAX: Duration = Duration::from_micros(800);

/// After so many times in a row in which no answer came in time, the worker seldom tries.
const MISSES_MAX: u32 = 4;

/// How seldom that is.
const TRIES_APART: u32 = 32;

/// Whether the worker stays awake.
pub(super) struct StayAwake {
    until: Mutex<Option<Instant>>,
    changed: Notify,
    misses: AtomicU32,
    /// With one processor, the process that is to answer needs it.
    has_processors: bool,
}

impl StayAwake {
    pub(super) fn new() -> StayAwake {
        let processors = std::thread::available_parallelism();
        StayAwake {
            until: Mutex::new(None),
            changed: Notify::new(),
            misses: AtomicU32::new(0),
            has_processors: processors.is_ok_and(|count| count.get() > 1),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job was delivered that is alone, and is about to be claimed.
    pub(super) fn on_lone_delivery(&self) {
        let misses = self.misses.load(Ordering::Relaxed);
        if misses >= MISSES_MAX && !misses.is_multiple_of(TRIES_APART) {
            self.misses.store(misses.wrapping_add(1), Ordering::Relaxed);
            return;
        }
        if self.has_processors {
            *self.lock() = Some(Instant::now() + CLAIM_MAX);
            self.changed.notify_one();
        }
    }

    /// The job that is alone is sent to a warm process.
    pub(super) fn on_call(&self) {
        let mut until = self.lock();
        if until.is_some() {
            *until = Some(Instant::now() + CALL_MAX);
        }
    }

    /// The next answer is not expected soon, or it has arrived.
    pub(super) fn end(&self) {
        if self.lock().take().is_some() {
            self.misses.store(0, Ordering::Relaxed);
        }
    }

    /// Keeps the runtime awake when it is to be. Never ends.
    pub(super) async fn run(&self) {
        loop {
            self.changed.notified().await;
            while self.is_awake() {
                // all other tasks run, and it is looked whether anything has arrived
                tokio::task::yield_now().await;
            }
        }
    }

    fn is_awake(&self) -> bool {
        let mut until = self.lock();
        let is_late = until.is_some_and(|until| until <= Instant::now());
        if is_late {
            *until = None;
            self.misses.fetch_add(1, Ordering::Relaxed);
        }
        until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn awake() -> StayAwake {
        StayAwake {
            has_processors: true,
            ..StayAwake::new()
        }
    }

    fn miss(awake: &StayAwake) {
        *awake.lock() = Some(Instant::now());
        assert!(!awake.is_awake());
    }

    #[test]
    fn it_stays_awake_until_the_answer_has_arrived() {
        let awake = awake();
        awake.on_call();
        assert!(awake.lock().is_none(), "the job is not alone");
        awake.on_lone_delivery();
        assert!(awake.lock().is_some());
        awake.on_call();
        awake.end();
        assert!(!awake.is_awake());
    }

    #[test]
    fn after_answers_that_were_late_it_seldom_tries() {
        let awake = awake();
        for _ in 0..MISSES_MAX {
            miss(&awake);
        }
        let tries = (0..TRIES_APART * 3).filter(|_| {
            awake.on_lone_delivery();
            let tries = awake.lock().is_some();
            if tries {
                miss(&awake);
            }
            tries
        });
        assert!((2..=4).contains(&tries.count()));
        *awake.lock() = Some(Instant::now());
        awake.end();
        awake.on_lone_delivery();
        assert!(awake.lock().is_some());
    }

    #[test]
    fn one_processor_is_left_to_who_is_to_answer() {
        let awake = StayAwake {
            has_processors: false,
            ..StayAwake::new()
        };
        awake.on_lone_delivery();
        assert!(!awake.is_awake());
    }
}
