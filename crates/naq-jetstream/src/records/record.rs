//! Records: read from the leader, written by compare-and-set, watched as they change.

use std::time::Duration;

use async_nats::{HeaderMap, Message};
use bytes::Bytes;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::failpoint::failpoint;
use crate::names::Names;
use crate::records::unsuccessful::ttl_of;
use crate::stream::publish::revision_headers;
use crate::stream::stream_api::{MessageSelector, StoredMessage};
use crate::watch::{Parsed, Watch, WatchEvent, sequence};
use naq_protocol::{JobId, Record};

/// A record with its revision.
#[derive(Clone, Debug)]
pub struct StoredRecord {
    /// The record.
    pub record: Record,
    /// The revision: the record's sequence in the bucket's stream. It only grows.
    pub revision: u64,
}

/// Up to this many jobs are watched by one subscription each; more by one subscription to all.
const SINGLE_WATCHES_MAX: usize = 64;

/// A watch on the records of some jobs, or of all jobs.
pub type RecordWatch = Watch<Box<StoredRecord>>;

/// An event of a record watch.
pub type RecordEvent = WatchEvent<Box<StoredRecord>>;

impl Broker {
    /// Reads a job's record from the leader.
    ///
    /// If the job has no record, returns the revision that a new record has to follow: 0, or that
    /// of the marker that a removed record left.
    ///
    /// # Errors
    /// Returns an error if the server does not answer, and [`BrokerError::InvalidData`] if the
    /// stored value is not a record.
    pub async fn read_record(&self, job: &JobId) -> Result<(Option<Record>, u64), BrokerError> {
        let stream = Names::bucket_stream(&self.names.results_bucket());
        let subject = self.names.record(job);
        let Some(message) = self
            .read_message(&stream, MessageSelector::LastBySubject(&subject))
            .await?
        else {
            return Ok((None, 0));
        };
        Ok((read(job, &message)?, message.sequence))
    }

    /// Writes a job's record if its revision is still `expected` (0: if there is none). `ttl` is
    /// how long the record of an ended job is kept; `None` means forever. Returns the new
    /// revision.
    ///
    /// # Errors
    /// Returns [`BrokerError::Conflict`] if the record has changed, [`BrokerError::TooLarge`] if it
    /// does not fit into a message, and [`BrokerError::Timeout`] if it is unknown whether it was
    /// written. Returns [`BrokerError::Unstorable`] if the record has left a state that it must not
    /// leave, see [`Record::check_transitions`]: such a record is never stored.
    pub async fn write_record(
        &self,
        record: &Record,
        expected: u64,
        ttl: Option<Duration>,
    ) -> Result<u64, BrokerError> {
        if let Err(illegal) = record.check_transitions() {
            tracing::error!(job_id = %record.job_id, "record not stored: {illegal}; this is a bug in naq");
            return Err(BrokerError::unstorable(illegal.to_string()));
        }
        let payload = serde_json::to_vec(record)
            .map_err(|error| BrokerError::not_json("the record", error))?;
        let subject = self.names.record(&record.job_id);
        let payload = Bytes::from(payload);
        let headers = || revision_headers(expected, ttl);
        // sent before the record: who dies between the two leaves an entry without its record
        let entry = match record.state().is_unsuccessful() {
            true => Some(Box::pin(self.send_unsuccessful(record, ttl)).await?),
            false => None,
        };
        if entry.is_some() {
            failpoint("unsuccessful.sent");
        }
        let written = match self.put(subject.clone(), headers(), payload.clone()).await {
            Err(BrokerError::NotFound(_)) => {
                Box::pin(self.put_into_new(subject, headers(), payload)).await
            }
            written => written,
        };
        match (entry, &written) {
            // A caller that repeats the write because of this error finds the record, and writes the entry again.
            (Some(entry), Ok(_)) => Box::pin(self.confirm_unsuccessful(entry)).await?,
            // The entry may have replaced that of the record which is stored, and have another TTL.
            (Some(_), Err(BrokerError::Conflict)) => {
                let _ = Box::pin(self.restore_unsuccessful(&record.job_id)).await?;
            }
            // Without the record, nobody misses the entry.
            (Some(_), Err(_)) | (None, _) => {}
        }
        written
    }

