//! `naq schedule apply`: makes the stored schedules of a set match a file.

use std::collections::HashMap;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::list::describe_timing;
use super::schedule_file::{Diagnostic, FileSchedule, ScheduleFile};
use super::source::{Format, ScheduleSource};
use crate::cli::changes::Changes;
use crate::cli::clock;
use crate::cli::exit::{Exit, Failure};
use crate::cli::json::{NoteBody, ScheduleChangeReport};
use crate::cli::render::{self, Column};
use crate::cli::scheduler::list::warn_without_leader;
use crate::cli::session::Session;
use naq_client::{
    AuditAction, Client, ScheduleSetAction, ScheduleSetOptions, ScheduleSetPlan, ScheduleSetStep,
    ScheduleSummary,
};
use naq_protocol::{Schedule, ScheduleStatus, Timestamp};

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
    /// Whether the crontab has a column of users, as /etc/crontab does [default: no, but a file that
    /// looks as if it had one is refused]
    #[arg(long, value_name = "WHETHER", num_args = 0..=1, require_equals = true,
          default_missing_value = "yes", value_parser = yes_or_no())]
    system: Option<bool>,
    /// Apply a crontab without the lines that only other crons accept, such as @reboot, and list them
    #[arg(long)]
    skip_unsupported: bool,
    /// Queue for a user's jobs, whose workers run as that user
    #[arg(long, value_name = "USER=QUEUE", requires = "system")]
    user_queue: Vec<String>,
}

impl Args {
    fn source(&self) -> ScheduleSource<'_> {
        ScheduleSource {
            file: &self.file,
            format: self.format,
            set: self.set.as_deref(),
            queue: self.queue.as_deref(),
            tz: self.tz.as_deref(),
            has_users: self.system,
            user_queues: &self.user_queue,
        }
    }
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

fn yes_or_no() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["yes", "no"]).map(|text| text == "yes")
}

fn prune() -> impl TypedValueParser<Value = Prune> {
    PossibleValuesParser::new(["yes", "no", "all"]).map(|text| match text.as_str() {
        "no" => Prune::No,
        "all" => Prune::All,
        _ => Prune::Yes,
    })
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let now = render::now();
    let source = args.source();
    let mut file = source.read(session, now)?;
    for warning in &file.warnings {
        print_diagnostic(&args.file, warning);
    }
    let wanted = check(&mut file, now);
    let skipped = skip_unsupported(&args, &mut file)?;
    let set = source.set_name(&file)?;
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
        summarize(session, plan.steps(), "would be ", skipped);
        return Ok(0);
    }
    let changes = Changes::selected_by(
        AuditAction::ScheduleApply,
        naq_protocol::command_line(["--set", &set]),
    );
    apply_plan(session, &client, plan, now, skipped, changes).await
}

/// Refuses a file with problems. Lines that only other crons accept are problems as well, unless
/// `--skip-unsupported` leaves them out; returns their number.
fn skip_unsupported(args: &Args, file: &mut ScheduleFile) -> Result<usize, Failure> {
    let has_mistakes = !file.problems.is_empty();
    let skipped = file.unsupported.len();
    if !args.skip_unsupported {
        file.problems.append(&mut file.unsupported);
    }
    if !file.problems.is_empty() {
        let refused = report_problems(&args.file, &mut file.problems, Exit::Usage);
        return Err(match has_mistakes {
            true => refused,
            false => refused.hint("--skip-unsupported applies the other lines"),
        });
    }
    for line in &file.unsupported {
        print_diagnostic(
            &args.file,
            &Diagnostic::new(line.line, format!("skipped: {}", line.text)),
        );
    }
    Ok(skipped)
}

async fn apply_plan(
    session: &Session,
    client: &Client,
    plan: ScheduleSetPlan,
    now: Timestamp,
    skipped: usize,
    mut changes: Changes,
) -> Result<u8, Failure> {
    let planned = plan.steps().iter().filter(|step| step.action.is_write());
    let planned = planned.count();
    let mut done = Vec::new();
    let applied = plan.apply(|step| done.push(step.clone())).await;
    let applied = applied.map_err(Failure::from);
    let written = done.iter().filter(|step| step.action.is_write()).count();
    changes.add_count(written as u64);
    changes.record(client, &applied).await;
    show(session, &done, now)?;
    if let Err(failure) = applied {
        return Err(failure
            .map_message(|why| format!("{why}; {written} of {planned} changes were made"))
            .hint("applying the file again makes the others"));
    }
    summarize(session, &done, "", skipped);
    warn_without_leader(client, &client.fetch_leader().await).await;
    clock::warn_if_off(client).await;
    Ok(0)
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

/// Prints the totals. `skipped` is the number of lines that were left out.
fn summarize(session: &Session, steps: &[ScheduleSetStep], would_be: &str, skipped: usize) {
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
    let skipped = match skipped {
        0 => String::new(),
        lines => format!(", {} skipped", render::count(lines as u64, "line")),
    };
    render::note(format_args!(
        "{created} {would_be}created, {changed} changed, {removed} removed, {unchanged} unchanged{over}{skipped}"
    ));
}
