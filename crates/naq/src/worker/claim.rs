//! Claiming a job: what its delivery means beside its record, and what that asks for before the
//! claim is written.

use futures_util::FutureExt;
use tokio::time::Instant;

use super::attempt::{
    AttemptContext, Done, RETRY_BACKOFF, acknowledge, delayed_job, keep_dead_letter,
    reject_envelope, retry_while_leased,
};
use super::lease::MessageLease;
use super::routing::{RecordSnapshot, reroute_by_labels};
use super::{blocked, now};
use naq_core::{ConcurrencySlot, DeliveryContext, DeliveryDecision, decide_delivery};
use naq_jetstream::{BrokerError, Delivery, NewJob, failpoint};
use naq_protocol::{Envelope, EnvelopeError, JobId, Record, RejectReason, State, Timestamp};
use naq_runner::StopReason;

/// What came of trying to claim a job.
pub(super) enum Claim {
    /// It is this worker's, under this revision of its record.
    Claimed(Box<Record>, u64),
    /// It ends without being run.
    Finished(Box<Record>, u64),
    /// There is nothing more to do.
    Done(Done),
}

pub(super) async fn claim(
    context: &AttemptContext,
    lease: &MessageLease,
    delivery: &Delivery,
    envelope: &Envelope,
    delivery_context: &mut DeliveryContext,
) -> Claim {
    let is_ours_to_run = naq_core::has_required_labels(&context.options.labels, &envelope.requires)
        && !may_be_rerouted(context, delivery, envelope);
    // a first delivery has no record yet, as a rule: claiming without looking saves a round trip
    let may_have_waited = !envelope.depends_on.is_empty() || envelope.concurrency_key.is_some();
    let mut known: Option<(Option<Box<Record>>, u64)> =
        (delivery.delivery == 1 && !may_have_waited && is_ours_to_run).then_some((None, 0));
    let mut gone_at: Option<u64> = None;
    // when the claims began that were sent from here and not answered as written
    let mut unanswered: Vec<Timestamp> = Vec::new();
    let mut failures = 0;
    loop {
        if !is_ours_to_run {
            // whoever runs it asks for its slot
            delivery_context.slot = ConcurrencySlot::Acquired;
        }
        match lease.stop_requested() {
            None => {}
            Some(StopReason::Cancel) => delivery_context.cancel_requested = true,
            Some(_) => {
                let _ = Box::pin(lease.delivery().nak()).await;
                return Claim::Done(Done::Requeued);
            }
        }
        let (present, revision) = match known.take() {
            Some(known) => known,
            None => match Box::pin(read_record(context, lease, &delivery_context.job_id)).await {
                Ok(read) => read,
                Err(ReadFailure::LeaseLost) => return Claim::Done(Done::LeaseLost),
                Err(ReadFailure::Invalid(message)) => {
                    let invalid = EnvelopeError::new(RejectReason::Invalid, "", message);
                    let rejecting = Box::pin(reject_envelope(
                        context,
                        lease,
                        delivery,
                        delivery_context,
                        &invalid,
                    ));
                    return Claim::Done(rejecting.await);
                }
            },
        };
        if let Some(present) = &present
            && is_own_claim(present, delivery_context)
            && present
                .started_at
                .is_some_and(|at| unanswered.contains(&at))
        {
            // a claim whose answer was lost had been written after all. (One from before, by a
            // delivery that the server has forgotten and made again, is another attempt.)
            return Claim::Claimed(present.clone(), revision);
        }
        delivery_context.now = now();
        match decide_delivery(present.as_deref(), envelope, delivery_context) {
            // by a message of its own, which holds the envelope for as long as it takes
            DeliveryDecision::Run(_) | DeliveryDecision::AcquireSlot
                if delivery.is_recheck() || was_blocked_by(present.as_deref(), delivery) =>
            {
                let renewing = republish(
                    context,
                    lease,
                    delivery,
                    delivery_context,
                    present.as_deref(),
                );
                if Box::pin(renewing).await.is_err() {
                    return Claim::Done(Done::LeaseLost);
                }
                failpoint("recheck.released");
                return Claim::Done(Box::pin(acknowledge(lease, Done::NothingToRun)).await);
            }
            DeliveryDecision::Run(running) if !is_ours_to_run => {
                let before = RecordSnapshot { present, revision };
                let handing_on =
                    reroute_by_labels(context, lease, delivery, envelope, before, running);
                match handing_on.boxed().await {
                    Some(done) => return Claim::Done(done),
                    None => delivery_context.dependency_statuses = None,
                }
            }
            DeliveryDecision::Run(record) => {
                failpoint("claim.before");
                match context.broker.write_record(&record, revision, None).await {
                    Ok(revision) => {
                        failpoint("claim.written");
                        if may_have_waited {
                            Box::pin(blocked::remove_wait_keys(
                                context,
                                envelope,
                                present.as_deref(),
                            ))
                            .await;
                        }
                        return Claim::Claimed(record, revision);
                    }
                    Err(BrokerError::Conflict) => {
                        delivery_context.dependency_statuses = None;
                        delivery_context.lease_message_missing = false;
                    }
                    Err(error) => {
                        unanswered.extend(record.started_at);
                        tracing::warn!(job_id = %delivery_context.job_id, "cannot claim: {error}");
                        if lease.is_expired(Instant::now()) {
                            return Claim::Done(Done::LeaseLost);
                        }
                        failures += 1;
                        tokio::time::sleep(RETRY_BACKOFF.pause(failures, rand::random())).await;
                    }
                }
            }
            DeliveryDecision::CompareEnvelopes => {
                let Some(record) = &present else { continue };
                match Box::pin(is_equivalent(context, lease, delivery, record)).await {
                    Ok(true) => {
                        delivery_context.envelope_digest =
                            record.envelope_digest.clone().unwrap_or_default();
                        known = Some((present, revision));
                    }
                    Ok(false) => {
                        let refusing =
                            reject_id_conflict(context, lease, delivery, delivery_context);
                        return Claim::Done(refusing.boxed().await);
                    }
                    Err(_) => return Claim::Done(Done::LeaseLost),
                }
            }
            DeliveryDecision::ResolveDependencies(open) => {
                let is_late = is_dependency_overdue(present.as_deref(), delivery_context);
                let look = blocked::resolve_dependencies(
                    context,
                    lease,
                    &delivery_context.job_id,
                    open,
                    is_late,
                )
                .boxed();
                let Ok(dependency_statuses) = look.await else {
                    return Claim::Done(Done::LeaseLost);
                };
                delivery_context.dependency_statuses = Some(dependency_statuses);
                known = Some((present, revision));
            }
            DeliveryDecision::AcquireSlot => {
                let Ok(slot) = Box::pin(blocked::acquire_slot(
                    context,
                    lease,
                    envelope,
                    delivery_context,
                ))
                .await
                else {
                    return Claim::Done(Done::LeaseLost);
                };
                delivery_context.slot = slot;
                known = Some((present, revision));
            }
            DeliveryDecision::Block(record) => {
                let parking = blocked::block(context, lease, delivery, envelope, record, revision);
                match parking.boxed().await {
                    Ok(blocked::BlockOutcome::Blocked) => {
                        return Claim::Done(Box::pin(acknowledge(lease, Done::NothingToRun)).await);
                    }
                    Ok(blocked::BlockOutcome::Reevaluate) => {
                        delivery_context.dependency_statuses = None;
                        delivery_context.slot = ConcurrencySlot::NotRequested;
                    }
                    Err(_) => return Claim::Done(Done::LeaseLost),
                }
            }
            DeliveryDecision::End(record) => return Claim::Finished(record, revision),
            DeliveryDecision::Superseded => return Claim::Done(Done::LeaseLost),
            DeliveryDecision::DuplicateMessage => {
                match Box::pin(lease_message_missing(context, lease, present.as_deref())).await {
                    // its holder may just have ended it: a second look at the record shows that
                    Ok(true) if gone_at.replace(revision) != Some(revision) => {}
                    Ok(true) => {
                        delivery_context.lease_message_missing = true;
                        known = Some((present, revision));
                    }
                    Ok(false) => {
                        let absorbed = acknowledge(lease, Done::NothingToRun);
                        return Claim::Done(Box::pin(absorbed).await);
                    }
                    Err(_) => return Claim::Done(Done::LeaseLost),
                }
            }
            DeliveryDecision::AlreadyFinished => {
                if let Some(record) = present {
                    let completed = complete_finished(context, lease, delivery, envelope, &record);
                    if Box::pin(completed).await.is_err() {
                        return Claim::Done(Done::LeaseLost);
                    }
                }
                return Claim::Done(Box::pin(acknowledge(lease, Done::NothingToRun)).await);
            }
            DeliveryDecision::DelayUntil(due) => {
                let job = delayed_job(delivery_context, delivery);
                let attempts = present.as_ref().map_or(0, |record| record.attempt);
                let holding = retry_while_leased(lease, || {
                    context.broker.delay_retry(job.clone(), due, attempts)
                });
                if Box::pin(holding).await.is_err() {
                    return Claim::Done(Done::LeaseLost);
                }
                failpoint("delay.written");
                return Claim::Done(Box::pin(acknowledge(lease, Done::NothingToRun)).await);
            }
        }
    }
}

