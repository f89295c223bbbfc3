//! A job as a row of a table.

use std::time::Duration;

use serde::Serialize;

use crate::text::{Ending, excerpt, relative_time, span};
use naq_client::JobSummary;
use naq_protocol::{State as JobState, Timestamp, escape};

/// Maximum number of characters of an error that a row shows.
const ERROR_CHARS_MAX: usize = 200;

/// A row of `job_table.html`.
#[derive(Serialize)]
pub(super) struct JobRow {
    id: String,
    queue: String,
    state: String,
    class: &'static str,
    command: String,
    error: String,
    attempt: String,
    took: String,
    changed: String,
    changed_at: String,
}

impl JobRow {
    pub(super) fn new(job: &JobSummary, now: Timestamp) -> JobRow {
        let took = job.started_at.map(|started| {
            let until = job.finished_at.unwrap_or(now);
            span(between(started, until))
        });
        let (state, class) = match job.worker_vanished {
            true => (format!("{} (worker vanished)", job.record.state), "bad"),
            false => (
                Ending::of_summary(&job.record).to_string(),
                class_of(job.record.state),
            ),
        };
        let error = job.record.error.as_deref().unwrap_or_default();
        JobRow {
            id: job.record.job_id.to_string(),
            queue: job.record.queue.to_string(),
            state,
            class,
            command: job.command.as_deref().map(escape).unwrap_or_default(),
            error: excerpt(&escape(error), ERROR_CHARS_MAX),
            attempt: match job.record.attempt {
                0 => String::new(),
                attempt => attempt.to_string(),
            },
            took: took.unwrap_or_default(),
            changed: relative_time(job.changed_at, now),
            changed_at: job.changed_at.to_string(),
        }
    }
}

/// The time from one moment to a later one. Zero if clocks disagree.
pub(super) fn between(from: Timestamp, until: Timestamp) -> Duration {
    let ms = until.unix_ms() - from.unix_ms();
    Duration::from_millis(ms.max(0).unsigned_abs())
}

/// The CSS class of a state, which determines its colour.
pub(super) fn class_of(state: JobState) -> &'static str {
    match state {
        JobState::Succeeded => "ok",
        JobState::Failed | JobState::Rejected => "bad",
        JobState::Running => "run",
        JobState::Cancelled | JobState::Expired | JobState::Retrying => "wait",
        JobState::Queued | JobState::Scheduled | JobState::Waiting | JobState::Unknown(_) => "idle",
    }
}
