//! Envelopes that are refused: kept as dead letters with the reason, and recorded as rejected.

use super::delivery::LeasedDelivery;
use super::report::Done;
use naq_core::DeliveryContext;
use naq_jetstream::{BrokerError, SlotWaiter, failpoint};
use naq_protocol::{EnvelopeError, Record, State};

impl LeasedDelivery<'_> {
    /// Keeps an envelope that cannot become a job as a dead letter, records the rejection, and
    /// acknowledges the message.
    pub(super) async fn reject(&self, facts: &DeliveryContext, invalid: &EnvelopeError) -> Done {
        tracing::warn!(job_id = %facts.job_id, queue = %facts.queue, "rejected: {invalid}");
        match self.record_rejection(facts, invalid).await {
            Ok(record) => Done::Recorded(record),
            Err(_) => Done::LeaseLost,
        }
    }

    async fn record_rejection(
        &self,
        facts: &DeliveryContext,
        invalid: &EnvelopeError,
    ) -> Result<Box<Record>, BrokerError> {
        let mut record = Box::new(naq_core::rejected_record(facts, invalid));
        // The dead letter comes first: the record may turn out not to be this envelope's to write.
        self.dead_letter(&record).await?;
        failpoint("rejected.dead_lettered");
        if std::str::from_utf8(&self.message.payload).is_ok() {
            self.attach_envelope(&mut record).await;
        }
        self.write_rejected_record(&mut record).await?;
        failpoint("rejected.written");
        self.finish_job(&record, None, SlotWaiter::MayExist).await?;
        self.persist(|| self.lease.ack(self.broker())).await?;
        Ok(record)
    }

    /// Writes the record of a rejection, unless another job has a record under the same id: that
    /// one stays.
    async fn write_rejected_record(&self, record: &mut Record) -> Result<(), BrokerError> {
        let ttl = naq_core::result_ttl(None, self.context.options.result_ttl);
        let mut revision = 0;
        loop {
            match self
                .persist(|| self.broker().write_record(record, revision, ttl))
                .await
            {
                Ok(_) => return Ok(()),
                Err(BrokerError::Conflict) => {}
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
                // If this is the same rejection after a crash, its dependents may not have been
                // released yet. If it is another job's record, its dependents wait for that job.
                Ok((Some(present), _)) => {
                    record.has_dependents =
                        present.has_dependents && present.state() == State::Rejected;
                    return Ok(());
                }
                Err(BrokerError::InvalidData(_)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
