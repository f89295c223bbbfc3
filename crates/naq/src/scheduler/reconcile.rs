//! The reconciler: periodically, the leader repairs what crashes left behind.
//!
//! Without a crash between two steps there is nothing to do, and after most crashes the redelivered
//! message repairs all. This is for what has no message: a blocked job that was not released, an
//! index key that nothing will remove, a job whose message the server has lost, or has in its stream
//! but delivers to no consumer, a consumer that is past the end of its stream.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered, StreamExt};

use super::complete_index::complete_index;
use super::leader_lease::LeaderLease;
use crate::clock;
use crate::metrics::Metrics;
use naq_client::Client;
use naq_core::{
    OnDependencyEdge, fail_lost_job, may_have_never_run, needs_message, needs_replacement_message,
    on_dependency_edge,
};
use naq_jetstream::{
    BlockedIndexEntry, BlockedIndexKey, Broker, BrokerError, InvalidData, NewJob, OrphanedMessage,
    SlotWaiter,
};
use naq_protocol::{Envelope, QueueName, Record, State, Timestamp};

/// Number of keys or records that are read at once.
const CONCURRENT_READS_MAX: usize = 64;

/// All records are scanned in one of so many runs: there may be very many.
const RECORDS_SCAN_INTERVAL: u64 = 6;

/// Delay of a message that replaces an orphaned one, which is removed meanwhile: while both exist, the
/// new one would be taken for a duplicate.
const REPLACEMENT_DELAY: Duration = Duration::from_secs(20);

/// If less time than this is left until the replacement is due, the orphaned message is left for
/// the next run.
const REMOVAL_MARGIN: Duration = Duration::from_secs(10);

/// Messages by queue and sequence.
type MessagePositions = HashSet<(QueueName, u64)>;

/// Counts of what one run has repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReconcileSummary {
    /// Blocked jobs that were released.
    pub(super) released: u64,
    /// Index keys that were removed.
    pub(super) keys_removed: u64,
    /// Jobs that got a new message.
    pub(super) republished: u64,
    /// Jobs that failed because message and envelope are lost.
    pub(super) failed: u64,
    /// Orphaned messages that were removed.
    pub(super) messages_removed: u64,
    /// Consumers that were recreated because their stream had lost messages.
    pub(super) consumers_recreated: usize,
}

/// Runs the reconciler periodically while this is the leader.
pub(super) async fn reconcile_loop(
    client: Client,
    lease: LeaderLease,
    interval: Duration,
    result_ttl: Duration,
    metrics: Arc<Metrics>,
) {
    let mut runs = 0_u64;
    let mut orphans = MessagePositions::new();
    // The server may have lost entries since the last comparison.
    complete_index(client.broker(), &lease).await;
    loop {
        tokio::time::sleep(interval).await;
        if !lease.is_held() {
            return;
        }
        let reconciler = Reconciler {
            broker: client.broker(),
            lease: &lease,
            // younger keys and records may belong to work that is under way
            before: clock::saturating_sub(clock::now(), interval),
            result_ttl,
        };
        let with_records = runs.is_multiple_of(RECORDS_SCAN_INTERVAL);
        if with_records {
            complete_index(client.broker(), &lease).await;
        }
        match reconciler.run(with_records, &mut orphans).await {
            Ok(summary) if summary == ReconcileSummary::default() => {
                tracing::debug!("nothing to reconcile")
            }
            Ok(summary) => {
                summary.count_into(&metrics);
                tracing::warn!(
                    released = summary.released,
                    keys_removed = summary.keys_removed,
                    republished = summary.republished,
                    failed = summary.failed,
                    messages_removed = summary.messages_removed,
                    consumers_recreated = summary.consumers_recreated,
                    "reconciled what a crash left behind"
                );
            }
            Err(error) => {
                tracing::warn!("reconciling failed, trying again in the next run: {error}")
            }
        }
        runs += 1;
    }
}

/// One run.
struct Reconciler<'a> {
    broker: &'a Broker,
    lease: &'a LeaderLease,
    /// Only what was written before this time is repaired.
    before: Timestamp,
    result_ttl: Duration,
}

