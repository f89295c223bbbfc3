//! What a delivered message means for its job: run it, block it, drop the message, or end the job.

use std::time::Duration;

use super::dependency::{DependencyStatus, Evaluation, evaluate};
use super::takeover::LeaseEnd;
use super::transition::{Interrupted, block, finish, interrupt, retry_at, saturating_add, start};
use naq_protocol::{
    BlockedOn, Dependency, Envelope, EnvelopeError, JobId, Lease, Outcome, Phase, QueueName,
    Reason, Record, State, Timestamp,
};

/// How long a dependency may be missing if the envelope sets no `dependency_timeout`.
pub const DEPENDENCY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(24 * 3_600);

/// The facts about a delivery.
#[derive(Clone, Debug)]
pub struct DeliveryContext {
    /// The job.
    pub job_id: JobId,
    /// The job's queue.
    pub queue: QueueName,
    /// The message's sequence in the queue's stream.
    pub sequence: u64,
    /// How often the message has been delivered; the first delivery is 1.
    pub delivery: u64,
    /// When the server stored the message.
    pub enqueue_time: Timestamp,
    /// Whether the job's id is made of the queue and the sequence, for want of another one.
    pub has_sequence_id: bool,
    /// The worker that received the message.
    pub worker_id: String,
    /// The current time.
    pub now: Timestamp,
    /// After this many worker crashes during the job, the job fails.
    pub max_worker_crashes: u32,
    /// The digest of the message's envelope.
    pub envelope_digest: String,
    /// The message that the record's lease names is gone, and the attempt under that lease left no
    /// outcome: the server will never redeliver that message.
    pub lease_message_missing: bool,
    /// How this lease ended, as its holder or the holder's silence shows. `None` if the holder was
    /// not asked. It says nothing about another lease.
    pub ended_lease: Option<(Lease, LeaseEnd)>,
    /// A cancel request reached this worker before the job started.
    pub cancel_requested: bool,
    /// What became of the jobs that this job depends on. `None` if they were not looked up.
    pub dependency_statuses: Option<Vec<(Dependency, DependencyStatus)>>,
    /// Whether the job has a slot of its concurrency key.
    pub slot: ConcurrencySlot,
    /// Whether the job may run alone here.
    pub alone: RunAlone,
    /// The W3C trace context in the message's headers.
    pub traceparent: Option<String>,
    /// The time until which the message was delayed.
    pub scheduled_for: Option<Timestamp>,
}

/// A job's slot among those of its concurrency key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConcurrencySlot {
    /// No slot was requested.
    #[default]
    NotRequested,
    /// The job has a slot.
    Acquired,
    /// All slots of the key are in use.
    Full,
}

/// Whether a job may run *alone*: as the only suspect of its worker and in a spawner process of its
/// own, or on a worker that runs one job at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunAlone {
    /// That was not requested.
    #[default]
    NotRequested,
    /// The job may run alone, and its crash is its own.
    Granted,
    /// Another suspect runs alone on this worker.
    Refused,
}

/// What to do with a delivery.
#[derive(Debug)]
pub enum DeliveryDecision {
    /// Write this record if its revision is still the one that was decided upon, then run the job.
    Run(Box<Record>),
    /// The bytes differ from those of the job's first envelope. If both are equivalent, decide
    /// again with the digest of the first one. Otherwise the id belongs to the first envelope.
    CompareEnvelopes,
    /// The record is of a job that had the same place in a stream that no longer exists. Decide
    /// again under another id.
    ChangeId,
    /// Look up what became of these jobs, and decide again.
    ResolveDependencies(Vec<Dependency>),
    /// Ask the worker that holds this lease whether it still runs the job, and decide again if the
    /// lease has ended. If it has not, leave the message alone.
    AskHolder(Lease),
    /// The job is a suspect: request that it may run alone, and decide again.
    RequestRunAlone,
    /// The job is a suspect, and another one runs alone on this worker. Write this record, delay the
    /// message until the time, then acknowledge: the next worker that is free for a suspect runs it.
    Postpone(Box<Record>, Timestamp),
    /// Request a slot of the job's concurrency key, and decide again.
    AcquireSlot,
    /// Block the job: make what it waits for release it, write this record, then acknowledge. In
    /// this order, a dependency that finishes in between still releases the job.
    Block(Box<Record>),
    /// The job has finished: complete what a crash may have interrupted, then acknowledge.
    AlreadyFinished,
    /// The job runs by another message: acknowledge this one.
    DuplicateMessage,
    /// The job is in a state that only a later version knows. Do not run the job, and do not
    /// acknowledge the message: an acknowledgement would take it away from a worker of that version.
    Superseded,
    /// The message is early: delay it until this time again, then acknowledge.
    DelayUntil(Timestamp),
    /// Write this terminal record, then acknowledge.
    End(Box<Record>),
}

