//! Times: of cron expressions, of schedules, and of delayed jobs.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing::on;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::jobs::JOB;
use super::parameters::{Query, limit};
use super::submit::parse_object;
use crate::clock;
use crate::web::access::Right;
use crate::web::problem::{self, Problem};
use crate::web::route::{Parameter, Route, json, path, query, schema_of};
use crate::web::state::Web;
use naq_client::{Client, ClientError, Rescheduled};
use naq_core::{SchedulePosition, check_schedule};
use naq_cron::{Cron, Timezone};
use naq_protocol::units::WireDuration;
use naq_protocol::{
    AuditAction, JobId, QueueName, ScheduleId, ScheduleStatus, State as JobState, Timestamp,
};

/// Default number of times in an answer.
const COUNT_DEFAULT: usize = 5;

/// Maximum number of times in an answer.
const COUNT_MAX: usize = 1_000;

const COUNT: Parameter = query("count", "Number of times, 1 to 1000", "5");

pub(super) const ROUTES: &[Route] = &[
    Route::get(
        "/api/cron/explain",
        Right::View,
        "Explain a cron expression, and name its coming times",
        |method| on(method, explain),
    )
    .parameters(&[
        query("expr", "The cron expression", "30 3 * * 1-5").required(),
        query("tz", "Its time zone; UTC if absent", "Europe/Berlin"),
        COUNT,
    ])
    .answers(&[json(200, "What it means", schema_of::<CronExplanation>)])
    .problems(&[&problem::BAD_REQUEST, &problem::REFUSED]),
    Route::get(
        "/api/schedules/{schedule}/next",
        Right::View,
        "Name the coming ticks of a schedule",
        |method| on(method, next),
    )
    .parameters(&[path("schedule", "Name of the schedule", "nightly"), COUNT])
    .answers(&[json(
        200,
        "The ticks; none if the schedule is paused or has ended",
        schema_of::<Ticks>,
    )])
    .problems(&[
        &problem::BAD_REQUEST,
        &problem::NOT_FOUND,
        &problem::REFUSED,
    ]),
    Route::post(
        "/api/jobs/{job}/reschedule",
        Right::Operate,
        "Reschedule a delayed job, or the next attempt of a job; it starts at once \
         if the time has passed",
        |method| on(method, reschedule),
    )
    .audited(AuditAction::JobReschedule)
    .parameters(&[
        JOB,
        query("dry_run", "Check the request, and change nothing", "true"),
    ])
    .body(schema_of::<NewStart>)
    .answers(&[json(200, "When the job starts", schema_of::<StartOfJob>)])
    .problems(&[
        &problem::BAD_REQUEST,
        &problem::NOT_FOUND,
        &problem::CONFLICT,
        &problem::MEDIA_TYPE,
        &problem::REFUSED,
    ]),
];

/// A time, in UTC and in a time zone.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "zoned_time")]
pub(super) struct ZonedTime {
    /// In UTC.
    utc: Timestamp,
    /// In the zone of the expression or the schedule, with its offset.
    local: String,
}

impl ZonedTime {
    pub(super) fn new(utc: Timestamp, zone: Timezone) -> ZonedTime {
        ZonedTime {
            local: zone.format(utc.0),
            utc,
        }
    }
}

/// What a cron expression means.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "cron_explanation")]
struct CronExplanation {
    /// The expression.
    cron: String,
    /// Its time zone.
    tz: String,
    /// What it means, in a sentence.
    explanation: String,
    /// The next times that it matches.
    next: Vec<ZonedTime>,
}

/// The next ticks of a schedule.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "ticks")]
struct Ticks {
    /// The schedule.
    schedule_id: ScheduleId,
    /// Its time zone.
    tz: String,
    /// The ticks, without their jitter.
    next: Vec<ZonedTime>,
}

/// When a job is to start: either field.
#[derive(Deserialize, schemars::JsonSchema)]
#[schemars(
    rename = "new_start",
    extend("oneOf" = [
        {"required": ["at"], "properties": {"at": {"type": "string"}}},
        {"required": ["in"], "properties": {"in": {"type": ["string", "number"]}}},
    ])
)]
#[serde(deny_unknown_fields)]
struct NewStart {
    /// At this time.
    #[serde(default)]
    at: Option<Timestamp>,
    /// After this time from now.
    #[serde(default)]
    r#in: Option<WireDuration>,
}

/// When a job starts.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "start_of_job")]
struct StartOfJob {
    /// The job.
    job_id: JobId,
    /// Its queue.
    queue: QueueName,
    /// `scheduled`, `retrying` or `queued`.
    state: JobState,
    /// When it starts. Absent if it is in its queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<Timestamp>,
    /// Whether it is paused: then it does not start before it is resumed.
    paused: bool,
}

