//! What `naq schedule`, `naq job` and `naq job-control` do to a schedule or to a delayed job.

use super::changes::Changes;
use super::clock;
use super::exit::Failure;
use super::json::{ScheduleChangeReport, ScheduleKind};
use super::render;
use super::retry::ErrorReporter;
use super::schedule_options::{OrNone, ScheduleOptions};
use super::session::Session;
use super::times::TimeReader;
use naq_client::{AuditAction, Client, ClientError, Rescheduled, ScheduleSummary};
use naq_core::ScheduleChange;
use naq_cron::Timezone;
use naq_protocol::{JobId, QueueName, ScheduleId, ScheduleStatus, State, Timestamp};

/// What can be done to a schedule, or to a delayed job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Delete,
    Pause,
    Resume,
    Update,
    Trigger,
}

impl Action {
    /// What the audit calls it.
    pub(super) fn audited(self, kind: ScheduleKind) -> AuditAction {
        match (self, kind) {
            (Action::Delete, ScheduleKind::Recurring) => AuditAction::ScheduleDelete,
            (Action::Delete, ScheduleKind::Delayed) => AuditAction::JobCancel,
            (Action::Pause, ScheduleKind::Recurring) => AuditAction::SchedulePause,
            (Action::Pause, ScheduleKind::Delayed) => AuditAction::JobPause,
            (Action::Resume, ScheduleKind::Recurring) => AuditAction::ScheduleResume,
            (Action::Resume, ScheduleKind::Delayed) => AuditAction::JobResume,
            (Action::Update, ScheduleKind::Recurring) => AuditAction::ScheduleUpdate,
            (Action::Update, ScheduleKind::Delayed) => AuditAction::JobReschedule,
            (Action::Trigger, ScheduleKind::Recurring) => AuditAction::ScheduleTrigger,
            (Action::Trigger, ScheduleKind::Delayed) => AuditAction::JobTrigger,
        }
    }
}

/// What an update changes. A field whose option is absent stays as it is.
#[derive(Debug, Default, clap::Args)]
pub(super) struct ChangeOptions {
    /// Time of the next run, from which an interval continues: RFC 3339, '2026-12-24 18:00', or
    /// 18:00, in the schedule's time zone
    #[arg(long, value_name = "TIME")]
    pub(super) next_run: Option<String>,
    /// Accept times that are past; a next run that is past means now
    #[arg(long)]
    pub(super) past_ok: bool,
    /// Queue for the schedule's jobs
    #[arg(short = 'q', long, value_name = "QUEUE")]
    pub(super) queue: Option<String>,
    #[command(flatten)]
    pub(super) when: ScheduleOptions,
}

impl ChangeOptions {
    /// The requested changes, except for the times, which cannot be read without a time zone.
    pub(super) fn change(&self) -> Result<ScheduleChange, Failure> {
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

    /// Adds the times to `change`.
    fn read_times(
        &self,
        change: &mut ScheduleChange,
        times: &TimeReader<'_>,
    ) -> Result<(), Failure> {
        change.start = self.when.start(times)?;
        change.end = self.when.end(times)?;
        change.next_run = self.read_next_run(times)?;
        Ok(())
    }

    fn read_next_run(&self, times: &TimeReader<'_>) -> Result<Option<Timestamp>, Failure> {
        let Some(text) = &self.next_run else {
            return Ok(None);
        };
        let time = times.read("--next-run", text)?;
        times.note("--next-run", time)?;
        Ok(Some(time))
    }

    fn times<'s>(&self, session: &'s Session) -> Result<TimeReader<'s>, Failure> {
        TimeReader::new(session, self.when.tz.as_deref(), self.past_ok)
    }

    /// Whether the options request any change. Finds what is wrong with them before anything is
    /// sent to a server.
    ///
    /// # Errors
    ///
    /// Returns a usage error if a value cannot be read.
    pub(super) fn check(&self, session: &Session) -> Result<bool, Failure> {
        let times = self.times(session)?;
        self.when.check_times(&times)?;
        if let Some(text) = &self.next_run {
            times.parse("--next-run", text)?;
        }
        Ok(!self.change()?.is_empty() || self.has_times())
    }

    /// Whether a time is among the requested changes.
    pub(super) fn has_times(&self) -> bool {
        self.next_run.is_some() || self.when.start.is_some() || self.when.end.is_some()
    }
}

