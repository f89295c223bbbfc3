//! [`Queue`]: enqueueing, and what an operator does with a queue.

use std::num::NonZeroU32;

use bytes::Bytes;

use naq_core::StartDelay;
use naq_jetstream::{BrokerError, EnqueueAck, NewJob, PurgeSummary, QueueInfo, QueueSettings};
use naq_protocol::{
    Envelope, EnvelopeError, JobId, QueueName, Timestamp, TraceContext, is_equivalent,
};

use super::existing_job::{compare_with_existing, same_request};
use super::{Client, ClientError};

impl Client {
    /// Returns a queue by its name. The queue need not exist yet.
    ///
    /// # Errors
    /// Returns [`ClientError::Name`] if the name is invalid.
    pub fn queue(&self, name: impl AsRef<str>) -> Result<Queue, ClientError> {
        Ok(Queue::new(self.clone(), QueueName::new(name)?))
    }
}

/// A queue, through a client's connection.
///
/// ```no_run
/// # use naq_client::{Client, ClientError};
/// use std::time::Duration;
///
/// use naq_client::Envelope;
///
/// # async fn example(client: Client) -> Result<(), ClientError> {
/// let queue = client.queue("nightly")?;
/// let envelope = Envelope::command("./backup.sh", ["--all"])
///     .with_job_id("backup-2026-12-24")?
///     .with_timeout(Duration::from_secs(3_600))
///     .with_max_retries(3);
/// let job = queue.enqueue(&envelope).await?;
///
/// // the same envelope under the same id is the same request
/// assert_eq!(queue.enqueue(&envelope).await?, job);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Queue {
    pub(crate) client: Client,
    pub(crate) name: QueueName,
    trace: Option<TraceContext>,
}

impl Queue {
    pub(crate) fn new(client: Client, name: QueueName) -> Queue {
        Queue {
            client,
            name,
            trace: None,
        }
    }

    /// The same queue. What is enqueued through it belongs to a trace, unless its envelope names another one.
    #[must_use]
    pub fn traced(mut self, trace: Option<TraceContext>) -> Queue {
        self.trace = trace;
        self
    }

    /// Returns the queue's name.
    #[must_use]
    pub fn name(&self) -> &QueueName {
        &self.name
    }

    /// Returns the time since which the first job that no worker has received is queued. `None` if no such
    /// job exists. Jobs that require labels do not count.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer or denies the read.
    pub async fn oldest_queued(&self) -> Result<Option<Timestamp>, ClientError> {
        Ok(self.client.broker.oldest_queued(&self.name).await?)
    }

    /// Enqueues a job and returns its id: the envelope's, or a new one. Creates the queue if it does
    /// not exist.
    ///
    /// # Errors
    /// Returns [`ClientError::Invalid`] if the envelope is invalid, and
    /// [`BrokerError::JobIdConflict`] if another envelope was enqueued under the same id.
    pub async fn enqueue(&self, envelope: &Envelope) -> Result<JobId, ClientError> {
        self.enqueue_job(self.new_job(envelope)?).await
    }

    /// Enqueues a delayed job, as [`Queue::enqueue_at`] and [`Queue::enqueue_in`] do.
    ///
    /// # Errors
    /// As [`Queue::enqueue_at`].
    pub async fn enqueue_delayed(
        &self,
        envelope: &Envelope,
        start: StartDelay,
    ) -> Result<JobId, ClientError> {
        self.enqueue_job(self.new_job(envelope)?.delayed(start))
            .await
    }

    fn new_job(&self, envelope: &Envelope) -> Result<NewJob, ClientError> {
        envelope.validate()?;
        let payload = serde_json::to_vec(envelope).map_err(|error| {
            EnvelopeError::new(naq_protocol::RejectReason::Invalid, "", error.to_string())
        })?;
        Ok(match envelope.job_id.clone() {
            Some(job_id) => NewJob::with_id(job_id, self.name.clone(), payload.into()),
            None => NewJob::new(self.name.clone(), payload.into()),
        })
    }

    /// Enqueues an envelope byte for byte, under the given id or a new one. The caller has parsed the
    /// envelope.
    ///
    /// # Errors
    /// As [`Queue::enqueue`].
    pub async fn enqueue_bytes(
        &self,
        chosen: Option<JobId>,
        payload: Bytes,
    ) -> Result<JobId, ClientError> {
        self.enqueue_job(match chosen {
            Some(job_id) => NewJob::with_id(job_id, self.name.clone(), payload),
            None => NewJob::new(self.name.clone(), payload),
        })
        .await
    }

    /// Enqueues a delayed job byte for byte, as [`Queue::enqueue_bytes`] does.
    ///
    /// # Errors
    /// As [`Queue::enqueue_at`].
    pub async fn enqueue_bytes_delayed(
        &self,
        chosen: Option<JobId>,
        payload: Bytes,
        start: StartDelay,
    ) -> Result<JobId, ClientError> {
        let job = match chosen {
            Some(job_id) => NewJob::with_id(job_id, self.name.clone(), payload),
            None => NewJob::new(self.name.clone(), payload),
        };
        self.enqueue_job(job.delayed(start)).await
    }

