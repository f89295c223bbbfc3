//! Finishing an attempt: its outcome recorded, then what follows from it, then the
//! acknowledgement.

use std::time::Duration;

use super::attempt::{Attempt, Place};
use super::report::Done;
use crate::clock::now;
use naq_core::{OnCancel, OnEnd, on_cancel};
use naq_jetstream::{BrokerError, SlotWaiter, failpoint};
use naq_protocol::{Record, State, Timestamp};

/// A retry that is due sooner than this waits in the worker. The server delivers a delayed message
/// a quarter of a second after it was stored at the earliest.
const IN_WORKER_DELAY_MAX: Duration = Duration::from_millis(250);

/// A terminal record that is to be written.
struct FinalRecord<'a> {
    record: Box<Record>,
    dead_letter: bool,
    revision: u64,
    waiter: SlotWaiter,
    /// The place of the attempt among the worker's jobs; `None` if the job has not started.
    place: Option<Place<'a>>,
}

impl Attempt<'_> {
    /// Records the outcome of an attempt and does what follows from it. `revision` is that of the
    /// record that the outcome replaces. `place` is that of the attempt, which is free once its
    /// outcome is recorded.
    pub(super) async fn finish(
        &self,
        next: OnEnd,
        revision: u64,
        place: Option<Place<'_>>,
    ) -> Done {
        let finished = match next {
            OnEnd::Finish {
                record,
                dead_letter,
            } => {
                let end = FinalRecord {
                    record,
                    dead_letter,
                    revision,
                    waiter: SlotWaiter::Absent,
                    place,
                };
                self.finish_for_good(end).await
            }
            OnEnd::Retry { record, due } => {
                Box::pin(self.retry(record, due, revision, place)).await
            }
            OnEnd::Requeue { record } => Box::pin(self.requeue(record, revision, place)).await,
        };
        match finished {
            Ok(done) => done,
            Err(BrokerError::Conflict) => Box::pin(self.redecide()).await,
            Err(error) if error.is_final_for_write() => {
                Box::pin(self.fail_unrecordable(&error)).await
            }
            // whatever the error, the message is redelivered and another worker completes the job
            Err(_) => Done::LeaseLost,
        }
    }

    /// Fails a job whose outcome NATS will never store; without that it would run again and again. If the
    /// failure cannot be stored either, only the dead letter of the job is kept.
    async fn fail_unrecordable(&self, error: &BrokerError) -> Done {
        let (delivery, broker) = (&self.delivery, self.delivery.broker());
        let Some(job_id) = delivery.lease.job_id() else {
            return Done::LeaseLost;
        };
        let read = delivery.persist(|| broker.read_record(&job_id)).await;
        let Ok((Some(present), revision)) = read else {
            return Done::LeaseLost;
        };
        let is_ours = present
            .lease()
            .is_some_and(|lease| lease.worker_id == delivery.context.worker_id);
        if !is_ours {
            return Done::LeaseLost;
        }
        tracing::error!(%job_id, "NATS will never store the outcome, failing the job: {error}");
        let failed = naq_core::fail_unrecordable(present, &error.to_string(), now());
        // If the server allows only small messages, the labels alone can fill one.
        let mut without_labels = failed.clone();
        without_labels.labels.clear();
        for record in [failed, without_labels] {
            let end = FinalRecord {
                record: Box::new(record),
                dead_letter: true,
                revision,
                waiter: SlotWaiter::Absent,
                place: None,
            };
            match self.finish_for_good(end).await {
                Ok(done) => return done,
                Err(error) if error.is_final_for_write() => {
                    tracing::debug!(%job_id, "the failure cannot be stored: {error}");
                }
                Err(_) => return Done::LeaseLost,
            }
        }
        tracing::error!(%job_id, "NATS will never store the failure either, dropping the job; its dead letter is kept");
        delivery.acknowledge(Done::NothingToRun).await
    }

    /// Ends a job that did not run.
    ///
    /// # Errors
    /// Returns [`BrokerError::Conflict`] if its record is not at this revision any more, and the
    /// last error if the lease has expired without an answer.
    pub(super) async fn end_without_running(
        &self,
        record: Box<Record>,
        revision: u64,
    ) -> Result<Done, BrokerError> {
        let end = FinalRecord {
            dead_letter: record.state() == State::Failed,
            record,
            revision,
            waiter: SlotWaiter::MayExist,
            place: None,
        };
        self.finish_for_good(end).await
    }

    /// Gives up the message of an attempt that was stopped because the job is not this worker's any more: returns it
    /// to its queue at once, unless another worker runs the job or the server redelivers it anyway.
    pub(super) async fn leave(&self) -> Done {
        let (delivery, broker) = (&self.delivery, self.delivery.broker());
        if delivery.lease.has_expired() {
            return Done::LeaseLost;
        }
        match delivery.lease.job_id() {
            // once: if there is no answer, the server redelivers the message some time
            Some(job_id) => {
                self.return_unless_running(broker.read_record(&job_id).await)
                    .await
            }
            None => Done::LeaseLost,
        }
    }

    /// Returns the message to its queue because the record has changed since it was read: the redelivery is
    /// decided by the new record, at once. If another worker runs the job, the message is left to its
    /// lease.
    async fn redecide(&self) -> Done {
        let (delivery, broker) = (&self.delivery, self.delivery.broker());
        let Some(job_id) = delivery.lease.job_id() else {
            return Done::LeaseLost;
        };
        let read = delivery.persist(|| broker.read_record(&job_id)).await;
        self.return_unless_running(read).await
    }

    /// Returns the message to its queue unless what was read says that the job runs.
    async fn return_unless_running(
        &self,
        read: Result<(Option<Record>, u64), BrokerError>,
    ) -> Done {
        match read {
            Ok((Some(record), _))
                if matches!(record.state(), State::Running | State::Unknown(_)) =>
            {
                return Done::LeaseLost;
            }
            Ok(_) => {}
            Err(_) => return Done::LeaseLost,
        }
        match self.delivery.lease.nak(self.delivery.broker()).await {
            Ok(()) => Done::Requeued,
            Err(_) => Done::LeaseLost,
        }
    }

    /// Ends the job. The order matters: the dead letter before the record, since nobody looks for
    /// a missing one once the record is terminal; dependents after it, since they read it.
    async fn finish_for_good(&self, end: FinalRecord<'_>) -> Result<Done, BrokerError> {
        let FinalRecord {
            mut record,
            dead_letter,
            revision,
            waiter,
            place,
        } = end;
        let delivery = &self.delivery;
        if dead_letter {
            Box::pin(delivery.dead_letter(&record)).await?;
            failpoint("dead_letter.written");
        }
        delivery.attach_envelope(&mut record).await;
        let default_ttl = delivery.context.options.result_ttl;
        let ttl = naq_core::result_ttl(Some(self.envelope), default_ttl);
        delivery.record_outcome(&mut record, revision, ttl).await?;
        delivery.context.metrics.on_job_ended(&record);
        drop(place);
        delivery
            .finish_job(&record, Some(self.envelope), waiter)
            .await?;
        failpoint("released");
        Ok(delivery.acknowledge_ended(Done::Recorded(record)).await)
    }

    /// Records that the job is to be retried, and has it delivered again when that is due.
    async fn retry(
        &self,
        mut record: Box<Record>,
        due: Timestamp,
        revision: u64,
        place: Option<Place<'_>>,
    ) -> Result<Done, BrokerError> {
        let delivery = &self.delivery;
        let is_short = time_until(due) < IN_WORKER_DELAY_MAX;
        if !is_short {
            // the retry has a message of its own: nobody may run the job by this one any more
            record.superseded_sequence = Some(delivery.message.sequence);
        }
        let revision = delivery.record_outcome(&mut record, revision, None).await?;
        drop(place);
        if record.cancel_requested {
            return Box::pin(self.finish_cancelled(record, revision)).await;
        }
        delivery
            .finish_job(&record, Some(self.envelope), SlotWaiter::Absent)
            .await?;
        if is_short {
            tokio::time::sleep(time_until(due)).await;
            failpoint("retry.slept");
            let _ = delivery.lease.nak(delivery.broker()).await;
            return Ok(Done::Recorded(record));
        }
        let job = self.message_for(&record.job_id);
        let broker = delivery.broker();
        Box::pin(delivery.persist(|| broker.delay_retry(job.clone(), due, record.attempt))).await?;
        failpoint("retry.delayed");
        Ok(delivery.acknowledge(Done::Recorded(record)).await)
    }

    /// Records that the attempt did not count, and returns the message to its queue.
    async fn requeue(
        &self,
        mut record: Box<Record>,
        revision: u64,
        place: Option<Place<'_>>,
    ) -> Result<Done, BrokerError> {
        let delivery = &self.delivery;
        let revision = delivery.record_outcome(&mut record, revision, None).await?;
        drop(place);
        if record.cancel_requested {
            return Box::pin(self.finish_cancelled(record, revision)).await;
        }
        let _ = delivery
            .finish_job(&record, Some(self.envelope), SlotWaiter::Absent)
            .await;
        // without this nak the message is redelivered all the same, after `ack_wait`
        let _ = delivery.lease.nak(delivery.broker()).await;
        failpoint("nak.sent");
        Ok(Done::Requeued)
    }

    /// Ends a job that would have run again: a cancel request came while the outcome was being
    /// recorded.
    async fn finish_cancelled(
        &self,
        record: Box<Record>,
        revision: u64,
    ) -> Result<Done, BrokerError> {
        let OnCancel::End(record) = on_cancel(record, now()) else {
            return Ok(Done::LeaseLost);
        };
        self.finish_for_good(FinalRecord {
            record,
            dead_letter: false,
            revision,
            waiter: SlotWaiter::Absent,
            place: None,
        })
        .await
    }
}

fn time_until(due: Timestamp) -> Duration {
    (due.0 - now().0).to_std().unwrap_or_default()
}
