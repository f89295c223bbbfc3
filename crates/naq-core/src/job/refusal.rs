//! The records of jobs that end although no attempt has decided their outcome: the worker refuses the
//! envelope, or NATS will never store the outcome.

use super::delivery::DeliveryContext;
use super::transition::finish;
use naq_protocol::{EnvelopeError, Outcome, Phase, Reason, Record, State, Timestamp};

/// The terminal record of an envelope that was rejected before it became a job.
#[must_use]
pub fn rejected_record(delivered: &DeliveryContext, invalid: &EnvelopeError) -> Record {
    let mut record = Record::new(
        delivered.job_id.clone(),
        delivered.queue.clone(),
        Phase::Queued,
        delivered.enqueue_time,
    );
    record.error = Some(invalid.to_string());
    finish(
        &mut record,
        Outcome::Rejected(invalid.reason),
        delivered.now,
    );
    record
}

/// The record of a job that has one already, and whose envelope this worker refuses. `None` if the
/// record must stay: it is of another envelope, or the job has ended or may be running.
#[must_use]
pub fn refused_record(
    mut present: Record,
    delivered: &DeliveryContext,
    invalid: &EnvelopeError,
) -> Option<Record> {
    let may_end = match present.state() {
        State::Scheduled | State::Queued | State::Waiting | State::Retrying => true,
        State::Running
        | State::Succeeded
        | State::Failed
        | State::Cancelled
        | State::Expired
        | State::Rejected
        | State::Unknown(_) => false,
    };
    let is_same_envelope = present.envelope_digest.as_ref() == Some(&delivered.envelope_digest);
    if !may_end || !is_same_envelope || present.placeholder {
        return None;
    }
    present.error = Some(invalid.to_string());
    let outcome = Outcome::Failed(invalid.reason.into());
    finish(&mut present, outcome, delivered.now);
    Some(present)
}

/// Fails a running job whose outcome can never be stored; `why` is the error of the write. Drops the
/// fields that may be too large for a message, except for the labels, by which the job is found.
#[must_use]
pub fn fail_unrecordable(mut present: Record, why: &str, now: Timestamp) -> Record {
    present.error = Some(format!(
        "the job has ended, but its outcome could not be stored: {why}"
    ));
    present.warnings.clear();
    present.checkpoint = None;
    present.progress = None;
    finish(&mut present, Outcome::Failed(Reason::Unstorable), now);
    present
}
