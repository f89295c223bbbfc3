//! Cancelling jobs in any state.

use std::time::Duration;

use bytes::Bytes;

use super::raw_envelope::as_json;
use super::unclaimed::record_of;
use super::{Client, ClientError};
use naq_core::{OnCancel, on_cancel};
use naq_jetstream::{BrokerError, SlotWaiter, failpoint};
use naq_protocol::{Envelope, JobId, Record, State};

/// How often the message of a queued job is looked for again that was not found.
const MESSAGE_LOOKUPS: u32 = 4;

/// The pause before each of these.
const MESSAGE_LOOKUP_PAUSE: Duration = Duration::from_millis(250);

/// The outcome of [`Client::cancel`].
#[derive(Clone, Debug)]
pub enum CancelOutcome {
    /// The job had not started, was blocked, or waited to be retried. It has ended as `cancelled`.
    Cancelled(Box<Record>),
    /// The job is running, and its record now contains the request. The job ends as `cancelled`
    /// unless it succeeds.
    CancelRequested {
        /// The record.
        record: Box<Record>,
        /// Whether the worker has acknowledged the request and stops the job. A worker that has not
        /// finds the request when it next renews its lease. If the worker is dead, the job ends
        /// once the lease has expired.
        acknowledged: bool,
    },
    /// The job had already ended; nothing was changed.
    AlreadyEnded(Box<Record>),
}

/// What has become of a job whose message was not found at first.
enum MessageLookup {
    /// The message exists, with this payload.
    Found(Bytes),
    /// Its record has changed.
    Changed,
    /// Nothing has changed, and the message is still not found.
    NotFound,
}

impl CancelOutcome {
    /// Returns the job's record.
    #[must_use]
    pub fn record(&self) -> &Record {
        match self {
            CancelOutcome::Cancelled(record)
            | CancelOutcome::CancelRequested { record, .. }
            | CancelOutcome::AlreadyEnded(record) => record,
        }
    }
}

impl Client {
    /// Cancels a job. A running job is stopped by its worker, with all its processes. Any other job
    /// ends at once, and the jobs that depend on it are released or cancelled by their conditions.
    ///
    /// ```no_run
    /// # use naq_client::{CancelOutcome, Client, ClientError, JobId};
    /// # async fn example(client: Client, job: JobId) -> Result<(), ClientError> {
    /// match client.cancel(&job).await? {
    ///     CancelOutcome::Cancelled(_) => println!("it had not started"),
    ///     CancelOutcome::CancelRequested { .. } => println!("it is being stopped"),
    ///     CancelOutcome::AlreadyEnded(record) => println!("it was {} already", record.state()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchJob`] if the job does not exist, and
    /// [`ClientError::UnknownJobState`] if only a later version of naq knows its state.
    pub async fn cancel(&self, job: &JobId) -> Result<CancelOutcome, ClientError> {
        loop {
            if let Some((record, revision)) = self.record_to_cancel(job).await?
                && let Some(outcome) = self.try_cancel(record, revision).await?
            {
                return Ok(outcome);
            }
        }
    }

    /// Cancels a job as [`Client::cancel`] does, if its record satisfies the condition at the moment of the
    /// change. The record of a job that no worker has claimed is made of its message. `None` means that it
    /// does not, and that nothing was changed.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, JobId, State};
    /// # async fn example(client: Client, job: JobId) -> Result<(), ClientError> {
    /// let is_queued = |record: &naq_client::Record| record.state() == State::Queued;
    /// if client.cancel_if(&job, is_queued).await?.is_none() {
    ///     println!("it has begun, and continues");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::cancel`].
    pub async fn cancel_if(
        &self,
        job: &JobId,
        condition: impl Fn(&Record) -> bool,
    ) -> Result<Option<CancelOutcome>, ClientError> {
        loop {
            let Some((record, revision)) = self.record_to_cancel(job).await? else {
                continue;
            };
            if !condition(&record) {
                return Ok(None);
            }
            // The write fails if the record has changed since, for example because a worker claimed the job.
            if let Some(outcome) = self.try_cancel(record, revision).await? {
                return Ok(Some(outcome));
            }
        }
    }

    /// Decides by a record at this revision, and writes once. `None` means that the worker or another client
    /// changed the job meanwhile, so that the decision has to be made again.
    async fn try_cancel(
        &self,
        record: Record,
        revision: u64,
    ) -> Result<Option<CancelOutcome>, ClientError> {
        let job = record.job_id.clone();
        let is_blocked = record.state() == State::Waiting;
        // Between two attempts, a worker may have the message in hand, and nobody else has the
        // envelope. The worker that gets the message next has it, and ends the job.
        if record.state() == State::Retrying
            && record.envelope.is_none()
            && record.envelope_object.is_none()
        {
            let mut record = record;
            record.cancel_requested = true;
            return self.request_cancel(Box::new(record), revision).await;
        }
        match on_cancel(Box::new(record), self.now()) {
            OnCancel::AlreadyFinished(record) => Ok(Some(CancelOutcome::AlreadyEnded(record))),
            OnCancel::NotifyWorkerAgain(record) => self.notify_worker(record).await.map(Some),
            OnCancel::NotifyWorker(mut record) => {
                // The envelope of a running job stays in its message.
                record.envelope = None;
                self.request_cancel(record, revision).await
            }
            OnCancel::End(record) => self.end_as_cancelled(record, revision, is_blocked).await,
            OnCancel::UnknownState(state) => Err(ClientError::UnknownJobState { job, state }),
        }
    }

