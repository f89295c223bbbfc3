//! Failed jobs: lists them, groups them by cause, retries and discards them.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use axum::{Extension, Json};
use serde::Serialize;

use super::jobs::{JOB, next_link};
use super::parameters::{DRY_RUN, Query, limit};
use super::retry::{RETRY_ANSWERS, RETRY_PROBLEMS, Retried};
use crate::clock;
use crate::web::access::Right;
use crate::web::audit::Tally;
use crate::web::filter::Since;
use crate::web::problem::{self, Problem};
use crate::web::route::{Parameter, Route, empty, json, query, schema_of};
use crate::web::state::Web;
use naq_client::{DeadLetter, DeadLetterFilter, DeadLetterGroup, FailureGroupId};
use naq_protocol::{AuditAction, JobId, QueueName, Reason, State as JobState, Timestamp};

/// Default number of failed jobs in a page.
const LIMIT_DEFAULT: usize = 100;

/// Maximum number of failed jobs in a page.
const LIMIT_MAX: usize = 500;

/// Maximum number of failed jobs that are read for a page. If few of them match, the page is short, and
/// `next` continues.
const READ_MAX: usize = 10_000;

const QUEUE: Parameter = query("queue", "Only jobs of this queue", "build");
const REASON: Parameter = query("reason", "Only jobs that failed for this reason", "timeout");
const GROUP: Parameter = query(
    "group",
    "Only jobs of this group, as `/api/failed/groups` names it",
    "9f86d081884c7d65",
);
const SINCE: Parameter = query(
    "since",
    "Only jobs that failed since: a time, or a duration before now",
    "2h",
);

pub(super) const ROUTES: &[Route] = &[
    Route::get(
        "/api/failed",
        Right::View,
        "List failed jobs that are kept whole, the latest failure first",
        |method| on(method, list),
    )
    .parameters(&[
        QUEUE,
        REASON,
        GROUP,
        SINCE,
        query("limit", "Most jobs in the answer, 1 to 500", "100"),
        query("cursor", "`next` of an earlier answer", "").of_schema("failed_cursor"),
    ])
    .answers(&[json(200, "A page of failed jobs", schema_of::<Failed>)])
    .problems(&[&problem::BAD_REQUEST]),
    Route::get(
        "/api/failed/groups",
        Right::View,
        "Group failed jobs by their cause, the latest failure first",
        |method| on(method, groups),
    )
    .parameters(&[QUEUE, REASON, SINCE])
    .answers(&[json(200, "The groups", schema_of::<Groups>)])
    .problems(&[&problem::BAD_REQUEST]),
    Route::post(
        "/api/failed/{job}/retry",
        Right::Operate,
        "Run a failed job again, as a new job with the same envelope",
        |method| on(method, retry),
    )
    .audited(AuditAction::FailedRetry)
    .parameters(&[JOB, DRY_RUN])
    .answers(RETRY_ANSWERS)
    .problems(RETRY_PROBLEMS),
    Route::delete(
        "/api/failed/{job}",
        Right::Operate,
        "Discard a failed job; its record stays until it expires",
        |method| on(method, discard),
    )
    .audited(AuditAction::FailedDiscard)
    .parameters(&[JOB, DRY_RUN])
    .answers(&[empty(
        204,
        "The job is discarded, or exists, with `dry_run`",
    )])
    .problems(&[&problem::BAD_REQUEST, &problem::NOT_FOUND]),
];

/// A page of failed jobs.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "failed")]
struct Failed {
    /// The jobs, the latest failure first.
    jobs: Vec<FailedJob>,
    /// The value of `cursor` for the next page. Absent means that this is the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A failed job that naq keeps as a dead letter.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "failed_job")]
struct FailedJob {
    /// The job.
    job_id: JobId,
    /// The queue that it came from.
    queue: QueueName,
    /// `failed` or `rejected`.
    state: JobState,
    /// Why it failed. Absent if it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    /// The exit code of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    /// The signal that killed the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    /// The error, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Number of attempts.
    attempt: u32,
    /// When the failure was stored.
    finished_at: Timestamp,
    /// The group of jobs with the same cause.
    group: FailureGroupId,
}

impl From<DeadLetter> for FailedJob {
    fn from(job: DeadLetter) -> FailedJob {
        FailedJob {
            group: FailureGroupId::of(&job),
            job_id: job.job_id,
            queue: job.queue,
            state: job.state,
            reason: job.reason,
            exit_code: job.exit_code,
            signal: job.signal,
            error: job.error,
            attempt: job.attempt,
            finished_at: job.time,
        }
    }
}

/// Failed jobs, grouped by cause.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "failed_groups")]
struct Groups {
    /// The groups, the one with the latest failure first; at most 200.
    groups: Vec<DeadLetterGroup>,
    /// The jobs of smaller groups, together. Absent if every job is in `groups`.
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<DeadLetterGroup>,
    /// Number of all jobs.
    jobs: u64,
}

/// The position of a page in the list: when a job failed, in milliseconds since the Unix epoch, and its
/// sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::web) struct FailedCursor {
    time: Timestamp,
    sequence: u64,
}

impl std::fmt::Display for FailedCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.time.unix_ms(), self.sequence)
    }
}

