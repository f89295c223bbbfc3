//! Schedules.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;

use super::jobs::hide_values;
use super::parameters::Query;
use crate::web::access::Right;
use crate::web::problem::{self, Problem};
use crate::web::route::{Parameter, Route, json, path, query, schema_of};
use crate::web::state::Web;
use naq_client::{ClientError, ListedSchedule, ScheduleFilter, ScheduleSummary};
use naq_protocol::{JobId, QueueName, Schedule, ScheduleId, Timestamp};

/// Most schedules in an answer.
const SCHEDULES_MAX: usize = 10_000;

const SCHEDULE: Parameter = path("schedule", "Name of the schedule", "nightly");
const DRY_RUN: Parameter = query("dry_run", "Check the request, and change nothing", "true");

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/api/schedules",
        right: Some(Right::View),
        summary: "List schedules",
        parameters: &[query("queue", "Only schedules of this queue", "build")],
        body: None,
        answers: &[json(200, "The schedules, by name", schema_of::<Schedules>)],
        problems: &[&problem::BAD_REQUEST],
        is_stream: false,
        handler: || get(list),
    },
    Route {
        method: "GET",
        path: "/api/schedules/{schedule}",
        right: Some(Right::View),
        summary: "Show a schedule",
        parameters: &[SCHEDULE],
        body: None,
        answers: &[json(200, "The schedule", schema_of::<ScheduleState>)],
        problems: &[&problem::BAD_REQUEST, &problem::NOT_FOUND],
        is_stream: false,
        handler: || get(show),
    },
    Route {
        method: "POST",
        path: "/api/schedules/{schedule}/pause",
        right: Some(Right::Operate),
        summary: "Pause a schedule: it enqueues no more jobs",
        parameters: &[SCHEDULE, DRY_RUN],
        body: None,
        answers: &[json(200, "The schedule", schema_of::<ScheduleState>)],
        problems: &[
            &problem::BAD_REQUEST,
            &problem::NOT_FOUND,
            &problem::CONFLICT,
        ],
        is_stream: false,
        handler: || post(pause),
    },
    Route {
        method: "POST",
        path: "/api/schedules/{schedule}/resume",
        right: Some(Right::Operate),
        summary: "Resume a paused schedule; the ticks of the pause are not enqueued",
        parameters: &[SCHEDULE, DRY_RUN],
        body: None,
        answers: &[json(200, "The schedule", schema_of::<ScheduleState>)],
        problems: &[
            &problem::BAD_REQUEST,
            &problem::NOT_FOUND,
            &problem::CONFLICT,
        ],
        is_stream: false,
        handler: || post(resume),
    },
    Route {
        method: "POST",
        path: "/api/schedules/{schedule}/trigger",
        right: Some(Right::Operate),
        summary: "Enqueue a job of a schedule now",
        parameters: &[SCHEDULE, DRY_RUN],
        body: None,
        answers: &[
            json(
                200,
                "The schedule exists, with `dry_run`",
                schema_of::<Triggered>,
            ),
            json(201, "The new job", schema_of::<Triggered>),
        ],
        problems: &[&problem::BAD_REQUEST, &problem::NOT_FOUND],
        is_stream: false,
        handler: || post(trigger),
    },
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
    /// Whether there are more than the answer has.
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
    /// What its jobs run, in one line. Absent if the envelope is invalid.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
}

impl ScheduleState {
    fn new(summary: ScheduleSummary) -> ScheduleState {
        let command = summary.command();
        let mut schedule = summary.schedule;
        if let Some(hidden) = hide_values(&schedule.envelope) {
            schedule.envelope = hidden;
        }
        ScheduleState {
            schedule,
            next_tick: summary.next_run,
            problem: summary.problem,
            command,
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

async fn list(State(web): State<Arc<Web>>, query: RawQuery) -> Result<Json<Schedules>, Problem> {
    let query = Query::parse(query, &["queue"])?;
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
    query: RawQuery,
) -> Result<Json<ScheduleState>, Problem> {
    Query::parse(query, &[])?;
    state_of(&web, &ScheduleId::new(&name)?).await
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
    query: RawQuery,
) -> Result<Json<ScheduleState>, Problem> {
    let name = ScheduleId::new(&name)?;
    if !Query::parse(query, &["dry_run"])?.is_on("dry_run")? {
        web.client.pause_schedule(&name).await?;
    }
    state_of(&web, &name).await
}

async fn resume(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    query: RawQuery,
) -> Result<Json<ScheduleState>, Problem> {
    let name = ScheduleId::new(&name)?;
    if !Query::parse(query, &["dry_run"])?.is_on("dry_run")? {
        web.client.resume_schedule(&name).await?;
    }
    state_of(&web, &name).await
}

async fn trigger(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    query: RawQuery,
) -> Result<Response, Problem> {
    let name = ScheduleId::new(&name)?;
    if Query::parse(query, &["dry_run"])?.is_on("dry_run")? {
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
