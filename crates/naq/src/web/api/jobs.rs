//! Jobs: lists, single jobs, and changes of a job by an operator.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Serialize;

use super::parameters::{DRY_RUN, Query, limit};
use crate::clock;
use crate::text::waiting::Why;
use crate::web::access::Right;
use crate::web::filter::Filter;
use crate::web::hidden_values::hide_values;
use crate::web::problem::{self, Problem};
use crate::web::route::{Parameter, Route, json, other, path, query, schema_of};
use crate::web::state::Web;
use crate::web::{job_rows, job_search};
use naq_client::{CancelOutcome, JobFilter, JobSummary};
use naq_protocol::{Attempt, AuditAction, JobId, QueueName, Record, ScheduleId};

/// Default number of jobs in a page.
const LIMIT_DEFAULT: usize = 100;

/// Maximum number of jobs in a page.
const LIMIT_MAX: usize = 500;

/// Longest wait for a job in one request.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);

pub(super) const JOB: Parameter = path("job", "Id of the job", "backup-1");

pub(super) const ROUTES: &[Route] = &[
    Route::get(
        "/api/jobs",
        Right::View,
        "List jobs, latest change first",
        |method| on(method, list),
    )
    .parameters(&[
        query(
            "state",
            "Only jobs in this state; may be given again",
            "failed",
        ),
        query("queue", "Only jobs of this queue", "build"),
        query(
            "label",
            "Only jobs with this label, KEY or KEY=VALUE; may be given again",
            "team=web",
        ),
        query(
            "since",
            "Only jobs that changed since: a time, or a duration before now",
            "2h",
        ),
        query("limit", "Most jobs in the answer, 1 to 500", "100"),
        query("cursor", "`next` of an earlier answer", ""),
        query(
            "reason",
            "Only jobs that ended, or are retried, for this reason; may be given again",
            "timeout",
        ),
        query(
            "worker",
            "Only jobs of the worker with this id, name or host; may be given again",
            "host-1",
        ),
        query(
            "schedule",
            "Only jobs that this schedule enqueued; may be given again",
            "nightly",
        ),
        query(
            "q",
            "A filter as on the page of jobs; the other parameters narrow it down",
            "state:failed \"disk full\"",
        ),
    ])
    .answers(&[
        json(200, "A page of jobs", schema_of::<Jobs>),
        other(200, "A line for each job", job_rows::CSV),
        other(200, "A line for each job", job_rows::NDJSON),
    ])
    .problems(&[&problem::BAD_REQUEST, &problem::GONE]),
    Route::get(
        "/api/jobs/{job}",
        Right::View,
        "Show a job: its record, or what its message says before a worker has claimed it",
        |method| on(method, show),
    )
    .parameters(&[
        JOB,
        query(
            "wait",
            "Answer when the job has ended, or after this time, at most 60s",
            "30s",
        ),
    ])
    .answers(&[json(200, "The job", schema_of::<Record>)])
    .problems(&[&problem::BAD_REQUEST, &problem::NOT_FOUND]),
    Route::get(
        "/api/jobs/{job}/why",
        Right::View,
        "Say why a job does not run",
        |method| on(method, why),
    )
    .parameters(&[JOB])
    .answers(&[json(
        200,
        "Why it does not run, or how it has ended",
        schema_of::<Why>,
    )])
    .problems(&[&problem::BAD_REQUEST, &problem::NOT_FOUND]),
    Route::get(
        "/api/jobs/{job}/attempts",
        Right::View,
        "List the attempts of a job, oldest first",
        |method| on(method, attempts),
    )
    .parameters(&[JOB])
    .answers(&[json(
        200,
        "The attempts that the record of the job lists",
        schema_of::<AttemptList>,
    )])
    .problems(&[&problem::BAD_REQUEST, &problem::NOT_FOUND]),
    Route::delete(
        "/api/jobs/{job}",
        Right::Operate,
        "Cancel a job; a running one is stopped with all its processes",
        |method| on(method, cancel),
    )
    .audited(AuditAction::JobCancel)
    .parameters(&[JOB, DRY_RUN])
    .answers(&[
        json(200, "The job has ended as cancelled", schema_of::<Record>),
        json(
            202,
            "The job is running, and its worker is asked to stop it",
            schema_of::<Record>,
        ),
    ])
    .problems(&[
        &problem::BAD_REQUEST,
        &problem::NOT_FOUND,
        &problem::CONFLICT,
    ]),
];

/// A page of jobs.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "jobs")]
struct Jobs {
    /// The jobs, latest change first.
    jobs: Vec<JobSummary>,
    /// The value of `cursor` for the next page. Absent means that this is the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// Whether the search stopped early because it read many jobs that do not match. `next` continues it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(default)]
    is_cut: bool,
    /// The part of the records that the index contains, 0 to 99, while they are being read. Until then, a search
    /// reads the records themselves, and stops earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    indexing: Option<u8>,
}

