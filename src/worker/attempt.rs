//! One delivery, from the message to the acknowledgement.
//!
//! Decide, record, acknowledge, in that order. Each step that talks to the server is repeated
//! until it is done or the hold on the job is lost; none is repeated in a way that could do it
//! twice.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::execution::{fill, judge, run_command};
use super::hold::Hold;
use super::outcome::{attach_envelope, write};
use super::requirements::{Before, Registered, hand_on};
use super::{Options, Report, command, now, park};
use crate::broker::{Broker, BrokerError, Delivery, NewJob, step};
use crate::envelope::{self, Envelope, Invalid, JobId, Reason, Record, RejectReason, State};
use crate::lifecycle::{
    self, Attempt, AttemptEnd, Delivered, KeySlot, OnCancel, OnDelivery, OnEnd, end_attempt,
    on_cancel, on_delivery,
};
use crate::runner::{Runner, StopReason, Stopped};

/// What every attempt of a worker shares.
pub(super) struct AttemptContext {
    pub(super) broker: Broker,
    pub(super) runner: Runner,
    pub(super) worker_id: String,
    pub(super) options: Options,
    /// Bounds the outcomes that are not recorded yet: a job's slot is only free once there is
    /// room for what it left.
    pub(super) unrecorded: Semaphore,
    /// The required labels that others were told of.
    pub(super) registered: Registered,
}

/// What became of a delivery.
pub(super) enum Done {
    /// Its outcome is recorded.
    Recorded(Box<Record>),
    /// It was given back.
    HandedBack,
    /// There was nothing to run.
    Absorbed,
    /// Another worker holds it now.
    Lost,
}

/// Waits between attempts to do a step that the server would not.
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(50);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Works on a delivery, and reports to the loop.
pub(super) async fn run(
    context: Arc<AttemptContext>,
    hold: Arc<Hold>,
    reports: mpsc::Sender<Report>,
) {
    let delivery = hold.delivery();
    let mut slot = Slot {
        reports: &reports,
        taken: true,
    };
    let (job_id, result) = deliver(&context, &hold, &delivery, &mut slot).await;
    slot.free().await;
    let _ = reports
        .send(Report::Done {
            job_id,
            sequence: delivery.sequence,
            queue: delivery.queue.clone(),
            result,
        })
        .await;
}

/// A slot, given back once.
pub(super) struct Slot<'a> {
    reports: &'a mpsc::Sender<Report>,
    taken: bool,
}

impl Slot<'_> {
    async fn free(&mut self) {
        if std::mem::take(&mut self.taken) {
            let _ = self.reports.send(Report::SlotFree).await;
        }
    }
}

async fn deliver(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    slot: &mut Slot<'_>,
) -> (JobId, Done) {
    if delivery.is_wake() {
        return park::wake(context, hold, delivery, slot).boxed().await;
    }
    let parsed = Envelope::parse(&delivery.payload);
    let (job_id, id_problem) = name_job(delivery, parsed.as_ref().ok());
    hold.set_job_id(&job_id);
    let facts = facts(context, delivery, job_id.clone());
    let checked = parsed.and_then(|envelope| match id_problem {
        Some(invalid) => Err(invalid),
        None => command::check_policy(&envelope, &context.options).map(|()| envelope),
    });
    let done = match checked {
        Ok(envelope) => execute(context, hold, delivery, &envelope, facts, slot).await,
        Err(invalid) => Box::pin(reject(context, hold, delivery, &facts, &invalid)).await,
    };
    (job_id, done)
}

/// What a delivery is decided by.
pub(super) fn facts(context: &AttemptContext, delivery: &Delivery, job_id: JobId) -> Delivered {
    Delivered {
        job_id,
        queue: delivery.queue.clone(),
        sequence: delivery.sequence,
        delivery: delivery.delivery,
        enqueue_time: delivery.enqueue_time,
        worker_id: context.worker_id.clone(),
        now: now(),
        crashes_max: context.options.crashes_max,
        envelope_digest: Envelope::digest(&delivery.payload),
        lease_is_gone: false,
        cancel_asked: false,
        prospects: None,
        slot: KeySlot::Unasked,
    }
}

