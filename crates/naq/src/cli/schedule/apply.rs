//! `naq schedule apply`: makes the stored schedules of a set match a file.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::list::describe_timing;
use super::schedule_file::{Diagnostic, FileSchedule, ScheduleFile};
use super::{crontab, toml_file};
use crate::cli::exit::{Exit, Failure};
use crate::cli::job_options::read_bytes;
use crate::cli::json::{NoteBody, ScheduleChangeReport};
use crate::cli::render::{self, Column};
use crate::cli::schedule_options::parse_zone;
use crate::cli::session::Session;
use naq_client::{
    Client, ScheduleSetAction, ScheduleSetOptions, ScheduleSetPlan, ScheduleSetStep,
    ScheduleSummary,
};
use naq_cron::Timezone;
use naq_protocol::{QueueName, Schedule, ScheduleStatus, Timestamp};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File of schedules: TOML with [schedule.NAME] tables, or a crontab (- for standard input)
    #[arg(value_name = "FILE")]
    file: String,
    /// Format of the file [default: detected from its name and content]
    #[arg(long, value_name = "FORMAT", value_parser = format())]
    format: Option<Format>,
    /// Name of the set that the schedules belong to; schedules of the set that are no longer in
    /// the file are deleted [default: from the file, else the file's name]
    #[arg(long, value_name = "NAME")]
    set: Option<String>,
    /// Show the changes instead of making them
    #[arg(long)]
    dry_run: bool,
    /// Whether to delete schedules that are no longer in the file; `all` allows a file without any
    /// schedule, which deletes the whole set
    #[arg(long, value_name = "WHETHER", value_parser = prune(), default_value = "yes")]
    prune: Prune,
    /// Take over schedules of the same names that are not in the set
    #[arg(long)]
    adopt: bool,
    /// Queue for jobs whose queue the file does not set [default: default]
    #[arg(short = 'q', long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Time zone if the file does not set one [default: UTC; for a crontab, this machine's]
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    /// Read a column of users in the crontab, as in /etc/crontab
    #[arg(long)]
    system: bool,
    /// Queue for a user's jobs, whose workers run as that user
    #[arg(long, value_name = "USER=QUEUE", requires = "system")]
    user_queue: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Toml,
    Crontab,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prune {
    Yes,
    No,
    All,
}

fn format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(["toml", "crontab"]).map(|text| match text.as_str() {
        "toml" => Format::Toml,
        _ => Format::Crontab,
    })
}

fn prune() -> impl TypedValueParser<Value = Prune> {
    PossibleValuesParser::new(["yes", "no", "all"]).map(|text| match text.as_str() {
        "no" => Prune::No,
        "all" => Prune::All,
        _ => Prune::Yes,
    })
}

/// The longest name of a set, in bytes.
const SET_BYTES_MAX: usize = 256;

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let now = render::now();
    let text = String::from_utf8(read_bytes(&args.file, "the schedules")?)
        .map_err(|_| Failure::usage(format!("{} is not UTF-8", args.file)))?;
    let mut file = read(session, &args, &text, now)?;
    for warning in &file.warnings {
        print_diagnostic(&args.file, warning);
    }
    let wanted = check(&mut file, now);
    if !file.problems.is_empty() {
        return Err(report_problems(&args.file, &mut file.problems, Exit::Usage));
    }
    let set = set_name(&args, file.set.as_deref())?;
    let client = session.connect().await?;
    let options = ScheduleSetOptions {
        set: set.clone(),
        prune: args.prune != Prune::No,
        adopt: args.adopt,
    };
    let is_empty = wanted.is_empty();
    let plan = client.plan_schedules(wanted, options).await?;
    let removals = plan
        .steps()
        .iter()
        .filter(|step| step.action == ScheduleSetAction::Remove)
        .count();
    if is_empty && removals > 0 && args.prune != Prune::All {
        let schedules = render::count(removals as u64, "schedule");
        return Err(Failure::usage(format!(
            "{} has no schedule, and the set `{set}` has {schedules}",
            args.file
        ))
        .hint("--prune=all removes every schedule of the set"));
    }
    let mut foreign = foreign_schedules(&plan, &file.schedules);
    if !foreign.is_empty() {
        return Err(report_problems(&args.file, &mut foreign, Exit::Conflict));
    }
    if args.dry_run {
        show(session, plan.steps(), now)?;
        summarize(session, plan.steps(), "would be ");
        return Ok(0);
    }
    apply_plan(session, &client, plan, now).await
}