/// Decides what a delivered message means, given the job's record. `None` means that the job has
/// no record.
///
/// The decisions that ask for more facts ([`DeliveryDecision::CompareEnvelopes`],
/// [`DeliveryDecision::ResolveDependencies`], [`DeliveryDecision::AskHolder`],
/// [`DeliveryDecision::RequestRunAlone`] and [`DeliveryDecision::AcquireSlot`]) change nothing: the
/// caller adds the facts to `delivered` and calls this function again.
#[must_use]
pub fn decide_delivery(
    record: Option<&Record>,
    envelope: &Envelope,
    delivered: &DeliveryContext,
) -> DeliveryDecision {
    // A stream that was created again, or that lost its tail, gives a sequence to another message.
    // The record of the message before has the time at which that one was stored.
    let is_of_other_message = delivered.has_sequence_id
        && record.is_some_and(|record| {
            !record.placeholder && record.enqueue_time.unix_ms() != delivered.enqueue_time.unix_ms()
        });
    if is_of_other_message {
        return DeliveryDecision::ChangeId;
    }
    // A placeholder says nothing about the job, except that other jobs depend on it.
    let mut next = record
        .filter(|record| !record.placeholder)
        .cloned()
        .unwrap_or_else(|| first_record(record, envelope, delivered));
    // A record without a digest was written before records had one; its envelope is not known to
    // differ.
    let is_other_envelope = next
        .envelope_digest
        .as_ref()
        .is_some_and(|digest| *digest != delivered.envelope_digest);
    if is_other_envelope {
        return DeliveryDecision::CompareEnvelopes;
    }
    if let Some(decision) = decide_by_state(&mut next, delivered) {
        return decision;
    }
    if next.cancel_requested || delivered.cancel_requested {
        return cancelled(next, delivered.now);
    }
    // Expiry applies only to a job that has never started: once started, it is seen through.
    if next.attempt == 0
        && let Some(expires_at) = envelope.expires_at
        && delivered.now >= expires_at
    {
        next.error = Some(format!("it was not started before {expires_at}"));
        finish(&mut next, Outcome::Expired, delivered.now);
        return DeliveryDecision::End(Box::new(next));
    }
    if let Some(decision) = decide_dependencies(&mut next, envelope, delivered) {
        return decision;
    }
    if let Some(decision) = decide_run_alone(&mut next, delivered) {
        return decision;
    }
    // The slot comes last, so that a job never occupies one while it waits for dependencies.
    if let Some(decision) = decide_slot(&mut next, envelope, delivered) {
        return decision;
    }
    let lease = Lease {
        worker_id: delivered.worker_id.clone(),
        sequence: delivered.sequence,
        delivery: delivered.delivery,
        alone: delivered.alone == RunAlone::Granted,
        unknown: naq_protocol::UnknownFields::default(),
    };
    start(&mut next, lease, delivered.now);
    DeliveryDecision::Run(Box::new(next))
}

/// The record of a job that no worker has seen. It keeps one thing from a `placeholder`: that other
/// jobs depend on the job.
fn first_record(
    placeholder: Option<&Record>,
    envelope: &Envelope,
    delivered: &DeliveryContext,
) -> Record {
    let mut record = Record::new(
        delivered.job_id.clone(),
        delivered.queue.clone(),
        Phase::Queued,
        delivered.enqueue_time,
    );
    record.labels.clone_from(&envelope.labels);
    record.has_dependents = placeholder.is_some_and(|record| record.has_dependents);
    record.rerun_of.clone_from(&envelope.rerun_of);
    record.schedule_id.clone_from(&envelope.schedule_id);
    record.scheduled_for = envelope.scheduled_for.or(delivered.scheduled_for);
    record.traceparent.clone_from(&delivered.traceparent);
    record.envelope_digest = Some(delivered.envelope_digest.clone());
    record
}

