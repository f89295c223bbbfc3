//! The pages of failed jobs: grouped by cause, and one by one. Their forms start bulk actions.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::choice::{AT_ANY_TIME, PERIODS, choices};
use super::frame::frame;
use crate::clock;
use crate::text::{Ending, count, excerpt, relative_time};
use crate::web::access::{Identity, Right};
use crate::web::api::actions::LIMIT_MAX;
use crate::web::api::failed::{FailedCursor, read_page};
use crate::web::api::parameters::{Query, encode};
use crate::web::filter::Since;
use crate::web::problem::Problem;
use crate::web::state::Web;
use naq_client::{DeadLetter, DeadLetterFilter, DeadLetterGroup, DeadLetterGroups, FailureGroupId};
use naq_protocol::{QueueName, Timestamp, escape};

/// Number of failed jobs in a page of a group.
const JOBS_MAX: usize = 50;

/// Longest error that a row shows, in characters.
const ERROR_CHARS_MAX: usize = 300;

#[derive(Serialize)]
struct GroupRow {
    /// Empty for the jobs of all smaller groups together.
    id: String,
    reason: String,
    cause: String,
    /// The latest error of the group's jobs. Empty if the cause says the same.
    error: String,
    count: u64,
    /// The maximum number of jobs of an action on the group.
    limit: u64,
    count_text: String,
    first: String,
    first_at: String,
    last: String,
    last_at: String,
    queues: String,
}

#[derive(Serialize)]
struct FailedRow {
    id: String,
    queue: String,
    ending: String,
    error: String,
    attempt: u32,
    failed: String,
    failed_at: String,
}

/// Which failed jobs a page shows.
struct View {
    queue: Option<QueueName>,
    /// The text of the request: a duration before now, or a time.
    since: String,
    since_at: Option<Timestamp>,
}

impl View {
    fn read(query: &Query) -> Result<View, Problem> {
        let given = |name| Ok::<_, Problem>(query.one(name)?.filter(|text| !text.is_empty()));
        let since = given("since")?.unwrap_or_default();
        let since_at = match since {
            "" => None,
            text => {
                let since: Result<Since, String> = text.parse();
                let since = since.map_err(|error| Problem::parameter("since", error))?;
                Some(since.shared_moment(clock::now()))
            }
        };
        Ok(View {
            queue: given("queue")?.map(QueueName::new).transpose()?,
            since: since.to_owned(),
            since_at,
        })
    }

    /// Without what an action has retried or discarded that can still be undone.
    fn filter(&self, web: &Web) -> DeadLetterFilter {
        DeadLetterFilter {
            except: web.actions.pending.sequences(),
            queue: self.queue.clone(),
            since: self.since_at,
            ..DeadLetterFilter::default()
        }
    }

    fn queue_text(&self) -> &str {
        self.queue.as_ref().map_or("", |queue| queue.as_str())
    }
}

/// The groups.
pub(in crate::web) async fn show(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    query: RawQuery,
) -> Response {
    match groups(&web, &identity, query).await {
        Ok(context) => web.page(StatusCode::OK, "failed.html", &context),
        Err(problem) => web.error_page(&problem),
    }
}

async fn groups(web: &Web, identity: &Identity, query: RawQuery) -> Result<tera::Context, Problem> {
    let query = Query::parse(query, &["queue", "since"])?;
    let view = View::read(&query)?;
    let (found, queues) = futures_util::try_join!(
        web.failure_groups.read(&web.client, view.filter(web)),
        web.client.list_queues(),
    )?;
    let now = clock::now();
    let rows = found.groups.iter().chain(&found.other);
    let rows: Vec<GroupRow> = rows.map(|group| group_row(group, now)).collect();
    let names = queues.iter().map(|queue| queue.name.as_str());
    let names = names.map(|name| (name, name));
    let queue_choices = choices(view.queue_text(), "in any queue", names);
    let periods = choices(&view.since, AT_ANY_TIME, PERIODS.iter().copied());
    let mut context = frame(identity, "/failed", false);
    context.insert("views_path", "/failed");
    context.insert("groups", &rows);
    context.insert("total", &count(found.jobs, "failed job"));
    // an action on these leaves out jobs that fail from now on
    let last = rows_until(&found);
    context.insert(
        "until",
        &last.map(|last| last.to_string()).unwrap_or_default(),
    );
    context.insert("all", &found.jobs.min(LIMIT_MAX as u64));
    context.insert("all_text", &count(found.jobs, "job"));
    context.insert("queue", view.queue_text());
    context.insert("since", &view.since);
    context.insert("since_query", &encode(&view.since));
    let since_at = view.since_at.map(|since| since.to_string());
    context.insert("since_at", &since_at.unwrap_or_default());
    context.insert("queue_choices", &queue_choices);
    context.insert("periods", &periods);
    context.insert("may_operate", &(identity.right >= Right::Operate));
    Ok(context)
}

