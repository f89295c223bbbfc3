//! The page of schedules.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;

use super::frame::frame;
use super::job_row::class_of;
use crate::clock;
use crate::text::{Ending, count, relative_time};
use crate::web::access::{Identity, Right};
use crate::web::api::parameters::Query;
use crate::web::problem::Problem;
use crate::web::state::Web;
use naq_client::{
    ClientError, LastOutcome, ListedSchedule, ScheduleFilter, ScheduleRun, ScheduleSummary,
};
use naq_cron::{Cron, Timezone};
use naq_protocol::{JobId, Schedule, ScheduleId, ScheduleStatus, Timestamp, escape};

/// Number of schedules in a page. For each, the outcomes of its last runs are read.
const SCHEDULES_MAX: usize = 50;

/// Number of runs of a schedule in the list.
const RUNS_SHOWN: usize = 10;

/// Maximum number of schedules that are read for a page.
const READ_MAX: usize = 10_000;

/// Number of schedules whose runs are read at the same time.
const READS_AT_ONCE: usize = 4;

/// A run in a strip of runs.
#[derive(Serialize)]
pub(super) struct RunCell {
    /// The class of its state, or `none` for a tick without a job.
    pub(super) class: &'static str,
    /// Its state and time.
    pub(super) text: String,
    /// The job. Empty if the tick has none.
    pub(super) job_id: String,
}

/// The strip of runs, the latest last.
pub(super) fn run_cells(runs: &[ScheduleRun], zone: Timezone) -> Vec<RunCell> {
    let cells = runs.iter().rev().map(|run| {
        let at = in_zone(run.tick, zone);
        match &run.outcome {
            Some(outcome) => RunCell {
                class: class_of(outcome.state),
                text: format!("{}, {at}", ending_of(outcome)),
                job_id: run.job_id.to_string(),
            },
            None => RunCell {
                class: "none",
                text: format!("no job, {at}: it was left out, or its record has expired"),
                job_id: String::new(),
            },
        }
    });
    cells.collect()
}

fn ending_of(outcome: &LastOutcome) -> Ending {
    Ending {
        state: outcome.state,
        reason: outcome.reason,
        exit_code: outcome.exit_code,
        signal: outcome.signal,
    }
}

#[derive(Serialize)]
struct ScheduleRow {
    name: String,
    queue: String,
    status: String,
    class: &'static str,
    is_active: bool,
    is_paused: bool,
    /// The cron expression, or the interval.
    rule: String,
    /// The cron expression in words. Empty for an interval.
    rule_text: String,
    zone: String,
    next: String,
    next_in_zone: String,
    next_utc: String,
    next_utc_text: String,
    strip: Vec<RunCell>,
    last: String,
    last_at: String,
    runs: u64,
    /// Ticks that its policies left out, in words. Empty if there are none.
    left_out: String,
    command: String,
    /// Why it has no ticks.
    problem: String,
}

pub(in crate::web) async fn show(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    query: RawQuery,
) -> Response {
    match schedules(&web, &identity, query).await {
        Ok(context) => web.page(StatusCode::OK, "schedules.html", &context),
        Err(problem) => web.error_page(&problem),
    }
}

async fn schedules(
    web: &Web,
    identity: &Identity,
    query: RawQuery,
) -> Result<tera::Context, Problem> {
    let query = Query::parse(
        query,
        &["after", "paused", "resumed", "triggered", "deleted"],
    )?;
    let after: Option<ScheduleId> = query.parsed("after", |name| ScheduleId::new(name))?;
    let (mut listed, unreadable, is_cut) = read_all(web).await?;
    listed.sort_by(|one, next| one.schedule.schedule_id.cmp(&next.schedule.schedule_id));
    let total = listed.len();
    listed.retain(|one| {
        after
            .as_ref()
            .is_none_or(|after| one.schedule.schedule_id > *after)
    });
    let has_more = listed.len() > SCHEDULES_MAX;
    listed.truncate(SCHEDULES_MAX);
    let next = listed.last().filter(|_| has_more);
    let next = next.map(|last| last.schedule.schedule_id.to_string());
    let now = clock::now();
    let rows: Vec<ScheduleRow> = stream::iter(listed)
        .map(|one| row(web, one, now))
        .buffered(READS_AT_ONCE)
        .try_collect()
        .await?;
    let mut context = frame(identity, "/schedules", false);
    context.insert("schedules", &rows);
    context.insert("total", &count(total as u64, "schedule"));
    context.insert("unreadable", &unreadable.join(", "));
    context.insert("is_cut", &is_cut);
    context.insert("next", &next.unwrap_or_default());
    context.insert("is_first", &after.is_none());
    context.insert("may_operate", &(identity.right >= Right::Operate));
    context.insert("may_submit", &(identity.right >= Right::Submit));
    let snapshot = web.live.snapshot().await?;
    context.insert("has_leader", &snapshot.facts.leader.is_some());
    insert_done(&mut context, &query)?;
    Ok(context)
}

