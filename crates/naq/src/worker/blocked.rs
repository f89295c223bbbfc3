//! Jobs that cannot run yet, because of dependencies or a full concurrency key: blocked, looked up
//! again, released.
//!
//! A blocked job has a record with its envelope and no message. The worker that ends what it waits
//! for publishes it to its queue again. A released job is decided like any other delivery, so
//! releasing one too often does no harm.

use std::collections::HashSet;

use futures_util::{FutureExt, StreamExt, stream};

use super::attempt::Attempt;
use super::delivery::LeasedDelivery;
use crate::clock::now;
use naq_core::{ConcurrencySlot, DEPENDENCY_TIMEOUT_DEFAULT, DeliveryContext, DependencyStatus};
use naq_jetstream::{Broker, BrokerError, SlotWaiter, failpoint};
use naq_protocol::{
    BlockedOn, Dependency, Envelope, EnvelopeError, JobId, Record, SlotHolder, State, Timestamp,
    UnknownFields,
};

/// Number of records that are read at once.
const CONCURRENT_READS_MAX: usize = 64;

/// Number of records that the search for a dependency cycle reads at most.
const CYCLE_READS_MAX: usize = 10_000;

/// The result of blocking a job.
pub(super) enum BlockOutcome {
    /// The job is blocked; its message can be acknowledged.
    Blocked,
    /// Something that the job waits for has ended meanwhile: decide again.
    Reevaluate,
}

/// A blocked job as its record keeps it.
pub(super) struct BlockedJob {
    pub(super) payload: Vec<u8>,
    /// The envelope, or why this worker refuses it: it is lost, or of a later version.
    pub(super) envelope: Result<Envelope, EnvelopeError>,
    pub(super) enqueue_time: Timestamp,
    pub(super) envelope_digest: Option<String>,
}

impl LeasedDelivery<'_> {
    /// Reads the status of the dependencies in `open`. `is_overdue` adds the checks for a job that
    /// has waited for as long as a dependency may be missing: whether the dependency is queued, and
    /// whether it waits for this job in turn.
    pub(super) async fn resolve_dependencies(
        &self,
        job: &JobId,
        open: Vec<Dependency>,
        is_overdue: bool,
    ) -> Result<Vec<(Dependency, DependencyStatus)>, BrokerError> {
        stream::iter(open)
            .map(|dependency| {
                async move {
                    let reading =
                        || dependency_status(self.broker(), job, &dependency.job, is_overdue);
                    let status = self.persist(reading).await?;
                    Ok((dependency, status))
                }
                .boxed()
            })
            .buffered(CONCURRENT_READS_MAX)
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .collect()
    }

    /// Does what follows from a record whose job does not run any more: see
    /// [`Broker::finish_job`].
    pub(super) async fn finish_job(
        &self,
        record: &Record,
        envelope: Option<&Envelope>,
        waiter: SlotWaiter,
    ) -> Result<(), BrokerError> {
        let may_have_waited = envelope.is_some_and(|envelope| {
            !envelope.depends_on.is_empty() || envelope.concurrency_key.is_some()
        });
        // of a job that a worker has ended which may have died before it was indexed
        let may_lack_entry = waiter == SlotWaiter::MayExist && record.state().is_unsuccessful();
        // most jobs have nothing to do with others, and pay nothing here
        if !record.has_dependents && !may_have_waited && !may_lack_entry {
            return Ok(());
        }
        Box::pin(self.persist(|| self.broker().finish_job(record, envelope, waiter))).await
    }

    /// Reads a blocked job from its record. `None` if the job is not blocked any more.
    ///
    /// # Errors
    /// Returns the last error if the lease has expired without an answer.
    pub(super) async fn read_blocked_job(
        &self,
        job_id: &JobId,
    ) -> Result<Option<BlockedJob>, BrokerError> {
        let broker = self.broker();
        let (record, _) = self.persist(|| broker.read_record(job_id)).await?;
        let Some(record) = record.filter(|record| record.state() == State::Waiting) else {
            return Ok(None);
        };
        let payload = match (&record.envelope, &record.envelope_object) {
            (Some(envelope), _) => envelope.get().as_bytes().to_vec(),
            (None, Some(object)) => match self.persist(|| broker.get_object(object)).await {
                Err(BrokerError::NotFound(_)) => Vec::new(),
                read => read?,
            },
            (None, None) => Vec::new(),
        };
        Ok(Some(BlockedJob {
            envelope: Envelope::parse(&payload),
            payload,
            enqueue_time: record.enqueue_time,
            envelope_digest: record.envelope_digest,
        }))
    }
}