    /// Returns the job's record with its envelope, and the revision; from its message if no worker
    /// has claimed it yet. `None` means that the job changed while it was read.
    async fn record_to_cancel(&self, job: &JobId) -> Result<Option<(Record, u64)>, ClientError> {
        let broker = &self.broker;
        let (record, revision) = broker.read_record(job).await?;
        // A placeholder is what dependents write before the job has a record of its own.
        let has_dependents = record.as_ref().is_some_and(|record| record.has_dependents);
        let present = record.filter(|record| !record.placeholder);
        let is_unclaimed = present.is_none();
        let mut record = match present {
            Some(record) => record,
            None => match broker.find_message(job).await? {
                Some(message) => record_of(job, &message),
                // A worker may have claimed the job between the two reads.
                None if broker.read_record(job).await?.1 != revision => return Ok(None),
                None => return Err(ClientError::NoSuchJob(job.clone())),
            },
        };
        record.has_dependents |= has_dependents;
        if record.envelope.is_some() || record.state().is_terminal() {
            return Ok(Some((record, revision)));
        }
        let mut payload = broker.envelope_of(&record).await?;
        if payload.is_none() && record.state() == State::Queued && !is_unclaimed {
            payload = match self.find_message_again(&record, revision).await? {
                MessageLookup::Found(payload) => Some(payload),
                MessageLookup::Changed => return Ok(None),
                MessageLookup::NotFound => {
                    let lost = "its message was not found when it was cancelled, so its envelope is not kept here";
                    record.warnings.push(lost.to_owned());
                    None
                }
            };
        }
        record.envelope = payload.and_then(|payload| as_json(&payload));
        Ok(Some((record, revision)))
    }

    /// Looks again for the message of a queued job: a server that has just become the leader of the stream may not have
    /// all messages yet.
    async fn find_message_again(
        &self,
        record: &Record,
        revision: u64,
    ) -> Result<MessageLookup, ClientError> {
        for _ in 0..MESSAGE_LOOKUPS {
            tokio::time::sleep(MESSAGE_LOOKUP_PAUSE).await;
            if self.broker.read_record(&record.job_id).await?.1 != revision {
                return Ok(MessageLookup::Changed);
            }
            if let Some(payload) = self.broker.envelope_of(record).await? {
                return Ok(MessageLookup::Found(payload));
            }
        }
        Ok(MessageLookup::NotFound)
    }

    /// Writes the request into the record of a running job, then notifies its worker. In this order
    /// the worker finds the request even if the notification is lost.
    async fn request_cancel(
        &self,
        record: Box<Record>,
        revision: u64,
    ) -> Result<Option<CancelOutcome>, ClientError> {
        if !self.write_unless_changed(&record, revision, None).await? {
            return Ok(None);
        }
        failpoint("cancel.requested");
        self.notify_worker(record).await.map(Some)
    }

    /// Writes a record by compare-and-set. Returns whether it was still at this revision.
    async fn write_unless_changed(
        &self,
        record: &Record,
        revision: u64,
        ttl: Option<Duration>,
    ) -> Result<bool, ClientError> {
        match self.broker.write_record(record, revision, ttl).await {
            Ok(_) => Ok(true),
            Err(BrokerError::Conflict) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the terminal record of a job that is not running, then removes what is left of it.
    async fn end_as_cancelled(
        &self,
        record: Box<Record>,
        revision: u64,
        is_blocked: bool,
    ) -> Result<Option<CancelOutcome>, ClientError> {
        // A blocked job has no message in its queue. If this process dies after the record is
        // written, no worker would release the dependents: a message is published first, and the
        // worker that gets it does.
        if is_blocked && record.has_dependents {
            self.broker.release(&record.job_id).await?;
        }
        let envelope = envelope(&record);
        let ttl = naq_core::result_ttl(envelope.as_ref(), self.result_ttl);
        if !self.write_unless_changed(&record, revision, ttl).await? {
            return Ok(None);
        }
        failpoint("cancel.written");
        self.clean_up(&record, envelope.as_ref()).await?;
        Ok(Some(CancelOutcome::Cancelled(record)))
    }

    async fn notify_worker(&self, record: Box<Record>) -> Result<CancelOutcome, ClientError> {
        let acknowledged = match record.lease() {
            Some(lease) => {
                self.broker
                    .notify_cancel(&lease.worker_id, &record.job_id)
                    .await?
            }
            None => false,
        };
        Ok(CancelOutcome::CancelRequested {
            record,
            acknowledged,
        })
    }

    /// Releases the dependents of a cancelled job and removes its index entries, slot and messages.
    /// If this is interrupted, a worker does the same: it gets the job's message, and finds a
    /// terminal record.
    async fn clean_up(
        &self,
        record: &Record,
        envelope: Option<&Envelope>,
    ) -> Result<(), ClientError> {
        let broker = &self.broker;
        broker
            .finish_job(record, envelope, SlotWaiter::MayExist)
            .await?;
        failpoint("cancel.released");
        broker
            .remove_job_messages(&record.queue, &record.job_id)
            .await?;
        Ok(())
    }
}

fn envelope(record: &Record) -> Option<Envelope> {
    Envelope::parse(record.envelope.as_ref()?.get().as_bytes()).ok()
}
