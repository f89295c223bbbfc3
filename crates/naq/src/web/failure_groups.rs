//! Groups of failures. Requests at the same time share one read, because grouping a million failed jobs takes
//! seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use naq_client::{Client, ClientError, DeadLetterFilter, DeadLetterGroups};

/// Groups are cached for the time that it took to read them, multiplied by this factor.
const AGE_PER_READ: u32 = 5;

/// Longest time for which groups are cached.
const AGE_MAX: Duration = Duration::from_secs(30);

/// The groups that were read last.
#[derive(Debug, Default)]
pub(super) struct FailureGroups {
    /// Locked while the groups are read.
    last: Mutex<Option<LastRead>>,
    /// How often failed jobs were retried or discarded here.
    changes: AtomicU64,
}

#[derive(Debug)]
struct LastRead {
    filter: DeadLetterFilter,
    /// The value of [`FailureGroups::changes`] before the groups were read.
    changes: u64,
    groups: Arc<DeadLetterGroups>,
    expires_at: Instant,
}

impl LastRead {
    fn is_fresh(&self, filter: &DeadLetterFilter, changes: u64, now: Instant) -> bool {
        self.filter == *filter && self.changes == changes && now < self.expires_at
    }
}

impl FailureGroups {
    /// The groups of a filter, at most 30 seconds old. One request reads at a time; others wait for it.
    ///
    /// # Errors
    /// Returns an error if NATS does not answer.
    pub(super) async fn read(
        &self,
        client: &Client,
        filter: DeadLetterFilter,
    ) -> Result<Arc<DeadLetterGroups>, ClientError> {
        let mut last = self.last.lock().await;
        let started = Instant::now();
        let changes = self.changes.load(Ordering::Acquire);
        if let Some(last) = &*last
            && last.is_fresh(&filter, changes, started)
        {
            return Ok(Arc::clone(&last.groups));
        }
        let groups = Arc::new(client.group_dead_letters(&filter).await?);
        let age = (started.elapsed() * AGE_PER_READ).min(AGE_MAX);
        *last = Some(LastRead {
            filter,
            changes,
            groups: Arc::clone(&groups),
            expires_at: Instant::now() + age,
        });
        Ok(groups)
    }

    /// Makes the cached groups stale after failed jobs were retried or discarded here. It does not wait for a
    /// read in progress, which may take longer than the change.
    pub(super) fn clear(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_makes_the_groups_stale_and_waits_for_no_read() {
        let all = DeadLetterFilter::default();
        let now = Instant::now();
        let last = LastRead {
            filter: all.clone(),
            changes: 0,
            groups: Arc::default(),
            expires_at: now + AGE_MAX,
        };
        let groups = FailureGroups::default();
        let _reading = groups.last.lock().await;
        assert!(last.is_fresh(&all, groups.changes.load(Ordering::Acquire), now));
        groups.clear();
        assert!(!last.is_fresh(&all, groups.changes.load(Ordering::Acquire), now));
        assert!(!last.is_fresh(&all, 0, last.expires_at));
    }
}
