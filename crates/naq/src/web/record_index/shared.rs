//! The index that all requests share: whether it is complete, and lists from it.
//!
//! The index follows the revisions of the bucket, which the server numbers without gaps and repeats on
//! `naq.event.*` when it stores them. That subscription exists for the pages anyway, so the index costs the server
//! nothing more. A consumer of the bucket would be delivered every record a second time; and a subscription to the
//! events of queues could not be checked, since those have no common numbers.
//!
//! A skipped revision, a lost connection and a slow consumer (the client drops what does not fit its buffer) are
//! the same to the watch: it reads what the bucket stored after the last revision that it saw. The bucket has the
//! latest revision of each record, and the index depends on nothing else, so that it is as complete as one that was
//! built from the beginning, for the price of the gap. Until then the index is not used. Only one kind of change
//! leaves no message: `naq purge` removes records without a marker, and a marker itself expires. Both make the
//! bucket have fewer keys than the index has records. Then, and if the bucket was created again or the watch had to
//! be opened again, everything is read again: `Reading` says how far.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::index::{RecordFacts, RecordIndex};
use super::query::Query;
use naq_client::{
    JobId, OutlinedChange, OutlinedRecord, RecordBucketState, RecordObserver, RecordOutline,
    RecordRevisions, RecordUpdate, RevisionBatch, RevisionBound, RevisionsLeft, Timestamp,
};

/// Time after which a record that the bucket does not have is removed from the index. It has usually changed, and
/// its event is on the way.
const MISSING_AGE_MIN: Duration = Duration::from_secs(2);

/// Maximum number of records that are remembered because the bucket does not have them.
const MISSING_MAX: usize = 1_024;

/// What the index can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::web) enum IndexState {
    /// It is complete.
    Ready {
        /// Number of records.
        records: usize,
        /// Approximate memory, in bytes.
        bytes: usize,
    },
    /// Records are being read.
    Indexing {
        /// The part that has been read, 0 to 99.
        percent: u8,
    },
    /// NATS does not permit or answer the reads.
    Unavailable,
}

/// The index, shared by its follower and all requests.
#[derive(Debug)]
pub(in crate::web) struct SharedIndex {
    state: Mutex<State>,
    /// The bucket has to be read from its beginning.
    pub(super) wanted: Notify,
}

#[derive(Debug)]
struct State {
    index: RecordIndex,
    /// Whether a watch gives the index all changes.
    is_watched: bool,
    reading: Reading,
    /// What the watch reads after a gap.
    catching_up: Option<Range>,
    /// Grows when a read of the bucket begins or becomes useless. A read that began with another number is over.
    epoch: u64,
    /// Revisions that a list did not find, and when.
    missing: Vec<(u64, Instant)>,
    /// The state of the bucket at the last check, and the newest revision of the index then.
    checked: Option<(RecordBucketState, u64)>,
}

/// Whether the bucket was read since the watch was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// It was.
    Done,
    /// Not yet; this is the part that has been read.
    Part(Range),
    /// The last attempt failed.
    Failed,
}

/// Revisions that are being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Range {
    first: u64,
    last: u64,
    read: u64,
}

impl Range {
    fn percent(self) -> u8 {
        let all = self.last.saturating_sub(self.first).max(1);
        let read = self.read.saturating_sub(self.first).min(all);
        u8::try_from(u128::from(read) * 100 / u128::from(all)).map_or(99, |percent| percent.min(99))
    }
}

impl SharedIndex {
    pub(super) fn new(bytes_max: usize) -> SharedIndex {
        SharedIndex {
            state: Mutex::new(State {
                index: RecordIndex::new(bytes_max),
                is_watched: false,
                reading: Reading::Part(Range::default()),
                catching_up: None,
                epoch: 0,
                missing: Vec::new(),
                checked: None,
            }),
            wanted: Notify::new(),
        }
    }

    /// What the index can be used for now.
    pub(in crate::web) fn state(&self) -> IndexState {
        self.lock().usable()
    }

    /// The records that a search looks for. `None` means that the index is not complete.
    pub(in crate::web) fn select(
        self: &Arc<Self>,
        query: Query,
    ) -> Option<Arc<dyn RecordRevisions>> {
        let is_ready = matches!(self.state(), IndexState::Ready { .. });
        is_ready.then(|| {
            let index = Arc::clone(self);
            Arc::new(Selection { index, query }) as Arc<dyn RecordRevisions>
        })
    }

    /// Reads from the index. `None` means that it is not complete.
    pub(in crate::web) fn read<T>(&self, read: impl FnOnce(&RecordIndex) -> T) -> Option<T> {
        let state = self.lock();
        let is_ready = matches!(state.usable(), IndexState::Ready { .. });
        is_ready.then(|| read(&state.index))
    }

