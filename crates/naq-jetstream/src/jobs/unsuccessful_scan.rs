//! Lists unsuccessful jobs by their index, newest change first.
//!
//! The entries are read whole, since the server sends them oldest first; they are small, and few. Their records are
//! read from the newest entry on. An entry is stored with its record, so it tells when that was stored, but not to the
//! moment: a record is listed once no record that is still to be read can be newer.

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use crate::records::unsuccessful::UnsuccessfulJob;
use crate::stream::reverse_scan::Decode;
use crate::stream::stream_api::MessageSelector;
use naq_protocol::{JobId, QueueName, State, Timestamp};

/// Number of records that are read at once.
const READS_AHEAD: usize = 32;

/// Maximum number of entries of a list. Where more jobs are unsuccessful, reading the records themselves finds them
/// soon enough.
const ENTRIES_MAX: usize = 20_000;

/// By how much a record may be stored after its entry: the server may answer late, and the client repeats a write.
const STORED_AFTER_ENTRY_MAX: Duration = Duration::from_secs(30);

/// Items that arrive almost in order, by their times: each is no later than `slack` after the time that is expected
/// of it, and the expected times descend.
#[derive(Debug)]
struct NearlySorted<T> {
    slack: Duration,
    items: BinaryHeap<T>,
}

impl<T: Ord> NearlySorted<T> {
    /// The newest item, if no later one can arrive. `next` is the expected time of the next arrival; `None` means that
    /// none is left.
    fn pop(&mut self, next: Option<Timestamp>, time: impl Fn(&T) -> Timestamp) -> Option<T> {
        let newest = self.items.peek()?;
        let is_newest = match next {
            Some(next) => time(newest).0 > next.0 + self.slack,
            None => true,
        };
        is_newest.then(|| self.items.pop()).flatten()
    }
}

/// An item of a listing, in its order.
pub(super) trait Listed: Ord + Send + 'static {
    /// When its record was stored.
    fn stored_at(&self) -> Timestamp;
}

/// The read of the record of an entry.
type RecordRead<T> = BoxFuture<'static, Result<Option<T>, BrokerError>>;

/// A scan of the records of an index's entries.
pub(super) struct UnsuccessfulScan<T> {
    broker: Broker,
    stream: String,
    decode: Decode<T>,
    /// Entries whose reads have not begun, the newest first.
    waiting: VecDeque<UnsuccessfulJob>,
    in_flight: FuturesOrdered<RecordRead<T>>,
    /// When the entries of the reads in flight were stored.
    times: VecDeque<Timestamp>,
    read: NearlySorted<T>,
}

impl<T: Listed> UnsuccessfulScan<T> {
    /// The next item, towards the oldest change.
    pub(super) async fn next(&mut self) -> Result<Option<T>, BrokerError> {
        loop {
            while self.in_flight.len() < READS_AHEAD
                && let Some(entry) = self.waiting.pop_front()
            {
                self.times.push_back(entry.stored_at);
                self.in_flight.push_back(self.read_record(entry.job_id));
            }
            let next = self.times.front().copied();
            if let Some(newest) = self.read.pop(next, T::stored_at) {
                return Ok(Some(newest));
            }
            match self.in_flight.next().await {
                Some(read) => {
                    self.times.pop_front();
                    self.read.items.extend(read?);
                }
                None => return Ok(None),
            }
        }
    }

    fn read_record(&self, job: JobId) -> RecordRead<T> {
        let (broker, stream, decode) = (self.broker.clone(), self.stream.clone(), self.decode);
        Box::pin(async move {
            let subject = broker.names.record(&job);
            let message = broker
                .read_message(&stream, MessageSelector::LastBySubject(&subject))
                .await?;
            match message {
                Some(message) => decode(broker, stream, message).await,
                None => Ok(None),
            }
        })
    }
}

/// The newest entry of each job, the newest first.
fn newest_first(entries: Vec<UnsuccessfulJob>) -> VecDeque<UnsuccessfulJob> {
    let mut newest: HashMap<JobId, Timestamp> = HashMap::with_capacity(entries.len());
    for entry in entries {
        newest
            .entry(entry.job_id)
            .and_modify(|known| *known = (*known).max(entry.stored_at))
            .or_insert(entry.stored_at);
    }
    let mut jobs: Vec<UnsuccessfulJob> = newest
        .into_iter()
        .map(|(job_id, stored_at)| UnsuccessfulJob { job_id, stored_at })
        .collect();
    jobs.sort_unstable_by_key(|job| std::cmp::Reverse(job.stored_at));
    jobs.into()
}