async fn list(
    State(web): State<Arc<Web>>,
    Extension(query): Extension<Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let limit = query.parsed("limit", |text| limit(text, LIMIT_MAX))?;
    let before = query.parsed_unless_empty("cursor", str::parse)?;
    let parameters = Filter {
        since: query.parsed_unless_empty("since", str::parse)?,
        ..filter(&query)?
    };
    let language = query.parsed("q", str::parse::<Filter>)?.unwrap_or_default();
    let filters = [parameters, language];
    let search = job_search::search(
        &web.client,
        web.index.as_ref(),
        &filters,
        before,
        limit.unwrap_or(LIMIT_DEFAULT),
    );
    let page = search.await?;
    let next = page.next.map(|cursor| cursor.to_string());
    let link = next.as_deref().and_then(next_link);
    let mut response = match job_rows::Format::accepted(&headers) {
        Some(format) => format.response(&page.jobs),
        None => Json(Jobs {
            jobs: page.jobs,
            next,
            is_cut: page.is_cut,
            indexing: web.indexing(),
        })
        .into_response(),
    };
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// A header with the address of the next page, relative to this one.
pub(super) fn next_link(cursor: &str) -> Option<HeaderValue> {
    // a cursor contains the name of a stream, whose characters need no escape
    HeaderValue::from_str(&format!("<?cursor={cursor}>; rel=\"next\"")).ok()
}

/// The filter that parameters of a query describe, without its time.
fn filter(query: &Query) -> Result<Filter, Problem> {
    let states = query.all("state").map(|text| {
        let state: Result<_, String> = text.parse();
        state.map_err(|error| Problem::parameter("state", error))
    });
    let labels = query.all("label").map(|text| {
        text.parse()
            .map_err(|error: String| Problem::parameter("label", naq_protocol::escape(&error)))
    });
    let reasons = query.all("reason").map(|text| {
        text.parse()
            .map_err(|error: String| Problem::parameter("reason", error))
    });
    let schedules = query
        .all("schedule")
        .map(|name| ScheduleId::new(name).map_err(|error| Problem::parameter("schedule", error)));
    let queue = query.parsed("queue", |name| QueueName::new(name))?;
    Ok(Filter {
        states: states.collect::<Result<_, _>>()?,
        queues: queue.into_iter().collect(),
        labels: labels.collect::<Result<_, _>>()?,
        reasons: reasons.collect::<Result<_, _>>()?,
        workers: query.all("worker").map(str::to_owned).collect(),
        schedules: schedules.collect::<Result<_, _>>()?,
        ..Filter::default()
    })
}

/// The filter of events that parameters of a query describe.
pub(super) fn event_filter(query: &Query) -> Result<JobFilter, Problem> {
    Ok(filter(query)?.job_filter())
}

async fn show(
    State(web): State<Arc<Web>>,
    Path(job): Path<String>,
    Extension(query): Extension<Query>,
) -> Result<Json<Record>, Problem> {
    let job = JobId::new(&job)?;
    let mut record = web.client.fetch_job(&job).await?;
    if let Some(wait) = query.parsed("wait", wait)?
        && !record.state().is_terminal()
    {
        // after this time, the answer is the current state of the job
        let ended = tokio::time::timeout(wait, web.client.wait(&job)).await;
        record = match ended {
            Ok(ended) => ended?,
            Err(_) => web.client.fetch_job(&job).await?,
        };
    }
    Ok(Json(without_values(record)))
}

/// A wait of at most [`WAIT_MAX`].
pub(in crate::web) fn wait(text: &str) -> Result<Duration, String> {
    let wait = naq_protocol::units::parse_duration(text)?;
    match wait <= WAIT_MAX {
        true => Ok(wait),
        false => Err(format!(
            "the longest wait is {} seconds",
            WAIT_MAX.as_secs()
        )),
    }
}

/// A record without the values of its envelope's variables, which may be secrets.
pub(in crate::web) fn without_values(mut record: Record) -> Record {
    let Some(envelope) = &record.envelope else {
        return record;
    };
    record.envelope = hide_values(envelope);
    record
}

async fn why(State(web): State<Arc<Web>>, Path(job): Path<String>) -> Result<Json<Why>, Problem> {
    let record = web.client.fetch_job(&JobId::new(&job)?).await?;
    let cause = web.client.wait_cause(&record).await?;
    Ok(Json(Why::new(&record, cause, clock::now(), Duration::ZERO)))
}

/// The attempts of a job.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "attempt_list")]
struct AttemptList {
    /// Number of attempts that have begun. More than are listed if the record has dropped old ones.
    attempts_begun: u32,
    /// The attempts, oldest first.
    attempts: Vec<Attempt>,
}

async fn attempts(
    State(web): State<Arc<Web>>,
    Path(job): Path<String>,
) -> Result<Json<AttemptList>, Problem> {
    let record = web.client.fetch_job(&JobId::new(&job)?).await?;
    Ok(Json(AttemptList {
        attempts_begun: record.attempt,
        attempts: record.attempts(),
    }))
}

async fn cancel(
    State(web): State<Arc<Web>>,
    Path(job): Path<String>,
    Extension(query): Extension<Query>,
) -> Result<Response, Problem> {
    let job = JobId::new(&job)?;
    if query.is_on("dry_run")? {
        let record = web.client.fetch_job(&job).await?;
        return match record.state().is_terminal() {
            true => Err(has_ended(&record)),
            false => Ok(Json(without_values(record)).into_response()),
        };
    }
    let (status, record) = match web.client.cancel(&job).await? {
        CancelOutcome::Cancelled(record) => (StatusCode::OK, record),
        CancelOutcome::CancelRequested { record, .. } => (StatusCode::ACCEPTED, record),
        CancelOutcome::AlreadyEnded(record) => return Err(has_ended(&record)),
    };
    Ok((status, Json(without_values(*record))).into_response())
}

pub(in crate::web) fn has_ended(record: &Record) -> Problem {
    let detail = format!(
        "the job `{}` has already ended: it is {}",
        record.job_id,
        record.state()
    );
    Problem::new(&problem::CONFLICT, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_bounded() {
        assert_eq!(wait("30s"), Ok(Duration::from_secs(30)));
        assert!(wait("61s").is_err());
        assert!(wait("soon").is_err());
    }
}
