//! `naq schedule list`, `naq schedule show` and `naq list-scheduled`, the Python library's name

use std::collections::BTreeMap;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::cli::exit::{Exit, Failure};
use crate::cli::render;
use crate::cli::session::Session;
use naq_client::{
    Client, ClientError, DelayedJobSummary, LastOutcome, ListedSchedule, ScheduleFilter,
    ScheduleSummary,
};
use naq_protocol::{JobId, QueueName, Schedule, ScheduleId, ScheduleStatus, Timestamp};

#[derive(Debug, Default, clap::Args)]
pub(in crate::cli) struct Args {
    /// Those with this status
    #[arg(long, value_name = "STATUS", value_parser = status())]
    status: Option<ScheduleStatus>,
    /// The schedule of this name, or the job of this id
    #[arg(long, value_name = "ID", alias = "name")]
    job_id: Option<String>,
    /// Schedules, or jobs that run once, at their time
    #[arg(long, value_name = "KIND", value_parser = kind())]
    kind: Option<ScheduleKind>,
    /// Those whose jobs go to this queue
    #[arg(short = 'q', long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Those that were applied with this set
    #[arg(long, value_name = "NAME")]
    set: Option<String>,
    /// Show all there is to say about each
    #[arg(long)]
    detailed: bool,
    /// How many at the most, those that run next first; with --json all where this is not given
    #[arg(short = 'n', long, value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ShowArgs {
    /// Schedule's name, or a delayed job's id
    #[arg(value_name = "SCHEDULE")]
    id: String,
}

/// How many are shown to people where they do not say.
const LIMIT_DEFAULT: u32 = 200;

/// How many jobs are looked for at once.
const CONCURRENT_LOOKUPS_MAX: usize = 64;

