//! What monitors ask. The answers contain nothing about jobs, so they need no token.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use serde::Serialize;

use crate::web::problem::{self, Problem};
use crate::web::route::{Route, json, schema_of};
use crate::web::state::Web;

/// How long NATS may take to answer.
const READY_MAX: Duration = Duration::from_secs(2);

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/healthz",
        right: None,
        summary: "Whether this process serves requests",
        parameters: &[],
        body: None,
        answers: &[json(200, "It does", schema_of::<Health>)],
        problems: &[],
        is_stream: false,
        handler: || get(health),
    },
    Route {
        method: "GET",
        path: "/readyz",
        right: None,
        summary: "Whether NATS answers",
        parameters: &[],
        body: None,
        answers: &[json(200, "It does", schema_of::<Health>)],
        problems: &[&problem::UNAVAILABLE],
        is_stream: false,
        handler: || get(ready),
    },
];

/// The state of this process.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "health")]
struct Health {
    /// Always `ok`: anything else is an error.
    status: &'static str,
}

async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

async fn ready(State(web): State<Arc<Web>>) -> Result<Json<Health>, Problem> {
    let answer = tokio::time::timeout(READY_MAX, web.client.measure_clock_skew()).await;
    match answer {
        Ok(Ok(_)) => Ok(Json(Health { status: "ok" })),
        // the reason would tell anyone where NATS is
        Ok(Err(_)) | Err(_) => Err(Problem::new(&problem::UNAVAILABLE, "NATS does not answer")),
    }
}
