//! Which jobs a bulk action selects. Reads them page by page, so memory is bounded however many there are.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use serde::Serialize;
use tokio::time::Instant;

use super::bulk_action::ActionVerb;
use super::filter::Filter;
use super::job_search::search;
use super::record_index::SharedIndex;
use crate::text::count;
use naq_client::{
    Client, ClientError, DeadLetter, DeadLetterFilter, JobCursor, JobSummary, MatchingDeadLetters,
};
use naq_protocol::units::WireDuration;
use naq_protocol::{JobId, QueueName, State as JobState, Timestamp, escape};

/// Number of jobs of a filter that are read at a time.
const PAGE_MAX: usize = 500;

/// Longest time for which a preview counts.
const COUNT_TIME_MAX: Duration = Duration::from_secs(5);

/// Number of jobs that a preview shows.
const EXAMPLES_MAX: usize = 10;

/// How many jobs that a request names are read at the same time.
const READS_AT_ONCE: usize = 32;

/// What a request selects.
#[derive(Clone, Debug)]
pub(super) enum Selector {
    /// These jobs.
    Ids(Vec<JobId>),
    /// The jobs that match a filter.
    Filter(Filter),
    /// Dead letters.
    Failed(DeadLetterFilter),
}

/// The jobs that a bulk action is about.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    pub(super) verb: ActionVerb,
    pub(super) selector: Selector,
    /// Leaves out jobs that changed later than this, which the sender has not seen.
    pub(super) until: Option<Timestamp>,
    /// Maximum number of jobs.
    pub(super) limit: usize,
    /// How long the records are kept, for [`ActionVerb::Ttl`]. Zero means forever.
    pub(super) ttl: Option<Duration>,
}

/// Checks how long records are to be kept.
///
/// # Errors
/// Returns a message if it is shorter than what records are kept for at least.
pub(super) fn check_ttl(ttl: WireDuration) -> Result<Duration, String> {
    let min = WireDuration(naq_core::RECORD_TTL_MIN);
    match naq_core::clamp_result_ttl(ttl.0).is_none_or(|kept| kept == ttl.0) {
        true => Ok(ttl.0),
        false => Err(format!(
            "{ttl} is too short: a record stays for at least {min}; 0 keeps it forever"
        )),
    }
}

impl Selection {
    /// Limits a filter to the states that the verb applies to.
    ///
    /// # Errors
    /// Returns a message if the verb applies to none of the states of the filter.
    pub(super) fn restrict(verb: ActionVerb, mut filter: Filter) -> Result<Filter, String> {
        filter.states = match filter.states.as_slice() {
            [] => verb.default_states().to_vec(),
            given => {
                let applies = |state: &&JobState| verb.states().contains(state);
                given.iter().filter(applies).copied().collect()
            }
        };
        match filter.states.is_empty() {
            true => Err(format!(
                "no job in the states of the filter can be {}",
                match verb {
                    ActionVerb::Cancel => "cancelled",
                    ActionVerb::Retry => "retried",
                    ActionVerb::Discard => "discarded",
                    ActionVerb::Ttl => "kept for another time",
                }
            )),
            false => Ok(filter),
        }
    }

    /// What it selects, for people.
    pub(super) fn describe(&self) -> String {
        match &self.selector {
            Selector::Ids(ids) => match ids.as_slice() {
                [id] => format!("the job {id}"),
                ids => count(ids.len() as u64, "named job"),
            },
            Selector::Filter(filter) => format!("the filter {}", escape(&filter.to_string())),
            Selector::Failed(filter) => {
                let mut text = "failed jobs".to_owned();
                if let Some(reason) = &filter.reason {
                    text.push_str(&format!(" with the reason {reason}"));
                }
                if let Some(group) = &filter.group {
                    text.push_str(&format!(" of the group {}", group.as_str()));
                }
                if let Some(queue) = &filter.queue {
                    text.push_str(&format!(" of the queue {queue}"));
                }
                if let Some(since) = filter.since {
                    text.push_str(&format!(" since {since}"));
                }
                text
            }
        }
    }

