//! Now and then the leader looks for what a crash left behind, and brings it to its end.
//!
//! Nothing of this is needed where nobody dies between two steps, and most of what dies is made up
//! for by whoever is given the message again. This is for what has no message: a job that waits
//! and was not told, a key that nobody will remove, a job whose message the server has lost, or
//! has again but gives to nobody.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered, StreamExt};

use super::clock;
use super::lock::Lease;
use naq_client::Client;
use naq_core::{OnEdge, lost, needs_another, needs_message, on_edge};
use naq_jetstream::{Broker, BrokerError, IndexEntry, IndexKey, Leftover, NewJob};
use naq_protocol::{Envelope, QueueName, Record, State, Timestamp};

/// How many keys or records are looked at at once.
const AT_ONCE: usize = 64;

/// The records are looked through once in so many sweeps: there may be very many.
const RECORDS_EVERY: u64 = 6;

/// How long a message that takes another's place is held, which is removed meanwhile: as long as that
/// one is there, a further one is taken for surplus.
const RENEWED_AFTER: Duration = Duration::from_secs(20);

/// Closer to that the other one is left for the next sweep.
const REMOVED_BEFORE: Duration = Duration::from_secs(10);

/// Messages by their queue and their sequence in it.
type Places = HashSet<(QueueName, u64)>;

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Swept {
    released: u64,
    forgotten: u64,
    enqueued: u64,
    ended: u64,
    removed: u64,
}

/// Sweeps from time to time, for as long as this is the leader.
pub(super) async fn sweep_now_and_then(
    client: Client,
    lease: Lease,
    interval: Duration,
    result_ttl: Duration,
) {
    let mut sweeps = 0_u64;
    let mut leftovers = Places::new();
    loop {
        tokio::time::sleep(interval).await;
        if !lease.is_held() {
            return;
        }
        let sweep = Sweep {
            broker: client.broker(),
            lease: &lease,
            // what is younger may be in the midst of being done
            before: clock::earlier(clock::now(), interval),
            result_ttl,
        };
        let with_records = sweeps.is_multiple_of(RECORDS_EVERY);
        match sweep.run(with_records, &mut leftovers).await {
            Ok(swept) if swept == Swept::default() => tracing::debug!("nothing was left behind"),
            Ok(swept) => tracing::warn!(
                released = swept.released,
                forgotten = swept.forgotten,
                enqueued = swept.enqueued,
                ended = swept.ended,
                removed = swept.removed,
                "swept up what was left behind"
            ),
            Err(error) => tracing::warn!("the sweep was cut off: {error}"),
        }
        sweeps += 1;
    }
}

struct Sweep<'a> {
    broker: &'a Broker,
    lease: &'a Lease,
    before: Timestamp,
    result_ttl: Duration,
}

