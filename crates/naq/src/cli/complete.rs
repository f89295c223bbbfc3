//! Completion of values in a shell: queues, states, jobs, schedules and workers.
//!
//! The name of a value in the help text decides what completes it, so that `QUEUE` means the same
//! in every verb. The shell waits for an answer with each press of Tab: completers have
//! [`COMPLETION_MAX`] in all, never start a server, and print nothing but candidates.

use std::ffi::OsStr;
use std::sync::OnceLock;
use std::time::Duration;

use clap::{Arg, Command, ValueHint};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::CompleteEnv;
use tokio::time::{Instant, timeout_at};

use super::exit::Failure;
use super::session::{GlobalOptions, Session};
use naq_client::{Client, JobFilter, ListedSchedule, ScheduleFilter};
use naq_protocol::State;

/// The variable by which a shell asks for candidates.
pub(super) const VARIABLE: &str = "NAQ_COMPLETE";

/// How long completing may take, from the start of the process.
const COMPLETION_MAX: Duration = Duration::from_millis(300);

/// The most candidates that are looked for; nobody reads more.
const CANDIDATES_MAX: usize = 200;

/// Jobs that are read at once.
const PAGE_JOBS: usize = 500;

/// Values that can be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    Queues,
    States,
    /// Jobs in any state.
    Jobs,
    /// Jobs that have not ended.
    OpenJobs,
    /// Jobs that have ended.
    EndedJobs,
    FailedJobs,
    DelayedJobs,
    Schedules,
    /// What `schedule list` lists: schedules and delayed jobs.
    Scheduled,
    Workers,
}

/// Prints candidates if a shell asks for some. Returns whether one did. `verbs` makes the program's
/// verbs and their options.
pub(super) fn run(verbs: fn() -> Command) -> bool {
    let env = CompleteEnv::with_factory(|| {
        deadline();
        // A message would end up in the middle of the user's command line.
        std::panic::set_hook(Box::new(|_| {}));
        verbs()
    });
    let current_dir = std::env::current_dir().ok();
    env.var(VARIABLE)
        .try_complete(std::env::args_os(), current_dir.as_deref())
        .unwrap_or(true)
}

/// When completing has to be done, set by the first call.
fn deadline() -> Instant {
    static DEADLINE: OnceLock<Instant> = OnceLock::new();
    *DEADLINE.get_or_init(|| Instant::now() + COMPLETION_MAX)
}

/// Adds a completer to each argument whose values naq knows.
pub(super) fn with_completers(command: Command) -> Command {
    add_completers(command, "")
}

fn add_completers(command: Command, path: &str) -> Command {
    command
        .mut_args(|argument| add_completer(argument, path))
        .mut_subcommands(|verb| {
            let path = format!("{path} {}", verb.get_name());
            add_completers(verb, path.trim_start())
        })
}

fn add_completer(argument: Arg, path: &str) -> Arg {
    let name = argument.get_value_names().and_then(|names| names.first());
    let values = match name.map(|name| name.as_str()) {
        Some("QUEUE") => Values::Queues,
        Some("STATE,…") => Values::States,
        Some("JOB") => match path {
            "cancel" | "wait" => Values::OpenJobs,
            "retry" => Values::EndedJobs,
            "failed show" | "failed retry" | "failed discard" => Values::FailedJobs,
            _ if path.starts_with("job ") && path != "job ttl" => Values::DelayedJobs,
            _ => Values::Jobs,
        },
        Some("SCHEDULE") => Values::Schedules,
        Some("SCHEDULE|JOB") => Values::Scheduled,
        Some("WORKER") => Values::Workers,
        Some("FILE" | "PATH") => return argument.value_hint(ValueHint::AnyPath),
        Some("DIR") => return argument.value_hint(ValueHint::DirPath),
        _ => return argument,
    };
    argument.add(ArgValueCompleter::new(move |word: &OsStr| {
        complete(values, word)
    }))
}