    pub(crate) async fn enqueue_job(&self, job: NewJob) -> Result<JobId, ClientError> {
        let job = job.traced(self.trace);
        let broker = &self.client.broker;
        // Only an id that a user chose can have been used before; a generated one saves the reads.
        if job.has_user_id {
            let ((record, _), delayed) = tokio::try_join!(
                broker.read_record(&job.job_id),
                broker.read_delayed(&self.name, &job.job_id)
            )?;
            if let Some(record) = record.filter(|record| !record.placeholder) {
                let earlier = self.client.fetch_job(&job.job_id).await?;
                let same = record.queue == self.name
                    && earlier.envelope.is_some_and(|envelope| {
                        is_equivalent(envelope.get().as_bytes(), &job.payload)
                    });
                return if same {
                    Ok(job.job_id)
                } else {
                    Err(BrokerError::JobIdConflict(job.job_id.to_string()).into())
                };
            }
            if let Some(delayed) = delayed {
                same_request(&job, delayed.standing(), &delayed.payload)?;
                return Ok(job.job_id);
            }
        }
        let EnqueueAck {
            sequence,
            duplicate,
        } = broker.enqueue(job.clone()).await?;
        // The server dropped the message because it saw the id recently; whether the request is the
        // same one is still to be checked.
        if duplicate && job.has_user_id {
            compare_with_existing(broker, &job, sequence).await?;
        }
        Ok(job.job_id)
    }

    /// Enqueues an envelope under an id that was just generated and so cannot be in use: one round
    /// trip. The caller has parsed the envelope.
    ///
    /// # Errors
    /// As [`Queue::enqueue`].
    pub async fn enqueue_new(&self, job_id: JobId, payload: Bytes) -> Result<(), ClientError> {
        let job = NewJob {
            job_id,
            queue: self.name.clone(),
            payload,
            has_user_id: false,
            start: None,
            trace: self.trace,
        };
        self.client.broker.enqueue(job).await?;
        Ok(())
    }

    /// Checks that the queue contains fewer than `max` jobs, queued and delayed ones together. A
    /// queue that does not exist contains none. Two producers that check at the same time may both
    /// pass.
    ///
    /// # Errors
    /// Returns [`ClientError::QueueFull`] if the queue contains `max` jobs or more.
    pub async fn check_capacity(&self, max: u64) -> Result<(), ClientError> {
        match self.client.broker.queue_info(&self.name).await {
            Ok(info) if info.depth + info.delayed >= max => Err(ClientError::QueueFull {
                queue: self.name.clone(),
                depth: info.depth + info.delayed,
                max,
            }),
            Ok(_) | Err(BrokerError::QueueNotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates the queue. An existing queue keeps its settings.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS refuses.
    pub async fn add(&self, settings: &QueueSettings) -> Result<(), ClientError> {
        Ok(self.client.broker.add_queue(&self.name, settings).await?)
    }

    /// Returns the queue's depth, running jobs and settings.
    ///
    /// # Errors
    /// Returns [`BrokerError::QueueNotFound`] if the queue does not exist.
    pub async fn info(&self) -> Result<QueueInfo, ClientError> {
        Ok(self.client.broker.queue_info(&self.name).await?)
    }

    /// Removes the queue's jobs except for running ones, and returns how many were removed and how
    /// many still run. No job is delivered meanwhile.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError};
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let purged = client.queue("nightly")?.purge().await?;
    /// println!("{} jobs removed, {} still running", purged.removed, purged.running);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`BrokerError::QueueNotFound`] if the queue does not exist.
    pub async fn purge(&self) -> Result<PurgeSummary, ClientError> {
        Ok(self.client.broker.purge_queue(&self.name).await?)
    }

    /// Pauses the delivery of the queue's jobs. Running jobs continue.
    ///
    /// # Errors
    /// Returns [`BrokerError::QueueNotFound`] if the queue does not exist.
    pub async fn pause(&self) -> Result<(), ClientError> {
        let Client {
            broker, ack_wait, ..
        } = &self.client;
        let now = self.client.now();
        Ok(broker.pause_queue(&self.name, now, *ack_wait).await?)
    }

    /// Resumes the delivery of the queue's jobs.
    ///
    /// # Errors
    /// Returns [`BrokerError::QueueNotFound`] if the queue does not exist.
    pub async fn resume(&self) -> Result<(), ClientError> {
        Ok(self.client.broker.resume_queue(&self.name).await?)
    }

    /// Sets how many of the queue's jobs may run at the same time on all workers together. `None`
    /// means that only the workers' slots limit them. The limit takes effect at once, also for
    /// workers that are running.
    ///
    /// ```no_run
    /// # use std::num::NonZeroU32;
    /// # use naq_client::{Client, ClientError};
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// client.queue("reports")?.set_max_running(NonZeroU32::new(2)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`BrokerError::QueueNotFound`] if the queue does not exist.
    pub async fn set_max_running(
        &self,
        max_running: Option<NonZeroU32>,
    ) -> Result<(), ClientError> {
        let Client {
            broker, ack_wait, ..
        } = &self.client;
        Ok(broker
            .set_max_running(&self.name, max_running, *ack_wait)
            .await?)
    }

    /// Sets how many servers of the cluster keep a copy of the queue. Further copies are made while the
    /// queue is in use.
    ///
    /// # Errors
    /// Returns [`BrokerError::QueueNotFound`] if the queue does not exist, and
    /// [`BrokerError::Refused`] if the cluster has too few servers.
    pub async fn set_replicas(&self, replicas: usize) -> Result<(), ClientError> {
        Ok(self
            .client
            .broker
            .set_replicas(&self.name, replicas)
            .await?)
    }

    /// Removes the queue and all its jobs.
    ///
    /// # Errors
    /// Returns [`BrokerError::QueueNotFound`] if the queue does not exist.
    pub async fn remove(&self) -> Result<(), ClientError> {
        Ok(self.client.broker.remove_queue(&self.name).await?)
    }
}
