//! The type whose methods take a delivery through `claim`, `run` and `finish`.

use std::time::Duration;

use tokio::sync::SemaphorePermit;

use super::delivery::LeasedDelivery;
use super::report::Done;
use crate::clock::now;
use naq_core::{AttemptEnd, FinishedAttempt, end_attempt};
use naq_jetstream::NewJob;
use naq_protocol::{Envelope, JobId, Record};
use naq_runner::StopReason;

/// How often a job that waits for a place checks whether it may still wait.
const PLACE_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// One attempt at a job: a leased delivery whose envelope was read and is allowed here.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) delivery: LeasedDelivery<'a>,
    pub(super) envelope: &'a Envelope,
}

impl<'a> Attempt<'a> {
    /// Waits until the claimed job may start: all places may be taken by jobs that have ended and
    /// whose outcomes are on their way. On the same connection they are stored before the claim, so
    /// this seldom waits. `None` means that it must not wait any longer: outcomes are refused, the
    /// worker stops, or the lease is lost.
    pub(super) async fn place(&self) -> Option<SemaphorePermit<'a>> {
        let LeasedDelivery { context, lease, .. } = self.delivery;
        if let Ok(place) = context.places.try_acquire() {
            return Some(place);
        }
        let waiting = async {
            loop {
                tokio::select! {
                    place = context.places.acquire() => return place.ok(),
                    () = tokio::time::sleep(PLACE_CHECK_INTERVAL) => {
                        let is_stopped = lease.is_lost() || lease.stop_requested().is_some();
                        if is_stopped || context.refused_writes.exist() {
                            return None;
                        }
                    }
                }
            }
        };
        Box::pin(waiting).await
    }

    /// Returns a claimed job that has not started to its queue.
    pub(super) async fn return_unstarted(&self, record: Box<Record>, revision: u64) -> Done {
        let LeasedDelivery { context, lease, .. } = self.delivery;
        if lease.is_lost() {
            return Done::LeaseLost;
        }
        let end = match lease.stop_requested() {
            Some(StopReason::Cancel) => AttemptEnd::Cancelled,
            _ => AttemptEnd::Drained,
        };
        let unstarted = FinishedAttempt {
            end,
            error: None,
            retry_after: None,
            now: now(),
            random: rand::random(),
            max_worker_crashes: context.options.max_worker_crashes,
        };
        lease.mark_ended();
        let next = end_attempt(record, self.envelope, &unstarted);
        self.finish(next, revision, None).await
    }

    /// The delivered message as one to be published again under the same job id.
    pub(super) fn message_for(&self, job_id: &JobId) -> NewJob {
        let message = self.delivery.message;
        NewJob::with_id(
            job_id.clone(),
            message.queue.clone(),
            message.payload.clone(),
        )
    }
}
