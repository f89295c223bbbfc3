//! The changes to a record that several decisions share.
//!
//! Each function leaves the record consistent: `lease` is set while a job runs, `waits` while it
//! is blocked, `next_attempt_at` while it waits for a retry, and never otherwise.

use std::time::Duration;

use naq_protocol::{BlockedOn, Lease, Reason, Record, State, Timestamp};

/// Ends the job in a terminal state. What the last attempt left (output, exit code) stays.
pub(super) fn finish(record: &mut Record, state: State, reason: Option<Reason>, now: Timestamp) {
    record.state = state;
    record.reason = reason;
    record.lease = None;
    record.finished_at = Some(now);
    record.next_attempt_at = None;
    record.waits = None;
    record.placeholder = false;
}

/// Starts the next attempt under a lease, and clears what the previous attempt left.
pub(super) fn start(record: &mut Record, lease: Lease, now: Timestamp) {
    record.state = State::Running;
    record.waits = None;
    record.superseded_sequence = None;
    record.attempt += 1;
    record.worker_id = Some(lease.worker_id.clone());
    record.lease = Some(lease);
    record.started_at = Some(now);
    record.finished_at = None;
    record.next_attempt_at = None;
    record.reason = None;
    record.error = None;
    record.exit_code = None;
    record.signal = None;
    record.stdout = None;
    record.stderr = None;
    record.result = None;
    record.result_object = None;
    record.progress = None;
    record.usage = None;
    record.leaked = false;
    record.warnings.clear();
}

/// Blocks the job. `sequence` is the message that is about to be removed: its redelivery, should
/// the removal come late, must not start the job.
pub(super) fn block(record: &mut Record, waits: BlockedOn, sequence: u64) {
    record.superseded_sequence = Some(sequence);
    record.state = State::Waiting;
    record.waits = Some(waits);
    record.worker_id = None;
    record.lease = None;
    record.finished_at = None;
    record.next_attempt_at = None;
}

/// Returns the job to its queue as if the attempt had never begun.
pub(super) fn reset_to_queued(record: &mut Record) {
    record.state = State::Queued;
    record.reason = None;
    record.lease = None;
    record.started_at = None;
    record.finished_at = None;
    record.exit_code = None;
    record.signal = None;
    record.stdout = None;
    record.stderr = None;
    record.usage = None;
}

/// Ends the attempt and plans the next one for `due`.
pub(super) fn retry_at(record: &mut Record, reason: Reason, now: Timestamp, due: Timestamp) {
    record.state = State::Retrying;
    record.reason = Some(reason);
    record.lease = None;
    record.finished_at = Some(now);
    record.next_attempt_at = Some(due);
}

/// `wait` after `now`, or `now` if the sum is out of range.
pub(super) fn saturating_add(now: Timestamp, wait: Duration) -> Timestamp {
    chrono::Duration::from_std(wait)
        .ok()
        .and_then(|wait| now.0.checked_add_signed(wait))
        .map_or(now, Timestamp)
}