/// The job's name: from the envelope, the subject, the producer's message id, or its place.
/// Also what is wrong with the names given, where something is.
pub(super) fn name_job(
    delivery: &Delivery,
    envelope: Option<&Envelope>,
) -> (JobId, Option<Invalid>) {
    let invalid = |message: String| Some(Invalid::new(RejectReason::Invalid, "job_id", message));
    let by_place = || JobId::for_sequence(&delivery.queue, delivery.sequence);
    let in_envelope = envelope.and_then(|envelope| envelope.job_id.clone());
    match (&delivery.subject_id, in_envelope) {
        (Some(Err(problem)), _) => (
            by_place(),
            invalid(format!("the subject's last token: {problem}")),
        ),
        (Some(Ok(subject)), Some(id)) if *subject != id => (
            by_place(),
            invalid(format!("`{id}` is not the id in the subject, `{subject}`")),
        ),
        (Some(Ok(subject)), _) => (subject.clone(), None),
        (None, Some(id)) => (id, None),
        (None, None) => {
            let message_id = delivery
                .message_id
                .as_ref()
                .and_then(|id| JobId::chosen(id).ok());
            (message_id.unwrap_or_else(by_place), None)
        }
    }
}

/// Keeps an envelope that never was a job, with the reason, and is done with it.
async fn reject(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    facts: &Delivered,
    invalid: &Invalid,
) -> Done {
    tracing::warn!(job_id = %facts.job_id, queue = %facts.queue, "rejected: {invalid}");
    let mut record = lifecycle::reject(facts, invalid);
    // a record that is there is another job's, whose id this one used: it stays
    match persist(hold, || {
        context.broker.keep_failed(
            delivery,
            &facts.job_id,
            State::Rejected,
            Reason::from(invalid.reason),
            record.error.as_deref().unwrap_or_default(),
            0,
        )
    })
    .await
    {
        Ok(()) => step("rejected.kept"),
        Err(_) => return Done::Lost,
    }
    if std::str::from_utf8(&delivery.payload).is_ok() {
        attach_envelope(context, &mut record, delivery).await;
    }
    let ttl = lifecycle::result_ttl(None, context.options.result_ttl);
    let mut revision = 0;
    loop {
        match persist(hold, || context.broker.write_record(&record, revision, ttl)).await {
            Ok(_) => break,
            Err(BrokerError::Conflict) => {}
            Err(_) => return Done::Lost,
        }
        match persist(hold, || context.broker.read_record(&facts.job_id)).await {
            // nothing but a sign that others wait for it
            Ok((Some(present), at)) if present.placeholder => {
                record.dependents = true;
                revision = at;
            }
            Ok((None, at)) => revision = at,
            Ok((Some(_), _)) | Err(BrokerError::Unreadable(_)) => break,
            Err(_) => return Done::Lost,
        }
    }
    step("rejected.written");
    if park::release(context, hold, &record, None).await.is_err() {
        return Done::Lost;
    }
    if persist(hold, || async { hold.delivery().ack().await })
        .await
        .is_err()
    {
        return Done::Lost;
    }
    Done::Recorded(Box::new(record))
}

pub(super) async fn execute(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    envelope: &Envelope,
    mut facts: Delivered,
    slot: &mut Slot<'_>,
) -> Done {
    let (next, revision) = match claim(context, hold, delivery, envelope, &mut facts).await {
        Claim::Done(done) => return done,
        Claim::Ended(record, revision) => {
            let keep = record.state == State::Failed;
            (OnEnd::Ended { record, keep }, revision)
        }
        Claim::Ours(mut record, mut revision) => {
            let attempt = match context.options.secrets.read(&envelope.secrets) {
                Err(error) => not_started(context, error.to_string()),
                Ok(secrets) => {
                    let (ended, said) = Box::pin(run_command(
                        context,
                        hold,
                        delivery,
                        envelope,
                        &mut record,
                        &mut revision,
                        secrets,
                    ))
                    .await;
                    if matches!(ended.stopped, Some(Stopped::Asked(StopReason::LeaseLost))) {
                        return Done::Lost;
                    }
                    let attempt = judge(context, &ended, &said);
                    fill(&mut record, ended);
                    attempt
                }
            };
            (end_attempt(record, envelope, &attempt), revision)
        }
    };
    // room for the outcome first, so that a slow server slows this worker and not its memory
    let _room = context.unrecorded.acquire().await;
    slot.free().await;
    settle(context, hold, delivery, envelope, next, revision).await
}

