//! The index itself: what is known of each record, by its revision and by the id of its job.
//!
//! Its content depends only on the latest revision of each job that it was given, not on the order in which it was
//! given them, so that the bucket can be read while changes arrive. A record takes some 100 bytes: 40 for its row,
//! the id of its job, and 15 to 27 in the map of ids. What records share (queues, workers, schedules, and sets of
//! labels) is stored once.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::interner::{Interner, TextId};
use super::labels;
use super::query::{CompiledQuery, Query, reason_code, state_code};
use super::rows::{CHUNK_ROWS_MAX, Row, Rows};
use naq_client::{Blocker, RevisionBatch, RevisionBound, RevisionsLeft};
use naq_protocol::{Reason, State};

/// Maximum number of rows that one call looks at, so that other requests are served in between.
const ROWS_AT_ONCE: usize = 64 * CHUNK_ROWS_MAX;

/// Average memory of a place in the map of ids, which is between 7/8 and 7/16 full, in bytes.
const PLACE_BYTES: usize = (size_of::<Place>() + 1) * 3 / 2;

/// What can block a job.
const BLOCKERS: [Blocker; 2] = [Blocker::Dependencies, Blocker::ConcurrencyKey];

/// The code of what blocks a job, for a row.
fn blocker_code(blocker: Option<Blocker>) -> u8 {
    match blocker {
        None => 0,
        Some(Blocker::Dependencies) => 1,
        Some(Blocker::ConcurrencyKey) => 2,
    }
}

/// What the index stores of a record.
#[derive(Clone, Copy, Debug)]
pub(in crate::web) struct RecordFacts<'a> {
    pub(in crate::web) job_id: &'a str,
    pub(in crate::web) queue: &'a str,
    pub(in crate::web) state: State,
    pub(in crate::web) reason: Option<Reason>,
    pub(in crate::web) worker_id: Option<&'a str>,
    pub(in crate::web) schedule_id: Option<&'a str>,
    pub(in crate::web) labels: &'a BTreeMap<String, String>,
    /// What blocks the job. `None` unless it is blocked.
    pub(in crate::web) blocker: Option<Blocker>,
    /// Whether the job reruns another one.
    pub(in crate::web) is_rerun: bool,
    /// When the server stored the record, in milliseconds since the Unix epoch.
    pub(in crate::web) time_ms: i64,
}

/// A place in the map of ids: the hash of an id, and the two halves of a revision. As one number, a revision would
/// take four bytes more.
#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u32,
    low: u32,
    high: u32,
}

impl Place {
    fn new(hash: u32, revision: u64) -> Place {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the two halves of a number"
        )]
        let (low, high) = (revision as u32, (revision >> 32) as u32);
        Place { hash, low, high }
    }

    fn revision(self) -> u64 {
        u64::from(self.high) << 32 | u64::from(self.low)
    }
}

/// Spreads a hash over all bits, since the map uses the highest and the lowest ones.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The records of a bucket.
#[derive(Debug)]
pub(in crate::web) struct RecordIndex {
    rows: Rows,
    places: HashTable<Place>,
    hasher: RandomState,
    /// Names of queues, workers and schedules.
    names: Interner,
    label_sets: Interner,
    /// Number of running jobs of each worker.
    running: HashMap<TextId, u64>,
    /// Number of jobs that each of [`BLOCKERS`] blocks.
    blocked: [u64; BLOCKERS.len()],
    /// Removals while the bucket is being read: the reader may deliver a record that was removed meanwhile. `None`
    /// means that nothing is being read.
    removals: Option<HashMap<Box<str>, u64>>,
    /// The newest revision that the index was given.
    newest: u64,
    /// Records below this revision are left out, because the index would be too large with them. 0 means that all
    /// are indexed.
    unindexed_below: u64,
    bytes_max: usize,
    /// Number of chunks when the size was last computed.
    chunks_measured: usize,
    bytes: usize,
}

impl RecordIndex {
    /// An empty index, which takes at most about this many bytes.
    pub(in crate::web) fn new(bytes_max: usize) -> RecordIndex {
        RecordIndex::with_rows(bytes_max, CHUNK_ROWS_MAX)
    }

