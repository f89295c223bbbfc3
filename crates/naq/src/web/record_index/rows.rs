//! The rows of an index, in the order of revisions, in chunks.
//!
//! A row is 40 bytes, and the id of its job is stored after those of its neighbours. A record that changes leaves a
//! dead row and gets a new one at the end. A chunk of which half is dead is compacted, and merged with the one
//! before if both fit into one, so that dead rows never take more memory than live ones.

use std::collections::VecDeque;

use super::interner::TextId;

/// Maximum number of rows of a chunk, except in tests.
pub(super) const CHUNK_ROWS_MAX: usize = 1_024;

/// Number of codes of states.
pub(super) const STATES: usize = 16;

/// What the index stores of a record, apart from the id of its job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// When the server stored the record, in milliseconds since the Unix epoch.
    pub(super) time_ms: i64,
    /// Its revision, as the distance from the base of its chunk.
    pub(super) offset: u32,
    /// Where the id begins in the text of the chunk.
    pub(super) id_start: u32,
    pub(super) queue: TextId,
    pub(super) worker: TextId,
    pub(super) schedule: TextId,
    pub(super) labels: TextId,
    pub(super) id_length: u8,
    /// The code of its state, less than [`STATES`].
    pub(super) state: u8,
    /// The code of its reason, less than 32. 0 means none.
    pub(super) reason: u8,
    /// 0 unless the job is blocked, else the place of what blocks it among the counts of the index, plus 1.
    pub(super) blocker: u8,
    pub(super) is_rerun: bool,
    pub(super) is_dead: bool,
}

/// Rows of neighbouring revisions.
#[derive(Debug)]
pub(super) struct Chunk {
    /// No revision of the chunk is less than this, and all of the chunk before are.
    base: u64,
    rows: Vec<Row>,
    ids: Vec<u8>,
    /// Number of rows that are not dead.
    live: usize,
    /// Number of those in each state.
    states: [u16; STATES],
    /// A bit for each reason and for the queues, workers and schedules that rows have or had. If a bit is missing,
    /// no row has the value.
    reasons: u32,
    queues: u64,
    workers: u64,
    schedules: u64,
    /// Times of the oldest and the newest row that the chunk has or had.
    time_min_ms: i64,
    time_max_ms: i64,
}

/// The bit of a text in the summaries of chunks. Other texts have the same one.
pub(super) fn bit(id: TextId) -> u64 {
    1 << (id % 64)
}

/// What a chunk may contain.
pub(super) struct Summary {
    pub(super) states: u32,
    pub(super) reasons: u32,
    pub(super) queues: u64,
    pub(super) workers: u64,
    pub(super) schedules: u64,
    pub(super) time_min_ms: i64,
    pub(super) time_max_ms: i64,
}

impl Chunk {
    fn new(base: u64) -> Chunk {
        Chunk {
            base,
            rows: Vec::new(),
            ids: Vec::new(),
            live: 0,
            states: [0; STATES],
            reasons: 0,
            queues: 0,
            workers: 0,
            schedules: 0,
            time_min_ms: i64::MAX,
            time_max_ms: i64::MIN,
        }
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }

    pub(super) fn revision(&self, row: &Row) -> u64 {
        self.base + u64::from(row.offset)
    }

    pub(super) fn id(&self, row: &Row) -> &str {
        let start = row.id_start as usize;
        let bytes = self.ids.get(start..start + usize::from(row.id_length));
        bytes
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }

    pub(super) fn summary(&self) -> Summary {
        let states = self.states.iter().enumerate();
        Summary {
            states: states
                .filter(|(_, count)| **count > 0)
                .fold(0, |mask, (state, _)| mask | 1 << state),
            reasons: self.reasons,
            queues: self.queues,
            workers: self.workers,
            schedules: self.schedules,
            time_min_ms: self.time_min_ms,
            time_max_ms: self.time_max_ms,
        }
    }

    /// The rows below a revision that are not dead, the newest first.
    pub(super) fn descend(&self, below: u64) -> impl Iterator<Item = &Row> {
        let end = match below.checked_sub(self.base) {
            None => 0,
            Some(offset) => self
                .rows
                .partition_point(|row| u64::from(row.offset) < offset),
        };
        let rows = self.rows.get(..end).unwrap_or_default();
        rows.iter().rev().filter(|row| !row.is_dead)
    }

