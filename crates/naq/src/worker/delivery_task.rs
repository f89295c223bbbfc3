//! One delivery, from the message to the acknowledgement: claim, run, finish.
//!
//! Decide, record, acknowledge, in that order. Each request to the server is repeated until it
//! succeeds or the lease on the message is lost, and none in a way that could do something twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::mpsc;

use super::attempt::{Attempt, Turn};
use super::claim::{Claim, ClaimedJob};
use super::command;
use super::context::WorkerContext;
use super::delivery::{LeasedDelivery, resolve_job_id};
use super::lease::{MessageKey, MessageLease};
use super::metrics::AttemptOutcome;
use super::report::{Done, Report, WorkerSlot};
use naq_core::DeliveryContext;
use naq_jetstream::{BrokerError, failpoint};
use naq_protocol::{Envelope, JobId};
use naq_runner::Slot;

/// Handles a delivery and reports the result to the loop. A task of its own for each delivery. `reserved` is the slot
/// of a job whose turn is now: another one with a shorter way to its start must not get it meanwhile.
pub(super) async fn run(
    context: Arc<WorkerContext>,
    lease: Arc<MessageLease>,
    turn: Turn,
    reserved: Option<Slot>,
    reports: mpsc::Sender<Report>,
) {
    let message = lease.delivery();
    let mut slot = WorkerSlot::taken(&reports, reserved);
    let delivery = LeasedDelivery {
        context: &context,
        lease: &lease,
        message: &message,
    };
    let (job_id, result) = if lease.confirm_if_short().await {
        handle_delivery(delivery, turn, &mut slot).await
    } else {
        // the claim would find out that another worker has the message, but not that one gets it
        (resolve_job_id(&message, None).0, Done::LeaseLost)
    };
    slot.release().await;
    let _ = reports
        .send(Report::Finished {
            job_id,
            message: MessageKey::of(&message),
            result,
        })
        .await;
}

async fn handle_delivery(
    delivery: LeasedDelivery<'_>,
    turn: Turn,
    slot: &mut WorkerSlot<'_>,
) -> (JobId, Done) {
    let message = delivery.message;
    if message.is_recheck() {
        return recheck_blocked_job(delivery, turn, slot).boxed().await;
    }
    let parsed = Envelope::parse(&message.payload);
    let (job_id, id_problem) = resolve_job_id(message, parsed.as_ref().ok());
    delivery.lease.set_job_id(&job_id);
    let facts = delivery.facts(job_id.clone());
    let checked = parsed.and_then(|envelope| match id_problem {
        Some(invalid) => Err(invalid),
        None => command::check_policy(&envelope, &delivery.context.options).map(|()| envelope),
    });
    let done = match checked {
        Ok(envelope) => {
            let attempt = Attempt {
                delivery,
                envelope: &envelope,
                turn,
            };
            execute(&attempt, facts, slot).await
        }
        Err(invalid) => Box::pin(delivery.reject(&facts, &invalid)).await,
    };
    (job_id, done)
}

/// Claims the job, runs it, and finishes: records the outcome and acknowledges the message.
async fn execute(attempt: &Attempt<'_>, facts: DeliveryContext, slot: &mut WorkerSlot<'_>) -> Done {
    let claimed = match attempt.claim(facts).await {
        Claim::Done(done) => return done,
        Claim::Claimed(claimed) => claimed,
    };
    let ClaimedJob {
        record,
        revision,
        alone: _alone,
        place,
    } = claimed;
    let place = match place {
        Some(place) => Some(place),
        None => {
            if attempt.turn == Turn::Next {
                failpoint("ahead.claimed");
            }
            attempt.place(&record, slot.take_reserved()).await
        }
    };
    let Some(mut place) = place else {
        return Box::pin(attempt.return_unstarted(record, revision)).await;
    };
    let started = Instant::now();
    let metrics = &attempt.delivery.context.metrics;
    let queue = &attempt.delivery.message.queue;
    let job = record.job_id.clone();
    let Some(ended) = attempt.run(record, revision, &place).await else {
        metrics.on_attempt_ended(queue, &job, AttemptOutcome::Lost, None);
        return Box::pin(attempt.leave()).await;
    };
    attempt.delivery.lease.mark_ended();
    let ahead = &attempt.delivery.context.claim_ahead;
    match ended.usage {
        // The time until its turn came is not part of its run.
        Some(usage) if attempt.turn == Turn::Next => {
            let run = Duration::from_millis(usage.wall_ms);
            ahead.on_ended(started.elapsed().min(run));
        }
        Some(_) => ahead.on_ended(started.elapsed()),
        None => ahead.on_unstarted(),
    }
    place.end_run();
    slot.release().await;
    // the next job starts before this one's outcome is written, so that the processors have something to do
    tokio::task::yield_now().await;
    let done = attempt
        .finish(ended.next, ended.revision, Some(place))
        .await;
    metrics.on_attempt_ended(queue, &job, AttemptOutcome::of(&done), ended.usage);
    done
}

/// Evaluates a blocked job again when its recheck is due: a dependency may be missing for too
/// long, or the job may have expired.
async fn recheck_blocked_job(
    delivery: LeasedDelivery<'_>,
    turn: Turn,
    slot: &mut WorkerSlot<'_>,
) -> (JobId, Done) {
    let (job_id, _) = resolve_job_id(delivery.message, None);
    delivery.lease.set_job_id(&job_id);
    let done = match execute_blocked_job(delivery, &job_id, turn, slot).await {
        Ok(done) => done,
        // Every further delivery would find the same. This drops the recheck, not the job.
        Err(error @ BrokerError::InvalidData(_)) => {
            tracing::error!(%job_id, "cannot recheck a blocked job: {error}");
            delivery.acknowledge(Done::NothingToRun).await
        }
        Err(error) => {
            tracing::warn!(%job_id, "cannot recheck a blocked job: {error}");
            Done::LeaseLost
        }
    };
    (job_id, done)
}

async fn execute_blocked_job(
    delivery: LeasedDelivery<'_>,
    job_id: &JobId,
    turn: Turn,
    slot: &mut WorkerSlot<'_>,
) -> Result<Done, BrokerError> {
    let Some(blocked) = delivery.read_blocked_job(job_id).await? else {
        return Ok(delivery.acknowledge(Done::NothingToRun).await);
    };
    let message = delivery.message.with_payload(blocked.payload.into());
    let delivery = LeasedDelivery {
        message: &message,
        ..delivery
    };
    let mut facts = delivery.facts(job_id.clone());
    facts.enqueue_time = blocked.enqueue_time;
    let envelope = match blocked.envelope {
        Ok(envelope) => envelope,
        Err(invalid) => {
            // the digest of an envelope that is lost would not be the record's
            facts.envelope_digest = blocked.envelope_digest.unwrap_or_default();
            return Ok(delivery.reject(&facts, &invalid).await);
        }
    };
    let attempt = Attempt {
        delivery,
        envelope: &envelope,
        turn,
    };
    Ok(execute(&attempt, facts, slot).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<A, B, C, D, E, F: Future>(_: fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    /// Each delivery is a task, and a task is copied and allocated as a whole: rare ways are boxed.
    #[test]
    fn an_attempt_is_a_small_task() {
        let bytes = future_bytes(run);
        assert!(bytes <= 8 << 10, "{bytes} bytes");
    }
}
