//! Jobs that cannot begin yet: put aside until what they wait for has ended, and released.
//!
//! A job that waits has a record with its envelope and no message. Whoever ends what it waits
//! for puts it back into its queue; what comes back is decided upon anew, so releasing once too
//! often does no harm.

use std::collections::HashSet;

use futures_util::{FutureExt, StreamExt, stream};

use super::attempt::{
    AttemptContext, Done, Slot, acknowledge, delivery_context, execute, retry_while_leased,
};
use super::lease::MessageLease;
use super::record_outcome::attach_envelope;
use super::{attempt, now};
use naq_core::{ConcurrencySlot, DEPENDENCY_TIMEOUT_DEFAULT, DeliveryContext, DependencyStatus};
use naq_jetstream::{BrokerError, Delivery, SlotHolder, failpoint};
use naq_protocol::{Dependency, Envelope, JobId, Record, State};

/// How many records are read at once.
const CONCURRENT_READS_MAX: usize = 64;

/// How many records a search for a circle reads at the most.
const CYCLE_READS_MAX: usize = 10_000;

/// What became of an attempt to put a job aside.
pub(super) enum BlockOutcome {
    /// It waits: its message may go.
    Blocked,
    /// Something it waits for has ended meanwhile: decide again.
    Reevaluate,
}

/// Looks up what became of the jobs that one waits for.
pub(super) async fn resolve_dependencies(
    context: &AttemptContext,
    lease: &MessageLease,
    job: &JobId,
    open: Vec<Dependency>,
    is_late: bool,
) -> Result<Vec<(Dependency, DependencyStatus)>, BrokerError> {
    stream::iter(open)
        .map(|dependency| {
            async move {
                let looking = || dependency_status(context, job, &dependency.job, is_late);
                let dependency_status = retry_while_leased(lease, looking).await?;
                Ok((dependency, dependency_status))
            }
            .boxed()
        })
        .buffered(CONCURRENT_READS_MAX)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect()
}

async fn dependency_status(
    context: &AttemptContext,
    job: &JobId,
    dependency: &JobId,
    is_late: bool,
) -> Result<DependencyStatus, BrokerError> {
    let (record, _) = context.broker.read_record(dependency).await?;
    let Some(record) = record.filter(|record| !record.placeholder) else {
        if is_late && context.broker.find_message(dependency).await?.is_some() {
            return Ok(DependencyStatus::Queued);
        }
        return Ok(DependencyStatus::Missing);
    };
    if record.state.is_terminal() {
        return Ok(DependencyStatus::Finished(record.state));
    }
    if is_late && depends_on(context, record, job).await? {
        return Ok(DependencyStatus::Circular);
    }
    Ok(DependencyStatus::Active)
}

/// Whether a job waits, over whatever others, for another.
async fn depends_on(
    context: &AttemptContext,
    record: Record,
    job: &JobId,
) -> Result<bool, BrokerError> {
    let mut seen = HashSet::new();
    let mut next: Vec<JobId> = awaited_jobs(record);
    while let Some(one) = next.pop() {
        if one == *job {
            return Ok(true);
        }
        if seen.len() >= CYCLE_READS_MAX || !seen.insert(one.clone()) {
            continue;
        }
        if let (Some(record), _) = context.broker.read_record(&one).await? {
            next.extend(awaited_jobs(record));
        }
    }
    Ok(false)
}

