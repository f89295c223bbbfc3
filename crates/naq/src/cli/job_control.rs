//! `naq job-control`: the Python library's name for what `naq schedule` and `naq job` do.

use clap::ValueEnum;

use super::changes::Changes;
use super::clock;
use super::control::{
    Action, ActionResult, ChangeOptions, ControlError, control_delayed_job, control_schedule,
    print_result,
};
use super::exit::Failure;
use super::schedule::not_scheduled_error;
use super::session::Session;
use naq_protocol::{JobId, ScheduleId};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Schedule's name, or a delayed job's id
    #[arg(value_name = "SCHEDULE|JOB")]
    id: String,
    /// Action to carry out
    #[arg(value_name = "ACTION", value_enum)]
    action: LibraryAction,
    #[command(flatten)]
    options: ChangeOptions,
}

/// An action under the Python library's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LibraryAction {
    /// Delete a schedule (jobs that it has enqueued stay), or cancel a delayed job
    Cancel,
    /// Enqueue nothing until it is resumed
    Pause,
    /// Resume; ticks that a schedule missed while it was paused are left out, and a delayed job
    /// that became due meanwhile is enqueued
    Resume,
    /// Change what the options below name
    Reschedule,
    /// Enqueue a job now, even if paused, and print its id
    RunNow,
}

impl LibraryAction {
    fn as_str(self) -> &'static str {
        match self {
            LibraryAction::Cancel => "cancel",
            LibraryAction::Pause => "pause",
            LibraryAction::Resume => "resume",
            LibraryAction::Reschedule => "reschedule",
            LibraryAction::RunNow => "run-now",
        }
    }

    fn action(self) -> Action {
        match self {
            LibraryAction::Cancel => Action::Delete,
            LibraryAction::Pause => Action::Pause,
            LibraryAction::Resume => Action::Resume,
            LibraryAction::Reschedule => Action::Update,
            LibraryAction::RunNow => Action::Trigger,
        }
    }
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let id = JobId::new(&args.id)?;
    let has_changes = args.options.check(session)?;
    if has_changes != (args.action == LibraryAction::Reschedule) {
        return Err(Failure::usage(if has_changes {
            format!(
                "{} takes no options: they are for `reschedule`",
                args.action.as_str()
            )
        } else {
            super::control::NO_CHANGES.to_owned()
        }));
    }
    let action = args.action.action();
    let client = session.connect().await?;
    // A job's id may be longer than a schedule's name can be.
    let mut result = match ScheduleId::new(id.as_str()) {
        Ok(schedule) => {
            found(control_schedule(session, &client, &schedule, action, &args.options).await)?
        }
        Err(_) => None,
    };
    if result.is_none() {
        result = found(control_delayed_job(session, &client, &id, action, &args.options).await)?;
    }
    let result = result.ok_or_else(|| not_scheduled_error(&id))?;
    let mut changes = Changes::new(action.audited(result.kind()));
    result.add_to(&mut changes, &id);
    changes.record(&client, &Ok(())).await;
    print_result(session, id.as_str(), args.action.as_str(), &result)?;
    clock::warn_if_off(&client).await;
    Ok(0)
}

/// The result, or `None` if the id was not found.
fn found(result: Result<ActionResult, ControlError>) -> Result<Option<ActionResult>, Failure> {
    match result {
        Ok(result) => Ok(Some(result)),
        Err(ControlError::NotFound(_)) => Ok(None),
        Err(ControlError::Failed(failure)) => Err(failure),
    }
}
