//! Workers.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use axum::{Extension, Json};
use serde::Serialize;

use super::parameters::{DRY_RUN, Query};
use crate::web::access::Right;
use crate::web::problem::{self, Problem};
use crate::web::route::{Parameter, Route, json, path, schema_of};
use crate::web::state::Web;
use naq_protocol::{AuditAction, WorkerInfo};

const WORKER: Parameter = path(
    "worker",
    "Id of the worker, or its name if no other worker has it",
    "host-1",
);

pub(super) const ROUTES: &[Route] = &[
    Route::get(
        "/api/workers",
        Right::View,
        "List workers whose last heartbeat has not expired",
        |method| on(method, list),
    )
    .answers(&[json(200, "The workers", schema_of::<Workers>)]),
    Route::get(
        "/api/workers/{worker}",
        Right::View,
        "Show a worker",
        |method| on(method, show),
    )
    .parameters(&[WORKER])
    .answers(&[json(200, "The worker", schema_of::<WorkerInfo>)])
    .problems(&[&problem::NOT_FOUND]),
    Route::post(
        "/api/workers/{worker}/drain",
        Right::Operate,
        "Drain a worker: it starts no more jobs, lets those that run finish, and exits",
        |method| on(method, drain),
    )
    .audited(AuditAction::WorkerDrain)
    .parameters(&[WORKER, DRY_RUN])
    .answers(&[
        json(
            200,
            "The worker exists, with `dry_run`",
            schema_of::<Draining>,
        ),
        json(202, "The worker is asked to drain", schema_of::<Draining>),
    ])
    .problems(&[&problem::BAD_REQUEST, &problem::NOT_FOUND]),
];

/// A worker that is asked to drain.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "draining")]
struct Draining {
    /// The worker.
    worker_id: String,
    /// Its name.
    name: String,
    /// How many jobs it ran at its last heartbeat.
    running: u32,
    /// Whether the worker has received the request. If not, it reads it when it is connected again. Absent with
    /// `dry_run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    acknowledged: Option<bool>,
}

impl Draining {
    fn new(worker: WorkerInfo, acknowledged: Option<bool>) -> Draining {
        Draining {
            worker_id: worker.worker_id,
            name: worker.name,
            running: worker.running,
            acknowledged,
        }
    }
}

/// All workers.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "workers")]
struct Workers {
    /// The workers, by name.
    workers: Vec<WorkerInfo>,
}

async fn list(State(web): State<Arc<Web>>) -> Result<Json<Workers>, Problem> {
    let workers = web.client.list_workers().await?;
    Ok(Json(Workers { workers }))
}

async fn show(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
) -> Result<Json<WorkerInfo>, Problem> {
    Ok(Json(web.client.fetch_worker(&id).await?))
}

async fn drain(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    Extension(query): Extension<Query>,
) -> Result<Response, Problem> {
    if query.is_on("dry_run")? {
        let worker = web.client.fetch_worker(&id).await?;
        return Ok(Json(Draining::new(worker, None)).into_response());
    }
    let requested = web.client.drain_worker(&id).await?;
    let draining = Draining::new(requested.worker, Some(requested.acknowledged));
    Ok((StatusCode::ACCEPTED, Json(draining)).into_response())
}
