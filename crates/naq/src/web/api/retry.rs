//! Running an ended job again, with the same envelope or with changes to it.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Serialize;

use super::jobs::JOB;
use super::parameters::{DRY_RUN, Query};
use super::submit::{check_envelope, check_media_type, media_type};
use crate::web::access::{Identity, Right};
use crate::web::problem::{self, Problem, ProblemKind};
use crate::web::route::{Answer, Route, json, schema_of};
use crate::web::state::Web;
use naq_client::Rerun;
use naq_protocol::{AuditAction, JobId, merge_patch};

/// The type of a JSON merge patch. A patch may also be sent as `application/json`.
const MERGE_PATCH: &str = "application/merge-patch+json";

/// How a retry is answered.
pub(super) const RETRY_ANSWERS: &[Answer] = &[
    json(
        200,
        "What would be enqueued, with `dry_run`",
        schema_of::<Retried>,
    ),
    json(201, "The new job", schema_of::<Retried>),
];

/// How a retry is refused.
pub(super) const RETRY_PROBLEMS: &[&ProblemKind] = &[
    &problem::BAD_REQUEST,
    &problem::NOT_FOUND,
    &problem::CONFLICT,
    &problem::REFUSED,
];

pub(super) const ROUTES: &[Route] = &[Route::post(
    "/api/jobs/{job}/retry",
    Right::Operate,
    "Run an ended job again, as a new job with the same envelope, or with changes to it",
    |method| on(method, retry),
)
.audited(AuditAction::JobRetry)
.parameters(&[JOB, DRY_RUN])
.optional_body(schema_of::<EnvelopeChanges>)
.answers(RETRY_ANSWERS)
.problems(&[
    &problem::BAD_REQUEST,
    &problem::NOT_FOUND,
    &problem::CONFLICT,
    &problem::MEDIA_TYPE,
    &problem::REFUSED,
])];

/// A job that was enqueued again.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "retried")]
pub(super) struct Retried {
    /// The new job.
    pub(super) job_id: JobId,
    /// The job whose envelope it has.
    pub(super) rerun_of: JobId,
}

/// Changes to an envelope, as a JSON merge patch: fields to replace, and `null` for those to remove. This needs the
/// right to submit.
#[derive(JsonSchema)]
#[schemars(rename = "envelope_changes")]
#[expect(dead_code, reason = "only its schema is used")]
struct EnvelopeChanges(serde_json::Map<String, serde_json::Value>);

async fn retry(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    Path(job): Path<String>,
    Extension(query): Extension<Query>,
    headers: HeaderMap,
    changes: Bytes,
) -> Result<Response, Problem> {
    let job = JobId::new(&job)?;
    let is_dry = query.is_on("dry_run")?;
    if !changes.is_empty() {
        check_may_change(&identity)?;
    }
    let mut rerun = web.client.prepare_retry(&job).await?;
    if !changes.is_empty() {
        rerun = changed(rerun, &headers, &changes)?;
    }
    let retried = Retried {
        job_id: rerun.job_id().clone(),
        rerun_of: rerun.rerun_of().clone(),
    };
    if is_dry {
        return Ok(Json(retried).into_response());
    }
    rerun.enqueue().await?;
    let place = format!("{}/api/jobs/{}", web.base_path(), retried.job_id);
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, place)],
        Json(retried),
    )
        .into_response())
}

/// Who can change an envelope can run any command.
fn check_may_change(identity: &Identity) -> Result<(), Problem> {
    if identity.right < Right::Submit {
        let detail = format!(
            "this needs the right `submit`: the body changes the envelope; the token `{}` has `{}`",
            identity.name,
            identity.right.name()
        );
        return Err(Problem::new(&problem::FORBIDDEN, detail));
    }
    Ok(())
}

/// The rerun with changes to its envelope.
fn changed(rerun: Rerun, headers: &HeaderMap, changes: &[u8]) -> Result<Rerun, Problem> {
    if !media_type(headers).eq_ignore_ascii_case(MERGE_PATCH) {
        check_media_type(headers)?;
    }
    let of_envelope = |error| Problem::of_envelope(&error, "");
    let envelope = merge_patch(rerun.envelope(), changes).map_err(of_envelope)?;
    check_envelope(&envelope, "")?;
    Ok(rerun.with_envelope(envelope)?)
}
