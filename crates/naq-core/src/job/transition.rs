//! The changes to a record that several decisions share. [`Record::set_phase`] sets the fields that
//! belong to the new state; what is left here is what describes the job's last attempt.

use std::time::Duration;

use super::takeover::LeaseEnd;
use naq_protocol::{
    BlockedOn, CapturedOutput, FAILED_ATTEMPT_TEXT_BYTES_MAX, FAILED_ATTEMPTS_MAX, FailedAttempt,
    INTERRUPTIONS_MAX, Interruption, Lease, Outcome, Phase, Reason, Record, Timestamp,
};

/// Finishes the job. What the last attempt left (output, exit code) stays.
pub(super) fn finish(record: &mut Record, outcome: Outcome, now: Timestamp) {
    record.set_phase(Phase::Finished {
        outcome,
        finished_at: now,
    });
    record.suspect = false;
}

/// Starts the next attempt under a lease, and clears what the previous attempt left. Its checkpoint
/// stays: the next attempt receives it.
pub(super) fn start(record: &mut Record, lease: Lease, now: Timestamp) {
    record.set_phase(Phase::Running {
        lease,
        started_at: now,
    });
    record.attempt += 1;
    record.fence = next_fence(record.fence, now);
    record.error = None;
    record.exception = None;
    record.preparation = None;
    record.exit_code = None;
    record.signal = None;
    record.stdout = None;
    record.stderr = None;
    record.result = None;
    record.result_object = None;
    record.artifacts.clear();
    record.progress = None;
    record.usage = None;
    record.leaked = false;
    record.warnings.clear();
}

/// The fence of an attempt that starts now. It is not the record's revision, because revisions are reused
/// if a bucket loses its last writes in a power cut. The time grows even if the record is lost, and the
/// fence of the attempt before makes it grow even if a worker's clock is behind.
fn next_fence(before: u64, now: Timestamp) -> u64 {
    let now_ms = u64::try_from(now.unix_ms()).unwrap_or_default();
    now_ms.max(before.saturating_add(1))
}

/// Records that the attempt ended without an outcome, and how. Neither a crash nor a lost lease is a
/// failure of the job. `ran_alone` says whether no other job can have caused the crash.
///
/// If others can have caused it, the job is a *suspect* from then on. The crash of a suspect is
/// counted: suspects run alone.
pub(super) fn interrupt(
    record: &mut Record,
    ended: LeaseEnd,
    ran_alone: bool,
    now: Timestamp,
) -> Interrupted {
    let interrupted = match ended {
        LeaseEnd::Released => Interrupted::LostLease,
        LeaseEnd::Crashed if ran_alone || record.suspect => Interrupted::Crash,
        LeaseEnd::Crashed => Interrupted::SharedCrash,
    };
    match interrupted {
        Interrupted::LostLease => record.lost_leases += 1,
        Interrupted::Crash => record.crashes += 1,
        Interrupted::SharedCrash => {
            record.shared_crashes += 1;
            record.suspect = true;
        }
    }
    record.interruptions.push(Interruption {
        worker_id: record.worker_id.clone().unwrap_or_default(),
        at: now,
        crashed: ended == LeaseEnd::Crashed,
        shared: interrupted == Interrupted::SharedCrash,
        attempt: Some(record.attempt),
        started_at: record.started_at,
        unknown: naq_protocol::UnknownFields::default(),
    });
    let surplus = record.interruptions.len().saturating_sub(INTERRUPTIONS_MAX);
    record.interruptions.drain(..surplus);
    interrupted
}

/// How an attempt ended without an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupted {
    /// Its worker gave the lease up.
    LostLease,
    /// Its worker or spawner process crashed, and no other job can have been the cause.
    Crash,
    /// The same, and other jobs can have been the cause.
    SharedCrash,
}

/// Blocks the job. `sequence` is the message that is about to be removed: its redelivery, should
/// the removal come late, must not start the job.
pub(super) fn block(record: &mut Record, waits: BlockedOn, sequence: u64) {
    record.set_phase(Phase::Blocked { waits });
    record.superseded_sequence = Some(sequence);
    record.worker_id = None;
}

/// Returns the job to its queue as if the attempt had never begun.
pub(super) fn reset_to_queued(record: &mut Record) {
    record.set_phase(Phase::Queued);
    record.exception = None;
    record.exit_code = None;
    record.signal = None;
    record.stdout = None;
    record.stderr = None;
    record.usage = None;
}

/// Ends the attempt and plans the next one for `due`.
pub(super) fn retry_at(record: &mut Record, reason: Reason, now: Timestamp, due: Timestamp) {
    record.set_phase(Phase::Retrying {
        reason,
        finished_at: now,
        next_attempt_at: due,
    });
}

/// Adds the attempt that has just failed to those that the record lists. Its results are in the record
/// until the next attempt starts.
pub(super) fn list_failed_attempt(record: &mut Record, reason: Reason, now: Timestamp) {
    let tail = |output: &Option<CapturedOutput>| {
        let text = output.as_ref()?.last_text(FAILED_ATTEMPT_TEXT_BYTES_MAX);
        (!text.is_empty()).then_some(text)
    };
    record.failed_attempts.push(FailedAttempt {
        attempt: record.attempt,
        worker_id: record.worker_id.clone(),
        started_at: record.started_at,
        ended_at: now,
        reason,
        exit_code: record.exit_code,
        signal: record.signal,
        error: record.error.as_deref().map(beginning),
        usage: record.usage.clone(),
        stdout_tail: tail(&record.stdout),
        stderr_tail: tail(&record.stderr),
        unknown: naq_protocol::UnknownFields::default(),
    });
    let surplus = (record.failed_attempts.len()).saturating_sub(FAILED_ATTEMPTS_MAX);
    record.failed_attempts.drain(..surplus);
}

/// As much of an error as a failed attempt keeps.
fn beginning(error: &str) -> String {
    let mut end = error.len().min(FAILED_ATTEMPT_TEXT_BYTES_MAX);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    error[..end].to_owned()
}

/// `wait` after `now`, or `now` if the sum is out of range.
pub(super) fn saturating_add(now: Timestamp, wait: Duration) -> Timestamp {
    chrono::Duration::from_std(wait)
        .ok()
        .and_then(|wait| now.0.checked_add_signed(wait))
        .map_or(now, Timestamp)
}
