//! Output of jobs: bytes or lines of an output stream of an ended job.

use std::ops::Range;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::on;

use super::jobs::JOB;
use super::parameters::{Query, limit};
use crate::web::access::Right;
use crate::web::output::line_range::{LineRange, tail};
use crate::web::output::{ByteSpan, Output};
use crate::web::problem::{self, Problem, ProblemKind};
use crate::web::route::{Answer, Parameter, Route, other, query};
use crate::web::state::Web;
use naq_client::OutputStream;
use naq_protocol::JobId;

/// Maximum number of lines in an answer.
const LINES_MAX: u64 = 10_000;

/// Which lines an answer has: `naq-lines: 1-100/2000`.
const LINES: HeaderName = HeaderName::from_static("naq-lines");

/// How many bytes of the stream were not kept.
const MISSING_BYTES: HeaderName = HeaderName::from_static("naq-missing-bytes");

/// Number of stored bytes before those that were not kept.
const MISSING_AT: HeaderName = HeaderName::from_static("naq-missing-at");

const PARAMETERS: &[Parameter] = &[
    JOB,
    query(
        "lines",
        "Only these lines, counted from 1: 120-200, 120 or 120-; at most 10,000",
        "120-200",
    ),
    query("tail", "Only the last lines: 1 to 10,000", "100"),
    query(
        "download",
        "Have a browser store the output as a file",
        "true",
    ),
    query(
        "plain",
        "Have a browser show the output as plain text",
        "true",
    ),
];

const ANSWERS: &[Answer] = &[
    other(
        200,
        "The output, or the lines that `naq-lines` names. `naq-missing-bytes` is the number of bytes that were not kept, and `naq-missing-at` the number of stored bytes before them",
        "application/octet-stream",
    ),
    other(200, "The same, with `plain`", "text/plain"),
    other(
        206,
        "The part that the header `Range` names",
        "application/octet-stream",
    ),
    other(206, "The same, with `plain`", "text/plain"),
];

const PROBLEMS: &[&ProblemKind] = &[&problem::BAD_REQUEST, &problem::NOT_FOUND, &problem::RANGE];

pub(super) const ROUTES: &[Route] = &[
    Route::get(
        "/api/jobs/{job}/stdout",
        Right::View,
        "Read the standard output of an ended job, byte for byte",
        |method| on(method, stdout),
    )
    .parameters(PARAMETERS)
    .answers(ANSWERS)
    .problems(PROBLEMS),
    Route::get(
        "/api/jobs/{job}/stderr",
        Right::View,
        "Read the standard error of an ended job, byte for byte",
        |method| on(method, stderr),
    )
    .parameters(PARAMETERS)
    .answers(ANSWERS)
    .problems(PROBLEMS),
];

async fn stdout(
    State(web): State<Arc<Web>>,
    Path(job): Path<String>,
    Extension(query): Extension<Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    read(&web, &job, OutputStream::Stdout, &query, &headers).await
}

async fn stderr(
    State(web): State<Arc<Web>>,
    Path(job): Path<String>,
    Extension(query): Extension<Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    read(&web, &job, OutputStream::Stderr, &query, &headers).await
}

/// The name of an output stream.
pub(in crate::web) fn stream_name(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    }
}

/// The output stream of this name.
pub(in crate::web) fn parse_stream(name: &str) -> Result<OutputStream, &'static str> {
    match name {
        "stdout" => Ok(OutputStream::Stdout),
        "stderr" => Ok(OutputStream::Stderr),
        _ => Err("expected stdout or stderr"),
    }
}

async fn read(
    web: &Web,
    job: &str,
    stream: OutputStream,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let job = JobId::new(job)?;
    let is_download = query.is_on("download")?;
    let is_plain = query.is_on("plain")?;
    let lines = query.parsed("lines", str::parse::<LineRange>)?;
    let last = query.parsed("tail", |count| limit(count, 10_000))?;
    if lines.is_some() && last.is_some() {
        return Err(Problem::parameter("tail", "give either `lines` or `tail`"));
    }
    let record = web.client.fetch_job(&job).await?;
    let output = web.outputs.open(&web.client, &record, stream).await?;
    let mut response = match (lines, last) {
        (None, None) => by_range(web, output, headers.get(header::RANGE)).await?,
        (lines, last) => by_lines(web, output, lines, last).await?,
    };
    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        return Ok(response);
    }
    let headers = response.headers_mut();
    // Never a page: the job controls its content.
    let media_type = match is_plain {
        true => "text/plain; charset=utf-8",
        false => "application/octet-stream",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // the id of a job has no character that ends a quoted name
    let place = format!("attachment; filename=\"{job}.{}.txt\"", stream_name(stream));
    if is_download && let Ok(place) = HeaderValue::from_str(&place) {
        headers.insert(header::CONTENT_DISPOSITION, place);
    }
    Ok(response)
}

