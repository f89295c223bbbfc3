//! What follows an attempt: its outcome recorded, with what goes before and after it.

use std::time::Duration;

use super::attempt::{AttemptContext, Done, acknowledge, keep, persist};
use super::hold::Hold;
use super::outcome::{attach_envelope, write};
use super::{now, park};
use naq_core::{OnCancel, OnEnd, on_cancel};
use naq_jetstream::{Delivery, NewJob, step};
use naq_protocol::{Envelope, Record, Timestamp};

/// Carries out what follows an attempt: records it, with what goes before and after.
pub(super) async fn settle(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    envelope: &Envelope,
    next: OnEnd,
    revision: u64,
) -> Done {
    let ttl = naq_core::result_ttl(Some(envelope), context.options.result_ttl);
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
            let is_short = wait_until(due) < SHORT_WAIT_MAX;
            if !is_short {
                record.left_sequence = Some(delivery.sequence);
            }
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
            if is_short {
                // shorter than the server can hold a message: it comes back when it is handed back
                tokio::time::sleep(wait_until(due)).await;
                step("retry.slept");
                let _ = hold.delivery().hand_back().await;
                return Done::Recorded(record);
            }
            let (job_id, queue) = (record.job_id.clone(), record.queue.clone());
            let job = NewJob::chosen(job_id, queue, delivery.payload.clone());
            if Box::pin(persist(hold, || {
                context.broker.hold_retry(job.clone(), due, record.attempt)
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

fn wait_until(due: Timestamp) -> Duration {
    (due.0 - now().0).to_std().unwrap_or_default()
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
        ttl: naq_core::result_ttl(Some(envelope), context.options.result_ttl),
    };
    end(context, hold, delivery, envelope, ending).await
}
