//! Runs a command or posts to a webhook for each change, until it succeeds.
//!
//! The changes come from a durable consumer of the bucket. A change is acknowledged only when its
//! command has exited with 0 or its webhook has accepted the post; if this process ends before
//! that, the server redelivers the change. So each action is carried out at least once, and
//! sometimes more than once.

use std::collections::{HashSet, VecDeque};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::webhook::Webhook;
use crate::cli::exit::Failure;
use crate::cli::render;
use crate::cli::session::Session;
use crate::cli::signals::Signals;
use crate::cli::worker_options::WorkerOptions;
use naq_client::{JobFilter, RecordChangeConsumer, RecordChangeDelivery};
use naq_core::ExponentialBackoff;
use naq_protocol::Record;
use naq_runner::{
    Captured, Command, Program, Runner, Stdin, StopCause, Termination, matches_env_pattern,
};

/// Pauses before a failed action is retried for the same change.
const RETRY_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(300));

/// Maximum time that running actions have to finish after a stop signal.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Number of handled changes that are remembered, to recognize a redelivered copy.
const REMEMBERED_MAX: usize = 4_096;

/// Maximum length of an error in a command's environment, in characters.
const ERROR_CHARS_MAX: usize = 1_000;

/// The action for each change.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// A shell command is run.
    Exec(String),
    /// The record is posted to a URL.
    Webhook(String),
}

/// Which changes cause an action, and which action.
pub(super) struct HookOptions {
    pub(super) action: Action,
    pub(super) filter: JobFilter,
    /// The name of the durable consumer.
    pub(super) name: String,
    pub(super) parallel: usize,
    pub(super) timeout: Duration,
    /// The variables of this process to pass to a command: names, or prefixes followed by `*`.
    pub(super) env: Vec<String>,
}

/// An action with everything that it needs.
enum Hook {
    Exec {
        runner: Runner,
        command: String,
        environment: Vec<(String, String)>,
        timeout: Duration,
    },
    Webhook(Arc<Webhook>),
}

