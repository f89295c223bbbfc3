//! The page of a schedule: its runs, its next ticks, its definition, and what may be done with it.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use serde::{Deserialize, Serialize};

use super::frame::frame;
use super::job_envelope::envelope_text;
use super::schedules::{RunCell, in_zone, rule, run_cells, status, zone_of};
use crate::clock;
use crate::text::{count, relative_time};
use crate::web::access::{Identity, Right};
use crate::web::api::parameters::{Query, encode, limit};
use crate::web::audit::Tally;
use crate::web::precondition::Precondition;
use crate::web::problem::{self, Problem};
use crate::web::schedule_definition::{self, ScheduleDefinition, etag_of};
use crate::web::state::Web;
use naq_client::{
    BACKFILL_TICKS_DEFAULT, BACKFILL_TICKS_MAX, Backfill, BackfillOrder, BackfillRange, Client,
    ClientError, ScheduleSummary,
};
use naq_core::{SchedulePosition, check_schedule};
use naq_cron::{Timezone, parse_datetime};
use naq_protocol::{Misfire, Schedule, ScheduleId, ScheduleStatus, Timestamp, escape};

/// Runs of the strip.
const RUNS_SHOWN: usize = 40;

/// Next ticks that the page names.
const TICKS_SHOWN: usize = 5;

/// Maximum number of runs of a backfill that the page lists.
const BACKFILL_SHOWN_MAX: usize = 50;

/// A tick to come.
#[derive(Serialize)]
struct TickRow {
    distance: String,
    in_zone: String,
    utc: String,
    utc_text: String,
}

/// A field of the definition, or a number of the history.
#[derive(Serialize)]
struct Fact {
    name: &'static str,
    value: String,
    /// What it means. Empty if the name says it.
    text: &'static str,
    class: &'static str,
}

impl Fact {
    fn new(name: &'static str, value: impl ToString) -> Fact {
        Fact {
            name,
            value: escape(&value.to_string()),
            text: "",
            class: "",
        }
    }
}

/// A run that a backfill would enqueue.
#[derive(Serialize)]
struct BackfillRow {
    in_zone: String,
    job_id: String,
    existed: bool,
}

/// The preview of a backfill.
#[derive(Serialize)]
struct BackfillView {
    /// `7 jobs would be enqueued`, or why none is.
    summary: String,
    /// What is left of the range. Empty if nothing is.
    more: String,
    /// The button. Empty if there is nothing to enqueue.
    button: String,
    rows: Vec<BackfillRow>,
    /// How many runs `rows` leaves out.
    rows_more: usize,
    /// The range, for the form that enqueues it.
    from_utc: String,
    to_utc: String,
}

/// The fields of the form of a backfill, as they were sent.
#[derive(Serialize)]
struct BackfillFields {
    from: String,
    to: String,
    limit: String,
    is_newest: bool,
}

pub(in crate::web) async fn show(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    query: RawQuery,
) -> Response {
    match page(&web, &identity, &name, query).await {
        Ok(context) => web.page(StatusCode::OK, "schedule.html", &context),
        Err(problem) => web.error_page(&problem),
    }
}

/// Reads a schedule and its version.
async fn read(client: &Client, name: &ScheduleId) -> Result<(Schedule, u64), Problem> {
    let found = client.fetch_schedule_revision(name).await?;
    found.ok_or_else(|| ClientError::NoSuchSchedule(name.to_string()).into())
}