/// Carries out an action on each of several schedules or delayed jobs, by `act`, and prints what it
/// did. If one does not exist, the action still reaches the others, and the verb ends with the error.
pub(super) async fn control_each<Id: std::fmt::Display>(
    session: &Session,
    ids: &[Id],
    verb: &str,
    action: AuditAction,
    act: impl AsyncFn(&Client, &Id) -> Result<ActionResult, ControlError>,
) -> Result<u8, Failure> {
    let client = session.connect().await?;
    let mut errors = ErrorReporter::default();
    let mut changes = Changes::new(action);
    let done: Result<(), Failure> = async {
        for id in ids {
            match act(&client, id).await {
                Ok(result) => {
                    result.add_to(&mut changes, id);
                    print_result(session, &id.to_string(), verb, &result)?;
                }
                Err(ControlError::NotFound(error)) => errors.add(error),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
    .await;
    changes.record(&client, &done).await;
    done?;
    clock::warn_if_off(&client).await;
    errors.finish()
}

/// Why an action was not carried out.
pub(super) enum ControlError {
    /// No schedule, or no delayed job, has the id.
    NotFound(ClientError),
    Failed(Failure),
}

impl From<ClientError> for ControlError {
    fn from(error: ClientError) -> ControlError {
        match error {
            ClientError::NoSuchSchedule(_) | ClientError::NoSuchJob(_) => {
                ControlError::NotFound(error)
            }
            error => ControlError::Failed(error.into()),
        }
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Failure {
        match error {
            ControlError::NotFound(error) => error.into(),
            ControlError::Failed(failure) => failure,
        }
    }
}

impl From<Failure> for ControlError {
    fn from(failure: Failure) -> ControlError {
        ControlError::Failed(failure)
    }
}

/// What an action led to.
pub(super) struct ActionResult {
    kind: ScheduleKind,
    /// The result in a few words, for people.
    message: String,
    /// Whether the action changed anything. `None` if that is not known.
    was_changed: Option<bool>,
    status: Option<String>,
    next_run: Option<Timestamp>,
    /// The job that the action enqueued.
    job_id: Option<JobId>,
}

impl ActionResult {
    /// Whether it was done to a schedule or to a delayed job.
    pub(super) fn kind(&self) -> ScheduleKind {
        self.kind
    }

    /// Adds what was changed by an action on this name.
    pub(super) fn add_to(&self, changes: &mut Changes, name: &impl ToString) {
        if self.was_changed != Some(false) {
            changes.add(name);
        }
    }

    fn new(kind: ScheduleKind, message: impl Into<String>) -> ActionResult {
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

/// The error of an update that names no change.
pub(super) const NO_CHANGES: &str =
    "nothing to change was given: --cron, --every, --next-run, --repeat, --queue …";

/// Carries out an action on a schedule. `options` are read for [`Action::Update`] only.
///
/// # Errors
///
/// Returns [`ControlError::NotFound`] if no schedule has the id.
pub(super) async fn control_schedule(
    session: &Session,
    client: &Client,
    id: &ScheduleId,
    action: Action,
    options: &ChangeOptions,
) -> Result<ActionResult, ControlError> {
    let changed = match action {
        Action::Delete => {
            client.delete_schedule(id).await?;
            return Ok(ActionResult::new(ScheduleKind::Recurring, "removed"));
        }
        Action::Trigger => {
            let job_id = client.trigger_schedule(id).await?;
            return Ok(ActionResult {
                job_id: Some(job_id),
                ..ActionResult::new(ScheduleKind::Recurring, "")
            });
        }
        Action::Pause => client.pause_schedule(id).await?,
        Action::Resume => client.resume_schedule(id).await?,
        Action::Update => {
            // A time without an offset is in the zone that the schedule has, or gets by this.
            let mut change = options.change()?;
            let mut times = options.times(session)?;
            if change.tz.is_none()
                && options.has_times()
                && let Some(zone) = zone_of(client, id).await?
            {
                times = times.in_zone(zone);
            }
            options.read_times(&mut change, &times)?;
            client.update_schedule(id, &change).await?
        }
    };
    let was_changed = changed.was_changed;
    let summary = ScheduleSummary::from(changed.schedule);
    let schedule = &summary.schedule;
    let already = if was_changed { "" } else { " already" };
    let mut message = format!("{}{already}", schedule.status);
    match summary.next_run {
        Some(next_run) => message.push_str(&next(next_run, schedule.tz.as_deref())),
        None if action == Action::Update && schedule.status == ScheduleStatus::Paused => {
            message.push_str(" still; `resume` resumes it");
        }
        None => {}
    }
    Ok(ActionResult {
        was_changed: Some(was_changed),
        status: Some(schedule.status.to_string()),
        next_run: summary.next_run,
        ..ActionResult::new(ScheduleKind::Recurring, message)
    })
}

/// The time zone of a schedule's cron expression. `None` for an interval, which has no zone, and for
/// a schedule that does not exist.
async fn zone_of(client: &Client, id: &ScheduleId) -> Result<Option<Timezone>, ClientError> {
    let schedule = client
        .fetch_schedule(id)
        .await?
        .map(|summary| summary.schedule);
    let Some(schedule) = schedule.filter(|schedule| schedule.cron.is_some()) else {
        return Ok(None);
    };
    let name = schedule.tz.as_deref();
    Ok(Some(
        name.and_then(|name| name.parse().ok()).unwrap_or_default(),
    ))
}

/// Carries out an action on a delayed job. `options` are read for [`Action::Update`] only, and a
/// due time without an offset is read in their zone.
///
/// # Errors
///
/// Returns [`ControlError::NotFound`] if no job has the id.
pub(super) async fn control_delayed_job(
    session: &Session,
    client: &Client,
    job: &JobId,
    action: Action,
    options: &ChangeOptions,
) -> Result<ActionResult, ControlError> {
    let rescheduled = match action {
        Action::Delete => {
            // Only a delayed job is cancelled here; `naq cancel` cancels any.
            client.fetch_delayed_job(job).await?;
            client.cancel(job).await?;
            return Ok(ActionResult {
                status: Some(State::Cancelled.to_string()),
                ..ActionResult::new(ScheduleKind::Delayed, "cancelled")
            });
        }
        Action::Pause => Rescheduled::Delayed(Box::new(client.pause_delayed_job(job).await?)),
        Action::Resume => client.resume_delayed_job(job).await?,
        Action::Trigger => client.run_delayed_job_now(job).await?,
        Action::Update => {
            if options.next_run.is_none() {
                client.fetch_delayed_job(job).await?;
                return Err(runs_once_error(job).into());
            }
            let others = ChangeOptions {
                next_run: None,
                past_ok: false,
                when: ScheduleOptions {
                    tz: None,
                    ..options.when.clone()
                },
                queue: options.queue.clone(),
            };
            if !others.change()?.is_empty() || others.has_times() {
                client.fetch_delayed_job(job).await?;
                return Err(runs_once_error(job).into());
            }
            client.fetch_delayed_job(job).await?;
            match options.read_next_run(&options.times(session)?)? {
                Some(due) => client.reschedule_delayed_job(job, due).await?,
                None => return Err(runs_once_error(job).into()),
            }
        }
    };
    let (status, due) = match &rescheduled {
        Rescheduled::Delayed(delayed) if delayed.paused => ("paused", None),
        Rescheduled::Delayed(delayed) => ("active", delayed.due),
        Rescheduled::Retrying { due, .. } => (State::Retrying.as_str(), Some(*due)),
        Rescheduled::Queued { .. } => (State::Queued.as_str(), None),
    };
    let mut message = status.to_owned();
    if let Some(due) = due {
        message.push_str(&next(due, options.when.tz.as_deref()));
    }
    Ok(ActionResult {
        status: Some(status.to_owned()),
        next_run: due,
        job_id: (action == Action::Trigger).then(|| job.clone()),
        ..ActionResult::new(ScheduleKind::Delayed, message)
    })
}

fn runs_once_error(job: &JobId) -> Failure {
    Failure::usage(format!(
        "the job `{job}` runs once: its time, --next-run, is all that can be changed"
    ))
}

fn next(next_run: Timestamp, tz: Option<&str>) -> String {
    let next_run = render::time_and_distance(next_run, tz, render::now());
    format!(", next run {next_run}")
}

/// Prints the result of an action, which is `action` in JSON.
pub(super) fn print_result(
    session: &Session,
    id: &str,
    action: &str,
    result: &ActionResult,
) -> std::io::Result<()> {
    if session.json {
        let is_schedule = result.kind == ScheduleKind::Recurring;
        let enqueued = result.job_id.as_ref().map(JobId::as_str);
        let report = ScheduleChangeReport {
            kind: Some(result.kind),
            schedule_id: is_schedule.then_some(id),
            job_id: enqueued.or((!is_schedule).then_some(id)),
            action,
            changed: result.was_changed,
            fields: None,
            status: result.status.as_deref(),
            next_run: result.next_run,
        };
        return render::tolerate_closed_output(render::print_json(&report));
    }
    render::tolerate_closed_output(match &result.job_id {
        // for the next command
        Some(job_id) => render::print_line(job_id),
        None => render::print_line(format_args!("{id}  {}", result.message)),
    })
}
