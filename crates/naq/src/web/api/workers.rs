//! Workers.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::routing::get;
use serde::Serialize;

use super::parameters::Query;
use crate::web::access::Right;
use crate::web::problem::{self, Problem};
use crate::web::route::{Route, json, path, schema_of};
use crate::web::state::Web;
use naq_protocol::WorkerInfo;

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/api/workers",
        right: Some(Right::View),
        summary: "List workers whose last heartbeat has not expired",
        parameters: &[],
        body: None,
        answers: &[json(200, "The workers", schema_of::<Workers>)],
        problems: &[],
        is_stream: false,
        handler: || get(list),
    },
    Route {
        method: "GET",
        path: "/api/workers/{worker}",
        right: Some(Right::View),
        summary: "Show a worker",
        parameters: &[path(
            "worker",
            "Id of the worker, or its name if no other worker has it",
            "host-1",
        )],
        body: None,
        answers: &[json(200, "The worker", schema_of::<WorkerInfo>)],
        problems: &[&problem::NOT_FOUND],
        is_stream: false,
        handler: || get(show),
    },
];

/// All workers.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "workers")]
struct Workers {
    /// The workers, by name.
    workers: Vec<WorkerInfo>,
}

async fn list(State(web): State<Arc<Web>>, query: RawQuery) -> Result<Json<Workers>, Problem> {
    Query::parse(query, &[])?;
    let workers = web.client.list_workers().await?;
    Ok(Json(Workers { workers }))
}

async fn show(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    query: RawQuery,
) -> Result<Json<WorkerInfo>, Problem> {
    Query::parse(query, &[])?;
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
