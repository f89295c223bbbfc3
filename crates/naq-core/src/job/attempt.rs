//! What follows the end of an attempt: success, failure, a retry, or another try at once.

use std::time::Duration;

use super::backoff::{self, FailureClass};
use super::error_line::error_line;
use super::takeover::LeaseEnd;
use super::transition::{
    Interrupted, finish, interrupt, list_failed_attempt, reset_to_queued, retry_at, saturating_add,
};
use naq_protocol::{Envelope, Exception, Outcome, Reason, Record, Timestamp};

/// Number of attempts in a row to start a job for which the worker's machine is short of something,
/// after which the job fails. A job that needs more than any worker has must not wander forever.
const FAILED_STARTS_MAX: u32 = 3;

/// Number of bytes at the end of standard error in which the error of a program is looked for.
const STDERR_READ_BYTES: usize = 8_192;

/// Number of characters of an exception that [`Record::error`] shows.
const EXCEPTION_CHARS_MAX: usize = 300;

/// How an attempt's first process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it, and naq did not send the signal.
    Signalled(i32),
    /// It exceeded its timeout.
    TimedOut,
    /// It exceeded its memory limit.
    OutOfMemory,
    /// It used up its CPU time limit.
    CpuTimeExceeded,
    /// It wrote a file up to its file size limit.
    FileSizeExceeded,
    /// It could not be started.
    NotStarted {
        /// Whether every retry would fail in the same way.
        fatal: bool,
    },
    /// It could not be started because an output of a dependency that it needs is gone or too large.
    NoInput,
    /// It could not be started because the worker's machine was short of something, such as
    /// processes or disk space. The attempt does not count.
    ResourceShortage,
    /// naq stopped it because a cancel was requested.
    Cancelled,
    /// naq stopped it because its worker shuts down. The attempt does not count.
    Drained,
    /// The worker's spawner process, its parent, died.
    SpawnerDied {
        /// Whether the spawner process ran no other job.
        alone: bool,
    },
}

/// The facts about an ended attempt.
#[derive(Clone, Debug)]
pub struct FinishedAttempt {
    /// How it ended.
    pub end: AttemptEnd,
    /// What went wrong, in words. `None` if nothing did.
    pub error: Option<String>,
    /// How long the job itself asked to wait before a retry. `None` leaves it to the envelope.
    pub retry_after: Option<Duration>,
    /// The current time.
    pub now: Timestamp,
    /// A random number in 0..1, for jitter.
    pub random: f64,
    /// After this many worker crashes during the job, the job fails.
    pub max_worker_crashes: u32,
}

/// What follows an ended attempt. Every variant holds the record to write; the steps before and
/// after that write differ.
#[derive(Debug)]
pub enum OnEnd {
    /// The job has finished. If `dead_letter`, publish its dead letter before the record is
    /// written, so that a crash in between cannot lose it. Acknowledge afterwards.
    Finish {
        /// The terminal record.
        record: Box<Record>,
        /// Whether the job becomes a dead letter.
        dead_letter: bool,
    },
    /// The job will be retried: delay its message until `due`, then acknowledge.
    Retry {
        /// The record, in the state `retrying`.
        record: Box<Record>,
        /// When the next attempt may start.
        due: Timestamp,
    },
    /// Return the message to the queue at once.
    Requeue {
        /// The record, in the state `queued`.
        record: Box<Record>,
    },
}

