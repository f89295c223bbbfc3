//! The index of unsuccessful jobs: those that have ended without success.
//!
//! Most jobs succeed, so a list of those that did not would read many records to show few. The index has a key
//! `unsuccessful.<state>.<queue>.<job>` for each of them, in the bucket of the index of blocked jobs. A list reads
//! the keys of a state and then the records of these jobs, which alone count: an entry whose record says something
//! else, or does not exist, is skipped.
//!
//! Every writer of a record sends the entry before the record, and reports the record as written when the server has
//! confirmed both. A crash leaves an entry without its record, or, if the server refused the entry, a record without
//! one, which a redelivery of the job's message or the reconciler adds. The reconciler also adds the entries of programs
//! that write records only, and of records that are older than the index.
//!
//! The marker says for which bucket of records the index is complete, and up to which revision the reconciler has
//! compared the two. Without it a list reads all records. It is in the same stream as the entries, and written after
//! them: a server that loses its last messages loses the marker before any entry up to that revision. A scheduler that
//! begins to lead compares the rest.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::DeliverPolicy;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use crate::stream::publish::{PendingWrite, revision_headers};
use crate::stream::stream_api::{MessageSelector, StoredMessage};
use crate::stream::stream_reader::{StreamMessage, StreamRead, StreamTip};
use naq_protocol::{JobId, QueueName, Record, RecordOutline, State, Timestamp};

/// How much longer an entry is kept than its record, whose TTL begins a moment later.
const TTL_MARGIN: Duration = Duration::from_secs(60);

/// The value of an entry.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Entry {
    /// When the record was stored, in an entry that was added later. An entry without it was stored with the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stored_at: Option<Timestamp>,
}

/// The value of the marker.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CompleteIndex {
    /// When the bucket of records was created, in milliseconds since the Unix epoch: another bucket of that name is
    /// another one.
    bucket_created_ms: i64,
    /// The revision up to which the records are compared with the index.
    compared_up_to: u64,
}

impl CompleteIndex {
    /// Whether the index is complete for a bucket of records.
    pub(crate) fn covers(&self, bucket: &StreamTip) -> bool {
        bucket.created_at.map(Timestamp::unix_ms) == Some(self.bucket_created_ms)
    }

    /// The revision up to which the records of a bucket are compared. 0 if that is another bucket, or if it has lost
    /// its last messages, whose revisions others get.
    fn compared_up_to(&self, bucket: &StreamTip) -> u64 {
        match self.covers(bucket) && self.compared_up_to <= bucket.last_sequence {
            true => self.compared_up_to,
            false => 0,
        }
    }
}

/// An entry of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnsuccessfulJob {
    pub(crate) job_id: JobId,
    /// When its record was stored, or a moment before.
    pub(crate) stored_at: Timestamp,
}

impl UnsuccessfulJob {
    /// Reads an entry. `None` for the marker of a removed one.
    pub(crate) fn read(subject: &str, payload: &[u8], time: Timestamp) -> Option<UnsuccessfulJob> {
        let entry: Entry = serde_json::from_slice(payload).ok()?;
        Some(UnsuccessfulJob {
            job_id: JobId::new(subject.rsplit('.').next()?).ok()?,
            stored_at: entry.stored_at.unwrap_or(time),
        })
    }
}

/// An entry that is being written together with a record.
pub(crate) struct PendingEntry {
    pending: PendingWrite,
    subject: String,
    headers: HeaderMap,
}

fn entry_headers(ttl: Option<Duration>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(ttl) = ttl {
        let ttl = ttl.saturating_add(TTL_MARGIN).as_secs();
        headers.insert(async_nats::header::NATS_MESSAGE_TTL, format!("{ttl}s"));
    }
    headers
}

/// The TTL with which a message was stored. `None` means forever.
pub(super) fn ttl_of(header: &str) -> Option<Duration> {
    let seconds = header.strip_suffix('s').unwrap_or(header);
    seconds.parse().ok().map(Duration::from_secs)
}

/// What an entry that was stored with its record has: no key of a bucket is empty.
const STORED_WITH_RECORD: Bytes = Bytes::from_static(b"{}");

