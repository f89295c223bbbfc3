//! The attempts of a job: a table on its page, and a page with two of them side by side.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::TryStreamExt;
use serde::Serialize;

use super::frame::frame;
use super::job_row::between;
use crate::clock;
use crate::text::{bytes, excerpt, relative_time, span};
use crate::web::access::Identity;
use crate::web::ansi::LINE_CHARS_MAX;
use crate::web::api::output::stream_name;
use crate::web::api::parameters::Query;
use crate::web::line_diff::{DiffLine, line_diff};
use crate::web::problem::{self, Problem};
use crate::web::state::Web;
use naq_client::{ClientError, OutputStream};
use naq_protocol::{
    Attempt, AttemptOutcome, FAILED_ATTEMPT_TEXT_BYTES_MAX, JobId, Reason, Record, Timestamp,
    escape,
};

/// Maximum number of characters of an error in the table.
const ERROR_CHARS_MAX: usize = 160;

/// A row of the table.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct AttemptRow {
    number: u32,
    outcome: String,
    class: &'static str,
    started: String,
    started_at: String,
    took: String,
    memory: String,
    error: String,
}

/// The table. `None` if a single attempt is known, which the page describes anyway.
pub(super) fn attempt_table(record: &Record, now: Timestamp) -> Option<Vec<AttemptRow>> {
    let attempts = record.attempts();
    let rows = attempts.iter().rev().map(|one| attempt_row(one, now));
    (attempts.len() > 1).then(|| rows.collect())
}

fn attempt_row(one: &Attempt, now: Timestamp) -> AttemptRow {
    let error = one.error.as_deref().unwrap_or_default();
    AttemptRow {
        number: one.attempt,
        outcome: outcome(one),
        class: class(one.outcome),
        started: one
            .started_at
            .map(|at| relative_time(at, now))
            .unwrap_or_default(),
        started_at: one.started_at.map(|at| at.to_string()).unwrap_or_default(),
        took: took(one, now),
        memory: one
            .usage
            .as_ref()
            .map(|usage| bytes(usage.max_rss_bytes))
            .unwrap_or_default(),
        error: excerpt(&escape(error), ERROR_CHARS_MAX),
    }
}

/// How the attempt ended, with its reason.
pub(super) fn outcome(one: &Attempt) -> String {
    let detail = match (one.reason, one.exit_code, one.signal) {
        (Some(Reason::Exit), Some(code), _) => format!("exit {code}"),
        (Some(Reason::Signal), _, Some(signal)) => format!("signal {signal}"),
        (Some(reason), ..) if one.outcome == AttemptOutcome::Failed => reason.to_string(),
        _ => return one.outcome.text().to_owned(),
    };
    format!("{} ({detail})", one.outcome.text())
}

pub(super) fn class(outcome: AttemptOutcome) -> &'static str {
    match outcome {
        AttemptOutcome::Running => "run",
        AttemptOutcome::Succeeded => "ok",
        AttemptOutcome::Cancelled => "idle",
        _ => "bad",
    }
}

fn took(one: &Attempt, now: Timestamp) -> String {
    let until = one.ended_at.unwrap_or(now);
    one.started_at
        .map(|started| span(between(started, until)))
        .unwrap_or_default()
}

/// An attempt that can be selected.
#[derive(Serialize)]
struct Choice {
    number: u32,
    is_left: bool,
    is_right: bool,
}

/// A fact about two attempts.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Comparison {
    name: &'static str,
    left: String,
    right: String,
    differs: bool,
}

/// The ends of an output of two attempts.
#[derive(Serialize)]
struct OutputComparison {
    name: &'static str,
    lines: Vec<DiffLine>,
    /// Whether both attempts wrote the same end, which is shown once.
    is_same: bool,
}

/// The page. The parameters `left` and `right` are numbers of attempts; by default the last two.
pub(in crate::web) async fn show(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    Path(job): Path<String>,
    query: RawQuery,
) -> Response {
    match page(&web, &identity, &job, query).await {
        Ok(response) => response,
        Err(problem) => web.error_page(&problem),
    }
}

