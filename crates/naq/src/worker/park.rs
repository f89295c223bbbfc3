//! Jobs that cannot begin yet: put aside until what they wait for has ended, and released.
//!
//! A job that waits has a record with its envelope and no message. Whoever ends what it waits
//! for puts it back into its queue; what comes back is decided upon anew, so releasing once too
//! often does no harm.

use std::collections::HashSet;

use futures_util::{FutureExt, StreamExt, stream};

use super::attempt::{AttemptContext, Done, Slot, acknowledge, execute, facts, persist};
use super::hold::Hold;
use super::outcome::attach_envelope;
use super::{attempt, now};
use naq_core::{DEPENDENCY_TIMEOUT, Delivered, KeySlot, Prospect};
use naq_jetstream::{BrokerError, Delivery, Holder, step};
use naq_protocol::{Dependency, Envelope, JobId, Record, State};

/// How many records are read at once.
const READS_AT_ONCE: usize = 64;

/// How many records a search for a circle reads at the most.
const CIRCLE_READS_MAX: usize = 10_000;

/// What became of an attempt to put a job aside.
pub(super) enum Parked {
    /// It waits: its message may go.
    Waits,
    /// Something it waits for has ended meanwhile: decide again.
    LookAgain,
}

/// Looks up what became of the jobs that one waits for.
pub(super) async fn look(
    context: &AttemptContext,
    hold: &Hold,
    job: &JobId,
    open: Vec<Dependency>,
    is_late: bool,
) -> Result<Vec<(Dependency, Prospect)>, BrokerError> {
    stream::iter(open)
        .map(|dependency| {
            async move {
                let looking = || prospect(context, job, &dependency.job, is_late);
                let prospect = persist(hold, looking).await?;
                Ok((dependency, prospect))
            }
            .boxed()
        })
        .buffered(READS_AT_ONCE)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect()
}

async fn prospect(
    context: &AttemptContext,
    job: &JobId,
    dependency: &JobId,
    is_late: bool,
) -> Result<Prospect, BrokerError> {
    let (record, _) = context.broker.read_record(dependency).await?;
    let Some(record) = record.filter(|record| !record.placeholder) else {
        if is_late && context.broker.find_message(dependency).await?.is_some() {
            return Ok(Prospect::Queued);
        }
        return Ok(Prospect::Missing);
    };
    if record.state.is_terminal() {
        return Ok(Prospect::Ended(record.state));
    }
    if is_late && waits_for(context, record, job).await? {
        return Ok(Prospect::Circular);
    }
    Ok(Prospect::Alive)
}

/// Whether a job waits, over whatever others, for another.
async fn waits_for(
    context: &AttemptContext,
    record: Record,
    job: &JobId,
) -> Result<bool, BrokerError> {
    let mut seen = HashSet::new();
    let mut next: Vec<JobId> = awaited(record);
    while let Some(one) = next.pop() {
        if one == *job {
            return Ok(true);
        }
        if seen.len() >= CIRCLE_READS_MAX || !seen.insert(one.clone()) {
            continue;
        }
        if let (Some(record), _) = context.broker.read_record(&one).await? {
            next.extend(awaited(record));
        }
    }
    Ok(false)
}

fn awaited(record: Record) -> Vec<JobId> {
    match (record.state, record.waits) {
        (State::Waiting, Some(waits)) => waits
            .dependencies
            .into_iter()
            .map(|dependency| dependency.job)
            .collect(),
        _ => Vec::new(),
    }
}

/// Asks for a slot of the job's concurrency key.
pub(super) async fn take_slot(
    context: &AttemptContext,
    hold: &Hold,
    envelope: &Envelope,
    facts: &Delivered,
) -> Result<KeySlot, BrokerError> {
    let Some(key) = &envelope.concurrency_key else {
        return Ok(KeySlot::Taken);
    };
    let holder = Holder {
        job: facts.job_id.clone(),
        queue: facts.queue.clone(),
        sequence: facts.sequence,
    };
    let taken = persist(hold, || {
        context.broker.take_slot(key, slots_max(envelope), &holder)
    })
    .await?;
    Ok(if taken { KeySlot::Taken } else { KeySlot::Full })
}

fn slots_max(envelope: &Envelope) -> u32 {
    envelope.concurrency_max.unwrap_or(1)
}

