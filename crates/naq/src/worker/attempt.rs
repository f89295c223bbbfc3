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
use super::execution::{classify_end, fill_record, run_command};
use super::finish::finish;
use super::lease::MessageLease;
use super::record_outcome::attach_envelope;
use super::routing::RegisteredRoutes;
use super::{Report, WorkerConfig, blocked, command, now};
use naq_core::{
    AttemptEnd, ConcurrencySlot, DeliveryContext, ExponentialBackoff, FinishedAttempt, OnEnd,
    end_attempt,
};
use naq_jetstream::{Broker, BrokerError, Delivery, NewJob, failpoint};
use naq_protocol::{Envelope, EnvelopeError, JobId, Reason, Record, RejectReason, State};
use naq_runner::{Runner, StopCause, StopReason};

/// What every attempt of a worker shares.
pub(super) struct AttemptContext {
    pub(super) broker: Broker,
    pub(super) runner: Runner,
    pub(super) worker_id: String,
    pub(super) options: WorkerConfig,
    /// Bounds the outcomes that are not recorded yet: a job's slot is only free once there is
    /// room for what it left.
    pub(super) unrecorded_outcomes: Semaphore,
    /// The required labels that others were told of.
    pub(super) registered: RegisteredRoutes,
}

/// What became of a delivery.
pub(super) enum Done {
    /// Its outcome is recorded.
    Recorded(Box<Record>),
    /// It was given back.
    Requeued,
    /// There was nothing to run.
    NothingToRun,
    /// Another worker holds it now.
    LeaseLost,
}

/// Pauses before a request that failed for a passing reason is sent again.
pub(super) const RETRY_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// Works on a delivery, and reports to the loop.
pub(super) async fn run(
    context: Arc<AttemptContext>,
    lease: Arc<MessageLease>,
    reports: mpsc::Sender<Report>,
) {
    let delivery = lease.delivery();
    let mut slot = Slot {
        reports: &reports,
        is_held: true,
    };
    let (job_id, result) = handle_delivery(&context, &lease, &delivery, &mut slot).await;
    slot.release().await;
    let _ = reports
        .send(Report::Finished {
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
    is_held: bool,
}

impl Slot<'_> {
    async fn release(&mut self) {
        if std::mem::take(&mut self.is_held) {
            let _ = self.reports.send(Report::SlotFree).await;
        }
    }
}

async fn handle_delivery(
    context: &AttemptContext,
    lease: &MessageLease,
    delivery: &Delivery,
    slot: &mut Slot<'_>,
) -> (JobId, Done) {
    if delivery.is_recheck() {
        return blocked::recheck(context, lease, delivery, slot)
            .boxed()
            .await;
    }
    let parsed = Envelope::parse(&delivery.payload);
    let (job_id, id_problem) = resolve_job_id(delivery, parsed.as_ref().ok());
    lease.set_job_id(&job_id);
    let delivery_context = delivery_context(context, delivery, job_id.clone());
    let checked = parsed.and_then(|envelope| match id_problem {
        Some(invalid) => Err(invalid),
        None => command::check_policy(&envelope, &context.options).map(|()| envelope),
    });
    let done = match checked {
        Ok(envelope) => execute(context, lease, delivery, &envelope, delivery_context, slot).await,
        Err(invalid) => {
            Box::pin(reject_envelope(
                context,
                lease,
                delivery,
                &delivery_context,
                &invalid,
            ))
            .await
        }
    };
    (job_id, done)
}

/// What a delivery is decided by.
pub(super) fn delivery_context(
    context: &AttemptContext,
    delivery: &Delivery,
    job_id: JobId,
) -> DeliveryContext {
    DeliveryContext {
        job_id,
        queue: delivery.queue.clone(),
        sequence: delivery.sequence,
        delivery: delivery.delivery,
        enqueue_time: delivery.enqueue_time,
        worker_id: context.worker_id.clone(),
        now: now(),
        max_worker_crashes: context.options.max_worker_crashes,
        envelope_digest: Envelope::digest(&delivery.payload),
        lease_message_missing: false,
        cancel_requested: false,
        dependency_statuses: None,
        slot: ConcurrencySlot::NotRequested,
        traceparent: delivery.traceparent().map(str::to_owned),
        scheduled_for: delivery.scheduled_for(),
    }
}

/// The job's name: from the envelope, the subject, the producer's message id, or its place.
/// Also what is wrong with the names given, where something is.
pub(super) fn resolve_job_id(
    delivery: &Delivery,
    envelope: Option<&Envelope>,
) -> (JobId, Option<EnvelopeError>) {
    let invalid =
        |message: String| Some(EnvelopeError::new(RejectReason::Invalid, "job_id", message));
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
                .and_then(|id| JobId::from_user(id).ok());
            (message_id.unwrap_or_else(by_place), None)
        }
    }
}

