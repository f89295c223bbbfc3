//! Schedules.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use axum::{Extension, Json};
use serde::Serialize;

use super::parameters::{DRY_RUN, Query};
use super::submit::check_media_type;
use crate::web::access::Right;
use crate::web::audit::Tally;
use crate::web::hidden_values::hide_values;
use crate::web::precondition::{Etag, Precondition, is_unchanged};
use crate::web::problem::{self, Problem};
use crate::web::route::{self, Parameter, Route, empty, json, path, query, schema_of};
use crate::web::schedule_definition::{self, ScheduleDefinition};
use crate::web::state::Web;
use naq_client::{
    AddScheduleOutcome, ClientError, ListedSchedule, ScheduleFilter, ScheduleSummary,
};
use naq_protocol::{AuditAction, JobId, QueueName, Schedule, ScheduleId, Timestamp};

/// Maximum number of schedules in an answer.
const SCHEDULES_MAX: usize = 10_000;

const SCHEDULE: Parameter = path("schedule", "Name of the schedule", "nightly");

const IF_NONE_MATCH: Parameter = route::header(
    "If-None-Match",
    "`*`: create the schedule, and replace nothing. A reader sends the version that it has",
    "*",
);

const IF_MATCH: Parameter = route::header(
    "If-Match",
    "The version that is replaced, as the header `ETag` of an answer has it; `*` for any. The ticks of a schedule \
     do not count as a change",
    "\"17-1f0c3a5e7b9d2468\"",
);

pub(super) const ROUTES: &[Route] = &[
    Route::get("/api/schedules", Right::View, "List schedules", |method| {
        on(method, list)
    })
    .parameters(&[query("queue", "Only schedules of this queue", "build")])
    .answers(&[json(200, "The schedules, by name", schema_of::<Schedules>)])
    .problems(&[&problem::BAD_REQUEST]),
    Route::get(
        "/api/schedules/{schedule}",
        Right::View,
        "Show a schedule",
        |method| on(method, show),
    )
    .parameters(&[SCHEDULE, IF_NONE_MATCH])
    .answers(&[
        json(
            200,
            "The schedule; the header `ETag` has its version",
            schema_of::<ScheduleState>,
        ),
        empty(304, "The sender has this version (`If-None-Match`)"),
    ])
    .problems(&[&problem::BAD_REQUEST, &problem::NOT_FOUND]),
    Route::put(
        "/api/schedules/{schedule}",
        Right::Submit,
        "Create a schedule, or replace its definition; its history stays",
        |method| on(method, put),
    )
    .audited(AuditAction::ScheduleAdd)
    .parameters(&[SCHEDULE, IF_MATCH, IF_NONE_MATCH, DRY_RUN])
    .body(schema_of::<ScheduleDefinition>)
    .answers(&[
        json(
            200,
            "The schedule is replaced, or had this definition already, or `dry_run` was given",
            schema_of::<ScheduleState>,
        ),
        json(201, "The schedule is created", schema_of::<ScheduleState>),
    ])
    .problems(&[
        &problem::BAD_REQUEST,
        &problem::PRECONDITION_FAILED,
        &problem::TOO_LARGE,
        &problem::MEDIA_TYPE,
        &problem::REFUSED,
        &problem::PRECONDITION_REQUIRED,
        &problem::STORAGE_FULL,
    ]),
    Route::delete(
        "/api/schedules/{schedule}",
        Right::Operate,
        "Delete a schedule; jobs that it has enqueued stay",
        |method| on(method, delete),
    )
    .audited(AuditAction::ScheduleDelete)
    .parameters(&[SCHEDULE, IF_MATCH, DRY_RUN])
    .answers(&[empty(
        204,
        "The schedule is deleted, or would be, with `dry_run`",
    )])
    .problems(&[
        &problem::BAD_REQUEST,
        &problem::NOT_FOUND,
        &problem::PRECONDITION_FAILED,
    ]),
    Route::post(
        "/api/schedules/{schedule}/pause",
        Right::Operate,
        "Pause a schedule: it enqueues no more jobs",
        |method| on(method, pause),
    )
    .audited(AuditAction::SchedulePause)
    .parameters(&[SCHEDULE, DRY_RUN])
    .answers(&[json(200, "The schedule", schema_of::<ScheduleState>)])
    .problems(&[
        &problem::BAD_REQUEST,
        &problem::NOT_FOUND,
        &problem::CONFLICT,
    ]),
    Route::post(
        "/api/schedules/{schedule}/resume",
        Right::Operate,
        "Resume a paused schedule; the ticks of the pause are not enqueued",
        |method| on(method, resume),
    )
    .audited(AuditAction::ScheduleResume)
    .parameters(&[SCHEDULE, DRY_RUN])
    .answers(&[json(200, "The schedule", schema_of::<ScheduleState>)])
    .problems(&[
        &problem::BAD_REQUEST,
        &problem::NOT_FOUND,
        &problem::CONFLICT,
    ]),
    Route::post(
        "/api/schedules/{schedule}/trigger",
        Right::Operate,
        "Enqueue a job of a schedule now",
        |method| on(method, trigger),
    )
    .audited(AuditAction::ScheduleTrigger)
    .parameters(&[SCHEDULE, DRY_RUN])
    .answers(&[
        json(
            200,
            "The schedule exists, with `dry_run`",
            schema_of::<Triggered>,
        ),
        json(201, "The new job", schema_of::<Triggered>),
    ])
    .problems(&[&problem::BAD_REQUEST, &problem::NOT_FOUND]),
];