    /// The function that gives the index all changes of the bucket from now on. Everything before has to be read,
    /// so it wakes the reader.
    pub(in crate::web) fn observer(self: &Arc<Self>) -> RecordObserver {
        let index = Arc::clone(self);
        let mut state = self.lock();
        state.is_watched = true;
        // a read that began before has missed changes
        state.epoch += 1;
        state.reading = Reading::Part(Range::default());
        drop(state);
        index.wanted.notify_one();
        Box::new(move |update| {
            let is_wanted = index.lock().on_update(update);
            if is_wanted {
                index.wanted.notify_one();
            }
        })
    }

    /// The watch has ended: changes are missed from now on.
    pub(in crate::web) fn on_watch_closed(&self) {
        let mut state = self.lock();
        state.epoch += 1;
        state.is_watched = false;
        state.reading = Reading::Failed;
        state.catching_up = None;
    }

    /// Forgets everything, before the bucket is read: a change that arrives in between is kept. Returns the number
    /// of the read.
    pub(super) fn start_reading(&self) -> u64 {
        let mut state = self.lock();
        state.epoch += 1;
        state.index.start_reading();
        state.missing.clear();
        state.checked = None;
        state.reading = Reading::Part(Range::default());
        state.epoch
    }

    /// The last revision that a read is going to reach.
    pub(super) fn set_last(&self, epoch: u64, last: u64) {
        let mut state = self.lock();
        if state.epoch == epoch
            && let Reading::Part(part) = &mut state.reading
        {
            part.last = last;
        }
    }

    /// Stores what was read. Returns whether the read continues.
    pub(super) fn on_read(&self, epoch: u64, record: &OutlinedRecord) -> bool {
        let mut state = self.lock();
        if state.epoch != epoch {
            return false;
        }
        if let Reading::Part(part) = &mut state.reading {
            if part.first == 0 {
                part.first = record.revision;
            }
            part.read = record.revision;
        }
        match &record.outline {
            Some(outline) => {
                let facts = facts(&record.job_id, outline, record.time);
                state.index.put(record.revision, &facts);
            }
            None => state.index.remove(record.job_id.as_str(), record.revision),
        }
        true
    }

    /// The bucket has been read up to a revision.
    pub(super) fn finish_reading(&self, epoch: u64, last: u64) {
        let mut state = self.lock();
        if state.epoch == epoch {
            state.index.finish_reading(last);
            state.reading = Reading::Done;
        }
    }

    /// The bucket could not be read.
    pub(super) fn on_read_failed(&self, epoch: u64) {
        let mut state = self.lock();
        if state.epoch == epoch {
            state.reading = Reading::Failed;
        }
    }

    /// The number of records, to be compared with a later state of the bucket. `None` means that the index is not
    /// complete.
    pub(super) fn records(&self) -> Option<usize> {
        match self.state() {
            IndexState::Ready { records, .. } => Some(records),
            IndexState::Indexing { .. } | IndexState::Unavailable => None,
        }
    }

