//! The page of the audit: who changed what, how many, and from where.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::choice::{AT_ANY_TIME, PERIODS, choices};
use super::frame::frame;
use crate::clock;
use crate::text::audit::target;
use crate::text::{excerpt, relative_time};
use crate::web::access::Identity;
use crate::web::api::audit::read_page;
use crate::web::api::parameters::{Query, encode};
use crate::web::problem::Problem;
use crate::web::state::Web;
use naq_client::AuditRecord;
use naq_protocol::{AuditAction, JobId, Timestamp, escape};

/// Entries in a page.
const ENTRIES_MAX: usize = 100;

/// Longest text that a cell shows, in characters.
const TEXT_CHARS_MAX: usize = 300;

#[derive(Serialize)]
struct EntryRow {
    at: String,
    /// To the second, in UTC.
    time: String,
    ago: String,
    who: String,
    claimed: bool,
    action: String,
    count: u64,
    /// What was changed, unless it is a job.
    target: String,
    /// The job that was changed, which has a page. Empty if it was not one job.
    job: String,
    from: String,
    via: String,
    /// The client that a proxy named. Empty if there was none.
    client: String,
    error: String,
}

pub(in crate::web) async fn show(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    query: RawQuery,
) -> Response {
    match page(&web, &identity, query).await {
        Ok(context) => web.page(StatusCode::OK, "audit.html", &context),
        Err(problem) => web.error_page(&problem),
    }
}

async fn page(web: &Web, identity: &Identity, query: RawQuery) -> Result<tera::Context, Problem> {
    let query = Query::parse(query, &["action", "who", "job", "since", "cursor"])?;
    let page = read_page(web, &query, ENTRIES_MAX).await?;
    let now = clock::now();
    let rows: Vec<EntryRow> = page.entries.iter().map(|one| row(one, now)).collect();
    let given = |name| Ok::<_, Problem>(query.one(name)?.unwrap_or_default());
    let (action, who, since) = (given("action")?, given("who")?, given("since")?);
    let job = given("job")?;
    let mut filter = String::new();
    for (name, value) in [
        ("action", action),
        ("who", who),
        ("job", job),
        ("since", since),
    ] {
        if !value.is_empty() {
            filter.push_str(&format!("{name}={}&", encode(value)));
        }
    }
    let mut context = frame(identity, "/audit", false);
    context.insert("entries", &rows);
    context.insert("actions", &choices(action, "any action", actions()));
    let periods = choices(since, AT_ANY_TIME, PERIODS.iter().copied());
    context.insert("periods", &periods);
    context.insert("who", &who);
    context.insert("job", &job);
    context.insert("is_filtered", &!filter.is_empty());
    context.insert("is_first", &query.one("cursor")?.is_none_or(str::is_empty));
    context.insert("first", filter.trim_end_matches('&'));
    let next = page.next.map(|next| format!("{filter}cursor={next}"));
    context.insert("next", &next.unwrap_or_default());
    Ok(context)
}

/// Every action, by its name.
fn actions() -> impl Iterator<Item = (&'static str, &'static str)> {
    AuditAction::ALL
        .iter()
        .map(|action| (action.as_static(), action.as_static()))
}

fn row(record: &AuditRecord, now: Timestamp) -> EntryRow {
    let entry = &record.entry;
    let job = entry.job_id.as_ref().map(JobId::as_str).unwrap_or_default();
    let shown = |text: &str| escape(&excerpt(text, TEXT_CHARS_MAX));
    let target = match job {
        "" => shown(&target(entry)),
        _ => entry
            .queue
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    };
    EntryRow {
        at: record.time.to_string(),
        time: to_the_second(record.time),
        ago: relative_time(record.time, now),
        who: shown(&entry.who),
        claimed: record.claimed,
        action: entry.action.to_string(),
        count: entry.count,
        target,
        job: job.to_owned(),
        from: shown(&entry.from),
        via: entry.via.to_string(),
        client: entry
            .forwarded_for
            .as_deref()
            .map(shown)
            .unwrap_or_default(),
        error: entry.error.as_deref().map(shown).unwrap_or_default(),
    }
}

/// A time in UTC for people: `2026-12-24 18:00:00`.
fn to_the_second(time: Timestamp) -> String {
    let text = time.to_string();
    text.get(..19).unwrap_or(&text).replacen('T', " ", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_to_the_second() {
        let time = "2026-12-24T18:00:00.999Z".parse().unwrap();
        assert_eq!(to_the_second(time), "2026-12-24 18:00:00");
    }
}
