//! What a script needs before it runs, such as its dependencies: prepared once for each source text, one job
//! at a time, and outside of the job's timeout.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::MutexGuard;

use super::attempt::Attempt;
use super::prepared_scripts::Prepared;
use naq_protocol::{Preparation, Record};
use naq_runner::{Captured, Command, Completion, SpawnFailure, Termination};

/// Number of bytes of a preparation's output that a record keeps.
const OUTPUT_BYTES_MAX: usize = 4 << 10;

/// How often a job that waits for another one to prepare its script checks whether it is to stop.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(200);

impl Attempt<'_> {
    /// Prepares the script of a job whose command is this, if it has to be.
    ///
    /// # Errors
    /// Returns the end of the attempt if the preparation failed or was stopped.
    pub(super) async fn prepare_script(
        &self,
        record: &mut Record,
        command: &Command,
    ) -> Result<(), Box<Completion>> {
        let context = self.delivery.context;
        let Some(preparation) = context.options.languages.preparation(self.envelope) else {
            return Ok(());
        };
        let runner = self.envelope.runner.as_deref().unwrap_or_default();
        let source = self.envelope.script.as_deref().unwrap_or_default();
        let entry = context.prepared_scripts.entry(runner, source);
        let Some(mut is_prepared) = self.wait_for_preparation(&entry).await else {
            return Ok(());
        };
        if *is_prepared {
            return Ok(());
        }
        let mut preparing = Command::new(record.job_id.as_str(), preparation.program);
        preparing.cwd.clone_from(&command.cwd);
        preparing.env.clone_from(&command.env);
        preparing.secrets.clone_from(&command.secrets);
        preparing.timeout = Some(preparation.timeout);
        preparing.kill_grace = command.kill_grace;
        preparing.deadline = command.deadline;
        preparing.alone = command.alone;
        // in the slot of its job, which keeps it afterwards
        let handle = Arc::new(context.runner.start_without_slot(preparing));
        self.delivery.lease.set_handle(Arc::clone(&handle));
        let mut ended = handle.wait().await;
        record.preparation = Some(Preparation {
            output: [&ended.stdout, &ended.stderr].map(last_bytes).concat(),
            wall_ms: ended.usage.wall_ms,
            unknown: naq_protocol::UnknownFields::default(),
        });
        let failure = match ended.end {
            Termination::Exited(0) if ended.stopped.is_none() => {
                *is_prepared = true;
                return Ok(());
            }
            Termination::Exited(code) => {
                format!("the preparation of its script exited with {code}")
            }
            Termination::Signalled(signal) => {
                format!("signal {signal} ended the preparation of its script")
            }
            Termination::NotStarted(_) | Termination::SpawnerDied { .. } => {
                return Err(Box::new(ended));
            }
        };
        let is_timeout = matches!(ended.stopped, Some(naq_runner::StopCause::Timeout));
        if ended.stopped.is_none() || is_timeout {
            let why = match is_timeout {
                true => format!("{failure} after {:?}", preparation.timeout),
                false => failure,
            };
            // A registry that is down must not fail a job for good.
            ended.end = Termination::NotStarted(SpawnFailure::of_step("prepare", why));
            ended.stopped = None;
        }
        Err(Box::new(ended))
    }
}

impl Attempt<'_> {
    /// Waits until no other job prepares the script. `None` if this job is to stop, or its lease is lost: its
    /// start ends it.
    async fn wait_for_preparation<'p>(&self, entry: &'p Prepared) -> Option<MutexGuard<'p, bool>> {
        let lease = self.delivery.lease;
        loop {
            tokio::select! {
                is_prepared = entry.lock() => return Some(is_prepared),
                () = tokio::time::sleep(STOP_CHECK_INTERVAL) => {
                    if lease.is_lost() || lease.stop_requested().is_some() {
                        return None;
                    }
                }
            }
        }
    }
}

/// The end of an output, as text.
fn last_bytes(output: &Captured) -> String {
    let last = match output.tail.is_empty() {
        true => &output.head,
        false => &output.tail,
    };
    let from = last.len().saturating_sub(OUTPUT_BYTES_MAX / 2);
    String::from_utf8_lossy(&last[from..]).into_owned()
}