fn awaited_jobs(record: Record) -> Vec<JobId> {
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
pub(super) async fn acquire_slot(
    context: &AttemptContext,
    lease: &MessageLease,
    envelope: &Envelope,
    delivery_context: &DeliveryContext,
) -> Result<ConcurrencySlot, BrokerError> {
    let Some(key) = &envelope.concurrency_key else {
        return Ok(ConcurrencySlot::Acquired);
    };
    let holder = SlotHolder {
        job: delivery_context.job_id.clone(),
        queue: delivery_context.queue.clone(),
        sequence: delivery_context.sequence,
    };
    let taken = retry_while_leased(lease, || {
        context
            .broker
            .acquire_slot(key, slots_max(envelope), &holder)
    })
    .await?;
    Ok(if taken {
        ConcurrencySlot::Acquired
    } else {
        ConcurrencySlot::Full
    })
}

fn slots_max(envelope: &Envelope) -> u32 {
    envelope.concurrency_max.unwrap_or(1)
}

/// Puts a job aside. Keys by which it is found come before what makes others look for them, and
/// after all of it one look whether it was in vain: so no end is missed.
pub(super) async fn block(
    context: &AttemptContext,
    lease: &MessageLease,
    delivery: &Delivery,
    envelope: &Envelope,
    mut record: Box<Record>,
    revision: u64,
) -> Result<BlockOutcome, BrokerError> {
    let Some(waits) = record.waits.clone() else {
        return Ok(BlockOutcome::Reevaluate);
    };
    attach_envelope(context, &mut record, delivery).await;
    let broker = &context.broker;
    let job = record.job_id.clone();
    if !waits.dependencies.is_empty() {
        retry_while_leased(lease, || {
            broker.index_dependencies(&job, &waits.dependencies)
        })
        .await?;
        failpoint("block.indexed");
    }
    match retry_while_leased(lease, || broker.write_record(&record, revision, None)).await {
        Ok(_) => failpoint("block.written"),
        Err(BrokerError::Conflict) => return Ok(BlockOutcome::Reevaluate),
        Err(error) => return Err(error),
    }
    let must_reevaluate = if let Some(key) = &waits.concurrency_key {
        retry_while_leased(lease, || broker.index_slot_waiter(key, &job)).await?;
        retry_while_leased(lease, || broker.has_free_slot(key, slots_max(envelope))).await?
    } else {
        let timeout = envelope
            .dependency_timeout
            .map_or(DEPENDENCY_TIMEOUT_DEFAULT, |span| span.0);
        retry_while_leased(lease, || {
            broker.mark_awaited(&waits.dependencies, &record.queue, now(), timeout)
        })
        .await?
    };
    failpoint("block.marked");
    if must_reevaluate {
        return Ok(BlockOutcome::Reevaluate);
    }
    let recheck_at = [waits.until, envelope.expires_at]
        .into_iter()
        .flatten()
        .min();
    if let Some(at) = recheck_at {
        retry_while_leased(lease, || broker.schedule_recheck(&record.queue, &job, at)).await?;
        failpoint("block.recheck_scheduled");
        // released and gone on meanwhile: whoever did so found no bell to take away yet
        let (now, _) = retry_while_leased(lease, || broker.read_record(&job)).await?;
        if now.is_none_or(|record| record.state != State::Waiting) {
            retry_while_leased(lease, || broker.cancel_recheck(&record.queue, &job)).await?;
        }
    }
    tracing::debug!(%job, "waits");
    Ok(BlockOutcome::Blocked)
}

/// A job that waited runs: removes what was put down of its wait. What stays behind for want of
/// an answer does no harm.
pub(super) async fn remove_wait_keys(
    context: &AttemptContext,
    envelope: &Envelope,
    before: Option<&Record>,
) {
    let Some(before) = before.filter(|record| record.state == State::Waiting) else {
        return;
    };
    let waited_for_slot = before
        .waits
        .as_ref()
        .is_some_and(|waits| waits.concurrency_key.is_some());
    if waited_for_slot && let Some(key) = &envelope.concurrency_key {
        let _ = context.broker.remove_slot_waiter(key, &before.job_id).await;
    }
}

/// A job has ended, or does not run for a while: releases who waits for it, gives back its slot,
/// and forgets what it waited for itself.
pub(super) async fn release(
    context: &AttemptContext,
    lease: &MessageLease,
    record: &Record,
    envelope: Option<&Envelope>,
) -> Result<(), BrokerError> {
    let has_waited = envelope.is_some_and(|envelope| {
        !envelope.depends_on.is_empty() || envelope.concurrency_key.is_some()
    });
    // most jobs have nothing to do with others
    if !record.has_dependents && !has_waited {
        return Ok(());
    }
    Box::pin(release_all(context, lease, record, envelope)).await
}

async fn release_all(
    context: &AttemptContext,
    lease: &MessageLease,
    record: &Record,
    envelope: Option<&Envelope>,
) -> Result<(), BrokerError> {
    let broker = &context.broker;
    if record.has_dependents && record.state.is_terminal() {
        retry_while_leased(lease, || {
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
        retry_while_leased(lease, || {
            broker.remove_dependency_index(&record.job_id, &envelope.depends_on)
        })
        .await?;
    }
    if let Some(key) = &envelope.concurrency_key {
        if record.state.is_terminal() && record.attempt == 0 {
            retry_while_leased(lease, || broker.remove_slot_waiter(key, &record.job_id)).await?;
        }
        retry_while_leased(lease, || broker.release_slot(key, &record.job_id)).await?;
    }
    Ok(())
}

/// Looks at a waiting job whose time has come: what it waits for may be missing, or it may have
/// expired.
pub(super) async fn recheck(
    context: &AttemptContext,
    lease: &MessageLease,
    delivery: &Delivery,
    slot: &mut Slot<'_>,
) -> (JobId, Done) {
    let (job_id, _) = attempt::resolve_job_id(delivery, None);
    lease.set_job_id(&job_id);
    let done = match recheck_blocked(context, lease, delivery, &job_id, slot).await {
        Ok(done) => done,
        Err(error) => {
            tracing::warn!(%job_id, "a waiting job could not be looked at: {error}");
            Done::LeaseLost
        }
    };
    (job_id, done)
}

async fn recheck_blocked(
    context: &AttemptContext,
    lease: &MessageLease,
    delivery: &Delivery,
    job_id: &JobId,
    slot: &mut Slot<'_>,
) -> Result<Done, BrokerError> {
    let broker = &context.broker;
    let (record, _) = retry_while_leased(lease, || broker.read_record(job_id)).await?;
    let Some(record) = record.filter(|record| record.state == State::Waiting) else {
        return Ok(acknowledge(lease, Done::NothingToRun).await);
    };
    let payload = match (&record.envelope, &record.envelope_object) {
        (Some(envelope), _) => envelope.get().as_bytes().to_vec(),
        (None, Some(object)) => retry_while_leased(lease, || broker.get_object(object)).await?,
        (None, None) => Vec::new(),
    };
    let Ok(envelope) = Envelope::parse(&payload) else {
        return Err(BrokerError::InvalidData(
            "its record has no envelope that can be read".to_owned(),
        ));
    };
    let delivery = delivery.with_payload(payload.into());
    let mut delivery_context = delivery_context(context, &delivery, job_id.clone());
    delivery_context.enqueue_time = record.enqueue_time;
    Ok(execute(context, lease, &delivery, &envelope, delivery_context, slot).await)
}
