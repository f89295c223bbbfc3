//! `naq job-control`

use std::time::Duration;

use clap::ValueEnum;
use serde_json::json;

use super::exit::Failure;
use super::list_scheduled::not_scheduled_error;
use super::render;
use super::schedule_options::{OrNone, ScheduleOptions, parse_time};
use super::session::Session;
use naq_client::{Client, ClientError, Rescheduled, ScheduleSummary};
use naq_core::ScheduleChange;
use naq_cron::Timezone;
use naq_protocol::{JobId, QueueName, ScheduleId, ScheduleStatus, State, Timestamp};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The schedule's name, or the id of a job that is held until its time
    #[arg(value_name = "ID")]
    id: String,
    /// What to do
    #[arg(value_name = "ACTION", value_enum)]
    action: Action,
    #[command(flatten)]
    reschedule: Reschedule,
}

/// What can be done to a schedule, or to a job that is held until its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Remove it; jobs that it has enqueued are left alone
    Cancel,
    /// Enqueue nothing until it is resumed
    Pause,
    /// Go on; what a schedule was due for meanwhile is left out, and a job that was is enqueued
    Resume,
    /// Change it: the options below say how, and what they do not name stays
    Reschedule,
    /// Enqueue a job at once, paused or not, and print its id: a schedule's beside those that are
    /// due, a held one before its time
    RunNow,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Action::Cancel => "cancel",
            Action::Pause => "pause",
            Action::Resume => "resume",
            Action::Reschedule => "reschedule",
            Action::RunNow => "run-now",
        }
    }
}

/// What `reschedule` changes.
#[derive(Debug, clap::Args)]
struct Reschedule {
    /// When it runs next, after which it goes on from there: RFC 3339, '2026-12-24 18:00' or
    /// 18:00, by the clocks of its zone; at once where that has passed
    #[arg(long, value_name = "TIME")]
    next_run: Option<String>,
    /// The queue its jobs go to
    #[arg(short = 'q', long, value_name = "QUEUE")]
    queue: Option<String>,
    #[command(flatten)]
    when: ScheduleOptions,
}

impl Reschedule {
    /// What is asked for but for the times, which need a zone to be read in.
    fn change(&self) -> Result<ScheduleChange, Failure> {
        let when = &self.when;
        Ok(ScheduleChange {
            cron: when.cron.clone(),
            tz: when.tz.clone(),
            every: when.every,
            repeat: when.repeat.as_ref().map(|OrNone(repeat)| *repeat),
            jitter: when.jitter.as_ref().map(|OrNone(jitter)| *jitter),
            misfire: when.misfire,
            misfire_max: when.misfire_max,
            misfire_grace: when.misfire_grace,
            overlap: when.overlap,
            queue: self.queue.as_ref().map(QueueName::new).transpose()?,
            ..ScheduleChange::default()
        })
    }

    /// The times, where they name no zone by the clocks of this one.
    fn parse_times(
        &self,
        change: &mut ScheduleChange,
        zone: Timezone,
        now: Timestamp,
    ) -> Result<(), Failure> {
        change.start = self.when.start(zone, now)?;
        change.end = self.when.end(zone, now)?;
        change.next_run = match &self.next_run {
            Some(text) => Some(parse_time("--next-run", text, zone, now)?),
            None => None,
        };
        Ok(())
    }