/// What came of trying to claim a job.
enum Claim {
    /// It is this worker's, under this revision of its record.
    Ours(Box<Record>, u64),
    /// It ends without being run.
    Ended(Box<Record>, u64),
    /// There is nothing more to do.
    Done(Done),
}

async fn claim(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    envelope: &Envelope,
    facts: &mut Delivered,
) -> Claim {
    let is_ours_to_run = lifecycle::satisfies(&context.options.labels, &envelope.requires);
    // a first delivery has no record yet, as a rule: claiming without looking saves a round trip
    let may_have_waited = !envelope.depends_on.is_empty() || envelope.concurrency_key.is_some();
    let mut known: Option<(Option<Box<Record>>, u64)> =
        (delivery.delivery == 1 && !may_have_waited && is_ours_to_run).then_some((None, 0));
    let mut gone_at: Option<u64> = None;
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
        {
            // a claim whose answer was lost had been written after all
            return Claim::Ours(present.clone(), revision);
        }
        facts.now = now();
        match on_delivery(present.as_deref(), envelope, facts) {
            // by a message of its own, which holds the envelope for as long as it takes
            OnDelivery::Run(_) | OnDelivery::TakeSlot if delivery.is_wake() => {
                let released = persist(hold, || context.broker.release(&facts.job_id));
                if Box::pin(released).await.is_err() {
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
                let holding = persist(hold, || context.broker.enqueue_at(job.clone(), due));
                if Box::pin(holding).await.is_err() {
                    return Claim::Done(Done::Lost);
                }
                step("later.held");
                return Claim::Done(Box::pin(acknowledge(hold, Done::Absorbed)).await);
            }
        }
    }
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
    Ok(first.is_some_and(|first| envelope::says_the_same(&first, &delivery.payload)))
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
pub(super) fn is_late(record: Option<&Record>, facts: &Delivered) -> bool {
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

fn not_started(context: &AttemptContext, error: String) -> Attempt {
    Attempt {
        end: AttemptEnd::NotStarted { fatal: true },
        error: Some(error),
        retry_after: None,
        now: now(),
        random: rand::random(),
        crashes_max: context.options.crashes_max,
    }
}

/// Carries out what follows an attempt: records it, with what goes before and after.
async fn settle(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    envelope: &Envelope,
    next: OnEnd,
    revision: u64,
) -> Done {
    let ttl = lifecycle::result_ttl(Some(envelope), context.options.result_ttl);
    match next {
        OnEnd::Ended { record, keep } => {
            let ending = Ending {
                record,
                keep,
                revision,
                ttl,
            };
            end(context, hold, delivery, envelope, ending).await
        }
        OnEnd::Retry { mut record, due } => {
            let Ok(revision) = write(context, hold, &mut record, revision, None).await else {
                return Done::Lost;
            };
            if record.cancel_requested {
                let cancelled =
                    Box::pin(cancel(context, hold, delivery, envelope, record, revision));
                return cancelled.await;
            }
            if park::release(context, hold, &record, Some(envelope))
                .await
                .is_err()
            {
                return Done::Lost;
            }
            let wait = (due.0 - now().0).to_std().unwrap_or_default();
            if wait < SHORT_WAIT_MAX {
                // shorter than the server can hold a message: it comes back when it is handed back
                tokio::time::sleep(wait).await;
                step("retry.slept");
                let _ = hold.delivery().hand_back().await;
                return Done::Recorded(record);
            }
            let (job_id, queue) = (record.job_id.clone(), record.queue.clone());
            let job = NewJob::chosen(job_id, queue, delivery.payload.clone());
            if Box::pin(persist(hold, || {
                context.broker.enqueue_at(job.clone(), due)
            }))
            .await
            .is_err()
            {
                return Done::Lost;
            }
            step("retry.held");
            acknowledge(hold, Done::Recorded(record)).await
        }
        OnEnd::HandBack { mut record } => {
            let Ok(revision) = write(context, hold, &mut record, revision, None).await else {
                return Done::Lost;
            };
            if record.cancel_requested {
                let cancelled =
                    Box::pin(cancel(context, hold, delivery, envelope, record, revision));
                return cancelled.await;
            }
            let _ = park::release(context, hold, &record, Some(envelope)).await;
            // without this word it comes back by itself, only later
            let _ = hold.delivery().hand_back().await;
            step("handed_back");
            Done::HandedBack
        }
    }
}

/// Up to this long a retry is held by the worker: the server fires a held message a quarter of a
/// second after it was stored at the earliest.
const SHORT_WAIT_MAX: Duration = Duration::from_millis(250);

/// A job's end, to be carried out.
struct Ending {
    record: Box<Record>,
    keep: bool,
    revision: u64,
    ttl: Option<Duration>,
}

/// Records a job's end, and acknowledges it: what the failed stream keeps goes before, what
/// waits for the job after.
async fn end(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    envelope: &Envelope,
    ending: Ending,
) -> Done {
    let mut record = ending.record;
    if ending.keep
        && Box::pin(keep(context, hold, delivery, &record))
            .await
            .is_err()
    {
        return Done::Lost;
    }
    if ending.keep {
        step("failed.kept");
    }
    attach_envelope(context, &mut record, delivery).await;
    if write(context, hold, &mut record, ending.revision, ending.ttl)
        .await
        .is_err()
    {
        return Done::Lost;
    }
    if park::release(context, hold, &record, Some(envelope))
        .await
        .is_err()
    {
        return Done::Lost;
    }
    step("released");
    acknowledge(hold, Done::Recorded(record)).await
}

/// Ends a job that was not to run again because someone asked for that while it was being
/// recorded.
async fn cancel(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    envelope: &Envelope,
    record: Box<Record>,
    revision: u64,
) -> Done {
    let OnCancel::End(record) = on_cancel(record, now()) else {
        return Done::Lost;
    };
    let ending = Ending {
        record,
        keep: false,
        revision,
        ttl: lifecycle::result_ttl(Some(envelope), context.options.result_ttl),
    };
    end(context, hold, delivery, envelope, ending).await
}

fn later(facts: &Delivered, delivery: &Delivery) -> NewJob {
    let (job_id, queue) = (facts.job_id.clone(), facts.queue.clone());
    NewJob::chosen(job_id, queue, delivery.payload.clone())
}

pub(super) async fn acknowledge(hold: &Hold, done: Done) -> Done {
    step("ack.before");
    // where it fails it is recorded all the same: the message will come again and be absorbed
    let _ = persist(hold, || async { hold.delivery().ack().await }).await;
    step("ack.done");
    done
}

async fn keep(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    record: &Record,
) -> Result<(), BrokerError> {
    persist(hold, || {
        context.broker.keep_failed(
            delivery,
            &record.job_id,
            record.state,
            record.reason.unwrap_or(Reason::Exit),
            record.error.as_deref().unwrap_or_default(),
            record.attempt,
        )
    })
    .await
}

/// Does a step until it is done, the server's answer is final, or the hold is lost and the loop
/// has said so.
pub(super) async fn persist<T, F>(
    hold: &Hold,
    mut step: impl FnMut() -> F,
) -> Result<T, BrokerError>
where
    F: Future<Output = Result<T, BrokerError>>,
{
    let mut pause = PAUSE_FIRST;
    loop {
        match step().await {
            Err(error) if error.is_passing() => {
                if hold.is_lost(Instant::now()) && hold.stop_asked().is_some() {
                    return Err(error);
                }
                if pause >= PAUSE_MAX {
                    tracing::warn!("a step is still not done, and is tried again: {error}");
                } else {
                    tracing::debug!("not yet: {error}");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<A, B, C, F: Future>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// Each job is a task, and a task is copied and allocated as a whole: what is rare is boxed.
    #[test]
    fn an_attempt_is_a_small_task() {
        let bytes = future_bytes(run);
        assert!(bytes <= 8 << 10, "{bytes} bytes");
    }
}
