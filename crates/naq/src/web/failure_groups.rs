//! Groups of failures. Requests at the same time share one read, because grouping a million failed jobs takes
//! seconds.

use std::sync::Arc;
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
pub(super) struct FailureGroups(Mutex<Option<LastRead>>);

#[derive(Debug)]
struct LastRead {
    filter: DeadLetterFilter,
    groups: Arc<DeadLetterGroups>,
    expires_at: Instant,
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
        let mut last = self.0.lock().await;
        let started = Instant::now();
        if let Some(last) = &*last
            && last.filter == filter
            && started < last.expires_at
        {
            return Ok(Arc::clone(&last.groups));
        }
        let groups = Arc::new(client.group_dead_letters(&filter).await?);
        let age = (started.elapsed() * AGE_PER_READ).min(AGE_MAX);
        *last = Some(LastRead {
            filter,
            groups: Arc::clone(&groups),
            expires_at: Instant::now() + age,
        });
        Ok(groups)
    }

    /// Drops the cached groups after failed jobs were retried or discarded here.
    pub(super) async fn clear(&self) {
        *self.0.lock().await = None;
    }
}