/// Whether somebody may be about to hand on this very message: one that lacked the labels it
/// requires, and has stood still since. Whoever ran the job by it would lose it then, so it is handed
/// on once more, by whomever.
fn may_be_rerouted(context: &AttemptContext, delivery: &Delivery, envelope: &Envelope) -> bool {
    !envelope.requires.is_empty()
        && delivery.delivery > 1
        && !delivery.is_rerouted
        && context.options.single_job.is_none()
}

/// Whether a job was put aside by this very message. Whoever did so may still be about to remove
/// it, however late, and whoever ran the job by it would then lose it.
fn was_blocked_by(present: Option<&Record>, delivery: &Delivery) -> bool {
    present.is_some_and(|record| record.superseded_sequence == Some(delivery.sequence))
}

/// Gives a job that may run a message of its own.
async fn republish(
    context: &AttemptContext,
    lease: &MessageLease,
    delivery: &Delivery,
    delivery_context: &DeliveryContext,
    present: Option<&Record>,
) -> Result<(), BrokerError> {
    let waits = present.is_some_and(|record| record.state == State::Waiting);
    if delivery.is_recheck() || waits {
        return retry_while_leased(lease, || context.broker.release(&delivery_context.job_id))
            .await
            .map(|_| ());
    }
    // under no message id: the server would take it for a repeat of the first
    let again = NewJob {
        job_id: delivery_context.job_id.clone(),
        queue: delivery_context.queue.clone(),
        payload: delivery.payload.clone(),
        has_user_id: false,
        start: None,
    };
    retry_while_leased(lease, || context.broker.republish(again.clone())).await
}

