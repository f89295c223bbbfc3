//! The pages of bulk actions: what one would do, what it has done, and its undo.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, RawForm, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Serialize;

use super::frame::frame;
use super::job_row::class_of;
use crate::clock;
use crate::text::{age, count, excerpt, relative_time};
use crate::web::access::{Identity, Right};
use crate::web::api::actions::{
    LIMIT_DEFAULT, LIMIT_MAX, find_action, start_action, stop_action, undo_action,
};
use crate::web::api::parameters::Query;
use crate::web::audit::Tally;
use crate::web::bulk_action::{ActionState, ActionVerb};
use crate::web::bulk_actions::BulkAction;
use crate::web::bulk_selection::{Preview, Selection, Selector, check_ttl};
use crate::web::filter::{Filter, Since};
use crate::web::problem::{self, Problem};
use crate::web::state::Web;
use naq_client::{DeadLetterFilter, FailureGroupId};
use naq_protocol::units::{WireDuration, parse_duration};
use naq_protocol::{JobId, QueueName, Timestamp, escape};

/// Number of actions in the list.
const LISTED_MAX: usize = 50;

/// The fields of the forms that start an action.
const FIELDS: &[&str] = &[
    "action", "q", "job", "group", "queue", "since", "until", "limit", "confirm", "ttl",
];

/// The fields of the page that shows what an action would do. A group of failures has no such page.
const PREVIEW_FIELDS: &[&str] = &["action", "q", "job"];

/// Longest text of a problem, in characters.
const PROBLEM_CHARS_MAX: usize = 300;

fn parse_verb(text: &str) -> Result<ActionVerb, &'static str> {
    use ActionVerb::{Cancel, Discard, Retry, Ttl};
    [Cancel, Retry, Discard, Ttl]
        .into_iter()
        .find(|verb| verb.name() == text)
        .ok_or("expected cancel, retry, discard or ttl")
}

/// What the fields of a form select: a filter of jobs, named jobs, or dead letters.
fn read_selection(web: &Web, query: &Query) -> Result<Selection, Problem> {
    let given = |name| Ok::<_, Problem>(query.one(name)?.filter(|text| !text.is_empty()));
    let verb = query.parsed("action", parse_verb)?;
    let verb = verb.ok_or_else(|| Problem::parameter("action", "missing"))?;
    let jobs: Vec<JobId> = query.all("job").map(JobId::new).collect::<Result<_, _>>()?;
    let filter = query.one("q")?;
    let selector = match (jobs.is_empty(), filter) {
        (false, _) => Selector::Ids(jobs),
        (true, Some(text)) => {
            let filter: Filter = text
                .parse()
                .map_err(|error: String| Problem::parameter("q", error))?;
            let filter = Selection::restrict(verb, filter);
            Selector::Filter(filter.map_err(|error| Problem::parameter("q", error))?)
        }
        // the form of a group has this field, even if it is empty
        (true, None)
            if query.one("group")?.is_some()
                && matches!(verb, ActionVerb::Retry | ActionVerb::Discard) =>
        {
            let group = given("group")?
                .map(str::parse::<FailureGroupId>)
                .transpose();
            let since = given("since")?.map(str::parse::<Since>).transpose();
            let since = since.map_err(|error| Problem::parameter("since", error))?;
            Selector::Failed(DeadLetterFilter {
                queue: given("queue")?.map(QueueName::new).transpose()?,
                group: group.map_err(|error| Problem::parameter("group", error))?,
                since: since.map(|since| since.moment(clock::now())),
                except: web.actions.pending.sequences(),
                ..DeadLetterFilter::default()
            })
        }
        (true, None) => {
            let detail = "no job is selected; tick the jobs in the list first";
            return Err(Problem::new(&problem::BAD_REQUEST, detail));
        }
    };
    let limit = given("limit")?.map(str::parse::<usize>).transpose();
    let limit = limit.map_err(|error| Problem::parameter("limit", error))?;
    let until = given("until")?.map(str::parse::<Timestamp>).transpose();
    let ttl = given("ttl")?.filter(|_| verb == ActionVerb::Ttl);
    let ttl = ttl.map(|text| check_ttl(WireDuration(parse_duration(text)?)));
    Ok(Selection {
        verb,
        limit: match (&selector, limit) {
            (_, Some(limit)) => limit.clamp(1, LIMIT_MAX),
            (Selector::Ids(ids), None) => ids.len(),
            _ => LIMIT_DEFAULT,
        },
        selector,
        until: until.map_err(|_| Problem::parameter("until", "expected a time"))?,
        ttl: ttl
            .transpose()
            .map_err(|error| Problem::parameter("ttl", error))?,
    })
}

/// A job that an action would change.
#[derive(Serialize)]
struct ExampleRow {
    id: String,
    queue: String,
    state: String,
    class: &'static str,
    command: String,
}

