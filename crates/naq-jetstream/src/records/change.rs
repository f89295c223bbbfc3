//! A change of a record, as parsed from its message.

use async_nats::HeaderMap;
use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use crate::stream::stream_reader::{StreamMessage, StreamRead};
use naq_protocol::{JobId, Record, RecordOutline, Timestamp};

/// A record that was stored, with some of its fields: as events show it.
#[derive(Clone, Debug)]
pub struct OutlinedChange {
    /// The job.
    pub job_id: JobId,
    /// The outline of the record.
    pub outline: RecordOutline,
    /// Its revision: the sequence in the bucket's stream.
    pub revision: u64,
    /// The revision before it, 0 if it is the job's first. `None` if that is unknown.
    pub previous: Option<u64>,
    /// The revision that it repeats with another TTL. `None` if the record itself changed.
    pub copy_of: Option<u64>,
    /// When the server stored it.
    pub time: Timestamp,
}

impl OutlinedChange {
    /// The change by which a message stored a record.
    pub(crate) fn new(
        job_id: JobId,
        outline: RecordOutline,
        headers: &HeaderMap,
        revision: u64,
        time: Timestamp,
    ) -> OutlinedChange {
        OutlinedChange {
            job_id,
            outline,
            revision,
            previous: previous(headers),
            copy_of: number(headers, crate::headers::COPY_OF),
            time,
        }
    }
}

/// The revision before a stored record. Each record is written by compare-and-set, whose header states it.
fn previous(headers: &HeaderMap) -> Option<u64> {
    number(headers, "Nats-Last-Sequence")
        .or_else(|| number(headers, "Nats-Expected-Last-Subject-Sequence"))
}

/// A record that was stored.
#[derive(Clone, Debug)]
pub struct RecordChange {
    /// The record.
    pub record: Record,
    /// Its revision: the sequence in the bucket's stream.
    pub revision: u64,
    /// The revision before it, 0 if it is the job's first. `None` if that is unknown.
    pub previous: Option<u64>,
    /// The revision that it repeats with another TTL. `None` if the record itself changed.
    pub copy_of: Option<u64>,
    /// When the server stored it. `None` if the message does not state it.
    pub time: Option<Timestamp>,
}

/// Parses a change. `None` if the message is not a record.
pub(crate) fn parse_change(
    headers: &HeaderMap,
    payload: &[u8],
    revision: u64,
    time: Option<Timestamp>,
) -> Option<RecordChange> {
    let record: Record = serde_json::from_slice(payload).ok()?;
    // a placeholder stands for a job that no worker has seen
    if record.placeholder {
        return None;
    }
    Some(RecordChange {
        record,
        revision,
        previous: previous(headers),
        copy_of: number(headers, crate::headers::COPY_OF),
        time,
    })
}

pub(crate) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.as_str().parse().ok()
}

/// The latest change of every record, oldest first, read on demand.
pub struct LatestRecordChanges(mpsc::Receiver<Result<StreamMessage, BrokerError>>);

impl LatestRecordChanges {
    /// The next change. `None` at the end.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn next(&mut self) -> Result<Option<OutlinedChange>, BrokerError> {
        while let Some(message) = self.0.recv().await {
            let message = message?;
            let key = message.subject.rsplit('.').next().map(JobId::new);
            let (Some(Ok(job_id)), Some(time), Ok(Some(outline))) = (
                key,
                Timestamp::from_unix_ms(message.time_unix_ms),
                RecordOutline::read(&message.payload),
            ) else {
                continue;
            };
            let (headers, revision) = (&message.headers, message.sequence);
            let change = OutlinedChange::new(job_id, outline, headers, revision, time);
            return Ok(Some(change));
        }
        Ok(None)
    }
}

impl Broker {
    /// Lists the latest change of every record, oldest first.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn latest_record_changes(&self) -> Result<LatestRecordChanges, BrokerError> {
        let bucket = self.names.results_bucket();
        let scan = StreamRead::last_per_subject(format!("$KV.{bucket}.>"));
        let stream = Names::bucket_stream(&bucket);
        Ok(LatestRecordChanges(self.read_stream(&stream, scan).await?))
    }
}
