//! Explains what a job waits for, with the same text in every verb and on every page.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Ending, FREE_ROOM, count, excerpt, relative_time, span};
use naq_client::WaitCause;
use naq_core::describe_missing_labels;
use naq_protocol::{Dependency, JobId, QueueName, Record, State, Timestamp, escape};

/// Why a job does not run.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "why")]
pub(crate) struct Why {
    /// The job.
    pub(crate) job_id: JobId,
    /// Its state.
    pub(crate) state: State,
    /// For people: what the job waits for, since when it runs, or how it ended.
    pub(crate) text: String,
    /// What it waits for, with details. Absent if nothing keeps it from running, or if it runs or has
    /// ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub(crate) cause: Option<WaitCause>,
    /// Whether a user has to act. Otherwise, the job will not start or not end.
    pub(crate) needs_action: bool,
}

impl Why {
    /// The explanation of a cause; for `unseen` see [`describe`].
    pub(crate) fn new(
        record: &Record,
        cause: Option<WaitCause>,
        now: Timestamp,
        unseen: Duration,
    ) -> Why {
        let text = match &cause {
            Some(cause) => describe(&record.job_id, cause, now, unseen),
            None => describe_unhindered(record, now),
        };
        Why {
            job_id: record.job_id.clone(),
            state: record.state(),
            text,
            needs_action: cause.as_ref().is_some_and(WaitCause::needs_action),
            cause,
        }
    }
}

/// Describes a job that waits for nothing.
fn describe_unhindered(record: &Record, now: Timestamp) -> String {
    let ending = Ending::of(record);
    let error = record.error.as_deref().map(escape);
    match (record.state(), record.finished_at()) {
        (state, Some(ended)) if state.is_terminal() => {
            let error = error.map(|error| format!(": {error}")).unwrap_or_default();
            format!(
                "it has ended {}: {ending}{error}",
                relative_time(ended, now)
            )
        }
        (State::Running, _) => {
            let started = record.started_at.unwrap_or(record.enqueue_time);
            let worker = record.worker_id.as_deref().map(escape);
            let worker = worker
                .map(|id| format!(" on worker {id}"))
                .unwrap_or_default();
            format!(
                "it has been running since {started} ({}){worker}",
                relative_time(started, now)
            )
        }
        (state, _) if state.is_terminal() => format!("it has ended: {ending}"),
        _ => "nothing keeps it from running; a worker starts it soon".to_owned(),
    }
}

/// What a job waits for, as a sentence without a full stop. `unseen` is the minimum time since the last
/// heartbeat of a vanished worker.
pub(crate) fn describe(job: &JobId, cause: &WaitCause, now: Timestamp, unseen: Duration) -> String {
    match cause {
        WaitCause::NotDue { due } => {
            format!("delayed until {due} ({})", relative_time(*due, now))
        }
        WaitCause::JobPaused => {
            format!("the job is paused; `naq job resume {job}` resumes it")
        }
        WaitCause::RetryDue { due } => {
            let wait = (due.unix_ms() - now.unix_ms()).max(0).unsigned_abs();
            let wait = span(Duration::from_millis(wait));
            format!("the next attempt starts in {wait}")
        }
        WaitCause::QueuePaused { queue } => {
            format!("the queue `{queue}` is paused; `naq queue resume {queue}` resumes it")
        }
        WaitCause::NoWorker { queue } => start_a_worker(queue),
        WaitCause::WorkersDraining { queue } => format!(
            "the workers of queue `{queue}` are stopping and take no more jobs; start one with `naq worker {queue}`"
        ),
        WaitCause::MissingLabels { queue, labels } => {
            escape(&describe_missing_labels(queue, labels))
        }
        WaitCause::QueueLimit { queue, max_running } => {
            format!(
                "the queue `{queue}` already runs its maximum of {max_running} jobs at once; `naq queue set {queue} --max-running COUNT` raises it"
            )
        }
        WaitCause::NoFreeSlot { queue, slots } => {
            let slots = count(*slots, "slot");
            format!("the workers of queue `{queue}` are busy: {slots}, none is free")
        }
        WaitCause::Dependencies { jobs } => describe_dependencies(jobs),
        WaitCause::ConcurrencyKey { key } => {
            let key = excerpt(&escape(key), 80);
            format!("blocked on a slot of the concurrency key `{key}`")
        }
        WaitCause::StoreFull => {
            format!("the store is full, so workers cannot record outcomes; {FREE_ROOM}")
        }
        WaitCause::OutcomesRefused { worker_id } => {
            let worker = escape(worker_id);
            format!("worker {worker} cannot store outcomes; `naq workers` shows why")
        }
        WaitCause::WorkerVanished {
            worker_id,
            queue,
            is_served,
        } => {
            let seconds = unseen.as_secs();
            let worker = escape(worker_id);
            let next = match is_served {
                true => format!("another worker of queue `{queue}` takes the job over"),
                false => start_a_worker(queue),
            };
            format!("its worker {worker} has sent no heartbeat for {seconds} s; {next}")
        }
        _ => "waits".to_owned(),
    }
}

fn start_a_worker(queue: &QueueName) -> String {
    format!("no worker serves queue `{queue}`; start one with `naq worker {queue}`")
}

fn describe_dependencies(jobs: &[Dependency]) -> String {
    match jobs {
        [one] => format!("blocked on job `{}`", one.job),
        [first, rest @ ..] => {
            let more = count(rest.len() as u64, "other");
            format!("blocked on job `{}` and {more}", first.job)
        }
        [] => "blocked".to_owned(),
    }
}