    fn position(&self, offset: u32) -> usize {
        self.rows.partition_point(|row| row.offset < offset)
    }

    /// Inserts a row at its place. A dead row of the same revision makes room for it.
    fn insert(&mut self, offset: u32, row: Row, id: &str) {
        let id = id.as_bytes();
        let row = Row {
            offset,
            id_start: u32::try_from(self.ids.len()).unwrap_or(u32::MAX),
            id_length: u8::try_from(id.len()).unwrap_or(0),
            is_dead: false,
            ..row
        };
        self.ids.extend_from_slice(id);
        let at = self.position(offset);
        match self.rows.get_mut(at) {
            Some(dead) if dead.offset == offset => *dead = row,
            _ => self.rows.insert(at, row),
        }
        self.live += 1;
        self.summarize(&row);
    }

    fn summarize(&mut self, row: &Row) {
        if let Some(count) = self.states.get_mut(usize::from(row.state)) {
            *count += 1;
        }
        self.reasons |= 1 << (row.reason % 32);
        self.queues |= bit(row.queue);
        self.workers |= bit(row.worker);
        self.schedules |= bit(row.schedule);
        self.time_min_ms = self.time_min_ms.min(row.time_ms);
        self.time_max_ms = self.time_max_ms.max(row.time_ms);
    }

    /// Copies the rows that are not dead to the end of another chunk.
    fn append_to(&self, other: &mut Chunk) {
        for row in self.rows.iter().filter(|row| !row.is_dead) {
            let offset = self.revision(row) - other.base;
            if let Ok(offset) = u32::try_from(offset) {
                other.insert(offset, *row, self.id(row));
            }
        }
    }

    fn compacted(&self) -> Chunk {
        let mut compacted = Chunk::new(self.base);
        compacted.rows.reserve_exact(self.live);
        self.append_to(&mut compacted);
        compacted.close();
        compacted
    }

    /// Frees the room for further rows.
    fn close(&mut self) {
        self.rows.shrink_to_fit();
        self.ids.shrink_to_fit();
    }

    /// Memory, in bytes.
    fn bytes(&self) -> usize {
        size_of::<Chunk>() + self.rows.capacity() * size_of::<Row>() + self.ids.capacity()
    }
}

/// Rows that were removed because the index was full.
pub(super) struct OldestRows {
    /// The rows with their revisions and the ids of their jobs.
    pub(super) rows: Vec<(u64, Row, String)>,
    /// No row below this revision is left.
    pub(super) below: u64,
}

/// All rows.
#[derive(Debug)]
pub(super) struct Rows {
    chunks: VecDeque<Chunk>,
    chunk_rows_max: usize,
}

impl Rows {
    pub(super) fn new(chunk_rows_max: usize) -> Rows {
        Rows {
            chunks: VecDeque::new(),
            chunk_rows_max,
        }
    }

    pub(super) fn chunk_rows_max(&self) -> usize {
        self.chunk_rows_max
    }

    /// The chunks that have revisions below a bound, the newest first.
    pub(super) fn descend(&self, below: u64) -> impl Iterator<Item = &Chunk> {
        let end = self.chunks.partition_point(|chunk| chunk.base < below);
        self.chunks.range(..end).rev()
    }

    /// The row of a revision, and the id of its job.
    pub(super) fn get(&self, revision: u64) -> Option<(&Row, &str)> {
        let (chunk, at) = self.find(revision)?;
        let chunk = self.chunks.get(chunk)?;
        let row = chunk.rows.get(at)?;
        Some((row, chunk.id(row)))
    }

    fn find(&self, revision: u64) -> Option<(usize, usize)> {
        let chunk = self.chunk_of(revision)?;
        let rows = self.chunks.get(chunk)?;
        let offset = u32::try_from(revision - rows.base).ok()?;
        let at = rows.position(offset);
        let row = rows.rows.get(at)?;
        (row.offset == offset && !row.is_dead).then_some((chunk, at))
    }

    /// The chunk to which a revision belongs. `None` if it is older than all.
    fn chunk_of(&self, revision: u64) -> Option<usize> {
        let after = self.chunks.partition_point(|chunk| chunk.base <= revision);
        after.checked_sub(1)
    }

