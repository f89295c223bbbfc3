//! `naq events`

mod hook;
mod webhook;

use std::num::NonZero;

use sha2::{Digest, Sha256};

use super::exit::Failure;
use super::render::{self, Ending};
use super::session::Session;
use naq_client::{Client, JobEvent, JobFilter, LabelFilter};
use naq_protocol::units::WireDuration;
use naq_protocol::{QueueName, State};

/// Filters of jobs.
#[derive(Debug, clap::Args)]
pub(super) struct JobFilterOptions {
    /// Select jobs of this queue
    #[arg(short = 'q', long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Select jobs in one of these states, separated by commas: queued, running, succeeded,
    /// failed …
    #[arg(
        short = 's',
        long = "state",
        value_name = "STATE,…",
        value_delimiter = ','
    )]
    states: Vec<State>,
    /// Select jobs with this label; given several times, jobs that have all of the labels
    #[arg(short = 'l', long = "label", value_name = "KEY[=VALUE]")]
    labels: Vec<LabelFilter>,
}

impl JobFilterOptions {
    pub(super) fn filter(&self) -> Result<JobFilter, Failure> {
        Ok(JobFilter {
            queue: self.queue.as_ref().map(QueueName::new).transpose()?,
            states: self.states.clone(),
            labels: self.labels.clone(),
        })
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filter_options: JobFilterOptions,
    /// Print changes as they happen, until Ctrl-C
    #[arg(short = 'f', long)]
    follow: bool,
    /// Shell command to run for each failure, or for each change that the filters select
    #[arg(long, value_name = "COMMAND", group = "action")]
    exec: Option<String>,
    /// Variable of naq's environment to pass to the command, in addition to PATH, HOME and the like; a
    /// final `*` matches any ending (`NAQ_*` for a naq in the command)
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "exec")]
    env: Vec<String>,
    /// URL to post the record to after each failure, or each change that the filters select
    #[arg(long, value_name = "URL", group = "action")]
    webhook: Option<String>,
    /// Name under which the server remembers which changes are done [default: derived from the
    /// action and the filters]
    #[arg(long, value_name = "NAME", requires = "action")]
    durable: Option<String>,
    /// Maximum number of commands or posts at once
    #[arg(long, value_name = "COUNT", default_value = "4", requires = "action")]
    parallel: NonZero<u8>,
    /// Maximum duration of a command or a post
    #[arg(long, value_name = "TIME", default_value = "1m", requires = "action")]
    timeout: WireDuration,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let mut filter = args.filter_options.filter()?;
    let action = match (&args.exec, &args.webhook) {
        (Some(command), _) => hook::Action::Exec(command.clone()),
        (None, Some(url)) => hook::Action::Webhook(url.clone()),
        (None, None) => {
            let client = session.connect().await?;
            return if args.follow {
                follow(session, &client, &filter).await
            } else {
                print_stored(session, &client, &filter).await
            };
        }
    };
    if filter.states.is_empty() {
        filter.states = vec![State::Failed, State::Rejected];
    }
    let unrecorded = [State::Queued, State::Scheduled];
    if let Some(state) = unrecorded
        .iter()
        .find(|state| filter.states.contains(state))
    {
        return Err(Failure::usage(format!(
            "--state {state}: an action follows the records, which workers write, and no worker has seen the job yet"
        ))
        .hint(format!("`naq events --follow --state {state}` prints these changes")));
    }
    let name = match &args.durable {
        Some(name) if QueueName::new(name).is_ok() => name.clone(),
        Some(_) => {
            return Err(Failure::usage(
                "--durable: a name is 1 to 64 of A-Z a-z 0-9 _ -",
            ));
        }
        None => durable_name(&action, &filter),
    };
    hook::run(
        session,
        &hook::HookOptions {
            action,
            filter,
            name,
            parallel: usize::from(args.parallel.get()),
            timeout: args.timeout.0,
            env: args.env,
        },
    )
    .await
}

/// The default name of the durable consumer: the same for the same action and filters, so that a
/// restart continues where it ended.
fn durable_name(action: &hook::Action, filter: &JobFilter) -> String {
    let what = format!("{action:?}\0{filter:?}");
    let digest = Sha256::digest(what);
    let hex: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("naq-events-{hex}")
}

async fn print_stored(
    session: &Session,
    client: &Client,
    filter: &JobFilter,
) -> Result<u8, Failure> {
    let mut events = client.latest_job_events(filter).await?;
    while let Some(event) = events.next().await? {
        print(session, &event)?;
    }
    Ok(0)
}

/// Prints each change as it happens.
pub(super) async fn follow(
    session: &Session,
    client: &Client,
    filter: &JobFilter,
) -> Result<u8, Failure> {
    let mut events = client.events(filter).await?;
    tracing::debug!("following");
    loop {
        match events.next().await? {
            Some(event) => print(session, &event)?,
            None => render::note(
                "the connection was lost; enqueues and intermediate states of that time are missing, outcomes are not",
            ),
        }
    }
}

fn print(session: &Session, event: &JobEvent) -> std::io::Result<()> {
    if session.json {
        return render::print_json(event);
    }
    let before = event
        .previous_state
        .map(|state| format!("{}→", render::state(state)))
        .unwrap_or_default();
    let record = &event.record;
    let error = match &record.error {
        Some(error) => format!("  {}", render::excerpt(&render::one_line(error), 120)),
        None => String::new(),
    };
    render::print_line(format_args!(
        "{}  {}  {}  {before}{}{error}",
        event.time,
        record.job_id,
        record.queue,
        render::outcome(Ending::of_summary(record))
    ))
}
