//! Waiting for jobs to end.

use std::collections::HashSet;

use futures_util::stream::StreamExt;

use super::{Client, ClientError};
use crate::broker::{RecordEvent, RecordWatch};
use crate::envelope::{JobId, Record};

/// How many reads are under way at once where there are many to make.
const READS_AT_ONCE: usize = 64;

/// A wait for some jobs to end.
pub struct Waiter {
    client: Client,
    watch: RecordWatch,
    open: HashSet<JobId>,
    order: Vec<JobId>,
}

impl Waiter {
    pub(super) fn new(client: Client, watch: RecordWatch, jobs: &[JobId]) -> Waiter {
        Waiter {
            client,
            watch,
            open: jobs.iter().cloned().collect(),
            order: jobs.to_vec(),
        }
    }

    /// Waits until each has ended, telling of each as it does.
    ///
    /// # Errors
    /// [`ClientError::NoSuchJob`] for the first one there is none of.
    pub async fn each(mut self, mut tell: impl FnMut(Record)) -> Result<(), ClientError> {
        self.read_open(&mut tell).await?;
        while !self.open.is_empty() {
            match self.watch.next().await {
                RecordEvent::Changed(stored) => {
                    if stored.record.state.is_terminal() && self.open.remove(&stored.record.job_id)
                    {
                        tell(stored.record);
                    }
                }
                RecordEvent::Reread => self.read_open(&mut tell).await?,
            }
        }
        Ok(())
    }

    async fn read_open(&mut self, tell: &mut impl FnMut(Record)) -> Result<(), ClientError> {
        let client = &self.client;
        let open: Vec<&JobId> = self
            .order
            .iter()
            .filter(|job| self.open.contains(*job))
            .collect();
        let mut ended = Vec::new();
        let mut reads = futures_util::stream::iter(open)
            .map(|job| async move { client.fetch_job(job).await })
            .buffered(READS_AT_ONCE);
        while let Some(record) = reads.next().await {
            let record = record?;
            if record.state.is_terminal() {
                ended.push(record);
            }
        }
        drop(reads);
        for record in ended {
            if self.open.remove(&record.job_id) {
                tell(record);
            }
        }
        Ok(())
    }
}