    fn has_times(&self) -> bool {
        self.next_run.is_some() || self.when.start.is_some() || self.when.end.is_some()
    }
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let id = JobId::new(&args.id)?;
    let mut change = args.reschedule.change()?;
    let has_changes = !change.is_empty() || args.reschedule.has_times();
    if has_changes != (args.action == Action::Reschedule) {
        return Err(Failure::usage(if has_changes {
            format!(
                "{} changes nothing: the options are for `reschedule`",
                args.action.as_str()
            )
        } else {
            "say what to change: --cron, --every, --next-run, --repeat, --queue …".to_owned()
        }));
    }
    // what can be known to be wrong is refused before anybody is asked
    let zone = args.reschedule.when.zone()?;
    args.reschedule
        .parse_times(&mut change, zone, render::now())?;
    let client = session.connect().await?;
    // a job's id may be longer than the name of a schedule
    let schedule = ScheduleId::new(id.as_str());
    let mut result = match &schedule {
        Ok(schedule) => {
            none_if_not_found(control_schedule(&client, schedule, &args, change).await)?
        }
        Err(_) => None,
    };
    if result.is_none() {
        let ttl = session.settings().default_result_ttl;
        result = none_if_not_found(control_delayed_job(&client, &id, &args, zone, ttl).await)?;
    }
    let result = result.ok_or_else(|| not_scheduled_error(&id))?;
    print_result(session, &id, args.action, &result)?;
    Ok(0)
}

/// Why nothing was done.
enum ControlError {
    /// Nothing is there under the id.
    NotFound,
    Failed(Failure),
}

impl From<ClientError> for ControlError {
    fn from(error: ClientError) -> ControlError {
        match error {
            ClientError::NoSuchSchedule(_) | ClientError::NoSuchJob(_) => ControlError::NotFound,
            error => ControlError::Failed(error.into()),
        }
    }
}

impl From<Failure> for ControlError {
    fn from(failure: Failure) -> ControlError {
        ControlError::Failed(failure)
    }
}

fn none_if_not_found(
    done: Result<ActionResult, ControlError>,
) -> Result<Option<ActionResult>, Failure> {
    match done {
        Ok(result) => Ok(Some(result)),
        Err(ControlError::NotFound) => Ok(None),
        Err(ControlError::Failed(failure)) => Err(failure),
    }
}

/// What became of it.
struct ActionResult {
    kind: &'static str,
    /// In a few words.
    message: String,
    /// Whether it was otherwise before, where that is known.
    was_changed: Option<bool>,
    status: Option<&'static str>,
    next_run: Option<Timestamp>,
    /// The job that was enqueued at once.
    job_id: Option<JobId>,
}

impl ActionResult {
    fn new(kind: &'static str, message: impl Into<String>) -> ActionResult {
        ActionResult {
            kind,
            message: message.into(),
            was_changed: None,
            status: None,
            next_run: None,
            job_id: None,
        }
    }
}

const RECURRING: &str = "recurring";
const DELAYED: &str = "one_shot";

async fn control_schedule(
    client: &Client,
    id: &ScheduleId,
    args: &Args,
    mut change: ScheduleChange,
) -> Result<ActionResult, ControlError> {
    let changed = match args.action {
        Action::Cancel => {
            client.delete_schedule(id).await?;
            return Ok(ActionResult::new(RECURRING, "removed"));
        }
        Action::RunNow => {
            let job_id = client.trigger_schedule(id, render::now()).await?;
            return Ok(ActionResult {
                job_id: Some(job_id),
                ..ActionResult::new(RECURRING, "")
            });
        }
        Action::Pause => client.pause_schedule(id).await?,
        Action::Resume => client.resume_schedule(id, render::now()).await?,
        Action::Reschedule => {
            let zone = match &change.tz {
                None if args.reschedule.has_times() => zone_of(client, id).await?,
                _ => args.reschedule.when.zone()?,
            };
            let now = render::now();
            args.reschedule.parse_times(&mut change, zone, now)?;
            client.update_schedule(id, &change, now).await?
        }
    };
    let was_changed = changed.was_changed;
    let summary = ScheduleSummary::from(changed.schedule);
    let schedule = &summary.schedule;
    let already = if was_changed { "" } else { " already" };
    let mut message = format!("{}{already}", schedule.status);
    match summary.next_run {
        Some(next_run) => message.push_str(&next(next_run, schedule.tz.as_deref())),
        None if args.action == Action::Reschedule && schedule.status == ScheduleStatus::Paused => {
            message.push_str(" still: `resume` has it go on");
        }
        None => {}
    }
    Ok(ActionResult {
        was_changed: Some(was_changed),
        status: Some(schedule.status.as_str()),
        next_run: summary.next_run,
        ..ActionResult::new(RECURRING, message)
    })
}