fn read_count(query: &Query) -> Result<usize, Problem> {
    let count = query.parsed("count", |text| limit(text, COUNT_MAX))?;
    Ok(count.unwrap_or(COUNT_DEFAULT))
}

fn refused(name: &str, error: impl std::fmt::Display) -> Problem {
    Problem::new(&problem::REFUSED, format!("{name}: {error}"))
}

async fn explain(Extension(query): Extension<Query>) -> Result<Json<CronExplanation>, Problem> {
    let Some(text) = query.one("expr")? else {
        return Err(Problem::parameter("expr", "missing"));
    };
    let cron = Cron::parse(text).map_err(|error| refused("expr", error))?;
    let zone: Timezone = match query.one("tz")? {
        Some(name) => name.parse().map_err(|error| refused("tz", error))?,
        None => Timezone::UTC,
    };
    let count = read_count(&query)?;
    let mut next = Vec::new();
    let mut last = clock::now().0;
    while next.len() < count
        && let Some(time) = cron.next_after(last, zone)
    {
        next.push(ZonedTime::new(Timestamp(time), zone));
        last = time;
    }
    Ok(Json(CronExplanation {
        cron: cron.as_str().to_owned(),
        tz: zone.name().to_owned(),
        explanation: cron.explain(),
        next,
    }))
}

async fn next(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    Extension(query): Extension<Query>,
) -> Result<Json<Ticks>, Problem> {
    let name = ScheduleId::new(&name)?;
    let count = read_count(&query)?;
    let Some(summary) = web.client.fetch_schedule(&name).await? else {
        return Err(ClientError::NoSuchSchedule(name.to_string()).into());
    };
    let schedule = &summary.schedule;
    let plan = check_schedule(schedule).map_err(|error| refused("schedule", error))?;
    let zone: Timezone = schedule
        .tz
        .as_deref()
        .and_then(|name| name.parse().ok())
        .unwrap_or_default();
    let left = schedule
        .repeat
        .map(|repeat| repeat.saturating_sub(schedule.progress.runs));
    let left = left
        .and_then(|left| usize::try_from(left).ok())
        .unwrap_or(usize::MAX);
    let mut next = Vec::new();
    let mut tick = match schedule.status {
        ScheduleStatus::Active => plan.next(&SchedulePosition::from_schedule(schedule)),
        _ => None,
    };
    while let Some(time) = tick.filter(|_| next.len() < count.min(left)) {
        next.push(ZonedTime::new(time, zone));
        tick = plan.tick_after(time);
    }
    Ok(Json(Ticks {
        schedule_id: name,
        tz: zone.name().to_owned(),
        next,
    }))
}

/// When a job starts that can be rescheduled.
async fn present_start(client: &Client, job: &JobId) -> Result<Rescheduled, ClientError> {
    let record = client.fetch_job(job).await?;
    match (record.state(), record.next_attempt_at()) {
        (JobState::Retrying, Some(due)) => Ok(Rescheduled::Retrying {
            queue: record.queue,
            due,
        }),
        _ => Ok(Rescheduled::Delayed(Box::new(
            client.fetch_delayed_job(job).await?,
        ))),
    }
}

async fn reschedule(
    State(web): State<Arc<Web>>,
    Path(job): Path<String>,
    Extension(query): Extension<Query>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<StartOfJob>, Problem> {
    let job = JobId::new(&job)?;
    let is_dry = query.is_on("dry_run")?;
    let wanted: NewStart = parse_object(&headers, &body)?;
    let due = match (wanted.at, wanted.r#in) {
        (Some(at), None) => at,
        (None, Some(delay)) => {
            let now = clock::now();
            naq_core::delay_for(delay.0, None, now).map_err(ClientError::InvalidDueTime)?;
            clock::saturating_add(now, delay.0)
        }
        _ => {
            let detail = "the body must have either `at` or `in`";
            return Err(Problem::new(&problem::REFUSED, detail));
        }
    };
    let start = match is_dry {
        true => present_start(&web.client, &job).await?,
        false => web.client.reschedule_delayed_job(&job, due).await?,
    };
    Ok(Json(match start {
        Rescheduled::Delayed(delayed) => StartOfJob {
            job_id: job,
            queue: delayed.queue,
            state: JobState::Scheduled,
            due: delayed.due,
            paused: delayed.paused,
        },
        Rescheduled::Retrying { queue, due } => StartOfJob {
            job_id: job,
            queue,
            state: JobState::Retrying,
            due: Some(due),
            paused: false,
        },
        Rescheduled::Queued { queue } => StartOfJob {
            job_id: job,
            queue,
            state: JobState::Queued,
            due: None,
            paused: false,
        },
    }))
}