async fn apply_plan(
    session: &Session,
    client: &Client,
    plan: ScheduleSetPlan,
    now: Timestamp,
) -> Result<u8, Failure> {
    let planned = plan.steps().iter().filter(|step| step.action.is_write());
    let planned = planned.count();
    let mut done = Vec::new();
    let applied = plan.apply(|step| done.push(step.clone())).await;
    show(session, &done, now)?;
    if let Err(error) = applied {
        let failure = Failure::from(error);
        let written = done.iter().filter(|step| step.action.is_write()).count();
        return Err(failure
            .map_message(|why| format!("{why}; {written} of {planned} changes were made"))
            .hint("applying the file again makes the others"));
    }
    summarize(session, &done, "");
    super::warn_without_scheduler(&client.fetch_leader().await);
    Ok(0)
}

fn read(
    session: &Session,
    args: &Args,
    text: &str,
    now: Timestamp,
) -> Result<ScheduleFile, Failure> {
    let queue = args
        .queue
        .as_deref()
        .unwrap_or(&session.settings().default_queue);
    let queue = QueueName::new(queue)?;
    let named = args.tz.as_deref().map(parse_zone).transpose()?;
    let format = match args.format {
        Some(format) => format,
        None => detect_format(&args.file, text).ok_or_else(|| {
            Failure::usage(format!(
                "{} looks like neither TOML nor a crontab",
                args.file
            ))
            .hint("--format toml or --format crontab says which")
        })?,
    };
    if format == Format::Toml {
        if args.system {
            return Err(Failure::usage("--system is about crontabs"));
        }
        return Ok(toml_file::read(text, &queue, named, now));
    }
    let is_system_file = args.file == "/etc/crontab" || args.file.starts_with("/etc/cron.d/");
    if is_system_file && !args.system {
        return Err(
            Failure::usage(format!("{} has a column of users", args.file))
                .hint("--system reads it, and --user-queue USER=QUEUE says where a user's jobs go"),
        );
    }
    let mut user_queues = BTreeMap::new();
    for text in &args.user_queue {
        let (user, queue) = text
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("--user-queue {text}: write USER=QUEUE")))?;
        user_queues.insert(user.to_owned(), QueueName::new(queue)?);
    }
    let zone = named.unwrap_or_else(|| machine_zone(session));
    let file = crontab::read(
        text,
        &crontab::CrontabOptions {
            queue: &queue,
            zone,
            is_system: args.system,
            user_queues: &user_queues,
        },
    );
    if named.is_none() && !text.contains("CRON_TZ") && !file.schedules.is_empty() {
        render::note(format_args!(
            "times are in {}, the time zone of this machine; --tz or a line CRON_TZ=ZONE sets another",
            zone.name()
        ));
    }
    Ok(file)
}

/// The format of a file, by its name or by its first line that only one format can have.
fn detect_format(file: &str, text: &str) -> Option<Format> {
    let path = Path::new(file);
    let name = path.file_name().and_then(|name| name.to_str());
    let extension = path.extension().and_then(|extension| extension.to_str());
    match (name, extension) {
        (_, Some("toml")) => return Some(Format::Toml),
        (Some("crontab"), _) | (_, Some("crontab" | "cron" | "tab")) => {
            return Some(Format::Crontab);
        }
        _ if file.starts_with("/etc/cron.d/") => return Some(Format::Crontab),
        _ => {}
    }
    let mut is_blank = true;
    for line in text.lines().map(str::trim_start) {
        match line.chars().next() {
            None | Some('#') => {}
            Some('[') => return Some(Format::Toml),
            Some('*' | '@' | '-' | '0'..='9') => return Some(Format::Crontab),
            Some(_) => is_blank = false,
        }
    }
    // a file of blank lines and comments is valid in both
    is_blank.then_some(Format::Crontab)
}

/// The time zone of this machine.
fn machine_zone(session: &Session) -> Timezone {
    let variable = session
        .variable("TZ")
        .map(|name| name.trim_start_matches(':'));
    let named = variable.and_then(|name| name.parse().ok());
    named
        .or_else(|| iana_time_zone::get_timezone().ok()?.parse().ok())
        .unwrap_or_default()
}

fn set_name(args: &Args, named: Option<&str>) -> Result<String, Failure> {
    let file_name = || Path::new(&args.file).file_name()?.to_str();
    let name = args.set.as_deref().or(named);
    let name = name.or_else(|| file_name().filter(|_| args.file != "-"));
    match name {
        None => Err(Failure::usage("the set of schedules has no name").hint(
            "--set NAME gives it one: the next apply of the set removes what its file no longer has",
        )),
        Some(name) if name.is_empty() || name.len() > SET_BYTES_MAX => Err(Failure::usage(
            "the name of the set is empty, or over 256 bytes",
        )),
        Some(name) => Ok(name.to_owned()),
    }
}

/// The schedules of a file; what is wrong with them is noted.
fn check(file: &mut ScheduleFile, now: Timestamp) -> Vec<Schedule> {
    let mut wanted = Vec::with_capacity(file.schedules.len());
    for file_schedule in &file.schedules {
        match file_schedule.schedule(now) {
            Ok(schedule) => wanted.push(schedule),
            Err(problem) => file.problems.push(problem),
        }
    }
    wanted
}