    /// Stores a record for which no bucket was found: no worker has run here yet, or the bucket has no leader.
    async fn put_into_new(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<u64, BrokerError> {
        let ensure = || Box::pin(self.ensure_indexed_results());
        let stored = self.store_creating(subject, headers, payload, ensure);
        stored.await.map(|stored| stored.sequence)
    }

    async fn put(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<u64, BrokerError> {
        let pending = self.send(subject, headers, payload).await?;
        match pending.confirmed().await {
            Ok(confirmed) => Ok(confirmed.sequence),
            Err(error) => Err(error),
        }
    }

    /// Stores the record of an ended job again, byte for byte, so that it expires after `ttl` from
    /// now. `None` means never. Returns the record, which stays as it is if the job has not ended.
    /// Returns `None` if there is no record.
    ///
    /// # Errors
    /// Returns an error if the server does not answer, and [`BrokerError::InvalidData`] if the
    /// stored value is not a record.
    pub async fn set_record_ttl(
        &self,
        job: &JobId,
        ttl: Option<Duration>,
    ) -> Result<Option<Record>, BrokerError> {
        let stream = Names::bucket_stream(&self.names.results_bucket());
        let subject = self.names.record(job);
        loop {
            let message = self
                .read_message(&stream, MessageSelector::LastBySubject(&subject))
                .await?;
            let Some((message, record)) = message
                .map(|message| Ok((read(job, &message)?, message)))
                .transpose()?
                .and_then(|(record, message)| Some((message, record?)))
            else {
                return Ok(None);
            };
            if !record.state().is_terminal() {
                return Ok(Some(record));
            }
            // An entry never ends before its record, whichever of the two is written last.
            let before = message.header("Nats-TTL").and_then(|ttl| ttl_of(&ttl));
            let longest = before.zip(ttl).map(|(before, ttl)| before.max(ttl));
            if record.state().is_unsuccessful() {
                self.write_unsuccessful(&record, longest).await?;
            }
            let revision = message.sequence.to_string();
            let mut headers = revision_headers(message.sequence, ttl);
            headers.insert(crate::headers::COPY_OF, revision.as_str());
            let stored = self
                .store(subject.clone(), headers, message.payload())
                .await;
            match stored {
                Ok(_) => {
                    if record.state().is_unsuccessful() && longest != ttl {
                        self.write_unsuccessful(&record, ttl).await?;
                    }
                    return Ok(Some(record));
                }
                // another client has set it meanwhile: the last one wins
                Err(BrokerError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Watches the records of some jobs as they are stored. Earlier changes are not reported: read
    /// the records once the watch is open.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn watch_records(&self, jobs: &[JobId]) -> Result<RecordWatch, BrokerError> {
        if jobs.len() > SINGLE_WATCHES_MAX {
            return self.watch_all_records().await;
        }
        let subjects = jobs.iter().map(|job| self.names.event(job)).collect();
        Watch::open(self, subjects, parse_stored_record).await
    }

    /// Watches all records as they are stored.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn watch_all_records(&self) -> Result<RecordWatch, BrokerError> {
        Watch::open(self, vec![self.names.record_events()], parse_stored_record).await
    }
}

/// Parses a republished record. Sequences are not compared: they are the bucket's, and a watch on
/// some of the jobs does not see all of them.
fn parse_stored_record(_: &Names, message: Message) -> Parsed<Box<StoredRecord>> {
    let record = serde_json::from_slice(&message.payload).ok();
    let stored = sequence(&message)
        .zip(record)
        .map(|(revision, record)| Box::new(StoredRecord { record, revision }));
    Parsed::unordered(stored)
}

/// Parses the message of a record. `None` for the marker of a removed record.
fn read(job: &JobId, message: &StoredMessage) -> Result<Option<Record>, BrokerError> {
    let payload = message.payload();
    let is_marker = payload.is_empty()
        || message.header("Nats-Marker-Reason").is_some()
        || message.header("KV-Operation").is_some();
    if is_marker {
        return Ok(None);
    }
    let what = format!("the record of {job}");
    let record: Record =
        serde_json::from_slice(&payload).map_err(|error| BrokerError::unreadable(&what, error))?;
    // A write goes to the record's own id, so a change of this record would never arrive.
    if record.job_id != *job {
        let problem = format!("it calls itself `{}`", record.job_id);
        return Err(BrokerError::unreadable(&what, problem));
    }
    Ok(Some(record))
}