/// Decides what follows an attempt. `record` is the record that the attempt ran under, with the
/// attempt's results (output, usage, exit code) filled in.
#[must_use]
pub fn end_attempt(
    mut record: Box<Record>,
    envelope: &Envelope,
    attempt: &FinishedAttempt,
) -> OnEnd {
    record.error.clone_from(&attempt.error);
    if is_success(envelope, &attempt.end) {
        record.exception = None;
        return finished(record, Outcome::Succeeded, attempt.now);
    }
    // A program that succeeded has succeeded; any other end of a job that should be cancelled
    // counts as the cancel.
    if record.cancel_requested {
        return finished(record, Outcome::Cancelled, attempt.now);
    }
    if record.error.is_none() && is_failure_of_program(&attempt.end) {
        record.error = record.exception.as_ref().map(exception_line);
        record.error = record.error.take().or_else(|| program_error(&record));
    }
    let (reason, class) = match attempt.end {
        AttemptEnd::Cancelled => {
            return finished(record, Outcome::Cancelled, attempt.now);
        }
        AttemptEnd::Drained => {
            // The job did nothing wrong, so the attempt does not count.
            record.attempt = record.attempt.saturating_sub(1);
            reset_to_queued(&mut record);
            return OnEnd::Requeue { record };
        }
        AttemptEnd::SpawnerDied { alone } => return after_crash(record, attempt, alone),
        AttemptEnd::ResourceShortage => return after_shortage(record, attempt),
        AttemptEnd::NoInput => (Reason::Dependency, FailureClass::Fatal),
        AttemptEnd::NotStarted { fatal: true } => (Reason::Spawn, FailureClass::Fatal),
        AttemptEnd::NotStarted { fatal: false } => (Reason::Spawn, FailureClass::Retryable),
        AttemptEnd::TimedOut => (Reason::Timeout, FailureClass::Retryable),
        AttemptEnd::OutOfMemory => (Reason::Oom, FailureClass::Retryable),
        AttemptEnd::CpuTimeExceeded => (Reason::CpuTime, FailureClass::Retryable),
        AttemptEnd::FileSizeExceeded => (Reason::FileSize, FailureClass::Retryable),
        AttemptEnd::Signalled(_) => (Reason::Signal, FailureClass::Retryable),
        AttemptEnd::Exited(_) if record.exception.as_ref().is_some_and(|it| it.fatal) => {
            (Reason::Exit, FailureClass::Fatal)
        }
        AttemptEnd::Exited(code) => (
            Reason::Exit,
            backoff::classify_failure(envelope, Reason::Exit, Some(code)),
        ),
    };
    after_failure(record, envelope, attempt, reason, class)
}

/// An exception in one line: its type and the first line of its message.
fn exception_line(exception: &Exception) -> String {
    match exception.message.lines().next() {
        Some(message) if !message.trim().is_empty() => {
            let line = format!("{}: {}", exception.kind, message.trim());
            line.chars().take(EXCEPTION_CHARS_MAX).collect()
        }
        _ => exception.kind.clone(),
    }
}

/// What the program of the last attempt wrote about its failure, as far as its standard error is in the record.
#[must_use]
pub fn program_error(record: &Record) -> Option<String> {
    error_line(&record.stderr.as_ref()?.last_text(STDERR_READ_BYTES))
}

/// Whether the program itself ended the attempt, so that its last words can say why.
fn is_failure_of_program(end: &AttemptEnd) -> bool {
    matches!(end, AttemptEnd::Exited(_) | AttemptEnd::Signalled(_))
}

fn is_success(envelope: &Envelope, end: &AttemptEnd) -> bool {
    match end {
        AttemptEnd::Exited(code) => {
            *code == 0 || u8::try_from(*code).is_ok_and(|code| envelope.success_on.contains(&code))
        }
        _ => false,
    }
}

fn finished(mut record: Box<Record>, outcome: Outcome, now: Timestamp) -> OnEnd {
    finish(&mut record, outcome, now);
    OnEnd::Finish {
        dead_letter: matches!(outcome, Outcome::Failed(_)),
        record,
    }
}

/// The job runs again, unless this crash was the last one that it may have.
fn after_crash(mut record: Box<Record>, attempt: &FinishedAttempt, alone: bool) -> OnEnd {
    let interrupted = interrupt(&mut record, LeaseEnd::Crashed, alone, attempt.now);
    if interrupted == Interrupted::Crash && record.crashes >= attempt.max_worker_crashes {
        return finished(record, Outcome::Failed(Reason::Crashed), attempt.now);
    }
    reset_to_queued(&mut record);
    OnEnd::Requeue { record }
}

