//! Enqueueing: an envelope becomes a job.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use axum::{Extension, Json};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::jobs::{JOB, WAIT_MAX, wait, without_values};
use super::parameters::{DRY_RUN, Query};
use crate::clock;
use crate::web::access::Right;
use crate::web::audit::Tally;
use crate::web::problem::{self, Problem, ProblemKind};
use crate::web::route::{Parameter, Route, json, path, query, schema_of};
use crate::web::state::Web;
use naq_client::{ClientError, ErrorKind, Queue};
use naq_core::{StartDelay, delay_for, delay_until};
use naq_protocol::{AuditAction, Envelope, JobId, TRACEPARENT_HEADER, Timestamp, TraceContext};

pub(super) const QUEUE: Parameter = path(
    "queue",
    "Name of the queue, which is created if it does not exist",
    "build",
);
pub(super) const WAIT: Parameter = query(
    "wait",
    "Answer when the job has ended, or after this time, at most 60s",
    "30s",
);
pub(super) const IN: Parameter = query("in", "Start the job after this time", "15m");
pub(super) const AT: Parameter = query("at", "Start the job at this time", "2030-12-24T18:00:00Z");
pub(super) const MAX_JOBS: Parameter = query(
    "max_jobs",
    "Refuse the job if the queue contains this many",
    "10000",
);

pub(super) const PROBLEMS: &[&ProblemKind] = &[
    &problem::BAD_REQUEST,
    &problem::CONFLICT,
    &problem::TOO_LARGE,
    &problem::MEDIA_TYPE,
    &problem::REFUSED,
    &problem::QUEUE_FULL,
    &problem::STORAGE_FULL,
];

pub(super) const ROUTES: &[Route] = &[Route::put(
    "/api/queues/{queue}/jobs/{job}",
    Right::Submit,
    "Enqueue a job under this id",
    |method| on(method, enqueue_as),
)
.audited(AuditAction::JobEnqueue)
.parameters(&[QUEUE, JOB, WAIT, IN, AT, MAX_JOBS, DRY_RUN])
.body(schema_of::<Envelope>)
.answers(&[
    json(
        200,
        "The same job was enqueued before, or `dry_run` was given, or the job has \
             ended within `wait`",
        schema_of::<Enqueued>,
    ),
    json(201, "The job is enqueued", schema_of::<Enqueued>),
    json(
        202,
        "The job is enqueued, and has not ended within `wait`",
        schema_of::<Enqueued>,
    ),
])
.problems(PROBLEMS)];

/// A job that is enqueued.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "enqueued")]
pub(super) struct Enqueued {
    /// The job. Absent with `dry_run`, unless the envelope has an id.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<JobId>,
    /// The record of the job, if the request waited for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<naq_protocol::Record>,
}

/// The parameters of a request in addition to the envelope.
pub(super) struct Submission {
    pub(super) wait: Option<Duration>,
    /// The delay of the job, or the time at which it starts.
    start: Option<Start>,
    pub(super) max_jobs: Option<u64>,
    pub(super) is_dry: bool,
}

/// When a job starts.
#[derive(Clone, Copy)]
enum Start {
    After(Duration),
    At(Timestamp),
}

impl Submission {
    /// The delay of the job of an envelope. `None` means that it starts at once.
    ///
    /// # Errors
    /// Returns a problem if the time is out of range, or if the job expires before it.
    pub(super) fn start(&self, envelope: &Envelope) -> Result<Option<StartDelay>, Problem> {
        let now = clock::now();
        let start = match self.start {
            Some(Start::After(delay)) => delay_for(delay, envelope.expires_at, now),
            Some(Start::At(time)) => delay_until(time, envelope.expires_at, now),
            None => return Ok(None),
        };
        Ok(Some(start.map_err(ClientError::InvalidDueTime)?))
    }
}

async fn enqueue_as(
    State(web): State<Arc<Web>>,
    Path((queue, job)): Path<(String, String)>,
    Extension(query): Extension<Query>,
    Extension(tally): Extension<Tally>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let job = Some(JobId::new(&job)?);
    submit(&web, &queue, job, &query, &headers, body, &tally).await
}

