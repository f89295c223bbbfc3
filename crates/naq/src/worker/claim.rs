//! Claiming a job: what its delivery means beside its record, and what that asks for before the
//! claim is written.

use futures_util::FutureExt;
use tokio::time::Instant;

use super::attempt::{
    AttemptContext, Done, PAUSE_FIRST, PAUSE_MAX, acknowledge, keep, later, persist, reject,
};
use super::hold::Hold;
use super::requirements::{Before, hand_on};
use super::{now, park};
use naq_core::{Delivered, KeySlot, OnDelivery, on_delivery};
use naq_jetstream::{BrokerError, Delivery, NewJob, step};
use naq_protocol::{Envelope, Invalid, JobId, Record, RejectReason, State, Timestamp};
use naq_runner::StopReason;

/// What came of trying to claim a job.
pub(super) enum Claim {
    /// It is this worker's, under this revision of its record.
    Ours(Box<Record>, u64),
    /// It ends without being run.
    Ended(Box<Record>, u64),
    /// There is nothing more to do.
    Done(Done),
}

pub(super) async fn claim(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    envelope: &Envelope,
    facts: &mut Delivered,
) -> Claim {
    let is_ours_to_run = naq_core::satisfies(&context.options.labels, &envelope.requires)
        && !may_be_handed_on(context, delivery, envelope);
    // a first delivery has no record yet, as a rule: claiming without looking saves a round trip
    let may_have_waited = !envelope.depends_on.is_empty() || envelope.concurrency_key.is_some();
    let mut known: Option<(Option<Box<Record>>, u64)> =
        (delivery.delivery == 1 && !may_have_waited && is_ours_to_run).then_some((None, 0));
    let mut gone_at: Option<u64> = None;
    // when the claims began that were sent from here and not answered as written
    let mut unanswered: Vec<Timestamp> = Vec::new();
    let mut pause = PAUSE_FIRST;
    loop {
        if !is_ours_to_run {
            // whoever runs it asks for its slot
            facts.slot = KeySlot::Taken;
        }
        match hold.stop_asked() {
            None => {}
            Some(StopReason::Cancel) => facts.cancel_asked = true,
            Some(_) => {
                let _ = Box::pin(hold.delivery().hand_back()).await;
                return Claim::Done(Done::HandedBack);
            }
        }
        let (present, revision) = match known.take() {
            Some(known) => known,
            None => match Box::pin(read(context, hold, &facts.job_id)).await {
                Ok(read) => read,
                Err(Unread::Lost) => return Claim::Done(Done::Lost),
                Err(Unread::Unreadable(message)) => {
                    let invalid = Invalid::new(RejectReason::Invalid, "", message);
                    let rejecting = Box::pin(reject(context, hold, delivery, facts, &invalid));
                    return Claim::Done(rejecting.await);
                }
            },
        };
        if let Some(present) = &present
            && is_ours(present, facts)
            && present
                .started_at
                .is_some_and(|at| unanswered.contains(&at))
        {
            // a claim whose answer was lost had been written after all. (One from before, by a
            // delivery that the server has forgotten and made again, is another attempt.)
            return Claim::Ours(present.clone(), revision);
        }
        facts.now = now();
        match on_delivery(present.as_deref(), envelope, facts) {
            // by a message of its own, which holds the envelope for as long as it takes
            OnDelivery::Run(_) | OnDelivery::TakeSlot
                if delivery.is_wake() || was_left(present.as_deref(), delivery) =>
            {
                let renewing = renew(context, hold, delivery, facts, present.as_deref());
                if Box::pin(renewing).await.is_err() {
                    return Claim::Done(Done::Lost);
                }
                step("wake.released");
                return Claim::Done(Box::pin(acknowledge(hold, Done::Absorbed)).await);
            }
            OnDelivery::Run(running) if !is_ours_to_run => {
                let before = Before { present, revision };
                let handing_on = hand_on(context, hold, delivery, envelope, before, running);
                match handing_on.boxed().await {
                    Some(done) => return Claim::Done(done),
                    None => facts.prospects = None,
                }
            }
            OnDelivery::Run(record) => {
                step("claim.before");
                match context.broker.write_record(&record, revision, None).await {
                    Ok(revision) => {
                        step("claim.written");
                        if may_have_waited {
                            Box::pin(park::forget(context, envelope, present.as_deref())).await;
                        }
                        return Claim::Ours(record, revision);
                    }
                    Err(BrokerError::Conflict) => {
                        facts.prospects = None;
                        facts.lease_is_gone = false;
                    }
                    Err(error) => {
                        unanswered.extend(record.started_at);
                        tracing::warn!(job_id = %facts.job_id, "cannot claim: {error}");
                        if hold.is_lost(Instant::now()) {
                            return Claim::Done(Done::Lost);
                        }
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(PAUSE_MAX);
                    }
                }
            }
            OnDelivery::Compare => {
                let Some(record) = &present else { continue };
                match Box::pin(says_the_same(context, hold, delivery, record)).await {
                    Ok(true) => {
                        facts.envelope_digest = record.envelope_digest.clone().unwrap_or_default();
                        known = Some((present, revision));
                    }
                    Ok(false) => {
                        let refusing = refuse_taken(context, hold, delivery, facts);
                        return Claim::Done(refusing.boxed().await);
                    }
                    Err(_) => return Claim::Done(Done::Lost),
                }
            }
            OnDelivery::Look(open) => {
                let is_late = is_late(present.as_deref(), facts);
                let look = park::look(context, hold, &facts.job_id, open, is_late).boxed();
                let Ok(prospects) = look.await else {
                    return Claim::Done(Done::Lost);
                };
                facts.prospects = Some(prospects);
                known = Some((present, revision));
            }
            OnDelivery::TakeSlot => {
                let Ok(slot) = Box::pin(park::take_slot(context, hold, envelope, facts)).await
                else {
                    return Claim::Done(Done::Lost);
                };
                facts.slot = slot;
                known = Some((present, revision));
            }
            OnDelivery::Park(record) => {
                let parking = park::park(context, hold, delivery, envelope, record, revision);
                match parking.boxed().await {
                    Ok(park::Parked::Waits) => {
                        return Claim::Done(Box::pin(acknowledge(hold, Done::Absorbed)).await);
                    }
                    Ok(park::Parked::LookAgain) => {
                        facts.prospects = None;
                        facts.slot = KeySlot::Unasked;
                    }
                    Err(_) => return Claim::Done(Done::Lost),
                }
            }
            OnDelivery::End(record) => return Claim::Ended(record, revision),
            OnDelivery::Superseded => return Claim::Done(Done::Lost),
            OnDelivery::Surplus => {
                match Box::pin(lease_is_gone(context, hold, present.as_deref())).await {
                    // its holder may just have ended it: a second look at the record shows that
                    Ok(true) if gone_at.replace(revision) != Some(revision) => {}
                    Ok(true) => {
                        facts.lease_is_gone = true;
                        known = Some((present, revision));
                    }
                    Ok(false) => {
                        let absorbed = acknowledge(hold, Done::Absorbed);
                        return Claim::Done(Box::pin(absorbed).await);
                    }
                    Err(_) => return Claim::Done(Done::Lost),
                }
            }
            OnDelivery::Absorb => {
                if let Some(record) = present {
                    let completed = complete(context, hold, delivery, envelope, &record);
                    if Box::pin(completed).await.is_err() {
                        return Claim::Done(Done::Lost);
                    }
                }
                return Claim::Done(Box::pin(acknowledge(hold, Done::Absorbed)).await);
            }
            OnDelivery::Hold(due) => {
                let job = later(facts, delivery);
                let attempts = present.as_ref().map_or(0, |record| record.attempt);
                let holding = persist(hold, || {
                    context.broker.hold_retry(job.clone(), due, attempts)
                });
                if Box::pin(holding).await.is_err() {
                    return Claim::Done(Done::Lost);
                }
                step("later.held");
                return Claim::Done(Box::pin(acknowledge(hold, Done::Absorbed)).await);
            }
        }
    }
}

