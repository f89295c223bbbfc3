//! `naq job`: what is rarely done to a job.

mod ttl;

use clap::Subcommand;

use super::control::{Action, ChangeOptions, control_delayed_job, control_each};
use super::exit::Failure;
use super::json::ScheduleKind;
use super::schedule_options::ScheduleOptions;
use super::session::Session;
use naq_protocol::JobId;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: JobVerb,
}

#[derive(Debug, Subcommand)]
enum JobVerb {
    /// Set how long an ended job's record stays
    Ttl(ttl::Args),
    /// Pause delayed jobs
    Pause(IdArgs),
    /// Resume paused delayed jobs
    ///
    /// A job that became due while it was paused is enqueued now.
    Resume(IdArgs),
    /// Give a delayed job, or one that waits for a retry, another due time
    Reschedule(RescheduleArgs),
    /// Enqueue delayed jobs now
    Trigger(IdArgs),
}

#[derive(Debug, clap::Args)]
struct IdArgs {
    /// Delayed jobs' ids
    #[arg(required = true, value_name = "JOB")]
    ids: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct RescheduleArgs {
    /// Job's id
    #[arg(value_name = "JOB")]
    id: String,
    /// New due time: RFC 3339, '2026-12-24 18:00', or 18:00 for the next one
    #[arg(value_name = "TIME")]
    time: String,
    /// Time zone of TIME, such as Europe/Berlin [default: this machine's]
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    /// Accept a time that is past, which means now
    #[arg(long)]
    past_ok: bool,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let none = ChangeOptions::default();
    match args.verb {
        JobVerb::Ttl(args) => ttl::run(session, args).await,
        JobVerb::Pause(args) => control(session, &args.ids, Action::Pause, "pause", &none).await,
        JobVerb::Resume(args) => control(session, &args.ids, Action::Resume, "resume", &none).await,
        JobVerb::Trigger(args) => {
            control(session, &args.ids, Action::Trigger, "trigger", &none).await
        }
        JobVerb::Reschedule(args) => {
            let options = ChangeOptions {
                next_run: Some(args.time),
                past_ok: args.past_ok,
                when: ScheduleOptions {
                    tz: args.tz,
                    ..ScheduleOptions::default()
                },
                queue: None,
            };
            options.check(session)?;
            control(session, &[args.id], Action::Update, "reschedule", &options).await
        }
    }
}

/// Carries out an action on each delayed job.
async fn control(
    session: &Session,
    ids: &[String],
    action: Action,
    verb: &str,
    options: &ChangeOptions,
) -> Result<u8, Failure> {
    let ids: Vec<JobId> = ids.iter().map(JobId::new).collect::<Result<_, _>>()?;
    let audited = action.audited(ScheduleKind::Delayed);
    control_each(session, &ids, verb, audited, async |client, id| {
        control_delayed_job(session, client, id, action, options).await
    })
    .await
}