/// Puts a job aside. Keys by which it is found come before what makes others look for them, and
/// after all of it one look whether it was in vain: so no end is missed.
pub(super) async fn park(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    envelope: &Envelope,
    mut record: Box<Record>,
    revision: u64,
) -> Result<Parked, BrokerError> {
    let Some(waits) = record.waits.clone() else {
        return Ok(Parked::LookAgain);
    };
    attach_envelope(context, &mut record, delivery).await;
    let broker = &context.broker;
    let job = record.job_id.clone();
    if !waits.dependencies.is_empty() {
        persist(hold, || {
            broker.index_dependencies(&job, &waits.dependencies)
        })
        .await?;
        step("park.indexed");
    }
    match persist(hold, || broker.write_record(&record, revision, None)).await {
        Ok(_) => step("park.written"),
        Err(BrokerError::Conflict) => return Ok(Parked::LookAgain),
        Err(error) => return Err(error),
    }
    let in_vain = if let Some(key) = &waits.concurrency_key {
        persist(hold, || broker.index_slot_waiter(key, &job)).await?;
        persist(hold, || broker.has_free_slot(key, slots_max(envelope))).await?
    } else {
        let timeout = envelope
            .dependency_timeout
            .map_or(DEPENDENCY_TIMEOUT, |span| span.0);
        persist(hold, || {
            broker.mark_awaited(&waits.dependencies, &record.queue, now(), timeout)
        })
        .await?
    };
    step("park.marked");
    if in_vain {
        return Ok(Parked::LookAgain);
    }
    let wake_at = [waits.until, envelope.expires_at]
        .into_iter()
        .flatten()
        .min();
    if let Some(at) = wake_at {
        persist(hold, || broker.arm_wake(&record.queue, &job, at)).await?;
        step("park.armed");
        // released and gone on meanwhile: whoever did so found no bell to take away yet
        let (now, _) = persist(hold, || broker.read_record(&job)).await?;
        if now.is_none_or(|record| record.state != State::Waiting) {
            persist(hold, || broker.disarm_wake(&record.queue, &job)).await?;
        }
    }
    tracing::debug!(%job, "waits");
    Ok(Parked::Waits)
}

/// A job that waited runs: removes what was put down of its wait. What stays behind for want of
/// an answer does no harm.
pub(super) async fn forget(context: &AttemptContext, envelope: &Envelope, before: Option<&Record>) {
    let Some(before) = before.filter(|record| record.state == State::Waiting) else {
        return;
    };
    let waited_for_slot = before
        .waits
        .as_ref()
        .is_some_and(|waits| waits.concurrency_key.is_some());
    if waited_for_slot && let Some(key) = &envelope.concurrency_key {
        let _ = context.broker.forget_slot_waiter(key, &before.job_id).await;
    }
}

/// A job has ended, or does not run for a while: releases who waits for it, gives back its slot,
/// and forgets what it waited for itself.
pub(super) async fn release(
    context: &AttemptContext,
    hold: &Hold,
    record: &Record,
    envelope: Option<&Envelope>,
) -> Result<(), BrokerError> {
    let has_waited = envelope.is_some_and(|envelope| {
        !envelope.depends_on.is_empty() || envelope.concurrency_key.is_some()
    });
    // most jobs have nothing to do with others
    if !record.dependents && !has_waited {
        return Ok(());
    }
    Box::pin(release_all(context, hold, record, envelope)).await
}

async fn release_all(
    context: &AttemptContext,
    hold: &Hold,
    record: &Record,
    envelope: Option<&Envelope>,
) -> Result<(), BrokerError> {
    let broker = &context.broker;
    if record.dependents && record.state.is_terminal() {
        persist(hold, || {
            broker.release_dependents(&record.job_id, record.state)
        })
        .await?;
    }
    let Some(envelope) = envelope else {
        return Ok(());
    };
    let gave_up_waiting =
        record.state.is_terminal() && !record.dependencies_met && !envelope.depends_on.is_empty();
    if gave_up_waiting {
        persist(hold, || {
            broker.forget_dependencies(&record.job_id, &envelope.depends_on)
        })
        .await?;
    }
    if let Some(key) = &envelope.concurrency_key {
        if record.state.is_terminal() && record.attempt == 0 {
            persist(hold, || broker.forget_slot_waiter(key, &record.job_id)).await?;
        }
        persist(hold, || broker.give_slot(key, &record.job_id)).await?;
    }
    Ok(())
}

/// Looks at a waiting job whose time has come: what it waits for may be missing, or it may have
/// expired.
pub(super) async fn wake(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    slot: &mut Slot<'_>,
) -> (JobId, Done) {
    let (job_id, _) = attempt::name_job(delivery, None);
    hold.set_job_id(&job_id);
    let done = match wake_waiting(context, hold, delivery, &job_id, slot).await {
        Ok(done) => done,
        Err(error) => {
            tracing::warn!(%job_id, "a waiting job could not be looked at: {error}");
            Done::Lost
        }
    };
    (job_id, done)
}

async fn wake_waiting(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    job_id: &JobId,
    slot: &mut Slot<'_>,
) -> Result<Done, BrokerError> {
    let broker = &context.broker;
    let (record, _) = persist(hold, || broker.read_record(job_id)).await?;
    let Some(record) = record.filter(|record| record.state == State::Waiting) else {
        return Ok(acknowledge(hold, Done::Absorbed).await);
    };
    let payload = match (&record.envelope, &record.envelope_object) {
        (Some(envelope), _) => envelope.get().as_bytes().to_vec(),
        (None, Some(object)) => persist(hold, || broker.get_object(object)).await?,
        (None, None) => Vec::new(),
    };
    let Ok(envelope) = Envelope::parse(&payload) else {
        return Err(BrokerError::Unreadable(
            "its record has no envelope that can be read".to_owned(),
        ));
    };
    let delivery = delivery.with_payload(payload.into());
    let mut facts = facts(context, &delivery, job_id.clone());
    facts.enqueue_time = record.enqueue_time;
    Ok(execute(context, hold, &delivery, &envelope, facts, slot).await)
}