pub(super) async fn run(session: &Session, options: &HookOptions) -> Result<u8, Failure> {
    let mut signals = Signals::listen()?;
    let hook = Arc::new(Hook::new(session, options).await?);
    let client = session.connect().await?;
    let ack_wait = session.settings().ack_wait;
    let changes = client.consume_record_changes(&options.name).await?;
    tracing::info!(
        name = %options.name,
        "waiting for changes: {}",
        match &*hook {
            Hook::Exec { .. } => "each runs the command".to_owned(),
            Hook::Webhook(webhook) => format!("each is posted to {}", webhook.redacted_url()),
        }
    );
    let mut hook_runner = HookRunner {
        changes,
        hook: Arc::clone(&hook),
        under_way: JoinSet::new(),
        in_flight: HashSet::new(),
        done: HandledRevisions::default(),
        ack_wait,
    };
    let worked = loop {
        tokio::select! {
            biased;
            _ = signals.next() => break Ok(0),
            worked = hook_runner.run_once(options) => if let Err(failure) = worked {
                break Err(failure);
            },
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(DRAIN_MAX, hook_runner.finish()) => {}
        _ = signals.next() => {}
    }
    // The last acknowledgements may not be sent yet.
    let _ = client.flush().await;
    if let Hook::Exec { runner, .. } = &*hook {
        runner.clone().shutdown().await;
    }
    worked
}

struct HookRunner {
    changes: RecordChangeConsumer,
    hook: Arc<Hook>,
    under_way: JoinSet<(u64, bool)>,
    in_flight: HashSet<u64>,
    done: HandledRevisions,
    ack_wait: Duration,
}

impl HookRunner {
    /// Handles one change, or the end of one action. Cancel safe: a change that was received and
    /// then dropped is redelivered.
    async fn run_once(&mut self, options: &HookOptions) -> Result<(), Failure> {
        let has_room = self.under_way.len() < options.parallel;
        tokio::select! {
            biased;
            Some(ended) = self.under_way.join_next() => {
                if let Ok((revision, is_done)) = ended {
                    self.on_hook_end(revision, is_done);
                }
                Ok(())
            }
            change = self.changes.next(), if has_room => {
                let change = change?;
                self.on_change(options, change).await
            }
        }
    }

    fn on_hook_end(&mut self, revision: u64, is_done: bool) {
        self.in_flight.remove(&revision);
        if is_done {
            self.done.add(revision);
        }
    }

    async fn on_change(
        &mut self,
        options: &HookOptions,
        change: RecordChangeDelivery,
    ) -> Result<(), Failure> {
        let revision = change.changed.revision;
        if self.in_flight.contains(&revision) {
            // The action that is running for the change acknowledges it for this copy too.
            return Ok(());
        }
        if !options.filter.matches(&change.changed.record) || self.done.has(revision) {
            change.ack().await;
            return Ok(());
        }
        if let Some(original) = change.changed.copy_of
            && (self.done.has(original) || self.changes.is_acknowledged(original).await?)
        {
            // The copy differs only in its time to live.
            change.ack().await;
            return Ok(());
        }
        self.in_flight.insert(revision);
        let (hook, ack_wait) = (Arc::clone(&self.hook), self.ack_wait);
        self.under_way.spawn(async move {
            let is_done = run_hook(&hook, &change, ack_wait).await;
            (revision, is_done)
        });
        Ok(())
    }

    async fn finish(&mut self) {
        while self.under_way.join_next().await.is_some() {}
    }
}

/// Revisions of the latest changes whose action has succeeded, at most [`REMEMBERED_MAX`].
#[derive(Default)]
struct HandledRevisions {
    revisions: HashSet<u64>,
    order: VecDeque<u64>,
}

impl HandledRevisions {
    fn add(&mut self, revision: u64) {
        if self.revisions.insert(revision) {
            self.order.push_back(revision);
        }
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.revisions.remove(&oldest);
        }
    }

    fn has(&self, revision: u64) -> bool {
        self.revisions.contains(&revision)
    }
}

/// Carries out the action for a change, then acknowledges the change, or negatively acknowledges it
/// if the action failed. Returns whether the action succeeded.
async fn run_hook(hook: &Hook, change: &RecordChangeDelivery, ack_wait: Duration) -> bool {
    let record = &change.changed.record;
    let calling = hook.invoke(record, change.changed.revision);
    tokio::pin!(calling);
    let mut renewal = tokio::time::interval(ack_wait / 3);
    renewal.tick().await;
    let called = loop {
        tokio::select! {
            called = &mut calling => break called,
            _ = renewal.tick() => change.in_progress().await,
        }
    };
    match called {
        Ok(()) => {
            change.ack().await;
            tracing::info!(job_id = %record.job_id, state = %record.state(), "action done");
            true
        }
        Err(problem) => {
            let failures = u32::try_from(change.delivery).unwrap_or(u32::MAX);
            let pause = RETRY_BACKOFF.pause(failures, rand::random());
            tracing::warn!(
                job_id = %record.job_id,
                state = %record.state(),
                times = change.delivery,
                "{problem}; retrying in {:.1} s",
                pause.as_secs_f64()
            );
            change.nak_after(pause).await;
            false
        }
    }
}

impl Hook {
    async fn new(session: &Session, options: &HookOptions) -> Result<Hook, Failure> {
        match &options.action {
            Action::Webhook(url) => {
                let webhook = Webhook::new(url, options.timeout)?;
                Ok(Hook::Webhook(Arc::new(webhook)))
            }
            Action::Exec(command) => {
                let slots = WorkerOptions::with_slots(options.parallel);
                Ok(Hook::Exec {
                    runner: slots.start_runner(session).await?,
                    command: command.clone(),
                    // Like a job, the command gets few other variables: those of this process may be
                    // secrets, which every process of its user can read in /proc.
                    environment: session
                        .environment()
                        .filter(|(name, _)| {
                            let mut patterns = options.env.iter();
                            patterns.any(|pattern| matches_env_pattern(pattern, name))
                        })
                        .map(|(name, value)| (name.to_owned(), value.to_owned()))
                        .collect(),
                    timeout: options.timeout,
                })
            }
        }
    }