/// Another worker may be able to start the job, unless [`FAILED_STARTS_MAX`] have tried in vain.
fn after_shortage(mut record: Box<Record>, attempt: &FinishedAttempt) -> OnEnd {
    record.failed_starts += 1;
    if record.failed_starts >= FAILED_STARTS_MAX {
        return finished(record, Outcome::Failed(Reason::Spawn), attempt.now);
    }
    record.attempt = record.attempt.saturating_sub(1);
    reset_to_queued(&mut record);
    OnEnd::Requeue { record }
}

/// The job is retried if the failure may be retried and retries are left.
fn after_failure(
    mut record: Box<Record>,
    envelope: &Envelope,
    attempt: &FinishedAttempt,
    reason: Reason,
    class: FailureClass,
) -> OnEnd {
    record.failed_starts = 0;
    // A job that did not start has shown nothing about itself.
    record.suspect &= matches!(reason, Reason::Spawn | Reason::Dependency);
    // An attempt during which the worker crashed or lost its lease is no failure of the job, so it
    // uses up no retry.
    let interrupted = record.interrupted_attempts();
    let failures = record.attempt.saturating_sub(interrupted).max(1);
    let retries_left = failures <= envelope.max_retries.unwrap_or(0);
    if class == FailureClass::Fatal || !retries_left {
        return finished(record, Outcome::Failed(reason), attempt.now);
    }
    let wait = attempt
        .retry_after
        .unwrap_or_else(|| backoff::retry_delay(envelope, failures, attempt.random));
    let due = saturating_add(attempt.now, wait);
    list_failed_attempt(&mut record, reason, attempt.now);
    retry_at(&mut record, reason, attempt.now, due);
    OnEnd::Retry { record, due }
}

#[cfg(test)]
mod tests {
    use super::super::transition::start;
    use super::*;
    use naq_protocol::{CapturedOutput, JobId, Lease, Phase, QueueName, State};

    fn lease() -> Lease {
        Lease {
            worker_id: "w".to_owned(),
            sequence: 1,
            delivery: 1,
            alone: false,
            claimed_ahead: false,
            unknown: naq_protocol::UnknownFields::default(),
        }
    }

    #[test]
    fn an_exception_is_the_error_and_a_fatal_one_is_not_retried() {
        let now = Timestamp::from_unix_ms(0).unwrap();
        let mut envelope = Envelope::command("x", [] as [&str; 0]);
        envelope.max_retries = Some(3);
        let attempt = FinishedAttempt {
            end: AttemptEnd::Exited(1),
            error: None,
            retry_after: None,
            now,
            random: 0.5,
            max_worker_crashes: 3,
        };
        let ended = |fatal: bool, code: i32| {
            let queue = QueueName::new("q").unwrap();
            let mut record = Box::new(Record::new(
                JobId::new("j").unwrap(),
                queue,
                Phase::Queued,
                now,
            ));
            start(&mut record, lease(), now);
            record.exception = Some(Exception {
                kind: "ValueError".to_owned(),
                message: "no such city\nat all".to_owned(),
                trace: None,
                fatal,
                unknown: naq_protocol::UnknownFields::default(),
            });
            let end = AttemptEnd::Exited(code);
            end_attempt(
                record,
                &envelope,
                &FinishedAttempt {
                    end,
                    ..attempt.clone()
                },
            )
        };
        let OnEnd::Retry { record, .. } = ended(false, 1) else {
            panic!("it has retries")
        };
        assert_eq!(record.error.as_deref(), Some("ValueError: no such city"));
        let OnEnd::Finish {
            record,
            dead_letter,
        } = ended(true, 1)
        else {
            panic!("it is fatal")
        };
        assert!(dead_letter && record.exception.is_some());
        let OnEnd::Finish { record, .. } = ended(true, 0) else {
            panic!("it has succeeded")
        };
        assert!(record.exception.is_none() && record.error.is_none());
    }

