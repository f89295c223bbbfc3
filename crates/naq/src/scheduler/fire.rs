//! One tick on its way: whether it is enqueued, and what came of that.

use super::lock::LeaderLease;
use naq_client::{Client, ClientError};
use naq_jetstream::{BrokerError, NewJob, failpoint};
use naq_protocol::{JobId, Overlap};

/// A tick that is due.
pub(super) struct Tick {
    pub(super) job: NewJob,
    pub(super) overlap: Overlap,
    /// The job of the tick before.
    pub(super) last_job_id: Option<JobId>,
    /// Whether it may be enqueued before more is stored of those before it.
    pub(super) skips_are_stored: bool,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum FireResult {
    /// The server has the job.
    Enqueued,
    /// The job before it has not ended, and the schedule says to leave it out then.
    Skipped,
    /// It is to be enqueued, once it is stored which ticks before it were left out.
    StoreFirst,
    /// It was not enqueued, or it is not known whether it was.
    Failed(BrokerError),
    /// This is no longer the leader: nothing was sent.
    NotLeader,
}

/// Enqueues a tick where its schedule's last job allows it.
pub(super) async fn fire(client: Client, lease: LeaderLease, tick: Tick) -> FireResult {
    match apply_overlap_policy(&client, &lease, &tick).await {
        Ok(None) => {}
        Ok(Some(fired)) => return fired,
        Err(ClientError::Broker(error)) => return FireResult::Failed(error),
        Err(error) => return FireResult::Failed(BrokerError::invalid_data(error.to_string())),
    }
    if !tick.skips_are_stored {
        return FireResult::StoreFirst;
    }
    failpoint("tick.due");
    let broker = client.broker();
    // without a connection it would be sent whenever there is one again, whoever leads by then
    if !broker.connection().state().connected {
        return FireResult::Failed(BrokerError::Timeout("enqueueing"));
    }
    // looked at right before it is sent: a leader may have stood still for any time until here
    if !lease.is_held() {
        return FireResult::NotLeader;
    }
    failpoint("tick.checked");
    let (job, queue) = (tick.job.clone(), tick.job.queue.clone());
    let sent = match broker.send_job(job).await {
        Ok(sent) => broker.confirm_job(&queue, sent).await,
        Err(error) => Err(error),
    };
    let enqueued = match sent {
        Err(error @ (BrokerError::QueueNotFound(_) | BrokerError::Conflict)) => {
            if !lease.is_held() {
                return FireResult::NotLeader;
            }
            broker.enqueue_after_error(tick.job, error).await
        }
        // also where there was no answer: whether to try again is for whoever then leads
        sent => sent,
    };
    match enqueued {
        // one that is there already is this very tick
        Ok(_) => {
            failpoint("tick.enqueued");
            FireResult::Enqueued
        }
        Err(error) => FireResult::Failed(error),
    }
}

/// What the last job means for this tick; none where it is to be enqueued.
async fn apply_overlap_policy(
    client: &Client,
    lease: &LeaderLease,
    tick: &Tick,
) -> Result<Option<FireResult>, ClientError> {
    let replaces = match tick.overlap {
        Overlap::Allow | Overlap::Queue => return Ok(None),
        Overlap::Skip => false,
        Overlap::Replace => true,
    };
    // the tick itself, where it was enqueued by a leader that did not live to say so
    let Some(last) = tick
        .last_job_id
        .as_ref()
        .filter(|last| **last != tick.job.job_id)
    else {
        return Ok(None);
    };
    let has_ended = match client.fetch_job(last).await {
        Ok(record) => record.state.is_terminal(),
        Err(ClientError::NoSuchJob(_)) => true,
        Err(error) => return Err(error),
    };
    failpoint("overlap.decided");
    if has_ended {
        return Ok(None);
    }
    if !replaces {
        return Ok(Some(FireResult::Skipped));
    }
    if !lease.is_held() {
        return Ok(Some(FireResult::NotLeader));
    }
    match client.cancel(last).await {
        Ok(_) | Err(ClientError::NoSuchJob(_)) => {
            failpoint("overlap.cancelled");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