    fn with_rows(bytes_max: usize, chunk_rows_max: usize) -> RecordIndex {
        RecordIndex {
            rows: Rows::new(chunk_rows_max),
            places: HashTable::new(),
            hasher: RandomState::new(),
            names: Interner::default(),
            label_sets: Interner::default(),
            running: HashMap::new(),
            blocked: [0; BLOCKERS.len()],
            removals: None,
            newest: 0,
            unindexed_below: 0,
            bytes_max,
            chunks_measured: 0,
            bytes: 0,
        }
    }

    /// Forgets everything, and expects records in any order until [`RecordIndex::finish_reading`].
    pub(in crate::web) fn start_reading(&mut self) {
        *self = RecordIndex {
            removals: Some(HashMap::new()),
            ..RecordIndex::with_rows(self.bytes_max, self.rows.chunk_rows_max())
        };
    }

    /// The bucket has been read up to a revision: further records are newer than all of the same job before.
    pub(in crate::web) fn finish_reading(&mut self, last: u64) {
        self.removals = None;
        self.newest = self.newest.max(last);
        self.measure();
    }

    /// Number of records.
    pub(in crate::web) fn len(&self) -> usize {
        self.places.len()
    }

    /// The newest revision that the index was given; 0 before the first.
    pub(in crate::web) fn newest(&self) -> u64 {
        self.newest
    }

    /// Approximate memory, in bytes.
    pub(in crate::web) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Stores a record at its revision. One that is older than what is known of the job is ignored.
    pub(in crate::web) fn put(&mut self, revision: u64, facts: &RecordFacts<'_>) {
        self.newest = self.newest.max(revision);
        let was_removed = |removals: &HashMap<Box<str>, u64>| {
            removals
                .get(facts.job_id)
                .is_some_and(|removed| *removed > revision)
        };
        if revision < self.unindexed_below || self.removals.as_ref().is_some_and(was_removed) {
            return;
        }
        match self.revision_of(facts.job_id) {
            Some(known) if known >= revision => return,
            Some(known) => self.remove_row(known),
            None => {}
        }
        let labels = labels::encode(facts.labels);
        let row = Row {
            time_ms: facts.time_ms,
            queue: self.names.add(Some(facts.queue)),
            worker: self.names.add(facts.worker_id),
            schedule: self.names.add(facts.schedule_id),
            labels: self.label_sets.add(labels.as_deref()),
            state: state_code(facts.state),
            reason: reason_code(facts.reason),
            blocker: blocker_code(facts.blocker),
            is_rerun: facts.is_rerun,
            ..Row::default()
        };
        if let Some(count) = self.blocked_of(&row) {
            *count += 1;
        }
        if facts.state == State::Running {
            *self.running.entry(row.worker).or_default() += 1;
        }
        self.rows.insert(revision, row, facts.job_id);
        let hash = self.hash(facts.job_id);
        self.places
            .insert_unique(spread(hash), Place::new(hash, revision), |place| {
                spread(place.hash)
            });
        if self.rows.chunks() != self.chunks_measured {
            self.measure();
            self.shrink();
        }
    }

    /// Removes the record of a job that was removed at this revision.
    pub(in crate::web) fn remove(&mut self, job_id: &str, revision: u64) {
        self.newest = self.newest.max(revision);
        if let Some(removals) = &mut self.removals {
            let removed = removals.entry(job_id.into()).or_default();
            *removed = revision.max(*removed);
        }
        if let Some(known) = self.revision_of(job_id)
            && known < revision
        {
            self.remove_row(known);
        }
    }

    /// Removes the record of a revision that the bucket does not have. Returns whether it was known.
    pub(in crate::web) fn forget(&mut self, revision: u64) -> bool {
        let is_known = self.rows.get(revision).is_some();
        self.remove_row(revision);
        is_known
    }

