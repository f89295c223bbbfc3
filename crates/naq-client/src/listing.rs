//! Lists of jobs in any state, a page at a time.

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt};
use schemars::JsonSchema;
use serde::Serialize;

use super::filter::JobFilter;
use super::raw_envelope::{as_json, command};
use super::unclaimed::record_of;
use super::{Client, ClientError, RecordSummary};
use naq_jetstream::{EnvelopeLocation, JobCursor, JobListOptions, RecordOrMessage};
use naq_protocol::{JobProgress, Record, State, Timestamp};

/// How many envelopes are read at the same time.
const READS_AT_ONCE: usize = 32;

/// A job in a list: its record without its envelope and its output.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "job")]
#[non_exhaustive]
pub struct JobSummary {
    /// What lists and events have in common.
    #[serde(flatten)]
    pub record: RecordSummary,
    /// The worker that holds the job's lease, or held the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    /// Whether the job is running and its worker no longer sends heartbeats; false if that was not
    /// checked.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(default)]
    pub worker_vanished: bool,
    /// When the server stored the job's message.
    pub enqueue_time: Timestamp,
    /// When the current or last attempt started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the job ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// The earliest time of the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Timestamp>,
    /// When the server stored the record or message that this summary is made of. Lists are ordered
    /// by it.
    pub changed_at: Timestamp,
    /// The last progress that the job reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<JobProgress>,
    /// The envelope's labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(default)]
    pub labels: BTreeMap<String, String>,
    /// What the job runs, in one line. `None` means that the envelope is not at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl JobSummary {
    fn new(record: Record, changed_at: Timestamp) -> JobSummary {
        JobSummary {
            record: RecordSummary::from(&record),
            command: record.envelope.as_deref().and_then(command),
            finished_at: record.finished_at(),
            next_attempt_at: record.next_attempt_at(),
            worker_id: record.worker_id,
            worker_vanished: false,
            enqueue_time: record.enqueue_time,
            started_at: record.started_at,
            changed_at,
            progress: record.progress,
            labels: record.labels,
        }
    }
}

/// A page of a job list.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobPage {
    /// The jobs, latest change first.
    pub jobs: Vec<JobSummary>,
    /// Where the next page starts. `None` means that this is the last page.
    pub next: Option<JobCursor>,
}

impl Client {
    /// Returns up to `limit` jobs in any state, latest change first, including jobs that no worker has
    /// claimed yet. `before` is the `next` of an earlier page. Jobs that changed before `since` are
    /// left out.
    ///
    /// A job that changes while pages are read moves to the front: it may appear twice, or on none
    /// of the remaining pages.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, JobFilter};
    /// use naq_client::State;
    ///
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let filter = JobFilter { states: vec![State::Failed], ..JobFilter::default() };
    /// let mut before = None;
    /// loop {
    ///     let page = client.list_jobs(&filter, None, before, 100).await?;
    ///     for job in page.jobs {
    ///         println!("{}: {}", job.record.job_id, job.record.error.unwrap_or_default());
    ///     }
    ///     before = page.next;
    ///     if before.is_none() {
    ///         return Ok(());
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn list_jobs(
        &self,
        filter: &JobFilter,
        since: Option<Timestamp>,
        before: Option<JobCursor>,
        limit: usize,
    ) -> Result<JobPage, ClientError> {
        let is_unclaimed = |state| matches!(state, State::Queued | State::Scheduled);
        let mut listing = self
            .broker
            .list_jobs(&JobListOptions {
                queue: filter.queue.clone(),
                // unclaimed jobs are in the queues, so no record has to be read
                only_messages: !filter.states.is_empty()
                    && filter.states.iter().all(|state| is_unclaimed(*state)),
                only_records: !filter.may_match_state(State::Queued)
                    && !filter.may_match_state(State::Scheduled),
                before,
            })
            .await?;
        let mut page = JobPage {
            jobs: Vec::new(),
            next: None,
        };
        let mut is_last = true;
        let mut open = Vec::new();
        while let Some(job) = listing.next().await? {
            if since.is_some_and(|since| job.changed_at < since) {
                break;
            }
            if page.jobs.len() >= limit {
                // the next page starts after the last job of this one
                is_last = false;
                break;
            }
            let record = match job.entry {
                RecordOrMessage::Record(record) => *record,
                RecordOrMessage::Message(job_id, message) => record_of(&job_id, &message),
            };
            if filter.matches(&record) {
                if record.envelope.is_none() && !record.state().is_terminal() {
                    open.push((page.jobs.len(), EnvelopeLocation::of(&record)));
                }
                page.jobs.push(JobSummary::new(record, job.changed_at));
                page.next = Some(job.cursor);
            }
        }
        if is_last {
            page.next = None;
        }
        // as long as a job has not ended, its message contains the envelope
        let mut reads = stream::iter(open)
            .map(|(index, location)| async move {
                let envelope = self.broker.envelope_at(&location).await;
                (index, envelope)
            })
            .buffer_unordered(READS_AT_ONCE);
        while let Some((index, envelope)) = reads.next().await {
            page.jobs[index].command = envelope?
                .and_then(|envelope| as_json(&envelope))
                .and_then(|envelope| command(&envelope));
        }
        drop(reads);
        Ok(page)
    }
}