fn status() -> impl TypedValueParser<Value = ScheduleStatus> {
    PossibleValuesParser::new(["active", "paused", "ended"]).map(|text| match text.as_str() {
        "paused" => ScheduleStatus::Paused,
        "ended" => ScheduleStatus::Ended,
        _ => ScheduleStatus::Active,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScheduleKind {
    Recurring,
    Delayed,
}

fn kind() -> impl TypedValueParser<Value = ScheduleKind> {
    PossibleValuesParser::new(["recurring", "one-shot"]).map(|text| match text.as_str() {
        "recurring" => ScheduleKind::Recurring,
        _ => ScheduleKind::Delayed,
    })
}

/// What is listed.
enum ListedEntry {
    Recurring(ListedSchedule),
    Delayed(DelayedJobSummary),
}

/// The same, and how the last job of a schedule is.
struct Row {
    listed: ListedEntry,
    outcome: Option<LastOutcome>,
}

pub(in crate::cli) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let filter = ScheduleFilter {
        status: args.status,
        queue: args.queue.as_ref().map(QueueName::new).transpose()?,
        set: args.set.clone(),
    };
    if let Some(id) = &args.job_id {
        let job = JobId::new(id)?;
        let client = session.connect().await?;
        let listed = find(&client, &job, &filter, args.kind).await?;
        let row = with_outcome(&client, listed).await?;
        return show(session, &args, vec![row], 0);
    }
    let client = session.connect().await?;
    let listed = list(&client, &filter, args.kind).await?;
    tokio::pin!(listed);
    if session.json && args.limit.is_none() {
        let rows = with_outcomes(&client, listed);
        tokio::pin!(rows);
        while let Some(row) = rows.try_next().await? {
            render::print_json(&as_json(&row, args.detailed))?;
        }
        return Ok(0);
    }
    // those that run next are known when all have been seen; no more than are shown are held
    let limit = args.limit.unwrap_or(LIMIT_DEFAULT) as usize;
    let (mut first, mut left_out) = (BTreeMap::new(), 0_u64);
    while let Some(one) = listed.try_next().await? {
        first.insert(sort_key(&one), one);
        if first.len() > limit {
            first.pop_last();
            left_out += 1;
        }
    }
    let listed = stream::iter(first.into_values().map(Ok));
    let rows = with_outcomes(&client, listed).try_collect().await?;
    show(session, &args, rows, left_out)
}

/// Shows one schedule, or one delayed job, in full.
pub(in crate::cli) async fn show_one(session: &Session, args: ShowArgs) -> Result<u8, Failure> {
    let args = Args {
        job_id: Some(args.id),
        detailed: true,
        ..Args::default()
    };
    run(session, args).await
}

/// One of them, by its name or id.
async fn find(
    client: &Client,
    job: &JobId,
    filter: &ScheduleFilter,
    kind: Option<ScheduleKind>,
) -> Result<ListedEntry, Failure> {
    if kind != Some(ScheduleKind::Delayed)
        && let Ok(name) = ScheduleId::new(job.as_str())
        && let Some(summary) = client.fetch_schedule(&name).await?
        && filter.matches(&summary.schedule)
    {
        let summary = ListedSchedule::Valid(Box::new(summary));
        return Ok(ListedEntry::Recurring(summary));
    }
    if kind != Some(ScheduleKind::Recurring) {
        match client.fetch_delayed_job(job).await {
            Ok(one_shot) if matches_filter(&one_shot, filter) => {
                return Ok(ListedEntry::Delayed(one_shot));
            }
            Ok(_) | Err(ClientError::NoSuchJob(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(not_scheduled_error(job))
}

/// Nothing is scheduled under an id.
pub(in crate::cli) fn not_scheduled_error(id: &JobId) -> Failure {
    Failure::new(
        Exit::NotFound,
        format!("there is neither a schedule `{id}` nor a job `{id}` that is held until its time"),
    )
}

/// All of them, as they are asked for: schedules, then jobs that run once.
async fn list(
    client: &Client,
    filter: &ScheduleFilter,
    kind: Option<ScheduleKind>,
) -> Result<impl Stream<Item = Result<ListedEntry, ClientError>>, ClientError> {
    let schedules = match kind {
        Some(ScheduleKind::Delayed) => None,
        _ => Some(client.list_schedules(filter).await?),
    };
    // they are of no set, and one that has run is a job like any other
    let may_be = filter.set.is_none() && filter.status != Some(ScheduleStatus::Ended);
    let delayed_jobs = match kind {
        Some(ScheduleKind::Recurring) => None,
        _ if !may_be => None,
        _ => Some(client.delayed_jobs(filter.queue.as_ref()).await?),
    };
    let filter = filter.clone();
    Ok(stream::try_unfold(
        (schedules, delayed_jobs),
        move |(mut schedules, mut delayed_jobs)| {
            let filter = filter.clone();
            async move {
                if let Some(list) = &mut schedules {
                    if let Some(listed) = list.next().await? {
                        return Ok(Some((
                            ListedEntry::Recurring(listed),
                            (schedules, delayed_jobs),
                        )));
                    }
                    schedules = None;
                }
                while let Some(list) = &mut delayed_jobs {
                    match list.next().await? {
                        Some(one_shot) if matches_filter(&one_shot, &filter) => {
                            return Ok(Some((
                                ListedEntry::Delayed(one_shot),
                                (schedules, delayed_jobs),
                            )));
                        }
                        Some(_) => {}
                        None => delayed_jobs = None,
                    }
                }
                Ok(None)
            }
        },
    ))
}

fn delayed_job_status(one_shot: &DelayedJobSummary) -> ScheduleStatus {
    if one_shot.paused {
        ScheduleStatus::Paused
    } else {
        ScheduleStatus::Active
    }
}

fn matches_filter(one_shot: &DelayedJobSummary, filter: &ScheduleFilter) -> bool {
    let status = delayed_job_status(one_shot);
    filter.set.is_none()
        && filter.status.is_none_or(|wanted| wanted == status)
        && filter
            .queue
            .as_ref()
            .is_none_or(|queue| *queue == one_shot.queue)
}

/// What is done about first comes first: what cannot be read, then by the next run, then by name.
fn sort_key(listed: &ListedEntry) -> (Option<Timestamp>, bool, String) {
    let never = Timestamp(chrono::DateTime::<chrono::Utc>::MAX_UTC);
    match listed {
        ListedEntry::Recurring(ListedSchedule::Invalid { schedule_id, .. }) => {
            (None, false, schedule_id.to_string())
        }
        ListedEntry::Recurring(ListedSchedule::Valid(summary)) => {
            let is_over = summary.schedule.status == ScheduleStatus::Ended;
            let id = summary.schedule.schedule_id.to_string();
            (Some(summary.next_run.unwrap_or(never)), is_over, id)
        }
        ListedEntry::Delayed(one_shot) => {
            let due = one_shot.due.filter(|_| !one_shot.paused);
            (
                Some(due.unwrap_or(never)),
                false,
                one_shot.job_id.to_string(),
            )
        }
    }
}

/// Each with the outcome of its last job, in the same order, many looked for at once.
fn with_outcomes<'c>(
    client: &'c Client,
    listed: impl Stream<Item = Result<ListedEntry, ClientError>> + 'c,
) -> impl Stream<Item = Result<Row, ClientError>> + 'c {
    listed
        .map(move |listed| async move { with_outcome(client, listed?).await })
        .buffered(CONCURRENT_LOOKUPS_MAX)
}

async fn with_outcome(client: &Client, listed: ListedEntry) -> Result<Row, ClientError> {
    let outcome = match &listed {
        ListedEntry::Recurring(ListedSchedule::Valid(summary)) => {
            client.fetch_last_outcome(&summary.schedule).await?
        }
        ListedEntry::Recurring(ListedSchedule::Invalid { .. }) | ListedEntry::Delayed(_) => None,
    };
    Ok(Row { listed, outcome })
}

fn show(session: &Session, args: &Args, rows: Vec<Row>, left_out: u64) -> Result<u8, Failure> {
    if session.json {
        for row in &rows {
            render::print_json(&as_json(row, args.detailed))?;
        }
        return Ok(0);
    }
    if rows.is_empty() {
        render::note("nothing of that kind is scheduled");
        return Ok(0);
    }
    let now = render::now();
    if args.detailed {
        for (index, row) in rows.iter().enumerate() {
            if index > 0 {
                render::print_line("")?;
            }
            print_details(row, now)?;
        }
    } else {
        let cells: Vec<Vec<String>> = rows.iter().map(|row| table_row(row, now)).collect();
        render::print_table(
            &[
                "SCHEDULE", "WHEN", "QUEUE", "STATUS", "NEXT", "LAST", "OUTCOME", "RUNS", "MISSED",
                "FAILURES",
            ],
            &cells,
        )?;
    }
    if left_out > 0 {
        render::note(format_args!(
            "naq: {left_out} more are there; --limit shows more, --json all"
        ));
    }
    Ok(0)
}

/// When its ticks are, in a few words.
pub(in crate::cli) fn describe_timing(schedule: &Schedule) -> String {
    match (&schedule.cron, schedule.every, &schedule.tz) {
        (Some(cron), _, Some(tz)) => format!("{cron} {tz}"),
        (Some(cron), _, None) => cron.clone(),
        (None, Some(every), _) => format!("every {every}"),
        (None, None, _) => "-".to_owned(),
    }
}

/// When a job that runs once does.
fn describe_time(one_shot: &DelayedJobSummary) -> String {
    match one_shot.due {
        Some(due) => format!("at {due}"),
        None => "-".to_owned(),
    }
}

fn format_time_utc(moment: Timestamp, now: Timestamp) -> String {
    let shown = render::format_in_zone(moment, None);
    format!("{shown} ({})", render::relative_time(moment, now))
}

fn format_status(summary: &ScheduleSummary) -> String {
    if let Some(problem) = &summary.problem {
        return format!("broken: {}", render::excerpt(problem, 60));
    }
    let schedule = &summary.schedule;
    match &schedule.paused_reason {
        Some(reason) if schedule.status == ScheduleStatus::Paused => {
            format!("paused: {}", render::excerpt(reason, 60))
        }
        _ => schedule.status.to_string(),
    }
}

fn format_outcome(outcome: Option<LastOutcome>) -> String {
    match outcome {
        None => "-".to_owned(),
        Some(LastOutcome {
            state,
            reason: None,
        }) => state.to_string(),
        Some(LastOutcome {
            state,
            reason: Some(reason),
        }) => format!("{state}/{reason}"),
    }
}

fn format_time(moment: Timestamp, schedule: &Schedule, now: Timestamp) -> String {
    let shown = render::format_in_zone(moment, schedule.tz.as_deref());
    format!("{shown} ({})", render::relative_time(moment, now))
}

fn table_row(row: &Row, now: Timestamp) -> Vec<String> {
    let none = || "-".to_owned();
    match &row.listed {
        ListedEntry::Delayed(one_shot) => {
            let mut cells = vec![
                one_shot.job_id.to_string(),
                describe_time(one_shot),
                one_shot.queue.to_string(),
                delayed_job_status(one_shot).to_string(),
                one_shot
                    .due
                    .filter(|_| !one_shot.paused)
                    .map_or_else(none, |due| format_time_utc(due, now)),
            ];
            cells.resize_with(10, none);
            cells
        }
        ListedEntry::Recurring(ListedSchedule::Invalid {
            schedule_id,
            problem,
        }) => {
            let mut cells = vec![schedule_id.to_string(), none(), none()];
            cells.push(format!("unreadable: {}", render::excerpt(problem, 60)));
            cells.resize_with(10, none);
            cells
        }
        ListedEntry::Recurring(ListedSchedule::Valid(summary)) => {
            let schedule = &summary.schedule;
            let progress = &schedule.progress;
            vec![
                schedule.schedule_id.to_string(),
                describe_timing(schedule),
                schedule.queue.to_string(),
                format_status(summary),
                summary
                    .next_run
                    .map_or_else(none, |next_run| format_time(next_run, schedule, now)),
                progress
                    .last_run
                    .map_or_else(none, |last_run| render::relative_time(last_run, now)),
                format_outcome(row.outcome),
                progress.runs.to_string(),
                progress.missed.to_string(),
                progress.failures.to_string(),
            ]
        }
    }
}

fn print_details(row: &Row, now: Timestamp) -> std::io::Result<()> {
    let line = |name: &str, value: &str| {
        render::print_line(format_args!("{name:<14} {}", render::escape(value)))
    };
    let summary = match &row.listed {
        ListedEntry::Recurring(ListedSchedule::Valid(summary)) => summary,
        ListedEntry::Delayed(one_shot) => {
            line("job", one_shot.job_id.as_str())?;
            line("when", &describe_time(one_shot))?;
            line("queue", one_shot.queue.as_str())?;
            line("command", one_shot.command.as_deref().unwrap_or("-"))?;
            line("status", delayed_job_status(one_shot).as_str())?;
            if let Some(due) = one_shot.due.filter(|_| !one_shot.paused) {
                line("next run", &format_time_utc(due, now))?;
            }
            return line("made", &format_time_utc(one_shot.enqueue_time, now));
        }
        ListedEntry::Recurring(ListedSchedule::Invalid {
            schedule_id,
            problem,
        }) => {
            line("schedule", schedule_id.as_str())?;
            return line("status", &format!("unreadable: {problem}"));
        }
    };
    let schedule = &summary.schedule;
    let progress = &schedule.progress;
    let moment = |moment| format_time(moment, schedule, now);
    line("schedule", schedule.schedule_id.as_str())?;
    line("when", &describe_timing(schedule))?;
    line("queue", schedule.queue.as_str())?;
    line("command", summary.command().as_deref().unwrap_or("-"))?;
    line("status", &format_status(summary))?;
    let optional: [(&str, Option<String>); 12] = [
        ("next run", summary.next_run.map(moment)),
        ("last run", progress.last_run.map(moment)),
        (
            "last job",
            progress.last_job_id.as_ref().map(ToString::to_string),
        ),
        ("last outcome", row.outcome.map(Some).map(format_outcome)),
        (
            "repeat",
            schedule.repeat.map(|repeat| format!("{repeat} in all")),
        ),
        ("start", schedule.start.map(moment)),
        ("end", schedule.end.map(moment)),
        ("jitter", schedule.jitter.map(|jitter| jitter.to_string())),
        (
            "misfire max",
            schedule.misfire_max.map(|max| max.to_string()),
        ),
        (
            "misfire grace",
            schedule.misfire_grace.map(|grace| grace.to_string()),
        ),
        ("set", schedule.set.clone()),
        ("last error", progress.last_error.clone()),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            line(name, &value)?;
        }
    }
    line("misfire", schedule.misfire.as_str())?;
    line("overlap", schedule.overlap.as_str())?;
    line("runs", &progress.runs.to_string())?;
    line("missed", &progress.missed.to_string())?;
    line("skipped", &progress.skipped.to_string())?;
    line("failures", &progress.failures.to_string())?;
    line("made", &moment(schedule.created_at))
}

/// One line for programs. What is absent is left out.
fn as_json(row: &Row, detailed: bool) -> Value {
    let summary = match &row.listed {
        ListedEntry::Recurring(ListedSchedule::Valid(summary)) => summary,
        ListedEntry::Delayed(one_shot) => return delayed_job_as_json(one_shot, detailed),
        ListedEntry::Recurring(ListedSchedule::Invalid {
            schedule_id,
            problem,
        }) => {
            return json!({
                "id": schedule_id, "kind": "recurring", "status": "unreadable", "problem": problem,
            });
        }
    };
    let schedule = &summary.schedule;
    let progress = &schedule.progress;
    let mut object = json!({
        "id": schedule.schedule_id,
        "kind": "recurring",
        "queue": schedule.queue,
        "cron": schedule.cron,
        "tz": schedule.tz,
        "every": schedule.every,
        "status": schedule.status,
        "paused_reason": schedule.paused_reason,
        "problem": summary.problem,
        "next_run": summary.next_run,
        "last_run": progress.last_run,
        "last_job_id": progress.last_job_id,
        "last_state": row.outcome.map(|outcome| outcome.state),
        "last_reason": row.outcome.and_then(|outcome| outcome.reason),
        "runs": progress.runs,
        "missed": progress.missed,
        "skipped": progress.skipped,
        "failures": progress.failures,
        "last_error": progress.last_error,
        "set": schedule.set,
    });
    if detailed {
        let details = json!({
            "envelope": schedule.envelope,
            "anchor": schedule.anchor,
            "repeat": schedule.repeat,
            "start": schedule.start,
            "end": schedule.end,
            "jitter": schedule.jitter,
            "misfire": schedule.misfire,
            "misfire_max": schedule.misfire_max,
            "misfire_grace": schedule.misfire_grace,
            "overlap": schedule.overlap,
            "created_at": schedule.created_at,
            "done_until": progress.done_until,
            "summary": summary.command(),
        });
        if let (Value::Object(object), Value::Object(details)) = (&mut object, details) {
            object.extend(details);
        }
    }
    without_nulls(object)
}

fn delayed_job_as_json(one_shot: &DelayedJobSummary, detailed: bool) -> Value {
    let mut object = json!({
        "id": one_shot.job_id,
        "kind": "one_shot",
        "queue": one_shot.queue,
        "at": one_shot.due,
        "status": delayed_job_status(one_shot),
        "next_run": one_shot.due.filter(|_| !one_shot.paused),
    });
    if detailed {
        object["created_at"] = json!(one_shot.enqueue_time);
        object["labels"] = json!(one_shot.labels);
        object["summary"] = json!(one_shot.command);
    }
    without_nulls(object)
}

fn without_nulls(mut object: Value) -> Value {
    if let Value::Object(fields) = &mut object {
        fields.retain(|_, value| !value.is_null());
    }
    object
}