impl Broker {
    /// Sends the entry of a record that is about to be written.
    pub(crate) async fn send_unsuccessful(
        &self,
        record: &Record,
        ttl: Option<Duration>,
    ) -> Result<Box<PendingEntry>, BrokerError> {
        let subject = self.unsuccessful_key(record);
        let headers = entry_headers(ttl);
        let pending = self
            .send(subject.clone(), headers.clone(), STORED_WITH_RECORD)
            .await?;
        // most writers of records hold none for as long as they wait
        Ok(Box::new(PendingEntry {
            pending,
            subject,
            headers,
        }))
    }

    /// Waits until an entry is stored.
    pub(crate) async fn confirm_unsuccessful(
        &self,
        entry: Box<PendingEntry>,
    ) -> Result<(), BrokerError> {
        let PendingEntry {
            pending,
            subject,
            headers,
        } = *entry;
        let stored = match pending.confirmed().await {
            // nothing was ever indexed in this bucket
            Err(BrokerError::NotFound(_)) => {
                Box::pin(self.put_unsuccessful(subject, headers, STORED_WITH_RECORD)).await
            }
            stored => stored.map(drop),
        };
        match stored {
            // An outcome is worth more than its place in a list, which the reconciler repairs.
            Err(error @ BrokerError::PermissionDenied { .. }) => {
                tracing::warn!(
                    "lists of unsuccessful jobs lack one until a scheduler has reconciled: {error}"
                );
                Ok(())
            }
            stored => stored,
        }
    }

    /// Writes the entry of a record that is about to be stored again with another TTL.
    pub(crate) async fn write_unsuccessful(
        &self,
        record: &Record,
        ttl: Option<Duration>,
    ) -> Result<(), BrokerError> {
        let entry = self.send_unsuccessful(record, ttl).await?;
        self.confirm_unsuccessful(entry).await
    }

    async fn put_unsuccessful(
        &self,
        subject: String,
        headers: HeaderMap,
        value: Bytes,
    ) -> Result<(), BrokerError> {
        let ensure = || self.ensure_dependents();
        self.store_creating(subject, headers, value, ensure)
            .await
            .map(drop)
    }

    fn unsuccessful_key(&self, record: &Record) -> String {
        let state = record.state();
        self.names
            .unsuccessful(state, &record.queue, &record.job_id)
    }

    /// Adds the entry of a record that is stored, if there is none: its writer may have died between the two, or be a
    /// program that writes no entries. Returns whether it was added.
    ///
    /// # Errors
    /// Returns an error if the server does not answer or refuses the write.
    pub async fn index_unsuccessful(&self, job: &UnsuccessfulRecord) -> Result<bool, BrokerError> {
        let index = Names::bucket_stream(&self.names.dependents_bucket());
        let key = self.names.unsuccessful(job.state, &job.queue, &job.job_id);
        let present = self
            .read_message(&index, MessageSelector::LastBySubject(&key))
            .await?;
        if present.is_some_and(|entry| !entry.payload().is_empty()) {
            return Ok(false);
        }
        self.restore_unsuccessful(&job.job_id).await
    }

    /// Writes the entry of the record that is stored. Returns false if there is no record, or if it needs no entry.
    ///
    /// Also after a write of another record of the job was refused, whose entry may have replaced this one.
    pub(super) async fn restore_unsuccessful(&self, job: &JobId) -> Result<bool, BrokerError> {
        let records = Names::bucket_stream(&self.names.results_bucket());
        let subject = self.names.record(job);
        let stored = self
            .read_message(&records, MessageSelector::LastBySubject(&subject))
            .await?;
        // removed meanwhile
        let Some(stored) = stored else {
            return Ok(false);
        };
        let outline = RecordOutline::read(&stored.payload()).ok().flatten();
        let Some(outline) = outline.filter(|outline| outline.state.is_unsuccessful()) else {
            return Ok(false);
        };
        let key = self.names.unsuccessful(outline.state, &outline.queue, job);
        let ttl = stored.header("Nats-TTL").and_then(|ttl| ttl_of(&ttl));
        let entry = Entry {
            stored_at: Some(stored.time),
        };
        let value = serde_json::to_vec(&entry)
            .map_err(|error| BrokerError::not_json("the entry", error))?;
        self.put_unsuccessful(key, entry_headers(ttl), value.into())
            .await?;
        Ok(true)
    }

