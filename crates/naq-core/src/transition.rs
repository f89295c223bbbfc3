//! The transitions of a job's record.

use std::time::Duration;

use super::backoff::{self, FailureClass};
use super::dependency::{DependencyStatus, Evaluation, evaluate};
use naq_protocol::{
    BlockedOn, Dependency, Envelope, EnvelopeError, JobId, Lease, QueueName, Reason, Record, State,
    Timestamp,
};

/// A record never lives for less: by then every late message of its job has come and been
/// absorbed.
pub const RECORD_TTL_MIN: Duration = Duration::from_secs(600);

/// How long a dependency may be missing where the envelope does not say.
pub const DEPENDENCY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(24 * 3_600);

/// The facts of a delivery.
#[derive(Clone, Debug)]
pub struct DeliveryContext {
    /// The job.
    pub job_id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// The message's sequence.
    pub sequence: u64,
    /// How often it has been delivered.
    pub delivery: u64,
    /// When the server took it.
    pub enqueue_time: Timestamp,
    /// The worker that got it.
    pub worker_id: String,
    /// The time.
    pub now: Timestamp,
    /// How often a worker may die under a job before the job is given up.
    pub max_worker_crashes: u32,
    /// The digest of its envelope.
    pub envelope_digest: String,
    /// The message by which the record says that the job runs is gone, and no outcome came of
    /// it: nobody will be given it again.
    pub lease_message_missing: bool,
    /// Someone asked this worker to cancel the job before it began.
    pub cancel_requested: bool,
    /// What is known of the jobs it waits for, where that was looked up.
    pub dependency_statuses: Option<Vec<(Dependency, DependencyStatus)>>,
    /// Whether it has a slot of its concurrency key.
    pub slot: ConcurrencySlot,
    /// The trace context that its message came with.
    pub traceparent: Option<String>,
    /// The time that its message was held until.
    pub scheduled_for: Option<Timestamp>,
}

/// A job's slot among those of its concurrency key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConcurrencySlot {
    /// It was not asked for.
    #[default]
    NotRequested,
    /// The job has it.
    Acquired,
    /// As many jobs of the key run as may.
    Full,
}

/// What to do with a delivery.
#[derive(Debug)]
pub enum DeliveryDecision {
    /// Write this record where the revision still is the one decided upon; then run the job.
    Run(Box<Record>),
    /// The bytes differ from those of the job's first envelope. Where they say the same, decide
    /// again under the first one's digest; else the id is taken, and the first stands.
    CompareEnvelopes,
    /// Look up what became of these jobs, and decide again.
    ResolveDependencies(Vec<Dependency>),
    /// Ask for a slot of the job's concurrency key, and decide again.
    AcquireSlot,
    /// Have whoever ends what it waits for release it, write this record, acknowledge.
    Block(Box<Record>),
    /// The job has ended: complete what a crash may have left undone, acknowledge.
    AlreadyFinished,
    /// Another message of a job that runs by its own: acknowledge.
    DuplicateMessage,
    /// The same message was delivered to another worker since, which runs the job: neither
    /// answer for the message, which would take it from under that worker, nor run.
    Superseded,
    /// Too early: hold the message until then once more, acknowledge.
    DelayUntil(Timestamp),
    /// Write this terminal record, acknowledge.
    End(Box<Record>),
}

