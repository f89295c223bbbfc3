//! Bulk actions: cancels, retries, discards or keeps many jobs in the background, and undoes that.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::parameters::{DRY_RUN, Query};
use super::submit::parse_object;
use crate::clock;
use crate::text::count;
use crate::web::access::{Identity, Right};
use crate::web::audit::Tally;
use crate::web::bulk_action::{
    ActionState, ActionVerb, JobProblem, KeepReason, Refusal, SkipReason,
};
use crate::web::bulk_actions::BulkAction;
use crate::web::bulk_selection::{Preview, Selection, Selector, check_ttl};
use crate::web::filter::{Filter, Since};
use crate::web::problem::{self, Problem};
use crate::web::route::{Parameter, Route, json, path, schema_of};
use crate::web::state::Web;
use naq_client::{DeadLetterFilter, FailureGroupId};
use naq_protocol::units::WireDuration;
use naq_protocol::{AuditAction, JobId, QueueName, Reason, Timestamp, escape};

/// Default of the maximum number of jobs of an action.
pub(in crate::web) const LIMIT_DEFAULT: usize = 10_000;

/// Maximum number of jobs of an action.
pub(in crate::web) const LIMIT_MAX: usize = 100_000;

/// Maximum number of ids in a request.
const IDS_MAX: usize = 10_000;

/// Number of actions in the list.
const LISTED_MAX: usize = 50;

const ID: Parameter = path("id", "Id of the action", "9f86d081884c7d65");

pub(super) const ROUTES: &[Route] = &[
    Route::get(
        "/api/actions",
        Right::View,
        "List the bulk actions of this dashboard, the latest first",
        |method| on(method, list),
    )
    .answers(&[json(200, "The actions, at most 50", schema_of::<Actions>)]),
    Route::post(
        "/api/actions",
        Right::Operate,
        "Cancel, retry or discard many jobs in the background, so that it can be undone, or set how long they are kept",
        |method| on(method, start),
    )
    // the handler names what was done
    .audited(AuditAction::JobCancel)
    .parameters(&[DRY_RUN])
    .body(schema_of::<ActionRequest>)
    .answers(&[
        json(
            200,
            "What it would do, with `dry_run`",
            schema_of::<Preview>,
        ),
        json(202, "It is running", schema_of::<ActionStatus>),
    ])
    .problems(&[
        &problem::BAD_REQUEST,
        &problem::CONFLICT,
        &problem::MEDIA_TYPE,
        &problem::REFUSED,
        &problem::TOO_MANY_ACTIONS,
    ]),
    Route::get(
        "/api/actions/{id}",
        Right::View,
        "Show what a bulk action has done so far",
        |method| on(method, show),
    )
    .parameters(&[ID])
    .answers(&[json(200, "The action", schema_of::<ActionStatus>)])
    .problems(&[&problem::NOT_FOUND]),
    Route::delete(
        "/api/actions/{id}",
        Right::Operate,
        "Stop a bulk action; what it has done stays done",
        |method| on(method, stop),
    )
    .audited(AuditAction::JobCancel)
    .parameters(&[ID, DRY_RUN])
    .answers(&[json(
        202,
        "It acts on no further job",
        schema_of::<ActionStatus>,
    )])
    .problems(&[
        &problem::BAD_REQUEST,
        &problem::NOT_FOUND,
        &problem::CONFLICT,
    ]),
    Route::post(
        "/api/actions/{id}/undo",
        Right::Operate,
        "Undo a bulk action as far as that is possible",
        |method| on(method, undo),
    )
    .audited(AuditAction::JobCancel)
    .parameters(&[ID, DRY_RUN])
    .answers(&[json(202, "It is being undone", schema_of::<ActionStatus>)])
    .problems(&[
        &problem::BAD_REQUEST,
        &problem::NOT_FOUND,
        &problem::CONFLICT,
    ]),
];

