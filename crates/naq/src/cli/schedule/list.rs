//! `naq schedule list`, `naq schedule show` and `naq list-scheduled`, the Python library's name

use std::cell::Cell;
use std::collections::BTreeMap;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};

use crate::cli::clock;
use crate::cli::exit::{Exit, Failure};
use crate::cli::json::{ScheduleDetails, ScheduleKind, ScheduleProgressReport, ScheduleReport};
use crate::cli::render::{self, Column, Ending};
use crate::cli::scheduler::list::warn_without_leader;
use crate::cli::session::Session;
use naq_client::{
    Client, ClientError, DelayedJobSummary, FailedStarts, LastOutcome, ListedSchedule,
    ScheduleFilter, ScheduleSummary,
};
use naq_protocol::{
    JobId, QueueName, Schedule, ScheduleId, ScheduleProgress, ScheduleStatus, State, Timestamp,
};

#[derive(Debug, Default, clap::Args)]
pub(in crate::cli) struct Args {
    /// List only those with this status
    #[arg(long, value_name = "STATUS", value_parser = status())]
    status: Option<ScheduleStatus>,
    /// List only the schedule of this name, or the delayed job of this id
    #[arg(long, value_name = "SCHEDULE|JOB", alias = "name")]
    job_id: Option<String>,
    /// Kind to list: recurring (schedules) or delayed (delayed jobs)
    #[arg(long, value_name = "KIND", value_parser = kind())]
    kind: Option<ScheduleKind>,
    /// List only those whose jobs go to this queue
    #[arg(short = 'q', long, value_name = "QUEUE")]
    queue: Option<String>,
    /// List only schedules of this set, as `naq schedule apply` names it
    #[arg(long, value_name = "NAME")]
    set: Option<String>,
    /// Show each in full
    #[arg(long)]
    detailed: bool,
    /// Maximum number, the next to run first [default: 200; with --json, all]
    #[arg(short = 'n', long, value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ShowArgs {
    /// Schedule's name, or a delayed job's id
    #[arg(value_name = "SCHEDULE|JOB")]
    id: String,
}

/// Entries in a table without `--limit`.
const LIMIT_DEFAULT: u32 = 200;

/// Last outcomes read at once.
const CONCURRENT_LOOKUPS_MAX: usize = 64;

fn status() -> impl TypedValueParser<Value = ScheduleStatus> {
    PossibleValuesParser::new(["active", "paused", "ended"]).map(|text| match text.as_str() {
        "paused" => ScheduleStatus::Paused,
        "ended" => ScheduleStatus::Ended,
        _ => ScheduleStatus::Active,
    })
}

fn kind() -> impl TypedValueParser<Value = ScheduleKind> {
    let kinds = [
        PossibleValue::new("recurring"),
        PossibleValue::new("delayed").alias("one-shot"),
    ];
    PossibleValuesParser::new(kinds).map(|text| match text.as_str() {
        "recurring" => ScheduleKind::Recurring,
        _ => ScheduleKind::Delayed,
    })
}

/// An entry of the list.
enum ListedEntry {
    Recurring(ListedSchedule),
    Delayed(DelayedJobSummary),
}

/// An entry, and the outcomes of a schedule's last jobs.
struct Row {
    listed: ListedEntry,
    outcome: Option<LastOutcome>,
    failed_starts: Option<FailedStarts>,
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
    let has_active = Cell::new(false);
    let code = list_all(session, &client, &args, &filter, &has_active).await?;
    if has_active.get() {
        warn_without_leader(&client, &client.fetch_leader().await).await;
        clock::warn_if_off(&client).await;
    }
    Ok(code)
}