    /// Compares the index with the bucket, whose state was read after the index had this number of records. Returns
    /// whether the bucket has to be read again.
    pub(super) fn check(&self, records: usize, bucket: Option<RecordBucketState>) -> bool {
        let mut state = self.lock();
        state.forget_missing();
        if !matches!(state.usable(), IndexState::Ready { .. }) {
            return false;
        }
        // Every record has a key, and a removed one keeps it for its marker. So a bucket with fewer keys has lost
        // some without a message.
        let keys = bucket.map_or(0, |bucket| bucket.keys);
        let has_lost = u64::try_from(records).is_ok_and(|records| records > keys);
        let newest = state.index.newest();
        // A server that stops after it stores a message, and before it repeats it, leaves a gap that the next
        // message reveals. There may be no next one.
        let is_behind = state
            .checked
            .is_some_and(|(last, then)| newest == then && newest < last.last_revision);
        state.checked = bucket.map(|bucket| (bucket, newest));
        has_lost || is_behind
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn usable(&self) -> IndexState {
        match (self.reading, self.catching_up) {
            (Reading::Failed, _) => IndexState::Unavailable,
            (Reading::Part(part), _) => IndexState::Indexing {
                percent: part.percent(),
            },
            (Reading::Done, _) if !self.is_watched => IndexState::Unavailable,
            (Reading::Done, Some(gap)) => IndexState::Indexing {
                percent: gap.percent(),
            },
            (Reading::Done, None) => IndexState::Ready {
                records: self.index.len(),
                bytes: self.index.bytes(),
            },
        }
    }

    /// Applies a change. Returns whether the bucket has to be read from its beginning.
    fn on_update(&mut self, update: RecordUpdate<'_>) -> bool {
        match update {
            RecordUpdate::Stored(change) => self.on_stored(change),
            RecordUpdate::Removed { job_id, revision } => {
                self.index.remove(job_id.as_str(), revision);
                self.advance(revision);
            }
            RecordUpdate::CatchUpStarted { after, up_to } => {
                self.catching_up = (up_to > after).then_some(Range {
                    first: after,
                    last: up_to,
                    read: after,
                });
            }
            RecordUpdate::CatchUpFinished => self.catching_up = None,
            // A read of the former bucket must not add its records to those of the new one.
            RecordUpdate::BucketReplaced => {
                self.epoch += 1;
                self.index.start_reading();
                self.reading = Reading::Part(Range::default());
                return true;
            }
            _ => {}
        }
        false
    }

    fn on_stored(&mut self, change: &OutlinedChange) {
        let (job_id, time) = (&change.job_id, change.time);
        self.index
            .put(change.revision, &facts(job_id, &change.outline, time));
        self.advance(change.revision);
    }

    fn advance(&mut self, revision: u64) {
        if let Some(gap) = &mut self.catching_up {
            gap.read = revision;
        }
    }

    fn forget_missing(&mut self) {
        let index = &mut self.index;
        self.missing.retain(|(revision, since)| {
            let is_old = since.elapsed() >= MISSING_AGE_MIN;
            if is_old && index.forget(*revision) {
                tracing::debug!(
                    revision,
                    "the index had a record that the bucket does not have"
                );
            }
            !is_old
        });
    }
}

/// What the index keeps of a record.
fn facts<'r>(job_id: &'r JobId, outline: &'r RecordOutline, time: Timestamp) -> RecordFacts<'r> {
    RecordFacts {
        job_id: job_id.as_str(),
        queue: outline.queue.as_str(),
        state: outline.state,
        reason: outline.reason,
        worker_id: outline.worker_id.as_deref(),
        schedule_id: outline.schedule_id.as_ref().map(|id| id.as_str()),
        labels: outline.labels(),
        blocker: outline.blocker(),
        is_rerun: outline.is_rerun(),
        time_ms: time.unix_ms(),
    }
}

/// The records that a search looks for.
#[derive(Debug)]
struct Selection {
    index: Arc<SharedIndex>,
    query: Query,
}

impl RecordRevisions for Selection {
    fn below(&self, bound: RevisionBound, count: usize) -> RevisionBatch {
        let batch = self
            .index
            .read(|index| index.below(bound, &self.query, count));
        // the index became incomplete during the listing, which continues without it
        batch.unwrap_or(RevisionBatch {
            revisions: Vec::new(),
            left: RevisionsLeft::Unindexed(match bound {
                RevisionBound::Below(revision) => revision,
                RevisionBound::Newest | RevisionBound::NoLaterThan(_) => u64::MAX,
            }),
        })
    }

