//! Reads the bucket of records into the index, and compares the two from time to time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::shared::SharedIndex;
use naq_client::{Client, ClientError};
use naq_core::ExponentialBackoff;

/// Interval of the comparison of the index with the number of keys of the bucket.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Pauses before the next attempt if the bucket cannot be read. NATS may deny it to this user permanently.
const RETRY_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// Number of records after which other requests are served.
const RECORDS_AT_ONCE: u32 = 256;

impl SharedIndex {
    /// An index of at most about this many bytes. It is filled until `stop` is true, once a watch uses its
    /// observer.
    pub(in crate::web) fn start(
        client: Client,
        bytes_max: usize,
        mut stop: watch::Receiver<bool>,
    ) -> Arc<SharedIndex> {
        let index = Arc::new(SharedIndex::new(bytes_max));
        let follower = Arc::clone(&index);
        tokio::spawn(async move {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                () = follower.follow(&client) => {}
            }
        });
        index
    }

    async fn follow(&self, client: &Client) {
        let mut checks = interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_wanted = tokio::select! {
                () = self.wanted.notified() => true,
                _ = checks.tick() => self.is_wrong(client).await,
            };
            if is_wanted {
                self.read_until_complete(client).await;
            }
        }
    }

    /// Whether the bucket shows that the index is wrong. If it does not answer, the next check may tell.
    async fn is_wrong(&self, client: &Client) -> bool {
        let Some(records) = self.records() else {
            return false;
        };
        match client.record_bucket_state().await {
            Ok(bucket) => {
                let is_wrong = self.check(records, bucket);
                if is_wrong {
                    tracing::info!("records were removed without a marker; reading all of them");
                }
                is_wrong
            }
            Err(_) => false,
        }
    }

    async fn read_until_complete(&self, client: &Client) {
        let mut failures = 0;
        loop {
            let epoch = self.start_reading();
            match self.read_all(client, epoch).await {
                Ok(()) => return,
                Err(error) => {
                    failures += 1;
                    match failures {
                        1 => tracing::warn!("cannot read the records for the index: {error}"),
                        _ => tracing::debug!("cannot read the records for the index: {error}"),
                    }
                    self.on_read_failed(epoch);
                    sleep(RETRY_BACKOFF.pause(failures, rand::random())).await;
                }
            }
        }
    }

    async fn read_all(&self, client: &Client, epoch: u64) -> Result<(), ClientError> {
        let mut records = client.record_outlines().await?;
        let last = records.last_revision();
        self.set_last(epoch, last);
        let mut read = 0_u32;
        while let Some(record) = records.next().await? {
            if !self.on_read(epoch, &record) {
                // whatever made it useless has requested another one
                return Ok(());
            }
            read = read.wrapping_add(1);
            if read.is_multiple_of(RECORDS_AT_ONCE) {
                tokio::task::yield_now().await;
            }
        }
        self.finish_reading(epoch, last);
        Ok(())
    }
}