/// Decides what a delivered message means, given the job's record.
#[must_use]
pub fn decide_delivery(
    record: Option<&Record>,
    envelope: &Envelope,
    delivered: &DeliveryContext,
) -> DeliveryDecision {
    let record_is_awaited = record.is_some_and(|record| record.has_dependents);
    let fresh = || {
        let mut record = Record::new(
            delivered.job_id.clone(),
            delivered.queue.clone(),
            State::Queued,
            delivered.enqueue_time,
        );
        record.labels.clone_from(&envelope.labels);
        record.has_dependents = record_is_awaited;
        record.rerun_of.clone_from(&envelope.rerun_of);
        record.schedule_id.clone_from(&envelope.schedule_id);
        record.scheduled_for = envelope.scheduled_for.or(delivered.scheduled_for);
        record.traceparent.clone_from(&delivered.traceparent);
        record.envelope_digest = Some(delivered.envelope_digest.clone());
        record
    };
    // a placeholder knows nothing of the job but that others wait for it
    let mut next = record
        .filter(|record| !record.placeholder)
        .cloned()
        .unwrap_or_else(fresh);
    let is_another = next
        .envelope_digest
        .as_ref()
        .is_some_and(|digest| *digest != delivered.envelope_digest);
    if is_another {
        return DeliveryDecision::CompareEnvelopes;
    }
    if next.state.is_terminal() {
        return DeliveryDecision::AlreadyFinished;
    }
    match next.state {
        State::Running => {
            let is_lease = next
                .lease
                .as_ref()
                .is_some_and(|lease| lease.sequence == delivered.sequence);
            if !is_lease && !delivered.lease_message_missing {
                return DeliveryDecision::DuplicateMessage;
            }
            let is_older = is_lease
                && next
                    .lease
                    .as_ref()
                    .is_some_and(|lease| delivered.delivery < lease.delivery);
            if is_older {
                return DeliveryDecision::Superseded;
            }
            // the lease's own message came again, or never will: whoever held it is dead or has lost it
            next.crashes += 1;
            if next.cancel_requested {
                finish(
                    &mut next,
                    State::Cancelled,
                    Some(Reason::Cancelled),
                    delivered.now,
                );
                return DeliveryDecision::End(Box::new(next));
            }
            if next.crashes >= delivered.max_worker_crashes {
                next.error = Some(format!(
                    "its worker died under it {} times, the last one being {}",
                    next.crashes,
                    next.worker_id.as_deref().unwrap_or("unknown")
                ));
                finish(
                    &mut next,
                    State::Failed,
                    Some(Reason::Crashed),
                    delivered.now,
                );
                return DeliveryDecision::End(Box::new(next));
            }
        }
        State::Retrying => {
            if let Some(due) = next.next_attempt_at
                && delivered.now < due
                && !next.cancel_requested
            {
                return DeliveryDecision::DelayUntil(due);
            }
        }
        _ => {}
    }
    if next.cancel_requested || delivered.cancel_requested {
        finish(
            &mut next,
            State::Cancelled,
            Some(Reason::Cancelled),
            delivered.now,
        );
        return DeliveryDecision::End(Box::new(next));
    }
    // a job that has begun is seen through: expiry is for those that have not
    if next.attempt == 0
        && let Some(expires_at) = envelope.expires_at
        && delivered.now >= expires_at
    {
        next.error = Some(format!("it was not started before {expires_at}"));
        finish(&mut next, State::Expired, None, delivered.now);
        return DeliveryDecision::End(Box::new(next));
    }
    if let Some(first) = decide_dependencies(&mut next, envelope, delivered) {
        return first;
    }
    if envelope.concurrency_key.is_some() {
        match delivered.slot {
            ConcurrencySlot::NotRequested => return DeliveryDecision::AcquireSlot,
            ConcurrencySlot::Acquired => {}
            ConcurrencySlot::Full => {
                block(
                    &mut next,
                    BlockedOn {
                        dependencies: Vec::new(),
                        concurrency_key: envelope.concurrency_key.clone(),
                        since: delivered.now,
                        until: None,
                    },
                    delivered.sequence,
                );
                return DeliveryDecision::Block(Box::new(next));
            }
        }
    }
    next.state = State::Running;
    next.waits = None;
    next.superseded_sequence = None;
    next.attempt += 1;
    next.worker_id = Some(delivered.worker_id.clone());
    next.lease = Some(Lease {
        worker_id: delivered.worker_id.clone(),
        sequence: delivered.sequence,
        delivery: delivered.delivery,
    });
    next.started_at = Some(delivered.now);
    next.finished_at = None;
    next.next_attempt_at = None;
    next.reason = None;
    next.error = None;
    next.exit_code = None;
    next.signal = None;
    next.stdout = None;
    next.stderr = None;
    next.result = None;
    next.result_object = None;
    next.progress = None;
    next.usage = None;
    next.leaked = false;
    next.warnings.clear();
    DeliveryDecision::Run(Box::new(next))
}

