//! Backfills of schedules.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::parameters::{DRY_RUN, Query};
use super::submit::parse_object;
use super::times::ZonedTime;
use crate::clock;
use crate::web::access::Right;
use crate::web::audit::Tally;
use crate::web::problem::{self, Problem};
use crate::web::route::{Route, json, path, schema_of};
use crate::web::state::Web;
use naq_client::{BACKFILL_TICKS_DEFAULT, Backfill, BackfillOrder, BackfillRange};
use naq_protocol::{AuditAction, JobId, QueueName, ScheduleId, Timestamp};

pub(super) const ROUTES: &[Route] = &[Route::post(
    "/api/schedules/{schedule}/backfill",
    Right::Operate,
    "Enqueue the runs that a schedule would have had in a range of the past",
    |method| on(method, backfill),
)
.audited(AuditAction::ScheduleBackfill)
.parameters(&[path("schedule", "Name of the schedule", "nightly"), DRY_RUN])
.body(schema_of::<NewBackfill>)
.answers(&[
    json(
        200,
        "Nothing is new, or `dry_run` was given",
        schema_of::<BackfillState>,
    ),
    json(201, "Jobs are enqueued", schema_of::<BackfillState>),
])
.problems(&[
    &problem::BAD_REQUEST,
    &problem::NOT_FOUND,
    &problem::TOO_LARGE,
    &problem::MEDIA_TYPE,
    &problem::REFUSED,
    &problem::STORAGE_FULL,
])];

/// A range of the past.
#[derive(Deserialize, schemars::JsonSchema)]
#[schemars(rename = "new_backfill")]
#[serde(deny_unknown_fields)]
struct NewBackfill {
    /// The earliest tick is at this time or after it.
    from: Timestamp,
    /// Every tick is before this time, which is not in the future; now if absent.
    #[serde(default)]
    to: Option<Timestamp>,
    /// The most ticks; 100 if absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<usize>,
    /// The ticks that are enqueued first, and taken if there are more than `limit`; `oldest` if absent.
    #[serde(default)]
    order: Option<Order>,
}

/// Which ticks come first.
#[derive(Clone, Copy, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "backfill_order", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
enum Order {
    /// The earliest.
    Oldest,
    /// The latest.
    Newest,
}

/// The runs of a backfill.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "backfill")]
struct BackfillState {
    /// The schedule.
    schedule_id: ScheduleId,
    /// The queue of its jobs.
    queue: QueueName,
    /// The value of the label `backfill` of the enqueued jobs. Absent if none was enqueued.
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    /// How many jobs were enqueued, or would be, with `dry_run`.
    enqueued: usize,
    /// The runs, in the order in which they are enqueued.
    runs: Vec<Run>,
    /// How many more ticks the range has.
    more: u64,
    /// Whether `more` is a lower bound.
    more_is_minimum: bool,
    /// The range that a further request covers. Absent if the range has no more ticks.
    #[serde(skip_serializing_if = "Option::is_none")]
    rest: Option<Rest>,
}

/// A run of a backfill.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "backfill_run")]
struct Run {
    /// The tick.
    tick: ZonedTime,
    /// The job.
    job_id: JobId,
    /// Whether the job existed before, so that it is not enqueued: the tick has run, or waits to run.
    existed: bool,
}

/// What is left of a range.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "backfill_rest")]
struct Rest {
    /// Its beginning.
    from: Timestamp,
    /// Its end.
    to: Timestamp,
}

impl BackfillState {
    fn new(backfill: Backfill, range: &BackfillRange, is_dry: bool) -> BackfillState {
        let zone = backfill.tz.as_deref();
        let zone = zone.and_then(|name| name.parse().ok()).unwrap_or_default();
        let enqueued = backfill.new_jobs();
        let rest = backfill.rest(range).map(|rest| Rest {
            from: rest.from,
            to: rest.to,
        });
        let runs = backfill.runs.into_iter().map(|run| Run {
            tick: ZonedTime::new(run.tick, zone),
            job_id: run.job_id,
            existed: run.existed,
        });
        BackfillState {
            schedule_id: backfill.schedule_id,
            queue: backfill.queue,
            label: (enqueued > 0 && !is_dry).then_some(backfill.label),
            enqueued,
            runs: runs.collect(),
            more: backfill.more,
            more_is_minimum: backfill.more_is_minimum,
            rest,
        }
    }
}

async fn backfill(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    Extension(query): Extension<Query>,
    Extension(tally): Extension<Tally>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let name = ScheduleId::new(&name)?;
    let is_dry = query.is_on("dry_run")?;
    let wanted: NewBackfill = parse_object(&headers, &body)?;
    let range = BackfillRange {
        from: wanted.from,
        to: wanted.to.unwrap_or_else(clock::now),
        limit: wanted.limit.unwrap_or(BACKFILL_TICKS_DEFAULT),
        order: match wanted.order {
            None | Some(Order::Oldest) => BackfillOrder::Oldest,
            Some(Order::Newest) => BackfillOrder::Newest,
        },
    };
    let backfill = web.client.backfill_schedule(&name, &range, is_dry).await?;
    let status = match backfill.new_jobs() {
        new_jobs if new_jobs > 0 && !is_dry => {
            tally.add(new_jobs as u64);
            StatusCode::CREATED
        }
        _ => {
            tally.set_unchanged();
            StatusCode::OK
        }
    };
    let state = BackfillState::new(backfill, &range, is_dry);
    Ok((status, Json(state)).into_response())
}
