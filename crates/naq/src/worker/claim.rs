//! Claiming a job: decides from the delivery and the job's record what to do, and takes the steps
//! until the claim is written or nothing is left to run.

use std::ops::ControlFlow;
use std::time::Duration;

use super::attempt::{Attempt, Place, Turn};
use super::blocked::BlockOutcome;
use super::context::RefusedWrite;
use super::delivery::{LeasedDelivery, RETRY_BACKOFF};
use super::record_outcome::WARNING_INTERVAL;
use super::report::Done;
use crate::clock::now;
use naq_core::{
    ConcurrencySlot, DeliveryContext, DeliveryDecision, HolderReply, RunAlone, Takeover,
    decide_delivery, decide_takeover,
};
use naq_jetstream::{BrokerError, BrokerErrorKind, LeaseQuery, NewJob, SlotWaiter, failpoint};
use naq_protocol::{
    Dependency, EnvelopeError, JobId, Lease, Record, RejectReason, State, Timestamp, is_equivalent,
};
use naq_runner::StopReason;

/// Pause before the holder of a lease is asked again.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// The right of one suspect to run alone on this worker.
pub(super) type AlonePermit<'a> = tokio::sync::SemaphorePermit<'a>;

/// The result of trying to claim a job.
pub(super) enum Claim<'a> {
    /// The job is this worker's to run.
    Claimed(ClaimedJob<'a>),
    /// The delivery has been dealt with, and there is nothing to run.
    Done(Done),
}

/// A job that is this worker's to run.
pub(super) struct ClaimedJob<'a> {
    pub(super) record: Box<Record>,
    /// The revision of the record.
    pub(super) revision: u64,
    /// The permit of a suspect, to be kept until its outcome is recorded.
    pub(super) alone: Option<AlonePermit<'a>>,
    /// The place of a job that could not be claimed before it had one.
    pub(super) place: Option<Place<'a>>,
}

/// What a step of claiming leads to: the next one, or the result.
type Step<'a> = ControlFlow<Claim<'a>>;

/// Claims again from the start, reading the record.
const AGAIN: Step<'static> = ControlFlow::Continue(());

fn done<'a>(done: Done) -> Step<'a> {
    ControlFlow::Break(Claim::Done(done))
}

/// A job's record as it was read. `None` if there is none, at revision 0.
struct RecordSnapshot {
    record: Option<Box<Record>>,
    revision: u64,
}

impl RecordSnapshot {
    fn state(&self) -> Option<State> {
        self.record.as_ref().map(|record| record.state())
    }

    fn shared_crashes(&self) -> u32 {
        let record = self.record.as_ref();
        record.map_or(0, |record| record.shared_crashes)
    }
}

/// What claiming one job carries from one decision to the next.
struct Claiming<'a> {
    attempt: &'a Attempt<'a>,
    facts: DeliveryContext,
    /// Whether the job may run here. If not, it is rerouted by its labels.
    runs_here: bool,
    /// Whether the job may have been blocked: it has dependencies or a concurrency key.
    may_have_waited: bool,
    /// The record, if the next decision goes by the one already read.
    snapshot: Option<RecordSnapshot>,
    /// Revision of the record at which its lease's message was found to be missing.
    message_missing_at: Option<u64>,
    /// Start times of the claims that were sent and whose answer was lost.
    unanswered_claims: Vec<Timestamp>,
    /// Claims that failed in a row.
    failures: u32,
    /// The permit of a suspect that may run alone.
    alone: Option<AlonePermit<'a>>,
    /// Whether it may be claimed only once it has a place.
    needs_place: bool,
    /// The place of a job that cannot be claimed before it has one.
    place: Option<Place<'a>>,
    /// The claim counts as refused until it succeeds, if NATS has no room for it.
    refused: Option<RefusedWrite<'a>>,
}

