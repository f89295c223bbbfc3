//! Reads the records that an index selects, newest first, many at once.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::stream::reverse_scan::{Decode, ReverseScan};
use crate::stream::stream_api::MessageSelector;
use naq_protocol::Timestamp;

/// Number of reads in flight. The requests of a batch share packets and wake-ups.
const READS_AHEAD: usize = 32;

/// Number of revisions in a row that the stream does not have, after which the index counts as wrong. The rest is
/// read from the stream, which skips gaps.
const MISSES_MAX: usize = 128;

/// An index of records.
pub trait RecordRevisions: Debug + Send + Sync {
    /// Returns up to `count` revisions of the records to list, the newest first. It may return fewer, or none,
    /// although there are more; `left` says where to continue.
    fn below(&self, bound: RevisionBound, count: usize) -> RevisionBatch;

    /// The stream has no record of this revision: the record has changed or was removed, and the index has not
    /// received that yet, or never will.
    fn on_missing(&self, revision: u64);
}

/// The revisions that may be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevisionBound {
    /// All.
    Newest,
    /// Those below this one.
    Below(u64),
    /// Those of records that were stored no later than this.
    NoLaterThan(Timestamp),
}

/// Revisions of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionBatch {
    /// The revisions, the newest first.
    pub revisions: Vec<u64>,
    /// Which revisions may follow.
    pub left: RevisionsLeft,
}

/// The revisions after those of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevisionsLeft {
    /// None.
    None,
    /// Those below this one.
    Below(u64),
    /// The index does not contain the records below this revision.
    Unindexed(u64),
}

/// A scan of the records that an index selects.
pub(crate) struct IndexedScan<T> {
    broker: Broker,
    stream: String,
    revisions: Arc<dyn RecordRevisions>,
    /// Which revisions to request next. `None` at the end.
    bound: Option<RevisionBound>,
    decode: Decode<T>,
    /// Revisions whose reads have not begun.
    waiting: VecDeque<u64>,
    in_flight: FuturesOrdered<BoxFuture<'static, Result<Read<T>, BrokerError>>>,
    misses: usize,
    /// The scan of what the index does not contain.
    rest: Option<Box<ReverseScan<T>>>,
}

enum Read<T> {
    Missing(u64),
    Skipped,
    Found(T),
}

impl<T: Send + 'static> IndexedScan<T> {
    pub(crate) fn new(
        broker: &Broker,
        stream: String,
        revisions: Arc<dyn RecordRevisions>,
        bound: RevisionBound,
        decode: Decode<T>,
    ) -> IndexedScan<T> {
        IndexedScan {
            broker: broker.clone(),
            stream,
            revisions,
            bound: Some(bound),
            decode,
            waiting: VecDeque::new(),
            in_flight: FuturesOrdered::new(),
            misses: 0,
            rest: None,
        }
    }

    /// The next item, towards the beginning of the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, BrokerError> {
        loop {
            if let Some(rest) = &mut self.rest {
                return rest.next().await;
            }
            self.read_ahead().await?;
            match self.in_flight.next().await {
                Some(read) => match read? {
                    Read::Found(found) => {
                        self.misses = 0;
                        return Ok(Some(found));
                    }
                    Read::Skipped => self.misses = 0,
                    Read::Missing(revision) => {
                        self.revisions.on_missing(revision);
                        self.misses += 1;
                        if self.misses >= MISSES_MAX {
                            self.continue_without_index(revision).await?;
                        }
                    }
                },
                None if self.bound.is_none() && self.rest.is_none() => return Ok(None),
                None => {}
            }
        }
    }

    /// Starts reads, until enough are in flight or the index has no more revisions.
    async fn read_ahead(&mut self) -> Result<(), BrokerError> {
        while self.in_flight.len() < READS_AHEAD {
            if let Some(revision) = self.waiting.pop_front() {
                self.start(revision);
                continue;
            }
            let Some(bound) = self.bound else {
                return Ok(());
            };
            let batch = self.revisions.below(bound, READS_AHEAD);
            self.waiting.extend(batch.revisions);
            self.bound = match batch.left {
                RevisionsLeft::None => None,
                RevisionsLeft::Below(revision) => Some(RevisionBound::Below(revision)),
                RevisionsLeft::Unindexed(revision)
                    if self.waiting.is_empty() && self.in_flight.is_empty() =>
                {
                    return self.continue_without_index(revision).await;
                }
                // the index answers the same once its last revisions are read
                RevisionsLeft::Unindexed(revision) => {
                    self.bound = Some(RevisionBound::Below(revision));
                    if self.waiting.is_empty() {
                        return Ok(());
                    }
                    continue;
                }
            };
            if self.waiting.is_empty() {
                // nothing among many: other requests are served before the search continues
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    fn start(&mut self, revision: u64) {
        let (broker, stream, decode) = (self.broker.clone(), self.stream.clone(), self.decode);
        self.in_flight.push_back(Box::pin(async move {
            let message = broker
                .read_message(&stream, MessageSelector::BySequence(revision))
                .await?;
            Ok(match message {
                None => Read::Missing(revision),
                Some(message) => decode(broker, stream, message)
                    .await?
                    .map_or(Read::Skipped, Read::Found),
            })
        }));
    }

    /// Reads everything below a revision from the stream.
    async fn continue_without_index(&mut self, below: u64) -> Result<(), BrokerError> {
        self.waiting.clear();
        self.in_flight = FuturesOrdered::new();
        self.bound = None;
        let rest = self
            .broker
            .scan_reverse_before(self.stream.clone(), Some(below), self.decode)
            .await?;
        self.rest = Some(Box::new(rest));
        Ok(())
    }
}