/// What dependencies that are still to end mean for a job that has not begun; none where they
/// are met.
fn decide_dependencies(
    next: &mut Record,
    envelope: &Envelope,
    delivered: &DeliveryContext,
) -> Option<DeliveryDecision> {
    if next.dependencies_met || envelope.depends_on.is_empty() {
        return None;
    }
    let before = next.waits.take();
    let Some(known) = &delivered.dependency_statuses else {
        let open = before.map_or_else(|| envelope.depends_on.clone(), |waits| waits.dependencies);
        return Some(DeliveryDecision::ResolveDependencies(open));
    };
    let until = before.as_ref().and_then(|waits| waits.until);
    let is_late = until.is_some_and(|until| delivered.now >= until);
    match evaluate(known, is_late) {
        Evaluation::Satisfied => {
            next.dependencies_met = true;
            None
        }
        Evaluation::Unsatisfiable(why) => {
            next.error = Some(why);
            finish(next, State::Failed, Some(Reason::Dependency), delivered.now);
            Some(DeliveryDecision::End(Box::new(next.clone())))
        }
        Evaluation::Pending { open, unrecorded } => {
            let timeout = envelope
                .dependency_timeout
                .map_or(DEPENDENCY_TIMEOUT_DEFAULT, |span| span.0);
            let until = match until {
                Some(until) if !is_late => Some(until),
                _ => unrecorded.then(|| saturating_add(delivered.now, timeout)),
            };
            block(
                next,
                BlockedOn {
                    dependencies: open,
                    concurrency_key: None,
                    since: before.map_or(delivered.now, |waits| waits.since),
                    until,
                },
                delivered.sequence,
            );
            Some(DeliveryDecision::Block(Box::new(next.clone())))
        }
    }
}

fn block(record: &mut Record, waits: BlockedOn, sequence: u64) {
    record.superseded_sequence = Some(sequence);
    record.state = State::Waiting;
    record.waits = Some(waits);
    record.worker_id = None;
    record.lease = None;
    record.finished_at = None;
    record.next_attempt_at = None;
}

/// How an attempt's first process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// With this exit code.
    Exited(i32),
    /// By this signal, which naq did not send.
    Signalled(i32),
    /// It ran out of time; by the code or signal its process ended with.
    TimedOut,
    /// It ran out of memory.
    OutOfMemory,
    /// It could not be started.
    NotStarted {
        /// No retry can mend it.
        fatal: bool,
    },
    /// It was stopped because someone cancelled it.
    Cancelled,
    /// It was stopped because its worker goes; it did nothing wrong.
    Drained,
    /// The worker's process that held it died.
    SpawnerDied,
}

/// The facts of an ended attempt.
#[derive(Clone, Debug)]
pub struct FinishedAttempt {
    /// How it ended.
    pub end: AttemptEnd,
    /// What went wrong, in words.
    pub error: Option<String>,
    /// How long the job itself asks to wait before a retry.
    pub retry_after: Option<Duration>,
    /// The time.
    pub now: Timestamp,
    /// A number in 0..1, for jitter.
    pub random: f64,
    /// How often a worker may die under a job before the job is given up.
    pub max_worker_crashes: u32,
}

