//! Enqueueing under an id that is in use: whether it is the same request.

use naq_core::{ExistingJob, OnReenqueue, on_reenqueue};
use naq_jetstream::{Broker, BrokerError, NewJob};
use naq_protocol::is_equivalent;

/// Compares a job that is being enqueued with the existing job of the same id, at that sequence of
/// the queue's stream or wherever it has moved to. Returns `Ok` if both are the same request.
pub(super) async fn compare_with_existing(
    broker: &Broker,
    job: &NewJob,
    sequence: u64,
) -> Result<(), BrokerError> {
    if let Some(earlier) = broker
        .find_existing(&job.queue, &job.job_id, sequence)
        .await?
    {
        return same_request(job, earlier.standing(), &earlier.payload);
    }
    if let (Some(record), _) = broker.read_record(&job.job_id).await?
        && !record.placeholder
    {
        return match broker.envelope_of(&record).await? {
            Some(envelope) => same_request(job, ExistingJob::Started, &envelope),
            None => Ok(()),
        };
    }
    // The server still deduplicates the id, but the job was removed.
    let again = broker.enqueue_after_removal(job.clone()).await?;
    match again.duplicate {
        false => Ok(()),
        true => match broker
            .find_existing(&job.queue, &job.job_id, again.sequence)
            .await?
        {
            Some(earlier) => same_request(job, earlier.standing(), &earlier.payload),
            None => Ok(()),
        },
    }
}

/// Returns `Ok` if a job that is being enqueued is the same request as the existing job of its id.
pub(super) fn same_request(
    job: &NewJob,
    standing: ExistingJob,
    earlier: &[u8],
) -> Result<(), BrokerError> {
    let same = is_equivalent(earlier, &job.payload);
    match on_reenqueue(standing, same, job.start.as_ref()) {
        OnReenqueue::Duplicate => Ok(()),
        OnReenqueue::IdConflict => Err(BrokerError::JobIdConflict(job.job_id.to_string())),
        OnReenqueue::DifferentTime(standing) => Err(BrokerError::DueTimeConflict {
            job: job.job_id.clone(),
            standing,
        }),
    }
}