/// What an action would do, before it starts.
pub(in crate::web) async fn preview(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    query: RawQuery,
) -> Response {
    let context = async {
        let query = Query::parse(query, PREVIEW_FIELDS)?;
        let selection = read_selection(&web, &query)?;
        let preview = selection.preview(&web.client, web.index.as_ref()).await?;
        Ok::<_, Problem>(preview_context(&identity, &query, &selection, &preview))
    };
    match context.await {
        Ok(context) => web.page(StatusCode::OK, "action_new.html", &context),
        Err(problem) => web.error_page(&problem),
    }
}

fn preview_context(
    identity: &Identity,
    query: &Query,
    selection: &Selection,
    preview: &Preview,
) -> tera::Context {
    let rows = preview.examples.iter().map(|example| ExampleRow {
        id: example.job_id.to_string(),
        queue: example.queue.to_string(),
        state: example.state.to_string(),
        class: class_of(example.state),
        command: example.command.clone().unwrap_or_default(),
    });
    let place = match selection.verb {
        ActionVerb::Discard => "/failed",
        _ => "/jobs",
    };
    let mut context = frame(identity, place, false);
    context.insert("verb", selection.verb.name());
    context.insert("title", title(selection.verb));
    context.insert("examples", &rows.collect::<Vec<_>>());
    context.insert("jobs", &preview.jobs);
    let jobs = count(preview.jobs, "job");
    context.insert("jobs_text", &jobs);
    context.insert("is_complete", &preview.is_complete);
    context.insert("irreversible", &preview.irreversible);
    context.insert("selection", &selection.describe());
    context.insert("undo_text", undo_text(selection.verb));
    let until = preview.until.map(|until| until.to_string());
    context.insert("until", &until.unwrap_or_default());
    let limit = match preview.is_complete {
        true => preview.jobs,
        false => selection.limit as u64,
    };
    context.insert("limit", &limit);
    let ids: Vec<&str> = query.all("job").collect();
    context.insert("ids", &ids);
    context.insert("has_filter", &ids.is_empty());
    let filter = match &selection.selector {
        Selector::Filter(filter) => filter.to_string(),
        _ => String::new(),
    };
    context.insert("q", &filter);
    context.insert("may_operate", &(identity.right >= Right::Operate));
    context
}

fn title(verb: ActionVerb) -> &'static str {
    match verb {
        ActionVerb::Cancel => "Cancel",
        ActionVerb::Retry => "Retry",
        ActionVerb::Discard => "Discard",
        ActionVerb::Ttl => "Keep",
    }
}

/// What an undo does.
fn undo_text(verb: ActionVerb) -> &'static str {
    match verb {
        ActionVerb::Cancel => {
            "An undo runs the cancelled jobs again, as new jobs with the same envelopes. It restores neither running jobs nor jobs that depend on others."
        }
        ActionVerb::Retry => {
            "The new jobs start after 10 seconds. Until then, an undo cancels them and keeps the failed jobs as they are."
        }
        ActionVerb::Discard => {
            "For 10 minutes, an undo lists the discarded jobs again. Then they are removed."
        }
        ActionVerb::Ttl => {
            "The records expire after this time from now. There is no undo, but another time can be set before."
        }
    }
}

/// Starts an action.
pub(in crate::web) async fn start(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    Extension(tally): Extension<Tally>,
    RawForm(form): RawForm,
) -> Response {
    let started = async {
        let form = String::from_utf8(form.to_vec())
            .map_err(|_| Problem::new(&problem::BAD_REQUEST, "the form is not UTF-8"))?;
        let query = Query::parse(RawQuery(Some(form)), FIELDS)?;
        let selection = read_selection(&web, &query)?;
        if selection.verb == ActionVerb::Ttl && selection.ttl.is_none() {
            return Err(Problem::parameter("ttl", "missing"));
        }
        let confirmed = query.one("confirm")?.filter(|text| !text.is_empty());
        let confirmed = confirmed.map(|text| text.trim().parse()).transpose();
        let confirmed = confirmed.map_err(|error| Problem::parameter("confirm", error))?;
        let confirmed = confirmed.unwrap_or_default();
        start_action(&web, &identity, selection, confirmed, tally).await
    };
    match started.await {
        Ok(action) => to_action(&web, &action.id),
        Err(problem) => web.error_page(&problem),
    }
}

fn to_action(web: &Web, id: &str) -> Response {
    Redirect::to(&format!("{}/actions/{id}", web.base_path())).into_response()
}

/// A job that was skipped, that failed, or that an undo could not restore.
#[derive(Serialize)]
struct ProblemRow {
    id: String,
    detail: String,
}

/// A number of jobs and the reason for what happened to them.
#[derive(Serialize)]
struct ReasonRow {
    jobs: u64,
    text: &'static str,
}