/// What follows an ended attempt. The record is to be written in every case; what goes before
/// and after it differs.
#[derive(Debug)]
pub enum OnEnd {
    /// Ended. Keep a copy in the failed stream first where `keep`; acknowledge afterwards.
    Finish {
        /// The terminal record.
        record: Box<Record>,
        /// Whether the failed stream keeps the job.
        dead_letter: bool,
    },
    /// To be tried again: hold the message until then, acknowledge.
    Retry {
        /// The record, retrying.
        record: Box<Record>,
        /// When.
        due: Timestamp,
    },
    /// Back into the queue at once.
    Requeue {
        /// The record, queued.
        record: Box<Record>,
    },
}

/// Decides what follows an attempt. `record` is the running record with what the attempt brought
/// (output, usage, exit code) filled in.
#[must_use]
pub fn end_attempt(
    mut record: Box<Record>,
    envelope: &Envelope,
    attempt: &FinishedAttempt,
) -> OnEnd {
    record.lease = None;
    record.error.clone_from(&attempt.error);
    let ended = |mut record: Box<Record>, state: State, reason: Option<Reason>| {
        finish(&mut record, state, reason, attempt.now);
        OnEnd::Finish {
            dead_letter: state == State::Failed,
            record,
        }
    };
    let success = match attempt.end {
        AttemptEnd::Exited(code) => {
            code == 0 || u8::try_from(code).is_ok_and(|code| envelope.success_on.contains(&code))
        }
        _ => false,
    };
    if success {
        return ended(record, State::Succeeded, None);
    }
    if record.cancel_requested || attempt.end == AttemptEnd::Cancelled {
        return ended(record, State::Cancelled, Some(Reason::Cancelled));
    }
    let (reason, verdict) = match attempt.end {
        AttemptEnd::Drained => {
            // not its fault: the attempt does not count
            record.attempt = record.attempt.saturating_sub(1);
            reset_to_queued(&mut record);
            return OnEnd::Requeue { record };
        }
        AttemptEnd::SpawnerDied => {
            record.crashes += 1;
            if record.crashes >= attempt.max_worker_crashes {
                return ended(record, State::Failed, Some(Reason::Crashed));
            }
            reset_to_queued(&mut record);
            return OnEnd::Requeue { record };
        }
        AttemptEnd::Cancelled => (Reason::Cancelled, FailureClass::Fatal),
        AttemptEnd::NotStarted { fatal: true } => (Reason::Spawn, FailureClass::Fatal),
        AttemptEnd::NotStarted { fatal: false } => (Reason::Spawn, FailureClass::Retryable),
        AttemptEnd::TimedOut => (Reason::Timeout, FailureClass::Retryable),
        AttemptEnd::OutOfMemory => (Reason::Oom, FailureClass::Retryable),
        AttemptEnd::Signalled(_) => (Reason::Signal, FailureClass::Retryable),
        AttemptEnd::Exited(code) => (
            Reason::Exit,
            backoff::classify_failure(envelope, Reason::Exit, Some(code)),
        ),
    };
    // attempts a worker died under are not the job's failures
    let failures = record.attempt.saturating_sub(record.crashes).max(1);
    let retries_left = failures <= envelope.max_retries.unwrap_or(0);
    if verdict == FailureClass::Fatal || !retries_left {
        return ended(record, State::Failed, Some(reason));
    }
    let wait = attempt
        .retry_after
        .unwrap_or_else(|| backoff::retry_delay(envelope, failures, attempt.random));
    let due = saturating_add(attempt.now, wait);
    record.state = State::Retrying;
    record.reason = Some(reason);
    record.finished_at = Some(attempt.now);
    record.next_attempt_at = Some(due);
    OnEnd::Retry { record, due }
}

/// The record of an envelope that never was a job.
#[must_use]
pub fn rejected_record(delivered: &DeliveryContext, invalid: &EnvelopeError) -> Record {
    let mut record = Record::new(
        delivered.job_id.clone(),
        delivered.queue.clone(),
        State::Queued,
        delivered.enqueue_time,
    );
    record.error = Some(invalid.to_string());
    finish(
        &mut record,
        State::Rejected,
        Some(invalid.reason.into()),
        delivered.now,
    );
    record
}