    #[test]
    fn a_job_that_no_machine_can_start_is_requeued_and_fails_in_the_end() {
        let now = Timestamp::from_unix_ms(0).unwrap();
        let mut record = Box::new(Record::new(
            JobId::new("j").unwrap(),
            QueueName::new("q").unwrap(),
            Phase::Queued,
            now,
        ));
        let envelope = Envelope::command("x", [] as [&str; 0]);
        let attempt = FinishedAttempt {
            end: AttemptEnd::ResourceShortage,
            error: Some("no space left".to_owned()),
            retry_after: None,
            now,
            random: 0.5,
            max_worker_crashes: 3,
        };
        for failed_starts in 1..FAILED_STARTS_MAX {
            record.attempt = 1;
            let OnEnd::Requeue { record: next } = end_attempt(record, &envelope, &attempt) else {
                panic!("another worker may start it");
            };
            assert_eq!((next.state(), next.attempt), (State::Queued, 0));
            assert_eq!(next.failed_starts, failed_starts);
            record = next;
        }
        let OnEnd::Finish { record, .. } = end_attempt(record, &envelope, &attempt) else {
            panic!("as many workers as may try have tried");
        };
        assert_eq!(
            (record.state(), record.reason()),
            (State::Failed, Some(Reason::Spawn))
        );
        assert_eq!(record.error.as_deref(), Some("no space left"));
    }

    #[test]
    fn a_failed_attempt_is_listed_with_the_error_that_its_program_wrote() {
        let now = Timestamp::from_unix_ms(0).unwrap();
        let mut record = Box::new(Record::new(
            JobId::new("j").unwrap(),
            QueueName::new("q").unwrap(),
            Phase::Queued,
            now,
        ));
        let mut envelope = Envelope::command("x", [] as [&str; 0]);
        envelope.max_retries = Some(100);
        let mut attempt = FinishedAttempt {
            end: AttemptEnd::Exited(3),
            error: None,
            retry_after: None,
            now,
            random: 0.5,
            max_worker_crashes: 3,
        };
        let begin = |record: &mut Record| {
            start(record, lease(), now);
        };
        for number in 1..=20 {
            begin(&mut record);
            let stderr = format!("warning\nValueError: {}{number}\n", "x".repeat(1_200));
            let bytes = stderr.len() as u64;
            record.stderr = Some(CapturedOutput::new(stderr.into(), Vec::new(), bytes, 0));
            record.exit_code = Some(3);
            let OnEnd::Retry { record: next, .. } = end_attempt(record, &envelope, &attempt) else {
                panic!("retries are left");
            };
            record = next;
        }
        assert!(
            record
                .error
                .as_deref()
                .unwrap()
                .starts_with("ValueError: xxx")
        );
        let numbers: Vec<u32> = record
            .failed_attempts
            .iter()
            .map(|one| one.attempt)
            .collect();
        assert!(numbers.into_iter().eq(5..=20));
        let last = record.failed_attempts.last().unwrap();
        assert_eq!((last.reason, last.exit_code), (Reason::Exit, Some(3)));
        assert!(last.error.as_deref().unwrap().len() <= 1_024);
        let tail = last.stderr_tail.as_deref().unwrap();
        assert_eq!((tail.len(), tail.ends_with("x20\n")), (1_024, true));
        // what naq itself says about the end is not replaced
        attempt.end = AttemptEnd::TimedOut;
        attempt.error = Some("timed out after 1s".to_owned());
        begin(&mut record);
        let OnEnd::Retry { mut record, .. } = end_attempt(record, &envelope, &attempt) else {
            panic!("retries are left");
        };
        assert_eq!(record.error.as_deref(), Some("timed out after 1s"));
        // nor does a job that has succeeded have an error
        begin(&mut record);
        attempt.end = AttemptEnd::Exited(0);
        attempt.error = None;
        let OnEnd::Finish { record, .. } = end_attempt(record, &envelope, &attempt) else {
            panic!("it has succeeded");
        };
        assert_eq!(record.error, None);
    }
}