/// All schedules.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "schedules")]
struct Schedules {
    /// The schedules, by name.
    schedules: Vec<ScheduleState>,
    /// The names of stored schedules that cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    unreadable: Vec<ScheduleId>,
    /// Whether more schedules exist than the answer contains.
    is_cut: bool,
}

/// A schedule and its next tick.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "schedule_state")]
struct ScheduleState {
    /// The schedule, without the values of its envelope's variables.
    schedule: Schedule,
    /// The next tick. Absent unless the schedule is active and a scheduler can run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_tick: Option<Timestamp>,
    /// Why the schedule has no ticks, if its stored definition is invalid.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// The command of its jobs, in one line. Absent if the envelope is invalid.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    /// What its user has chosen, as `PUT` takes it. Absent if the envelope is invalid.
    #[serde(skip_serializing_if = "Option::is_none")]
    definition: Option<ScheduleDefinition>,
}

impl ScheduleState {
    fn new(summary: ScheduleSummary) -> ScheduleState {
        let command = summary.command();
        let definition = ScheduleDefinition::of(&summary.schedule);
        let mut schedule = summary.schedule;
        if let Some(hidden) = hide_values(&schedule.envelope) {
            schedule.envelope = hidden;
        }
        ScheduleState {
            schedule,
            next_tick: summary.next_run,
            problem: summary.problem,
            command,
            definition,
        }
    }
}

/// A job that a schedule enqueued on request.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "triggered")]
struct Triggered {
    /// The job. Absent with `dry_run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<JobId>,
}

async fn list(
    State(web): State<Arc<Web>>,
    Extension(query): Extension<Query>,
) -> Result<Json<Schedules>, Problem> {
    let filter = ScheduleFilter {
        queue: query.parsed("queue", |name| QueueName::new(name))?,
        ..ScheduleFilter::default()
    };
    let mut listed = web.client.list_schedules(&filter).await?;
    let mut answer = Schedules {
        schedules: Vec::new(),
        unreadable: Vec::new(),
        is_cut: false,
    };
    while let Some(schedule) = listed.next().await? {
        if answer.schedules.len() + answer.unreadable.len() == SCHEDULES_MAX {
            answer.is_cut = true;
            break;
        }
        match schedule {
            ListedSchedule::Valid(summary) => answer.schedules.push(ScheduleState::new(*summary)),
            ListedSchedule::Invalid { schedule_id, .. } => answer.unreadable.push(schedule_id),
        }
    }
    let by_name = |state: &ScheduleState| state.schedule.schedule_id.clone();
    answer.schedules.sort_by_cached_key(by_name);
    Ok(Json(answer))
}

