//! What jobs that have not ended wait for.

use futures_util::stream::{self, StreamExt};

use super::{Client, ClientError, JobSummary};
use naq_core::{QueueFacts, WaitCause, WaitFacts, describe_missing_labels, wait_cause};
use naq_jetstream::BrokerError;
use naq_protocol::{Record, State, WorkerInfo};

/// How many records are read at the same time.
const READS_AT_ONCE: usize = 32;

/// Workers write heartbeats more often than this, in milliseconds.
const HEARTBEAT_AGE_MAX_MS: i64 = 20_000;

impl Client {
    /// Returns what a job that has not ended waits for. `None` if it has ended, is running, or will be
    /// started at once. Workers are found by their heartbeats.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn wait_cause(&self, record: &Record) -> Result<Option<WaitCause>, ClientError> {
        if record.state().is_terminal() {
            return Ok(None);
        }
        let queue = async {
            match self.broker.queue_info(&record.queue).await {
                Ok(info) => Ok(Some(QueueFacts {
                    paused: info.paused,
                    running: info.running,
                    max_running: info.max_running.map(std::num::NonZeroU32::get),
                })),
                Err(BrokerError::QueueNotFound(_)) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let (workers, queue) = tokio::try_join!(self.broker.list_workers(), queue)?;
        let mut facts = WaitFacts {
            workers: &workers,
            queue,
            is_store_full: false,
            now: self.now(),
        };
        let mut cause = wait_cause(record, &facts);
        let is_old = |worker: &WorkerInfo| {
            facts.now.unix_ms() - worker.last_seen.unix_ms() > HEARTBEAT_AGE_MAX_MS
        };
        // Heartbeats are missing, or have not been replaced.
        if cause.as_ref().is_some_and(WaitCause::needs_action) || workers.iter().any(is_old) {
            let checked = self.broker.check_storage().await;
            facts.is_store_full = matches!(checked, Err(BrokerError::StorageFull(_)));
            cause = wait_cause(record, &facts);
        }
        if matches!(cause, Some(WaitCause::WorkerVanished { .. })) {
            // The job may have ended, and its worker with it, since the record was read.
            let (now, _) = self.broker.read_record(&record.job_id).await?;
            if now.and_then(|now| now.lease().cloned()) != record.lease().cloned() {
                return Ok(None);
            }
        }
        Ok(cause)
    }

    /// Returns an explanation, for people, if a job waits for labels that no worker of its queue has.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn missing_labels(&self, record: &Record) -> Result<Option<String>, ClientError> {
        let waits_for_worker = matches!(
            record.state(),
            State::Scheduled | State::Queued | State::Waiting | State::Retrying
        );
        if !waits_for_worker {
            return Ok(None);
        }
        Ok(match self.wait_cause(record).await? {
            Some(WaitCause::MissingLabels { queue, labels }) => {
                Some(describe_missing_labels(&queue, &labels))
            }
            _ => None,
        })
    }

    /// Marks the running jobs of a list whose workers send no heartbeats any more.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn mark_vanished_workers(&self, jobs: &mut [JobSummary]) -> Result<(), ClientError> {
        if !jobs.iter().any(|job| job.record.state == State::Running) {
            return Ok(());
        }
        let workers = self.broker.list_workers().await?;
        let mut suspects = Vec::new();
        for (index, job) in jobs.iter().enumerate() {
            if job.record.state == State::Running && !is_listed(job.worker_id.as_deref(), &workers)
            {
                suspects.push((index, job.record.job_id.clone(), job.worker_id.clone()));
            }
        }
        // Since the list was read, a job may have ended, and its worker exited.
        let mut reads = stream::iter(suspects)
            .map(|(index, job_id, worker_id)| async move {
                let (now, _) = self.broker.read_record(&job_id).await?;
                let has_vanished = now
                    .is_some_and(|now| now.state() == State::Running && now.worker_id == worker_id);
                Ok::<_, BrokerError>((index, has_vanished))
            })
            .buffer_unordered(READS_AT_ONCE);
        while let Some(read) = reads.next().await {
            let (index, has_vanished) = read?;
            jobs[index].worker_vanished = has_vanished;
        }
        Ok(())
    }
}

fn is_listed(worker_id: Option<&str>, workers: &[WorkerInfo]) -> bool {
    workers
        .iter()
        .any(|worker| Some(worker.worker_id.as_str()) == worker_id)
}
