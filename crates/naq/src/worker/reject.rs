//! Envelopes that are refused: kept as dead letters with the reason, and recorded as rejected.
//!
//! A job may be refused although it has a record: workers of other versions, or with another
//! policy, have accepted it before it waited or was retried. It fails then.

use super::delivery::LeasedDelivery;
use super::report::Done;
use naq_core::DeliveryContext;
use naq_jetstream::{BrokerError, SlotWaiter, failpoint};
use naq_protocol::{EnvelopeError, Record};

/// Why a rejection was not recorded.
enum Unrecorded {
    /// Its dead letter is stored, and its record never will be, for this reason.
    Final(BrokerError),
    /// The lease has expired without an answer, or NATS refused something else.
    Unanswered,
}

impl From<BrokerError> for Unrecorded {
    fn from(_: BrokerError) -> Unrecorded {
        Unrecorded::Unanswered
    }
}

impl LeasedDelivery<'_> {
    /// Keeps an envelope that cannot become a job as a dead letter, records the rejection, and
    /// acknowledges the message.
    pub(super) async fn reject(&self, facts: &DeliveryContext, invalid: &EnvelopeError) -> Done {
        tracing::warn!(job_id = %facts.job_id, queue = %facts.queue, "rejected: {invalid}");
        match self.record_rejection(facts, invalid).await {
            Ok(record) => {
                self.context.metrics.on_job_ended(&record);
                Done::Recorded(record)
            }
            // Each further delivery would be rejected in the same way, and fail in the same way.
            Err(Unrecorded::Final(error)) => {
                tracing::error!(job_id = %facts.job_id, "the rejection can never be stored, dropping the job; its dead letter is kept: {error}");
                self.acknowledge(Done::NothingToRun).await
            }
            Err(Unrecorded::Unanswered) => Done::LeaseLost,
        }
    }

    async fn record_rejection(
        &self,
        facts: &DeliveryContext,
        invalid: &EnvelopeError,
    ) -> Result<Box<Record>, Unrecorded> {
        let mut record = Box::new(naq_core::rejected_record(facts, invalid));
        // The dead letter comes first: the record may turn out not to be this envelope's to write.
        self.dead_letter(&record).await?;
        failpoint("rejected.dead_lettered");
        if std::str::from_utf8(&self.message.payload).is_ok() {
            self.attach_envelope(&mut record).await;
        }
        match self
            .write_rejected_record(&mut record, facts, invalid)
            .await
        {
            Err(error) if error.is_final_for_write() => return Err(Unrecorded::Final(error)),
            written => written?,
        }
        failpoint("rejected.written");
        self.finish_job(&record, None, SlotWaiter::MayExist).await?;
        self.persist(|| self.lease.ack(self.broker())).await?;
        Ok(record)
    }

    /// Writes the record of a rejection, unless another job has a record under the same id: that
    /// one stays. The job's own record, if it waits or is retried, becomes that of a failed job:
    /// nothing else would end it.
    async fn write_rejected_record(
        &self,
        record: &mut Record,
        facts: &DeliveryContext,
        invalid: &EnvelopeError,
    ) -> Result<(), BrokerError> {
        let ttl = naq_core::result_ttl(None, self.context.options.result_ttl);
        let mut revision = 0;
        let mut too_large = 0;
        loop {
            match self
                .persist(|| self.broker().write_record(record, revision, ttl))
                .await
            {
                Ok(_) => return Ok(()),
                Err(BrokerError::Conflict) => {}
                Err(BrokerError::TooLarge { .. }) if too_large < 2 => {
                    match too_large {
                        0 => self.shrink(record).await?,
                        // if the server allows only small messages, the labels alone can fill one
                        _ => record.labels.clear(),
                    }
                    too_large += 1;
                    continue;
                }
                Err(error) => return Err(error),
            }
            match self
                .persist(|| self.broker().read_record(&record.job_id))
                .await
            {
                // a placeholder: no job's record, only the mark that other jobs depend on this id
                Ok((Some(present), at)) if present.placeholder => {
                    record.has_dependents = true;
                    revision = at;
                }
                Ok((None, at)) => revision = at,
                Ok((Some(present), at)) => {
                    let has_ended = present.state().is_terminal();
                    let has_dependents = present.has_dependents;
                    let Some(refused) = naq_core::refused_record(present, facts, invalid) else {
                        // If the job has ended, a crash may have kept its dependents from being
                        // released. If it runs, or the id is another job's, they wait for that.
                        record.has_dependents = has_dependents && has_ended;
                        return Ok(());
                    };
                    *record = refused;
                    self.attach_envelope(record).await;
                    self.dead_letter(record).await?;
                    revision = at;
                }
                Err(BrokerError::InvalidData(_)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