/// What the record's state alone decides. `None` means that the job may start, as far as its state
/// goes.
fn decide_by_state(next: &mut Record, delivered: &DeliveryContext) -> Option<DeliveryDecision> {
    match next.state() {
        State::Succeeded | State::Failed | State::Cancelled | State::Expired | State::Rejected => {
            Some(DeliveryDecision::AlreadyFinished)
        }
        State::Running => decide_running(next, delivered),
        State::Retrying => match next.next_attempt_at() {
            // A cancel does not wait for the next attempt.
            Some(due) if delivered.now < due && !next.cancel_requested => {
                Some(DeliveryDecision::DelayUntil(due))
            }
            _ => None,
        },
        State::Scheduled | State::Queued | State::Waiting => None,
        // Only a later version knows what this state means. Its workers receive the message after
        // the acknowledgement timeout of this delivery.
        State::Unknown(_) => Some(DeliveryDecision::Superseded),
    }
}

/// A message of a job that runs, by its record. `None` means that the lease is lost, so this
/// delivery may start the next attempt.
fn decide_running(next: &mut Record, delivered: &DeliveryContext) -> Option<DeliveryDecision> {
    let is_of_lease = next
        .lease()
        .is_some_and(|lease| lease.sequence == delivered.sequence);
    // How often the message was delivered says nothing: a consumer that was made again counts from 1,
    // and a stream that lost its tail gives the sequence to another message of the job.
    if !is_of_lease && !delivered.lease_message_missing {
        return Some(DeliveryDecision::DuplicateMessage);
    }
    // The lease's own message was redelivered, or never will be. That does not say what became of
    // the worker that holds the lease: after an outage the server redelivers everything at once.
    let ran_alone = next.lease().is_some_and(|lease| lease.alone);
    let ended = match (next.lease(), &delivered.ended_lease) {
        (Some(lease), Some((asked, end))) if lease == asked => *end,
        (Some(lease), _) => return Some(DeliveryDecision::AskHolder(lease.clone())),
        (None, _) => LeaseEnd::Crashed,
    };
    let interrupted = interrupt(next, ended, ran_alone, delivered.now);
    if next.cancel_requested {
        return Some(cancelled(next.clone(), delivered.now));
    }
    if interrupted == Interrupted::Crash && next.crashes >= delivered.max_worker_crashes {
        next.error = Some(format!(
            "its worker died under it {} times, the last one being {}",
            next.crashes,
            next.worker_id.as_deref().unwrap_or("unknown")
        ));
        finish(next, Outcome::Failed(Reason::Crashed), delivered.now);
        return Some(DeliveryDecision::End(Box::new(next.clone())));
    }
    None
}

fn cancelled(mut next: Record, now: Timestamp) -> DeliveryDecision {
    finish(&mut next, Outcome::Cancelled, now);
    DeliveryDecision::End(Box::new(next))
}

/// What unfinished dependencies mean for a job that has not started. `None` means that all are
/// satisfied.
fn decide_dependencies(
    next: &mut Record,
    envelope: &Envelope,
    delivered: &DeliveryContext,
) -> Option<DeliveryDecision> {
    if next.dependencies_met || envelope.depends_on.is_empty() {
        return None;
    }
    let Some(known) = &delivered.dependency_statuses else {
        // Dependencies that were satisfied at an earlier look are not looked up again: their
        // records may have expired.
        let open = next
            .waits()
            .map_or(&envelope.depends_on, |waits| &waits.dependencies);
        return Some(DeliveryDecision::ResolveDependencies(open.clone()));
    };
    let since = next.waits().map_or(delivered.now, |waits| waits.since);
    let until = next.waits().and_then(|waits| waits.until);
    let is_late = until.is_some_and(|until| delivered.now >= until);
    match evaluate(known, is_late) {
        Evaluation::Satisfied => {
            next.dependencies_met = true;
            None
        }
        Evaluation::Unsatisfiable(why) => {
            next.error = Some(why);
            finish(next, Outcome::Failed(Reason::Dependency), delivered.now);
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
            let waits = BlockedOn {
                dependencies: open,
                concurrency_key: None,
                since,
                until,
                unknown: naq_protocol::UnknownFields::default(),
            };
            block(next, waits, delivered.sequence);
            Some(DeliveryDecision::Block(Box::new(next.clone())))
        }
    }
}

/// The shortest and the longest time until a suspect that cannot run alone yet is tried again.
const POSTPONED_MIN: Duration = Duration::from_secs(2);
const POSTPONED_MAX: Duration = Duration::from_secs(30);