/// Shows all entries that match. Sets `has_active` if a schedule waits for its next tick.
async fn list_all(
    session: &Session,
    client: &Client,
    args: &Args,
    filter: &ScheduleFilter,
    has_active: &Cell<bool>,
) -> Result<u8, Failure> {
    let listed = list(client, filter, args.kind).await?;
    let listed = listed.inspect_ok(|one| {
        if let ListedEntry::Recurring(ListedSchedule::Valid(summary)) = one {
            has_active.set(has_active.get() || summary.next_run.is_some());
        }
    });
    tokio::pin!(listed);
    if session.json && args.limit.is_none() {
        let rows = with_outcomes(client, listed);
        tokio::pin!(rows);
        while let Some(row) = rows.try_next().await? {
            render::print_json(&report(&row, args.detailed))?;
        }
        return Ok(0);
    }
    // which run next is known once all were read; only as many as are shown are kept
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
    let rows = with_outcomes(client, listed).try_collect().await?;
    show(session, args, rows, left_out)
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

/// One entry, by its name or id.
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
            Ok(delayed) if matches_filter(&delayed, filter) => {
                return Ok(ListedEntry::Delayed(delayed));
            }
            Ok(_) | Err(ClientError::NoSuchJob(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(not_scheduled_error(job))
}

/// The error for an id that is neither a schedule's nor a delayed job's.
pub(in crate::cli) fn not_scheduled_error(id: &JobId) -> Failure {
    Failure::new(
        Exit::NotFound,
        format!("no schedule and no delayed job is named `{id}`"),
    )
}

/// All entries that match, read as they are asked for: schedules, then delayed jobs.
async fn list(
    client: &Client,
    filter: &ScheduleFilter,
    kind: Option<ScheduleKind>,
) -> Result<impl Stream<Item = Result<ListedEntry, ClientError>>, ClientError> {
    let schedules = match kind {
        Some(ScheduleKind::Delayed) => None,
        _ => Some(client.list_schedules(filter).await?),
    };
    // a delayed job belongs to no set, and one that has started is no longer delayed
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
                        Some(delayed) if matches_filter(&delayed, &filter) => {
                            return Ok(Some((
                                ListedEntry::Delayed(delayed),
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

fn delayed_job_status(delayed: &DelayedJobSummary) -> ScheduleStatus {
    if delayed.paused {
        ScheduleStatus::Paused
    } else {
        ScheduleStatus::Active
    }
}

fn matches_filter(delayed: &DelayedJobSummary, filter: &ScheduleFilter) -> bool {
    let status = delayed_job_status(delayed);
    filter.set.is_none()
        && filter.status.is_none_or(|wanted| wanted == status)
        && filter
            .queue
            .as_ref()
            .is_none_or(|queue| *queue == delayed.queue)
}

/// The order of the list: unreadable schedules, then by the next run, then by name.
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
        ListedEntry::Delayed(delayed) => {
            let due = delayed.due.filter(|_| !delayed.paused);
            (
                Some(due.unwrap_or(never)),
                false,
                delayed.job_id.to_string(),
            )
        }
    }
}

/// Each entry with the outcome of its last job, in the same order; several are read at once.
fn with_outcomes<'c>(
    client: &'c Client,
    listed: impl Stream<Item = Result<ListedEntry, ClientError>> + 'c,
) -> impl Stream<Item = Result<Row, ClientError>> + 'c {
    listed
        .map(move |listed| async move { with_outcome(client, listed?).await })
        .buffered(CONCURRENT_LOOKUPS_MAX)
}

async fn with_outcome(client: &Client, listed: ListedEntry) -> Result<Row, ClientError> {
    let mut row = Row {
        listed,
        outcome: None,
        failed_starts: None,
    };
    if let ListedEntry::Recurring(ListedSchedule::Valid(summary)) = &row.listed {
        row.outcome = client.fetch_last_outcome(&summary.schedule).await?;
        if row
            .outcome
            .is_some_and(|last| matches!(last.state, State::Failed | State::Rejected))
        {
            row.failed_starts = client.fetch_failed_starts(&summary.schedule).await?;
        }
    }
    Ok(row)
}

fn show(session: &Session, args: &Args, rows: Vec<Row>, left_out: u64) -> Result<u8, Failure> {
    if session.json {
        for row in &rows {
            render::print_json(&report(row, args.detailed))?;
        }
        return Ok(0);
    }
    if rows.is_empty() {
        render::note("no such schedules or delayed jobs");
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
                Column::new("SCHEDULE"),
                Column::new("WHEN"),
                Column::new("STATUS"),
                Column::new("QUEUE").optional(3),
                Column::new("LAST").optional(2),
                Column::new("OUTCOME").optional(1),
                Column::number("RUNS").optional(4),
                Column::number("MISSED").optional(5),
                Column::number("FAILURES").optional(6),
                Column::new("NEXT"),
            ],
            &cells,
        )?;
    }
    if left_out > 0 {
        render::note(format_args!(
            "{left_out} more; --limit shows more, --json all"
        ));
    }
    Ok(0)
}

/// The number of missed ticks. A `+` means that there were more.
fn describe_missed(progress: &ScheduleProgress) -> String {
    let more = if progress.missed_is_minimum { "+" } else { "" };
    format!("{}{more}", progress.missed)
}

/// The times of a schedule's ticks, in a few words.
pub(in crate::cli) fn describe_timing(schedule: &Schedule) -> String {
    match (&schedule.cron, schedule.every, &schedule.tz) {
        (Some(cron), _, Some(tz)) => format!("{cron} {tz}"),
        (Some(cron), _, None) => cron.clone(),
        (None, Some(every), _) => format!("every {every}"),
        (None, None, _) => "-".to_owned(),
    }
}

/// The time of a delayed job, in a few words.
fn describe_time(delayed: &DelayedJobSummary) -> String {
    match delayed.due {
        Some(due) => format!("at {due}"),
        None => "-".to_owned(),
    }
}

fn format_status(summary: &ScheduleSummary, failed_starts: Option<&FailedStarts>) -> String {
    if let Some(problem) = &summary.problem {
        return format!("broken: {}", render::excerpt(problem, 60));
    }
    let schedule = &summary.schedule;
    match &schedule.paused_reason {
        Some(reason) if schedule.status == ScheduleStatus::Paused => {
            format!("paused: {}", render::excerpt(reason, 60))
        }
        _ => match failed_starts {
            Some(starts) => {
                let starts = render::escape(&starts.to_string());
                format!("{}: {}", schedule.status, render::excerpt(&starts, 100))
            }
            None => {
                let is_unknown = matches!(schedule.status, ScheduleStatus::Unknown(_));
                render::name_of_any_version(schedule.status, is_unknown)
            }
        },
    }
}

fn format_outcome(outcome: Option<LastOutcome>) -> String {
    let Some(outcome) = outcome else {
        return "-".to_owned();
    };
    let ending = Ending {
        state: outcome.state,
        reason: outcome.reason,
        exit_code: outcome.exit_code,
        signal: outcome.signal,
    };
    ending.to_string()
}

fn table_row(row: &Row, now: Timestamp) -> Vec<String> {
    let none = || "-".to_owned();
    match &row.listed {
        ListedEntry::Delayed(delayed) => {
            let mut cells = vec![
                delayed.job_id.to_string(),
                describe_time(delayed),
                delayed_job_status(delayed).to_string(),
                delayed.queue.to_string(),
            ];
            cells.resize_with(9, none);
            let due = delayed.due.filter(|_| !delayed.paused);
            cells.push(due.map_or_else(none, |due| render::distance_and_time(due, None, now)));
            cells
        }
        ListedEntry::Recurring(ListedSchedule::Invalid {
            schedule_id,
            problem,
        }) => {
            let mut cells = vec![schedule_id.to_string(), none(), "unreadable".to_owned()];
            cells.resize_with(9, none);
            // the problem is the longest text of the row, and there is no next run
            cells.push(problem.clone());
            cells
        }
        ListedEntry::Recurring(ListedSchedule::Valid(summary)) => {
            let schedule = &summary.schedule;
            let progress = &schedule.progress;
            let zone = schedule.tz.as_deref();
            vec![
                schedule.schedule_id.to_string(),
                describe_timing(schedule),
                format_status(summary, row.failed_starts.as_ref()),
                schedule.queue.to_string(),
                progress
                    .last_run
                    .map_or_else(none, |last_run| render::relative_time(last_run, now)),
                format_outcome(row.outcome),
                progress.runs.to_string(),
                describe_missed(progress),
                progress.failures.to_string(),
                summary.next_run.map_or_else(none, |next_run| {
                    render::distance_and_time(next_run, zone, now)
                }),
            ]
        }
    }
}

fn print_details(row: &Row, now: Timestamp) -> std::io::Result<()> {
    match &row.listed {
        ListedEntry::Recurring(ListedSchedule::Valid(summary)) => {
            print_schedule_details(summary, row, now)
        }
        ListedEntry::Recurring(ListedSchedule::Invalid {
            schedule_id,
            problem,
        }) => {
            print_line("schedule", schedule_id.as_str())?;
            print_line("status", &format!("unreadable: {problem}"))
        }
        ListedEntry::Delayed(delayed) => print_delayed_job_details(delayed, now),
    }
}

fn print_line(name: &str, value: &str) -> std::io::Result<()> {
    render::print_field(name, render::escape(value))
}

fn print_delayed_job_details(delayed: &DelayedJobSummary, now: Timestamp) -> std::io::Result<()> {
    print_line("job", delayed.job_id.as_str())?;
    print_line("when", &describe_time(delayed))?;
    print_line("queue", delayed.queue.as_str())?;
    print_line("command", delayed.command.as_deref().unwrap_or("-"))?;
    print_line("status", delayed_job_status(delayed).as_str())?;
    if let Some(due) = delayed.due.filter(|_| !delayed.paused) {
        print_line("next run", &render::time_and_distance(due, None, now))?;
    }
    let created = render::time_and_distance(delayed.enqueue_time, None, now);
    print_line("created", &created)
}

fn print_schedule_details(
    summary: &ScheduleSummary,
    row: &Row,
    now: Timestamp,
) -> std::io::Result<()> {
    let schedule = &summary.schedule;
    let progress = &schedule.progress;
    let time = |time| render::time_and_distance(time, schedule.tz.as_deref(), now);
    print_line("schedule", schedule.schedule_id.as_str())?;
    print_line("when", &describe_timing(schedule))?;
    print_line("queue", schedule.queue.as_str())?;
    print_line("command", summary.command().as_deref().unwrap_or("-"))?;
    print_line("status", &format_status(summary, None))?;
    let repeat = |repeat| format!("{repeat} in all");
    let optional: [(&str, Option<String>); 13] = [
        ("next run", summary.next_run.map(time)),
        ("last run", progress.last_run.map(time)),
        ("last job", progress.last_job_id.as_ref().map(text)),
        ("last outcome", row.outcome.map(Some).map(format_outcome)),
        ("warning", row.failed_starts.as_ref().map(text)),
        ("repeat", schedule.repeat.map(repeat)),
        ("start", schedule.start.map(time)),
        ("end", schedule.end.map(time)),
        ("jitter", schedule.jitter.as_ref().map(text)),
        ("misfire max", schedule.misfire_max.as_ref().map(text)),
        ("misfire grace", schedule.misfire_grace.as_ref().map(text)),
        ("set", schedule.set.clone()),
        ("last error", progress.last_error.clone()),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            print_line(name, &value)?;
        }
    }
    print_line("misfire", &schedule.misfire.to_string())?;
    print_line("overlap", &schedule.overlap.to_string())?;
    print_line("runs", &progress.runs.to_string())?;
    let at_least = if progress.missed_is_minimum {
        "at least "
    } else {
        ""
    };
    print_line("missed", &format!("{at_least}{}", progress.missed))?;
    print_line("skipped", &progress.skipped.to_string())?;
    print_line("failures", &progress.failures.to_string())?;
    print_line("created", &time(schedule.created_at))
}