/// Checks an envelope as workers do. `prefix` is the pointer to it in the body.
pub(in crate::web) fn check_envelope(bytes: &[u8], prefix: &str) -> Result<Envelope, Problem> {
    Envelope::parse(bytes).map_err(|error| Problem::of_envelope(&error, prefix))
}

/// The trace that a request belongs to. An invalid header counts as absent, as the standard requires.
pub(super) fn trace(headers: &HeaderMap) -> Option<TraceContext> {
    headers.get(TRACEPARENT_HEADER)?.to_str().ok()?.parse().ok()
}

/// Checks an envelope as workers do, and enqueues its bytes unchanged.
pub(super) async fn submit(
    web: &Web,
    queue: &str,
    job_id: Option<JobId>,
    query: &Query,
    headers: &HeaderMap,
    body: Bytes,
    tally: &Tally,
) -> Result<Response, Problem> {
    check_media_type(headers)?;
    let queue = web.client.queue(queue)?.traced(trace(headers));
    let envelope = check_envelope(&body, "")?;
    let submission = read_submission(query)?;
    let start = submission.start(&envelope)?;
    let job_id = chosen_id(job_id, headers, &envelope)?;
    if submission.is_dry {
        return Ok(answer(web, StatusCode::OK, job_id, None));
    }
    if let Some(max) = submission.max_jobs {
        queue.check_capacity(max).await?;
    }
    let is_known = match &job_id {
        Some(job_id) => exists(web, job_id).await?,
        None => false,
    };
    let job_id = store(&queue, job_id, body, start).await?;
    tally.set_name(&job_id);
    let created = match is_known {
        true => {
            tally.set_unchanged();
            StatusCode::OK
        }
        false => {
            tally.add(1);
            StatusCode::CREATED
        }
    };
    let Some(wait) = submission.wait else {
        return Ok(answer(web, created, Some(job_id), None));
    };
    match tokio::time::timeout(wait.min(WAIT_MAX), web.client.wait(&job_id)).await {
        Ok(ended) => {
            let record = without_values(ended?);
            Ok(answer(web, StatusCode::OK, Some(job_id), Some(record)))
        }
        Err(_) => Ok(answer(web, StatusCode::ACCEPTED, Some(job_id), None)),
    }
}

pub(super) async fn store(
    queue: &Queue,
    job_id: Option<JobId>,
    body: Bytes,
    start: Option<StartDelay>,
) -> Result<JobId, Problem> {
    Ok(match start {
        Some(start) => queue.enqueue_bytes_delayed(job_id, body, start).await?,
        None => queue.enqueue_bytes(job_id, body).await?,
    })
}

async fn exists(web: &Web, job_id: &JobId) -> Result<bool, Problem> {
    match web.client.fetch_job(job_id).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn answer(
    web: &Web,
    status: StatusCode,
    job_id: Option<JobId>,
    record: Option<naq_protocol::Record>,
) -> Response {
    let place = job_id
        .as_ref()
        .map(|job_id| format!("{}/api/jobs/{job_id}", web.base_path()));
    let body = Json(Enqueued { job_id, record });
    match place {
        Some(place) => (status, [(header::LOCATION, place)], body).into_response(),
        None => (status, body).into_response(),
    }
}

/// The id of the path, of the envelope, or of the header `Idempotency-Key`, which must not contradict each
/// other. `None` if the request has none.
fn chosen_id(
    in_path: Option<JobId>,
    headers: &HeaderMap,
    envelope: &Envelope,
) -> Result<Option<JobId>, Problem> {
    let of_key = headers
        .get("idempotency-key")
        .map(|key| id_of_key(key.as_bytes()));
    let mut chosen: Option<JobId> = None;
    for id in [in_path, envelope.job_id.clone(), of_key]
        .into_iter()
        .flatten()
    {
        match &chosen {
            Some(first) if *first != id => {
                let detail = format!("the request names two ids: `{first}` and `{id}`");
                return Err(Problem::new(&problem::BAD_REQUEST, detail));
            }
            _ => chosen = Some(id),
        }
    }
    Ok(chosen)
}

/// The id of a job for the value of `Idempotency-Key`: the value itself if it has the form of an id, else
/// `k-` and 128 bits of its SHA-256.
fn id_of_key(key: &[u8]) -> JobId {
    use sha2::Digest;
    let as_is = std::str::from_utf8(key)
        .ok()
        .and_then(|key| JobId::new(key).ok());
    as_is.unwrap_or_else(|| {
        let digest = sha2::Sha256::digest(key);
        let id = format!("k-{}", crate::web::tokens::hex(&digest[..16]));
        JobId::new(&id).unwrap_or_else(|_| JobId::generate())
    })
}

/// The type of a body, without its parameters. Empty if the request has none.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let given = headers.get(header::CONTENT_TYPE);
    let given = given
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    given.split(';').next().unwrap_or_default().trim()
}