async fn dependency_status(
    broker: &Broker,
    job: &JobId,
    dependency: &JobId,
    is_overdue: bool,
) -> Result<DependencyStatus, BrokerError> {
    let record = match broker.read_record(dependency).await {
        Ok((record, _)) => record,
        Err(BrokerError::InvalidData(unreadable)) => {
            return Ok(DependencyStatus::Unreadable(unreadable.to_string()));
        }
        Err(error) => return Err(error),
    };
    let Some(record) = record.filter(|record| !record.placeholder) else {
        if is_overdue && broker.find_message(dependency).await?.is_some() {
            return Ok(DependencyStatus::Queued);
        }
        return Ok(DependencyStatus::Missing);
    };
    if record.state().is_terminal() {
        return Ok(DependencyStatus::Finished(record.state()));
    }
    if is_overdue && depends_on(broker, record, job).await? {
        return Ok(DependencyStatus::Circular);
    }
    Ok(DependencyStatus::Active)
}

/// Whether the job of `record` depends on `job`, directly or through other blocked jobs.
async fn depends_on(broker: &Broker, record: Record, job: &JobId) -> Result<bool, BrokerError> {
    let mut seen = HashSet::new();
    let mut next: Vec<JobId> = awaited_jobs(&record);
    while let Some(one) = next.pop() {
        if one == *job {
            return Ok(true);
        }
        if seen.len() >= CYCLE_READS_MAX || !seen.insert(one.clone()) {
            continue;
        }
        match broker.read_record(&one).await {
            Ok((record, _)) => next.extend(record.iter().flat_map(awaited_jobs)),
            // Its dependencies are unknown. The job that depends on it fails, which ends the wait.
            Err(BrokerError::InvalidData(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

fn awaited_jobs(record: &Record) -> Vec<JobId> {
    match (record.state(), record.waits()) {
        (State::Waiting, Some(waits)) => waits
            .dependencies
            .iter()
            .map(|dependency| dependency.job.clone())
            .collect(),
        _ => Vec::new(),
    }
}

impl Attempt<'_> {
    fn slots_max(&self) -> u32 {
        self.envelope.concurrency_max.unwrap_or(1)
    }

    /// Requests a slot of the job's concurrency key. A job without a key needs none.
    pub(super) async fn acquire_slot(
        &self,
        facts: &DeliveryContext,
    ) -> Result<ConcurrencySlot, BrokerError> {
        let Some(key) = &self.envelope.concurrency_key else {
            return Ok(ConcurrencySlot::Acquired);
        };
        let holder = SlotHolder {
            job: facts.job_id.clone(),
            queue: facts.queue.clone(),
            sequence: facts.sequence,
            unknown: UnknownFields::default(),
        };
        let broker = self.delivery.broker();
        let is_acquired = self
            .delivery
            .persist(|| broker.acquire_slot(key, self.slots_max(), &holder))
            .await?;
        Ok(if is_acquired {
            ConcurrencySlot::Acquired
        } else {
            ConcurrencySlot::Full
        })
    }

    /// Blocks a job on its dependencies or its concurrency key. The order matters:
    ///
    /// 1. Write the index keys by which the job is found.
    /// 2. Write the record, which says that the job waits.
    /// 3. Mark the dependencies as awaited, or list the job as waiting for a slot: from then on,
    ///    every worker that ends a dependency or releases a slot reads the index.
    /// 4. Check once whether a dependency or a slot holder ended before it could see the mark.
    pub(super) async fn block(
        &self,
        mut record: Box<Record>,
        revision: u64,
    ) -> Result<BlockOutcome, BrokerError> {
        let Some(waits) = record.waits().cloned() else {
            return Ok(BlockOutcome::Reevaluate);
        };
        let (delivery, broker) = (&self.delivery, self.delivery.broker());
        Box::pin(delivery.store_envelope(&mut record)).await?;
        let job = &record.job_id;
        if !waits.dependencies.is_empty() {
            delivery
                .persist(|| broker.index_dependencies(job, &waits.dependencies))
                .await?;
            failpoint("block.indexed");
        }
        match delivery
            .persist(|| broker.write_record(&record, revision, None))
            .await
        {
            Ok(_) => failpoint("block.written"),
            Err(BrokerError::Conflict) => return Ok(BlockOutcome::Reevaluate),
            Err(error) => return Err(error),
        }
        let has_ended_meanwhile = self.mark_waiting(&record, &waits).await?;
        failpoint("block.marked");
        if has_ended_meanwhile {
            return Ok(BlockOutcome::Reevaluate);
        }
        let recheck_at = [waits.until, self.envelope.expires_at]
            .into_iter()
            .flatten()
            .min();
        if let Some(at) = recheck_at {
            self.schedule_recheck(&record, at).await?;
        }
        tracing::debug!(job_id = %record.job_id, "blocked");
        Ok(BlockOutcome::Blocked)
    }

    /// Announces that the job waits. Returns whether one of those it waits for has ended already,
    /// and so did not see the announcement.
    async fn mark_waiting(&self, record: &Record, waits: &BlockedOn) -> Result<bool, BrokerError> {
        let (delivery, broker) = (&self.delivery, self.delivery.broker());
        if let Some(key) = &waits.concurrency_key {
            delivery
                .persist(|| broker.index_slot_waiter(key, &record.job_id))
                .await?;
            return delivery
                .persist(|| broker.has_free_slot(key, self.slots_max()))
                .await;
        }
        let timeout = self
            .envelope
            .dependency_timeout
            .map_or(DEPENDENCY_TIMEOUT_DEFAULT, |span| span.0);
        delivery
            .persist(|| broker.mark_awaited(&waits.dependencies, &record.queue, now(), timeout))
            .await
    }

    async fn schedule_recheck(&self, record: &Record, at: Timestamp) -> Result<(), BrokerError> {
        let (delivery, broker) = (&self.delivery, self.delivery.broker());
        let (queue, job) = (&record.queue, &record.job_id);
        delivery
            .persist(|| broker.schedule_recheck(queue, job, at))
            .await?;
        failpoint("block.recheck_scheduled");
        // If the job was released and claimed before the recheck existed, its worker found no
        // recheck to cancel, so this one would remain.
        let (present, _) = delivery.persist(|| broker.read_record(job)).await?;
        if present.is_none_or(|record| record.state() != State::Waiting) {
            delivery
                .persist(|| broker.cancel_recheck(queue, job))
                .await?;
        }
        Ok(())
    }

    /// Removes a job that waited for a slot, and has one now, from the index of those that wait.
    /// `before` is its record before it was claimed. If the server does not answer, the key stays
    /// until the reconciler removes it, which does no harm.
    pub(super) async fn remove_slot_waiter(&self, before: Option<&Record>) {
        let Some(before) = before.filter(|record| record.state() == State::Waiting) else {
            return;
        };
        let waited_for_slot = before
            .waits()
            .is_some_and(|waits| waits.concurrency_key.is_some());
        if waited_for_slot && let Some(key) = &self.envelope.concurrency_key {
            let broker = self.delivery.broker();
            let _ = broker.remove_slot_waiter(key, &before.job_id).await;
        }
    }
}
