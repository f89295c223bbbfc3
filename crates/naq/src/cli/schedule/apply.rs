//! `naq schedule apply`: makes the stored schedules of a set match a file.
//!
//! The file is read twice: to check it and to compare it with what is stored, and then to write what differs.
//! So of a crontab only the text and digests of its schedules are kept. Of a TOML file the parsed tables stay in
//! memory too.

use std::collections::HashMap;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::schedule_file::{Diagnostic, Finding};
use super::source::{Format, OpenSource, ScheduleSource};
use super::step_report::{StepCounts, StepReport};
use crate::cli::changes::Changes;
use crate::cli::clock;
use crate::cli::exit::{Exit, Failure};
use crate::cli::json::NoteBody;
use crate::cli::render;
use crate::cli::scheduler::list::warn_without_leader;
use crate::cli::session::Session;
use naq_client::{AuditAction, Client, ScheduleSet, ScheduleSetOptions, ScheduleSetPlan};
use naq_protocol::{Schedule, Timestamp};

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
    let (text, warning) = source.read_text()?;
    let file = source.open(session, &text, now)?;
    let mut checked = check(&file, now)?;
    if !checked.set.is_empty() {
        file.note_zone();
    }
    for warning in checked.warnings.iter().chain(&warning) {
        print_diagnostic(&args.file, warning);
    }
    let skipped = skip_unsupported(&args, &mut checked)?;
    let set = source.set_name(&file)?;
    let client = session.connect().await?;
    let options = ScheduleSetOptions {
        set: set.clone(),
        prune: args.prune != Prune::No,
        adopt: args.adopt,
    };
    let is_empty = checked.set.is_empty();
    let plan = client.plan_schedules(checked.set, options).await?;
    if is_empty && plan.removals() > 0 && args.prune != Prune::All {
        let schedules = render::count(plan.removals() as u64, "schedule");
        return Err(Failure::usage(format!(
            "{} has no schedule, and the set `{set}` has {schedules}",
            args.file
        ))
        .hint("--prune=all removes every schedule of the set"));
    }
    if !plan.foreign().is_empty() {
        let mut foreign = foreign_schedules(&plan, &file);
        return Err(report_problems(&args.file, &mut foreign, Exit::Conflict));
    }
    let mut report = StepReport::new(session, now);
    if args.dry_run {
        let showing = plan.preview(schedules(&file, now), |step| report.add(step));
        showing.await?;
        report.end()?.summarize("would be ", skipped);
        return Ok(0);
    }
    let changes = Changes::selected_by(
        AuditAction::ScheduleApply,
        naq_protocol::command_line(["--set", &set]),
    );
    let applied = apply_plan(&client, plan, schedules(&file, now), report, changes).await?;
    applied.summarize("", skipped);
    warn_without_leader(&client, &client.fetch_leader().await).await;
    clock::warn_if_off(&client).await;
    Ok(0)
}

async fn apply_plan(
    client: &Client,
    plan: ScheduleSetPlan,
    schedules: impl Iterator<Item = Schedule>,
    mut report: StepReport<'_>,
    mut changes: Changes,
) -> Result<StepCounts, Failure> {
    let planned = plan.writes();
    let applied = plan.apply(schedules, |step| report.add(step)).await;
    let applied = applied.map_err(Failure::from);
    let written = report.written();
    changes.add_count(written as u64);
    changes.record(client, &applied).await;
    let counts = report.end()?;
    if let Err(failure) = applied {
        return Err(failure
            .map_message(|why| format!("{why}; {written} of {planned} changes were made"))
            .hint("applying the file again makes the others"));
    }
    Ok(counts)
}

/// What is known of a file once it was read to its end: of its schedules only their digests.
#[derive(Default)]
struct CheckedFile {
    set: ScheduleSet,
    problems: Vec<Diagnostic>,
    /// Lines that only other implementations of cron accept.
    unsupported: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

/// Reads a whole file before anything is written, so that a mistake in its last line prevents every change.
fn check(file: &OpenSource, now: Timestamp) -> Result<CheckedFile, Failure> {
    let mut checked = CheckedFile::default();
    for finding in file.findings() {
        match finding {
            Finding::Schedule(schedule) => match schedule.schedule(now) {
                Ok(schedule) => checked.set.add(&schedule)?,
                Err(problem) => checked.problems.push(problem),
            },
            Finding::Problem(problem) => checked.problems.push(problem),
            Finding::Unsupported(line) => checked.unsupported.push(line),
            Finding::Warning(warning) => checked.warnings.push(warning),
        }
    }
    Ok(checked)
}

/// The schedules of a file that was checked, read again.
fn schedules(file: &OpenSource, now: Timestamp) -> impl Iterator<Item = Schedule> {
    file.findings().filter_map(move |finding| match finding {
        Finding::Schedule(schedule) => schedule.schedule(now).ok(),
        _ => None,
    })
}

/// Refuses a file with problems. Lines that only other crons accept are problems as well, unless
/// `--skip-unsupported` leaves them out; returns their number.
fn skip_unsupported(args: &Args, file: &mut CheckedFile) -> Result<usize, Failure> {
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

/// Returns a problem for each schedule of the file whose name a schedule outside the set has.
fn foreign_schedules(plan: &ScheduleSetPlan, file: &OpenSource) -> Vec<Diagnostic> {
    let foreign = plan.foreign().iter();
    let foreign: HashMap<_, _> = foreign.map(|one| (&one.schedule_id, &one.set)).collect();
    let described = file.findings().filter_map(|finding| match finding {
        Finding::Schedule(schedule) => Some((schedule.new.schedule_id?, schedule.line)),
        _ => None,
    });
    described
        .filter_map(|(id, line)| {
            let whose = match foreign.get(&id)? {
                Some(set) => format!("belongs to the set `{set}`"),
                None => "exists already, outside any set".to_owned(),
            };
            let problem = format!("`{id}` {whose}; --adopt takes it over");
            Some(Diagnostic::new(line, problem))
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
