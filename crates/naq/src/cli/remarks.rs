//! Notes on what a job's output and exit code do not show, with the same text in every verb.

use std::time::Duration;

use super::json::NoteBody;
use super::render;
use naq_core::program_error;
use naq_protocol::{Record, State};

/// The note on a job whose processes outlived it.
const LEAKED: &str =
    "processes that it started outlived it and were killed; leave a daemon to a service manager";

/// Prints notes on how a job ended, if its output and its exit code do not tell, and on its processes
/// that were killed.
pub(super) fn note_remarks(record: &Record) {
    if let Some(why) = failure(record) {
        let after = record
            .usage
            .as_ref()
            .map(|usage| Duration::from_millis(usage.wall_ms))
            .filter(|wall| *wall > Duration::from_secs(1))
            .map(|wall| format!(" (after {})", render::span(wall)))
            .unwrap_or_default();
        note(record, format!("{why}{after}"));
    }
    if let Some(leaked) = leaked(record) {
        note(record, leaked.to_owned());
    }
    // a warning may explain the failure
    if record.state() != State::Succeeded {
        for warning in &record.warnings {
            note(record, warning.clone());
        }
    }
}

/// The note, if processes of the job outlived it.
pub(super) fn leaked(record: &Record) -> Option<&'static str> {
    record.leaked.then_some(LEAKED)
}

/// Why an ended job did not succeed. `None` if its exit code or its own output says it.
fn failure(record: &Record) -> Option<String> {
    let is_own = record.state() == State::Failed && record.error == program_error(record);
    match (record.state(), &record.error) {
        (State::Failed, Some(_)) if is_own => None,
        (State::Succeeded, _) | (State::Failed, None) => None,
        (_, Some(error)) => Some(error.clone()),
        (state, None) => Some(format!("the job is {state}")),
    }
}

fn note(record: &Record, message: String) {
    render::note_with(NoteBody {
        message,
        job_id: Some(record.job_id.clone()),
        ..NoteBody::default()
    });
}
