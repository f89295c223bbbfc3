//! Output of jobs.

use std::ops::Range;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use bytes::Bytes;

use super::jobs::JOB;
use super::parameters::Query;
use crate::web::access::Right;
use crate::web::problem::{self, Problem};
use crate::web::route::{Parameter, Route, other, query};
use crate::web::state::Web;
use naq_client::OutputStream;
use naq_protocol::JobId;

const DOWNLOAD: Parameter = query(
    "download",
    "Have a browser store the output as a file",
    "true",
);

pub(super) const ROUTES: &[Route] = &[
    Route::get(
        "/api/jobs/{job}/stdout",
        Right::View,
        "Read the standard output of an ended job, byte for byte",
        |method| on(method, stdout),
    )
    .parameters(&[JOB, DOWNLOAD])
    .answers(&[
        other(
            200,
            "The output; `naq-missing-bytes` is the number of bytes that were not kept",
            "application/octet-stream",
        ),
        other(
            206,
            "The part that the header `Range` names",
            "application/octet-stream",
        ),
    ])
    .problems(&[&problem::BAD_REQUEST, &problem::NOT_FOUND]),
    Route::get(
        "/api/jobs/{job}/stderr",
        Right::View,
        "Read the standard error of an ended job, byte for byte",
        |method| on(method, stderr),
    )
    .parameters(&[JOB, DOWNLOAD])
    .answers(&[
        other(
            200,
            "The output; `naq-missing-bytes` is the number of bytes that were not kept",
            "application/octet-stream",
        ),
        other(
            206,
            "The part that the header `Range` names",
            "application/octet-stream",
        ),
    ])
    .problems(&[&problem::BAD_REQUEST, &problem::NOT_FOUND]),
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

async fn read(
    web: &Web,
    job: &str,
    stream: OutputStream,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let job = JobId::new(job)?;
    let is_download = query.is_on("download")?;
    let record = web.client.fetch_job(&job).await?;
    let read = web.outputs.read(&web.client, &record, stream).await?;
    let missing_bytes = read.output.missing_bytes;
    let bytes = read.into_bytes();
    let length = bytes.len() as u64;
    let range = headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| parse_range(value, length));
    let mut response = match range {
        None => bytes.into_response(),
        Some(None) => {
            let all = format!("bytes */{length}");
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            (status, [(header::CONTENT_RANGE, all)]).into_response()
        }
        Some(Some(range)) => {
            let part = format!("bytes {}-{}/{length}", range.start, range.end - 1);
            let bytes = cut(&bytes, &range);
            let status = StatusCode::PARTIAL_CONTENT;
            (status, [(header::CONTENT_RANGE, part)], bytes).into_response()
        }
    };
    let headers = response.headers_mut();
    // Never a page: the job controls its content.
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert("naq-missing-bytes", HeaderValue::from(missing_bytes));
    let name = match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    };
    // the id of a job has no character that ends a quoted name
    let place = format!("attachment; filename=\"{job}.{name}.txt\"");
    if is_download && let Ok(place) = HeaderValue::from_str(&place) {
        headers.insert(header::CONTENT_DISPOSITION, place);
    }
    Ok(response)
}

/// A part of an output, without a copy.
fn cut(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    let at = |place: u64| usize::try_from(place).map_or(bytes.len(), |at| at.min(bytes.len()));
    bytes.slice(at(range.start)..at(range.end))
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
                let bytes = Bytes::from(vec![0; usize::try_from(length).unwrap()]);
                prop_assert_eq!(cut(&bytes, &range).len() as u64, range.end - range.start);
            }
        }
    }
}