pub(super) fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let name = media_type(headers);
    match name.eq_ignore_ascii_case("application/json") {
        true => Ok(()),
        false => {
            let detail = format!(
                "the type is `{}`, not application/json",
                naq_protocol::escape(name)
            );
            Err(Problem::new(&problem::MEDIA_TYPE, detail))
        }
    }
}

/// Parses a body that is an object.
///
/// # Errors
/// Returns a problem if the body has another type, or is invalid.
pub(super) fn parse_object<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: &[u8],
) -> Result<T, Problem> {
    check_media_type(headers)?;
    let refused = |why: String| Problem::new(&problem::REFUSED, why);
    // serde reads the fields of a struct from an array too
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(refused("the body is not an object".to_owned()));
    }
    serde_json::from_slice(body).map_err(|error| refused(error.to_string()))
}

pub(super) fn read_submission(query: &Query) -> Result<Submission, Problem> {
    let delay = query.parsed("in", naq_protocol::units::parse_duration)?;
    let time = query.parsed("at", str::parse::<Timestamp>)?;
    let start = match (delay, time) {
        (Some(_), Some(_)) => {
            return Err(Problem::parameter(
                "in",
                "it cannot be given together with at",
            ));
        }
        (Some(delay), None) => Some(Start::After(delay)),
        (None, Some(time)) => Some(Start::At(time)),
        (None, None) => None,
    };
    Ok(Submission {
        wait: query.parsed("wait", wait)?,
        start,
        max_jobs: query.parsed("max_jobs", str::parse)?,
        is_dry: query.is_on("dry_run")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idempotency_key_becomes_an_id() {
        assert_eq!(id_of_key(b"order-17").as_str(), "order-17");
        let long = id_of_key("a key with spaces".as_bytes());
        assert!(
            long.as_str().starts_with("k-") && long.as_str().len() == 34,
            "{long}"
        );
        assert_eq!(long, id_of_key("a key with spaces".as_bytes()));
        assert_ne!(long, id_of_key("a key with space".as_bytes()));
    }

    #[test]
    fn ids_must_not_contradict_each_other() {
        let envelope = |text: &str| Envelope::parse(text.as_bytes()).unwrap();
        let with_id = envelope(r#"{"command":"true","job_id":"a"}"#);
        let without = envelope(r#"{"command":"true"}"#);
        let id = |text: &str| Some(JobId::new(text).unwrap());
        let mut key = HeaderMap::new();
        key.insert("idempotency-key", "a".parse().unwrap());
        let none = HeaderMap::new();
        assert_eq!(chosen_id(None, &none, &without).unwrap(), None);
        assert_eq!(chosen_id(None, &key, &with_id).unwrap(), id("a"));
        assert_eq!(chosen_id(id("b"), &none, &without).unwrap(), id("b"));
        assert!(chosen_id(id("b"), &none, &with_id).is_err());
        assert!(chosen_id(id("b"), &key, &without).is_err());
    }

    #[test]
    fn only_json_is_accepted() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            check_media_type(&headers)
        };
        assert!(of("application/json").is_ok());
        assert!(of("Application/JSON; charset=utf-8").is_ok());
        assert!(of("text/plain").is_err());
        assert!(check_media_type(&HeaderMap::new()).is_err());
    }
}
