//! `naq retry`

use super::changes::Changes;
use super::enqueue::{wait_and_show, wait_for_all};
use super::exit::Failure;
use super::job_output::FullOption;
use super::json::Rerun;
use super::render;
use super::session::Session;
use naq_client::{AuditAction, Client, ClientError, Rerun as PreparedRerun};
use naq_protocol::JobId;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Ended jobs' ids
    #[arg(value_name = "JOB", required = true)]
    ids: Vec<String>,
    /// Wait for the outcome, print the job's output and exit with its exit code
    #[arg(short = 'w', long)]
    wait: bool,
    #[command(flatten)]
    full: FullOption,
    /// Do not print the new ids
    #[arg(long)]
    quiet: bool,
}

impl Args {
    /// Whether the verb waits for jobs.
    pub(super) fn is_endless(&self) -> bool {
        self.wait
    }
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let mut ids = args
        .ids
        .iter()
        .map(JobId::new)
        .collect::<Result<Vec<_>, _>>()?;
    // a job that is named twice is run once
    let mut seen = std::collections::HashSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    args.full.check(args.wait)?;
    let client = session.connect().await?;
    if args.wait {
        return retry_and_wait(session, &client, &ids, args.full).await;
    }
    let mut errors = ErrorReporter::default();
    let mut changes = Changes::new(AuditAction::JobRetry);
    let mut printed = Ok(());
    for id in &ids {
        match client.retry(id).await {
            Ok(job_id) => {
                changes.add(id);
                if !args.quiet && printed.is_ok() {
                    printed = print_ids(session, &job_id, id);
                }
            }
            Err(error) => errors.add(error),
        }
        session.progress.advance();
    }
    let done = errors.finish();
    changes.record(&client, &done).await;
    printed?;
    done
}

async fn retry_and_wait(
    session: &Session,
    client: &Client,
    ids: &[JobId],
    option: FullOption,
) -> Result<u8, Failure> {
    let mut reruns = Vec::new();
    for id in ids {
        reruns.push(client.prepare_retry(id).await?);
    }
    let new: Vec<JobId> = reruns.iter().map(|rerun| rerun.job_id().clone()).collect();
    let [only] = new.as_slice() else {
        enqueue_all(client, reruns).await?;
        return wait_for_all(session, client, &new).await;
    };
    // watched before it is enqueued, so that no change is missed
    let waiter = client.waiter(std::slice::from_ref(only)).await?;
    enqueue_all(client, reruns).await?;
    wait_and_show(session, client, only, waiter, option).await
}

async fn enqueue_all(client: &Client, reruns: Vec<PreparedRerun>) -> Result<(), Failure> {
    let mut changes = Changes::new(AuditAction::JobRetry);
    let done: Result<(), Failure> = async {
        for rerun in reruns {
            let of = rerun.rerun_of().clone();
            rerun.enqueue().await?;
            changes.add(&of);
        }
        Ok(())
    }
    .await;
    changes.record(client, &done).await;
    done
}

pub(super) fn print_ids(
    session: &Session,
    job_id: &JobId,
    rerun_of: &JobId,
) -> std::io::Result<()> {
    render::tolerate_closed_output(if session.json {
        render::print_json(&Rerun { job_id, rerun_of })
    } else {
        render::print_line(job_id)
    })
}

/// Errors of some of many jobs: each is printed when the next one comes; the last one ends the verb.
#[derive(Default)]
pub(super) struct ErrorReporter {
    last: Option<Failure>,
}

impl ErrorReporter {
    pub(super) fn add(&mut self, error: ClientError) {
        if let Some(earlier) = self.last.replace(error.into()) {
            earlier.print();
        }
    }

    /// Exit code 0, or the last error.
    pub(super) fn finish(self) -> Result<u8, Failure> {
        self.last.map_or(Ok(0), Err)
    }
}
