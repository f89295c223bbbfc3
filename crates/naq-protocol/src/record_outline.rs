//! The outline of a record: the fields by which jobs are found, and those that lists and events show.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::lenient;
use crate::names::{JobId, QueueName, ScheduleId};
use crate::record::Record;
use crate::state::{Reason, State};
use crate::time::Timestamp;

/// The fields of a record by which jobs are found, and which events show. To read them takes a fraction of the
/// time that the whole record takes.
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
    /// The number of the current or last attempt; 0 before the first one.
    #[serde(default, deserialize_with = "lenient::integer_or_default")]
    pub attempt: u32,
    /// The exit code of the last attempt's first process.
    #[serde(default, deserialize_with = "lenient::optional_integer")]
    pub exit_code: Option<i32>,
    /// The signal that killed the last attempt's first process.
    #[serde(default, deserialize_with = "lenient::optional_integer")]
    pub signal: Option<i32>,
    /// What went wrong.
    #[serde(default)]
    pub error: Option<String>,
    /// The worker that runs or last ran the job.
    #[serde(default)]
    pub worker_id: Option<String>,
    /// The schedule that enqueued the job.
    #[serde(default)]
    pub schedule_id: Option<ScheduleId>,
    /// The job that this job reruns.
    #[serde(default)]
    pub rerun_of: Option<JobId>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    placeholder: Option<bool>,
    #[serde(default)]
    waits: Option<WaitsOutline>,
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

impl RecordOutline {
    /// Reads the outline of the record in a message. `None` means that the record was removed, or that it stands
    /// for a job that no worker has seen.
    ///
    /// # Errors
    /// Returns an error if the message is not a record, or one that is invalid.
    pub fn read(payload: &[u8]) -> Result<Option<RecordOutline>, serde_json::Error> {
        // a marker has no content
        if payload.is_empty() {
            return Ok(None);
        }
        let outline: RecordOutline = serde_json::from_slice(payload)?;
        Ok((outline.placeholder != Some(true)).then_some(outline))
    }

    /// Reads what it can of a record that is invalid, as [`Record::unreadable`] does.
    #[must_use]
    pub fn unreadable(
        job_id: &JobId,
        payload: &[u8],
        stored_at: Timestamp,
        problem: &serde_json::Error,
    ) -> Option<RecordOutline> {
        Record::unreadable(job_id.clone(), payload, stored_at, problem)
            .map(|record| RecordOutline::from(&record))
    }

    /// The labels of the job.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.labels.as_ref().unwrap_or(&NONE)
    }

    /// The labels of the job, which are then no longer in the outline.
    #[must_use]
    pub fn take_labels(&mut self) -> BTreeMap<String, String> {
        self.labels.take().unwrap_or_default()
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
        match (
            dependencies.is_some_and(|jobs| !jobs.is_empty()),
            waits.concurrency_key.is_some(),
        ) {
            (true, _) => Some(Blocker::Dependencies),
            (false, true) => Some(Blocker::ConcurrencyKey),
            (false, false) => None,
        }
    }
}

impl From<&Record> for RecordOutline {
    fn from(record: &Record) -> RecordOutline {
        RecordOutline {
            queue: record.queue.clone(),
            state: record.state(),
            reason: record.reason(),
            attempt: record.attempt,
            exit_code: record.exit_code,
            signal: record.signal,
            error: record.error.clone(),
            worker_id: record.worker_id.clone(),
            schedule_id: record.schedule_id.clone(),
            rerun_of: record.rerun_of.clone(),
            labels: (!record.labels.is_empty()).then(|| record.labels.clone()),
            placeholder: record.placeholder.then_some(true),
            waits: record.waits().map(|waits| WaitsOutline {
                dependencies: Some(vec![IgnoredAny; waits.dependencies.len()]),
                concurrency_key: waits.concurrency_key.as_ref().map(|_| IgnoredAny),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::{Outcome, Phase};

    fn at() -> Timestamp {
        Timestamp::from_unix_ms(0).unwrap()
    }

    fn job() -> JobId {
        JobId::new("a").unwrap()
    }

    fn record() -> Record {
        let mut record = Record::new(
            job(),
            QueueName::new("q").unwrap(),
            Phase::Finished {
                outcome: Outcome::Failed(Reason::Timeout),
                finished_at: at(),
            },
            at(),
        );
        record.attempt = 3;
        record.exit_code = Some(4);
        record.error = Some("it was late".to_owned());
        record.worker_id = Some("w".to_owned());
        record.schedule_id = Some(ScheduleId::new("s").unwrap());
        record.rerun_of = Some(JobId::new("b").unwrap());
        record.labels.insert("team".to_owned(), "x".to_owned());
        record
    }

    #[test]
    fn an_outline_has_the_fields_of_the_record() {
        let record = record();
        let text = serde_json::to_vec(&record).unwrap();
        let read = RecordOutline::read(&text).unwrap().unwrap();
        for outline in [read, RecordOutline::from(&record)] {
            assert_eq!(outline.queue, record.queue);
            assert_eq!(outline.state, record.state());
            assert_eq!(outline.reason, record.reason());
            assert_eq!(outline.attempt, record.attempt);
            assert_eq!(outline.exit_code, record.exit_code);
            assert_eq!(outline.signal, record.signal);
            assert_eq!(outline.error, record.error);
            assert_eq!(outline.worker_id, record.worker_id);
            assert_eq!(outline.schedule_id, record.schedule_id);
            assert_eq!(outline.rerun_of, record.rerun_of);
            assert_eq!(*outline.labels(), record.labels);
            assert_eq!(outline.blocker(), None);
        }
    }

    #[test]
    fn what_other_clients_write_is_read() {
        let bare = br#"{"queue":"q","state":"running","labels":null,"placeholder":null,"attempt":2.0,"x":[{}]}"#;
        let outline = RecordOutline::read(bare).unwrap().unwrap();
        assert!(outline.labels().is_empty());
        assert_eq!(outline.attempt, 2);
        let placeholder = br#"{"queue":"q","state":"queued","placeholder":true}"#;
        for no_record in [&placeholder[..], b""] {
            assert!(RecordOutline::read(no_record).unwrap().is_none());
        }
        // as the list of jobs shows it
        let invalid = br#"{"queue":"q","state":"running","attempt":"first"}"#;
        let problem = RecordOutline::read(invalid).unwrap_err();
        let outline = RecordOutline::unreadable(&job(), invalid, at(), &problem).unwrap();
        assert!(matches!(outline.state, State::Unknown(_)));
        assert!(outline.error.unwrap().contains("cannot be read"));
    }
}
