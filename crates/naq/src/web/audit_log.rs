//! Appends entries to the audit in the background: no request waits for its entry, or fails because of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use naq_client::{AuditWriter, Client};
use naq_protocol::AuditEntry;

/// Entries that wait until NATS has stored them. Further ones are lost, and the log says so.
const ENTRIES_WAITING_MAX: u32 = 1_024;

/// Longest time for which an entry waits.
const APPEND_MAX: Duration = Duration::from_secs(10);

/// Longest time for which the end of the dashboard waits for entries.
const FINISH_MAX: Duration = Duration::from_millis(500);

/// Time between two warnings about lost entries.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Writes entries, some at the same time.
pub(super) struct AuditLog {
    client: Client,
    runtime: Handle,
    waiting: Arc<Semaphore>,
    lost: Arc<LostEntries>,
}

/// Entries that were not stored, since the last warning about them.
#[derive(Debug, Default)]
struct LostEntries(Mutex<(u64, Option<Instant>)>);

impl LostEntries {
    /// Adds one. Returns how many a warning is to name. `None` if there was one recently.
    fn add(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (lost, warned_at) = &mut *state;
        *lost += 1;
        if warned_at.is_some_and(|at| now.saturating_duration_since(at) < WARNING_INTERVAL) {
            return None;
        }
        *warned_at = Some(now);
        Some(std::mem::take(lost))
    }

    fn warn(&self, why: impl std::fmt::Display) {
        if let Some(lost) = self.add(Instant::now()) {
            tracing::warn!(
                entries = lost,
                "the audit lacks what requests have changed: {why}"
            );
        }
    }
}

impl AuditLog {
    /// Has to be called within a runtime.
    pub(super) fn new(client: Client) -> AuditLog {
        AuditLog {
            client,
            runtime: Handle::current(),
            waiting: Arc::new(Semaphore::new(ENTRIES_WAITING_MAX as usize)),
            lost: Arc::default(),
        }
    }

    /// Appends an entry, without waiting for that.
    pub(super) fn append(&self, entry: AuditEntry) {
        let lost = Arc::clone(&self.lost);
        let Ok(slot) = Arc::clone(&self.waiting).try_acquire_owned() else {
            lost.warn("too many entries wait to be stored");
            return;
        };
        let client = self.client.clone();
        self.runtime.spawn(async move {
            let appending = client.append_audit_entry(AuditWriter::Dashboard, &entry);
            match tokio::time::timeout(APPEND_MAX, appending).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => lost.warn(error),
                Err(_) => lost.warn("NATS has not stored an entry in time"),
            }
            drop(slot);
        });
    }

    /// Waits until every entry is stored, but not for long.
    pub(super) async fn finish(&self) {
        let all = self.waiting.acquire_many(ENTRIES_WAITING_MAX);
        let _ = tokio::time::timeout(FINISH_MAX, all).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_entries_are_counted_between_two_warnings() {
        let lost = LostEntries::default();
        let start = Instant::now();
        assert_eq!(lost.add(start), Some(1));
        assert_eq!(lost.add(start + WARNING_INTERVAL / 2), None);
        assert_eq!(lost.add(start + WARNING_INTERVAL / 2), None);
        assert_eq!(lost.add(start + WARNING_INTERVAL), Some(3));
    }
}
