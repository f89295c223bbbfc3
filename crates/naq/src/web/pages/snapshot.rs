//! A snapshot of a job as one file, to attach to a ticket: a page that loads nothing and runs nothing, or JSON.
//! Like every page, it hides the values of variables, and the worker has replaced those of secrets.

use std::sync::{Arc, OnceLock};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine;
use futures_util::TryStreamExt;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::job::{body, dashboard_address};
use super::job_envelope::envelope_view;
use super::job_output::tail_rows;
use super::job_view::JobReading;
use crate::clock;
use crate::text::{bytes, count};
use crate::web::access::Right;
use crate::web::api::jobs::without_values;
use crate::web::api::output::stream_name;
use crate::web::problem::{self, Problem};
use crate::web::proxies::Source;
use crate::web::state::Web;
use naq_client::OutputStream;
use naq_protocol::{CapturedOutput, JobId, Record, Timestamp};

/// Maximum number of bytes of the end of an output that a snapshot in JSON contains.
const TAIL_BYTES_MAX: u64 = 64 << 10;

/// Maximum number of lines of the end of an output that a snapshot as a page contains.
const TAIL_LINES_MAX: u64 = 1_000;

/// The end of an output, as a part of the page.
#[derive(Serialize)]
struct OutputPart {
    name: &'static str,
    size: String,
    /// What is missing.
    note: String,
    /// Markup.
    rows: String,
}

/// A snapshot in JSON.
#[derive(Serialize)]
struct Snapshot {
    made_at: Timestamp,
    naq_version: &'static str,
    /// The address of the job's page.
    address: String,
    /// The record, as the API shows it.
    record: Record,
    /// Present if the job has ended, and wrote to the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_tail: Option<Tail>,
    /// Present if the job has ended, and wrote to the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_tail: Option<Tail>,
}

/// The end of an output.
#[derive(Serialize)]
struct Tail {
    /// Number of stored bytes before it.
    skipped_bytes: u64,
    /// The text; bytes that are no UTF-8 are replaced.
    text: String,
}

/// The snapshot as a page.
pub(in crate::web) async fn html(
    State(web): State<Arc<Web>>,
    Extension(source): Extension<Source>,
    Path(job): Path<String>,
    headers: HeaderMap,
) -> Response {
    let address = dashboard_address(&web, &source, &headers);
    match page(&web, &job, &address).await {
        Ok((job, page)) => as_file(&job, "html", Html(page).into_response()),
        Err(problem) => web.error_page(&problem),
    }
}

/// The snapshot in JSON.
pub(in crate::web) async fn json(
    State(web): State<Arc<Web>>,
    Extension(source): Extension<Source>,
    Path(job): Path<String>,
    headers: HeaderMap,
) -> Response {
    let address = dashboard_address(&web, &source, &headers);
    match snapshot(&web, &job, &address).await {
        Ok((job, snapshot)) => as_file(&job, "json", Json(snapshot).into_response()),
        Err(problem) => web.error_page(&problem),
    }
}

