//! Explains what a job waits for, with the same text in every verb and on every page.

use std::time::Duration;

use super::{FREE_ROOM, count, excerpt, relative_time, span};
use naq_client::WaitCause;
use naq_core::describe_missing_labels;
use naq_protocol::{Dependency, JobId, QueueName, Timestamp, escape};

/// What a job waits for, as a sentence without a full stop. `unseen` is the time for which a vanished
/// worker has sent no heartbeat, at least.
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
                "the queue `{queue}` runs {max_running} jobs at once, its limit; `naq queue set {queue} --max-running COUNT` raises it"
            )
        }
        WaitCause::NoFreeSlot { queue, slots } => {
            let slots = count(*slots, "slot");
            format!("the workers of queue `{queue}` are busy: {slots}, none free")
        }
        WaitCause::Dependencies { jobs } => describe_dependencies(jobs),
        WaitCause::ConcurrencyKey { key } => {
            let key = excerpt(&escape(key), 80);
            format!("blocked on a slot of the concurrency key `{key}`")
        }
        WaitCause::StoreFull => {
            format!("the store is full, so that no outcome can be recorded; {FREE_ROOM}")
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
            format!("its worker {worker} was not seen for {seconds} s; {next}")
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
