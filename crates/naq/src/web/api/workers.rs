//! Workers.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::routing::on;
use serde::Serialize;

use crate::web::access::Right;
use crate::web::problem::{self, Problem};
use crate::web::route::{Route, json, path, schema_of};
use crate::web::state::Web;
use naq_protocol::WorkerInfo;

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
    .parameters(&[path(
        "worker",
        "Id of the worker, or its name if no other worker has it",
        "host-1",
    )])
    .answers(&[json(200, "The worker", schema_of::<WorkerInfo>)])
    .problems(&[&problem::NOT_FOUND]),
];

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
    let workers = web.client.list_workers().await?;
    let by_id = workers.iter().find(|worker| worker.worker_id == id);
    let mut by_name = workers.iter().filter(|worker| worker.name == id);
    let found = match (by_id, by_name.next(), by_name.next()) {
        (Some(worker), ..) | (None, Some(worker), None) => worker,
        (None, None, _) => {
            let detail = format!("there is no worker `{}`", naq_protocol::escape(&id));
            return Err(Problem::new(&problem::NOT_FOUND, detail));
        }
        (None, Some(_), Some(_)) => {
            let detail = format!(
                "several workers are named `{}`; give an id",
                naq_protocol::escape(&id)
            );
            return Err(Problem::new(&problem::NOT_FOUND, detail));
        }
    };
    Ok(Json(found.clone()))
}
