//! Finishing an attempt: its outcome recorded, then what follows from it, then the
//! acknowledgement.

use std::time::Duration;

use super::attempt::Attempt;
use super::report::Done;
use crate::clock::now;
use naq_core::{OnCancel, OnEnd, on_cancel};
use naq_jetstream::{BrokerError, SlotWaiter, failpoint};
use naq_protocol::{Record, State, Timestamp};

/// A retry that is due sooner than this waits in the worker. The server delivers a delayed message
/// a quarter of a second after it was stored at the earliest.
const IN_WORKER_DELAY_MAX: Duration = Duration::from_millis(250);

/// What is to be recorded of an attempt.
pub(super) struct Ending {
    next: OnEnd,
    /// Revision of the record that the outcome replaces.
    revision: u64,
    waiter: SlotWaiter,
}

impl Ending {
    /// The end of an attempt whose job ran, or failed to start.
    pub(super) fn after_running(next: OnEnd, revision: u64) -> Ending {
        Ending {
            next,
            revision,
            waiter: SlotWaiter::Absent,
        }
    }

    /// The end of a job that was decided without running it.
    pub(super) fn without_running(record: Box<Record>, revision: u64) -> Ending {
        let dead_letter = record.state() == State::Failed;
        Ending {
            next: OnEnd::Finish {
                record,
                dead_letter,
            },
            revision,
            waiter: SlotWaiter::MayExist,
        }
    }
}

/// A terminal record that is to be written.
struct FinalRecord {
    record: Box<Record>,
    dead_letter: bool,
    revision: u64,
    waiter: SlotWaiter,
}

impl Attempt<'_> {
    /// Records the outcome of an attempt and does what follows from it.
    pub(super) async fn finish(&self, ending: Ending) -> Done {
        let Ending {
            next,
            revision,
            waiter,
        } = ending;
        let finished = match next {
            OnEnd::Finish {
                record,
                dead_letter,
            } => {
                let end = FinalRecord {
                    record,
                    dead_letter,
                    revision,
                    waiter,
                };
                self.finish_for_good(end).await
            }
            OnEnd::Retry { record, due } => self.retry(record, due, revision).await,
            OnEnd::Requeue { record } => self.requeue(record, revision).await,
        };
        // whatever the error, the message is redelivered and another worker completes the job
        finished.unwrap_or(Done::LeaseLost)
    }

    /// Ends the job. The order matters: the dead letter before the record, since nobody looks for
    /// a missing one once the record is terminal; dependents after it, since they read it.
    async fn finish_for_good(&self, end: FinalRecord) -> Result<Done, BrokerError> {
        let FinalRecord {
            mut record,
            dead_letter,
            revision,
            waiter,
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
        delivery
            .finish_job(&record, Some(self.envelope), waiter)
            .await?;
        failpoint("released");
        Ok(delivery.acknowledge(Done::Recorded(record)).await)
    }

    /// Records that the job is to be retried, and has it delivered again when that is due.
    async fn retry(
        &self,
        mut record: Box<Record>,
        due: Timestamp,
        revision: u64,
    ) -> Result<Done, BrokerError> {
        let delivery = &self.delivery;
        let is_short = time_until(due) < IN_WORKER_DELAY_MAX;
        if !is_short {
            // the retry has a message of its own: nobody may run the job by this one any more
            record.superseded_sequence = Some(delivery.message.sequence);
        }
        let revision = delivery.record_outcome(&mut record, revision, None).await?;
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

    /// Records that the attempt did not count, and gives the message back.
    async fn requeue(&self, mut record: Box<Record>, revision: u64) -> Result<Done, BrokerError> {
        let delivery = &self.delivery;
        let revision = delivery.record_outcome(&mut record, revision, None).await?;
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
        })
        .await
    }
}

fn time_until(due: Timestamp) -> Duration {
    (due.0 - now().0).to_std().unwrap_or_default()
}