/// The end of the millisecond of the last failure.
fn rows_until(found: &DeadLetterGroups) -> Option<Timestamp> {
    let groups = found.groups.iter().chain(&found.other);
    let last = groups.map(|group| group.last_seen).max()?;
    Timestamp::from_unix_ms(last.unix_ms() + 1)
}

fn group_row(group: &DeadLetterGroup, now: Timestamp) -> GroupRow {
    let pattern = group.pattern.as_deref().unwrap_or_default();
    let error = group.error.as_deref().unwrap_or_default();
    let queues: Vec<&str> = group.queues.iter().map(QueueName::as_str).collect();
    GroupRow {
        id: group
            .group
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        reason: match (&group.reason, group.exit_code, group.signal) {
            (_, Some(code), _) => format!("exit {code}"),
            (_, _, Some(signal)) => format!("signal {signal}"),
            (Some(reason), ..) => reason.to_string(),
            (None, ..) if group.group.is_none() => "other causes".to_owned(),
            (None, ..) => "unknown reason".to_owned(),
        },
        cause: escape(pattern),
        error: match error == pattern {
            true => String::new(),
            false => escape(&excerpt(error, ERROR_CHARS_MAX)),
        },
        count: group.count,
        limit: group.count.min(LIMIT_MAX as u64),
        count_text: count(group.count, "job"),
        first: relative_time(group.first_seen, now),
        first_at: group.first_seen.to_string(),
        last: relative_time(group.last_seen, now),
        last_at: group.last_seen.to_string(),
        queues: queues.join(", "),
    }
}

/// The jobs of a group.
pub(in crate::web) async fn jobs(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    query: RawQuery,
) -> Response {
    match jobs_of_group(&web, &identity, query).await {
        Ok(context) => web.page(StatusCode::OK, "failed_jobs.html", &context),
        Err(problem) => web.error_page(&problem),
    }
}

async fn jobs_of_group(
    web: &Web,
    identity: &Identity,
    query: RawQuery,
) -> Result<tera::Context, Problem> {
    let query = Query::parse(query, &["queue", "since", "group", "cursor"])?;
    let view = View::read(&query)?;
    let group: Option<FailureGroupId> = query.parsed("group", str::parse)?;
    let before: Option<FailedCursor> = query.parsed("cursor", str::parse)?;
    let filter = DeadLetterFilter {
        group: group.clone(),
        ..view.filter(web)
    };
    let page = read_page(web, &filter, before, JOBS_MAX).await?;
    let now = clock::now();
    let rows: Vec<FailedRow> = page.jobs.iter().map(|job| failed_row(job, now)).collect();
    let mut context = frame(identity, "/failed", false);
    context.insert("jobs", &rows);
    context.insert("group", group.as_ref().map_or("", FailureGroupId::as_str));
    context.insert("queue", view.queue_text());
    context.insert("since_query", &encode(&view.since));
    let next = page.next.map(|cursor| cursor.to_string());
    context.insert("next", &next.unwrap_or_default());
    context.insert("is_first", &before.is_none());
    context.insert("may_operate", &(identity.right >= Right::Operate));
    Ok(context)
}

fn failed_row(job: &DeadLetter, now: Timestamp) -> FailedRow {
    let ending = Ending {
        state: job.state,
        reason: job.reason,
        exit_code: job.exit_code,
        signal: job.signal,
    };
    let error = job.error.as_deref().unwrap_or_default();
    FailedRow {
        id: job.job_id.to_string(),
        queue: job.queue.to_string(),
        ending: ending.to_string(),
        error: escape(&excerpt(error, ERROR_CHARS_MAX)),
        attempt: job.attempt,
        failed: relative_time(job.time, now),
        failed_at: job.time.to_string(),
    }
}