impl<'a> Attempt<'a> {
    /// Decides what the delivery means and does what that takes, until the job is claimed or
    /// there is nothing to run.
    pub(super) async fn claim(&'a self, facts: DeliveryContext) -> Claim<'a> {
        let mut claiming = Claiming::new(self, facts);
        loop {
            if let ControlFlow::Break(claim) = claiming.step().await {
                return claim;
            }
        }
    }

    /// Whether another worker may be about to reroute this very message: one that lacked the
    /// required labels, and stalled since. A worker that ran the job by this message would lose it
    /// when that worker continues, so the job is rerouted again, whichever worker has it.
    fn may_be_rerouted(&self) -> bool {
        let (message, options) = (self.delivery.message, &self.delivery.context.options);
        !self.envelope.requires.is_empty()
            && message.delivery > 1
            && !message.is_rerouted
            && options.single_job.is_none()
    }
}

impl<'a> Claiming<'a> {
    fn new(attempt: &'a Attempt<'a>, mut facts: DeliveryContext) -> Claiming<'a> {
        let (envelope, options) = (attempt.envelope, &attempt.delivery.context.options);
        let runs_here = naq_core::has_required_labels(&options.labels, &envelope.requires)
            && !attempt.may_be_rerouted();
        let may_have_waited = !envelope.depends_on.is_empty() || envelope.concurrency_key.is_some();
        facts.slot = slot_to_begin_with(runs_here);
        facts.alone = alone_to_begin_with(runs_here, options.concurrency);
        // The job of a first delivery usually has no record yet: claiming without reading it saves a
        // round trip, and if a record exists, the claim fails with a conflict. The message of a
        // retry is new too, and its job surely has a record.
        let is_first = facts.delivery == 1
            && !attempt.delivery.message.is_retry()
            && !may_have_waited
            && runs_here;
        facts.claimed_ahead = attempt.turn == Turn::Next;
        Claiming {
            attempt,
            needs_place: attempt.turn == Turn::Next && !is_first,
            place: None,
            facts,
            runs_here,
            may_have_waited,
            snapshot: is_first.then_some(RecordSnapshot {
                record: None,
                revision: 0,
            }),
            message_missing_at: None,
            unanswered_claims: Vec::new(),
            failures: 0,
            alone: None,
            refused: None,
        }
    }

