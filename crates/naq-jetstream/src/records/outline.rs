//! The outlines of all records, read in bulk.

use async_nats::jetstream::consumer::DeliverPolicy;
use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use crate::stream::stream_reader::{StreamMessage, StreamRead};
use naq_protocol::{JobId, RecordOutline, Timestamp};

/// A message of the bucket of records.
#[derive(Clone, Debug)]
pub struct OutlinedRecord {
    /// The job.
    pub job_id: JobId,
    /// The revision.
    pub revision: u64,
    /// When the server stored it.
    pub time: Timestamp,
    /// The outline of the record. `None` means that the record was removed, that it stands for a job that no
    /// worker has seen, or that it is not a record.
    pub outline: Option<RecordOutline>,
}

/// The outlines of all records, in the order of their revisions, read on demand.
pub struct RecordOutlines {
    messages: mpsc::Receiver<Result<StreamMessage, BrokerError>>,
    last: u64,
}

impl RecordOutlines {
    /// The last revision of the bucket when the read began.
    #[must_use]
    pub fn last_revision(&self) -> u64 {
        self.last
    }

    /// The next one. `None` at the end, which includes what was stored meanwhile.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn next(&mut self) -> Result<Option<OutlinedRecord>, BrokerError> {
        while let Some(message) = self.messages.recv().await {
            let message = message?;
            let key = message.subject.rsplit('.').next().map(JobId::new);
            let time = Timestamp::from_unix_ms(message.time_unix_ms);
            let (Some(Ok(job_id)), Some(time)) = (key, time) else {
                continue;
            };
            let payload = &message.payload;
            let outline = RecordOutline::read(payload).unwrap_or_else(|problem| {
                RecordOutline::unreadable(&job_id, payload, time, &problem)
            });
            return Ok(Some(OutlinedRecord {
                job_id,
                revision: message.sequence,
                time,
                outline,
            }));
        }
        Ok(None)
    }
}

/// The bucket of records as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordBucketState {
    /// When the bucket was created.
    pub created_at: Timestamp,
    /// The last revision.
    pub last_revision: u64,
    /// Number of keys: records, and markers of removed ones that have not expired.
    pub keys: u64,
}

impl Broker {
    /// Reads the outlines of all records. A record that changes meanwhile may be delivered twice, or only later.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn record_outlines(&self) -> Result<RecordOutlines, BrokerError> {
        let bucket = self.names.results_bucket();
        let stream = Names::bucket_stream(&bucket);
        let last = self.last_sequence(&stream).await?;
        // The bucket has one message for each key, so that these are the latest ones. To select the latest of each
        // subject, the server would first make a list of all.
        let scan = StreamRead {
            filter: format!("$KV.{bucket}.>"),
            deliver: DeliverPolicy::All,
            headers_only: false,
        };
        let messages = self.read_stream(&stream, scan).await?;
        Ok(RecordOutlines { messages, last })
    }

    /// Reads the state of the bucket of records. `None` means that it does not exist.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn record_bucket_state(&self) -> Result<Option<RecordBucketState>, BrokerError> {
        let stream = Names::bucket_stream(&self.names.results_bucket());
        let tip = self.stream_tip(&stream).await?;
        Ok(tip.created_at.map(|created_at| RecordBucketState {
            created_at,
            last_revision: tip.last_sequence,
            keys: tip.subjects,
        }))
    }
}
