//! The timeline of a job: what happened, and what will.

use serde::Serialize;

use super::attempts::{class, outcome};
use super::job_row::{between, class_of};
use crate::text::audit::who;
use crate::text::{Ending, count, excerpt, relative_time, span};
use naq_client::AuditRecord;
use naq_protocol::{
    AuditAction, BlockedOn, DependencyCondition, Record, State as JobState, Timestamp, escape,
};

/// Maximum number of attempts that the timeline names. The table of attempts has all.
const ATTEMPTS_SHOWN_MAX: usize = 5;

/// Maximum number of a blocked job's dependencies that the timeline names.
const DEPENDENCIES_SHOWN_MAX: usize = 10;

/// When something happens, what it is, and its class of colour.
type Event = (Timestamp, String, &'static str);

/// An event in the life of the job.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Moment {
    text: String,
    class: &'static str,
    at: String,
    relative: String,
    /// The time since the event before. Empty for the first one.
    gap: String,
}

/// Past and coming events of the job.
pub(super) fn timeline(record: &Record, changes: &[AuditRecord], now: Timestamp) -> Vec<Moment> {
    let mut events: Vec<Event> = Vec::new();
    let mut add = |at: Timestamp, text: String, class| events.push((at, text, class));
    if let (Some(tick), Some(schedule)) = (record.scheduled_for, &record.schedule_id) {
        add(
            tick,
            format!("Due according to schedule {schedule}"),
            "idle",
        );
    }
    let text = format!("Enqueued in {}", record.queue);
    add(record.enqueue_time, text, "idle");
    if let Some(waits) = record.waits() {
        add(waits.since, blocked(waits), "wait");
        if let Some(until) = waits.until {
            let text = "The job fails if a dependency is still missing".to_owned();
            add(until, text, "idle");
        }
    }
    if let Some(finished) = record.finished_at()
        && record.state().is_terminal()
    {
        let text = capitalized(&Ending::of(record).to_string());
        add(finished, text, class_of(record.state()));
    }
    if let Some(next) = record.next_attempt_at() {
        let text = match record.state() {
            JobState::Retrying => format!("Attempt {} may start", record.attempt + 1),
            _ => "Due".to_owned(),
        };
        add(next, text, "idle");
    }
    events.extend(attempt_events(record));
    for change in changes.iter().filter(|change| change.entry.error.is_none()) {
        let text = format!("{} by {}", done(change.entry.action), escape(&who(change)));
        events.push((change.time, text, "idle"));
    }
    events.sort_by_key(|(at, ..)| *at);
    let mut before: Option<Timestamp> = None;
    let moments = events.into_iter().map(|(at, text, class)| Moment {
        text,
        class,
        at: at.to_string(),
        relative: relative_time(at, now),
        gap: before
            .replace(at)
            .map(|before| format!("+{}", span(between(before, at))))
            .unwrap_or_default(),
    });
    moments.collect()
}

/// When the attempts started and ended.
fn attempt_events(record: &Record) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut add = |at: Timestamp, text: String, class| events.push((at, text, class));
    for one in record
        .interruptions
        .iter()
        .filter(|one| one.attempt.is_none())
    {
        // of a record of an earlier version
        let worker = escape(&one.worker_id);
        let text = match one.crashed {
            true => format!("An attempt ended because worker {worker} crashed"),
            false => format!("An attempt stopped because worker {worker} lost its lease"),
        };
        add(one.at, text, "bad");
    }
    let attempts = record.attempts();
    let shown = attempts.len().saturating_sub(ATTEMPTS_SHOWN_MAX);
    for one in &attempts[shown..] {
        let number = one.attempt;
        if let Some(started) = one.started_at {
            add(started, format!("Attempt {number} started"), "run");
        }
        if let Some(ended) = one.ended_at
            && !(number == record.attempt && record.state().is_terminal())
        {
            let text = format!("Attempt {number}: {}", outcome(one));
            add(ended, text, class(one.outcome));
        }
    }
    events
}

/// What a user has done with the job.
fn done(action: AuditAction) -> &'static str {
    match action {
        AuditAction::JobEnqueue => "Enqueued",
        AuditAction::JobCancel => "Cancelled",
        AuditAction::JobRetry | AuditAction::FailedRetry => "Run again",
        AuditAction::JobPause => "Paused",
        AuditAction::JobResume => "Resumed",
        AuditAction::JobReschedule => "Rescheduled",
        AuditAction::JobTrigger => "Made due",
        AuditAction::FailedDiscard => "Discarded",
        _ => "Changed",
    }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

fn blocked(waits: &BlockedOn) -> String {
    let shown = waits.dependencies.iter().take(DEPENDENCIES_SHOWN_MAX);
    let mut on: Vec<String> = shown
        .map(|dependency| match dependency.on {
            DependencyCondition::Success => dependency.job.to_string(),
            on => format!("{} ({on})", dependency.job),
        })
        .collect();
    let more = waits
        .dependencies
        .len()
        .saturating_sub(DEPENDENCIES_SHOWN_MAX);
    if more > 0 {
        on.push(count(more as u64, "other"));
    }
    if let Some(key) = &waits.concurrency_key {
        let key = excerpt(&escape(key), 80);
        on.push(format!("a slot of the concurrency key {key}"));
    }
    format!("Blocked on {}", on.join(", "))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use naq_protocol::{JobId, Outcome, Phase, QueueName, Reason};

    pub(in crate::web::pages) fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ms(seconds * 1_000).unwrap()
    }

    pub(in crate::web::pages) fn record(phase: Phase) -> Record {
        let mut record = Record::new(
            JobId::new("a").unwrap(),
            QueueName::new("build").unwrap(),
            phase,
            at(0),
        );
        record.attempt = 1;
        record.started_at = Some(at(30));
        record
    }

    fn texts(record: &Record) -> Vec<String> {
        let moments = timeline(record, &[], at(100));
        let texts = moments
            .into_iter()
            .map(|moment| format!("{} {}", moment.text, moment.gap));
        texts.collect()
    }

    #[test]
    fn a_timeline_has_what_happened_and_what_will() {
        let failed = record(Phase::Finished {
            outcome: Outcome::Failed(Reason::Timeout),
            finished_at: at(90),
        });
        assert_eq!(
            texts(&failed),
            [
                "Enqueued in build ",
                "Attempt 1 started +30.0s",
                "Failed (timeout) +1m 0s"
            ]
        );
        let mut retried = record(Phase::Retrying {
            reason: Reason::Exit,
            finished_at: at(90),
            next_attempt_at: at(120),
        });
        retried.exit_code = Some(3);
        assert_eq!(
            texts(&retried)[2..],
            [
                "Attempt 1: failed (exit 3) +1m 0s",
                "Attempt 2 may start +30.0s"
            ]
        );
        let due = Phase::Scheduled { due: Some(at(200)) };
        let mut due = record(due);
        due.started_at = None;
        assert_eq!(texts(&due), ["Enqueued in build ", "Due +3m 20s"]);
    }
}