/// The candidates that begin with a word.
fn complete(values: Values, word: &OsStr) -> Vec<CompletionCandidate> {
    let Some(word) = word.to_str() else {
        return Vec::new();
    };
    let mut candidates = Candidates {
        prefix: word.to_owned(),
        found: Vec::new(),
    };
    if values == Values::States {
        for state in State::ALL {
            candidates.add(state.as_str(), String::new());
        }
        return candidates.found;
    }
    if let Ok(runtime) = super::runtime::start() {
        runtime.block_on(async {
            // What was found in time is shown, whether or not it is all.
            let _ = timeout_at(deadline(), find(values, &mut candidates)).await;
        });
        // A thread may still be looking up a host's address; nothing waits for it.
        runtime.shutdown_background();
    }
    candidates.found
}

struct Candidates {
    prefix: String,
    found: Vec<CompletionCandidate>,
}

impl Candidates {
    fn add(&mut self, value: &str, help: String) {
        if value.starts_with(&self.prefix) && !self.is_full() {
            let help = (!help.is_empty()).then(|| help.into());
            self.found.push(CompletionCandidate::new(value).help(help));
        }
    }

    fn is_full(&self) -> bool {
        self.found.len() >= CANDIDATES_MAX
    }
}

/// Finds candidates on the server that the command line so far, the environment and the settings
/// name.
async fn find(values: Values, candidates: &mut Candidates) -> Result<(), Failure> {
    let words = std::env::args().skip_while(|word| word != "--").skip(1);
    let Some(global) = GlobalOptions::from_words(words) else {
        return Ok(());
    };
    let client = Session::without_log(&global)?.connect().await?;
    match values {
        Values::States => {}
        Values::Queues => {
            for queue in client.list_queues().await? {
                candidates.add(queue.name.as_str(), format!("{} jobs", queue.depth));
            }
        }
        Values::Workers => {
            for worker in client.list_workers().await? {
                candidates.add(&worker.name, worker.worker_id.clone());
            }
        }
        Values::Jobs => find_jobs(&client, candidates, |_| true).await?,
        Values::OpenJobs => find_jobs(&client, candidates, |state| !state.is_terminal()).await?,
        Values::EndedJobs => find_jobs(&client, candidates, State::is_terminal).await?,
        Values::FailedJobs => {
            find_jobs(&client, candidates, |state| {
                matches!(state, State::Failed | State::Rejected)
            })
            .await?;
        }
        Values::DelayedJobs => find_delayed_jobs(&client, candidates).await?,
        Values::Schedules => find_schedules(&client, candidates).await?,
        Values::Scheduled => {
            find_schedules(&client, candidates).await?;
            find_delayed_jobs(&client, candidates).await?;
        }
    }
    Ok(())
}

/// Finds jobs in the given states, the latest change first.
async fn find_jobs(
    client: &Client,
    candidates: &mut Candidates,
    is_wanted: impl Fn(State) -> bool,
) -> Result<(), Failure> {
    let filter = JobFilter {
        states: State::ALL
            .into_iter()
            .filter(|state| is_wanted(*state))
            .collect(),
        ..JobFilter::default()
    };
    let mut before = None;
    while !candidates.is_full() {
        let page = client.list_jobs(&filter, None, before, PAGE_JOBS).await?;
        for job in page.jobs {
            let record = job.record;
            let help = format!("{}, queue {}", record.state, record.queue);
            candidates.add(record.job_id.as_str(), help);
        }
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    Ok(())
}

async fn find_delayed_jobs(client: &Client, candidates: &mut Candidates) -> Result<(), Failure> {
    let mut jobs = client.delayed_jobs(None).await?;
    while let Some(job) = jobs.next().await? {
        let help = job.due.map(|due| format!("due {due}")).unwrap_or_default();
        candidates.add(job.job_id.as_str(), help);
    }
    Ok(())
}

async fn find_schedules(client: &Client, candidates: &mut Candidates) -> Result<(), Failure> {
    let mut schedules = client.list_schedules(&ScheduleFilter::default()).await?;
    while let Some(listed) = schedules.next().await? {
        match listed {
            ListedSchedule::Valid(summary) => {
                let schedule = &summary.schedule;
                candidates.add(schedule.schedule_id.as_str(), schedule.status.to_string());
            }
            ListedSchedule::Invalid { schedule_id, .. } => {
                candidates.add(schedule_id.as_str(), "unreadable".to_owned());
            }
        }
    }
    Ok(())
}