    /// Starts to read the selected jobs.
    ///
    /// # Errors
    /// Returns an error if NATS does not answer.
    pub(super) async fn targets(
        &self,
        client: &Client,
        index: Option<&Arc<SharedIndex>>,
    ) -> Result<Targets, ClientError> {
        let source = match &self.selector {
            Selector::Ids(ids) => Source::Ids(ids.clone().into_iter()),
            Selector::Filter(filter) => Source::Filter {
                filter: Box::new(filter.clone()),
                index: index.cloned(),
                page: Vec::new().into_iter(),
                position: Position::Start,
            },
            Selector::Failed(filter) => {
                let until = match (filter.until, self.until) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
                let filter = DeadLetterFilter {
                    until,
                    ..filter.clone()
                };
                Source::Failed(client.select_dead_letters(&filter).await?)
            }
        };
        Ok(Targets {
            source,
            until: self.until,
        })
    }

    /// Counts the selected jobs without changing them, within a time limit.
    ///
    /// # Errors
    /// Returns an error if NATS does not answer.
    pub(super) async fn preview(
        &self,
        client: &Client,
        index: Option<&Arc<SharedIndex>>,
    ) -> Result<Preview, ClientError> {
        let started = Instant::now();
        let mut preview = Preview::new(self.verb);
        let mut last = None;
        if let Selector::Ids(ids) = &self.selector {
            let ids_read: Vec<JobId> = ids.iter().take(self.limit).cloned().collect();
            let mut read = std::pin::pin!(
                stream::iter(ids_read)
                    .map(|id| async move { client.fetch_job(&id).await })
                    .buffered(READS_AT_ONCE)
            );
            while let Some(record) = read.next().await {
                let record = match record {
                    Ok(record) => record,
                    Err(ClientError::NoSuchJob(_)) => continue,
                    Err(error) => return Err(error),
                };
                if self.verb.states().contains(&record.state()) {
                    preview.add(Example {
                        job_id: record.job_id.clone(),
                        queue: record.queue.clone(),
                        state: record.state(),
                        command: None,
                    });
                }
            }
            preview.is_complete = ids.len() <= self.limit;
            return Ok(preview);
        }
        let mut targets = self.targets(client, index).await?;
        while let Some(target) = targets.next(client).await? {
            if preview.jobs >= self.limit as u64 || started.elapsed() >= COUNT_TIME_MAX {
                preview.is_complete = false;
                break;
            }
            last = last.max(target.changed_at);
            if let Some(example) = target.example() {
                preview.add(example);
            }
        }
        // times of the server are finer than milliseconds
        preview.until = last.and_then(|last| Timestamp::from_unix_ms(last.unix_ms() + 1));
        Ok(preview)
    }
}

/// A selected job.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) job_id: JobId,
    /// The dead letter that was selected. `None` if a job was.
    pub(super) dead_letter: Option<Box<DeadLetter>>,
    summary: Option<Box<JobSummary>>,
    /// When it last changed, if that is known.
    changed_at: Option<Timestamp>,
}

impl Target {
    fn of_job(job: JobSummary) -> Target {
        Target {
            job_id: job.record.job_id.clone(),
            dead_letter: None,
            changed_at: Some(job.changed_at),
            summary: Some(Box::new(job)),
        }
    }

    fn of_dead_letter(failed: DeadLetter) -> Target {
        Target {
            job_id: failed.job_id.clone(),
            changed_at: Some(failed.time),
            summary: None,
            dead_letter: Some(Box::new(failed)),
        }
    }

    fn example(&self) -> Option<Example> {
        match (&self.summary, &self.dead_letter) {
            (Some(job), _) => Some(Example {
                job_id: job.record.job_id.clone(),
                queue: job.record.queue.clone(),
                state: job.record.state,
                command: job.command.as_deref().map(escape),
            }),
            (None, Some(failed)) => Some(Example {
                job_id: failed.job_id.clone(),
                queue: failed.queue.clone(),
                state: failed.state,
                command: None,
            }),
            (None, None) => None,
        }
    }
}

/// The selected jobs, read as [`Targets::next`] is called.
pub(super) struct Targets {
    source: Source,
    until: Option<Timestamp>,
}