/// How long a terminal record stays: what the envelope asks, else the default; none keeps it for
/// ever.
#[must_use]
pub fn result_ttl(envelope: Option<&Envelope>, default: Duration) -> Option<Duration> {
    let asked = envelope
        .and_then(|envelope| envelope.result_ttl)
        .map_or(default, |span| span.0);
    clamp_result_ttl(asked)
}

/// How long a terminal record stays where this was asked for: ten minutes at the least, and for
/// ever where it is 0.
#[must_use]
pub fn clamp_result_ttl(asked: Duration) -> Option<Duration> {
    (!asked.is_zero()).then(|| asked.max(RECORD_TTL_MIN))
}

pub(super) fn finish(record: &mut Record, state: State, reason: Option<Reason>, now: Timestamp) {
    record.state = state;
    record.reason = reason;
    record.lease = None;
    record.finished_at = Some(now);
    record.next_attempt_at = None;
    record.waits = None;
    record.placeholder = false;
}

pub(super) fn reset_to_queued(record: &mut Record) {
    record.state = State::Queued;
    record.reason = None;
    record.started_at = None;
    record.finished_at = None;
    record.exit_code = None;
    record.signal = None;
    record.stdout = None;
    record.stderr = None;
    record.usage = None;
}

fn saturating_add(now: Timestamp, wait: Duration) -> Timestamp {
    chrono::Duration::from_std(wait)
        .ok()
        .and_then(|wait| now.0.checked_add_signed(wait))
        .map_or(now, Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ms(1_800_000_000_000 + seconds * 1_000).unwrap()
    }

    fn delivered(sequence: u64, worker: &str, now: i64) -> DeliveryContext {
        DeliveryContext {
            job_id: JobId::new("j").unwrap(),
            queue: QueueName::new("q").unwrap(),
            sequence,
            delivery: 1,
            enqueue_time: at(0),
            worker_id: worker.to_owned(),
            now: at(now),
            max_worker_crashes: 3,
            envelope_digest: "same".to_owned(),
            lease_message_missing: false,
            cancel_requested: false,
            dependency_statuses: None,
            slot: ConcurrencySlot::NotRequested,
            traceparent: None,
            scheduled_for: None,
        }
    }

    fn attempt(end: AttemptEnd, now: i64) -> FinishedAttempt {
        FinishedAttempt {
            end,
            error: None,
            retry_after: None,
            now: at(now),
            random: 1.0,
            max_worker_crashes: 3,
        }
    }

    fn job(max_retries: u32) -> Envelope {
        Envelope {
            max_retries: Some(max_retries),
            ..Envelope::command("x", [] as [&str; 0])
        }
    }

    fn claimed(
        record: Option<&Record>,
        envelope: &Envelope,
        delivered: &DeliveryContext,
    ) -> Box<Record> {
        match decide_delivery(record, envelope, delivered) {
            DeliveryDecision::Run(record) => record,
            other => panic!("not claimed: {other:?}"),
        }
    }

    #[test]
    fn a_first_delivery_is_claimed() {
        let record = claimed(None, &job(0), &delivered(7, "w", 1));
        assert_eq!((record.state, record.attempt), (State::Running, 1));
        assert_eq!(record.lease.unwrap().sequence, 7);
    }

    #[test]
    fn another_envelope_under_the_same_id_is_told_in_every_state() {
        let first = claimed(None, &job(0), &delivered(7, "w", 1));
        let other = DeliveryContext {
            envelope_digest: "other".to_owned(),
            ..delivered(8, "v", 2)
        };
        for state in State::ALL {
            let mut record = first.clone();
            record.state = state;
            assert!(matches!(
                decide_delivery(Some(&record), &job(0), &other),
                DeliveryDecision::CompareEnvelopes
            ));
        }
        // records of before have no digest: what they stand for is not known to differ
        let mut record = first;
        record.envelope_digest = None;
        assert!(matches!(
            decide_delivery(Some(&record), &job(0), &other),
            DeliveryDecision::DuplicateMessage
        ));
    }

    #[test]
    fn another_message_of_a_running_job_is_surplus() {
        let record = claimed(None, &job(0), &delivered(7, "w", 1));
        assert!(matches!(
            decide_delivery(Some(&record), &job(0), &delivered(8, "v", 2)),
            DeliveryDecision::DuplicateMessage
        ));
    }

    #[test]
    fn a_lease_whose_message_is_gone_is_taken_over() {
        let first = claimed(None, &job(0), &delivered(7, "w", 1));
        let orphaned = DeliveryContext {
            lease_message_missing: true,
            ..delivered(8, "v", 2)
        };
        let second = claimed(Some(&first), &job(0), &orphaned);
        assert_eq!((second.attempt, second.crashes), (2, 1));
        assert_eq!(second.lease.unwrap().sequence, 8);
    }

    #[test]
    fn an_earlier_delivery_gives_way_to_a_later_ones_claim() {
        let early = delivered(7, "slow", 1);
        let late = DeliveryContext {
            delivery: 2,
            ..delivered(7, "quick", 2)
        };
        let record = claimed(None, &job(0), &late);
        assert!(matches!(
            decide_delivery(Some(&record), &job(0), &early),
            DeliveryDecision::Superseded
        ));
    }

    #[test]
    fn the_third_death_ends_the_job() {
        let envelope = job(0);
        let first = claimed(None, &envelope, &delivered(7, "a", 1));
        let second = claimed(Some(&first), &envelope, &delivered(7, "b", 2));
        let third = claimed(Some(&second), &envelope, &delivered(7, "c", 3));
        assert_eq!((third.attempt, third.crashes), (3, 2));
        let DeliveryDecision::End(record) =
            decide_delivery(Some(&third), &envelope, &delivered(7, "d", 4))
        else {
            panic!("not ended");
        };
        assert_eq!(
            (record.state, record.reason),
            (State::Failed, Some(Reason::Crashed))
        );
    }

    #[test]
    fn a_crash_uses_up_no_retry() {
        let envelope = job(1);
        let first = claimed(None, &envelope, &delivered(7, "a", 1));
        let second = claimed(Some(&first), &envelope, &delivered(7, "b", 2));
        let OnEnd::Retry { record, .. } =
            end_attempt(second, &envelope, &attempt(AttemptEnd::Exited(1), 3))
        else {
            panic!("no retry");
        };
        let third = claimed(Some(&record), &envelope, &delivered(9, "b", 9));
        assert!(matches!(
            end_attempt(third, &envelope, &attempt(AttemptEnd::Exited(1), 10)),
            OnEnd::Finish {
                dead_letter: true,
                ..
            }
        ));
    }

    #[test]
    fn a_drained_attempt_does_not_count() {
        let envelope = job(0);
        let running = claimed(None, &envelope, &delivered(7, "a", 1));
        let OnEnd::Requeue { record } =
            end_attempt(running, &envelope, &attempt(AttemptEnd::Drained, 2))
        else {
            panic!("not handed back");
        };
        assert_eq!((record.state, record.attempt), (State::Queued, 0));
        assert_eq!(
            claimed(Some(&record), &envelope, &delivered(7, "b", 3)).attempt,
            1
        );
    }

    #[test]
    fn a_retry_that_comes_early_is_held() {
        let mut envelope = job(1);
        envelope.retry_delay = Some(naq_protocol::RetryDelay::Single(
            naq_protocol::units::WireDuration::from_secs(60),
        ));
        let running = claimed(None, &envelope, &delivered(7, "a", 1));
        let OnEnd::Retry { record, due } =
            end_attempt(running, &envelope, &attempt(AttemptEnd::Exited(1), 2))
        else {
            panic!("no retry");
        };
        assert_eq!(due, at(62));
        assert!(matches!(
            decide_delivery(Some(&record), &envelope, &delivered(9, "a", 30)),
            DeliveryDecision::DelayUntil(until) if until == due
        ));
    }

    #[test]
    fn an_expired_job_is_not_begun() {
        let mut envelope = job(0);
        envelope.expires_at = Some(at(5));
        assert!(matches!(
            decide_delivery(None, &envelope, &delivered(7, "a", 5)),
            DeliveryDecision::End(record) if record.state == State::Expired
        ));
    }

    #[test]
    fn ttl_has_a_floor_and_zero_keeps() {
        let mut envelope = job(0);
        let default = Duration::from_secs(3_600);
        assert_eq!(result_ttl(Some(&envelope), default), Some(default));
        envelope.result_ttl = Some(naq_protocol::units::WireDuration::from_secs(1));
        assert_eq!(result_ttl(Some(&envelope), default), Some(RECORD_TTL_MIN));
        envelope.result_ttl = Some(naq_protocol::units::WireDuration::from_secs(0));
        assert_eq!(result_ttl(Some(&envelope), default), None);
    }

    #[test]
    fn dependencies_are_looked_up_before_anything_else() {
        let mut envelope = job(0);
        envelope.depends_on = vec![Dependency {
            job: JobId::new("first").unwrap(),
            on: naq_protocol::DependencyCondition::Success,
        }];
        let mut facts = delivered(7, "w", 1);
        let DeliveryDecision::ResolveDependencies(open) = decide_delivery(None, &envelope, &facts)
        else {
            panic!("not looked up");
        };
        facts.dependency_statuses = Some(vec![(open[0].clone(), DependencyStatus::Missing)]);
        let DeliveryDecision::Block(parked) = decide_delivery(None, &envelope, &facts) else {
            panic!("not parked");
        };
        assert_eq!(parked.state, State::Waiting);
        let waits = parked.waits.clone().unwrap();
        assert_eq!(waits.until, Some(at(1 + 24 * 3_600)));
        // once it is there, nothing is missing any more
        facts.dependency_statuses = Some(vec![(open[0].clone(), DependencyStatus::Active)]);
        facts.now = at(1 + 24 * 3_600);
        let DeliveryDecision::Block(parked) = decide_delivery(Some(&parked), &envelope, &facts)
        else {
            panic!("not parked");
        };
        assert_eq!(parked.waits.as_ref().unwrap().until, None);
        facts.dependency_statuses = Some(vec![(
            open[0].clone(),
            DependencyStatus::Finished(State::Succeeded),
        )]);
        let record = claimed(Some(&parked), &envelope, &facts);
        assert!(record.dependencies_met && record.waits.is_none());
    }

    #[test]
    fn a_placeholder_gives_way_and_keeps_its_mark() {
        let mut placeholder = Record::new(
            JobId::new("j").unwrap(),
            QueueName::new("other").unwrap(),
            State::Queued,
            at(0),
        );
        placeholder.placeholder = true;
        placeholder.has_dependents = true;
        let record = claimed(Some(&placeholder), &job(0), &delivered(7, "w", 1));
        assert!(record.has_dependents && !record.placeholder);
        assert_eq!(record.queue.as_str(), "q");
    }

    #[test]
    fn a_job_without_a_slot_waits() {
        let mut envelope = job(0);
        envelope.concurrency_key = Some("k".to_owned());
        let mut facts = delivered(7, "w", 1);
        assert!(matches!(
            decide_delivery(None, &envelope, &facts),
            DeliveryDecision::AcquireSlot
        ));
        facts.slot = ConcurrencySlot::Full;
        assert!(matches!(
            decide_delivery(None, &envelope, &facts),
            DeliveryDecision::Block(record) if record.state == State::Waiting
        ));
        facts.slot = ConcurrencySlot::Acquired;
        assert_eq!(claimed(None, &envelope, &facts).state, State::Running);
    }
}