    /// Inserts a row. No row of the revision exists. Most revisions are newer than all others; while the bucket is
    /// being read, they arrive at two places, both in ascending order.
    pub(super) fn insert(&mut self, revision: u64, row: Row, id: &str) {
        let (mut index, mut offset) = match self.chunk_of(revision) {
            None => (0, None),
            Some(index) => {
                let base = self.chunks.get(index).map_or(0, |chunk| chunk.base);
                (index, u32::try_from(revision - base).ok())
            }
        };
        if let (Some(at), Some(chunk)) = (offset, self.chunks.get_mut(index))
            && chunk.rows.len() >= self.chunk_rows_max
        {
            let is_last = chunk.rows.last().is_none_or(|last| last.offset < at);
            if is_last {
                chunk.close();
                (index, offset) = (index + 1, None);
            } else {
                let middle = chunk
                    .rows
                    .get(self.chunk_rows_max / 2)
                    .map_or(0, |row| row.offset);
                self.split(index, middle);
                if at >= middle {
                    index += 1;
                    offset = Some(at - middle);
                }
            }
        } else if offset.is_none() && self.chunk_of(revision).is_some() {
            index += 1;
        }
        if offset.is_none() {
            self.chunks.insert(index, Chunk::new(revision));
        }
        if let Some(chunk) = self.chunks.get_mut(index) {
            chunk.insert(offset.unwrap_or(0), row, id);
        }
    }

    /// Moves the rows of a chunk from this offset on to a chunk of their own.
    fn split(&mut self, index: usize, middle: u32) {
        let Some(chunk) = self.chunks.get(index) else {
            return;
        };
        let (mut old, mut new) = (
            Chunk::new(chunk.base),
            Chunk::new(chunk.base + u64::from(middle)),
        );
        for row in chunk.rows.iter().filter(|row| !row.is_dead) {
            match row.offset.checked_sub(middle) {
                None => old.insert(row.offset, *row, chunk.id(row)),
                Some(offset) => new.insert(offset, *row, chunk.id(row)),
            }
        }
        self.chunks.insert(index + 1, new);
        if let Some(chunk) = self.chunks.get_mut(index) {
            *chunk = old;
        }
    }

    /// Removes the row of a revision.
    pub(super) fn remove(&mut self, revision: u64) -> Option<Row> {
        let (index, at) = self.find(revision)?;
        let chunk = self.chunks.get_mut(index)?;
        let row = chunk.rows.get_mut(at)?;
        row.is_dead = true;
        let removed = *row;
        chunk.live -= 1;
        if let Some(count) = chunk.states.get_mut(usize::from(removed.state)) {
            *count -= 1;
        }
        if chunk.live == 0 {
            self.chunks.remove(index);
        } else if chunk.live * 2 <= chunk.rows.len() {
            *chunk = chunk.compacted();
            self.merge_into_previous(index);
        }
        Some(removed)
    }

    fn merge_into_previous(&mut self, index: usize) {
        let Some(before) = index.checked_sub(1) else {
            return;
        };
        let (Some(first), Some(second)) = (self.chunks.get(before), self.chunks.get(index)) else {
            return;
        };
        let reaches = second.rows.last().map_or(0, |last| second.revision(last)) - first.base;
        if first.live + second.live > self.chunk_rows_max || u32::try_from(reaches).is_err() {
            return;
        }
        let mut merged = first.compacted();
        second.append_to(&mut merged);
        merged.close();
        self.chunks.remove(index);
        if let Some(chunk) = self.chunks.get_mut(before) {
            *chunk = merged;
        }
    }

    /// Removes the oldest rows.
    pub(super) fn pop_oldest(&mut self) -> Option<OldestRows> {
        let chunk = self.chunks.pop_front()?;
        let last = chunk
            .rows
            .last()
            .map_or(chunk.base, |row| chunk.revision(row));
        let live = chunk.rows.iter().filter(|row| !row.is_dead);
        let rows = live
            .map(|row| (chunk.revision(row), *row, chunk.id(row).to_owned()))
            .collect();
        Some(OldestRows {
            rows,
            below: last + 1,
        })
    }

    /// Memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.iter().map(Chunk::bytes).sum()
    }

    /// Number of chunks.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.len()
    }
}
