//! The JSON Schemas of the wire types.

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::on;

use crate::web::access::Right;
use crate::web::problem::{self, Problem};
use crate::web::route::{Route, other, path};
use naq_protocol::{SCHEMAS, schema};

pub(super) const ROUTES: &[Route] = &[Route::get(
    "/schemas/{schema}",
    Right::View,
    "Show the JSON Schema of a wire type",
    |method| on(method, show),
)
.parameters(&[path(
    "schema",
    "envelope, record, schedule, worker or scheduler",
    "envelope",
)])
.answers(&[other(200, "The schema", "application/schema+json")])
.problems(&[&problem::BAD_REQUEST, &problem::NOT_FOUND])];

async fn show(Path(name): Path<String>) -> Result<Response, Problem> {
    match schema(&name) {
        Some(text) => {
            Ok(([(header::CONTENT_TYPE, "application/schema+json")], text).into_response())
        }
        None => {
            let name = naq_protocol::escape(&name);
            let detail = format!(
                "there is no schema `{name}`; the schemas are {}",
                SCHEMAS.join(", ")
            );
            Err(Problem::new(&problem::NOT_FOUND, detail))
        }
    }
}