enum Source {
    Ids(std::vec::IntoIter<JobId>),
    Filter {
        filter: Box<Filter>,
        /// Selects the records to read. `None` if it is switched off.
        index: Option<Arc<SharedIndex>>,
        page: std::vec::IntoIter<JobSummary>,
        position: Position,
    },
    Failed(MatchingDeadLetters),
}

/// Where the next page of a search starts.
enum Position {
    Start,
    Before(JobCursor),
    End,
}

impl Targets {
    /// The next one. `None` means that there are no more.
    ///
    /// # Errors
    /// Returns an error if NATS does not answer.
    pub(super) async fn next(&mut self, client: &Client) -> Result<Option<Target>, ClientError> {
        match &mut self.source {
            Source::Ids(ids) => Ok(ids.next().map(|job_id| Target {
                job_id,
                dead_letter: None,
                summary: None,
                changed_at: None,
            })),
            Source::Failed(matching) => Ok(matching.next().await?.map(Target::of_dead_letter)),
            Source::Filter {
                filter,
                index,
                page,
                position,
            } => loop {
                let until = self.until;
                let is_seen = |job: &JobSummary| until.is_none_or(|until| job.changed_at <= until);
                if let Some(job) = page.find(is_seen) {
                    return Ok(Some(Target::of_job(job)));
                }
                let before = match std::mem::replace(position, Position::End) {
                    Position::Start => None,
                    Position::Before(cursor) => Some(cursor),
                    Position::End => return Ok(None),
                };
                // A job that the action changes moves to the front of the list, which the search has passed.
                let filters = std::slice::from_ref(&**filter);
                let found = search(client, index.as_ref(), filters, before, PAGE_MAX).await?;
                *page = found.jobs.into_iter();
                if let Some(next) = found.next {
                    *position = Position::Before(next);
                }
            },
        }
    }
}

/// A selected job, as an example.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "action_example")]
pub(super) struct Example {
    /// The job.
    pub(super) job_id: JobId,
    /// Its queue.
    pub(super) queue: QueueName,
    /// Its state.
    pub(super) state: JobState,
    /// What it runs, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) command: Option<String>,
}

/// What an action would do.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "action_preview")]
pub(super) struct Preview {
    /// What would be done with each job.
    pub(super) action: ActionVerb,
    /// Number of selected jobs.
    pub(super) jobs: u64,
    /// Whether all jobs were counted. False if the limit, or the time limit of 5 seconds, ended the count.
    pub(super) is_complete: bool,
    /// How many of them are running or blocked. An undo may not be able to restore these, so the request has
    /// to repeat the number in `confirm`.
    pub(super) irreversible: u64,
    /// Some of the jobs, at most 10.
    pub(super) examples: Vec<Example>,
    /// The value of `until` with which a request acts on no job that changes from now on. Absent if ids were
    /// given, or if no job is selected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Timestamp>,
}

impl Preview {
    fn new(action: ActionVerb) -> Preview {
        Preview {
            action,
            jobs: 0,
            is_complete: true,
            irreversible: 0,
            examples: Vec::new(),
            until: None,
        }
    }

    fn add(&mut self, example: Example) {
        self.jobs += 1;
        self.irreversible += u64::from(self.action.is_irreversible(example.state));
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(example);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_limited_to_the_states_of_the_verb() {
        let restrict = |verb, text: &str| {
            Selection::restrict(verb, text.parse().unwrap()).map(|filter| filter.to_string())
        };
        // a retry of everything does not repeat what has succeeded
        assert_eq!(
            restrict(ActionVerb::Retry, "queue:mail").unwrap(),
            "state:failed queue:mail"
        );
        assert_eq!(
            restrict(ActionVerb::Retry, "state:succeeded").unwrap(),
            "state:succeeded"
        );
        assert_eq!(
            restrict(ActionVerb::Cancel, "state:queued state:failed").unwrap(),
            "state:queued"
        );
        let error = restrict(ActionVerb::Cancel, "state:failed").unwrap_err();
        assert!(error.contains("can be cancelled"), "{error}");
        assert!(restrict(ActionVerb::Discard, "state:running").is_err());
    }
}