    fn on_missing(&self, revision: u64) {
        let mut state = self.index.lock();
        let is_known = state.missing.iter().any(|(known, _)| *known == revision);
        if !is_known && state.missing.len() < MISSING_MAX {
            state.missing.push((revision, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{Outcome, Phase, QueueName, Record};

    fn at() -> Timestamp {
        Timestamp::from_unix_ms(1_000).unwrap()
    }

    fn change(id: &str, revision: u64) -> OutlinedChange {
        let phase = Phase::Finished {
            outcome: Outcome::Succeeded,
            finished_at: at(),
        };
        let (job_id, queue) = (JobId::new(id).unwrap(), QueueName::new("q").unwrap());
        OutlinedChange {
            outline: RecordOutline::from(&Record::new(job_id.clone(), queue, phase, at())),
            job_id,
            revision,
            previous: None,
            copy_of: None,
            time: at(),
        }
    }

    fn read(id: &str, revision: u64) -> OutlinedRecord {
        let change = change(id, revision);
        OutlinedRecord {
            job_id: change.job_id,
            revision,
            time: change.time,
            outline: Some(change.outline),
        }
    }

    fn revisions(index: &Arc<SharedIndex>) -> Option<Vec<u64>> {
        let selected = index.select(Query::default())?;
        Some(selected.below(RevisionBound::Newest, 100).revisions)
    }

    /// An index of one record, `a` at the revision 60.
    fn complete() -> Arc<SharedIndex> {
        let index = Arc::new(SharedIndex::new(usize::MAX));
        drop(index.observer());
        let epoch = index.start_reading();
        assert!(index.on_read(epoch, &read("a", 60)));
        index.finish_reading(epoch, 60);
        index
    }

    /// Gives changes to an index that is watched already.
    fn observe(index: &Arc<SharedIndex>) -> impl FnMut(RecordUpdate<'_>) {
        |update| {
            index.lock().on_update(update);
        }
    }

    #[test]
    fn an_index_serves_lists_only_once_all_records_are_read() {
        let index = Arc::new(SharedIndex::new(usize::MAX));
        let mut observe = index.observer();
        let indexing = |percent| IndexState::Indexing { percent };
        assert_eq!(index.state(), indexing(0));
        let epoch = index.start_reading();
        index.set_last(epoch, 110);
        assert!(index.on_read(epoch, &read("a", 10)));
        assert!(index.on_read(epoch, &read("b", 60)));
        assert_eq!(index.state(), indexing(50));
        observe(RecordUpdate::Stored(&change("b", 111)));
        observe(RecordUpdate::Removed {
            job_id: &JobId::new("c").unwrap(),
            revision: 112,
        });
        // the read delivers what was removed meanwhile
        assert!(index.on_read(epoch, &read("c", 110)));
        assert_eq!((index.state(), revisions(&index)), (indexing(99), None));
        index.finish_reading(epoch, 110);
        assert!(matches!(
            index.state(),
            IndexState::Ready { records: 2, .. }
        ));
        assert_eq!(revisions(&index), Some(vec![111, 10]));
    }

    #[test]
    fn an_index_is_not_used_while_missed_changes_are_read() {
        let index = complete();
        let mut observe = observe(&index);
        let during = index.select(Query::default()).unwrap();
        observe(RecordUpdate::CatchUpStarted {
            after: 60,
            up_to: 160,
        });
        observe(RecordUpdate::Stored(&change("b", 110)));
        assert_eq!(index.state(), IndexState::Indexing { percent: 50 });
        // a list that began before continues with the stream
        let batch = during.below(RevisionBound::Below(60), 10);
        assert_eq!(batch.left, RevisionsLeft::Unindexed(60));
        observe(RecordUpdate::CatchUpFinished);
        assert_eq!(revisions(&index), Some(vec![110, 60]));
        // nothing was missed
        observe(RecordUpdate::CatchUpStarted {
            after: 110,
            up_to: 110,
        });
        assert_eq!(revisions(&index), Some(vec![110, 60]));
        index.on_watch_closed();
        assert_eq!(index.state(), IndexState::Unavailable);
        // a read without a watch misses changes
        let epoch = index.start_reading();
        index.finish_reading(epoch, 110);
        assert_eq!(revisions(&index), None);
        let before = index.start_reading();
        let _observer = index.observer();
        assert!(!index.on_read(before, &read("a", 60)));
        index.finish_reading(before, 110);
        assert_eq!(index.state(), IndexState::Indexing { percent: 0 });
    }

    #[tokio::test]
    async fn a_bucket_that_was_created_again_is_read_from_its_beginning() {
        let index = Arc::new(SharedIndex::new(usize::MAX));
        let mut observe = index.observer();
        index.wanted.notified().await;
        let epoch = index.start_reading();
        observe(RecordUpdate::BucketReplaced);
        index.wanted.notified().await;
        assert!(!index.on_read(epoch, &read("a", 60)));
        index.finish_reading(epoch, 60);
        assert_eq!(revisions(&index), None);
        let epoch = index.start_reading();
        index.finish_reading(epoch, 0);
        assert_eq!(revisions(&index), Some(vec![]));
    }

    #[test]
    fn records_that_were_removed_without_a_message_are_noticed() {
        let bucket = |keys, last_revision| {
            Some(RecordBucketState {
                created_at: at(),
                last_revision,
                keys,
            })
        };
        let index = complete();
        assert!(!index.check(1, bucket(1, 60)));
        // markers have keys too
        assert!(!index.check(1, bucket(2, 60)));
        assert!(index.check(1, bucket(0, 60)));
        assert!(index.check(1, None));
        // the events of the last messages never came
        assert!(!index.check(1, bucket(2, 61)));
        assert!(index.check(1, bucket(2, 61)));
        index.start_reading();
        assert!(!index.check(1, None));
    }

    #[test]
    fn a_record_that_a_list_does_not_find_leaves_the_index_if_no_event_comes() {
        let index = complete();
        let selected = index.select(Query::default()).unwrap();
        selected.on_missing(60);
        index.check(1, None);
        assert_eq!(revisions(&index), Some(vec![60]));
        for (_, since) in &mut index.lock().missing {
            *since -= MISSING_AGE_MIN;
        }
        index.check(1, None);
        assert_eq!(revisions(&index), Some(vec![]));
    }
}
