//! What follows an attempt: its outcome recorded, with what goes before and after it.

use std::time::Duration;

use super::attempt::{AttemptContext, Done, acknowledge, keep_dead_letter, retry_while_leased};
use super::lease::MessageLease;
use super::record_outcome::{attach_envelope, record_outcome};
use super::{blocked, now};
use naq_core::{OnCancel, OnEnd, on_cancel};
use naq_jetstream::{Delivery, NewJob, failpoint};
use naq_protocol::{Envelope, Record, Timestamp};

/// Carries out what follows an attempt: records it, with what goes before and after.
pub(super) async fn finish(
    context: &AttemptContext,
    lease: &MessageLease,
    delivery: &Delivery,
    envelope: &Envelope,
    next: OnEnd,
    revision: u64,
) -> Done {
    let ttl = naq_core::result_ttl(Some(envelope), context.options.result_ttl);
    match next {
        OnEnd::Finish {
            record,
            dead_letter,
        } => {
            let ending = FinishedJob {
                record,
                dead_letter,
                revision,
                ttl,
            };
            finish_job(context, lease, delivery, envelope, ending).await
        }
        OnEnd::Retry { mut record, due } => {
            let is_short = time_until(due) < IN_WORKER_DELAY_MAX;
            if !is_short {
                record.superseded_sequence = Some(delivery.sequence);
            }
            let Ok(revision) = record_outcome(context, lease, &mut record, revision, None).await
            else {
                return Done::LeaseLost;
            };
            if record.cancel_requested {
                let cancelled = Box::pin(finish_cancelled(
                    context, lease, delivery, envelope, record, revision,
                ));
                return cancelled.await;
            }
            if blocked::release(context, lease, &record, Some(envelope))
                .await
                .is_err()
            {
                return Done::LeaseLost;
            }
            if is_short {
                // shorter than the server can hold a message: it comes back when it is handed back
                tokio::time::sleep(time_until(due)).await;
                failpoint("retry.slept");
                let _ = lease.delivery().nak().await;
                return Done::Recorded(record);
            }
            let (job_id, queue) = (record.job_id.clone(), record.queue.clone());
            let job = NewJob::with_id(job_id, queue, delivery.payload.clone());
            if Box::pin(retry_while_leased(lease, || {
                context.broker.delay_retry(job.clone(), due, record.attempt)
            }))
            .await
            .is_err()
            {
                return Done::LeaseLost;
            }
            failpoint("retry.delayed");
            acknowledge(lease, Done::Recorded(record)).await
        }
        OnEnd::Requeue { mut record } => {
            let Ok(revision) = record_outcome(context, lease, &mut record, revision, None).await
            else {
                return Done::LeaseLost;
            };
            if record.cancel_requested {
                let cancelled = Box::pin(finish_cancelled(
                    context, lease, delivery, envelope, record, revision,
                ));
                return cancelled.await;
            }
            let _ = blocked::release(context, lease, &record, Some(envelope)).await;
            // without this word it comes back by itself, only later
            let _ = lease.delivery().nak().await;
            failpoint("nak.sent");
            Done::Requeued
        }
    }
}

fn time_until(due: Timestamp) -> Duration {
    (due.0 - now().0).to_std().unwrap_or_default()
}

/// Up to this long a retry is held by the worker: the server fires a held message a quarter of a
/// second after it was stored at the earliest.
const IN_WORKER_DELAY_MAX: Duration = Duration::from_millis(250);

/// A job's end, to be carried out.
struct FinishedJob {
    record: Box<Record>,
    dead_letter: bool,
    revision: u64,
    ttl: Option<Duration>,
}

/// Records a job's end, and acknowledges it: what the failed stream keeps goes before, what
/// waits for the job after.
async fn finish_job(
    context: &AttemptContext,
    lease: &MessageLease,
    delivery: &Delivery,
    envelope: &Envelope,
    ending: FinishedJob,
) -> Done {
    let mut record = ending.record;
    if ending.dead_letter
        && Box::pin(keep_dead_letter(context, lease, delivery, &record))
            .await
            .is_err()
    {
        return Done::LeaseLost;
    }
    if ending.dead_letter {
        failpoint("dead_letter.written");
    }
    attach_envelope(context, &mut record, delivery).await;
    if record_outcome(context, lease, &mut record, ending.revision, ending.ttl)
        .await
        .is_err()
    {
        return Done::LeaseLost;
    }
    if blocked::release(context, lease, &record, Some(envelope))
        .await
        .is_err()
    {
        return Done::LeaseLost;
    }
    failpoint("released");
    acknowledge(lease, Done::Recorded(record)).await
}

/// Ends a job that was not to run again because someone asked for that while it was being
/// recorded.
async fn finish_cancelled(
    context: &AttemptContext,
    lease: &MessageLease,
    delivery: &Delivery,
    envelope: &Envelope,
    record: Box<Record>,
    revision: u64,
) -> Done {
    let OnCancel::End(record) = on_cancel(record, now()) else {
        return Done::LeaseLost;
    };
    let ending = FinishedJob {
        record,
        dead_letter: false,
        revision,
        ttl: naq_core::result_ttl(Some(envelope), context.options.result_ttl),
    };
    finish_job(context, lease, delivery, envelope, ending).await
}