fn text(value: &impl ToString) -> String {
    value.to_string()
}

/// The entry as `--json` prints it.
fn report(row: &Row, detailed: bool) -> ScheduleReport {
    let summary = match &row.listed {
        ListedEntry::Recurring(ListedSchedule::Valid(summary)) => summary,
        ListedEntry::Delayed(delayed) => return delayed_job_report(delayed, detailed),
        ListedEntry::Recurring(ListedSchedule::Invalid {
            schedule_id,
            problem,
        }) => {
            return ScheduleReport {
                schedule_id: Some(schedule_id.clone()),
                problem: Some(problem.clone()),
                ..ScheduleReport::new(ScheduleKind::Recurring, "unreadable")
            };
        }
    };
    let schedule = &summary.schedule;
    ScheduleReport {
        schedule_id: Some(schedule.schedule_id.clone()),
        queue: Some(schedule.queue.clone()),
        cron: schedule.cron.clone(),
        tz: schedule.tz.clone(),
        every: schedule.every,
        paused_reason: schedule.paused_reason.clone(),
        problem: summary.problem.clone(),
        next_run: summary.next_run,
        set: schedule.set.clone(),
        progress: Some(progress_report(&schedule.progress, row)),
        details: detailed.then(|| details_report(summary)),
        ..ScheduleReport::new(ScheduleKind::Recurring, schedule.status.as_str())
    }
}