/// What a suspicion means for the job. `None` means that it is no suspect, or may run alone.
///
/// A suspect that has to wait is postponed by an eighth of the time since the crash, within bounds:
/// the suspects of a crash do not all wait for the one that runs for hours by asking every second.
fn decide_run_alone(next: &mut Record, delivered: &DeliveryContext) -> Option<DeliveryDecision> {
    if !next.suspect {
        return None;
    }
    match delivered.alone {
        RunAlone::NotRequested => Some(DeliveryDecision::RequestRunAlone),
        RunAlone::Granted => None,
        RunAlone::Refused => {
            let now = delivered.now;
            let suspected_for = next.interruptions.last().and_then(|last| {
                let elapsed = now.0.signed_duration_since(last.at.0);
                elapsed.to_std().ok()
            });
            let wait = suspected_for.unwrap_or_default() / 8;
            let due = saturating_add(now, wait.clamp(POSTPONED_MIN, POSTPONED_MAX));
            let ended_at = next.finished_at().unwrap_or(now);
            retry_at(next, Reason::Crashed, ended_at, due);
            next.superseded_sequence = Some(delivered.sequence);
            Some(DeliveryDecision::Postpone(Box::new(next.clone()), due))
        }
    }
}

/// What the job's concurrency key means for it. `None` means that the job has a slot, or has no
/// key.
fn decide_slot(
    next: &mut Record,
    envelope: &Envelope,
    delivered: &DeliveryContext,
) -> Option<DeliveryDecision> {
    envelope.concurrency_key.as_ref()?;
    match delivered.slot {
        ConcurrencySlot::NotRequested => Some(DeliveryDecision::AcquireSlot),
        ConcurrencySlot::Acquired => None,
        ConcurrencySlot::Full => {
            let waits = BlockedOn {
                dependencies: Vec::new(),
                concurrency_key: envelope.concurrency_key.clone(),
                since: delivered.now,
                until: None,
                unknown: naq_protocol::UnknownFields::default(),
            };
            block(next, waits, delivered.sequence);
            Some(DeliveryDecision::Block(Box::new(next.clone())))
        }
    }
}

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
/// record is not to be ended by that: it is of another envelope, or the job has ended or may run.
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

