//! Enqueueing ticks, unless the overlap policy says otherwise.
//!
//! Ticks that are due at the same time are sent together by one future, which takes the answers in the order in
//! which the server sends them: with a future for each, waking and polling them costs more than the ticks.

use futures_util::stream::{self, StreamExt};
use tokio::time::{Instant, timeout_at};

use super::leader_lease::LeaderLease;
use super::schedule_index::EntryId;
use naq_client::{Client, ClientError};
use naq_jetstream::{BrokerError, EnqueueAck, NewJob, PendingWrite, REQUEST_TIMEOUT, failpoint};
use naq_protocol::{JobId, Overlap, Timestamp};

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

impl Tick {
    /// Whether the tick can be sent without a look at the job before it.
    pub(super) fn can_be_sent_at_once(&self) -> bool {
        self.skips_are_stored && matches!(self.overlap, Overlap::Allow | Overlap::Queue)
    }
}

/// A tick of a schedule of the index.
pub(super) struct DueTick {
    pub(super) entry_id: EntryId,
    pub(super) time: Timestamp,
    pub(super) tick: Tick,
}

/// A tick of a schedule of the index, and its result.
pub(super) type Fired = (EntryId, Timestamp, FireResult);

/// The result of firing a tick.
#[derive(Debug)]
pub(super) enum FireResult {
    /// The server has the job, which has this id.
    Enqueued(JobId),
    /// The previous job has not ended, and the overlap policy is to skip the tick.
    Skipped,
    /// The ticks before it that were left out have to be stored first.
    StoreFirst,
    /// The tick was not enqueued, or it is not known whether it was.
    Failed(BrokerError),
    /// The lease was lost: nothing was sent.
    NotLeader,
}

/// Enqueues ticks that can be sent at once, together.
pub(super) async fn fire_together(
    client: Client,
    lease: LeaderLease,
    due: Vec<DueTick>,
) -> Vec<Fired> {
    let mut sent = Vec::with_capacity(due.len());
    for due in due {
        let sending = send(&client, &lease, due.tick.job.clone()).await;
        sent.push((due, sending));
    }
    let mut fired = Vec::with_capacity(sent.len());
    let mut refused = Vec::new();
    let mut last_answer_at = Instant::now();
    for (due, sending) in sent {
        let job = due.tick.job;
        let answer = match sending {
            Err(result) => {
                fired.push((due.entry_id, due.time, result));
                continue;
            }
            // Answers arrive in the order of the requests. If the last answer is long past, all that
            // were unanswered then are lost together, so they do not time out one after another.
            Ok(pending) => {
                let lost_at = last_answer_at + REQUEST_TIMEOUT;
                let answer = timeout_at(lost_at, client.broker().confirm_job(&job.queue, pending));
                let lost = BrokerError::Timeout("enqueueing");
                answer.await.unwrap_or(Err(lost))
            }
        };
        match answer {
            Err(error @ (BrokerError::QueueNotFound(_) | BrokerError::Conflict)) => {
                last_answer_at = Instant::now();
                refused.push((due.entry_id, due.time, job, error));
            }
            answer => {
                if answer.is_ok() {
                    last_answer_at = Instant::now();
                }
                fired.push((due.entry_id, due.time, result_of(job.job_id, answer)));
            }
        }
    }
    if !refused.is_empty() {
        let again = stream::iter(refused).map(|(entry_id, time, job, error)| {
            let (client, lease) = (&client, &lease);
            async move {
                (
                    entry_id,
                    time,
                    enqueue_after(client, lease, job, error).await,
                )
            }
        });
        let again = again.buffer_unordered(REFUSED_AT_ONCE);
        fired.extend(again.collect::<Vec<Fired>>().await);
    }
    fired
}

/// How many ticks of one future are enqueued again at the same time, after the server has refused them.
const REFUSED_AT_ONCE: usize = 64;

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
    let queue = tick.job.queue.clone();
    let answer = match send(&client, &lease, tick.job.clone()).await {
        Ok(pending) => client.broker().confirm_job(&queue, pending).await,
        Err(result) => return result,
    };
    match answer {
        Err(error @ (BrokerError::QueueNotFound(_) | BrokerError::Conflict)) => {
            enqueue_after(&client, &lease, tick.job, error).await
        }
        // also without an answer: the leader at that time decides whether to retry
        answer => result_of(tick.job.job_id, answer),
    }
}

/// Sends a tick's job. If it is not sent, returns the result of the tick.
async fn send(
    client: &Client,
    lease: &LeaderLease,
    job: NewJob,
) -> Result<PendingWrite, FireResult> {
    failpoint("tick.due");
    let broker = client.broker();
    // The client would buffer the message without a connection, and send it when another leader may
    // have taken over.
    if !broker.connection().state().connected {
        return Err(FireResult::Failed(BrokerError::Timeout("enqueueing")));
    }
    // right before sending: the process may have been suspended for any time until here
    if !lease.is_held() {
        return Err(FireResult::NotLeader);
    }
    failpoint("tick.checked");
    broker.send_job(job).await.map_err(FireResult::Failed)
}

/// Enqueues a tick that the server has refused with this error.
async fn enqueue_after(
    client: &Client,
    lease: &LeaderLease,
    job: NewJob,
    error: BrokerError,
) -> FireResult {
    if !lease.is_held() {
        return FireResult::NotLeader;
    }
    let job_id = job.job_id.clone();
    result_of(
        job_id,
        client.broker().enqueue_after_error(job, error).await,
    )
}

fn result_of(job_id: JobId, answer: Result<EnqueueAck, BrokerError>) -> FireResult {
    match answer {
        // a job that exists already under this id is this very tick
        Ok(_) => {
            failpoint("tick.enqueued");
            FireResult::Enqueued(job_id)
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
