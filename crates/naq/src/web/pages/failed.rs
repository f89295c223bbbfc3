//! The page of failed jobs, grouped by cause. A user can retry or discard each group.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use serde::{Deserialize, Serialize};

use super::choice::{AT_ANY_TIME, PERIODS, choices};
use super::frame::frame;
use crate::clock;
use crate::text::{Ending, count, excerpt, relative_time};
use crate::web::access::{Identity, Right};
use crate::web::api::failed::{FailedCursor, read_page};
use crate::web::api::parameters::{Query, encode};
use crate::web::audit::Tally;
use crate::web::filter::Since;
use crate::web::problem::{self, Problem};
use crate::web::state::Web;
use naq_client::{DeadLetter, DeadLetterFilter, DeadLetterGroup, FailureGroupId, RetryOutcome};
use naq_protocol::{JobId, QueueName, Timestamp, command_line, escape};

/// Number of failed jobs in a page of a group.
const JOBS_MAX: usize = 50;

/// Maximum number of jobs that one form retries or discards, because its sender waits for the answer.
const JOBS_AT_ONCE_MAX: u64 = 10_000;

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

    fn filter(&self) -> DeadLetterFilter {
        DeadLetterFilter {
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
    let names = [
        "queue",
        "since",
        "retried",
        "skipped",
        "refused",
        "discarded",
    ];
    let query = Query::parse(query, &names)?;
    let view = View::read(&query)?;
    let (found, queues) = futures_util::try_join!(
        web.failure_groups.read(&web.client, view.filter()),
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
    context.insert("groups", &rows);
    context.insert("total", &count(found.jobs, "failed job"));
    context.insert("up_to", &found.up_to);
    context.insert("queue", view.queue_text());
    context.insert("since", &view.since);
    context.insert("since_query", &encode(&view.since));
    let since_at = view.since_at.map(|since| since.to_string());
    context.insert("since_at", &since_at.unwrap_or_default());
    context.insert("queue_choices", &queue_choices);
    context.insert("periods", &periods);
    context.insert("may_operate", &(identity.right >= Right::Operate));
    context.insert("done", &done(&query)?);
    Ok(context)
}

/// The result of a form, from the numbers in the address of the redirect.
fn done(query: &Query) -> Result<String, Problem> {
    let number = |name| query.parsed::<u64, _>(name, str::parse);
    let (retried, discarded) = (number("retried")?, number("discarded")?);
    let mut text = match (retried, discarded) {
        (Some(retried), _) => format!("{} enqueued again", count(retried, "job")),
        (None, Some(discarded)) => format!("{} discarded", count(discarded, "job")),
        (None, None) => return Ok(String::new()),
    };
    if let Some(skipped) = number("skipped")?.filter(|skipped| *skipped > 0) {
        text.push_str(&format!(
            ", {skipped} skipped because of a later outcome or no outcome yet"
        ));
    }
    if let Some(refused) = number("refused")?.filter(|refused| *refused > 0) {
        text.push_str(&format!(", kept {refused} that cannot run again"));
    }
    text.push('.');
    Ok(text)
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
        ..view.filter()
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

/// What the form of a group sends.
#[derive(Deserialize)]
pub(in crate::web) struct GroupForm {
    group: String,
    #[serde(default)]
    queue: String,
    /// The time since which the page showed failures; empty for any time.
    #[serde(default)]
    since: String,
    /// The last failure that the page counted. Later ones were not part of the group that the sender saw.
    up_to: u64,
    /// The number of jobs, as the sender typed it.
    count: String,
}

impl GroupForm {
    /// What it selects, as options of `naq failed`.
    fn options(&self) -> String {
        let queue = match self.queue.as_str() {
            "" => &[][..],
            queue => &["--queue", queue],
        };
        command_line(["--group", &self.group].iter().chain(queue).copied())
    }

    fn filter(&self) -> Result<DeadLetterFilter, Problem> {
        let since = match self.since.as_str() {
            "" => None,
            text => {
                let since = text
                    .parse()
                    .map_err(|error: String| Problem::parameter("since", error));
                Some(since?)
            }
        };
        let queue = match self.queue.as_str() {
            "" => None,
            name => Some(QueueName::new(name)?),
        };
        let group = self.group.parse();
        Ok(DeadLetterFilter {
            queue,
            since,
            group: Some(group.map_err(|error| Problem::parameter("group", error))?),
            up_to: Some(self.up_to),
            ..DeadLetterFilter::default()
        })
    }
}

/// The jobs that a form selects, if their number is the one that its sender typed.
async fn confirmed(web: &Web, form: &GroupForm, verb: &str) -> Result<DeadLetterFilter, Problem> {
    let filter = form.filter()?;
    let jobs = web.client.count_dead_letters(&filter).await?.jobs;
    if form.count.trim().parse() != Ok(jobs) {
        let detail = format!(
            "nothing was changed: the group has {}, but the number in the form is `{}`",
            count(jobs, "job"),
            escape(&excerpt(&form.count, 20))
        );
        return Err(Problem::new(&problem::CONFLICT, detail));
    }
    if jobs > JOBS_AT_ONCE_MAX {
        let detail = format!(
            "nothing was changed: {jobs} jobs are too many for one request of a page; use `naq failed {verb} --group {}`",
            form.group
        );
        return Err(Problem::new(&problem::CONFLICT, detail));
    }
    Ok(filter)
}

fn back(web: &Web, form: &GroupForm, done: &str) -> Response {
    let queue = match form.queue.as_str() {
        "" => String::new(),
        // the filter was valid, so this is the name of a queue
        queue => format!("&queue={queue}"),
    };
    Redirect::to(&format!("{}/failed?{done}{queue}", web.base_path())).into_response()
}

/// Runs the jobs of a group again.
pub(in crate::web) async fn retry_group(
    State(web): State<Arc<Web>>,
    Extension(tally): Extension<Tally>,
    Form(form): Form<GroupForm>,
) -> Response {
    let (mut retried, mut skipped, mut refused) = (0_u64, 0_u64, 0_u64);
    let done = async {
        let filter = confirmed(&web, &form, "retry").await?;
        tally.set_filter(form.options());
        // counted from the start, in case that the client leaves
        tally.add(0);
        let on_outcome = |outcome| match outcome {
            RetryOutcome::Enqueued { .. } => {
                retried += 1;
                tally.add(1);
            }
            RetryOutcome::Outdated(_) | RetryOutcome::NotEnded(_) => skipped += 1,
            RetryOutcome::Refused(..) => refused += 1,
        };
        let retries = web.client.retry_dead_letters(&filter, on_outcome);
        let done = retries.await;
        web.failure_groups.clear();
        done.map_err(Problem::from)
    };
    match done.await {
        Ok(()) => {
            let numbers = format!("retried={retried}&skipped={skipped}&refused={refused}");
            back(&web, &form, &numbers)
        }
        Err(problem) => web.error_page(&problem),
    }
}

/// Discards the jobs of a group.
pub(in crate::web) async fn discard_group(
    State(web): State<Arc<Web>>,
    Extension(tally): Extension<Tally>,
    Form(form): Form<GroupForm>,
) -> Response {
    let done = async {
        let filter = confirmed(&web, &form, "discard").await?;
        tally.set_filter(form.options());
        let discarded = web.client.discard_dead_letters(&filter).await;
        tally.add(discarded.as_ref().copied().unwrap_or_default());
        web.failure_groups.clear();
        discarded.map_err(Problem::from)
    };
    match done.await {
        Ok(discarded) => back(&web, &form, &format!("discarded={discarded}")),
        Err(problem) => web.error_page(&problem),
    }
}

/// Runs one failed job again.
pub(in crate::web) async fn retry(
    State(web): State<Arc<Web>>,
    Path(job): Path<String>,
) -> Response {
    let done = async {
        let job = JobId::new(&job)?;
        web.client.fetch_dead_letter(&job).await?;
        let retried = web.client.retry(&job).await;
        web.failure_groups.clear();
        Ok::<_, Problem>(retried?)
    };
    match done.await {
        Ok(_) => Redirect::to(&format!("{}/failed?retried=1", web.base_path())).into_response(),
        Err(problem) => web.error_page(&problem),
    }
}

/// Discards one failed job.
pub(in crate::web) async fn discard(
    State(web): State<Arc<Web>>,
    Extension(tally): Extension<Tally>,
    Path(job): Path<String>,
) -> Response {
    let done = async {
        let failed = web.client.fetch_dead_letter(&JobId::new(&job)?).await?;
        let removed = web.client.discard_dead_letter(&failed).await;
        web.failure_groups.clear();
        Ok::<_, Problem>(removed?)
    };
    match done.await {
        Ok(removed) => {
            if !removed {
                tally.set_unchanged();
            }
            let place = format!("{}/failed?discarded={}", web.base_path(), u8::from(removed));
            Redirect::to(&place).into_response()
        }
        Err(problem) => web.error_page(&problem),
    }
}