async fn page(
    web: &Web,
    identity: &Identity,
    name: &str,
    query: RawQuery,
) -> Result<tera::Context, Problem> {
    let parameters = [
        "from", "to", "limit", "order", "saved", "enqueued", "existed", "backfill",
    ];
    let query = Query::parse(query, &parameters)?;
    let name = ScheduleId::new(name)?;
    let now = clock::now();
    let (schedule, revision) = read(&web.client, &name).await?;
    let etag = etag_of(&web.config.tokens, Some(&schedule), revision);
    let runs = web.client.fetch_runs(&schedule, RUNS_SHOWN).await?;
    let summary = ScheduleSummary::from(schedule);
    let schedule = &summary.schedule;
    let zone = zone_of(schedule);
    let (status, class) = status(&summary);
    let (rule, rule_text) = rule(schedule);
    let mut context = frame(identity, "/schedules", false);
    context.insert("name", name.as_str());
    context.insert("status", &status);
    context.insert("class", class);
    context.insert("is_active", &(schedule.status == ScheduleStatus::Active));
    context.insert("is_paused", &(schedule.status == ScheduleStatus::Paused));
    context.insert("rule", &rule);
    context.insert("rule_text", &rule_text);
    context.insert("zone", zone.name());
    context.insert("queue", schedule.queue.as_str());
    context.insert(
        "command",
        &summary.command().as_deref().map(escape).unwrap_or_default(),
    );
    context.insert("alerts", &alerts(&summary));
    let cells: Vec<RunCell> = run_cells(&runs, zone);
    context.insert("runs", &cells);
    context.insert("runs_text", &runs_text(&cells));
    context.insert("history", &history(schedule, zone, now));
    context.insert("ticks", &ticks(schedule, zone, now));
    context.insert("facts", &definition_facts(schedule, zone));
    let definition = ScheduleDefinition::of(schedule);
    let envelope = definition.map(|definition| envelope_text(&definition.envelope));
    context.insert("envelope", &envelope.unwrap_or_default());
    context.insert("etag", &etag.to_string());
    context.insert("may_operate", &(identity.right >= Right::Operate));
    context.insert("may_submit", &(identity.right >= Right::Submit));
    insert_backfill(web, &mut context, &query, &name, zone).await?;
    insert_done(&mut context, &query)?;
    Ok(context)
}

/// What a form has done, from the values in the address that it redirected to.
fn insert_done(context: &mut tera::Context, query: &Query) -> Result<(), Problem> {
    let enqueued = query.parsed::<u64, _>("enqueued", str::parse)?;
    let existed = query.parsed::<u64, _>("existed", str::parse)?;
    let label = query.one("backfill")?.unwrap_or_default();
    let done = match enqueued {
        Some(enqueued) => {
            let existed = match existed.unwrap_or(0) {
                0 => String::new(),
                existed => format!("; {existed} existed"),
            };
            format!("{} enqueued{existed}.", count(enqueued, "job"))
        }
        None if query.is_on("saved")? => "The schedule is saved.".to_owned(),
        None => String::new(),
    };
    let filter = match (enqueued, label) {
        (Some(1..), label) if !label.is_empty() => {
            format!("/jobs?q={}", encode(&format!("label:backfill={label}")))
        }
        _ => String::new(),
    };
    context.insert("done", &done);
    context.insert("done_filter", &filter);
    Ok(())
}

/// What is wrong with the schedule.
fn alerts(summary: &ScheduleSummary) -> Vec<String> {
    let schedule = &summary.schedule;
    let progress = &schedule.progress;
    let problem = summary.problem.as_deref();
    let invalid = problem.map(|problem| format!("The definition is invalid: {}", escape(problem)));
    let reason = schedule.paused_reason.as_deref();
    let paused = reason.map(|reason| format!("The scheduler paused it: {}", escape(reason)));
    let error = progress.last_error.as_deref();
    let failing = error.filter(|_| progress.failures > 0).map(|error| {
        let ticks = count(u64::from(progress.failures), "tick");
        format!("{ticks} in a row could not be enqueued: {}", escape(error))
    });
    [invalid, paused, failing].into_iter().flatten().collect()
}

/// The strip in words.
fn runs_text(cells: &[RunCell]) -> String {
    if cells.is_empty() {
        return "It has no run yet.".to_owned();
    }
    let of = |class: &str| cells.iter().filter(|cell| cell.class == class).count();
    let numbers = [
        (of("ok"), "succeeded"),
        (of("bad"), "failed"),
        (of("run"), "running"),
        (of("wait") + of("idle"), "in another state"),
        (of("none"), "without a job"),
    ];
    let parts = numbers
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{number} {what}"));
    let parts: Vec<String> = parts.collect();
    format!(
        "The last {}: {}.",
        count(cells.len() as u64, "tick"),
        parts.join(", ")
    )
}

/// The numbers of its history, and what the policies did.
fn history(schedule: &Schedule, zone: Timezone, now: Timestamp) -> Vec<Fact> {
    let progress = &schedule.progress;
    let at =
        |moment: Timestamp| format!("{} ({})", in_zone(moment, zone), relative_time(moment, now));
    let missed = match progress.missed_is_minimum {
        true => format!("at least {}", progress.missed),
        false => progress.missed.to_string(),
    };
    let warned = |number: u64| if number > 0 { "bad" } else { "" };
    let mut facts = vec![
        Fact::new("Jobs enqueued", progress.runs),
        Fact {
            text: match schedule.misfire {
                Misfire::Skip => "late ticks (misfire: skip)",
                Misfire::Once => "late ticks before the last of them (misfire: once)",
                _ => "late ticks beyond the maximum (misfire: all)",
            },
            class: warned(progress.missed),
            ..Fact::new("Missed", missed)
        },
        Fact {
            text: "ticks while the job before had not ended (overlap: skip)",
            ..Fact::new("Skipped", progress.skipped)
        },
    ];
    if let Some(last) = progress.last_run {
        facts.push(Fact::new("Last tick", at(last)));
    }
    if let Some(last) = progress.last_trigger {
        facts.push(Fact::new("Last triggered", at(last)));
    }
    facts.push(Fact::new("Created", at(schedule.created_at)));
    facts
}