impl Broker {
    /// Opens a scan of the unsuccessful jobs in some states. `None` means that all records have to be read: the index
    /// is not complete, the user may not read it, or it has too many entries to be of use. `position` is the sequence
    /// of a record that the bucket had.
    ///
    /// # Errors
    /// Returns [`BrokerError::StaleCursor`] if the bucket has not had the position.
    pub(super) async fn scan_unsuccessful<T: Listed>(
        &self,
        states: &[State],
        queue: Option<&QueueName>,
        position: Option<u64>,
        decode: Decode<T>,
    ) -> Result<Option<UnsuccessfulScan<T>>, BrokerError> {
        let stream = Names::bucket_stream(&self.names.results_bucket());
        // Together: with nothing to list, the time of one answer is all that it takes.
        let (bucket, marker, entries) = tokio::join!(
            self.stream_tip(&stream),
            self.read_marker(),
            self.read_unsuccessful(states, queue)
        );
        let bucket = bucket?;
        if position.is_some_and(|position| position > bucket.last_sequence) {
            return Err(BrokerError::StaleCursor);
        }
        let (marker, entries) = match (marker, entries) {
            (Err(BrokerError::PermissionDenied { .. }), _)
            | (_, Err(BrokerError::PermissionDenied { .. })) => return Ok(None),
            (marker, entries) => (marker?.0, entries?),
        };
        // without a bucket no job has ended
        let is_complete =
            bucket.created_at.is_none() || marker.is_some_and(|marker| marker.covers(&bucket));
        let Some(entries) = entries.filter(|_| is_complete) else {
            return Ok(None);
        };
        Ok(Some(UnsuccessfulScan {
            broker: self.clone(),
            stream,
            decode,
            waiting: newest_first(entries),
            in_flight: FuturesOrdered::new(),
            times: VecDeque::new(),
            read: NearlySorted {
                slack: STORED_AFTER_ENTRY_MAX,
                items: BinaryHeap::new(),
            },
        }))
    }

    /// Reads the entries of jobs in some states. `None` means that they are too many.
    async fn read_unsuccessful(
        &self,
        states: &[State],
        queue: Option<&QueueName>,
    ) -> Result<Option<Vec<UnsuccessfulJob>>, BrokerError> {
        let index = Names::bucket_stream(&self.names.dependents_bucket());
        let mut entries = Vec::new();
        for state in states {
            let keys = self.names.unsuccessful_in(*state, queue);
            let mut messages = self.read_keys(&index, &keys).await?;
            while let Some(message) = messages.recv().await {
                let message = message?;
                let Some(time) = Timestamp::from_unix_ms(message.time_unix_ms) else {
                    continue;
                };
                entries.extend(UnsuccessfulJob::read(
                    &message.subject,
                    &message.payload,
                    time,
                ));
                if entries.len() > ENTRIES_MAX {
                    return Ok(None);
                }
            }
        }
        Ok(Some(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms).unwrap()
    }

    #[test]
    fn a_job_with_two_entries_is_read_once() {
        let entry = |id: &str, ms| UnsuccessfulJob {
            job_id: JobId::new(id).unwrap(),
            stored_at: at(ms),
        };
        let entries = vec![entry("a", 1), entry("b", 5), entry("a", 9), entry("c", 7)];
        let sorted = [entry("a", 9), entry("c", 7), entry("b", 5)];
        assert_eq!(newest_first(entries), sorted);
    }

    proptest! {
        /// Each record is listed once and in order, if none was stored later after its entry than the slack.
        #[test]
        fn records_are_listed_in_order(
            records in proptest::collection::vec((0_i64..10_000, -3_000_i64..=30), 0..200),
        ) {
            let slack = Duration::from_millis(30);
            // the time of the entry, and of the record
            let mut arrivals: Vec<(i64, i64)> = records
                .iter()
                .map(|(entry, later)| (*entry, entry + later))
                .collect();
            arrivals.sort_unstable_by_key(|arrival| std::cmp::Reverse(arrival.0));
            let mut read = NearlySorted { slack, items: BinaryHeap::new() };
            let mut listed = Vec::new();
            let mut arrivals = VecDeque::from(arrivals);
            loop {
                let next = arrivals.front().map(|(entry, _)| at(*entry));
                if let Some(record) = read.pop(next, |record| at(*record)) {
                    listed.push(record);
                } else if let Some((_, record)) = arrivals.pop_front() {
                    read.items.push(record);
                } else {
                    break;
                }
            }
            let mut all: Vec<i64> = records.iter().map(|(entry, later)| entry + later).collect();
            all.sort_unstable_by(|a, b| b.cmp(a));
            prop_assert_eq!(listed, all);
        }
    }
}
