//! Lists of jobs in any state, a page at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;

use super::filter::JobFilter;
use super::raw_envelope::{as_json, command};
use super::unclaimed::record_of;
use super::{Client, ClientError, RecordSummary};
use naq_jetstream::{
    EnvelopeLocation, JobCursor, JobListOptions, RecordOrMessage, RecordRevisions,
};
use naq_protocol::{JobProgress, Record, ScheduleId, State, Timestamp};

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
    /// The schedule that enqueued the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
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
    /// The summary of a record that was stored at `changed_at`.
    #[must_use]
    pub fn new(record: Record, changed_at: Timestamp) -> JobSummary {
        JobSummary {
            record: RecordSummary::from(&record),
            command: record.envelope.as_deref().and_then(command),
            finished_at: record.finished_at(),
            next_attempt_at: record.next_attempt_at(),
            worker_id: record.worker_id,
            schedule_id: record.schedule_id,
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
    /// Whether the search stopped early because it reached [`JobSearch::scan_max`] or
    /// [`JobSearch::time_max`]: the page may be short although older jobs match.
    pub is_cut: bool,
}

/// Which jobs [`Client::search_jobs`] returns, and how much it reads to find them.
#[derive(Clone, Debug)]
pub struct JobSearch {
    /// Selects jobs before the caller's own condition does.
    pub filter: JobFilter,
    /// Jobs that changed before this time are left out. `None` means no limit.
    pub since: Option<Timestamp>,
    /// The `next` of an earlier page. `None` starts at the latest change.
    pub before: Option<JobCursor>,
    /// The maximum number of jobs in the page.
    pub limit: usize,
    /// The maximum number of jobs that are read, whether they are selected or not.
    pub scan_max: usize,
    /// No further job is read after this time. At least one is read, so that a search makes progress.
    pub time_max: Duration,
    /// The records to read instead of all. The filter and the caller's condition are checked for these too.
    /// `None` means all records.
    pub revisions: Option<Arc<dyn RecordRevisions>>,
}

/// A job that the filter selected, and the place of its envelope if that has to be read.
struct Candidate {
    job: JobSummary,
    envelope: Option<EnvelopeLocation>,
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
        let search = JobSearch {
            filter: filter.clone(),
            since,
            before,
            limit,
            scan_max: usize::MAX,
            time_max: Duration::MAX,
            revisions: None,
        };
        self.search_jobs(&search, |_| true).await
    }

    /// Returns the jobs of a list for which `is_selected` is true, in the order of [`Client::list_jobs`].
    /// Stops at the limits of the search; the page's `next` then continues it.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn search_jobs(
        &self,
        search: &JobSearch,
        is_selected: impl Fn(&JobSummary) -> bool,
    ) -> Result<JobPage, ClientError> {
        let filter = &search.filter;
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
                before: search.before.clone(),
                revisions: search.revisions.clone(),
                unsuccessful: match filter.states.iter().all(|state| state.is_unsuccessful()) {
                    true => filter.states.clone(),
                    false => Vec::new(),
                },
            })
            .await?;
        let started = Instant::now();
        let mut page = JobPage {
            jobs: Vec::new(),
            next: None,
            is_cut: false,
        };
        let mut candidates: Vec<Candidate> = Vec::new();
        // the position of the last job that was read
        let mut position = search.before.clone();
        let mut scanned = 0;
        loop {
            // A batch is never larger than the room of the page, so each of its jobs fits.
            let room = search.limit.saturating_sub(page.jobs.len());
            if candidates.len() >= room.min(READS_AT_ONCE) {
                let batch = std::mem::take(&mut candidates);
                self.add_selected(batch, &is_selected, &mut page).await?;
            }
            let is_over =
                scanned >= search.scan_max || (scanned > 0 && started.elapsed() >= search.time_max);
            let job = match listing.next().await? {
                Some(job) if search.since.is_none_or(|since| job.changed_at >= since) => job,
                _ => {
                    position = None;
                    break;
                }
            };
            // another job follows the full page, so there is another page
            if page.jobs.len() >= search.limit {
                break;
            }
            if is_over {
                page.is_cut = true;
                break;
            }
            scanned += 1;
            position = Some(job.cursor);
            let record = match job.entry {
                RecordOrMessage::Record(record) => *record,
                RecordOrMessage::Message(job_id, message) => record_of(&job_id, &message),
            };
            if filter.matches(&record) {
                // as long as a job has not ended, its message contains the envelope
                let is_read = record.envelope.is_none() && !record.state().is_terminal();
                candidates.push(Candidate {
                    envelope: is_read.then(|| EnvelopeLocation::of(&record)),
                    job: JobSummary::new(record, job.changed_at),
                });
            }
        }
        self.add_selected(candidates, &is_selected, &mut page)
            .await?;
        page.next = position;
        Ok(page)
    }

    /// Reads the envelopes of candidates, and adds the selected jobs to a page.
    async fn add_selected(
        &self,
        mut candidates: Vec<Candidate>,
        is_selected: &impl Fn(&JobSummary) -> bool,
        page: &mut JobPage,
    ) -> Result<(), ClientError> {
        let to_read = candidates.iter_mut().enumerate();
        let to_read: Vec<(usize, EnvelopeLocation)> = to_read
            .filter_map(|(index, candidate)| Some((index, candidate.envelope.take()?)))
            .collect();
        let mut reads = stream::iter(to_read)
            .map(|(index, location)| async move {
                let envelope = self.broker.envelope_at(&location).await;
                (index, envelope)
            })
            .buffer_unordered(READS_AT_ONCE);
        while let Some((index, envelope)) = reads.next().await {
            candidates[index].job.command = envelope?
                .and_then(|envelope| as_json(&envelope))
                .and_then(|envelope| command(&envelope));
        }
        drop(reads);
        let jobs = candidates.into_iter().map(|candidate| candidate.job);
        page.jobs.extend(jobs.filter(|job| is_selected(job)));
        Ok(())
    }
}