/// The result of a form, from the name in the address of the redirect.
fn insert_done(context: &mut tera::Context, query: &Query) -> Result<(), Problem> {
    let name = |parameter| query.parsed(parameter, |name| ScheduleId::new(name));
    let job = query.parsed("triggered", |job| JobId::new(job))?;
    let done = match (name("paused")?, name("resumed")?, name("deleted")?) {
        (Some(name), ..) => format!("The schedule `{name}` is paused."),
        (None, Some(name), _) => format!("The schedule `{name}` is active."),
        (None, None, Some(name)) => format!("The schedule `{name}` is deleted."),
        (None, None, None) if job.is_some() => "Enqueued the job".to_owned(),
        (None, None, None) => String::new(),
    };
    context.insert("done", &done);
    context.insert(
        "done_job",
        &job.map(|job| job.to_string()).unwrap_or_default(),
    );
    Ok(())
}

/// The schedules, the names of those that cannot be read, and whether more exist.
async fn read_all(web: &Web) -> Result<(Vec<ScheduleSummary>, Vec<String>, bool), ClientError> {
    let mut listed = web
        .client
        .list_schedules(&ScheduleFilter::default())
        .await?;
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    while let Some(schedule) = listed.next().await? {
        if found.len() + unreadable.len() == READ_MAX {
            return Ok((found, unreadable, true));
        }
        match schedule {
            ListedSchedule::Valid(summary) => found.push(*summary),
            ListedSchedule::Invalid { schedule_id, .. } => unreadable.push(schedule_id.to_string()),
        }
    }
    Ok((found, unreadable, false))
}

async fn row(
    web: &Web,
    summary: ScheduleSummary,
    now: Timestamp,
) -> Result<ScheduleRow, ClientError> {
    let runs = web.client.fetch_runs(&summary.schedule, RUNS_SHOWN).await?;
    let schedule = &summary.schedule;
    let progress = &schedule.progress;
    let (rule, rule_text) = rule(schedule);
    let zone = zone_of(schedule);
    let (status, class) = status(&summary);
    let last = match runs.first().map(|run| run.outcome) {
        Some(Some(outcome)) => ending_of(&outcome).to_string(),
        Some(None) => "expired".to_owned(),
        None => String::new(),
    };
    let problem = summary.problem.as_deref();
    let problem = problem.or(schedule.paused_reason.as_deref());
    let problem = problem.or(progress
        .last_error
        .as_deref()
        .filter(|_| progress.failures > 0));
    Ok(ScheduleRow {
        name: schedule.schedule_id.to_string(),
        queue: schedule.queue.to_string(),
        status,
        class,
        is_active: schedule.status == ScheduleStatus::Active,
        is_paused: schedule.status == ScheduleStatus::Paused,
        rule,
        rule_text,
        zone: zone.name().to_owned(),
        next: summary
            .next_run
            .map(|next| match next > now {
                true => relative_time(next, now),
                false => "due now".to_owned(),
            })
            .unwrap_or_default(),
        next_in_zone: summary
            .next_run
            .map(|next| in_zone(next, zone))
            .unwrap_or_default(),
        next_utc: summary
            .next_run
            .map(|next| next.to_string())
            .unwrap_or_default(),
        next_utc_text: summary
            .next_run
            .map(|next| in_zone(next, Timezone::UTC))
            .unwrap_or_default(),
        strip: run_cells(&runs, zone),
        last,
        last_at: progress
            .last_run
            .map(|last| relative_time(last, now))
            .unwrap_or_default(),
        runs: progress.runs,
        left_out: left_out(schedule),
        command: summary.command().as_deref().map(escape).unwrap_or_default(),
        problem: problem.map(escape).unwrap_or_default(),
    })
}