/// Whether somebody may be about to hand on this very message: one that lacked the labels it
/// requires, and has stood still since. Whoever ran the job by it would lose it then, so it is handed
/// on once more, by whomever.
fn may_be_handed_on(context: &AttemptContext, delivery: &Delivery, envelope: &Envelope) -> bool {
    !envelope.requires.is_empty()
        && delivery.delivery > 1
        && !delivery.is_handed_on
        && context.options.only_job.is_none()
}

/// Whether a job was put aside by this very message. Whoever did so may still be about to remove
/// it, however late, and whoever ran the job by it would then lose it.
fn was_left(present: Option<&Record>, delivery: &Delivery) -> bool {
    present.is_some_and(|record| record.left_sequence == Some(delivery.sequence))
}

/// Gives a job that may run a message of its own.
async fn renew(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    facts: &Delivered,
    present: Option<&Record>,
) -> Result<(), BrokerError> {
    let waits = present.is_some_and(|record| record.state == State::Waiting);
    if delivery.is_wake() || waits {
        return persist(hold, || context.broker.release(&facts.job_id))
            .await
            .map(|_| ());
    }
    // under no message id: the server would take it for a repeat of the first
    let again = NewJob {
        job_id: facts.job_id.clone(),
        queue: facts.queue.clone(),
        payload: delivery.payload.clone(),
        is_chosen: false,
        start: None,
    };
    persist(hold, || context.broker.enqueue_again(again.clone())).await
}

