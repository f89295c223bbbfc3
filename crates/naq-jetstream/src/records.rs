//! Records: read from the leader, written by compare-and-set, watched as they change.

use std::time::Duration;

use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};

use super::connect::ConnectionWatch;
use super::names::Names;
use super::record_events::COPY_OF;
use super::stream_api::{MessageSelector, StoredMessage};
use super::{Broker, BrokerError};
use naq_protocol::{JobId, Record};

/// A record and the revision it was read or written at.
#[derive(Clone, Debug)]
pub struct StoredRecord {
    /// The record.
    pub record: Record,
    /// The revision: the sequence in the bucket's stream. It only grows.
    pub revision: u64,
}

/// Up to this many jobs are watched one by one; more by watching all and picking.
const SINGLE_WATCHES_MAX: usize = 64;

/// News from a watch.
#[derive(Debug)]
pub enum RecordEvent {
    /// A record was stored.
    Changed(Box<StoredRecord>),
    /// Something may have been missed (the connection was lost): read the records again.
    Resync,
}

/// A watch on the records of some jobs, or of all.
pub struct RecordWatch {
    changes: SelectAll<Subscriber>,
    link: ConnectionWatch,
    generation: u64,
}

impl RecordWatch {
    /// Waits for the next news. Cancel safe.
    pub async fn next(&mut self) -> RecordEvent {
        loop {
            tokio::select! {
                biased;
                message = self.changes.next() => {
                    let Some(message) = message else {
                        return std::future::pending().await;
                    };
                    let revision = message
                        .headers
                        .as_ref()
                        .and_then(|headers| headers.get("Nats-Sequence"))
                        .and_then(|value| value.as_str().parse().ok());
                    let record = serde_json::from_slice(&message.payload);
                    if let (Some(revision), Ok(record)) = (revision, record) {
                        return RecordEvent::Changed(Box::new(StoredRecord { record, revision }));
                    }
                }
                link = self.link.changed() => {
                    if link.connected && link.generation != self.generation {
                        self.generation = link.generation;
                        return RecordEvent::Resync;
                    }
                }
            }
        }
    }
}

impl Broker {
    /// Reads a job's record from the leader.
    ///
    /// The revision is also known where there is no record: it is the one a new record has to
    /// follow (0, or that of a marker a removed one left).
    ///
    /// # Errors
    /// Where the server does not answer, or what is there is not a record.
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

    /// Writes a job's record where its revision is still `expected` (0: where there is none).
    /// A terminal record goes after `ttl`; any other stays.
    ///
    /// Returns the new revision.
    ///
    /// # Errors
    /// [`BrokerError::Conflict`] where it has changed; [`BrokerError::TooLarge`] where it does
    /// not fit one message; [`BrokerError::Timeout`] where it is not known whether it was
    /// written.
    pub async fn write_record(
        &self,
        record: &Record,
        expected: u64,
        ttl: Option<Duration>,
    ) -> Result<u64, BrokerError> {
        let payload = serde_json::to_vec(record).map_err(|error| {
            BrokerError::InvalidData(format!("the record cannot be written as JSON: {error}"))
        })?;
        let subject = self.names.record(&record.job_id);
        let payload = Bytes::from(payload);
        let headers = || revision_headers(expected, ttl);
        match self.put(subject.clone(), headers(), payload.clone()).await {
            Err(BrokerError::NotFound(_)) => {
                // nobody has worked here yet
                Box::pin(self.ensure_results()).await?;
                Box::pin(self.put(subject, headers(), payload)).await
            }
            written => written,
        }
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
            Err(BrokerError::Timeout(doing)) => Err(self.timeout_error(doing)),
            Err(error) => Err(error),
        }
    }

    /// Stores an ended job's record once more, byte for byte, so that it goes after `ttl` from
    /// now, or never. Returns the record, which is left alone where the job has not ended; none
    /// where there is none.
    ///
    /// # Errors
    /// Where the server does not answer, or what is there is not a record.
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
            if !record.state.is_terminal() {
                return Ok(Some(record));
            }
            let revision = message.sequence.to_string();
            let mut headers = revision_headers(message.sequence, ttl);
            headers.insert(COPY_OF, revision.as_str());
            let pending = self
                .send(subject.clone(), headers, message.payload())
                .await?;
            match pending.confirmed().await {
                Ok(_) => return Ok(Some(record)),
                // another has set it meanwhile: the last word counts
                Err(BrokerError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Watches the records of some jobs as they are stored. What was stored before is not shown:
    /// read the records after the watch stands.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn watch_records(&self, jobs: &[JobId]) -> Result<RecordWatch, BrokerError> {
        if jobs.len() > SINGLE_WATCHES_MAX {
            return self.watch_all_records().await;
        }
        self.watch(jobs.iter().map(|job| self.names.event(job)).collect())
            .await
    }

    /// Watches every record as it is stored.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn watch_all_records(&self) -> Result<RecordWatch, BrokerError> {
        self.watch(vec![self.names.record_events()]).await
    }

    async fn watch(&self, subjects: Vec<String>) -> Result<RecordWatch, BrokerError> {
        let mut link = self.link.clone();
        let generation = link.mark_seen().generation;
        let mut subscribers = Vec::new();
        for subject in subjects {
            subscribers.push(
                self.client
                    .subscribe(subject)
                    .await
                    .map_err(|error| BrokerError::ConnectionLost(error.to_string()))?,
            );
        }
        // the server takes what one connection sends in order: a read sent after this
        // subscription is answered after it stands, so no flush is needed
        Ok(RecordWatch {
            changes: select_all(subscribers),
            link,
            generation,
        })
    }
}

/// A record as its message has it; none where that is the marker of a removed one.
fn read(job: &JobId, message: &StoredMessage) -> Result<Option<Record>, BrokerError> {
    let payload = message.payload();
    let is_marker = payload.is_empty()
        || message.header("Nats-Marker-Reason").is_some()
        || message.header("KV-Operation").is_some();
    if is_marker {
        return Ok(None);
    }
    serde_json::from_slice(&payload).map_err(|error| {
        BrokerError::InvalidData(format!("the record of {job} cannot be read: {error}"))
    })
}

/// The headers of a compare-and-set.
pub(super) fn revision_headers(expected: u64, ttl: Option<Duration>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
        expected.to_string().as_str(),
    );
    if let Some(ttl) = ttl {
        headers.insert(
            async_nats::header::NATS_MESSAGE_TTL,
            format!("{}s", ttl.as_secs().max(1)),
        );
    }
    headers
}