/// Whether a delivered envelope says the same as the job's first one, however each is written.
/// Where the first is not to be found, its digest has to do.
async fn is_equivalent(
    context: &AttemptContext,
    lease: &MessageLease,
    delivery: &Delivery,
    record: &Record,
) -> Result<bool, BrokerError> {
    let first = retry_while_leased(lease, || context.broker.envelope_of(record)).await?;
    Ok(first.is_some_and(|first| naq_protocol::is_equivalent(&first, &delivery.payload)))
}

/// Keeps an envelope whose id stands for another: under its place, since the id is not its own.
async fn reject_id_conflict(
    context: &AttemptContext,
    lease: &MessageLease,
    delivery: &Delivery,
    delivery_context: &DeliveryContext,
) -> Done {
    let taken = EnvelopeError::new(
        RejectReason::Invalid,
        "job_id",
        format!(
            "the job id `{}` is taken by another envelope",
            delivery_context.job_id
        ),
    );
    let delivery_context = DeliveryContext {
        job_id: JobId::for_sequence(&delivery.queue, delivery.sequence),
        ..delivery_context.clone()
    };
    reject_envelope(context, lease, delivery, &delivery_context, &taken).await
}

/// Does once more what a crash after a job's end may have left undone.
async fn complete_finished(
    context: &AttemptContext,
    lease: &MessageLease,
    delivery: &Delivery,
    envelope: &Envelope,
    record: &Record,
) -> Result<(), BrokerError> {
    if record.state == State::Failed {
        keep_dead_letter(context, lease, delivery, record).await?;
    }
    blocked::release(context, lease, record, Some(envelope)).await
}

/// Whether the message by which a job runs, as its record says, is no more. A worker that held it
/// for too long may have claimed by it after another had handed it on.
async fn lease_message_missing(
    context: &AttemptContext,
    lease: &MessageLease,
    record: Option<&Record>,
) -> Result<bool, BrokerError> {
    let Some((record, sequence)) =
        record.and_then(|record| Some((record, record.lease.as_ref()?.sequence)))
    else {
        return Ok(false);
    };
    let found =
        retry_while_leased(lease, || context.broker.payload_at(&record.queue, sequence)).await?;
    Ok(found.is_none())
}

/// Whether a job that waits has done so for as long as a dependency may be missing.
fn is_dependency_overdue(record: Option<&Record>, delivery_context: &DeliveryContext) -> bool {
    record
        .and_then(|record| record.waits.as_ref()?.until)
        .is_some_and(|until| delivery_context.now >= until)
}

/// Whether a record is this very delivery's own claim.
fn is_own_claim(record: &Record, delivery_context: &DeliveryContext) -> bool {
    record.state == State::Running
        && record.lease.as_ref().is_some_and(|lease| {
            lease.worker_id == delivery_context.worker_id
                && lease.sequence == delivery_context.sequence
                && lease.delivery == delivery_context.delivery
        })
}

enum ReadFailure {
    LeaseLost,
    Invalid(String),
}

async fn read_record(
    context: &AttemptContext,
    lease: &MessageLease,
    job_id: &JobId,
) -> Result<(Option<Box<Record>>, u64), ReadFailure> {
    match retry_while_leased(lease, || context.broker.read_record(job_id)).await {
        Ok((record, revision)) => Ok((record.map(Box::new), revision)),
        Err(BrokerError::InvalidData(message)) => Err(ReadFailure::Invalid(message)),
        Err(_) => Err(ReadFailure::LeaseLost),
    }
}
