//! The audit: who changed what.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use axum::{Extension, Json};
use serde::Serialize;

use super::jobs::next_link;
use super::parameters::{Query, limit};
use crate::clock;
use crate::web::access::Right;
use crate::web::filter::Since;
use crate::web::problem::{self, Problem};
use crate::web::route::{Route, json, query, schema_of};
use crate::web::state::Web;
use naq_client::{AuditFilter, AuditPage, AuditRecord};
use naq_protocol::JobId;

/// Entries in a page unless the request says otherwise.
const LIMIT_DEFAULT: usize = 100;

/// Most entries in a page.
const LIMIT_MAX: usize = 500;

/// Entries that are read for a page: if few of them match, the page is short, and `next` continues.
const READ_MAX: usize = 10_000;

pub(super) const ROUTES: &[Route] = &[Route::get(
    "/api/audit",
    Right::Operate,
    "List who changed what, the latest change first",
    |method| on(method, list),
)
.parameters(&[
    query(
        "action",
        "Only this action; its noun or its verb alone selects several",
        "queue.purge",
    ),
    query(
        "who",
        "Only changes by this token, or this user of the operating system",
        "anna",
    ),
    query("job", "Only changes of this job", "backup-1"),
    query(
        "since",
        "Only changes since: a time, or a duration before now",
        "2h",
    ),
    query("limit", "Most entries in the answer, 1 to 500", "100"),
    query("cursor", "`next` of an earlier answer", "").of_schema("audit_cursor"),
])
.answers(&[json(200, "A page of the audit", schema_of::<Audit>)])
.problems(&[&problem::BAD_REQUEST])];

/// A page of the audit.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "audit")]
struct Audit {
    /// The entries, the latest first.
    entries: Vec<AuditRecord>,
    /// The value of `cursor` for the next page. Absent means that this is the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The filter that parameters describe; an empty value is as if it were absent.
pub(in crate::web) fn filter(query: &Query) -> Result<AuditFilter, Problem> {
    let since: Option<Since> = query.parsed_unless_empty("since", str::parse)?;
    let who = query.one("who")?.filter(|who| !who.is_empty());
    Ok(AuditFilter {
        since: since.map(|since| since.moment(clock::now())),
        action: query.parsed_unless_empty("action", str::parse)?,
        who: who.map(str::to_owned),
        job: query.one("job")?.map(JobId::new).transpose()?,
    })
}

/// The place of a page; an empty value is the first one.
pub(in crate::web) fn cursor(query: &Query) -> Result<Option<u64>, Problem> {
    let parse = |text: &str| text.parse().map_err(|_| "it is not `next` of an answer");
    query.parsed_unless_empty("cursor", parse)
}

/// Reads a page.
pub(in crate::web) async fn read_page(
    web: &Web,
    query: &Query,
    limit: usize,
) -> Result<AuditPage, Problem> {
    let (filter, before) = (filter(query)?, cursor(query)?);
    let list = web.client.list_audit(&filter, before).await?;
    Ok(list.page(limit, READ_MAX).await?)
}

async fn list(
    State(web): State<Arc<Web>>,
    Extension(query): Extension<Query>,
) -> Result<Response, Problem> {
    let limit = query.parsed("limit", |text| limit(text, LIMIT_MAX))?;
    let page = read_page(&web, &query, limit.unwrap_or(LIMIT_DEFAULT)).await?;
    let next = page.next.map(|next| next.to_string());
    let link = next.as_deref().and_then(next_link);
    let entries = page.entries;
    let mut response = Json(Audit { entries, next }).into_response();
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}