/// Returns a problem for each schedule of the file whose name a schedule outside the set has.
fn foreign_schedules(plan: &ScheduleSetPlan, file_schedules: &[FileSchedule]) -> Vec<Diagnostic> {
    let lines: HashMap<_, _> = file_schedules
        .iter()
        .filter_map(|one| Some((one.new.schedule_id.as_ref()?, one.line)))
        .collect();
    let steps = plan.steps().iter();
    steps
        .filter_map(|step| {
            let id = &step.schedule_id;
            let whose = match &step.action {
                ScheduleSetAction::Foreign(Some(set)) => format!("belongs to the set `{set}`"),
                ScheduleSetAction::Foreign(None) => "exists already, outside any set".to_owned(),
                _ => return None,
            };
            let line = lines.get(id).copied().unwrap_or_default();
            Some(Diagnostic::new(
                line,
                format!("`{id}` {whose}; --adopt takes it over"),
            ))
        })
        .collect()
}

/// Prints every problem, and returns the error that counts them. A single problem is the error.
fn report_problems(file: &str, problems: &mut [Diagnostic], exit: Exit) -> Failure {
    problems.sort_by_key(|problem| problem.line);
    match problems {
        [one] => Failure::new(
            exit,
            format!("{file}:{}: {}; nothing was changed", one.line, one.text),
        ),
        problems => {
            for problem in &*problems {
                print_diagnostic(file, problem);
            }
            let count = problems.len();
            Failure::new(
                exit,
                format!("{file}: {count} problems; nothing was changed"),
            )
        }
    }
}

fn print_diagnostic(file: &str, diagnostic: &Diagnostic) {
    render::note_with(NoteBody {
        message: diagnostic.text.clone(),
        file: Some(file.to_owned()),
        line: Some(diagnostic.line),
        ..NoteBody::default()
    });
}

fn show(session: &Session, steps: &[ScheduleSetStep], now: Timestamp) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for step in steps {
        let (action, fields) = match &step.action {
            ScheduleSetAction::Create => ("created", &[][..]),
            ScheduleSetAction::Change(fields) => ("changed", fields.as_slice()),
            ScheduleSetAction::Remove => ("removed", &[][..]),
            ScheduleSetAction::Unchanged => ("unchanged", &[][..]),
            ScheduleSetAction::AlreadyEnded => ("over", &[][..]),
            ScheduleSetAction::Foreign(_) => continue,
        };
        let summary = step.schedule.clone().map(ScheduleSummary::from);
        let next_run = summary.as_ref().and_then(|summary| summary.next_run);
        if session.json {
            let is_change = matches!(step.action, ScheduleSetAction::Change(_));
            let fields = fields.iter().map(ToString::to_string);
            let status = summary.as_ref().map(|summary| summary.schedule.status);
            render::print_json(&ScheduleChangeReport {
                kind: None,
                schedule_id: Some(step.schedule_id.as_str()),
                job_id: None,
                action,
                changed: None,
                fields: is_change.then(|| fields.collect()),
                status: status.as_ref().map(ScheduleStatus::as_str),
                next_run,
            })?;
        } else if step.action.is_write() {
            let none = || "-".to_owned();
            rows.push(vec![
                step.schedule_id.to_string(),
                action.to_owned(),
                step.schedule.as_ref().map_or_else(none, describe_timing),
                next_run.map_or_else(none, |next_run| {
                    let tz = summary.and_then(|summary| summary.schedule.tz);
                    render::distance_and_time(next_run, tz.as_deref(), now)
                }),
                match fields {
                    [] => none(),
                    fields => fields.join(", "),
                },
            ]);
        }
    }
    if !rows.is_empty() {
        render::print_table(
            &[
                Column::new("SCHEDULE"),
                Column::new("ACTION"),
                Column::new("WHEN"),
                Column::new("NEXT"),
                Column::new("FIELDS").optional(1),
            ],
            &rows,
        )?;
    }
    Ok(())
}

fn summarize(session: &Session, steps: &[ScheduleSetStep], would_be: &str) {
    if session.json {
        return;
    }
    let count = |is_meant: fn(&ScheduleSetAction) -> bool| {
        steps.iter().filter(|step| is_meant(&step.action)).count()
    };
    let created = count(|action| *action == ScheduleSetAction::Create);
    let changed = count(|action| matches!(action, ScheduleSetAction::Change(_)));
    let removed = count(|action| *action == ScheduleSetAction::Remove);
    let unchanged = count(|action| *action == ScheduleSetAction::Unchanged);
    let over = match count(|action| *action == ScheduleSetAction::AlreadyEnded) {
        0 => String::new(),
        over => format!(", {over} over"),
    };
    render::note(format_args!(
        "{created} {would_be}created, {changed} changed, {removed} removed, {unchanged} unchanged{over}"
    ));
}