async fn page(
    web: &Web,
    identity: &Identity,
    job: &str,
    query: RawQuery,
) -> Result<Response, Problem> {
    let query = Query::parse(query, &["left", "right"])?;
    let record = web.client.fetch_job(&JobId::new(job)?).await?;
    let attempts = record.attempts();
    let [.., before, last] = attempts.as_slice() else {
        let detail = format!("the record of the job `{job}` lists no two attempts to compare");
        return Err(Problem::new(&problem::NOT_FOUND, detail));
    };
    let left = selected(&query, "left", &attempts, before)?;
    let right = selected(&query, "right", &attempts, last)?;
    let now = clock::now();
    let mut outputs = Vec::new();
    for stream in [OutputStream::Stderr, OutputStream::Stdout] {
        let before = output_end(web, &record, left, stream).await?;
        let after = output_end(web, &record, right, stream).await?;
        outputs.extend(compare_output(stream, &before, &after));
    }
    let choices: Vec<Choice> = attempts
        .iter()
        .map(|one| Choice {
            number: one.attempt,
            is_left: one.attempt == left.attempt,
            is_right: one.attempt == right.attempt,
        })
        .collect();
    let mut context = frame(identity, "/jobs", false);
    context.insert("id", record.job_id.as_str());
    context.insert("left", &attempt_row(left, now));
    context.insert("right", &attempt_row(right, now));
    context.insert("choices", &choices);
    context.insert("facts", &compare(left, right, now));
    context.insert("outputs", &outputs);
    Ok(web.page(StatusCode::OK, "attempts.html", &context))
}

/// The attempt that a parameter names.
fn selected<'a>(
    query: &Query,
    name: &'static str,
    attempts: &'a [Attempt],
    default: &'a Attempt,
) -> Result<&'a Attempt, Problem> {
    let Some(number) = query.one(name)? else {
        return Ok(default);
    };
    let found = attempts
        .iter()
        .find(|one| one.attempt.to_string() == number);
    found.ok_or_else(|| {
        let detail = format!(
            "`{name}` is no attempt that the record lists: `{}`",
            excerpt(&escape(number), 40)
        );
        Problem::new(&problem::BAD_REQUEST, detail)
    })
}

/// The facts of two attempts, without those that neither has.
fn compare(left: &Attempt, right: &Attempt, now: Timestamp) -> Vec<Comparison> {
    let time = |ms| span(Duration::from_millis(ms));
    let usage = |one: &Attempt, of: &dyn Fn(&naq_protocol::ResourceUsage) -> String| {
        one.usage.as_ref().map(of).unwrap_or_default()
    };
    let both = |name, of: &dyn Fn(&Attempt) -> String| {
        let (left, right) = (of(left), of(right));
        let differs = left != right;
        (!left.is_empty() || !right.is_empty()).then_some(Comparison {
            name,
            left,
            right,
            differs,
        })
    };
    let text = |text: &Option<String>| text.as_deref().map(escape).unwrap_or_default();
    [
        both("Ended", &outcome),
        both("Error", &|one| text(&one.error)),
        both("Worker", &|one| text(&one.worker_id)),
        both("Started", &|one| {
            one.started_at.map(|at| at.to_string()).unwrap_or_default()
        }),
        both("Took", &|one| took(one, now)),
        both("CPU, user", &|one| {
            usage(one, &|usage| time(usage.cpu_user_ms))
        }),
        both("CPU, system", &|one| {
            usage(one, &|usage| time(usage.cpu_system_ms))
        }),
        both("Peak memory of a process", &|one| {
            usage(one, &|usage| bytes(usage.max_rss_bytes))
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The end of an output of an attempt. That of an attempt that is not the last one is in the record.
async fn output_end(
    web: &Web,
    record: &Record,
    one: &Attempt,
    stream: OutputStream,
) -> Result<String, ClientError> {
    let kept = match stream {
        OutputStream::Stdout => &one.stdout_tail,
        OutputStream::Stderr => &one.stderr_tail,
    };
    if one.attempt != record.attempt || kept.is_some() {
        return Ok(kept.clone().unwrap_or_default());
    }
    let output = web.outputs.open(&web.client, record, stream).await?;
    let length = output.length();
    let start = length.saturating_sub(FAILED_ATTEMPT_TEXT_BYTES_MAX as u64);
    let span = web.outputs.bytes(&output, start..length).await?;
    let parts: Vec<bytes::Bytes> = output.stream(span).try_collect().await?;
    Ok(String::from_utf8_lossy(&parts.concat()).into_owned())
}

/// The lines of two ends of an output. `None` if neither attempt wrote to it.
fn compare_output(stream: OutputStream, before: &str, after: &str) -> Option<OutputComparison> {
    if before.is_empty() && after.is_empty() {
        return None;
    }
    let lines = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .map(|line| excerpt(&escape(line), LINE_CHARS_MAX));
        lines.collect()
    };
    let (before, after) = (lines(before), lines(after));
    let different = line_diff(&before, &after);
    let is_same = different.is_empty();
    let once = after.into_iter().map(|text| DiffLine { sign: ' ', text });
    Some(OutputComparison {
        name: stream_name(stream),
        lines: match is_same {
            true => once.collect(),
            false => different,
        },
        is_same,
    })
}
