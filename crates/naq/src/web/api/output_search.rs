//! Search in the output of an ended job.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::on;
use axum::{Extension, Json};
use serde::Serialize;

use super::jobs::JOB;
use super::output::{parse_stream, stream_name};
use super::parameters::Query;
use crate::web::access::Right;
use crate::web::output::search::{Match, Needle};
use crate::web::problem::{self, Problem};
use crate::web::route::{Route, json, query, schema_of};
use crate::web::state::Web;
use naq_client::OutputStream;
use naq_protocol::JobId;

/// Maximum number of lines in an answer.
const MATCHES_MAX: usize = 10_000;

pub(super) const ROUTES: &[Route] = &[Route::get(
    "/api/jobs/{job}/search",
    Right::View,
    "Find the lines of a stored output that contain a text",
    |method| on(method, search),
)
.parameters(&[
    JOB,
    query(
        "q",
        "The text. Upper and lower case differ only if it has an upper-case letter",
        "error",
    )
    .of_schema("text")
    .required(),
    query(
        "stream",
        "Search standard output (the default) or standard error",
        "stderr",
    ),
    query("from", "Begin with this line, counted from 1", "1").of_schema("line"),
])
.answers(&[json(
    200,
    "The lines, at most 10,000, in their order",
    schema_of::<Matches>,
)])
.problems(&[&problem::BAD_REQUEST, &problem::NOT_FOUND])];

/// The lines that contain a text.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "output_matches")]
struct Matches {
    /// `stdout` or `stderr`.
    stream: &'static str,
    matches: Vec<Match>,
    /// Whether lines from `next` on were not searched: the answer is full, or the search took too long.
    is_cut: bool,
    /// The value of `from` that continues the search.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
    /// Number of bytes of the stream that were not kept, and are not searched.
    missing_bytes: u64,
}

async fn search(
    State(web): State<Arc<Web>>,
    Path(job): Path<String>,
    Extension(query): Extension<Query>,
) -> Result<Json<Matches>, Problem> {
    let job = JobId::new(&job)?;
    let needle = query.parsed("q", str::parse::<Needle>)?;
    let needle = needle.ok_or_else(|| Problem::parameter("q", "it is missing"))?;
    let stream = query.parsed("stream", parse_stream)?;
    let stream = stream.unwrap_or(OutputStream::Stdout);
    let from = query.parsed("from", |line| match line.parse() {
        Ok(line) if line > 0 => Ok(line),
        _ => Err("expected the number of a line, counted from 1"),
    })?;
    let record = web.client.fetch_job(&job).await?;
    let output = web.outputs.open(&web.client, &record, stream).await?;
    let from = from.unwrap_or(1);
    let found = web
        .outputs
        .search(&output, needle, from, MATCHES_MAX)
        .await?;
    Ok(Json(Matches {
        stream: stream_name(stream),
        matches: found.matches,
        is_cut: found.next.is_some(),
        next: found.next,
        missing_bytes: output.gap().map_or(0, |gap| gap.missing_bytes),
    }))
}
