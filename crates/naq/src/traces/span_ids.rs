//! The ids of the spans of a job.

use sha2::{Digest, Sha256};

use naq_protocol::{JobId, Record, TraceContext};

/// The span of the enqueue, in the trace of the producer, or in one of the job's own.
pub(super) fn of_enqueue(record: &Record) -> TraceContext {
    let parent = parent(record);
    let trace_id = match parent {
        Some(parent) => parent.trace_id,
        None => derived(&record.job_id, "trace"),
    };
    TraceContext {
        trace_id,
        span_id: derived(&record.job_id, "enqueue"),
        is_sampled: parent.is_none_or(|parent| parent.is_sampled),
    }
}

/// The span of the wait for the first attempt.
pub(super) fn of_wait(record: &Record) -> TraceContext {
    TraceContext {
        span_id: derived(&record.job_id, "wait"),
        ..of_enqueue(record)
    }
}

/// The span of the current or last attempt.
pub(super) fn of_attempt(record: &Record) -> TraceContext {
    of_attempt_number(record, record.attempt)
}

/// The span of the attempt before the current or last one. `None` if that was the first one.
pub(super) fn of_previous_attempt(record: &Record) -> Option<TraceContext> {
    let previous = record.attempt.checked_sub(1).filter(|number| *number > 0)?;
    Some(of_attempt_number(record, previous))
}

fn of_attempt_number(record: &Record, number: u32) -> TraceContext {
    TraceContext {
        span_id: derived(&record.job_id, &format!("attempt {number}")),
        ..of_enqueue(record)
    }
}

/// The span of the producer. `None` if it has named none.
pub(super) fn parent(record: &Record) -> Option<TraceContext> {
    record.traceparent.as_deref()?.parse().ok()
}

/// The first bytes of a digest.
fn derived<const BYTES: usize>(job_id: &JobId, what: &str) -> [u8; BYTES] {
    let mut hasher = Sha256::new();
    hasher.update(what);
    hasher.update([0]);
    hasher.update(job_id.as_str());
    let digest = hasher.finalize();
    let mut id = [0; BYTES];
    for (byte, digit) in id.iter_mut().zip(digest) {
        *byte = digit;
    }
    // zeros are no id
    if let Some(last) = id.last_mut() {
        *last |= 1;
    }
    id
}

#[cfg(test)]
mod tests {
    use naq_protocol::{Phase, QueueName, Timestamp};

    use super::*;

    fn record(attempt: u32, traceparent: Option<&str>) -> Record {
        let mut record = Record::new(
            JobId::new("job").unwrap(),
            QueueName::new("q").unwrap(),
            Phase::Queued,
            Timestamp::from_unix_ms(0).unwrap(),
        );
        record.attempt = attempt;
        record.traceparent = traceparent.map(str::to_owned);
        record
    }

    #[test]
    fn spans_belong_to_the_trace_of_the_producer_and_attempts_know_each_other() {
        let traced = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let (first, second) = (record(1, Some(traced)), record(2, Some(traced)));
        assert!(
            of_attempt(&second)
                .to_string()
                .starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-")
        );
        assert!(!of_attempt(&second).is_sampled);
        assert_eq!(of_previous_attempt(&second), Some(of_attempt(&first)));
        assert_eq!(of_previous_attempt(&first), None);
        assert_ne!(of_attempt(&first).span_id, of_enqueue(&first).span_id);
        assert_ne!(of_wait(&first).span_id, of_enqueue(&first).span_id);
        // a trace of its own, which is the same at each worker
        for own in [None, Some("mine")] {
            let own = of_attempt(&record(1, own));
            assert!(own.is_sampled);
            assert_eq!(own.to_string().parse(), Ok(own));
            assert_eq!(own, of_attempt(&record(1, None)));
        }
    }
}
