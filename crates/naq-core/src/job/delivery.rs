//! What a delivered message means for its job: run it, block it, drop the message, or end the job.

use std::time::Duration;

use super::dependency::{DependencyStatus, Evaluation, evaluate};
use super::takeover::LeaseEnd;
use super::transition::{Interrupted, block, finish, interrupt, retry_at, saturating_add, start};
use naq_protocol::{
    BlockedOn, Dependency, Envelope, JobId, Lease, Outcome, Phase, QueueName, Reason, Record,
    State, Timestamp,
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
    /// Whether the worker already runs as many jobs as it may, and claims the job to start it next.
    pub claimed_ahead: bool,
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
    /// The job has not requested it.
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
    /// The bytes differ from those that the record has the digest of. If both are equivalent, decide
    /// again with the digest of these bytes in the record. Otherwise the id belongs to the other envelope.
    CompareEnvelopes,
    /// The record is of a job whose message had the same sequence in an earlier stream of the queue.
    /// Decide again under another id.
    ChangeId,
    /// Look up the states of these jobs, and decide again.
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
    // A suspect runs alone, and is not claimed before it can.
    let claimed_ahead = delivered.claimed_ahead && !next.suspect;
    let lease = Lease {
        worker_id: delivered.worker_id.clone(),
        sequence: delivered.sequence,
        delivery: delivered.delivery,
        alone: delivered.alone == RunAlone::Granted && !claimed_ahead,
        claimed_ahead,
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
    let traceparent = envelope.traceparent.as_ref();
    record.traceparent = traceparent.or(delivered.traceparent.as_ref()).cloned();
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
    // The delivery count decides nothing: a consumer that was recreated counts from 1,
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
            "its worker or spawner process crashed {} times while it ran, the last time on worker {}",
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

/// What to do with a suspect. `None` means that the job is not one, or may run alone.
///
/// A suspect that has to wait is postponed by an eighth of the time since the crash, within bounds: if
/// one suspect runs for hours, the others do not ask every second.
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

#[cfg(test)]
mod tests;
