//! The steps after a job's end, whether a worker, a cancel request or the reconciler ended it.

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::records::unsuccessful::UnsuccessfulRecord;
use naq_protocol::{Envelope, Record};

/// Whether a job may be in the index of those that wait for a slot of its concurrency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotWaiter {
    /// It ran, and left the index when it was claimed.
    Absent,
    /// It ended without having run, or that is not known.
    MayExist,
}

impl Broker {
    /// Carries out what follows from a record whose job does not run any more: releases the jobs
    /// that depend on it, removes the job from the indexes of those that wait, and returns its
    /// slot. Of a job that is to be retried only the slot is returned. An unsuccessful job that did not run here, or of
    /// which that is not known, is added to the index of such jobs, unless it has it.
    ///
    /// The record must have been written before: a dependent that is released earlier would find
    /// this job unfinished and block again. Repeating this does no harm, so a caller that was cut
    /// off repeats all of it. `None` for `envelope` means that it is lost or invalid: then only
    /// dependents are released. The reconciler removes what is left in the indexes, and the next
    /// job that needs the slot takes it over.
    ///
    /// # Errors
    /// Returns the error of the request that failed; the caller has to repeat the call.
    pub async fn finish_job(
        &self,
        record: &Record,
        envelope: Option<&Envelope>,
        waiter: SlotWaiter,
    ) -> Result<(), BrokerError> {
        let has_ended = record.state().is_terminal();
        if waiter == SlotWaiter::MayExist
            && let Some(unsuccessful) = UnsuccessfulRecord::of(record)
        {
            self.index_unsuccessful(&unsuccessful).await?;
        }
        if record.has_dependents && has_ended {
            self.release_dependents(&record.job_id, record.state())
                .await?;
        }
        let Some(envelope) = envelope else {
            return Ok(());
        };
        // dependencies that were met have removed their keys themselves
        if has_ended && !record.dependencies_met && !envelope.depends_on.is_empty() {
            self.remove_dependency_index(&record.job_id, &envelope.depends_on)
                .await?;
        }
        if let Some(key) = &envelope.concurrency_key {
            // before the slot is offered to those that wait: it must not be offered to this job
            if has_ended && waiter == SlotWaiter::MayExist {
                self.remove_slot_waiter(key, &record.job_id).await?;
            }
            self.release_slot(key, &record.job_id).await?;
        }
        Ok(())
    }
}