/// The lines that a request names: a range, or the last ones.
async fn by_lines(
    web: &Web,
    output: Output,
    lines: Option<LineRange>,
    last: Option<usize>,
) -> Result<Response, Problem> {
    let all = web.outputs.index(&output).await?.lines();
    let named = match lines {
        Some(range) => range.of(all, LINES_MAX),
        None => tail(all, last.unwrap_or_default() as u64),
    };
    match named {
        Some(named) => {
            let shown = format!("{}-{}/{all}", named.start(), named.end());
            let span = web.outputs.lines(&output, named).await?;
            let mut response = send(output, span);
            if let Ok(shown) = HeaderValue::from_str(&shown) {
                response.headers_mut().insert(LINES, shown);
            }
            Ok(response)
        }
        // an empty output has no last line, which is no error
        None if lines.is_none() => {
            let span = web.outputs.bytes(&output, 0..0).await?;
            Ok(send(output, span))
        }
        None => {
            let lines = crate::text::count(all, "line");
            Err(Problem::new(
                &problem::RANGE,
                format!("the output has {lines}"),
            ))
        }
    }
}

/// The bytes that `Range` names, or all.
async fn by_range(
    web: &Web,
    output: Output,
    range: Option<&HeaderValue>,
) -> Result<Response, Problem> {
    let length = output.length();
    let range = range
        .and_then(|value| value.to_str().ok())
        .and_then(|value| parse_range(value, length));
    match range {
        None => {
            let span = web.outputs.bytes(&output, 0..length).await?;
            Ok(send(output, span))
        }
        Some(None) => {
            let detail = format!("the output has {length} bytes");
            let mut response = Problem::new(&problem::RANGE, detail).into_response();
            if let Ok(all) = HeaderValue::from_str(&format!("bytes */{length}")) {
                response.headers_mut().insert(header::CONTENT_RANGE, all);
            }
            Ok(response)
        }
        Some(Some(range)) => {
            let part = format!("bytes {}-{}/{length}", range.start, range.end - 1);
            let span = web.outputs.bytes(&output, range).await?;
            let mut response = send(output, span);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            if let Ok(part) = HeaderValue::from_str(&part) {
                response.headers_mut().insert(header::CONTENT_RANGE, part);
            }
            Ok(response)
        }
    }
}

/// An answer that reads the output part by part as the client receives it. A part that cannot be read ends the
/// answer before its length.
fn send(output: Output, span: ByteSpan) -> Response {
    let length = span.range.end.saturating_sub(span.range.start);
    let gap = output.gap();
    let missing_bytes = gap.map_or(0, |gap| gap.missing_bytes);
    let mut response = Body::from_stream(output.stream(span)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(MISSING_BYTES, HeaderValue::from(missing_bytes));
    if let Some(gap) = gap {
        headers.insert(MISSING_AT, HeaderValue::from(gap.offset));
    }
    response
}

/// The part of an output that `Range` names (RFC 9110, section 14). `None` means all: the header has
/// another unit, or several ranges, or cannot be read. `Some(None)` means that no byte is in the range.
fn parse_range(value: &str, length: u64) -> Option<Option<Range<u64>>> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u64>().ok(),
        false => None,
    };
    let range = match (first, last) {
        ("", last) => length.saturating_sub(number(last)?)..length,
        (first, "") => number(first)?..length,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(length)
        }
    };
    Some((range.start < range.end).then_some(range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        for (value, expected) in [
            ("bytes=0-0", Some(Some(0..1))),
            ("bytes=2-5", Some(Some(2..6))),
            ("bytes=8-100", Some(Some(8..10))),
            ("bytes=3-", Some(Some(3..10))),
            ("bytes=-4", Some(Some(6..10))),
            ("bytes=-100", Some(Some(0..10))),
            ("bytes=10-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=5-2", None),
            ("bytes=0-1,4-5", None),
            ("bytes=+1-2", None),
            ("lines=0-1", None),
            ("bytes", None),
            ("bytes=-", None),
        ] {
            assert_eq!(parse_range(value, 10), expected, "{value}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Some(None));
    }

    proptest! {
        #[test]
        fn a_range_is_inside_of_the_output(first in "[0-9]{0,20}", last in "[0-9]{0,20}", length in 0u64..1_000) {
            if let Some(Some(range)) = parse_range(&format!("bytes={first}-{last}"), length) {
                prop_assert!(range.start < range.end && range.end <= length);
            }
        }
    }
}
