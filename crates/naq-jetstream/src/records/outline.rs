//! The outline of all records: the fields by which jobs are found, read in bulk.

use std::collections::BTreeMap;

use async_nats::jetstream::consumer::DeliverPolicy;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use crate::stream::stream_reader::{StreamMessage, StreamRead};
use naq_protocol::{JobId, QueueName, Reason, Record, ScheduleId, State, Timestamp};

/// The fields of a record by which jobs are found. To read them takes a fraction of the time that the whole record
/// takes.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct RecordOutline {
    /// The queue of the job.
    pub queue: QueueName,
    /// The state of the job.
    pub state: State,
    /// Why the job finished as it did, or why its last attempt failed.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// The worker that runs or last ran the job.
    #[serde(default)]
    pub worker_id: Option<String>,
    /// The schedule that enqueued the job.
    #[serde(default)]
    pub schedule_id: Option<ScheduleId>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    placeholder: Option<bool>,
    #[serde(default)]
    waits: Option<WaitsOutline>,
    #[serde(default)]
    rerun_of: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Deserialize)]
struct WaitsOutline {
    #[serde(default)]
    dependencies: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    concurrency_key: Option<IgnoredAny>,
}

/// What blocks a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocker {
    /// Dependencies that are not satisfied yet, and perhaps also a concurrency key.
    Dependencies,
    /// A concurrency key whose slots are all in use.
    ConcurrencyKey,
}

impl Blocker {
    /// What blocks the job of a record. `None` unless the job is blocked.
    #[must_use]
    pub fn of(record: &Record) -> Option<Blocker> {
        let waits = record.waits()?;
        Blocker::new(
            !waits.dependencies.is_empty(),
            waits.concurrency_key.is_some(),
        )
    }

    fn new(has_dependencies: bool, has_key: bool) -> Option<Blocker> {
        match (has_dependencies, has_key) {
            (true, _) => Some(Blocker::Dependencies),
            (false, true) => Some(Blocker::ConcurrencyKey),
            (false, false) => None,
        }
    }
}

impl RecordOutline {
    /// The labels of the job.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.labels.as_ref().unwrap_or(&NONE)
    }

    /// Whether the job reruns another one.
    #[must_use]
    pub fn is_rerun(&self) -> bool {
        self.rerun_of.is_some()
    }

    /// What blocks the job. `None` unless it is blocked.
    #[must_use]
    pub fn blocker(&self) -> Option<Blocker> {
        let waits = self.waits.as_ref()?;
        let dependencies = waits.dependencies.as_ref();
        Blocker::new(
            dependencies.is_some_and(|jobs| !jobs.is_empty()),
            waits.concurrency_key.is_some(),
        )
    }
}

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
            // a marker has no content
            let outline: Option<RecordOutline> = serde_json::from_slice(&message.payload).ok();
            let outline = outline.filter(|outline| outline.placeholder != Some(true));
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

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{Outcome, Phase, Record};

    #[test]
    fn an_outline_has_the_fields_of_the_record() {
        let at = Timestamp::from_unix_ms(0).unwrap();
        let mut record = Record::new(
            JobId::new("a").unwrap(),
            QueueName::new("q").unwrap(),
            Phase::Finished {
                outcome: Outcome::Failed(Reason::Timeout),
                finished_at: at,
            },
            at,
        );
        record.worker_id = Some("w".to_owned());
        record.schedule_id = Some(ScheduleId::new("s").unwrap());
        record.labels.insert("team".to_owned(), "x".to_owned());
        let text = serde_json::to_vec(&record).unwrap();
        let outline: RecordOutline = serde_json::from_slice(&text).unwrap();
        assert_eq!(outline.queue, record.queue);
        assert_eq!(outline.state, record.state());
        assert_eq!(outline.reason, record.reason());
        assert_eq!(outline.worker_id, record.worker_id);
        assert_eq!(outline.schedule_id, record.schedule_id);
        assert_eq!(*outline.labels(), record.labels);
        // other clients write null for what is absent
        let bare = r#"{"queue":"q","state":"running","labels":null,"placeholder":null,"x":[{}]}"#;
        let outline: RecordOutline = serde_json::from_str(bare).unwrap();
        assert!(outline.labels().is_empty());
    }
}
