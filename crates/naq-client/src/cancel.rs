//! Cancelling jobs, in whatever state they are.

use super::client::as_json;
use super::{Client, ClientError};
use naq_core::{OnCancel, on_cancel};
use naq_jetstream::{BrokerError, JobMessage, MessageState, SlotWaiter, failpoint};
use naq_protocol::{Envelope, JobId, Record, State};

/// What came of a wish to cancel.
#[derive(Clone, Debug)]
pub enum CancelOutcome {
    /// The job had not begun, or waited to be tried again: it has ended as cancelled.
    Cancelled(Box<Record>),
    /// It runs, and its record says that it is to be cancelled. Any end but success is
    /// `cancelled` now.
    CancelRequested {
        /// The record.
        record: Box<Record>,
        /// Its worker has heard, and stops the job. Where it has not, it finds out with its next
        /// renewal; where it is dead, the job ends once its lease is over.
        acknowledged: bool,
    },
    /// It had ended already, so.
    AlreadyEnded(Box<Record>),
}

impl CancelOutcome {
    /// The job's record.
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
    /// Cancels a job. One that runs is stopped, with its whole tree, by its worker; any other
    /// ends at once, and what waits for it goes on as that makes it.
    ///
    /// ```no_run
    /// # use naq_client::{CancelOutcome, Client, ClientError};
    /// # use naq_client::JobId;
    /// # async fn example(client: Client, job: JobId) -> Result<(), ClientError> {
    /// match client.cancel(&job).await? {
    ///     CancelOutcome::Cancelled(_) => println!("it had not begun"),
    ///     CancelOutcome::CancelRequested { .. } => println!("it is being stopped"),
    ///     CancelOutcome::AlreadyEnded(record) => println!("it was {} already", record.state),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ClientError::NoSuchJob`] where there is no such job.
    pub async fn cancel(&self, job: &JobId) -> Result<CancelOutcome, ClientError> {
        let broker = &self.broker;
        loop {
            let (record, revision) = broker.read_record(job).await?;
            let dependents = record.as_ref().is_some_and(|record| record.has_dependents);
            let mut record = match record.filter(|record| !record.placeholder) {
                Some(record) => record,
                None => match broker.find_message(job).await? {
                    Some(message) => record_of(job, &message),
                    // a worker may have taken it between the two looks
                    None if broker.read_record(job).await?.1 != revision => continue,
                    None => return Err(ClientError::NoSuchJob(job.clone())),
                },
            };
            record.has_dependents |= dependents;
            if record.envelope.is_none() && !record.state.is_terminal() {
                record.envelope = self.envelope_of(&record).await?;
            }
            let waits = record.state == State::Waiting;
            // between two attempts its worker has the message in hand: who is given it next has
            // the envelope, and ends the job
            if record.state == State::Retrying
                && record.envelope.is_none()
                && record.envelope_object.is_none()
            {
                record.cancel_requested = true;
                match broker.write_record(&record, revision, None).await {
                    Ok(_) => {
                        failpoint("cancel.requested");
                        return self.notify_worker(Box::new(record)).await;
                    }
                    Err(BrokerError::Conflict) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            match on_cancel(Box::new(record), self.now()) {
                OnCancel::AlreadyFinished(record) => {
                    return Ok(CancelOutcome::AlreadyEnded(record));
                }
                OnCancel::NotifyWorkerAgain(record) => return self.notify_worker(record).await,
                OnCancel::NotifyWorker(mut record) => {
                    // a running job's envelope is its message's
                    record.envelope = None;
                    match broker.write_record(&record, revision, None).await {
                        Ok(_) => {
                            failpoint("cancel.requested");
                            return self.notify_worker(record).await;
                        }
                        Err(BrokerError::Conflict) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                OnCancel::End(record) => {
                    // one that waits has no message by which a worker would find what is left to
                    // do, should this be cut off: it gets one first
                    if waits && record.has_dependents {
                        broker.release(job).await?;
                    }
                    let envelope = envelope(&record);
                    let ttl = naq_core::result_ttl(envelope.as_ref(), self.result_ttl);
                    match broker.write_record(&record, revision, ttl).await {
                        Ok(_) => {
                            failpoint("cancel.written");
                            self.clean_up(&record, envelope.as_ref()).await?;
                            return Ok(CancelOutcome::Cancelled(record));
                        }
                        Err(BrokerError::Conflict) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
    }

    async fn notify_worker(&self, record: Box<Record>) -> Result<CancelOutcome, ClientError> {
        let acknowledged = match &record.lease {
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

    /// Removes what is left of a job that was cancelled, and lets those that wait for it go on.
    /// Where this is cut off, the workers do the same: its message finds a terminal record.
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

/// A record of a job that no worker has seen yet.
pub(super) fn record_of(job: &JobId, message: &JobMessage) -> Record {
    let (state, due, is_paused) = match message.state {
        MessageState::Queued => (State::Queued, None, false),
        MessageState::Delayed { due, is_paused, .. } => (State::Scheduled, due, is_paused),
    };
    let mut record = Record::new(job.clone(), message.queue.clone(), state, message.time);
    record.next_attempt_at = due;
    if is_paused {
        let warning = "it is paused, and waits beyond its time until someone resumes it";
        record.warnings.push(warning.to_owned());
    }
    record.envelope = as_json(&message.payload);
    if let Ok(envelope) = Envelope::parse(&message.payload) {
        record.labels = envelope.labels;
        record.rerun_of = envelope.rerun_of;
        record.schedule_id = envelope.schedule_id;
        record.scheduled_for = envelope.scheduled_for;
    }
    record
}
