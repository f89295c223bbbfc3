//! The spans of a job, from its record. They name queues and ids, but no command, argument or output.

use std::time::{Duration, SystemTime};

use super::span_ids;
use naq_protocol::{Record, State, Timestamp, TraceContext};

/// What a span is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpanKind {
    Enqueue,
    Wait,
    Attempt,
}

/// A span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JobSpan {
    pub(super) kind: SpanKind,
    pub(super) context: TraceContext,
    pub(super) parent: Option<TraceContext>,
    /// The attempt before.
    pub(super) link: Option<TraceContext>,
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
    pub(super) queue: String,
    pub(super) job_id: String,
    pub(super) attempt: Option<u32>,
    pub(super) worker: Option<String>,
    pub(super) schedule: Option<String>,
    /// The state after the attempt, and why. `None` unless the span is one of an attempt.
    pub(super) state: Option<&'static str>,
    pub(super) reason: Option<&'static str>,
    pub(super) exit_code: Option<i32>,
    /// Whether the attempt failed.
    pub(super) is_error: bool,
}

impl JobSpan {
    fn new(
        record: &Record,
        kind: SpanKind,
        context: TraceContext,
        parent: Option<TraceContext>,
        [start, end]: [Timestamp; 2],
    ) -> JobSpan {
        let start = system_time(start);
        JobSpan {
            kind,
            context,
            parent,
            link: None,
            start,
            // clocks of several machines
            end: system_time(end).max(start),
            queue: record.queue.to_string(),
            job_id: record.job_id.to_string(),
            attempt: None,
            worker: None,
            schedule: record.schedule_id.as_ref().map(ToString::to_string),
            state: None,
            reason: None,
            exit_code: None,
            is_error: false,
        }
    }
}

/// The spans that end when an attempt starts. None after the first attempt.
pub(super) fn before_attempt(record: &Record) -> Vec<JobSpan> {
    let enqueue = span_ids::of_enqueue(record);
    let Some(started_at) = record.started_at.filter(|_| record.attempt == 1) else {
        return Vec::new();
    };
    if !enqueue.is_sampled {
        return Vec::new();
    }
    let enqueued_at = record.enqueue_time;
    let due_at = record
        .scheduled_for
        .map_or(enqueued_at, |due| due.max(enqueued_at));
    let parent = span_ids::parent(record);
    let wait = span_ids::of_wait(record);
    vec![
        JobSpan::new(record, SpanKind::Enqueue, enqueue, parent, [enqueued_at; 2]),
        JobSpan::new(
            record,
            SpanKind::Wait,
            wait,
            Some(enqueue),
            [due_at, started_at],
        ),
    ]
}

/// The span of an attempt that has ended.
pub(super) fn of_attempt(record: &Record) -> Vec<JobSpan> {
    let context = span_ids::of_attempt(record);
    let (Some(started_at), Some(ended_at)) = (record.started_at, record.finished_at()) else {
        return Vec::new();
    };
    if !context.is_sampled || record.attempt == 0 {
        return Vec::new();
    }
    let enqueue = span_ids::of_enqueue(record);
    let times = [started_at, ended_at];
    vec![JobSpan {
        link: span_ids::of_previous_attempt(record),
        attempt: Some(record.attempt),
        worker: record.worker_id.clone(),
        state: Some(record.state().as_static()),
        reason: record.reason().map(|reason| reason.as_static()),
        exit_code: record.exit_code,
        is_error: !matches!(record.state(), State::Succeeded | State::Cancelled),
        ..JobSpan::new(record, SpanKind::Attempt, context, Some(enqueue), times)
    }]
}

fn system_time(time: Timestamp) -> SystemTime {
    let since = Duration::from_millis(u64::try_from(time.unix_ms()).unwrap_or_default());
    SystemTime::UNIX_EPOCH + since
}