/// The ticks to come. None if the schedule is not active, or is invalid.
fn ticks(schedule: &Schedule, zone: Timezone, now: Timestamp) -> Vec<TickRow> {
    let Ok(plan) = check_schedule(schedule) else {
        return Vec::new();
    };
    if schedule.status != ScheduleStatus::Active {
        return Vec::new();
    }
    let left = schedule
        .repeat
        .map(|repeat| repeat.saturating_sub(schedule.progress.runs));
    let left = left.and_then(|left| usize::try_from(left).ok());
    let first = plan.next(&SchedulePosition::from_schedule(schedule));
    std::iter::successors(first, |tick| plan.tick_after(*tick))
        .take(TICKS_SHOWN.min(left.unwrap_or(TICKS_SHOWN)))
        .map(|tick| TickRow {
            distance: match tick > now {
                true => relative_time(tick, now),
                false => "due now".to_owned(),
            },
            in_zone: in_zone(tick, zone),
            utc: tick.to_string(),
            utc_text: in_zone(tick, Timezone::UTC),
        })
        .collect()
}

/// The definition, without its rule and its command.
fn definition_facts(schedule: &Schedule, zone: Timezone) -> Vec<Fact> {
    let time = |time: Option<Timestamp>| time.map(|time| in_zone(time, zone));
    let optional = [
        ("Start", time(schedule.start)),
        ("End", time(schedule.end)),
        (
            "Jobs at most",
            schedule.repeat.map(|repeat| repeat.to_string()),
        ),
        ("Jitter", schedule.jitter.map(|jitter| jitter.to_string())),
        (
            "Misfires at most",
            schedule.misfire_max.map(|max| max.to_string()),
        ),
        (
            "Grace of misfires",
            schedule.misfire_grace.map(|grace| grace.to_string()),
        ),
        ("Set", schedule.set.clone()),
    ];
    let mut facts = vec![
        Fact::new("Misfire", schedule.misfire),
        Fact::new("Overlap", schedule.overlap),
    ];
    let given = optional.into_iter();
    facts.extend(given.filter_map(|(name, value)| Some(Fact::new(name, value?))));
    facts
}

/// Adds the form of a backfill, and its preview if a range was sent.
async fn insert_backfill(
    web: &Web,
    context: &mut tera::Context,
    query: &Query,
    name: &ScheduleId,
    zone: Timezone,
) -> Result<(), Problem> {
    let text = |name| Ok::<_, Problem>(query.one(name)?.unwrap_or_default().to_owned());
    let fields = BackfillFields {
        from: text("from")?,
        to: text("to")?,
        limit: match text("limit")? {
            empty if empty.is_empty() => BACKFILL_TICKS_DEFAULT.to_string(),
            limit => limit,
        },
        is_newest: query.one("order")? == Some("newest"),
    };
    let (mut view, mut error) = (None, String::new());
    if !fields.from.is_empty() {
        let previewed = async {
            let range = read_range(query, zone)?;
            let backfill = web.client.backfill_schedule(name, &range, true).await?;
            Ok::<_, Problem>(preview(&backfill, &range, zone))
        };
        match previewed.await {
            Ok(found) => view = Some(found),
            Err(problem) if problem.status().is_client_error() => {
                error = problem.detail().to_owned();
            }
            Err(problem) => return Err(problem),
        }
    }
    context.insert("backfill_fields", &fields);
    context.insert("backfill_limit_max", &BACKFILL_TICKS_MAX);
    context.insert("backfill", &view);
    context.insert("backfill_error", &error);
    Ok(())
}

