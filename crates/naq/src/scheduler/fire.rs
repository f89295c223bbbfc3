//! Enqueueing one tick, unless the overlap policy says otherwise.

use super::leader_lease::LeaderLease;
use naq_client::{Client, ClientError};
use naq_jetstream::{BrokerError, NewJob, failpoint};
use naq_protocol::{JobId, Overlap};

/// A tick that is due, with what its overlap policy needs.
pub(super) struct Tick {
    pub(super) job: NewJob,
    pub(super) overlap: Overlap,
    /// Job of the tick before. `None` if there was none.
    pub(super) last_job_id: Option<JobId>,
    /// Whether every tick before it that was left out is stored. If not, the next leader could
    /// decide differently about those, and enqueue one after this tick.
    pub(super) skips_are_stored: bool,
}

/// The result of firing a tick.
#[derive(Debug)]
pub(super) enum FireResult {
    /// The server has the job.
    Enqueued,
    /// The previous job has not ended, and the overlap policy is to skip the tick.
    Skipped,
    /// The ticks before it that were left out have to be stored first.
    StoreFirst,
    /// The tick was not enqueued, or it is not known whether it was.
    Failed(BrokerError),
    /// The lease was lost: nothing was sent.
    NotLeader,
}

/// Enqueues a tick if its schedule's previous job and overlap policy allow it.
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
    // The client would buffer the message without a connection, and send it when another leader may
    // have taken over.
    if !broker.connection().state().connected {
        return FireResult::Failed(BrokerError::Timeout("enqueueing"));
    }
    // right before sending: the process may have been suspended for any time until here
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
        // also without an answer: the leader at that time decides whether to retry
        sent => sent,
    };
    match enqueued {
        // a job that exists already under this id is this very tick
        Ok(_) => {
            failpoint("tick.enqueued");
            FireResult::Enqueued
        }
        Err(error) => FireResult::Failed(error),
    }
}

/// Applies the overlap policy. `None` means that the tick is to be enqueued.
async fn apply_overlap_policy(
    client: &Client,
    lease: &LeaderLease,
    tick: &Tick,
) -> Result<Option<FireResult>, ClientError> {
    let replaces = match tick.overlap {
        Overlap::Allow | Overlap::Queue => return Ok(None),
        Overlap::Skip => false,
        Overlap::Replace => true,
        // the index does not take such a schedule in
        Overlap::Unknown(policy) => {
            let why = format!("the overlap policy {} is not known", policy.as_str());
            return Err(BrokerError::invalid_data(why).into());
        }
    };
    // the last job may be this tick itself, enqueued by a leader that died before it stored that
    let Some(last) = tick
        .last_job_id
        .as_ref()
        .filter(|last| **last != tick.job.job_id)
    else {
        return Ok(None);
    };
    let has_ended = match client.fetch_job(last).await {
        Ok(record) => record.state().is_terminal(),
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