    /// Removes the entry of a job whose record was removed. Without the right to, it only costs the lists a read.
    pub(crate) async fn remove_unsuccessful(&self, record: &Record) -> Result<(), BrokerError> {
        let index = Names::bucket_stream(&self.names.dependents_bucket());
        let key = self.unsuccessful_key(record);
        match self.purge_subjects(&index, &key, None).await {
            Err(error @ BrokerError::PermissionDenied { .. }) => {
                tracing::debug!("the entry of a removed record stays: {error}");
                Ok(())
            }
            removed => removed.map(drop),
        }
    }

    /// Marks the index as complete if no record was stored yet: from now on each has its entry.
    pub(crate) async fn begin_unsuccessful_index(&self) -> Result<(), BrokerError> {
        match self.mark_if_empty().await {
            // a worker needs no lists
            Err(error @ BrokerError::PermissionDenied { .. }) => {
                tracing::warn!("lists of unsuccessful jobs read all records: {error}");
                Ok(())
            }
            marked => marked,
        }
    }

    async fn mark_if_empty(&self) -> Result<(), BrokerError> {
        let records = Names::bucket_stream(&self.names.results_bucket());
        let (bucket, marker) = tokio::join!(self.stream_tip(&records), self.read_marker());
        let (bucket, (marker, revision)) = (bucket?, marker?);
        if bucket.subjects > 0 || marker.is_some_and(|marker| marker.covers(&bucket)) {
            return Ok(());
        }
        match self.write_marker(&bucket, revision).await {
            // another process has done the same
            Err(BrokerError::Conflict) => Ok(()),
            written => written,
        }
    }

    /// Whether lists of unsuccessful jobs need not read all records.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn has_unsuccessful_index(&self) -> Result<bool, BrokerError> {
        let records = Names::bucket_stream(&self.names.results_bucket());
        let (bucket, marker) = tokio::join!(self.stream_tip(&records), self.read_marker());
        let bucket = bucket?;
        Ok(marker?.0.is_some_and(|marker| marker.covers(&bucket)))
    }

    /// Reads the marker, and its revision; 0 if there is none.
    pub(crate) async fn read_marker(&self) -> Result<(Option<CompleteIndex>, u64), BrokerError> {
        let index = Names::bucket_stream(&self.names.dependents_bucket());
        let key = self.names.unsuccessful_marker();
        let stored = self
            .read_message(&index, MessageSelector::LastBySubject(&key))
            .await?;
        let value = |stored: &StoredMessage| serde_json::from_slice(&stored.payload()).ok();
        Ok(stored.map_or((None, 0), |stored| (value(&stored), stored.sequence)))
    }

    /// Marks the index as complete for a bucket, up to its last revision.
    async fn write_marker(&self, bucket: &StreamTip, revision: u64) -> Result<(), BrokerError> {
        let Some(created_at) = bucket.created_at else {
            return Ok(());
        };
        let marker = CompleteIndex {
            bucket_created_ms: created_at.unix_ms(),
            compared_up_to: bucket.last_sequence,
        };
        let value = serde_json::to_vec(&marker)
            .map_err(|error| BrokerError::not_json("the marker", error))?;
        let key = self.names.unsuccessful_marker();
        self.put_unsuccessful(key, revision_headers(revision, None), value.into())
            .await
    }

    /// Begins a comparison of the index with the records that were stored since the last one.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn compare_unsuccessful(&self) -> Result<UnsuccessfulComparison, BrokerError> {
        let results = self.names.results_bucket();
        let stream = Names::bucket_stream(&results);
        let (bucket, marker) = tokio::join!(self.stream_tip(&stream), self.read_marker());
        let (bucket, (marker, revision)) = (bucket?, marker?);
        let scan = StreamRead {
            filter: format!("$KV.{results}.>"),
            deliver: DeliverPolicy::ByStartSequence {
                start_sequence: marker
                    .as_ref()
                    .map_or(0, |marker| marker.compared_up_to(&bucket))
                    + 1,
            },
            headers_only: false,
        };
        Ok(UnsuccessfulComparison {
            records: self.read_stream(&stream, scan).await?,
            bucket,
            revision,
        })
    }

    /// Ends a comparison: the index has the entries of all records up to the last one at its beginning.
    ///
    /// # Errors
    /// Returns an error if the server does not answer or refuses the write.
    pub async fn end_comparison(
        &self,
        comparison: UnsuccessfulComparison,
    ) -> Result<(), BrokerError> {
        match self
            .write_marker(&comparison.bucket, comparison.revision)
            .await
        {
            // another scheduler leads by now
            Err(BrokerError::Conflict) => Ok(()),
            written => written,
        }
    }
}

