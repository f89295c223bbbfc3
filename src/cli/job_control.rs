//! `naq job-control`

use clap::ValueEnum;
use serde_json::json;

use super::exit::Failure;
use super::render;
use super::schedule_options::{OrNone, ScheduleOptions, moment};
use super::session::Session;
use crate::client::{Changed, Client, ScheduleSummary};
use crate::envelope::{QueueName, ScheduleId, ScheduleStatus, Timestamp};
use crate::lifecycle::{ScheduleChange, Zone};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The schedule's name
    #[arg(value_name = "ID")]
    id: String,
    /// What to do
    #[arg(value_name = "ACTION", value_enum)]
    action: Action,
    #[command(flatten)]
    reschedule: Reschedule,
}

/// What can be done to a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Remove it; jobs that it has enqueued are left alone
    Cancel,
    /// Enqueue nothing until it is resumed
    Pause,
    /// Go on; what fell due meanwhile is left out
    Resume,
    /// Change it: the options below say how, and what they do not name stays
    Reschedule,
    /// Enqueue a job at once, beside those that are due, paused or not, and print its id
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
    fn read_times(
        &self,
        change: &mut ScheduleChange,
        zone: Zone,
        now: Timestamp,
    ) -> Result<(), Failure> {
        change.start = self.when.start(zone, now)?;
        change.end = self.when.end(zone, now)?;
        change.next_run = match &self.next_run {
            Some(text) => Some(moment("--next-run", text, zone, now)?),
            None => None,
        };
        Ok(())
    }

    fn has_times(&self) -> bool {
        self.next_run.is_some() || self.when.start.is_some() || self.when.end.is_some()
    }
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let id = ScheduleId::new(&args.id)?;
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
    let mut zone = args.reschedule.when.zone()?;
    args.reschedule
        .read_times(&mut change, zone, render::now())?;
    let client = session.connect().await?;
    match args.action {
        Action::Cancel => {
            client.cancel_scheduled_job(&id).await?;
            tell(session, &id, args.action, true, "removed", None)
        }
        Action::Pause => {
            let changed = client.pause_scheduled_job(&id).await?;
            tell_changed(session, args.action, changed)
        }
        Action::Resume => {
            let changed = client.resume_scheduled_job(&id, render::now()).await?;
            tell_changed(session, args.action, changed)
        }
        Action::Reschedule => {
            if change.tz.is_none() && args.reschedule.has_times() {
                zone = zone_of(&client, &id).await?;
            }
            let now = render::now();
            args.reschedule.read_times(&mut change, zone, now)?;
            let changed = client.modify_scheduled_job(&id, &change, now).await?;
            tell_changed(session, args.action, changed)
        }
        Action::RunNow => {
            let job_id = client.run_scheduled_job_now(&id, render::now()).await?;
            if session.json {
                render::print_json(&json!({
                    "id": id, "kind": "recurring", "action": args.action.as_str(),
                    "job_id": job_id,
                }))?;
            } else {
                render::print_line(&job_id)?;
            }
            Ok(0)
        }
    }
}

/// The zone that a schedule speaks of.
async fn zone_of(client: &Client, id: &ScheduleId) -> Result<Zone, Failure> {
    let summary = client.fetch_schedule(id).await?;
    let name = summary.and_then(|summary| summary.schedule.tz);
    Ok(name.and_then(|name| name.parse().ok()).unwrap_or(Zone::UTC))
}

fn tell_changed(session: &Session, action: Action, changed: Changed) -> Result<u8, Failure> {
    let was_changed = changed.was_changed;
    let summary = ScheduleSummary::from(changed.schedule);
    let schedule = &summary.schedule;
    let already = if was_changed { "" } else { " already" };
    let mut told = format!("{}{already}", schedule.status);
    match summary.next_run {
        Some(next_run) => {
            let next = render::moment_in(next_run, schedule.tz.as_deref());
            let away = render::away(next_run, render::now());
            told.push_str(&format!(", next run {next} ({away})"));
        }
        None if action == Action::Reschedule && schedule.status == ScheduleStatus::Paused => {
            told.push_str(" still: `resume` has it go on");
        }
        None => {}
    }
    tell(
        session,
        &schedule.schedule_id,
        action,
        was_changed,
        &told,
        Some(&summary),
    )
}

fn tell(
    session: &Session,
    id: &ScheduleId,
    action: Action,
    was_changed: bool,
    told: &str,
    summary: Option<&ScheduleSummary>,
) -> Result<u8, Failure> {
    if session.json {
        let mut object = json!({
            "id": id, "kind": "recurring", "action": action.as_str(), "changed": was_changed,
        });
        if let Some(summary) = summary {
            object["status"] = json!(summary.schedule.status);
            object["next_run"] = json!(summary.next_run);
        }
        render::print_json(&object)?;
    } else {
        render::print_line(format_args!("{id}  {told}"))?;
    }
    Ok(0)
}
