//! `naq schedule`: schedules are added, listed, changed and deleted.

mod apply;
mod backfill;
mod crontab;
mod file_text;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzz;
pub(super) mod list;
mod schedule_file;
mod source;
mod step_report;
mod toml_file;
mod toml_table;
mod toml_value;

use std::io::IsTerminal;

use clap::Subcommand;

use super::changes::Changes;
use super::clock;
use super::control::{Action, ChangeOptions, NO_CHANGES, control_each, control_schedule};
use super::envelope_check::EnvelopeCheck;
use super::exit::Failure;
use super::job_options::JobOptions;
use super::json::{AddedScheduleReport, ScheduleKind};
use super::render;
use super::schedule_options::{OrNone, ScheduleOptions};
use super::scheduler::list::warn_without_leader;
use super::session::Session;
use super::times::{TimeReader, stored_zone};
pub(super) use list::not_scheduled_error;
use naq_client::{
    AddScheduleOutcome, AddedSchedule, AuditAction, ClientError, LeaderInfo, NewSchedule,
    Recurrence, ScheduleSummary,
};
use naq_protocol::{QueueName, ScheduleId, ScheduleStatus, Timestamp};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<ScheduleVerb>,
    #[command(flatten)]
    new: NewArgs,
}

#[derive(Debug, Subcommand)]
enum ScheduleVerb {
    /// Add a schedule (the default)
    Add(Box<NewArgs>),
    /// List schedules and delayed jobs
    List(list::Args),
    /// Show a schedule, or a delayed job, in full
    Show(list::ShowArgs),
    /// Apply a file of schedules
    ///
    /// The file is TOML or a crontab, and describes a whole set: naq creates and changes what it
    /// describes, and deletes schedules of the set that are no longer in it.
    Apply(apply::Args),
    /// Pause schedules
    Pause(IdArgs),
    /// Resume paused schedules
    ///
    /// Ticks that a schedule missed while it was paused are left out.
    Resume(IdArgs),
    /// Change a schedule
    Update(Box<UpdateArgs>),
    /// Enqueue a job of a schedule now
    ///
    /// Works on a paused schedule too, and leaves the schedule's ticks as they are. Prints the
    /// job's id.
    Trigger(IdArgs),
    /// Enqueue the runs that a schedule would have had in a range of the past
    ///
    /// A run whose job still exists, or whose record has not expired, is left out. Works on a paused
    /// schedule too, and changes no schedule.
    Backfill(backfill::Args),
    /// Delete schedules
    ///
    /// Jobs that they have enqueued stay.
    Delete(IdArgs),
}