    /// Returns up to `count` revisions of records that a search looks for, the newest first. It may return fewer
    /// although there are more; `left` says where to continue.
    pub(in crate::web) fn below(
        &self,
        bound: RevisionBound,
        query: &Query,
        count: usize,
    ) -> RevisionBatch {
        let (below, until_ms) = match bound {
            RevisionBound::Newest => (u64::MAX, i64::MAX),
            RevisionBound::Below(revision) => (revision, i64::MAX),
            RevisionBound::NoLaterThan(time) => (u64::MAX, time.unix_ms()),
        };
        let mut query = CompiledQuery::new(query, until_ms, &self.names, &self.label_sets);
        let mut revisions = Vec::new();
        let mut seen = 0;
        for chunk in self.rows.descend(below) {
            seen += 1;
            if query.may_be_in(&chunk.summary()) {
                for row in chunk.descend(below) {
                    seen += 1;
                    if query.selects(row, || chunk.id(row), &self.label_sets) {
                        let revision = chunk.revision(row);
                        revisions.push(revision);
                        if revisions.len() >= count {
                            let left = RevisionsLeft::Below(revision);
                            return RevisionBatch { revisions, left };
                        }
                    }
                }
            }
            if seen >= ROWS_AT_ONCE {
                let left = RevisionsLeft::Below(chunk.base());
                return RevisionBatch { revisions, left };
            }
        }
        let left = match self.unindexed_below {
            0 => RevisionsLeft::None,
            // what is not indexed may be later than the search wants, if it begins there
            from => RevisionsLeft::Unindexed(from.min(below)),
        };
        RevisionBatch { revisions, left }
    }

    /// Number of running jobs of each worker.
    pub(in crate::web) fn running_by_worker(&self) -> BTreeMap<String, u64> {
        let workers = self.running.iter().map(|(worker, count)| {
            let worker = self.names.text(*worker).unwrap_or_default();
            (worker.to_owned(), *count)
        });
        workers.filter(|(_, count)| *count > 0).collect()
    }

    /// What blocks jobs, with the number of jobs that it blocks.
    pub(in crate::web) fn blocked(&self) -> [(Blocker, u64); BLOCKERS.len()] {
        let mut counted = BLOCKERS.map(|blocker| (blocker, 0));
        for ((_, count), blocked) in counted.iter_mut().zip(self.blocked) {
            *count = blocked;
        }
        counted
    }

    fn blocked_of(&mut self, row: &Row) -> Option<&mut u64> {
        let place = row.blocker.checked_sub(1)?;
        self.blocked.get_mut(usize::from(place))
    }

    fn hash(&self, job_id: &str) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "half of a hash is still one"
        )]
        let hash = self.hasher.hash_one(job_id) as u32;
        hash
    }

    fn revision_of(&self, job_id: &str) -> Option<u64> {
        let hash = self.hash(job_id);
        let is_job = |place: &Place| {
            place.hash == hash
                && self
                    .rows
                    .get(place.revision())
                    .is_some_and(|(_, id)| id == job_id)
        };
        let place = self.places.find(spread(hash), is_job)?;
        Some(place.revision())
    }

    fn remove_row(&mut self, revision: u64) {
        let Some((row, id)) = self.rows.get(revision) else {
            return;
        };
        let (row, hash) = (*row, self.hash(id));
        self.rows.remove(revision);
        self.release(&row, hash, revision);
    }

    /// Removes what belongs to a row outside of the rows.
    fn release(&mut self, row: &Row, hash: u32, revision: u64) {
        let is_same = |place: &Place| place.revision() == revision;
        if let Ok(place) = self.places.find_entry(spread(hash), is_same) {
            place.remove();
        }
        if let Some(count) = self.blocked_of(row) {
            *count -= 1;
        }
        if row.state == state_code(State::Running)
            && let Some(count) = self.running.get_mut(&row.worker)
        {
            *count -= 1;
            if *count == 0 {
                self.running.remove(&row.worker);
            }
        }
        for name in [row.queue, row.worker, row.schedule] {
            self.names.release(name);
        }
        self.label_sets.release(row.labels);
    }

    fn measure(&mut self) {
        self.chunks_measured = self.rows.chunks();
        self.bytes = self.rows.bytes()
            + self.places.len() * PLACE_BYTES
            + self.names.bytes()
            + self.label_sets.bytes();
    }

    /// Leaves out the oldest records until the index is small enough.
    fn shrink(&mut self) {
        while self.bytes > self.bytes_max && self.rows.chunks() > 1 {
            let Some(oldest) = self.rows.pop_oldest() else {
                return;
            };
            self.unindexed_below = self.unindexed_below.max(oldest.below);
            for (revision, row, id) in oldest.rows {
                let hash = self.hash(&id);
                self.release(&row, hash, revision);
            }
            self.measure();
        }
    }
}

#[cfg(test)]
mod tests;
