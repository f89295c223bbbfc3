//! What monitors ask. The answers contain nothing about jobs, so they need no token.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use serde::Serialize;

use crate::metrics::Format;
use crate::web::access::Right;
use crate::web::guard::authorize;
use crate::web::problem::{self, Problem};
use crate::web::route::{Route, json, other, schema_of};
use crate::web::state::Web;

/// Time limit for NATS to answer.
const READY_MAX: Duration = Duration::from_secs(2);

pub(super) const ROUTES: &[Route] = &[
    Route::get(
        "/healthz",
        Right::View,
        "Whether this process serves requests",
        |method| on(method, health),
    )
    .without_token()
    .answers(&[json(200, "It does", schema_of::<Health>)]),
    Route::get("/readyz", Right::View, "Whether NATS answers", |method| {
        on(method, ready)
    })
    .without_token()
    .answers(&[json(200, "It does", schema_of::<Health>)])
    .problems(&[&problem::UNAVAILABLE]),
    Route::get(
        "/metrics",
        Right::View,
        "Metrics for Prometheus; they need a token unless the dashboard is for its machine alone",
        |method| on(method, metrics),
    )
    .without_token()
    .answers(&[other(200, "The metrics", "text/plain")])
    .problems(&[&problem::UNAUTHENTICATED]),
];

/// The state of this process.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "health")]
struct Health {
    /// Always `ok`. Any other state is an error.
    status: &'static str,
}

async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

async fn ready(State(web): State<Arc<Web>>) -> Result<Json<Health>, Problem> {
    let answer = tokio::time::timeout(READY_MAX, web.client.measure_clock_skew()).await;
    match answer {
        Ok(Ok(_)) => Ok(Json(Health { status: "ok" })),
        // the reason would reveal the address of NATS to everyone
        Ok(Err(_)) | Err(_) => Err(Problem::new(&problem::UNAVAILABLE, "NATS does not answer")),
    }
}

/// Behind a proxy, everyone who can reach the proxy could read the metrics, so a token is required.
async fn metrics(State(web): State<Arc<Web>>, parts: Parts) -> Result<Response, Problem> {
    if !web.metrics.is_open {
        authorize(&web, &parts, Right::View)?;
    }
    let accept = parts.headers.get(header::ACCEPT);
    let format = Format::accepted(accept.and_then(|value| value.to_str().ok()));
    let text = web
        .metrics
        .answer(
            &web.client,
            &web.live,
            web.index.as_deref(),
            web.streams.count(),
            format,
        )
        .await;
    Ok(([(header::CONTENT_TYPE, format.media_type())], text).into_response())
}
