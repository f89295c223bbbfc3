//! The type whose methods take a delivery through `claim`, `run` and `finish`.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::context::WorkerContext;
use super::delivery::LeasedDelivery;
use super::report::Done;
use crate::clock::now;
use naq_core::{AttemptEnd, FinishedAttempt, end_attempt};
use naq_jetstream::{NewJob, failpoint};
use naq_protocol::{Envelope, JobId, Record};
use naq_runner::{Slot, StopReason};

/// When a delivered job is to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// A slot is free.
    Now,
    /// As soon as one of the jobs that run ends: see [`ClaimAhead`](super::claim_ahead::ClaimAhead).
    Next,
}

/// What a job needs to start.
pub(super) struct Place<'a> {
    /// `None` once the job has ended, and for a job that waits at its spawner.
    slot: Option<Slot>,
    /// Of [`WorkerContext::outcomes`], held until the outcome is recorded.
    _outcome: SemaphorePermit<'a>,
}

impl<'a> Place<'a> {
    /// Takes only what the outcome needs, for a job that waits at its spawner. `None` if too many outcomes are not
    /// recorded yet.
    fn take_to_wait(context: &'a WorkerContext) -> Option<Place<'a>> {
        Some(Place {
            slot: None,
            _outcome: context.outcomes.try_acquire().ok()?,
        })
    }

    /// Waits until a place is free, in this slot if one is given. `None` if the worker has ended.
    async fn take(context: &'a WorkerContext, slot: Option<Slot>) -> Option<Place<'a>> {
        let slot = match slot {
            Some(slot) => slot,
            None => context.runner.slot().await,
        };
        let outcome = context.outcomes.acquire().await.ok()?;
        Some(Place {
            slot: Some(slot),
            _outcome: outcome,
        })
    }

    /// The slot in which the job starts at once. `None` if it waits at its spawner until another one ends.
    pub(super) fn slot(&self) -> Option<&Slot> {
        self.slot.as_ref()
    }

    /// The job has ended: the next one may start, although the outcome is not recorded yet.
    pub(super) fn end_run(&mut self) {
        self.slot = None;
    }
}

/// How often a job that waits for a place checks whether it may still wait.
const PLACE_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// One attempt at a job: a leased delivery whose envelope was read and is allowed here.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) delivery: LeasedDelivery<'a>,
    pub(super) envelope: &'a Envelope,
    pub(super) turn: Turn,
}

impl<'a> Attempt<'a> {
    /// Waits until the claimed job may start: until one of those that run ends, if it is claimed ahead. Otherwise
    /// it has its slot already, but many jobs may have ended whose outcomes are on their way. `None` means that it must
    /// not wait any longer: outcomes are refused, the worker stops, the lease is lost, or the job is only next and no
    /// other one ends.
    pub(super) async fn place(&self, record: &Record, slot: Option<Slot>) -> Option<Place<'a>> {
        match self.waits_at_spawner(record) {
            true => Place::take_to_wait(self.delivery.context),
            false => self.free_place(slot).await,
        }
    }

    /// Waits until the job may start, as [`Attempt::place`] does, in this process.
    pub(super) async fn free_place(&self, slot: Option<Slot>) -> Option<Place<'a>> {
        let LeasedDelivery { context, lease, .. } = self.delivery;
        let turn = self.turn;
        let slot = slot.or_else(|| context.runner.try_slot());
        if slot.is_some()
            && let Ok(_outcome) = context.outcomes.try_acquire()
        {
            return Some(Place { slot, _outcome });
        }
        let waiting = async {
            // kept over the loop: jobs take places in the order in which they came
            let mut taking = pin!(Place::take(context, slot));
            loop {
                let check_at = match turn {
                    Turn::Now => Instant::now() + PLACE_CHECK_INTERVAL,
                    // All jobs that wait are requeued at once, and so in their order.
                    Turn::Next => context.claim_ahead.stall_at(),
                };
                tokio::select! {
                    place = &mut taking => return place,
                    () = tokio::time::sleep_until(check_at) => {
                        let is_stopped = lease.is_lost() || lease.stop_requested().is_some();
                        let has_stalled = turn == Turn::Next && context.claim_ahead.has_stalled();
                        if is_stopped || has_stalled || context.refused_writes.exist() {
                            return None;
                        }
                    }
                }
            }
        };
        Box::pin(waiting).await
    }

    /// Whether the job is claimed ahead and waits at its spawner only, which starts it the moment another one ends. It
    /// waits in this process too if anything has to be done before its start, or if a warm process might run it.
    fn waits_at_spawner(&self, record: &Record) -> bool {
        if !record.lease().is_some_and(|lease| lease.claimed_ahead) {
            return false;
        }
        let envelope = self.envelope;
        let is_plain = envelope.command.is_some() && envelope.secrets.is_empty();
        is_plain
            && !envelope.has_inputs()
            && !self.needs_files()
            && self.delivery.context.options.warm.is_empty()
    }

    /// Returns a claimed job that has not started to its queue.
    pub(super) async fn return_unstarted(&self, record: Box<Record>, revision: u64) -> Done {
        let LeasedDelivery { context, lease, .. } = self.delivery;
        failpoint("unstarted.returning");
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
