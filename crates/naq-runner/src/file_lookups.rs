//! Looks up files in bounded time: on a network file system whose server is away, a system call may
//! block forever.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

/// How long a lookup may take.
const LOOKUP_MAX: Duration = Duration::from_millis(500);

/// Maximum number of lookups at once, including those that never return and block a thread.
const LOOKUPS_AT_ONCE: usize = 4;

/// Runs lookups on threads of their own, in bounded time. Not on those of the tokio runtime, which
/// waits for them when it ends.
#[derive(Debug)]
pub(super) struct FileLookups(Arc<Semaphore>);

impl FileLookups {
    pub(super) fn new() -> FileLookups {
        FileLookups(Arc::new(Semaphore::new(LOOKUPS_AT_ONCE)))
    }

    /// The result of a lookup. `None` if it takes too long, or at once if all threads are busy.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        lookup: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let looking = async {
            // Waiting for a thread that is stuck would cost each caller the whole time.
            let permit = Arc::clone(&self.0).try_acquire_owned().ok()?;
            let (sender, answer) = oneshot::channel();
            std::thread::Builder::new()
                .name("naq-lookup".to_owned())
                .spawn(move || {
                    let _ = sender.send(lookup());
                    drop(permit);
                })
                .ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(LOOKUP_MAX, looking).await.ok()?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_lookup_that_never_returns_does_not_stop_its_caller() {
        let lookups = FileLookups::new();
        assert_eq!(lookups.run(|| 7).await, Some(7));
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let stuck = || {
            let gate = Arc::clone(&gate);
            lookups.run(move || drop(gate.lock().map(|gate| gate.recv())))
        };
        let answers = tokio::join!(stuck(), stuck(), stuck(), stuck());
        assert_eq!(answers, (None, None, None, None));
        // no thread is left, until one returns
        let at_once = tokio::time::timeout(LOOKUP_MAX / 2, lookups.run(|| 7)).await;
        assert_eq!(at_once, Ok(None));
        drop(release);
        while lookups.run(|| 7).await.is_none() {
            std::thread::yield_now();
        }
    }
}