impl Reconciler<'_> {
    /// `orphans` are the orphaned messages that the run before has seen, and then those of this
    /// run.
    async fn run(
        &self,
        with_records: bool,
        orphans: &mut MessagePositions,
    ) -> Result<ReconcileSummary, BrokerError> {
        let mut summary = ReconcileSummary::default();
        let mut listing = self.broker.list_blocked_index().await?;
        let mut checks = FuturesUnordered::new();
        while let Some(entry) = listing.next().await? {
            if !self.lease.is_held() {
                return Ok(summary);
            }
            if entry.written_at > self.before {
                continue;
            }
            checks.push(self.reconcile_index_entry(entry));
            if checks.len() >= CONCURRENT_READS_MAX {
                summary.add(checks.next().await.map(skip_unreadable).transpose()?);
            }
        }
        while let Some(one) = checks.next().await {
            summary.add(Some(skip_unreadable(one)?));
        }
        if with_records {
            self.reconcile_records(&mut summary).await?;
        }
        self.reconcile_queues(orphans, &mut summary).await?;
        Ok(summary)
    }

    /// Removes the orphaned messages: those that no consumer will deliver. The server itself is
    /// about to remove a message that was acknowledged just now, so only those count that the run
    /// before has seen too.
    async fn reconcile_queues(
        &self,
        before: &mut MessagePositions,
        summary: &mut ReconcileSummary,
    ) -> Result<(), BrokerError> {
        let mut seen = MessagePositions::new();
        for queue in self.broker.queue_names().await? {
            if let Err(error) = self
                .reconcile_queue(&queue, before, &mut seen, summary)
                .await
            {
                tracing::warn!(%queue, "cannot reconcile the queue, trying again in the next run: {error}");
            }
        }
        *before = seen;
        Ok(())
    }

    async fn reconcile_queue(
        &self,
        queue: &QueueName,
        before: &MessagePositions,
        seen: &mut MessagePositions,
        summary: &mut ReconcileSummary,
    ) -> Result<(), BrokerError> {
        // Before the orphans: a message that a stale consumer skips is not orphaned.
        summary.consumers_recreated += self.broker.recreate_stale_consumers(queue).await?;
        for orphan in self.broker.list_orphaned_messages(queue).await? {
            if !self.lease.is_held() {
                return Ok(());
            }
            let place = (queue.clone(), orphan.sequence);
            let is_removed = before.contains(&place)
                && match self.resolve_orphan(&orphan, summary).await {
                    Err(BrokerError::InvalidData(error)) => {
                        log_unreadable(&error);
                        false
                    }
                    resolved => resolved?,
                };
            if !is_removed {
                seen.insert(place);
            }
        }
        Ok(())
    }

    /// Replaces an orphaned message if its job needs one, and removes it. Returns whether it was
    /// removed.
    async fn resolve_orphan(
        &self,
        orphan: &OrphanedMessage,
        summary: &mut ReconcileSummary,
    ) -> Result<bool, BrokerError> {
        let (record, revision) = self.broker.read_record(&orphan.job_id).await?;
        // A record that has expired, or that a user has removed, leaves a marker for a while.
        let has_no_trace = record.is_none() && revision == 0 && !orphan.is_recheck;
        let is_skipped = has_no_trace && {
            let envelope = Envelope::parse(&orphan.payload).ok();
            let age = (clock::now().0 - orphan.stored_at.0)
                .to_std()
                .unwrap_or_default();
            may_have_never_run(envelope.as_ref(), age, self.result_ttl)
        };
        if is_skipped || needs_replacement_message(record.as_ref(), orphan.sequence) {
            tracing::warn!(job_id = %orphan.job_id, "orphaned message, republishing");
            let again = NewJob {
                job_id: orphan.job_id.clone(),
                queue: orphan.queue.clone(),
                payload: orphan.payload.clone(),
                has_user_id: false,
                start: None,
                trace: None,
            };
            let attempts = record.map_or(0, |record| record.attempt);
            let due = clock::saturating_add(clock::now(), REPLACEMENT_DELAY);
            self.broker.delay_retry(again, due, attempts).await?;
            if clock::saturating_add(clock::now(), REMOVAL_MARGIN) > due {
                return Ok(false);
            }
            summary.republished += 1;
        } else {
            summary.messages_removed += 1;
        }
        self.broker.remove_orphaned_message(orphan).await?;
        Ok(true)
    }

    async fn reconcile_index_entry(
        &self,
        entry: BlockedIndexEntry,
    ) -> Result<ReconcileSummary, BrokerError> {
        let mut summary = ReconcileSummary::default();
        let is_over = match &entry.key {
            BlockedIndexKey::Edge { dependency, job } => {
                let (dependency_record, job_record) = tokio::join!(
                    self.broker.read_record(dependency),
                    self.broker.read_record(job)
                );
                let job_record = job_record?;
                let dependency_record = match dependency_record {
                    // Nothing will end the wait. The worker that gets the job fails it with the reason.
                    Err(BrokerError::InvalidData(_)) => {
                        if self.broker.release(job).await? {
                            summary.released += 1;
                            return Ok(summary);
                        }
                        (None, 0)
                    }
                    read => read?,
                };
                match on_dependency_edge(dependency_record.0.as_ref(), job_record.0.as_ref()) {
                    OnDependencyEdge::Keep => false,
                    OnDependencyEdge::Remove => true,
                    OnDependencyEdge::Release(ended) => {
                        self.broker.release_dependents(dependency, ended).await?;
                        summary.released += 1;
                        false
                    }
                }
            }
            BlockedIndexKey::Open { job } => {
                let (record, _) = self.broker.read_record(job).await?;
                on_dependency_edge(None, record.as_ref()) == OnDependencyEdge::Remove
            }
            BlockedIndexKey::Slot { job } => {
                let (record, _) = self.broker.read_record(job).await?;
                match record {
                    Some(record) if record.state().is_terminal() => true,
                    Some(record) if record.state() == State::Waiting => {
                        summary.released += u64::from(self.offer_slot(&record).await?);
                        false
                    }
                    _ => false,
                }
            }
        };
        if is_over {
            self.broker.remove_blocked_index_entry(&entry).await?;
            summary.keys_removed += 1;
        }
        Ok(summary)
    }

    /// Releases a job that waits for a slot, if one is free.
    async fn offer_slot(&self, record: &Record) -> Result<bool, BrokerError> {
        let Some(key) = record
            .waits()
            .and_then(|waits| waits.concurrency_key.as_ref())
        else {
            return Ok(false);
        };
        let envelope = record.envelope.as_ref();
        let envelope = envelope.and_then(|json| Envelope::parse(json.get().as_bytes()).ok());
        let max = envelope.and_then(|envelope| envelope.concurrency_max);
        if !self.broker.has_free_slot(key, max.unwrap_or(1)).await? {
            return Ok(false);
        }
        self.broker.release(&record.job_id).await
    }

    async fn reconcile_records(&self, summary: &mut ReconcileSummary) -> Result<(), BrokerError> {
        let workers = self.broker.list_workers().await?;
        let alive: HashSet<String> = workers.into_iter().map(|one| one.worker_id).collect();
        let mut listing = self.broker.list_records().await?;
        let mut suspects = Vec::new();
        while let Some((record, written_at)) = listing.next().await? {
            if !self.lease.is_held() {
                return Ok(());
            }
            let holder = record.lease().map(|lease| &lease.worker_id);
            let is_held = holder.is_some_and(|holder| alive.contains(holder));
            if needs_message(&record) && !is_held && written_at <= self.before {
                suspects.push(record.job_id);
            }
        }
        let mut checks = stream::iter(suspects)
            .map(|job| async move {
                let (record, revision) = self.broker.read_record(&job).await?;
                match record {
                    Some(record) if needs_message(&record) => {
                        self.recover_job(record, revision).await
                    }
                    _ => Ok(ReconcileSummary::default()),
                }
            })
            .buffer_unordered(CONCURRENT_READS_MAX);
        while let Some(one) = checks.next().await {
            summary.add(Some(skip_unreadable(one)?));
        }
        Ok(())
    }

    /// Republishes a job whose message is lost. If its envelope is lost too, the job fails.
    async fn recover_job(
        &self,
        record: Record,
        revision: u64,
    ) -> Result<ReconcileSummary, BrokerError> {
        let mut summary = ReconcileSummary::default();
        let broker = self.broker;
        if let Some(lease) = record.lease()
            && broker
                .payload_at(&record.queue, lease.sequence, &record.job_id)
                .await?
                .is_some()
        {
            return Ok(summary);
        }
        let in_queue = broker.find_in_queue(&record.queue, &record.job_id).await?;
        // its worker may have continued meanwhile
        if in_queue.is_some() || broker.read_record(&record.job_id).await?.1 != revision {
            return Ok(summary);
        }
        let payload = match (&record.envelope, &record.envelope_object) {
            (Some(envelope), _) => Some(envelope.get().as_bytes().to_vec()),
            (None, Some(object)) => match broker.get_object(object).await {
                Err(BrokerError::NotFound(_)) => None,
                read => Some(read?),
            },
            (None, None) => None,
        };
        let job_id = record.job_id.clone();
        if let Some(payload) = payload {
            tracing::warn!(%job_id, "message lost, republishing");
            broker
                .republish(NewJob {
                    job_id,
                    queue: record.queue,
                    payload: payload.into(),
                    has_user_id: false,
                    start: None,
                    trace: None,
                })
                .await?;
            summary.republished += 1;
            return Ok(summary);
        }
        let ended = fail_lost_job(record, clock::now());
        let ttl = naq_core::result_ttl(None, self.result_ttl);
        match broker.write_record(&ended, revision, ttl).await {
            Ok(_) => {}
            Err(BrokerError::Conflict) => return Ok(summary),
            Err(error) => return Err(error),
        }
        tracing::error!(%job_id, "message and envelope lost, the job has failed");
        broker
            .finish_job(&ended, None, SlotWaiter::MayExist)
            .await?;
        summary.failed += 1;
        Ok(summary)
    }
}

/// Leaves out a job of which a record or a slot cannot be read: it must not keep the others from being
/// reconciled.
fn skip_unreadable(
    done: Result<ReconcileSummary, BrokerError>,
) -> Result<ReconcileSummary, BrokerError> {
    match done {
        Err(BrokerError::InvalidData(error)) => {
            log_unreadable(&error);
            Ok(ReconcileSummary::default())
        }
        done => done,
    }
}

fn log_unreadable(error: &InvalidData) {
    tracing::warn!("cannot reconcile one job: {error}");
}

impl ReconcileSummary {
    fn add(&mut self, other: Option<ReconcileSummary>) {
        let other = other.unwrap_or_default();
        self.released += other.released;
        self.keys_removed += other.keys_removed;
        self.republished += other.republished;
        self.failed += other.failed;
        self.messages_removed += other.messages_removed;
        self.consumers_recreated += other.consumers_recreated;
    }
}