    async fn invoke(&self, record: &Record, revision: u64) -> Result<(), String> {
        let json = serde_json::to_vec(record).map_err(|error| error.to_string())?;
        match self {
            Hook::Webhook(webhook) => {
                let (webhook, record) = (Arc::clone(webhook), record.clone());
                let shown = webhook.redacted_url();
                tokio::task::spawn_blocking(move || webhook.post(&record, &json, revision))
                    .await
                    .map_err(|error| error.to_string())?
                    .map_err(|problem| format!("posting to {shown} failed: {problem}"))
            }
            Hook::Exec {
                runner,
                command,
                environment,
                timeout,
            } => {
                let args = vec!["-c".to_owned(), command.clone()];
                let program = Program::Path {
                    program: "sh".to_owned(),
                    args,
                };
                let mut shell = Command::new(record.job_id.as_str(), program);
                shell.env.clone_from(environment);
                shell.env.extend(variables(record, revision));
                shell.stdin = Stdin::Bytes(json.into());
                shell.timeout = Some(*timeout);
                let ended = runner.start_job(shell).wait().await;
                copy_output(&ended.stdout, &mut std::io::stdout());
                copy_output(&ended.stderr, &mut std::io::stderr());
                match (&ended.stopped, &ended.end) {
                    (None, Termination::Exited(0)) => Ok(()),
                    (Some(StopCause::Timeout), _) => {
                        Err("the command exceeded its timeout".to_owned())
                    }
                    (Some(_), _) => Err("the command was stopped".to_owned()),
                    (None, Termination::Exited(code)) => {
                        Err(format!("the command exited with {code}"))
                    }
                    (None, Termination::Signalled(signal)) => {
                        Err(format!("the command was killed by signal {signal}"))
                    }
                    (None, Termination::NotStarted(failure)) => {
                        Err(format!("the command could not be started: {failure}"))
                    }
                    (None, Termination::SpawnerDied { .. }) => {
                        Err("the process that watched the command died".to_owned())
                    }
                }
            }
        }
    }
}

/// The variables that describe the change to the command, which reads the record on its standard
/// input.
fn variables(record: &Record, revision: u64) -> Vec<(String, String)> {
    let error = record.error.as_deref().unwrap_or_default();
    let optional = |value: Option<String>| value.unwrap_or_default();
    [
        ("NAQ_JOB_ID", record.job_id.to_string()),
        ("NAQ_QUEUE", record.queue.to_string()),
        ("NAQ_STATE", record.state().to_string()),
        (
            "NAQ_REASON",
            optional(record.reason().map(|reason| reason.to_string())),
        ),
        (
            "NAQ_ERROR",
            render::excerpt(&error.replace('\0', ""), ERROR_CHARS_MAX),
        ),
        ("NAQ_ATTEMPT", record.attempt.to_string()),
        (
            "NAQ_EXIT_CODE",
            optional(record.exit_code.map(|code| code.to_string())),
        ),
        ("NAQ_REVISION", revision.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// Copies the captured output of a command to this process's output.
fn copy_output(captured: &Captured, to: &mut impl Write) {
    // If the reader of this output is gone, that is no failure of the command.
    let _ = to
        .write_all(&captured.head)
        .and_then(|()| to.write_all(&captured.tail))
        .and_then(|()| to.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_of_remembered_revisions_is_bounded() {
        let mut done = HandledRevisions::default();
        for revision in 0..10_000 {
            done.add(revision);
        }
        assert_eq!(done.order.len(), REMEMBERED_MAX);
        assert_eq!(done.revisions.len(), REMEMBERED_MAX);
        assert!(done.has(9_999) && !done.has(0));
    }
}
