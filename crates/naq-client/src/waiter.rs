//! Waiting for jobs to end.

use std::collections::HashSet;

use futures_util::stream::StreamExt;

use super::{Client, ClientError};
use naq_jetstream::{RecordEvent, RecordWatch};
use naq_protocol::{JobId, Record};

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
    pub async fn each(self, mut tell: impl FnMut(Record)) -> Result<(), ClientError> {
        self.each_change(|record| {
            if record.state.is_terminal() {
                tell(record);
            }
        })
        .await
    }

    /// Waits until each has ended, telling of each change on the way: a start, progress, a retry,
    /// the end. Of the end once; of anything else perhaps more often.
    ///
    /// # Errors
    /// [`ClientError::NoSuchJob`] for the first one there is none of.
    pub async fn each_change(mut self, mut tell: impl FnMut(Record)) -> Result<(), ClientError> {
        self.read_open(&mut tell).await?;
        while !self.open.is_empty() {
            match self.watch.next().await {
                RecordEvent::Changed(stored) => self.take(stored.record, &mut tell),
                RecordEvent::Resync | RecordEvent::Gap => self.read_open(&mut tell).await?,
            }
        }
        Ok(())
    }

    fn take(&mut self, record: Record, tell: &mut impl FnMut(Record)) {
        let is_open = if record.state.is_terminal() {
            self.open.remove(&record.job_id)
        } else {
            self.open.contains(&record.job_id) && !record.placeholder
        };
        if is_open {
            tell(record);
        }
    }

    async fn read_open(&mut self, tell: &mut impl FnMut(Record)) -> Result<(), ClientError> {
        let client = self.client.clone();
        let open: Vec<JobId> = self
            .order
            .iter()
            .filter(|job| self.open.contains(*job))
            .cloned()
            .collect();
        let mut reads = futures_util::stream::iter(open)
            .map(|job| {
                let client = client.clone();
                async move { client.fetch_job(&job).await }
            })
            .buffered(READS_AT_ONCE);
        while let Some(record) = reads.next().await {
            self.take(record?, tell);
        }
        Ok(())
    }
}