/// A bulk action. Exactly one of `filter`, `ids` and `failed` selects the jobs.
#[derive(Deserialize, schemars::JsonSchema)]
#[schemars(rename = "action_request")]
#[serde(deny_unknown_fields)]
struct ActionRequest {
    /// What to do with each job.
    action: ActionVerb,
    /// A filter as on the page of jobs. Without `state:`, a cancel selects the jobs that have not ended, a retry
    /// those that have failed.
    #[serde(default)]
    filter: Option<String>,
    /// These jobs, at most 10,000.
    #[serde(default)]
    #[schemars(length(min = 1, max = IDS_MAX))]
    ids: Option<Vec<JobId>>,
    /// Dead letters, for `retry` and `discard`.
    #[serde(default)]
    failed: Option<FailedSelector>,
    /// Leaves out jobs that changed later: `until` of a dry run.
    #[serde(default)]
    until: Option<Timestamp>,
    /// Most jobs to act on, 1 to 100,000; by default 10,000.
    #[serde(default)]
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: Option<usize>,
    /// How many running and blocked jobs the action may cancel: `irreversible` of a dry run. By default 0.
    #[serde(default)]
    confirm: Option<u64>,
    /// How long the records are kept from now on, for `ttl`: at least 10m; 0 means forever.
    #[serde(default)]
    ttl: Option<WireDuration>,
    /// Whether to count the jobs and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Selects dead letters that satisfy every field.
#[derive(Default, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "failed_selector")]
#[serde(deny_unknown_fields)]
struct FailedSelector {
    /// Only jobs of this queue.
    #[serde(default)]
    queue: Option<QueueName>,
    /// Only jobs that failed for this reason.
    #[serde(default)]
    #[schemars(with = "Option<Reason>")]
    reason: Option<String>,
    /// Only jobs of this group, as `/api/failed/groups` names it.
    #[serde(default)]
    #[schemars(with = "Option<FailureGroupId>")]
    group: Option<String>,
    /// Only jobs that failed since: a time, or a duration before now.
    #[serde(default)]
    since: Option<String>,
}

impl FailedSelector {
    fn filter(self) -> Result<DeadLetterFilter, Problem> {
        let reason = self.reason.map(|text| text.parse::<Reason>()).transpose();
        let group = self.group.map(|text| text.parse::<FailureGroupId>());
        let since = self.since.map(|text| text.parse::<Since>()).transpose();
        let since = since.map_err(|error| refused("/failed/since", error))?;
        Ok(DeadLetterFilter {
            queue: self.queue,
            reason: reason.map_err(|error| refused("/failed/reason", error))?,
            group: group
                .transpose()
                .map_err(|error| refused("/failed/group", error))?,
            since: since.map(|since| since.moment(clock::now())),
            ..DeadLetterFilter::default()
        })
    }
}

fn refused(pointer: &str, error: impl std::fmt::Display) -> Problem {
    Problem::new(&problem::REFUSED, escape(&error.to_string())).at(pointer)
}

impl ActionRequest {
    fn selection(self) -> Result<Selection, Problem> {
        let selector = match (self.filter, self.ids, self.failed) {
            (Some(text), None, None) => {
                let filter: Filter = text.parse().map_err(|error| refused("/filter", error))?;
                let filter = Selection::restrict(self.action, filter);
                Selector::Filter(filter.map_err(|error| refused("/filter", error))?)
            }
            (None, Some(ids), None) if ids.is_empty() || ids.len() > IDS_MAX => {
                return Err(refused("/ids", format!("expected 1 to {IDS_MAX} ids")));
            }
            (None, Some(ids), None) => Selector::Ids(ids),
            (None, None, Some(_)) if self.action == ActionVerb::Cancel => {
                return Err(refused("/failed", "failed jobs cannot be cancelled"));
            }
            (None, None, Some(_)) if self.action == ActionVerb::Ttl => {
                let detail = "dead letters are kept until they are retried or discarded; \
                              select the jobs by filter or ids";
                return Err(refused("/failed", detail));
            }
            (None, None, Some(failed)) => Selector::Failed(failed.filter()?),
            _ => {
                return Err(refused("", "expected one of filter, ids and failed"));
            }
        };
        let limit = match self.limit.unwrap_or(LIMIT_DEFAULT) {
            limit @ 1..=LIMIT_MAX => limit,
            _ => {
                let detail = format!("expected a number from 1 to {LIMIT_MAX}");
                return Err(refused("/limit", detail));
            }
        };
        let ttl = match (self.action, self.ttl) {
            (ActionVerb::Ttl, Some(ttl)) => Some(check_ttl(ttl)),
            (ActionVerb::Ttl, None) => Some(Err("the action ttl requires a time".to_owned())),
            (_, Some(_)) => Some(Err("only the action ttl takes a time".to_owned())),
            (_, None) => None,
        };
        Ok(Selection {
            verb: self.action,
            selector,
            until: self.until,
            limit,
            ttl: ttl.transpose().map_err(|error| refused("/ttl", error))?,
        })
    }
}

/// The bulk actions of a dashboard.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "actions")]
struct Actions {
    /// The actions, the latest first.
    actions: Vec<ActionStatus>,
}

/// How many jobs were left as they are for a reason.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "skipped_jobs")]
struct SkippedJobs {
    /// The reason.
    reason: SkipReason,
    /// The reason, for people.
    text: &'static str,
    /// Number of jobs.
    jobs: u64,
}

/// How many jobs an undo did not restore for a reason.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "kept_jobs")]
struct KeptJobs {
    /// The reason.
    reason: KeepReason,
    /// The reason, for people.
    text: &'static str,
    /// Number of jobs.
    jobs: u64,
}

/// A bulk action and what it has done so far.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "action")]
struct ActionStatus {
    /// Its id.
    id: String,
    /// What it does with each job.
    action: ActionVerb,
    /// Its state.
    state: ActionState,
    /// What it selects, for people.
    selection: String,
    /// The name of the token that started it.
    started_by: String,
    /// When it started.
    started_at: Timestamp,
    /// When it had acted on its last job. Absent while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<Timestamp>,
    /// Number of jobs that it has selected so far. Each is done, skipped, failed, or in progress.
    selected: u64,
    /// Number of jobs that it has changed.
    done: u64,
    /// Number of jobs that it left as they were.
    skipped: u64,
    /// Number of jobs that it could not change because of an error.
    failed: u64,
    /// Most jobs that it acts on.
    limit: usize,
    /// Whether it ended at the limit, although it selected more jobs.
    is_limited: bool,
    /// Why jobs were skipped.
    skip_reasons: Vec<SkippedJobs>,
    /// The first 100 jobs that were skipped or failed, or that could not be restored.
    problems: Vec<JobProblem>,
    /// Why it ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Number of changed jobs that cannot be restored: they were running, or depended on other jobs, or the action is
    /// `ttl`.
    irreversible: u64,
    /// Whether it can be undone now.
    can_undo: bool,
    /// Until when it can be undone. Absent if it cannot, or if it is running.
    #[serde(skip_serializing_if = "Option::is_none")]
    undo_until: Option<Timestamp>,
    /// Number of jobs that the undo has restored: new jobs were cancelled before they began, dead letters stay,
    /// cancelled jobs run again under new ids.
    undone: u64,
    /// Why the undo has not restored the others.
    not_undone: Vec<KeptJobs>,
}

impl ActionStatus {
    fn new(action: &BulkAction) -> ActionStatus {
        let (progress, can_undo) = action.progress();
        let skip_reasons = progress.skipped.iter().map(|(reason, jobs)| SkippedJobs {
            reason: *reason,
            text: reason.text(),
            jobs: *jobs,
        });
        let not_undone = progress.kept.iter().map(|(reason, jobs)| KeptJobs {
            reason: *reason,
            text: reason.text(),
            jobs: *jobs,
        });
        ActionStatus {
            id: action.id.clone(),
            action: progress.verb,
            state: progress.state,
            selection: action.selection.clone(),
            started_by: action.started_by.clone(),
            started_at: progress.started_at,
            ended_at: progress.ended_at,
            selected: progress.selected,
            done: progress.done,
            skipped: progress.skipped_count(),
            failed: progress.failed,
            limit: progress.limit,
            is_limited: progress.is_limited,
            skip_reasons: skip_reasons.collect(),
            not_undone: not_undone.collect(),
            problems: progress.problems.clone(),
            error: progress.error.clone(),
            irreversible: progress.irreversible,
            can_undo,
            undo_until: progress.undo_until.filter(|_| can_undo),
            undone: progress.undone,
        }
    }
}

/// What the audit calls a verb.
fn audit_action(verb: ActionVerb) -> AuditAction {
    match verb {
        ActionVerb::Cancel => AuditAction::JobCancel,
        ActionVerb::Retry => AuditAction::JobRetry,
        ActionVerb::Discard => AuditAction::FailedDiscard,
        ActionVerb::Ttl => AuditAction::JobTtl,
    }
}

/// Stops an action. What it has changed until then is in its own entry of the audit.
///
/// # Errors
/// Returns a problem if it has ended.
pub(in crate::web) fn stop_action(action: &BulkAction, tally: &Tally) -> Result<(), Problem> {
    tally.set_unchanged();
    action.stop().map_err(|error| refusal(action, error))
}

/// Undoes an action. The entry of the audit names it, and how many jobs it had changed.
///
/// # Errors
/// Returns a problem if it cannot be undone, or not any more.
pub(in crate::web) fn undo_action(action: &BulkAction, tally: &Tally) -> Result<(), Problem> {
    let (progress, _) = action.progress();
    action.undo().map_err(|error| refusal(action, error))?;
    tally.set_action(audit_action(progress.verb));
    tally.set_filter(format!("undo of {}", action.selection));
    tally.add(progress.done);
    Ok(())
}

/// Starts an action, if the number of running and blocked jobs among the selected ones is confirmed.
///
/// # Errors
/// Returns a problem if more jobs are running or blocked, if too many actions are kept, or if NATS does not answer.
pub(in crate::web) async fn start_action(
    web: &Web,
    identity: &Identity,
    selection: Selection,
    confirmed: u64,
    tally: Tally,
) -> Result<Arc<BulkAction>, Problem> {
    tally.set_action(audit_action(selection.verb));
    match &selection.selector {
        Selector::Ids(ids) if ids.len() == 1 => ids.iter().for_each(|id| tally.set_name(id)),
        _ => tally.set_filter(selection.describe()),
    }
    if selection.verb == ActionVerb::Cancel {
        let preview = selection.preview(&web.client, web.index.as_ref()).await?;
        if preview.irreversible > confirmed {
            let detail = format!(
                "nothing was changed: {} of the jobs are running or blocked, and their cancellation cannot be undone; repeat the request with `confirm` {}",
                preview.irreversible, preview.irreversible
            );
            return Err(Problem::new(&problem::CONFLICT, detail));
        }
    }
    // the entry of the audit is written when the action has ended, or when the dashboard stops before
    tally.add(0);
    let on_end = Box::new(move |done| tally.add(done));
    let started = web
        .actions
        .start(selection, confirmed, &identity.name, on_end);
    match started {
        Ok(Some(action)) => Ok(action),
        Ok(None) => Err(Problem::new(
            &problem::TOO_MANY_ACTIONS,
            "nothing was changed: too many actions run or can still be undone",
        )),
        Err(error) => Err(Problem::new(&problem::FAILED, error.to_string())),
    }
}

/// The action with this id.
///
/// # Errors
/// Returns a problem if the dashboard has no such action.
pub(in crate::web) fn find_action(web: &Web, id: &str) -> Result<Arc<BulkAction>, Problem> {
    web.actions.get(id).ok_or_else(|| {
        let detail = format!(
            "there is no action `{}`: a dashboard keeps its last 200 actions until it stops; what an action has done is in the records of the jobs",
            escape(id)
        );
        Problem::new(&problem::NOT_FOUND, detail)
    })
}

/// Why an action cannot be stopped or undone.
fn refusal(action: &BulkAction, refusal: Refusal) -> Problem {
    let (progress, _) = action.progress();
    let until = progress.undo_until.map(|until| until.to_string());
    let until = until.unwrap_or_default();
    let done = progress.done;
    let detail = match (refusal, progress.verb) {
        (Refusal::Ended, _) => format!(
            "the action has ended: it has changed {}",
            count(done, "job")
        ),
        (Refusal::AlreadyUndone, _) => "the action was undone before".to_owned(),
        (Refusal::NothingToUndo | Refusal::TooLate, ActionVerb::Ttl) => {
            "the action has no undo; set another time before the records expire".to_owned()
        }
        (Refusal::NothingToUndo, _) => {
            "the action has changed nothing that an undo could restore".to_owned()
        }
        (Refusal::TooLate, ActionVerb::Retry) => format!(
            "the action could be undone until {until}; since then, the {done} new jobs are in their queues or have begun"
        ),
        (Refusal::TooLate, ActionVerb::Discard) => {
            format!("the action could be undone until {until}; the dead letters are removed")
        }
        (Refusal::TooLate, ActionVerb::Cancel) => {
            format!("the action could be undone until {until}; the jobs can be retried")
        }
    };
    Problem::new(&problem::CONFLICT, detail)
}

fn accepted(web: &Web, action: &BulkAction) -> Response {
    let place = format!("{}/api/actions/{}", web.base_path(), action.id);
    let headers = [(header::LOCATION, place)];
    let status = ActionStatus::new(action);
    (StatusCode::ACCEPTED, headers, Json(status)).into_response()
}

async fn list(State(web): State<Arc<Web>>) -> Json<Actions> {
    let latest = web.actions.latest(LISTED_MAX);
    Json(Actions {
        actions: latest
            .iter()
            .map(|action| ActionStatus::new(action))
            .collect(),
    })
}

async fn start(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    Extension(query): Extension<Query>,
    Extension(tally): Extension<Tally>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let request: ActionRequest = parse_object(&headers, &body)?;
    let is_dry = request.dry_run || query.is_on("dry_run")?;
    let confirmed = request.confirm.unwrap_or_default();
    let mut selection = request.selection()?;
    if let Selector::Failed(filter) = &mut selection.selector {
        filter.except = web.actions.pending.sequences();
    }
    if is_dry {
        tally.set_unchanged();
        return Ok(Json(selection.preview(&web.client, web.index.as_ref()).await?).into_response());
    }
    let action = start_action(&web, &identity, selection, confirmed, tally).await?;
    Ok(accepted(&web, &action))
}

async fn show(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
) -> Result<Json<ActionStatus>, Problem> {
    Ok(Json(ActionStatus::new(&*find_action(&web, &id)?)))
}

async fn stop(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    Extension(query): Extension<Query>,
    Extension(tally): Extension<Tally>,
) -> Result<Response, Problem> {
    let action = find_action(&web, &id)?;
    if !query.is_on("dry_run")? {
        stop_action(&action, &tally)?;
    }
    Ok(accepted(&web, &action))
}

async fn undo(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    Extension(query): Extension<Query>,
    Extension(tally): Extension<Tally>,
) -> Result<Response, Problem> {
    let action = find_action(&web, &id)?;
    if !query.is_on("dry_run")? {
        undo_action(&action, &tally)?;
    }
    Ok(accepted(&web, &action))
}