/// Whether a delivered envelope says the same as the job's first one, however each is written.
/// Where the first is not to be found, its digest has to do.
async fn says_the_same(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    record: &Record,
) -> Result<bool, BrokerError> {
    let first = persist(hold, || context.broker.envelope_of(record)).await?;
    Ok(first.is_some_and(|first| naq_protocol::says_the_same(&first, &delivery.payload)))
}

/// Keeps an envelope whose id stands for another: under its place, since the id is not its own.
async fn refuse_taken(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    facts: &Delivered,
) -> Done {
    let taken = Invalid::new(
        RejectReason::Invalid,
        "job_id",
        format!("the job id `{}` is taken by another envelope", facts.job_id),
    );
    let facts = Delivered {
        job_id: JobId::for_sequence(&delivery.queue, delivery.sequence),
        ..facts.clone()
    };
    reject(context, hold, delivery, &facts, &taken).await
}

/// Does once more what a crash after a job's end may have left undone.
async fn complete(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    envelope: &Envelope,
    record: &Record,
) -> Result<(), BrokerError> {
    if record.state == State::Failed {
        keep(context, hold, delivery, record).await?;
    }
    park::release(context, hold, record, Some(envelope)).await
}

/// Whether the message by which a job runs, as its record says, is no more. A worker that held it
/// for too long may have claimed by it after another had handed it on.
async fn lease_is_gone(
    context: &AttemptContext,
    hold: &Hold,
    record: Option<&Record>,
) -> Result<bool, BrokerError> {
    let Some((record, lease)) = record.and_then(|record| Some((record, record.lease.as_ref()?)))
    else {
        return Ok(false);
    };
    let found = persist(hold, || {
        context.broker.message_at(&record.queue, lease.sequence)
    })
    .await?;
    Ok(found.is_none())
}

/// Whether a job that waits has done so for as long as a dependency may be missing.
fn is_late(record: Option<&Record>, facts: &Delivered) -> bool {
    record
        .and_then(|record| record.waits.as_ref()?.until)
        .is_some_and(|until| facts.now >= until)
}

/// Whether a record is this very delivery's own claim.
fn is_ours(record: &Record, facts: &Delivered) -> bool {
    record.state == State::Running
        && record.lease.as_ref().is_some_and(|lease| {
            lease.worker_id == facts.worker_id
                && lease.sequence == facts.sequence
                && lease.delivery == facts.delivery
        })
}

enum Unread {
    Lost,
    Unreadable(String),
}

async fn read(
    context: &AttemptContext,
    hold: &Hold,
    job_id: &JobId,
) -> Result<(Option<Box<Record>>, u64), Unread> {
    match persist(hold, || context.broker.read_record(job_id)).await {
        Ok((record, revision)) => Ok((record.map(Box::new), revision)),
        Err(BrokerError::Unreadable(message)) => Err(Unread::Unreadable(message)),
        Err(_) => Err(Unread::Lost),
    }
}
