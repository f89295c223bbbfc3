//! Waiting until jobs have ended.

use std::collections::HashSet;

use std::time::Duration;

use futures_util::stream::StreamExt;

use super::{Client, ClientError};
use naq_core::ExponentialBackoff;
use naq_jetstream::{BrokerErrorKind, RecordEvent, RecordWatch};
use naq_protocol::{JobId, Record};

/// How many records are read at the same time.
const READS_AT_ONCE: usize = 64;

/// Pauses between attempts to read the jobs while NATS does not answer.
const READ_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(100), Duration::from_secs(2));

impl Client {
    /// Waits until a job has ended and returns its record.
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchJob`] if the job does not exist.
    pub async fn wait(&self, job: &JobId) -> Result<Record, ClientError> {
        let mut ended = None;
        self.wait_each(std::slice::from_ref(job), |record| ended = Some(record))
            .await?;
        ended.ok_or_else(|| ClientError::NoSuchJob(job.clone()))
    }

    /// Waits until each of some jobs has ended, and calls `on_end` with each record at that moment.
    /// Cancel safe.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, JobId};
    /// # async fn example(client: Client, jobs: Vec<JobId>) -> Result<(), ClientError> {
    /// client
    ///     .wait_each(&jobs, |record| println!("{}: {}", record.job_id, record.state()))
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchJob`] with the first of the jobs that does not exist.
    pub async fn wait_each(
        &self,
        jobs: &[JobId],
        on_end: impl FnMut(Record),
    ) -> Result<(), ClientError> {
        self.waiter(jobs).await?.each(on_end).await
    }

    /// Starts to wait for some jobs, which need not be enqueued yet: no change from now on is missed.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS refuses the watch.
    pub async fn waiter(&self, jobs: &[JobId]) -> Result<Waiter, ClientError> {
        // The records' bucket publishes the changes, and does not exist before the first worker.
        let watch = self.broker.watch_records(jobs).await?;
        Ok(Waiter::new(self.clone(), watch, jobs))
    }
}

/// A wait for some jobs. [`Client::waiter`] starts it.
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

    /// Waits until all jobs have ended, and calls `on_end` with the record of each when it ends.
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchJob`] with the first of the jobs that does not exist.
    pub async fn each(self, mut on_end: impl FnMut(Record)) -> Result<(), ClientError> {
        self.each_change(|record| {
            if record.state().is_terminal() {
                on_end(record);
            }
        })
        .await
    }

    /// Waits until all jobs have ended, and calls `on_change` for each change: a start, progress, a
    /// retry, the end. It reports each end once, and other changes at least once.
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchJob`] with the first of the jobs that does not exist.
    pub async fn each_change(
        mut self,
        mut on_change: impl FnMut(Record),
    ) -> Result<(), ClientError> {
        self.read_open(&mut on_change).await?;
        while !self.open.is_empty() {
            match self.watch.next().await? {
                RecordEvent::Changed(stored) => self.report(stored.record, &mut on_change),
                RecordEvent::Resync | RecordEvent::Gap => self.read_open(&mut on_change).await?,
            }
        }
        Ok(())
    }

    fn report(&mut self, record: Record, on_change: &mut impl FnMut(Record)) {
        let is_open = if record.state().is_terminal() {
            self.open.remove(&record.job_id)
        } else {
            self.open.contains(&record.job_id) && !record.placeholder
        };
        if is_open {
            on_change(record);
        }
    }

    /// Reads the jobs that have not ended. A server that does not answer, or whose JetStream starts
    /// again, does not end the wait: it may answer later, and the jobs run meanwhile.
    async fn read_open(&mut self, on_change: &mut impl FnMut(Record)) -> Result<(), ClientError> {
        let mut failures = 0;
        loop {
            match self.try_read_open(on_change).await {
                Err(ClientError::Broker(error)) if is_passing(error.kind()) => {
                    failures += 1;
                    // One reader of its own jobs need not be spread in time.
                    tokio::time::sleep(READ_BACKOFF.pause(failures, 0.5)).await;
                }
                read => return read,
            }
        }
    }

    async fn try_read_open(
        &mut self,
        on_change: &mut impl FnMut(Record),
    ) -> Result<(), ClientError> {
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
            self.report(record?, on_change);
        }
        Ok(())
    }
}

fn is_passing(kind: BrokerErrorKind) -> bool {
    matches!(
        kind,
        BrokerErrorKind::Timeout | BrokerErrorKind::Unsupported
    )
}