async fn show(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = ScheduleId::new(&name)?;
    let Some((schedule, revision)) = web.client.fetch_schedule_revision(&name).await? else {
        return Err(ClientError::NoSuchSchedule(name.to_string()).into());
    };
    let etag = schedule_definition::etag_of(&web.config.tokens, Some(&schedule), revision);
    if is_unchanged(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, etag_header(&etag)).into_response());
    }
    let state = ScheduleState::new(schedule.into());
    Ok((etag_header(&etag), Json(state)).into_response())
}

fn etag_header(etag: &Etag) -> [(header::HeaderName, String); 1] {
    [(header::ETAG, etag.to_string())]
}

async fn put(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    Extension(query): Extension<Query>,
    Extension(tally): Extension<Tally>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let name = ScheduleId::new(&name)?;
    let is_dry = query.is_on("dry_run")?;
    let precondition = Precondition::read(&headers)?;
    check_media_type(&headers)?;
    let definition = ScheduleDefinition::parse(&body)?;
    let (put, etag) =
        schedule_definition::put(&web, &name, &definition, &precondition, is_dry).await?;
    let state = Json(ScheduleState::new(put.schedule.into()));
    if is_dry {
        return Ok(state.into_response());
    }
    let status = match put.outcome {
        AddScheduleOutcome::Created => StatusCode::CREATED,
        AddScheduleOutcome::Replaced => {
            tally.set_action(AuditAction::ScheduleUpdate);
            StatusCode::OK
        }
        AddScheduleOutcome::Unchanged => {
            tally.set_unchanged();
            StatusCode::OK
        }
    };
    let place = format!("{}/api/schedules/{name}", web.base_path());
    let headers = [(header::LOCATION, place), (header::ETAG, etag.to_string())];
    Ok((status, headers, state).into_response())
}

async fn delete(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    Extension(query): Extension<Query>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let name = ScheduleId::new(&name)?;
    let precondition = Precondition::read(&headers)?;
    let is_dry = query.is_on("dry_run")?;
    schedule_definition::delete(&web, &name, &precondition, is_dry).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The state of a schedule, read now.
async fn state_of(web: &Web, name: &ScheduleId) -> Result<Json<ScheduleState>, Problem> {
    match web.client.fetch_schedule(name).await? {
        Some(summary) => Ok(Json(ScheduleState::new(summary))),
        None => Err(ClientError::NoSuchSchedule(name.to_string()).into()),
    }
}

async fn pause(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    Extension(query): Extension<Query>,
) -> Result<Json<ScheduleState>, Problem> {
    let name = ScheduleId::new(&name)?;
    if !query.is_on("dry_run")? {
        web.client.pause_schedule(&name).await?;
    }
    state_of(&web, &name).await
}

async fn resume(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    Extension(query): Extension<Query>,
) -> Result<Json<ScheduleState>, Problem> {
    let name = ScheduleId::new(&name)?;
    if !query.is_on("dry_run")? {
        web.client.resume_schedule(&name).await?;
    }
    state_of(&web, &name).await
}

async fn trigger(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    Extension(query): Extension<Query>,
) -> Result<Response, Problem> {
    let name = ScheduleId::new(&name)?;
    if query.is_on("dry_run")? {
        let _exists = state_of(&web, &name).await?;
        return Ok(Json(Triggered { job_id: None }).into_response());
    }
    let job_id = web.client.trigger_schedule(&name).await?;
    let place = format!("{}/api/jobs/{job_id}", web.base_path());
    let body = Json(Triggered {
        job_id: Some(job_id),
    });
    Ok((StatusCode::CREATED, [(header::LOCATION, place)], body).into_response())
}