/// The time zone in which a schedule's times are shown. UTC if its zone is unknown.
pub(super) fn zone_of(schedule: &Schedule) -> Timezone {
    let zone = schedule.tz.as_deref();
    zone.and_then(|name| name.parse().ok()).unwrap_or_default()
}

/// How many ticks the policies for late and overlapping ticks left out.
fn left_out(schedule: &Schedule) -> String {
    let progress = &schedule.progress;
    let at_least = match progress.missed_is_minimum {
        true => "≥ ",
        false => "",
    };
    let numbers = [
        (
            progress.missed,
            format!("{at_least}{} missed", progress.missed),
        ),
        (progress.skipped, format!("{} skipped", progress.skipped)),
    ];
    let parts = numbers.into_iter().filter(|(number, _)| *number > 0);
    parts.map(|(_, text)| text).collect::<Vec<_>>().join(", ")
}

/// The rule of its ticks, and in words.
pub(super) fn rule(schedule: &Schedule) -> (String, String) {
    if let Some(cron) = &schedule.cron {
        let text = Cron::parse(cron).map(|cron| cron.explain());
        return (escape(cron), text.unwrap_or_default());
    }
    let every = schedule.every.map(|every| format!("every {every}"));
    (every.unwrap_or_default(), String::new())
}

/// Its status, and the class of the status.
pub(super) fn status(summary: &ScheduleSummary) -> (String, &'static str) {
    let status = summary.schedule.status;
    match status {
        _ if summary.problem.is_some() => ("invalid".to_owned(), "bad"),
        ScheduleStatus::Active if summary.schedule.progress.failures > 0 => {
            ("failing".to_owned(), "bad")
        }
        ScheduleStatus::Active => (status.to_string(), "ok"),
        ScheduleStatus::Paused => (status.to_string(), "wait"),
        _ => (status.to_string(), "idle"),
    }
}

/// A moment in a time zone, to the second: `2026-12-24 18:00:00 +01:00`, or `2026-12-24 17:00:00 UTC`.
pub(super) fn in_zone(moment: Timestamp, zone: Timezone) -> String {
    let second = Timestamp::from_unix_ms(moment.unix_ms().div_euclid(1_000) * 1_000);
    let text = zone
        .format(second.unwrap_or(moment).0)
        .replacen('T', " ", 1);
    let (time, offset) = text.split_at(text.len().min("2026-12-24 18:00:00".len()));
    format!("{time} {}", offset.replace('Z', "UTC"))
        .trim_end()
        .to_owned()
}

pub(in crate::web) async fn pause(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
) -> Response {
    let done = async {
        let name = ScheduleId::new(&name)?;
        web.client.pause_schedule(&name).await?;
        Ok(format!("paused={name}"))
    };
    back(&web, done.await)
}

pub(in crate::web) async fn resume(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
) -> Response {
    let done = async {
        let name = ScheduleId::new(&name)?;
        web.client.resume_schedule(&name).await?;
        Ok(format!("resumed={name}"))
    };
    back(&web, done.await)
}

pub(in crate::web) async fn trigger(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
) -> Response {
    let done = async {
        let job = web
            .client
            .trigger_schedule(&ScheduleId::new(&name)?)
            .await?;
        Ok(format!("triggered={job}"))
    };
    back(&web, done.await)
}

/// Redirects to the page, which shows the result.
fn back(web: &Web, done: Result<String, Problem>) -> Response {
    match done {
        Ok(done) => Redirect::to(&format!("{}/schedules?{done}", web.base_path())).into_response(),
        Err(problem) => web.error_page(&problem),
    }
}
