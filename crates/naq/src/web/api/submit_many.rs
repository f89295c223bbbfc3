//! Enqueueing by one request: one envelope, an array of them, or a stream of lines.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use axum::{Extension, Json};
use bytes::BytesMut;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use serde::Serialize;
use serde_json::value::RawValue;

use super::parameters::{DRY_RUN, Query};
use super::submit::{
    AT, Enqueued, IN, MAX_JOBS, PROBLEMS, QUEUE, Submission, WAIT, check_envelope,
    check_media_type, media_type, read_submission, store, submit, trace,
};
use crate::text::count;
use crate::web::access::Right;
use crate::web::audit::Tally;
use crate::web::problem::{self, Problem, ProblemBody};
use crate::web::route::{Route, json, schema_of};
use crate::web::state::Web;
use naq_client::Queue;
use naq_protocol::{AuditAction, Envelope, JobId};

/// Maximum number of envelopes in an array.
const ARRAY_MAX: usize = 1_000;

/// Number of jobs of one request that are enqueued at the same time.
const JOBS_AT_ONCE: usize = 64;

/// Maximum number of wrong fields that the answer to an array names.
const ERRORS_MAX: usize = 100;

/// Longest time for which a client may be silent between its lines.
const SILENCE_MAX: Duration = Duration::from_secs(60);

pub(super) const ROUTES: &[Route] = &[Route::post(
    "/api/queues/{queue}/jobs",
    Right::Submit,
    "Enqueue a job, or each envelope of an array (at most 1,000), or each line \
         of application/x-ndjson",
    |method| on(method, enqueue),
)
.audited(AuditAction::JobEnqueue)
.parameters(&[QUEUE, WAIT, IN, AT, MAX_JOBS, DRY_RUN])
.body(schema_of::<OneOrMany>)
.answers(&[
    json(
        200,
        "The same job was enqueued before, or `dry_run` was given, or the job has \
             ended within `wait`; of lines, a line for each with its job or its problem",
        schema_of::<Enqueued>,
    ),
    json(
        201,
        "The job is enqueued, or every job of the array",
        schema_of::<OneOrManyEnqueued>,
    ),
    json(
        202,
        "The job is enqueued, and has not ended within `wait`",
        schema_of::<Enqueued>,
    ),
])
.problems(PROBLEMS)];