/// Has a browser store an answer instead of showing it.
fn as_file(job: &JobId, extension: &str, mut response: Response) -> Response {
    // an id has no character that ends a quoted text
    let name = format!("attachment; filename=\"{job}.{extension}\"");
    if let Ok(name) = HeaderValue::from_str(&name) {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    response
}

async fn page(web: &Web, job: &str, address: &str) -> Result<(JobId, String), Problem> {
    let job = JobId::new(job)?;
    // a file is for others too, so it does not name who changed the job
    let reading = JobReading::read(&web.client, &job, Right::View).await?;
    let record = &reading.record;
    let outputs = match record.state().is_terminal() {
        true => output_parts(web, record, address).await?,
        false => Vec::new(),
    };
    let mut context = tera::Context::new();
    context.insert("id", job.as_str());
    context.insert("address", address);
    context.insert("made_at", &clock::now().to_string());
    context.insert("style_text", STYLE);
    context.insert("style_hash", style_hash());
    // without a right no button is in it; its links lead to the dashboard
    let body = body(web, Right::View, &reading, address)?;
    context.insert("body", &body);
    context.insert("outputs", &outputs);
    let envelope = envelope_view(record, address);
    context.insert("has_envelope", &envelope.is_some());
    if let Some(envelope) = &envelope {
        context.insert("envelope", envelope);
    }
    let rendered = web.templates.render("snapshot.html", &context);
    let page = rendered.map_err(|error| {
        tracing::error!("a snapshot of a job cannot be made: {error}");
        Problem::new(&problem::FAILED, "the snapshot cannot be made")
    })?;
    Ok((job, page))
}

/// The streams of a job, with what the worker captured of them.
fn streams(record: &Record) -> impl Iterator<Item = (OutputStream, &CapturedOutput)> {
    [
        (OutputStream::Stdout, record.stdout.as_ref()),
        (OutputStream::Stderr, record.stderr.as_ref()),
    ]
    .into_iter()
    .filter_map(|(stream, captured)| Some((stream, captured?)))
}

async fn output_parts(
    web: &Web,
    record: &Record,
    address: &str,
) -> Result<Vec<OutputPart>, Problem> {
    let mut parts = Vec::new();
    for (stream, captured) in streams(record) {
        let output = web.outputs.open(&web.client, record, stream).await?;
        let lines = web.outputs.index(&output).await?.lines();
        let first = lines.saturating_sub(TAIL_LINES_MAX) + 1;
        let rows = match lines {
            0 => String::new(),
            lines => tail_rows(web, record, stream, &output, first..=lines, address).await?,
        };
        let missing = output.gap().map_or(0, |gap| gap.missing_bytes);
        parts.push(OutputPart {
            name: stream_name(stream),
            size: format!("{}, {}", bytes(captured.bytes), count(lines, "line")),
            note: match (lines, first, missing) {
                (0, ..) => "The job wrote nothing to this stream.".to_owned(),
                (_, 1, 0) => String::new(),
                (_, 1, missing) => format!("{} were not kept.", bytes(missing)),
                (..) => format!("The last {TAIL_LINES_MAX} lines."),
            },
            rows,
        });
    }
    Ok(parts)
}

async fn snapshot(web: &Web, job: &str, address: &str) -> Result<(JobId, Snapshot), Problem> {
    let job = JobId::new(job)?;
    let record = web.client.fetch_job(&job).await?;
    let mut tails = [None, None];
    if record.state().is_terminal() {
        for (stream, _) in streams(&record) {
            let tail = tail(web, &record, stream).await?;
            tails[usize::from(stream == OutputStream::Stderr)] = Some(tail);
        }
    }
    let [stdout_tail, stderr_tail] = tails;
    let snapshot = Snapshot {
        made_at: clock::now(),
        naq_version: env!("CARGO_PKG_VERSION"),
        address: format!("{address}/jobs/{job}"),
        record: without_values(record),
        stdout_tail,
        stderr_tail,
    };
    Ok((job, snapshot))
}

async fn tail(web: &Web, record: &Record, stream: OutputStream) -> Result<Tail, Problem> {
    let output = web.outputs.open(&web.client, record, stream).await?;
    let length = output.length();
    let skipped_bytes = length.saturating_sub(TAIL_BYTES_MAX);
    let span = web.outputs.bytes(&output, skipped_bytes..length).await?;
    let mut bytes = Vec::new();
    let mut parts = std::pin::pin!(output.stream(span));
    while let Some(part) = parts.try_next().await? {
        bytes.extend_from_slice(&part);
    }
    Ok(Tail {
        skipped_bytes,
        text: String::from_utf8_lossy(&bytes).into_owned(),
    })
}

/// The style of all pages, which a snapshot contains.
const STYLE: &str = include_str!("../assets/style.css");

/// The source of the style for a content security policy.
fn style_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| {
        let digest = Sha256::digest(STYLE);
        let base64 = base64::engine::general_purpose::STANDARD.encode(digest);
        format!("sha256-{base64}")
    })
}