/// Keeps an envelope that never was a job, with the reason, and is done with it.
pub(super) async fn reject_envelope(
    context: &AttemptContext,
    lease: &MessageLease,
    delivery: &Delivery,
    delivery_context: &DeliveryContext,
    invalid: &EnvelopeError,
) -> Done {
    tracing::warn!(job_id = %delivery_context.job_id, queue = %delivery_context.queue, "rejected: {invalid}");
    let mut record = naq_core::rejected_record(delivery_context, invalid);
    // a record that is there is another job's, whose id this one used: it stays
    match retry_while_leased(lease, || {
        context.broker.dead_letter(
            delivery,
            &delivery_context.job_id,
            State::Rejected,
            Reason::from(invalid.reason),
            record.error.as_deref().unwrap_or_default(),
            0,
        )
    })
    .await
    {
        Ok(()) => failpoint("rejected.dead_lettered"),
        Err(_) => return Done::LeaseLost,
    }
    if std::str::from_utf8(&delivery.payload).is_ok() {
        attach_envelope(context, &mut record, delivery).await;
    }
    let ttl = naq_core::result_ttl(None, context.options.result_ttl);
    let mut revision = 0;
    loop {
        match retry_while_leased(lease, || {
            context.broker.write_record(&record, revision, ttl)
        })
        .await
        {
            Ok(_) => break,
            Err(BrokerError::Conflict) => {}
            Err(_) => return Done::LeaseLost,
        }
        match retry_while_leased(lease, || {
            context.broker.read_record(&delivery_context.job_id)
        })
        .await
        {
            // nothing but a sign that others wait for it
            Ok((Some(present), at)) if present.placeholder => {
                record.has_dependents = true;
                revision = at;
            }
            Ok((None, at)) => revision = at,
            // this one again, after a crash: who waits for it may not have been told
            Ok((Some(present), _)) => {
                record.has_dependents = present.has_dependents && present.state == State::Rejected;
                break;
            }
            Err(BrokerError::InvalidData(_)) => break,
            Err(_) => return Done::LeaseLost,
        }
    }
    failpoint("rejected.written");
    if blocked::release(context, lease, &record, None)
        .await
        .is_err()
    {
        return Done::LeaseLost;
    }
    if retry_while_leased(lease, || async { lease.delivery().ack().await })
        .await
        .is_err()
    {
        return Done::LeaseLost;
    }
    Done::Recorded(Box::new(record))
}

pub(super) async fn execute(
    context: &AttemptContext,
    lease: &MessageLease,
    delivery: &Delivery,
    envelope: &Envelope,
    mut delivery_context: DeliveryContext,
    slot: &mut Slot<'_>,
) -> Done {
    let (next, revision) =
        match claim(context, lease, delivery, envelope, &mut delivery_context).await {
            Claim::Done(done) => return done,
            Claim::Finished(record, revision) => {
                let dead_letter = record.state == State::Failed;
                (
                    OnEnd::Finish {
                        record,
                        dead_letter,
                    },
                    revision,
                )
            }
            Claim::Claimed(mut record, mut revision) => {
                let attempt = match context.options.secrets.read(&envelope.secrets) {
                    Err(error) => not_started(context, error.to_string()),
                    Ok(secrets) => {
                        let (ended, control_state) = Box::pin(run_command(
                            context,
                            lease,
                            envelope,
                            &mut record,
                            &mut revision,
                            secrets,
                        ))
                        .await;
                        if matches!(
                            ended.stopped,
                            Some(StopCause::Requested(StopReason::LeaseLost))
                        ) {
                            return Done::LeaseLost;
                        }
                        let attempt = classify_end(context, &ended, &control_state);
                        fill_record(&mut record, ended);
                        attempt
                    }
                };
                (end_attempt(record, envelope, &attempt), revision)
            }
        };
    // room for the outcome first, so that a slow server slows this worker and not its memory
    let _room = context.unrecorded_outcomes.acquire().await;
    slot.release().await;
    finish(context, lease, delivery, envelope, next, revision).await
}

fn not_started(context: &AttemptContext, error: String) -> FinishedAttempt {
    FinishedAttempt {
        end: AttemptEnd::NotStarted { fatal: true },
        error: Some(error),
        retry_after: None,
        now: now(),
        random: rand::random(),
        max_worker_crashes: context.options.max_worker_crashes,
    }
}

pub(super) fn delayed_job(delivery_context: &DeliveryContext, delivery: &Delivery) -> NewJob {
    let (job_id, queue) = (
        delivery_context.job_id.clone(),
        delivery_context.queue.clone(),
    );
    NewJob::with_id(job_id, queue, delivery.payload.clone())
}

pub(super) async fn acknowledge(lease: &MessageLease, done: Done) -> Done {
    failpoint("ack.before");
    // where it fails it is recorded all the same: the message will come again and be absorbed
    let _ = retry_while_leased(lease, || async { lease.delivery().ack().await }).await;
    failpoint("ack.done");
    done
}

pub(super) async fn keep_dead_letter(
    context: &AttemptContext,
    lease: &MessageLease,
    delivery: &Delivery,
    record: &Record,
) -> Result<(), BrokerError> {
    retry_while_leased(lease, || {
        context.broker.dead_letter(
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
pub(super) async fn retry_while_leased<T, F>(
    lease: &MessageLease,
    mut step: impl FnMut() -> F,
) -> Result<T, BrokerError>
where
    F: Future<Output = Result<T, BrokerError>>,
{
    let mut failures = 0;
    loop {
        match step().await {
            Err(error) if error.is_transient() => {
                if lease.is_expired(Instant::now()) && lease.stop_requested().is_some() {
                    return Err(error);
                }
                failures += 1;
                if RETRY_BACKOFF.is_at_max(failures) {
                    tracing::warn!("a step is still not done, and is tried again: {error}");
                } else {
                    tracing::debug!("not yet: {error}");
                }
                tokio::time::sleep(RETRY_BACKOFF.pause(failures, rand::random())).await;
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