/// The body of a request.
#[derive(schemars::JsonSchema)]
#[schemars(rename = "one_or_many", untagged)]
#[expect(dead_code, reason = "describes the body, of which the bytes are kept")]
enum OneOrMany {
    /// An envelope.
    One(Box<Envelope>),
    /// Envelopes, at most 1,000.
    Many(#[schemars(length(max = ARRAY_MAX))] Vec<Envelope>),
}

/// The body of an answer.
#[derive(schemars::JsonSchema)]
#[schemars(rename = "one_or_many_enqueued", untagged)]
#[expect(dead_code, reason = "describes the two answers")]
enum OneOrManyEnqueued {
    /// Of an envelope.
    One(Box<Enqueued>),
    /// Of an array.
    Many(EnqueuedJobs),
}

/// The jobs of an array.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "enqueued_jobs")]
struct EnqueuedJobs {
    /// The jobs, in the order of the array. Absent with `dry_run`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    job_ids: Vec<JobId>,
}

/// The result of a line.
#[derive(Serialize)]
struct LineResult {
    /// The number of the line, from 1.
    line: u64,
    /// The job. Absent if it is not enqueued, or with `dry_run` if the envelope has no id.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<JobId>,
    /// Why it is not enqueued.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<ProblemBody>,
}

async fn enqueue(
    State(web): State<Arc<Web>>,
    Path(queue): Path<String>,
    Extension(query): Extension<Query>,
    Extension(tally): Extension<Tally>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if media_type(&headers).eq_ignore_ascii_case("application/x-ndjson") {
        let lines = Lines::new(body, web.body_bytes_max());
        return enqueue_lines(&web, &queue, &query, &headers, lines, tally).await;
    }
    check_media_type(&headers)?;
    let bytes_max = web.body_bytes_max();
    let read = axum::body::to_bytes(body, bytes_max).await;
    let bytes = read.map_err(|_| {
        let detail = format!("the body has more than {bytes_max} bytes, or did not arrive whole");
        Problem::new(&problem::TOO_LARGE, detail)
    })?;
    match bytes.trim_ascii_start().first() {
        Some(b'[') => enqueue_array(&web, &queue, &query, &headers, &bytes, &tally).await,
        _ => submit(&web, &queue, None, &query, &headers, bytes, &tally).await,
    }
}

/// The parameters of a request for many jobs. It can neither wait nor choose an id.
async fn read_many(
    web: &Web,
    queue: &str,
    query: &Query,
    headers: &HeaderMap,
) -> Result<(Queue, Submission), Problem> {
    let queue = web.client.queue(queue)?.traced(trace(headers));
    let submission = read_submission(query)?;
    if submission.wait.is_some() {
        return Err(Problem::parameter(
            "wait",
            "a request can wait for one job only",
        ));
    }
    if headers.contains_key("idempotency-key") {
        let detail = "Idempotency-Key names one job; give each envelope a job_id";
        return Err(Problem::new(&problem::BAD_REQUEST, detail));
    }
    if let Some(max) = submission.max_jobs {
        queue.check_capacity(max).await?;
    }
    Ok((queue, submission))
}

/// Checks an array whole, then enqueues it.
async fn enqueue_array(
    web: &Web,
    queue: &str,
    query: &Query,
    headers: &HeaderMap,
    body: &Bytes,
    tally: &Tally,
) -> Result<Response, Problem> {
    let (queue, submission) = read_many(web, queue, query, headers).await?;
    let envelopes: Vec<Box<RawValue>> = serde_json::from_slice(body)
        .map_err(|error| Problem::new(&problem::REFUSED, error.to_string()))?;
    if envelopes.len() > ARRAY_MAX {
        let detail = format!(
            "the array has {} envelopes, and at most {ARRAY_MAX} are accepted; send lines as application/x-ndjson",
            envelopes.len()
        );
        return Err(Problem::new(&problem::TOO_LARGE, detail));
    }
    let mut checked = Vec::with_capacity(envelopes.len());
    let mut wrong = Vec::new();
    for (at, envelope) in envelopes.iter().enumerate() {
        match check_envelope(envelope.get().as_bytes(), &format!("/{at}")) {
            Ok(envelope) => checked.push(envelope),
            Err(problem) => wrong.push(problem),
        }
        if wrong.len() == ERRORS_MAX {
            break;
        }
    }
    if let Some(problem) = Problem::merge(wrong) {
        return Err(problem);
    }
    let starts: Vec<_> = checked
        .iter()
        .map(|envelope| submission.start(envelope))
        .collect::<Result<_, _>>()?;
    if submission.is_dry {
        let body = Json(EnqueuedJobs {
            job_ids: Vec::new(),
        });
        return Ok(body.into_response());
    }
    let payloads = envelopes
        .iter()
        .map(|text| Bytes::copy_from_slice(text.get().as_bytes()));
    let jobs: Vec<_> = payloads.zip(checked).zip(starts).collect();
    let results: Vec<Result<JobId, Problem>> = stream::iter(jobs)
        .map(|((payload, envelope), start)| store(&queue, envelope.job_id, payload, start))
        .buffered(JOBS_AT_ONCE)
        .collect()
        .await;
    let (mut job_ids, mut failed) = (Vec::new(), Vec::new());
    for (at, result) in results.into_iter().enumerate() {
        match result {
            Ok(job_id) => job_ids.push(job_id),
            Err(problem) => failed.push(problem.at(&format!("/{at}"))),
        }
    }
    tally.add(job_ids.len() as u64);
    match Problem::merge(failed) {
        None => Ok((StatusCode::CREATED, Json(EnqueuedJobs { job_ids })).into_response()),
        Some(problem) => Err(problem.explain(&format!(
            "enqueued: {}",
            count(job_ids.len() as u64, "other job")
        ))),
    }
}

/// Enqueues each line as it arrives, and answers with a line for each, in their order.
async fn enqueue_lines(
    web: &Web,
    queue: &str,
    query: &Query,
    headers: &HeaderMap,
    lines: Lines,
    tally: Tally,
) -> Result<Response, Problem> {
    let (queue, submission) = read_many(web, queue, query, headers).await?;
    // the lines are enqueued while the answer is sent
    tally.set_unchanged();
    let wanted = Arc::new((queue, submission, tally));
    let stop = web.stop.clone();
    let results = lines
        .into_stream()
        .map(move |(line, text)| {
            let wanted = Arc::clone(&wanted);
            async move {
                let (queue, submission, tally) = &*wanted;
                let stored = match text {
                    Ok(text) => enqueue_line(queue, submission, text).await,
                    Err(problem) => Err(problem),
                };
                if stored.is_ok() {
                    tally.add(1);
                }
                encode_line(line, stored)
            }
        })
        .buffered(JOBS_AT_ONCE)
        .take_until(until_stopped(stop))
        .map(Ok::<Bytes, Infallible>);
    let media_type = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((media_type, Body::from_stream(results)).into_response())
}

async fn until_stopped(mut stop: tokio::sync::watch::Receiver<bool>) {
    // the sender is dropped only when the dashboard ends
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn enqueue_line(
    queue: &Queue,
    submission: &Submission,
    text: Bytes,
) -> Result<Option<JobId>, Problem> {
    let envelope = check_envelope(&text, "")?;
    let start = submission.start(&envelope)?;
    if submission.is_dry {
        return Ok(envelope.job_id);
    }
    let job_id = store(queue, envelope.job_id, text, start).await?;
    Ok(Some(job_id))
}

fn encode_line(line: u64, stored: Result<Option<JobId>, Problem>) -> Bytes {
    let (job_id, problem) = match stored {
        Ok(job_id) => (job_id, None),
        Err(problem) => (None, Some(problem.into_body())),
    };
    let result = LineResult {
        line,
        job_id,
        problem,
    };
    // a struct of text and numbers has no value that JSON lacks
    let mut text = serde_json::to_vec(&result).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

/// The lines of a body, read as they arrive.
struct Lines {
    body: BodyDataStream,
    buffer: BytesMut,
    /// Number of bytes at the start of `buffer` that contain no line end. They are not searched again, so that
    /// a line in many small parts costs no more time than another one.
    searched: usize,
    bytes_max: usize,
    /// The number of the last line.
    line: u64,
    is_ended: bool,
}

impl Lines {
    fn new(body: Body, bytes_max: usize) -> Lines {
        Lines {
            body: body.into_data_stream(),
            buffer: BytesMut::new(),
            searched: 0,
            bytes_max,
            line: 0,
            is_ended: false,
        }
    }

    /// The lines that are not empty, with their numbers. An error is the last one.
    fn into_stream(self) -> impl Stream<Item = (u64, Result<Bytes, Problem>)> {
        stream::unfold(self, |mut lines| async move {
            let next = lines.next().await?;
            Some((next, lines))
        })
    }

    async fn next(&mut self) -> Option<(u64, Result<Bytes, Problem>)> {
        loop {
            while let Some(end) = self.line_end() {
                let line = self.buffer.split_to(end + 1).freeze();
                self.line += 1;
                if !line.trim_ascii().is_empty() {
                    return Some((self.line, Ok(line)));
                }
            }
            if self.buffer.len() > self.bytes_max {
                self.is_ended = true;
                self.buffer.clear();
                let detail = format!("the line has more than {} bytes", self.bytes_max);
                return Some(self.failed(Problem::new(&problem::TOO_LARGE, detail)));
            }
            if self.is_ended {
                let rest = std::mem::take(&mut self.buffer).freeze();
                return match rest.trim_ascii().is_empty() {
                    true => None,
                    false => Some((self.line + 1, Ok(rest))),
                };
            }
            match tokio::time::timeout(SILENCE_MAX, self.body.try_next()).await {
                Ok(Ok(Some(part))) => self.buffer.extend_from_slice(&part),
                Ok(Ok(None)) => self.is_ended = true,
                Ok(Err(_)) | Err(_) => {
                    self.is_ended = true;
                    self.buffer.clear();
                    let detail = "the body ended early, or its sender was silent for too long";
                    return Some(self.failed(Problem::new(&problem::BAD_REQUEST, detail)));
                }
            }
        }
    }

    /// The place of the first line end in the buffer.
    fn line_end(&mut self) -> Option<usize> {
        let rest = self.buffer.get(self.searched..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == b'\n');
        let end = end.map(|at| self.searched + at);
        self.searched = match end {
            Some(_) => 0,
            None => self.buffer.len(),
        };
        end
    }

    fn failed(&self, problem: Problem) -> (u64, Result<Bytes, Problem>) {
        (self.line + 1, Err(problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(parts: &[&'static str], bytes_max: usize) -> Vec<(u64, Option<String>)> {
        let parts: Vec<Result<Bytes, std::io::Error>> = parts
            .iter()
            .map(|part| Ok(Bytes::from_static(part.as_bytes())))
            .collect();
        let body = Body::from_stream(stream::iter(parts));
        let found: Vec<_> = Lines::new(body, bytes_max).into_stream().collect().await;
        let text = |line: Bytes| String::from_utf8_lossy(line.trim_ascii()).into_owned();
        found
            .into_iter()
            .map(|(number, line)| (number, line.ok().map(text)))
            .collect()
    }

    #[tokio::test]
    async fn lines_are_numbered_however_they_arrive() {
        let text = |line: &str| Some(line.to_owned());
        assert_eq!(
            lines(&["{\"a\":1}\n\n{\"b\"", ":2}\r\n{}"], 100).await,
            [
                (1, text("{\"a\":1}")),
                (3, text("{\"b\":2}")),
                (4, text("{}"))
            ]
        );
        assert_eq!(lines(&[], 100).await, []);
        assert_eq!(
            lines(&["{}\nxxxxxxxx", "xxxxxxxx\n{}\n"], 6).await,
            [(1, text("{}")), (2, None)]
        );
    }

    #[test]
    fn a_byte_is_searched_once_in_however_many_parts_its_line_arrives() {
        let mut lines = Lines::new(Body::empty(), 100);
        for part in [&b"{"[..], b"", b"\"a\":", b"1"] {
            lines.buffer.extend_from_slice(part);
            assert_eq!(lines.line_end(), None);
            // a second search would find it
            lines.buffer.fill(b'\n');
            assert_eq!(lines.line_end(), None);
        }
        lines.buffer.extend_from_slice(b"}\n{}\n");
        assert_eq!(lines.line_end(), Some(7));
        // the bytes after a line have not been searched
        let _ = lines.buffer.split_to(8);
        assert_eq!(lines.line_end(), Some(2));
    }
}
