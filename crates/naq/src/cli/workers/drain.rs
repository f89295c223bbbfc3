//! `naq workers drain`

use crate::cli::changes::Changes;
use crate::cli::exit::Failure;
use crate::cli::json::WorkerDrain;
use crate::cli::render;
use crate::cli::retry::ErrorReporter;
use crate::cli::session::Session;
use crate::text::count;
use naq_client::{AuditAction, Client, ClientError};
use naq_protocol::WorkerInfo;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names or ids of the workers to drain
    #[arg(value_name = "WORKER", required = true)]
    workers: Vec<String>,
    /// Show the workers instead of draining them
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let client = session.connect().await?;
    let mut errors = ErrorReporter::default();
    let mut changes = Changes::new(AuditAction::WorkerDrain);
    let done: Result<(), Failure> = async {
        for name in &args.workers {
            match drain(&client, name, args.dry_run).await {
                Ok((worker, acknowledged)) => {
                    if acknowledged.is_some() {
                        changes.add(&worker.name);
                    }
                    print(session, &worker, acknowledged)?;
                }
                Err(error) => errors.add(error),
            }
        }
        Ok(())
    }
    .await;
    changes.record(&client, &done).await;
    done?;
    errors.finish()
}

/// Requests that a worker drains. Returns it, and whether it has received the request; `None` for a dry run.
async fn drain(
    client: &Client,
    name: &str,
    is_dry: bool,
) -> Result<(WorkerInfo, Option<bool>), ClientError> {
    if is_dry {
        return Ok((client.fetch_worker(name).await?, None));
    }
    let requested = client.drain_worker(name).await?;
    Ok((requested.worker, Some(requested.acknowledged)))
}

fn print(
    session: &Session,
    worker: &WorkerInfo,
    acknowledged: Option<bool>,
) -> std::io::Result<()> {
    if session.json {
        return render::tolerate_closed_output(render::print_json(&WorkerDrain {
            worker_id: &worker.worker_id,
            name: &worker.name,
            running: worker.running,
            acknowledged,
        }));
    }
    let name = naq_protocol::escape(&worker.name);
    let running = count(u64::from(worker.running), "running job");
    render::tolerate_closed_output(render::print_line(format_args!(
        "{}  {name}  {}, {running}",
        naq_protocol::escape(&worker.worker_id),
        match acknowledged {
            Some(_) => "draining",
            None => "would drain",
        },
    )))?;
    if acknowledged == Some(false) {
        render::note(format_args!(
            "the worker {name} does not answer; it drains when it is connected again"
        ));
    }
    Ok(())
}
