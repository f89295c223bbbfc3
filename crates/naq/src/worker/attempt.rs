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

use super::claim::{Claim, claim};
use super::execution::{fill, judge, run_command};
use super::hold::Hold;
use super::outcome::attach_envelope;
use super::requirements::Registered;
use super::settle::settle;
use super::{Options, Report, command, now, park};
use naq_core::{Attempt, AttemptEnd, Delivered, KeySlot, OnEnd, end_attempt};
use naq_jetstream::{Broker, BrokerError, Delivery, NewJob, step};
use naq_protocol::{Envelope, Invalid, JobId, Reason, Record, RejectReason, State};
use naq_runner::{Runner, StopReason, Stopped};

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
        traceparent: delivery.traceparent().map(str::to_owned),
        scheduled_for: delivery.scheduled_for(),
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
pub(super) async fn reject(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    facts: &Delivered,
    invalid: &Invalid,
) -> Done {
    tracing::warn!(job_id = %facts.job_id, queue = %facts.queue, "rejected: {invalid}");
    let mut record = naq_core::reject(facts, invalid);
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
    let ttl = naq_core::result_ttl(None, context.options.result_ttl);
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
            // this one again, after a crash: who waits for it may not have been told
            Ok((Some(present), _)) => {
                record.dependents = present.dependents && present.state == State::Rejected;
                break;
            }
            Err(BrokerError::Unreadable(_)) => break,
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

pub(super) fn later(facts: &Delivered, delivery: &Delivery) -> NewJob {
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

pub(super) async fn keep(
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