#[derive(Debug, clap::Args)]
struct IdArgs {
    /// Schedules' names
    #[arg(required = true, value_name = "SCHEDULE")]
    ids: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct UpdateArgs {
    /// Schedule's name
    #[arg(value_name = "SCHEDULE")]
    id: String,
    #[command(flatten)]
    options: ChangeOptions,
}

#[derive(Debug, clap::Args)]
struct NewArgs {
    /// Schedule's name [default: the program's name and a digest of all options, so that the same
    /// command again is the same schedule]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    when: ScheduleOptions,
    /// Replace a schedule of the same name, and keep its history
    #[arg(long)]
    replace: bool,
    /// Print the schedule instead of adding it
    #[arg(long)]
    dry_run: bool,
    /// Queue for the schedule's jobs [default: default]
    #[arg(short = 'q', long, value_name = "QUEUE")]
    queue: Option<String>,
    #[command(flatten)]
    job: JobOptions,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let none = ChangeOptions::default();
    match args.verb {
        None => create(session, args.new).await,
        Some(ScheduleVerb::Add(new)) => create(session, *new).await,
        Some(ScheduleVerb::List(args)) => list::run(session, args).await,
        Some(ScheduleVerb::Show(args)) => list::show_one(session, args).await,
        Some(ScheduleVerb::Apply(args)) => apply::run(session, args).await,
        Some(ScheduleVerb::Pause(args)) => {
            control(session, &args.ids, Action::Pause, "pause", &none).await
        }
        Some(ScheduleVerb::Resume(args)) => {
            control(session, &args.ids, Action::Resume, "resume", &none).await
        }
        Some(ScheduleVerb::Update(args)) => {
            if !args.options.check(session)? {
                return Err(Failure::usage(NO_CHANGES));
            }
            control(session, &[args.id], Action::Update, "update", &args.options).await
        }
        Some(ScheduleVerb::Trigger(args)) => {
            control(session, &args.ids, Action::Trigger, "trigger", &none).await
        }
        Some(ScheduleVerb::Backfill(args)) => backfill::run(session, args).await,
        Some(ScheduleVerb::Delete(args)) => {
            control(session, &args.ids, Action::Delete, "delete", &none).await
        }
    }
}

/// Carries out an action on each schedule.
async fn control(
    session: &Session,
    ids: &[String],
    action: Action,
    verb: &str,
    options: &ChangeOptions,
) -> Result<u8, Failure> {
    let ids: Vec<ScheduleId> = ids.iter().map(ScheduleId::new).collect::<Result<_, _>>()?;
    let audited = action.audited(ScheduleKind::Recurring);
    control_each(session, &ids, verb, audited, async |client, id| {
        control_schedule(session, client, id, action, options).await
    })
    .await
}

async fn create(session: &Session, args: NewArgs) -> Result<u8, Failure> {
    let now = render::now();
    let new = new_schedule(session, &args)?;
    let queue = args
        .queue
        .as_deref()
        .unwrap_or(&session.settings().default_queue);
    if args.dry_run {
        let schedule = new.to_schedule(&QueueName::new(queue)?, now)?;
        render::print_json(&schedule)?;
        return Ok(0);
    }
    // An invalid schedule is refused before naq connects.
    new.to_schedule(&QueueName::new(queue)?, now)?;
    let client = session.connect().await?;
    let queue = client.queue(queue)?;
    let (made, leader) = futures_util::join!(queue.schedule(&new), client.fetch_leader());
    let made = made?;
    if made.outcome != AddScheduleOutcome::Unchanged {
        let mut changes = Changes::new(AuditAction::ScheduleAdd);
        changes.add(&made.schedule.schedule_id);
        changes.record(&client, &Ok(())).await;
    }
    print_created(session, made, &leader, now)?;
    warn_without_leader(&client, &leader).await;
    clock::warn_if_off(&client).await;
    Ok(0)
}

fn new_schedule(session: &Session, args: &NewArgs) -> Result<NewSchedule, Failure> {
    let when = &args.when;
    let times = TimeReader::new(session, when.tz.as_deref(), args.job.past_ok)?;
    let cadence = match (&when.cron, when.every) {
        (Some(expression), _) => Recurrence::Cron {
            expression: expression.clone(),
            tz: match &when.tz {
                Some(name) => Some(name.clone()),
                None => stored_zone(times.zone()?),
            },
        },
        (None, Some(every)) => Recurrence::Every(every.0),
        (None, None) => {
            return Err(Failure::usage(
                "say when: --cron EXPR (such as '0 5 * * *') or --every TIME (such as 15s)",
            ));
        }
    };
    if when.every.is_some() && when.tz.is_some() && when.start.is_none() && when.end.is_none() {
        return Err(Failure::usage(
            "--tz: an interval is the same in every time zone; use --tz with --cron, --start or --end",
        ));
    }
    let envelope = args.job.envelope(session, &times)?;
    EnvelopeCheck::new(session, false).check(&envelope, "")?;
    if envelope.job_id.is_some() {
        return Err(Failure::usage(
            "--id names one job, and a schedule makes many, each named after it and its time; --name names the schedule",
        ));
    }
    if envelope.expires_at.is_some() {
        return Err(Failure::usage(
            "--expires-at is one job's, and a schedule makes many; --end is when there are no more",
        ));
    }
    let mut new = NewSchedule::new(cadence, envelope);
    new.schedule_id = args.name.as_ref().map(ScheduleId::new).transpose()?;
    new.repeat = when.repeat.as_ref().and_then(|OrNone(repeat)| *repeat);
    new.start = when.start(&times)?.flatten();
    new.end = when.end(&times)?.flatten();
    new.jitter = when
        .jitter
        .as_ref()
        .and_then(|OrNone(jitter)| *jitter)
        .map(|jitter| jitter.0);
    new.misfire = when.misfire.unwrap_or_default();
    new.misfire_max = when.misfire_max;
    new.misfire_grace = when.misfire_grace.map(|grace| grace.0);
    new.overlap = when.overlap.unwrap_or_default();
    new.replace = args.replace;
    if when.cron.is_some() {
        times.note_machine_zone()?;
    }
    Ok(new)
}

fn print_created(
    session: &Session,
    made: AddedSchedule,
    leader: &Result<Option<LeaderInfo>, ClientError>,
    now: Timestamp,
) -> Result<(), Failure> {
    let summary = ScheduleSummary::from(made.schedule);
    let (schedule, next_run) = (&summary.schedule, summary.next_run);
    if session.json {
        let outcome = match made.outcome {
            AddScheduleOutcome::Created => "created",
            AddScheduleOutcome::Replaced => "replaced",
            AddScheduleOutcome::Unchanged => "unchanged",
        };
        render::print_json(&AddedScheduleReport {
            schedule_id: &schedule.schedule_id,
            queue: &schedule.queue,
            outcome,
            status: schedule.status.as_str(),
            next_run,
            scheduler: leader.as_ref().ok().and_then(Option::as_ref),
        })?;
    } else {
        render::print_line(&schedule.schedule_id)?;
        if std::io::stderr().is_terminal() {
            let was = match made.outcome {
                AddScheduleOutcome::Created => "",
                AddScheduleOutcome::Replaced => "replaced; ",
                AddScheduleOutcome::Unchanged => "unchanged; ",
            };
            if let Some(next_run) = next_run {
                let next = render::time_and_distance(next_run, schedule.tz.as_deref(), now);
                render::note(format_args!("{was}next run {next}"));
            }
        }
    }
    if schedule.status == ScheduleStatus::Paused {
        let id = &schedule.schedule_id;
        let resume = naq_protocol::command_line(["naq", "schedule", "resume", id.as_str()]);
        render::note(format_args!(
            "the schedule is paused; `{resume}` resumes it"
        ));
    }
    Ok(())
}