impl std::str::FromStr for FailedCursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<FailedCursor, &'static str> {
        let parts = text.split_once('-');
        let cursor = parts.and_then(|(time, sequence)| {
            Some(FailedCursor {
                time: Timestamp::from_unix_ms(time.parse().ok()?)?,
                sequence: sequence.parse().ok()?,
            })
        });
        cursor.ok_or("expected `next` of an earlier answer")
    }
}

/// A page of failed jobs and the place of the next one.
pub(in crate::web) struct FailedPage {
    pub(in crate::web) jobs: Vec<DeadLetter>,
    pub(in crate::web) next: Option<FailedCursor>,
}

/// Reads a page of the failed jobs that a filter selects, after `before`. It reads a bounded number of
/// them, so a page of a rare kind may be short although there are more.
///
/// # Errors
/// Returns a problem if NATS does not answer.
pub(in crate::web) async fn read_page(
    web: &Web,
    filter: &DeadLetterFilter,
    before: Option<FailedCursor>,
    limit: usize,
) -> Result<FailedPage, Problem> {
    let place = DeadLetterFilter {
        // the server's times are finer than milliseconds; the sequence decides within one
        until: before.and_then(|cursor| Timestamp::from_unix_ms(cursor.time.unix_ms() + 1)),
        since: filter.since,
        up_to: before.map(|cursor| cursor.sequence.saturating_sub(1)),
        ..DeadLetterFilter::default()
    };
    let mut listed = web.client.list_dead_letters(&place).await?;
    let mut page = FailedPage {
        jobs: Vec::new(),
        next: None,
    };
    let mut read = 0;
    while let Some(job) = listed.next().await? {
        read += 1;
        let cursor = FailedCursor {
            time: job.time,
            sequence: job.sequence,
        };
        if filter.matches(&job) {
            page.jobs.push(job);
        }
        if page.jobs.len() == limit || read == READ_MAX {
            // checking for a further page is not worth a second read
            page.next = listed.next().await?.map(|_| cursor);
            break;
        }
    }
    Ok(page)
}

fn filter(web: &Web, query: &Query) -> Result<DeadLetterFilter, Problem> {
    let since = query.parsed_unless_empty("since", str::parse::<Since>)?;
    Ok(DeadLetterFilter {
        queue: query.parsed("queue", |name| QueueName::new(name))?,
        reason: query.parsed("reason", str::parse::<Reason>)?,
        group: query.parsed("group", str::parse)?,
        since: since.map(|since| since.shared_moment(clock::now())),
        except: web.actions.pending.sequences(),
        ..DeadLetterFilter::default()
    })
}

async fn list(
    State(web): State<Arc<Web>>,
    Extension(query): Extension<Query>,
) -> Result<Response, Problem> {
    let limit = query.parsed("limit", |text| limit(text, LIMIT_MAX))?;
    let before = query.parsed_unless_empty("cursor", str::parse)?;
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    let page = read_page(&web, &filter(&web, &query)?, before, limit).await?;
    let next = page.next.map(|cursor| cursor.to_string());
    let link = next.as_deref().and_then(next_link);
    let jobs = page.jobs.into_iter().map(FailedJob::from).collect();
    let mut response = Json(Failed { jobs, next }).into_response();
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

async fn groups(
    State(web): State<Arc<Web>>,
    Extension(query): Extension<Query>,
) -> Result<Json<Groups>, Problem> {
    let found = web
        .failure_groups
        .read(&web.client, filter(&web, &query)?)
        .await?;
    Ok(Json(Groups {
        groups: found.groups.clone(),
        other: found.other.clone(),
        jobs: found.jobs,
    }))
}

async fn retry(
    State(web): State<Arc<Web>>,
    Path(job): Path<String>,
    Extension(query): Extension<Query>,
) -> Result<Response, Problem> {
    let job = JobId::new(&job)?;
    let is_dry = query.is_on("dry_run")?;
    web.client.fetch_dead_letter(&job).await?;
    let rerun = web.client.prepare_retry(&job).await?;
    let retried = Retried {
        job_id: rerun.job_id().clone(),
        rerun_of: rerun.rerun_of().clone(),
    };
    if is_dry {
        return Ok(Json(retried).into_response());
    }
    rerun.enqueue().await?;
    web.failure_groups.clear();
    let place = format!("{}/api/jobs/{}", web.base_path(), retried.job_id);
    let headers = [(header::LOCATION, place)];
    Ok((StatusCode::CREATED, headers, Json(retried)).into_response())
}

async fn discard(
    State(web): State<Arc<Web>>,
    Path(job): Path<String>,
    Extension(query): Extension<Query>,
    Extension(tally): Extension<Tally>,
) -> Result<StatusCode, Problem> {
    let job = JobId::new(&job)?;
    let is_dry = query.is_on("dry_run")?;
    let failed = web.client.fetch_dead_letter(&job).await?;
    if !is_dry {
        if !web.client.discard_dead_letter(&failed).await? {
            tally.set_unchanged();
        }
        web.failure_groups.clear();
    }
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_the_way_to_a_client_and_back() {
        let cursor = FailedCursor {
            time: Timestamp::from_unix_ms(1_766_000_000_123).unwrap(),
            sequence: 17,
        };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for wrong in ["", "x", "1", "-", "1-x", "99999999999999999999-1"] {
            assert!(wrong.parse::<FailedCursor>().is_err(), "{wrong}");
        }
    }
}