/// A record of a job that has ended without success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsuccessfulRecord {
    job_id: JobId,
    queue: QueueName,
    state: State,
}

impl UnsuccessfulRecord {
    /// The job of a record, if it has ended without success.
    #[must_use]
    pub fn of(record: &Record) -> Option<UnsuccessfulRecord> {
        record
            .state()
            .is_unsuccessful()
            .then(|| UnsuccessfulRecord {
                job_id: record.job_id.clone(),
                queue: record.queue.clone(),
                state: record.state(),
            })
    }
}

/// A comparison of the index of unsuccessful jobs with the records.
pub struct UnsuccessfulComparison {
    records: mpsc::Receiver<Result<StreamMessage, BrokerError>>,
    bucket: StreamTip,
    /// The revision of the marker.
    revision: u64,
}

impl UnsuccessfulComparison {
    /// The next record that the index must have. `None` at the end.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn next(&mut self) -> Result<Option<UnsuccessfulRecord>, BrokerError> {
        while let Some(message) = self.records.recv().await {
            let message = message?;
            let key = message.subject.rsplit('.').next().map(JobId::new);
            let (Some(Ok(job_id)), Ok(Some(outline))) =
                (key, RecordOutline::read(&message.payload))
            else {
                continue;
            };
            if outline.state.is_unsuccessful() {
                return Ok(Some(UnsuccessfulRecord {
                    job_id,
                    queue: outline.queue,
                    state: outline.state,
                }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms).unwrap()
    }

    fn bucket(created_ms: i64, last_sequence: u64) -> StreamTip {
        StreamTip {
            created_at: Some(at(created_ms)),
            last_sequence,
            subjects: last_sequence,
        }
    }

    #[test]
    fn an_index_is_complete_for_one_bucket() {
        let marker = CompleteIndex {
            bucket_created_ms: 7,
            compared_up_to: 40,
        };
        assert!(marker.covers(&bucket(7, 50)));
        assert_eq!(marker.compared_up_to(&bucket(7, 50)), 40);
        assert!(!marker.covers(&bucket(8, 50)));
        assert_eq!(marker.compared_up_to(&bucket(8, 50)), 0);
        assert!(!marker.covers(&StreamTip::default()));
        // after a power cut, other records get the revisions of those that were compared
        assert_eq!(marker.compared_up_to(&bucket(7, 39)), 0);
    }

    #[test]
    fn an_entry_says_when_the_record_was_stored() {
        let read = |payload: &[u8]| UnsuccessfulJob::read("a.failed.q.job", payload, at(9));
        let job = |ms| {
            Some(UnsuccessfulJob {
                job_id: JobId::new("job").unwrap(),
                stored_at: at(ms),
            })
        };
        assert_eq!(read(&STORED_WITH_RECORD), job(9));
        let added = Entry {
            stored_at: Some(at(4)),
        };
        assert_eq!(read(&serde_json::to_vec(&added).unwrap()), job(4));
        assert_eq!(read(br#"{"later":1}"#), job(9));
        assert_eq!(read(b""), None);
    }

    #[test]
    fn an_entry_outlives_its_record() {
        let header = |ttl| {
            let headers = entry_headers(ttl);
            headers.get("Nats-TTL").map(ToString::to_string)
        };
        assert_eq!(
            header(Some(Duration::from_secs(600))).as_deref(),
            Some("660s")
        );
        assert_eq!(header(None), None);
        assert_eq!(ttl_of("600s"), Some(Duration::from_secs(600)));
        assert_eq!(ttl_of("never"), None);
    }

    proptest! {
        #[test]
        fn no_payload_panics(payload in proptest::collection::vec(any::<u8>(), 0..60), subject in "\\PC{0,30}") {
            let _ = UnsuccessfulJob::read(&subject, &payload, at(0));
        }
    }
}