/// The variables of `action_body.html`.
#[derive(Serialize)]
struct ActionView {
    id: String,
    verb: &'static str,
    title: &'static str,
    state: &'static str,
    class: &'static str,
    selection: String,
    started_by: String,
    started: String,
    started_at: String,
    selected: u64,
    done: u64,
    done_text: &'static str,
    skipped: u64,
    failed: u64,
    undone: u64,
    was_undone: bool,
    is_limited: bool,
    limit: usize,
    error: String,
    irreversible: u64,
    can_stop: bool,
    can_undo: bool,
    /// How long it can still be undone. Empty while it runs.
    undo_left: String,
    undo_text: &'static str,
    skip_reasons: Vec<ReasonRow>,
    kept: Vec<ReasonRow>,
    problems: Vec<ProblemRow>,
    may_operate: bool,
}

fn action_view(right: Right, action: &BulkAction) -> ActionView {
    let (progress, can_undo) = action.progress();
    let now = clock::now();
    let (state, class) = match progress.state {
        ActionState::Running => ("running", "run"),
        ActionState::Done => ("done", "ok"),
        ActionState::Stopped => ("stopped", "wait"),
        ActionState::Undoing => ("undoing", "run"),
        ActionState::Undone => ("undone", "idle"),
    };
    let problems = progress.problems.iter().map(|problem| ProblemRow {
        id: problem.job_id.to_string(),
        detail: escape(&excerpt(&problem.detail, PROBLEM_CHARS_MAX)),
    });
    let skip_reasons = progress.skipped.iter().map(|(reason, jobs)| ReasonRow {
        jobs: *jobs,
        text: reason.text(),
    });
    let kept = progress.kept.iter().map(|(reason, jobs)| ReasonRow {
        jobs: *jobs,
        text: reason.text(),
    });
    let undo_until = progress.undo_until.filter(|_| can_undo);
    ActionView {
        id: action.id.clone(),
        verb: progress.verb.name(),
        title: title(progress.verb),
        state,
        class,
        selection: action.selection.clone(),
        started_by: escape(&action.started_by),
        started: relative_time(progress.started_at, now),
        started_at: progress.started_at.to_string(),
        selected: progress.selected,
        done: progress.done,
        done_text: match progress.verb {
            ActionVerb::Cancel => "Cancelled",
            ActionVerb::Retry => "Enqueued again",
            ActionVerb::Discard => "Discarded",
            ActionVerb::Ttl => "Kept",
        },
        skipped: progress.skipped_count(),
        failed: progress.failed,
        undone: progress.undone,
        was_undone: matches!(progress.state, ActionState::Undoing | ActionState::Undone),
        is_limited: progress.is_limited,
        limit: progress.limit,
        error: escape(progress.error.as_deref().unwrap_or_default()),
        irreversible: progress.irreversible,
        can_stop: progress.state == ActionState::Running && progress.may_select(),
        can_undo,
        undo_left: undo_until.map(|until| age(now, until)).unwrap_or_default(),
        undo_text: undo_text(progress.verb),
        skip_reasons: skip_reasons.collect(),
        kept: kept.collect(),
        problems: problems.collect(),
        may_operate: right >= Right::Operate,
    }
}

/// The part of the page that changes, as markup.
///
/// # Errors
/// Returns an error if the template is wrong.
pub(super) fn body(web: &Web, right: Right, action: &BulkAction) -> Result<String, String> {
    let view = action_view(right, action);
    let context = tera::Context::from_serialize(&view).map_err(|error| error.to_string())?;
    web.templates.render("action_body.html", &context)
}

/// An action.
pub(in crate::web) async fn show(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
) -> Response {
    let action = match find_action(&web, &id) {
        Ok(action) => action,
        Err(problem) => return web.error_page(&problem),
    };
    match body(&web, identity.right, &action) {
        Ok(body) => {
            let mut context = frame(&identity, "/actions", true);
            context.insert("id", &action.id);
            context.insert("body", &body);
            web.page(StatusCode::OK, "action.html", &context)
        }
        Err(error) => {
            tracing::error!("an action cannot be shown: {error}");
            let failed = Problem::new(&problem::FAILED, "the page cannot be shown");
            web.error_page(&failed)
        }
    }
}

/// The actions of this dashboard.
pub(in crate::web) async fn list(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
) -> Response {
    let latest = web.actions.latest(LISTED_MAX);
    let rows = latest
        .iter()
        .map(|action| action_view(identity.right, action));
    let mut context = frame(&identity, "/actions", false);
    context.insert("actions", &rows.collect::<Vec<_>>());
    web.page(StatusCode::OK, "actions.html", &context)
}

/// Stops an action.
pub(in crate::web) async fn stop(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    Extension(tally): Extension<Tally>,
) -> Response {
    change(&web, &id, &tally, stop_action)
}

/// Undoes an action.
pub(in crate::web) async fn undo(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    Extension(tally): Extension<Tally>,
) -> Response {
    change(&web, &id, &tally, undo_action)
}

fn change(
    web: &Web,
    id: &str,
    tally: &Tally,
    change: impl Fn(&BulkAction, &Tally) -> Result<(), Problem>,
) -> Response {
    let changed = find_action(web, id).and_then(|action| {
        change(&action, tally)?;
        Ok(action)
    });
    match changed {
        Ok(action) => to_action(web, &action.id),
        Err(problem) => web.error_page(&problem),
    }
}