impl Sweep<'_> {
    /// `leftovers` are messages that the sweep before saw that nobody will be given.
    async fn run(&self, with_records: bool, leftovers: &mut Places) -> Result<Swept, BrokerError> {
        let mut swept = Swept::default();
        let mut listing = self.broker.list_index().await?;
        let mut looks = FuturesUnordered::new();
        while let Some(entry) = listing.next().await? {
            if !self.lease.is_held() {
                return Ok(swept);
            }
            if entry.written_at > self.before {
                continue;
            }
            looks.push(self.look_at_key(entry));
            if looks.len() >= AT_ONCE {
                swept.add(looks.next().await.transpose()?);
            }
        }
        while let Some(one) = looks.next().await {
            swept.add(Some(one?));
        }
        if with_records {
            self.run_over_records(&mut swept).await?;
        }
        self.run_over_queues(leftovers, &mut swept).await?;
        Ok(swept)
    }

    /// Removes the messages that nobody will be given. One that was done with just now is being
    /// removed by the server itself, so those are meant that were there a sweep ago.
    async fn run_over_queues(
        &self,
        before: &mut Places,
        swept: &mut Swept,
    ) -> Result<(), BrokerError> {
        let mut seen = Places::new();
        for queue in self.broker.queue_names().await? {
            if let Err(error) = self.run_over_queue(&queue, before, &mut seen, swept).await {
                tracing::warn!(%queue, "the sweep of a queue was cut off: {error}");
            }
        }
        *before = seen;
        Ok(())
    }

    async fn run_over_queue(
        &self,
        queue: &QueueName,
        before: &Places,
        seen: &mut Places,
        swept: &mut Swept,
    ) -> Result<(), BrokerError> {
        for leftover in self.broker.list_leftovers(queue).await? {
            if !self.lease.is_held() {
                return Ok(());
            }
            let place = (queue.clone(), leftover.sequence);
            if !before.contains(&place) || !self.clear(&leftover, swept).await? {
                seen.insert(place);
            }
        }
        Ok(())
    }

    /// Says whether it is removed.
    async fn clear(&self, leftover: &Leftover, swept: &mut Swept) -> Result<bool, BrokerError> {
        let (record, _) = self.broker.read_record(&leftover.job_id).await?;
        if needs_another(record.as_ref(), leftover.sequence) {
            tracing::warn!(job_id = %leftover.job_id, "nobody would have been given it: it is enqueued anew");
            let again = NewJob {
                job_id: leftover.job_id.clone(),
                queue: leftover.queue.clone(),
                payload: leftover.payload.clone(),
                is_chosen: false,
                start: None,
            };
            let attempts = record.map_or(0, |record| record.attempt);
            let due = clock::later(clock::now(), RENEWED_AFTER);
            self.broker.hold_retry(again, due, attempts).await?;
            if clock::later(clock::now(), REMOVED_BEFORE) > due {
                return Ok(false);
            }
            swept.enqueued += 1;
        } else {
            swept.removed += 1;
        }
        self.broker.remove_leftover(leftover).await?;
        Ok(true)
    }

    async fn look_at_key(&self, entry: IndexEntry) -> Result<Swept, BrokerError> {
        let mut swept = Swept::default();
        let is_over = match &entry.key {
            IndexKey::Edge { dependency, job } => {
                let (dependency_record, job_record) = tokio::try_join!(
                    self.broker.read_record(dependency),
                    self.broker.read_record(job)
                )?;
                match on_edge(dependency_record.0.as_ref(), job_record.0.as_ref()) {
                    OnEdge::Keep => false,
                    OnEdge::Forget => true,
                    OnEdge::Release(ended) => {
                        self.broker.release_dependents(dependency, ended).await?;
                        swept.released += 1;
                        false
                    }
                }
            }
            IndexKey::Open { job } => {
                let (record, _) = self.broker.read_record(job).await?;
                on_edge(None, record.as_ref()) == OnEdge::Forget
            }
            IndexKey::Slot { job } => {
                let (record, _) = self.broker.read_record(job).await?;
                match record {
                    Some(record) if record.state.is_terminal() => true,
                    Some(record) if record.state == State::Waiting => {
                        swept.released += u64::from(self.offer_slot(&record).await?);
                        false
                    }
                    _ => false,
                }
            }
        };
        if is_over {
            self.broker.forget_index_entry(&entry).await?;
            swept.forgotten += 1;
        }
        Ok(swept)
    }

    /// Puts a job that waits for a slot back into its queue where there is one.
    async fn offer_slot(&self, record: &Record) -> Result<bool, BrokerError> {
        let waits = record.waits.as_ref();
        let Some(key) = waits.and_then(|waits| waits.concurrency_key.as_ref()) else {
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

    async fn run_over_records(&self, swept: &mut Swept) -> Result<(), BrokerError> {
        let workers = self.broker.list_workers().await?;
        let alive: HashSet<String> = workers.into_iter().map(|one| one.worker_id).collect();
        let mut listing = self.broker.list_records().await?;
        let mut suspects = Vec::new();
        while let Some((record, written_at)) = listing.next().await? {
            if !self.lease.is_held() {
                return Ok(());
            }
            let holder = record.lease.as_ref().map(|lease| &lease.worker_id);
            let is_held = holder.is_some_and(|holder| alive.contains(holder));
            if needs_message(&record) && !is_held && written_at <= self.before {
                suspects.push(record.job_id);
            }
        }
        let mut looks = stream::iter(suspects)
            .map(|job| async move {
                let (record, revision) = self.broker.read_record(&job).await?;
                match record {
                    Some(record) if needs_message(&record) => self.rescue(record, revision).await,
                    _ => Ok(Swept::default()),
                }
            })
            .buffer_unordered(AT_ONCE);
        while let Some(one) = looks.next().await {
            swept.add(Some(one?));
        }
        Ok(())
    }

    /// Gives a job that has no message left a new one, or, where nobody has its envelope, ends it.
    async fn rescue(&self, record: Record, revision: u64) -> Result<Swept, BrokerError> {
        let mut swept = Swept::default();
        let broker = self.broker;
        if let Some(lease) = &record.lease
            && broker
                .message_at(&record.queue, lease.sequence)
                .await?
                .is_some()
        {
            return Ok(swept);
        }
        let in_line = broker.find_in_queue(&record.queue, &record.job_id).await?;
        // whoever holds it may have gone on meanwhile
        if in_line.is_some() || broker.read_record(&record.job_id).await?.1 != revision {
            return Ok(swept);
        }
        let payload = match (&record.envelope, &record.envelope_object) {
            (Some(envelope), _) => Some(envelope.get().as_bytes().to_vec()),
            (None, Some(object)) => Some(broker.get_object(object).await?),
            (None, None) => None,
        };
        let job_id = record.job_id.clone();
        if let Some(payload) = payload {
            tracing::warn!(%job_id, "its message was gone: it is enqueued anew");
            broker
                .enqueue_again(NewJob {
                    job_id,
                    queue: record.queue,
                    payload: payload.into(),
                    is_chosen: false,
                    start: None,
                })
                .await?;
            swept.enqueued += 1;
            return Ok(swept);
        }
        let ended = lost(record, clock::now());
        let ttl = naq_core::result_ttl(None, self.result_ttl);
        match broker.write_record(&ended, revision, ttl).await {
            Ok(_) => {}
            Err(BrokerError::Conflict) => return Ok(swept),
            Err(error) => return Err(error),
        }
        tracing::error!(%job_id, "its message is gone, and its envelope with it: it has failed");
        if ended.dependents {
            broker.release_dependents(&job_id, ended.state).await?;
        }
        swept.ended += 1;
        Ok(swept)
    }
}

impl Swept {
    fn add(&mut self, other: Option<Swept>) {
        let other = other.unwrap_or_default();
        self.released += other.released;
        self.forgotten += other.forgotten;
        self.enqueued += other.enqueued;
        self.ended += other.ended;
        self.removed += other.removed;
    }
}
