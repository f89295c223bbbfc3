//! Pages about kinds of errors, at the addresses in `type` of an error.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

use crate::web::problem::{self, Problem};
use crate::web::sentence::pieces;
use crate::web::state::Web;

pub(in crate::web) async fn show(
    State(web): State<Arc<Web>>,
    Path(slug): Path<String>,
) -> Response {
    let Some(kind) = problem::ALL.iter().find(|kind| kind.slug == slug) else {
        return web.error_page(&Problem::new(&problem::NOT_FOUND, "there is no such error"));
    };
    let mut context = tera::Context::new();
    context.insert("title", kind.title);
    context.insert("detail", &pieces(&format!("Status code {}", kind.status)));
    context.insert("text", kind.text);
    web.page(StatusCode::OK, "error.html", &context)
}