fn progress_report(progress: &ScheduleProgress, row: &Row) -> ScheduleProgressReport {
    let (outcome, starts) = (row.outcome, row.failed_starts.as_ref());
    ScheduleProgressReport {
        failed_starts: starts.map(|starts| starts.runs),
        start_error: starts.map(|starts| starts.error.clone()),
        last_run: progress.last_run,
        last_job_id: progress.last_job_id.clone(),
        last_state: outcome.map(|outcome| outcome.state),
        last_reason: outcome.and_then(|outcome| outcome.reason),
        runs: progress.runs,
        missed: progress.missed,
        missed_is_minimum: progress.missed_is_minimum,
        skipped: progress.skipped,
        failures: progress.failures,
        last_error: progress.last_error.clone(),
    }
}

fn details_report(summary: &ScheduleSummary) -> ScheduleDetails {
    let schedule = &summary.schedule;
    ScheduleDetails {
        envelope: serde_json::from_str(schedule.envelope.get()).ok(),
        anchor: schedule.anchor,
        repeat: schedule.repeat,
        start: schedule.start,
        end: schedule.end,
        jitter: schedule.jitter,
        misfire: Some(schedule.misfire),
        misfire_max: schedule.misfire_max,
        misfire_grace: schedule.misfire_grace,
        overlap: Some(schedule.overlap),
        created_at: Some(schedule.created_at),
        done_until: Some(schedule.progress.done_until),
        command: summary.command(),
        ..ScheduleDetails::default()
    }
}

fn delayed_job_report(delayed: &DelayedJobSummary, detailed: bool) -> ScheduleReport {
    ScheduleReport {
        job_id: Some(delayed.job_id.clone()),
        queue: Some(delayed.queue.clone()),
        scheduled_for: delayed.due,
        next_run: delayed.due.filter(|_| !delayed.paused),
        details: detailed.then(|| ScheduleDetails {
            enqueue_time: Some(delayed.enqueue_time),
            labels: delayed.labels.clone(),
            command: delayed.command.clone(),
            ..ScheduleDetails::default()
        }),
        ..ScheduleReport::new(ScheduleKind::Delayed, delayed_job_status(delayed).as_str())
    }
}