/// The range that a form describes, in the time zone of the schedule.
fn read_range(query: &Query, zone: Timezone) -> Result<BackfillRange, Problem> {
    let now = clock::now();
    let time = |name: &'static str| {
        let text = query.one(name)?.filter(|text| !text.is_empty());
        let time = text
            .map(|text| parse_datetime(text, zone, now.0))
            .transpose();
        let time = time.map_err(|error| Problem::parameter(name, error))?;
        Ok::<_, Problem>(time.map(Timestamp))
    };
    let limit = query.parsed("limit", |text| match text {
        "" => Ok(BACKFILL_TICKS_DEFAULT),
        text => limit(text, BACKFILL_TICKS_MAX),
    })?;
    let order = query.parsed("order", |text| match text {
        "" => Ok(BackfillOrder::default()),
        text => text.parse(),
    })?;
    let Some(from) = time("from")? else {
        return Err(Problem::parameter("from", "it is missing"));
    };
    Ok(BackfillRange {
        from,
        to: time("to")?.unwrap_or(now),
        limit: limit.unwrap_or(BACKFILL_TICKS_DEFAULT),
        order: order.unwrap_or_default(),
    })
}

fn preview(backfill: &Backfill, range: &BackfillRange, zone: Timezone) -> BackfillView {
    let new_jobs = backfill.new_jobs() as u64;
    let existing = backfill.runs.len() as u64 - new_jobs;
    let existing = match existing {
        0 => String::new(),
        existing => format!("; {existing} exist already"),
    };
    let at_least = match backfill.more_is_minimum {
        true => "at least ",
        false => "",
    };
    let rows = backfill.runs.iter().take(BACKFILL_SHOWN_MAX);
    BackfillView {
        summary: match backfill.runs.is_empty() {
            true => "The schedule has no run in this range.".to_owned(),
            false => format!("{} would be enqueued{existing}.", count(new_jobs, "job")),
        },
        more: match backfill.more {
            0 => String::new(),
            more => format!("The range has {at_least}{}.", count(more, "more run")),
        },
        button: match new_jobs {
            0 => String::new(),
            new_jobs => format!("Enqueue {}", count(new_jobs, "job")),
        },
        rows: rows
            .map(|run| BackfillRow {
                in_zone: in_zone(run.tick, zone),
                job_id: run.job_id.to_string(),
                existed: run.existed,
            })
            .collect(),
        rows_more: backfill.runs.len().saturating_sub(BACKFILL_SHOWN_MAX),
        from_utc: range.from.to_string(),
        to_utc: range.to.to_string(),
    }
}

/// The form that enqueues what a preview showed.
#[derive(Deserialize)]
pub(in crate::web) struct BackfillForm {
    from: Timestamp,
    to: Timestamp,
    limit: usize,
    order: String,
}

/// Enqueues the runs of a range.
pub(in crate::web) async fn backfill(
    State(web): State<Arc<Web>>,
    Extension(tally): Extension<Tally>,
    Path(name): Path<String>,
    Form(form): Form<BackfillForm>,
) -> Response {
    let done = async {
        let name = ScheduleId::new(&name)?;
        let order = form.order.parse();
        let range = BackfillRange {
            from: form.from,
            to: form.to,
            limit: form.limit,
            order: order.map_err(|error| Problem::parameter("order", error))?,
        };
        let backfill = web.client.backfill_schedule(&name, &range, false).await?;
        let new_jobs = backfill.new_jobs();
        match new_jobs {
            0 => tally.set_unchanged(),
            new_jobs => tally.add(new_jobs as u64),
        }
        let existed = backfill.runs.len() - new_jobs;
        let label = &backfill.label;
        Ok::<_, Problem>(format!(
            "/schedules/{name}?enqueued={new_jobs}&existed={existed}&backfill={label}"
        ))
    };
    lead(&web, done.await)
}

/// The form that deletes a schedule.
#[derive(Deserialize)]
pub(in crate::web) struct DeleteForm {
    /// The name that the user typed.
    name: String,
    /// The version that the user saw.
    etag: String,
}

/// Deletes a schedule if the user typed its name, and nobody has changed it since.
pub(in crate::web) async fn delete(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    Form(form): Form<DeleteForm>,
) -> Response {
    let done = async {
        let name = ScheduleId::new(&name)?;
        if form.name != name.as_str() {
            let detail = format!("nothing was deleted: type `{name}` to confirm");
            return Err(Problem::new(&problem::CONFLICT, detail));
        }
        let seen = Precondition::of_form(&form.etag)?;
        schedule_definition::delete(&web, &name, &seen, false).await?;
        Ok(format!("/schedules?deleted={name}"))
    };
    lead(&web, done.await)
}

/// Leads to a page that says what was done.
pub(super) fn lead(web: &Web, done: Result<String, Problem>) -> Response {
    match done {
        Ok(place) => Redirect::to(&format!("{}{place}", web.base_path())).into_response(),
        Err(problem) => web.error_page(&problem),
    }
}
