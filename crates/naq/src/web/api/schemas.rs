//! The JSON Schemas of the wire types.

use axum::extract::{Path, RawQuery};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::parameters::Query;
use crate::web::access::Right;
use crate::web::problem::{self, Problem};
use crate::web::route::{Route, other, path};
use naq_protocol::{SCHEMAS, schema};

pub(super) const ROUTES: &[Route] = &[Route {
    method: "GET",
    path: "/schemas/{name}",
    right: Some(Right::View),
    summary: "Show the JSON Schema of a wire type",
    parameters: &[path(
        "name",
        "envelope, record, schedule, worker or scheduler",
        "envelope",
    )],
    body: None,
    answers: &[other(200, "The schema", "application/schema+json")],
    problems: &[&problem::BAD_REQUEST, &problem::NOT_FOUND],
    is_stream: false,
    handler: || get(show),
}];

async fn show(Path(name): Path<String>, query: RawQuery) -> Result<Response, Problem> {
    Query::parse(query, &[])?;
    match schema(&name) {
        Some(text) => {
            Ok(([(header::CONTENT_TYPE, "application/schema+json")], text).into_response())
        }
        None => {
            let name = naq_protocol::escape(&name);
            let detail = format!(
                "there is no schema `{name}`; there are {}",
                SCHEMAS.join(", ")
            );
            Err(Problem::new(&problem::NOT_FOUND, detail))
        }
    }
}
