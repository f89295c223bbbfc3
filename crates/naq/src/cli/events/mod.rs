//! `naq events`

mod hook;
mod output;
mod webhook;

use std::future::poll_fn;
use std::num::NonZero;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use sha2::{Digest, Sha256};

use super::exit::Failure;
use super::render;
use super::session::Session;
use naq_client::{Client, JobFilter, LabelFilter};
use naq_protocol::units::WireDuration;
use naq_protocol::{QueueName, State};
use output::EventOutput;

/// Events with less time than this between them come without a pause.
const BUSY_INTERVAL: Duration = Duration::from_millis(20);

/// How long events that come without a pause are collected. No reader of a list notices it.
const COLLECTION_TIME: Duration = Duration::from_millis(20);

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
    let mut output = EventOutput::new(session.json);
    while let Some(event) = events.next().await? {
        output.add(&event)?;
    }
    output.flush()?;
    Ok(0)
}

/// Prints each change as it happens.
pub(super) async fn follow(
    session: &Session,
    client: &Client,
    filter: &JobFilter,
) -> Result<u8, Failure> {
    let mut events = client.events(filter).await?;
    let mut output = EventOutput::new(session.json);
    let mut pace = Pace {
        idle_since: Instant::now(),
    };
    tracing::debug!("following");
    loop {
        let event = match events.next().now_or_never() {
            Some(event) => event?,
            None => {
                output.flush()?;
                pace.wait_for(events.next()).await?
            }
        };
        match event {
            Some(event) => output.add(&event)?,
            None => {
                output.flush()?;
                render::note(
                    "the connection was lost; enqueues and intermediate states of that time are missing, outcomes are not",
                );
            }
        }
    }
}

/// Lets events that come without a pause accumulate, also those that a filter leaves out: with many jobs, or with
/// many followers on the machine of a worker, waking up for an event costs several times what the event does.
struct Pace {
    /// Since when no event has been waiting.
    idle_since: Instant,
}

impl Pace {
    async fn wait_for<T>(&mut self, event: impl Future<Output = T>) -> T {
        let mut event = pin!(event);
        poll_fn(|context| {
            let polled = event.as_mut().poll(context);
            if polled.is_pending() {
                self.collect_if_busy();
            }
            polled
        })
        .await
    }

    fn collect_if_busy(&mut self) {
        if self.idle_since.elapsed() < BUSY_INTERVAL {
            // Not the runtime's timer: its thread would read the connection meanwhile. Nothing else runs on it.
            std::thread::sleep(COLLECTION_TIME);
        }
        self.idle_since = Instant::now();
    }
}