/// Fails a running job whose outcome can never be stored, for this reason. Only what is small stays
/// in the record.
#[must_use]
pub fn fail_unrecordable(mut present: Record, why: &str, now: Timestamp) -> Record {
    present.error = Some(format!(
        "the job has ended, but its outcome could not be stored: {why}"
    ));
    present.labels.clear();
    present.warnings.clear();
    present.checkpoint = None;
    present.progress = None;
    finish(&mut present, Outcome::Failed(Reason::Crashed), now);
    present
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::stored_record::with_fields;
    use crate::{AttemptEnd, FinishedAttempt, OnEnd, end_attempt};

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
            has_sequence_id: false,
            worker_id: worker.to_owned(),
            now: at(now),
            max_worker_crashes: 3,
            envelope_digest: "same".to_owned(),
            lease_message_missing: false,
            ended_lease: None,
            cancel_requested: false,
            dependency_statuses: None,
            slot: ConcurrencySlot::NotRequested,
            // a worker that runs one job at a time, unless a test says otherwise
            alone: RunAlone::Granted,
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
        match decide_after_crash(record, envelope, delivered) {
            DeliveryDecision::Run(record) => record,
            other => panic!("not claimed: {other:?}"),
        }
    }

    /// Decides, given that the worker of a lease on the job is gone.
    fn decide_after_crash(
        record: Option<&Record>,
        envelope: &Envelope,
        delivered: &DeliveryContext,
    ) -> DeliveryDecision {
        match decide_delivery(record, envelope, delivered) {
            DeliveryDecision::AskHolder(lease) => decide_delivery(
                record,
                envelope,
                &ended(delivered, lease, LeaseEnd::Crashed),
            ),
            decision => decision,
        }
    }

    fn ended(delivered: &DeliveryContext, lease: Lease, end: LeaseEnd) -> DeliveryContext {
        DeliveryContext {
            ended_lease: Some((lease, end)),
            ..delivered.clone()
        }
    }

    #[test]
    fn job_in_an_unknown_state_is_left_to_a_later_version() {
        let running = claimed(None, &job(0), &delivered(7, "w", 1));
        let record = with_fields(&running, &serde_json::json!({"state": "suspended"}));
        let later = DeliveryContext {
            delivery: 2,
            ..delivered(7, "v", 2)
        };
        assert!(matches!(
            decide_delivery(Some(&record), &job(0), &later),
            DeliveryDecision::Superseded
        ));
    }

    #[test]
    fn first_delivery_claims_the_job() {
        let record = claimed(None, &job(0), &delivered(7, "w", 1));
        assert_eq!((record.state(), record.attempt), (State::Running, 1));
        assert_eq!(record.lease().unwrap().sequence, 7);
    }

    #[test]
    fn another_envelope_under_the_same_id_is_compared_in_every_state() {
        let first = claimed(None, &job(0), &delivered(7, "w", 1));
        let other = DeliveryContext {
            envelope_digest: "other".to_owned(),
            ..delivered(8, "v", 2)
        };
        for state in State::ALL {
            let record = with_fields(&first, &serde_json::json!({"state": state}));
            assert!(matches!(
                decide_delivery(Some(&record), &job(0), &other),
                DeliveryDecision::CompareEnvelopes
            ));
        }
        // A record without a digest comes from an earlier version: the envelopes are not known to differ.
        let mut record = first;
        record.envelope_digest = None;
        assert!(matches!(
            decide_delivery(Some(&record), &job(0), &other),
            DeliveryDecision::DuplicateMessage
        ));
    }

    #[test]
    fn second_message_of_a_running_job_is_a_duplicate() {
        let record = claimed(None, &job(0), &delivered(7, "w", 1));
        assert!(matches!(
            decide_delivery(Some(&record), &job(0), &delivered(8, "v", 2)),
            DeliveryDecision::DuplicateMessage
        ));
    }

    #[test]
    fn lease_whose_message_is_gone_is_taken_over() {
        let first = claimed(None, &job(0), &delivered(7, "w", 1));
        let orphaned = DeliveryContext {
            lease_message_missing: true,
            ..delivered(8, "v", 2)
        };
        let second = claimed(Some(&first), &job(0), &orphaned);
        assert_eq!((second.attempt, second.crashes), (2, 1));
        assert_eq!(second.lease().unwrap().sequence, 8);
    }

    #[test]
    fn delivery_counted_from_one_again_asks_the_holder_of_a_later_delivery() {
        let early = delivered(7, "slow", 1);
        let late = DeliveryContext {
            delivery: 2,
            ..delivered(7, "quick", 2)
        };
        let record = claimed(None, &job(0), &late);
        assert!(matches!(
            decide_delivery(Some(&record), &job(0), &early),
            DeliveryDecision::AskHolder(lease) if lease.worker_id == "quick"
        ));
        let next = claimed(Some(&record), &job(0), &early);
        assert_eq!((next.attempt, next.lease().unwrap().delivery), (2, 1));
    }

    #[test]
    fn fence_grows_by_attempt_whatever_the_clocks_and_the_bucket_do() {
        let first = claimed(None, &job(0), &delivered(7, "ahead", 100));
        let behind = claimed(Some(&first), &job(0), &delivered(7, "behind", 40));
        assert_eq!(behind.fence, first.fence + 1);
        // The record is lost, and the revisions of the bucket start from 1 again.
        let after = claimed(None, &job(0), &delivered(1, "ahead", 101));
        assert!(after.fence > behind.fence);
    }

    #[test]
    fn third_worker_crash_fails_the_job() {
        let envelope = job(0);
        let first = claimed(None, &envelope, &delivered(7, "a", 1));
        let second = claimed(Some(&first), &envelope, &delivered(7, "b", 2));
        let third = claimed(Some(&second), &envelope, &delivered(7, "c", 3));
        assert_eq!((third.attempt, third.crashes), (3, 2));
        let DeliveryDecision::End(record) =
            decide_after_crash(Some(&third), &envelope, &delivered(7, "d", 4))
        else {
            panic!("the job has not ended");
        };
        assert_eq!(
            (record.state(), record.reason()),
            (State::Failed, Some(Reason::Crashed))
        );
        let workers: Vec<_> = record
            .interruptions
            .iter()
            .map(|one| (one.worker_id.as_str(), one.at, one.crashed))
            .collect();
        assert_eq!(
            workers,
            [("a", at(2), true), ("b", at(3), true), ("c", at(4), true)]
        );
    }

    /// A delivery to a worker that runs other jobs too.
    fn shared(sequence: u64, worker: &str, now: i64) -> DeliveryContext {
        DeliveryContext {
            alone: RunAlone::NotRequested,
            ..delivered(sequence, worker, now)
        }
    }

    /// A job whose worker, which ran other jobs too, has crashed, as the next worker gets it.
    fn suspect() -> (Box<Record>, DeliveryContext) {
        let running = claimed(None, &job(0), &shared(7, "a", 1));
        let again = shared(7, "b", 2);
        let lease = running.lease().unwrap().clone();
        (running, ended(&again, lease, LeaseEnd::Crashed))
    }

    fn granted(delivered: &DeliveryContext, alone: RunAlone) -> DeliveryContext {
        DeliveryContext {
            alone,
            ..delivered.clone()
        }
    }

    #[test]
    fn crash_that_other_jobs_may_have_caused_makes_a_suspect_and_counts_nothing() {
        let envelope = job(0);
        let (running, again) = suspect();
        assert!(matches!(
            decide_delivery(Some(&running), &envelope, &again),
            DeliveryDecision::RequestRunAlone
        ));
        let alone = granted(&again, RunAlone::Granted);
        let mut record = claimed(Some(&running), &envelope, &alone);
        assert!(record.suspect && record.lease().unwrap().alone);
        assert_eq!((record.crashes, record.shared_crashes), (0, 1));
        let crash = &record.interruptions[0];
        assert!(crash.crashed && crash.shared);
        // From then on each crash counts, and none uses up a retry.
        for (crashes, worker) in [(1, "c"), (2, "d")] {
            record = claimed(Some(&record), &envelope, &delivered(7, worker, 3));
            assert_eq!((record.crashes, record.shared_crashes), (crashes, 1));
        }
        let DeliveryDecision::End(record) =
            decide_after_crash(Some(&record), &envelope, &shared(7, "e", 4))
        else {
            panic!("the job has not ended");
        };
        assert_eq!(record.reason(), Some(Reason::Crashed));
        assert_eq!((record.attempt, record.crashes), (4, 3));
        assert!(!record.suspect, "the matter is settled");
    }

    #[test]
    fn suspect_that_cannot_run_alone_is_postponed() {
        let envelope = job(0);
        let (running, again) = suspect();
        let mut refused = granted(&again, RunAlone::Refused);
        let DeliveryDecision::Postpone(record, due) =
            decide_delivery(Some(&running), &envelope, &refused)
        else {
            panic!("not postponed");
        };
        assert_eq!((record.state(), due), (State::Retrying, at(4)));
        assert_eq!(record.superseded_sequence, Some(7));
        assert_eq!((record.attempt, record.shared_crashes), (1, 1));
        // The longer it waits, the less often it is tried.
        for (now, wait) in [(10, 2), (82, 10), (2_000, 30)] {
            refused.now = at(now);
            let DeliveryDecision::Postpone(_, due) =
                decide_delivery(Some(&record), &envelope, &refused)
            else {
                panic!("not postponed");
            };
            assert_eq!(due, at(now + wait));
        }
        let alone = granted(&refused, RunAlone::Granted);
        let next = claimed(Some(&record), &envelope, &alone);
        assert_eq!((next.attempt, next.crashes, next.shared_crashes), (2, 0, 1));
    }

    #[test]
    fn ordinary_end_clears_the_suspicion() {
        let envelope = job(3);
        for end in [
            AttemptEnd::Exited(0),
            AttemptEnd::Exited(1),
            AttemptEnd::Signalled(9),
            AttemptEnd::TimedOut,
        ] {
            let (running, again) = suspect();
            let alone = claimed(
                Some(&running),
                &envelope,
                &granted(&again, RunAlone::Granted),
            );
            match end_attempt(alone, &envelope, &attempt(end, 3)) {
                OnEnd::Finish { record, .. } => assert!(!record.suspect),
                OnEnd::Retry { record, .. } => {
                    assert!(!record.suspect);
                    let next = claimed(Some(&record), &envelope, &shared(9, "b", 90_000));
                    assert!(!next.lease().unwrap().alone);
                }
                OnEnd::Requeue { .. } => panic!("requeued"),
            }
        }
        // A drain says nothing about the job.
        let (running, again) = suspect();
        let alone = claimed(
            Some(&running),
            &envelope,
            &granted(&again, RunAlone::Granted),
        );
        let OnEnd::Requeue { record } =
            end_attempt(alone, &envelope, &attempt(AttemptEnd::Drained, 3))
        else {
            panic!("not requeued");
        };
        assert!(record.suspect);
    }

    #[test]
    fn death_of_a_spawner_counts_for_the_only_job_that_it_ran() {
        let envelope = job(0);
        for (alone, crashes, shared_crashes) in [(true, 1, 0), (false, 0, 1)] {
            let running = claimed(None, &envelope, &shared(7, "a", 1));
            let died = attempt(AttemptEnd::SpawnerDied { alone }, 2);
            let OnEnd::Requeue { record } = end_attempt(running, &envelope, &died) else {
                panic!("not requeued");
            };
            assert_eq!(
                (record.crashes, record.shared_crashes, record.suspect),
                (crashes, shared_crashes, !alone)
            );
        }
    }

    /// Its lease does not say whether the job ran alone: an earlier version did not record that.
    #[test]
    fn first_crash_under_a_lease_of_an_earlier_version_is_not_counted() {
        let running = claimed(None, &job(0), &delivered(7, "w", 1));
        let mut json = serde_json::to_value(&*running).unwrap();
        json["lease"].as_object_mut().unwrap().remove("alone");
        let record: Record = serde_json::from_value(json).unwrap();
        let next = claimed(Some(&record), &job(0), &delivered(7, "v", 2));
        assert_eq!((next.crashes, next.shared_crashes), (0, 1));
    }

    #[test]
    fn place_of_a_message_in_another_stream_is_not_its_identity() {
        let mut first = delivered(7, "w", 1);
        first.has_sequence_id = true;
        let mut record = claimed(None, &job(0), &first);
        finish(&mut record, Outcome::Succeeded, at(2));
        let mut other = first.clone();
        other.enqueue_time = at(5);
        assert!(matches!(
            decide_delivery(Some(&record), &job(0), &other),
            DeliveryDecision::ChangeId
        ));
        // its own redelivery is recognized
        assert!(matches!(
            decide_delivery(Some(&record), &job(0), &first),
            DeliveryDecision::AlreadyFinished
        ));
        // and so is another message of a producer's own id
        other.has_sequence_id = false;
        assert!(matches!(
            decide_delivery(Some(&record), &job(0), &other),
            DeliveryDecision::AlreadyFinished
        ));
    }

    #[test]
    fn redelivery_of_a_running_job_asks_its_holder_first() {
        let envelope = job(0);
        let first = claimed(None, &envelope, &delivered(7, "a", 1));
        let again = DeliveryContext {
            delivery: 2,
            ..delivered(7, "b", 2)
        };
        let DeliveryDecision::AskHolder(lease) = decide_delivery(Some(&first), &envelope, &again)
        else {
            panic!("the holder is not asked");
        };
        assert_eq!(Some(&lease), first.lease());
        // An answer about another lease says nothing about this one.
        let other = Lease {
            worker_id: "c".to_owned(),
            ..lease
        };
        assert!(matches!(
            decide_delivery(
                Some(&first),
                &envelope,
                &ended(&again, other, LeaseEnd::Released)
            ),
            DeliveryDecision::AskHolder(_)
        ));
    }

    #[test]
    fn lease_given_up_in_an_outage_is_no_crash_and_uses_up_no_retry() {
        let envelope = job(1);
        let mut record = claimed(None, &envelope, &delivered(7, "a", 1));
        for outage in 1..=5 {
            let again = delivered(7, "a", outage);
            let lease = record.lease().unwrap().clone();
            let again = ended(&again, lease, LeaseEnd::Released);
            record = claimed(Some(&record), &envelope, &again);
        }
        assert_eq!(
            (record.attempt, record.crashes, record.lost_leases),
            (6, 0, 5)
        );
        assert!(record.interruptions.iter().all(|one| !one.crashed));
        assert!(matches!(
            end_attempt(record, &envelope, &attempt(AttemptEnd::Exited(1), 9)),
            OnEnd::Retry { .. }
        ));
    }

    #[test]
    fn interruptions_on_a_record_are_bounded() {
        let envelope = job(0);
        let mut record = claimed(None, &envelope, &delivered(7, "a", 1));
        for outage in 1..100 {
            let lease = record.lease().unwrap().clone();
            let again = ended(&delivered(7, "a", outage), lease, LeaseEnd::Released);
            record = claimed(Some(&record), &envelope, &again);
        }
        assert_eq!(record.interruptions.len(), naq_protocol::INTERRUPTIONS_MAX);
        assert_eq!(record.interruptions.last().unwrap().at, at(99));
    }

    #[test]
    fn worker_crash_uses_up_no_retry() {
        let envelope = job(1);
        let first = claimed(None, &envelope, &delivered(7, "a", 1));
        let second = claimed(Some(&first), &envelope, &delivered(7, "b", 2));
        let OnEnd::Retry { record, .. } =
            end_attempt(second, &envelope, &attempt(AttemptEnd::Exited(1), 3))
        else {
            panic!("not retried");
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
    fn drained_attempt_does_not_count() {
        let envelope = job(0);
        let running = claimed(None, &envelope, &delivered(7, "a", 1));
        let OnEnd::Requeue { record } =
            end_attempt(running, &envelope, &attempt(AttemptEnd::Drained, 2))
        else {
            panic!("not requeued");
        };
        assert_eq!((record.state(), record.attempt), (State::Queued, 0));
        assert_eq!(
            claimed(Some(&record), &envelope, &delivered(7, "b", 3)).attempt,
            1
        );
    }

    #[test]
    fn retry_delivered_early_is_delayed_again() {
        let mut envelope = job(1);
        envelope.retry_delay = Some(naq_protocol::RetryDelay::Single(
            naq_protocol::units::WireDuration::from_secs(60),
        ));
        let running = claimed(None, &envelope, &delivered(7, "a", 1));
        let OnEnd::Retry { record, due } =
            end_attempt(running, &envelope, &attempt(AttemptEnd::Exited(1), 2))
        else {
            panic!("not retried");
        };
        assert_eq!(due, at(62));
        assert!(matches!(
            decide_delivery(Some(&record), &envelope, &delivered(9, "a", 30)),
            DeliveryDecision::DelayUntil(until) if until == due
        ));
    }

    #[test]
    fn expired_job_does_not_start() {
        let mut envelope = job(0);
        envelope.expires_at = Some(at(5));
        assert!(matches!(
            decide_delivery(None, &envelope, &delivered(7, "a", 5)),
            DeliveryDecision::End(record) if record.state() == State::Expired
        ));
    }

    #[test]
    fn dependencies_are_resolved_before_the_job_is_blocked_or_runs() {
        let mut envelope = job(0);
        envelope.depends_on = vec![Dependency {
            job: JobId::new("first").unwrap(),
            on: naq_protocol::DependencyCondition::Success,
        }];
        let mut context = delivered(7, "w", 1);
        let DeliveryDecision::ResolveDependencies(open) =
            decide_delivery(None, &envelope, &context)
        else {
            panic!("the dependencies were not resolved");
        };
        context.dependency_statuses = Some(vec![(open[0].clone(), DependencyStatus::Missing)]);
        let DeliveryDecision::Block(blocked) = decide_delivery(None, &envelope, &context) else {
            panic!("not blocked");
        };
        assert_eq!(blocked.state(), State::Waiting);
        let waits = blocked.waits().cloned().unwrap();
        assert_eq!(waits.until, Some(at(1 + 24 * 3_600)));
        // A dependency that was enqueued since is not missing, so nothing limits the wait.
        context.dependency_statuses = Some(vec![(open[0].clone(), DependencyStatus::Active)]);
        context.now = at(1 + 24 * 3_600);
        let DeliveryDecision::Block(blocked) = decide_delivery(Some(&blocked), &envelope, &context)
        else {
            panic!("not blocked");
        };
        assert_eq!(blocked.waits().unwrap().until, None);
        context.dependency_statuses = Some(vec![(
            open[0].clone(),
            DependencyStatus::Finished(State::Succeeded),
        )]);
        let record = claimed(Some(&blocked), &envelope, &context);
        assert!(record.dependencies_met && record.waits().is_none());
    }

    #[test]
    fn claim_replaces_a_placeholder_and_keeps_its_dependents() {
        let placeholder = Record::placeholder(
            JobId::new("j").unwrap(),
            QueueName::new("other").unwrap(),
            at(0),
            at(100),
        );
        let record = claimed(Some(&placeholder), &job(0), &delivered(7, "w", 1));
        assert!(record.has_dependents && !record.placeholder);
        assert_eq!(record.queue.as_str(), "q");
    }

    #[test]
    fn job_without_a_slot_is_blocked() {
        let mut envelope = job(0);
        envelope.concurrency_key = Some("k".to_owned());
        let mut context = delivered(7, "w", 1);
        assert!(matches!(
            decide_delivery(None, &envelope, &context),
            DeliveryDecision::AcquireSlot
        ));
        context.slot = ConcurrencySlot::Full;
        assert!(matches!(
            decide_delivery(None, &envelope, &context),
            DeliveryDecision::Block(record) if record.state() == State::Waiting
        ));
        context.slot = ConcurrencySlot::Acquired;
        assert_eq!(claimed(None, &envelope, &context).state(), State::Running);
    }
}