/// The zone that a schedule speaks of.
async fn zone_of(client: &Client, id: &ScheduleId) -> Result<Timezone, ClientError> {
    let summary = client.fetch_schedule(id).await?;
    let name = summary.and_then(|summary| summary.schedule.tz);
    Ok(name.and_then(|name| name.parse().ok()).unwrap_or_default())
}

async fn control_delayed_job(
    client: &Client,
    job: &JobId,
    args: &Args,
    zone: Timezone,
    result_ttl: Duration,
) -> Result<ActionResult, ControlError> {
    let retimed = match args.action {
        Action::Cancel => {
            // one that is no longer held is `naq cancel`'s
            client.fetch_delayed_job(job).await?;
            client.cancel(job, render::now(), result_ttl).await?;
            return Ok(ActionResult {
                status: Some(State::Cancelled.as_str()),
                ..ActionResult::new(DELAYED, "cancelled")
            });
        }
        Action::Pause => Rescheduled::Delayed(Box::new(client.pause_delayed_job(job).await?)),
        Action::Resume => client.resume_delayed_job(job).await?,
        Action::RunNow => client.run_delayed_job_now(job).await?,
        Action::Reschedule => {
            let Some(text) = &args.reschedule.next_run else {
                client.fetch_delayed_job(job).await?;
                return Err(runs_once_error(job).into());
            };
            let others = Reschedule {
                next_run: None,
                when: ScheduleOptions {
                    tz: None,
                    ..args.reschedule.when.clone()
                },
                queue: args.reschedule.queue.clone(),
            };
            if !others.change()?.is_empty() || others.has_times() {
                client.fetch_delayed_job(job).await?;
                return Err(runs_once_error(job).into());
            }
            let due = parse_time("--next-run", text, zone, render::now())?;
            client.reschedule_delayed_job(job, due).await?
        }
    };
    let (status, due) = match &retimed {
        Rescheduled::Delayed(one_shot) if one_shot.paused => ("paused", None),
        Rescheduled::Delayed(one_shot) => ("active", one_shot.due),
        Rescheduled::Retrying { due, .. } => (State::Retrying.as_str(), Some(*due)),
        Rescheduled::Queued { .. } => (State::Queued.as_str(), None),
    };
    let mut message = status.to_owned();
    if let Some(due) = due {
        message.push_str(&next(due, args.reschedule.when.tz.as_deref()));
    }
    Ok(ActionResult {
        status: Some(status),
        next_run: due,
        job_id: (args.action == Action::RunNow).then(|| job.clone()),
        ..ActionResult::new(DELAYED, message)
    })
}

fn runs_once_error(job: &JobId) -> Failure {
    Failure::usage(format!(
        "the job `{job}` runs once: its time, --next-run, is all that can be changed"
    ))
}

fn next(next_run: Timestamp, tz: Option<&str>) -> String {
    let shown = render::format_in_zone(next_run, tz);
    format!(
        ", next run {shown} ({})",
        render::relative_time(next_run, render::now())
    )
}

fn print_result(
    session: &Session,
    id: &JobId,
    action: Action,
    result: &ActionResult,
) -> std::io::Result<()> {
    if session.json {
        let mut object = json!({"id": id, "kind": result.kind, "action": action.as_str()});
        if let Some(was_changed) = result.was_changed {
            object["changed"] = json!(was_changed);
        }
        if let Some(status) = result.status {
            object["status"] = json!(status);
            object["next_run"] = json!(result.next_run);
        }
        if let Some(job_id) = &result.job_id {
            object["job_id"] = json!(job_id);
        }
        return render::print_json(&object);
    }
    match &result.job_id {
        // for the next command
        Some(job_id) => render::print_line(job_id),
        None => render::print_line(format_args!("{id}  {}", result.message)),
    }
}