    fn delivery(&self) -> LeasedDelivery<'a> {
        self.attempt.delivery
    }

    /// One decision, and what it takes. Rare ways are boxed: they would make each task larger.
    async fn step(&mut self) -> Step<'a> {
        match self.delivery().lease.stop_requested() {
            None => {}
            Some(StopReason::Cancel) => self.facts.cancel_requested = true,
            Some(_) => return Box::pin(self.requeue()).await,
        }
        let snapshot = match self.snapshot.take() {
            Some(snapshot) => snapshot,
            None if self.needs_place => return Box::pin(self.wait_for_place()).await,
            None => match Box::pin(self.read_record()).await {
                Ok(snapshot) => snapshot,
                Err(done) => return ControlFlow::Break(Claim::Done(done)),
            },
        };
        let snapshot = self.recognize_own_claim(snapshot)?;
        self.facts.now = now();
        match decide_delivery(
            snapshot.record.as_deref(),
            self.attempt.envelope,
            &self.facts,
        ) {
            DeliveryDecision::Run(_)
            | DeliveryDecision::RequestRunAlone
            | DeliveryDecision::AcquireSlot
                if self.needs_own_message(&snapshot) =>
            {
                Box::pin(self.republish(snapshot)).await
            }
            DeliveryDecision::Run(running) if !self.runs_here => {
                Box::pin(self.reroute(snapshot, running)).await
            }
            DeliveryDecision::Run(running) => self.write_claim(snapshot, running).await,
            DeliveryDecision::ChangeId => self.change_id(),
            DeliveryDecision::CompareEnvelopes => Box::pin(self.compare_envelopes(snapshot)).await,
            DeliveryDecision::ResolveDependencies(open) => {
                Box::pin(self.resolve_dependencies(snapshot, open)).await
            }
            DeliveryDecision::AskHolder(lease) => Box::pin(self.ask_holder(lease)).await,
            DeliveryDecision::RequestRunAlone => self.request_run_alone(snapshot),
            DeliveryDecision::Postpone(record, due) => {
                Box::pin(self.postpone(snapshot, record, due)).await
            }
            DeliveryDecision::AcquireSlot => Box::pin(self.acquire_slot(snapshot)).await,
            DeliveryDecision::Block(record) => {
                Box::pin(self.block(record, snapshot.revision)).await
            }
            DeliveryDecision::End(record) => Box::pin(self.end(record, snapshot.revision)).await,
            DeliveryDecision::Superseded => done(Done::LeaseLost),
            DeliveryDecision::DuplicateMessage => Box::pin(self.drop_duplicate(snapshot)).await,
            DeliveryDecision::AlreadyFinished => Box::pin(self.complete_finished(snapshot)).await,
            DeliveryDecision::DelayUntil(due) => Box::pin(self.delay(snapshot, due)).await,
        }
    }

    /// Waits for a place before the record of a job is read that may not be run as it was delivered: it may have to
    /// wait for others, for a slot of its concurrency key or for a retry, and must not keep the next one from starting.
    async fn wait_for_place(&mut self) -> Step<'a> {
        match self.attempt.free_place(None).await {
            Some(place) => {
                self.place = Some(place);
                self.needs_place = false;
                AGAIN
            }
            None => self.requeue().await,
        }
    }

    /// The job is claimed, under this revision of its record.
    fn claimed(&mut self, record: Box<Record>, revision: u64) -> Claim<'a> {
        Claim::Claimed(ClaimedJob {
            record,
            revision,
            alone: self.alone.take(),
            place: self.place.take(),
        })
    }

    /// Gives the job an id that no message of an earlier stream can have, and starts again.
    fn change_id(&mut self) -> Step<'a> {
        let message = self.delivery().message;
        let stored_at = message.enqueue_time.unix_ms().unsigned_abs();
        let job_id = JobId::for_sequence_and_time(&message.queue, message.sequence, stored_at);
        tracing::warn!(
            taken = %self.facts.job_id,
            %job_id,
            "a job of an earlier stream of this queue has the id; the job gets another one"
        );
        self.delivery().lease.set_job_id(&job_id);
        self.facts.job_id = job_id;
        self.facts.has_sequence_id = false;
        AGAIN
    }

    /// Returns the message to its queue: the worker stops before the job has started.
    async fn requeue(&mut self) -> Step<'a> {
        let delivery = self.delivery();
        let _ = delivery.lease.nak(delivery.broker()).await;
        done(Done::Requeued)
    }

    async fn read_record(&mut self) -> Result<RecordSnapshot, Done> {
        let delivery = self.delivery();
        match delivery
            .persist(|| delivery.broker().read_record(&self.facts.job_id))
            .await
        {
            Ok((record, revision)) => Ok(RecordSnapshot {
                record: record.map(Box::new),
                revision,
            }),
            Err(error) => Err(self.end_after(error).await),
        }
    }

    /// Ends claiming if the record is a claim of this delivery that was sent from here: its
    /// answer was lost, but the write had succeeded. A claim under the same delivery number that
    /// was not sent from here is another attempt: the server had lost its state and counts
    /// deliveries from 1 again.
    fn recognize_own_claim(
        &mut self,
        snapshot: RecordSnapshot,
    ) -> ControlFlow<Claim<'a>, RecordSnapshot> {
        let is_own = |record: &Record| {
            record.state() == State::Running
                && record.lease().is_some_and(|lease| {
                    lease.worker_id == self.facts.worker_id
                        && lease.sequence == self.facts.sequence
                        && lease.delivery == self.facts.delivery
                })
                && record
                    .started_at
                    .is_some_and(|at| self.unanswered_claims.contains(&at))
        };
        match snapshot.record {
            Some(record) if is_own(&record) => {
                ControlFlow::Break(self.claimed(record, snapshot.revision))
            }
            _ => ControlFlow::Continue(snapshot),
        }
    }

    /// Writes the claim by compare-and-set: of several workers that have the job, one succeeds.
    async fn write_claim(&mut self, snapshot: RecordSnapshot, record: Box<Record>) -> Step<'a> {
        let delivery = self.delivery();
        failpoint("claim.before");
        match delivery
            .broker()
            .write_record(&record, snapshot.revision, None)
            .await
        {
            Ok(revision) => {
                failpoint("claim.written");
                self.count_wait(snapshot.record.as_deref());
                log_suspicion(snapshot.shared_crashes(), &record);
                if self.may_have_waited {
                    Box::pin(self.attempt.remove_slot_waiter(snapshot.record.as_deref())).await;
                }
                ControlFlow::Break(self.claimed(record, revision))
            }
            Err(BrokerError::Conflict) => {
                delivery.context.metrics.write_conflicts.inc();
                self.facts.dependency_statuses = None;
                self.facts.lease_message_missing = false;
                AGAIN
            }
            Err(error) if error.is_final_for_write() => Box::pin(self.give_up(error)).await,
            Err(error) => {
                self.unanswered_claims.extend(record.started_at);
                if self.failures.is_multiple_of(WARNING_INTERVAL) {
                    tracing::warn!(job_id = %self.facts.job_id, "cannot claim the job, retrying: {error}");
                }
                if delivery.lease.is_lost() {
                    return done(Done::LeaseLost);
                }
                if error.kind() == BrokerErrorKind::StorageFull {
                    let refused = &delivery.context.refused_writes;
                    self.refused.get_or_insert_with(|| refused.count(&error));
                }
                self.failures += 1;
                tokio::time::sleep(RETRY_BACKOFF.pause(self.failures, rand::random())).await;
                AGAIN
            }
        }
    }

    /// Counts how long the claimed job has waited since it was due. After a crash or a requeue, the start of
    /// the wait is unknown. `before` is the record that the claim replaced.
    fn count_wait(&self, before: Option<&Record>) {
        let message = self.delivery().message;
        let retry = before.and_then(|record| record.next_attempt_at());
        let first = || self.facts.scheduled_for.unwrap_or(message.enqueue_time);
        let due = retry.or_else(|| (message.delivery == 1).then(first));
        if let Some(due) = due {
            let metrics = &self.delivery().context.metrics;
            metrics.on_claimed(&self.facts.queue, due, self.facts.now);
        }
    }

    /// Whether the job must not run by this message. A recheck message has no envelope of its
    /// own. A message by which the job was blocked may still be about to be removed by the worker
    /// that blocked the job, however late: a worker that ran the job by it would lose it then.
    fn needs_own_message(&self, snapshot: &RecordSnapshot) -> bool {
        let message = self.delivery().message;
        message.is_recheck()
            || snapshot
                .record
                .as_ref()
                .is_some_and(|record| record.superseded_sequence == Some(message.sequence))
    }

    /// Publishes a new message for a job that may run, and drops this one.
    async fn republish(&mut self, snapshot: RecordSnapshot) -> Step<'a> {
        let (delivery, job_id) = (self.delivery(), &self.facts.job_id);
        let broker = delivery.broker();
        let waits = snapshot.state() == Some(State::Waiting);
        let published = if delivery.message.is_recheck() || waits {
            delivery.persist(|| broker.release(job_id)).await.map(drop)
        } else {
            // without a message id: the server would take it for a duplicate of the first message
            let again = NewJob {
                job_id: job_id.clone(),
                queue: self.facts.queue.clone(),
                payload: delivery.message.payload.clone(),
                has_user_id: false,
                start: None,
                trace: None,
            };
            delivery.persist(|| broker.republish(again.clone())).await
        };
        if let Err(error) = published {
            return self.give_up(error).await;
        }
        failpoint("recheck.released");
        done(delivery.acknowledge(Done::NothingToRun).await)
    }

    async fn reroute(&mut self, snapshot: RecordSnapshot, running: Box<Record>) -> Step<'a> {
        let present = snapshot.record.as_deref();
        let rerouting = self
            .attempt
            .reroute_by_labels(present, snapshot.revision, running);
        match rerouting.await {
            Ok(result) => done(result),
            Err(BrokerError::Conflict) => {
                self.facts.dependency_statuses = None;
                AGAIN
            }
            Err(error) => self.give_up(error).await,
        }
    }

    /// Ends claiming after a request that has failed.
    async fn give_up(&self, error: BrokerError) -> Step<'a> {
        done(self.end_after(error).await)
    }

    /// What becomes of the delivery after a request that has failed. A job whose record NATS will
    /// never store, or that cannot be decided because a stored value cannot be read, is rejected with an
    /// explanation: each further delivery of its message would fail in the same way.
    async fn end_after(&self, error: BrokerError) -> Done {
        let problem = match error {
            BrokerError::InvalidData(unreadable) => unreadable.to_string(),
            error if error.is_final_for_write() => format!("the job cannot be recorded: {error}"),
            _ => return Done::LeaseLost,
        };
        let refused = EnvelopeError::new(RejectReason::Invalid, "", problem);
        self.delivery().reject(&self.facts, &refused).await
    }

    /// The envelope's bytes differ from those of the job's first one. If both mean the same, the
    /// delivery is decided under the first one's digest; otherwise the id is taken. If the first
    /// envelope no longer exists, they count as different.
    async fn compare_envelopes(&mut self, snapshot: RecordSnapshot) -> Step<'a> {
        let RecordSnapshot { record, revision } = snapshot;
        let Some(mut record) = record else {
            return AGAIN;
        };
        let delivery = self.delivery();
        let first = delivery
            .persist(|| delivery.broker().envelope_of(&record))
            .await;
        match first {
            Ok(Some(first)) if is_equivalent(&first, &delivery.message.payload) => {
                // If the job runs by this message, its retries have these bytes, and the first ones may be gone.
                record.envelope_digest = Some(self.facts.envelope_digest.clone());
                self.snapshot = Some(RecordSnapshot {
                    record: Some(record),
                    revision,
                });
                AGAIN
            }
            // The job waits for a retry in a message that no subject names. This one is delivered again after
            // `ack_wait`; once the job runs or has ended, its record says where the envelope is.
            Ok(None) if !record.state().is_terminal() => done(Done::LeaseLost),
            Ok(_) => self.reject_id_conflict().await,
            Err(_) => done(Done::LeaseLost),
        }
    }

    /// Rejects an envelope whose job id belongs to another envelope. The rejection is recorded
    /// under an id made of the message's queue and sequence, since the id is the other job's.
    async fn reject_id_conflict(&self) -> Step<'a> {
        let delivery = self.delivery();
        let taken = EnvelopeError::new(
            RejectReason::Invalid,
            "job_id",
            format!(
                "the job id `{}` is taken by another envelope",
                self.facts.job_id
            ),
        );
        let facts = DeliveryContext {
            job_id: JobId::for_sequence(&delivery.message.queue, delivery.message.sequence),
            ..self.facts.clone()
        };
        done(delivery.reject(&facts, &taken).await)
    }

    async fn resolve_dependencies(
        &mut self,
        snapshot: RecordSnapshot,
        open: Vec<Dependency>,
    ) -> Step<'a> {
        // once the job has waited for as long as a dependency may be missing
        let is_overdue = snapshot
            .record
            .as_ref()
            .and_then(|record| record.waits()?.until)
            .is_some_and(|until| self.facts.now >= until);
        let delivery = self.delivery();
        let resolving = delivery.resolve_dependencies(&self.facts.job_id, open, is_overdue);
        match resolving.await {
            Ok(statuses) => {
                self.facts.dependency_statuses = Some(statuses);
                self.snapshot = Some(snapshot);
                AGAIN
            }
            Err(error) => self.give_up(error).await,
        }
    }

    /// Asks the holder of a lease whether it still runs the job, until the answer is final.
    async fn ask_holder(&mut self, lease: Lease) -> Step<'a> {
        let delivery = self.delivery();
        let (broker, options) = (delivery.broker(), &delivery.context.options);
        let query = LeaseQuery::new(&self.facts.job_id, &lease);
        let (mut is_first, mut silent) = (true, 0);
        loop {
            match delivery.lease.stop_requested() {
                // whether the job is cancelled is for its holder, or the next decision
                None | Some(StopReason::Cancel) => {}
                Some(_) => return AGAIN,
            }
            if delivery.lease.is_lost() {
                return done(Done::LeaseLost);
            }
            let reply = if lease.worker_id == self.facts.worker_id {
                let leases = &delivery.context.leases;
                leases.state_of(&query, Some(delivery.lease)).into()
            } else {
                match broker
                    .ask_lease_holder(&lease.worker_id, &query, silent)
                    .await
                {
                    Ok(reply) => reply,
                    Err(error) => {
                        tracing::debug!(job_id = %self.facts.job_id, "cannot ask the holder of a lease, retrying: {error}");
                        HolderReply::Stopping
                    }
                }
            };
            silent = match reply {
                HolderReply::Silent { times, .. } => times,
                _ => 0,
            };
            match decide_takeover(reply, options.takeover_after) {
                Takeover::LeaveToHolder => {
                    tracing::debug!(job_id = %self.facts.job_id, holder = %lease.worker_id, "the worker that holds the lease runs the job");
                    return done(Done::NothingToRun);
                }
                Takeover::TakeOver(end) => {
                    failpoint("takeover.decided");
                    self.facts.ended_lease = Some((lease, end));
                    return AGAIN;
                }
                Takeover::AskAgain => {
                    if std::mem::take(&mut is_first) {
                        tracing::info!(job_id = %self.facts.job_id, holder = %lease.worker_id, "waiting for the worker that holds the lease to reconnect or to stop the job");
                    }
                    tokio::time::sleep(ASK_INTERVAL).await;
                }
            }
        }
    }

    /// Ends the job without running it. A record that has changed since it was read, or that was
    /// not read, may say otherwise.
    async fn end(&mut self, record: Box<Record>, revision: u64) -> Step<'a> {
        match self.attempt.end_without_running(record, revision).await {
            Ok(result) => done(result),
            Err(BrokerError::Conflict) => {
                self.facts.dependency_statuses = None;
                self.facts.slot = slot_to_begin_with(self.runs_here);
                AGAIN
            }
            Err(error) => self.give_up(error).await,
        }
    }

    /// Requests that a suspect may run alone. It never waits for that here: it would keep its lease,
    /// and a slot of this worker, from a worker that is free for it.
    fn request_run_alone(&mut self, snapshot: RecordSnapshot) -> Step<'a> {
        self.facts.alone = match self.delivery().context.running_alone.try_acquire() {
            Ok(permit) => {
                self.alone = Some(permit);
                RunAlone::Granted
            }
            Err(_) => RunAlone::Refused,
        };
        self.snapshot = Some(snapshot);
        AGAIN
    }

    /// Has a suspect delivered again later, to any worker. The record comes first, as for a retry:
    /// nobody may run the job by this message any more.
    async fn postpone(
        &mut self,
        snapshot: RecordSnapshot,
        record: Box<Record>,
        due: Timestamp,
    ) -> Step<'a> {
        let delivery = self.delivery();
        let broker = delivery.broker();
        log_suspicion(snapshot.shared_crashes(), &record);
        match delivery
            .persist(|| broker.write_record(&record, snapshot.revision, None))
            .await
        {
            Ok(_) => {}
            Err(BrokerError::Conflict) => {
                self.facts.alone = RunAlone::NotRequested;
                self.facts.dependency_statuses = None;
                return AGAIN;
            }
            Err(error) => return self.give_up(error).await,
        }
        failpoint("postpone.written");
        tracing::debug!(job_id = %record.job_id, %due, "another suspect runs alone on this worker; trying the job again later");
        let envelope = Some(self.attempt.envelope);
        let job = self.attempt.message_for(&self.facts.job_id);
        let delayed = async {
            // a suspect of a crash may still have its slot of the concurrency key
            delivery
                .finish_job(&record, envelope, SlotWaiter::MayExist)
                .await?;
            delivery
                .persist(|| broker.delay_retry(job.clone(), due, record.attempt))
                .await
        };
        if let Err(error) = delayed.await {
            return self.give_up(error).await;
        }
        done(delivery.acknowledge(Done::NothingToRun).await)
    }

    async fn acquire_slot(&mut self, snapshot: RecordSnapshot) -> Step<'a> {
        match self.attempt.acquire_slot(&self.facts).await {
            Ok(slot) => {
                self.facts.slot = slot;
                self.snapshot = Some(snapshot);
                AGAIN
            }
            Err(error) => self.give_up(error).await,
        }
    }

    async fn block(&mut self, record: Box<Record>, revision: u64) -> Step<'a> {
        match self.attempt.block(record, revision).await {
            Ok(BlockOutcome::Blocked) => {
                done(self.delivery().acknowledge(Done::NothingToRun).await)
            }
            Ok(BlockOutcome::Reevaluate) => {
                self.facts.dependency_statuses = None;
                self.facts.slot = slot_to_begin_with(self.runs_here);
                AGAIN
            }
            Err(error) => self.give_up(error).await,
        }
    }

    /// Drops a message of a job that runs by another one, unless that one no longer exists: a
    /// worker that held it for too long may have claimed by it after another had rerouted it.
    async fn drop_duplicate(&mut self, snapshot: RecordSnapshot) -> Step<'a> {
        match self.is_lease_message_missing(&snapshot).await {
            // The job may just have ended, which removes its message: that shows in the record, so
            // it is read once more before the message counts as missing.
            Ok(true) if self.message_missing_at != Some(snapshot.revision) => {
                self.message_missing_at = Some(snapshot.revision);
                AGAIN
            }
            Ok(true) => {
                self.facts.lease_message_missing = true;
                self.snapshot = Some(snapshot);
                AGAIN
            }
            Ok(false) => done(self.delivery().acknowledge(Done::NothingToRun).await),
            Err(_) => done(Done::LeaseLost),
        }
    }

    /// Whether the message by which the job runs, as its record says, no longer exists.
    async fn is_lease_message_missing(
        &self,
        snapshot: &RecordSnapshot,
    ) -> Result<bool, BrokerError> {
        let record = snapshot.record.as_deref();
        let Some((record, sequence)) =
            record.and_then(|record| Some((record, record.lease()?.sequence)))
        else {
            return Ok(false);
        };
        let delivery = self.delivery();
        let payload = delivery
            .persist(|| {
                delivery
                    .broker()
                    .payload_at(&record.queue, sequence, &record.job_id)
            })
            .await?;
        Ok(payload.is_none())
    }

    /// Repeats what a crash after the job's end may have left undone, then acknowledges.
    async fn complete_finished(&mut self, snapshot: RecordSnapshot) -> Step<'a> {
        let delivery = self.delivery();
        if let Some(record) = &snapshot.record {
            let completed = async {
                if record.state() == State::Failed {
                    delivery.dead_letter(record).await?;
                }
                let envelope = Some(self.attempt.envelope);
                delivery
                    .finish_job(record, envelope, SlotWaiter::MayExist)
                    .await
            };
            if completed.await.is_err() {
                return done(Done::LeaseLost);
            }
        }
        done(delivery.acknowledge(Done::NothingToRun).await)
    }

    /// Delays the message again: it was delivered before its time.
    async fn delay(&mut self, snapshot: RecordSnapshot, due: Timestamp) -> Step<'a> {
        let delivery = self.delivery();
        let job = self.attempt.message_for(&self.facts.job_id);
        let attempts = snapshot.record.as_ref().map_or(0, |record| record.attempt);
        let delayed = delivery
            .persist(|| delivery.broker().delay_retry(job.clone(), due, attempts))
            .await;
        if let Err(error) = delayed {
            return self.give_up(error).await;
        }
        failpoint("delay.written");
        done(delivery.acknowledge(Done::NothingToRun).await)
    }
}

/// Whether a slot is still to be requested. For a job that does not run here, the worker that runs
/// it acquires the slot.
fn slot_to_begin_with(runs_here: bool) -> ConcurrencySlot {
    if runs_here {
        ConcurrencySlot::NotRequested
    } else {
        ConcurrencySlot::Acquired
    }
}

/// Whether the job still has to request that it may run alone. A worker that runs one job at a
/// time runs every job alone, and a job that does not run here need not.
fn alone_to_begin_with(runs_here: bool, concurrency: usize) -> RunAlone {
    if runs_here && concurrency > 1 {
        RunAlone::NotRequested
    } else {
        RunAlone::Granted
    }
}

/// Logs that a crash has made a job a suspect. `shared_crashes` is the number on the record before.
pub(super) fn log_suspicion(shared_crashes: u32, record: &Record) {
    if record.shared_crashes > shared_crashes {
        let last = record.interruptions.last();
        tracing::warn!(
            job_id = %record.job_id,
            queue = %record.queue,
            worker = last.map(|last| last.worker_id.as_str()),
            "suspect: a worker or spawner process crashed while it ran this job and others; the crash is not counted, and the job runs alone next"
        );
    }
}
