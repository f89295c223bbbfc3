//! `naq queue purge`

use crate::cli::changes::Changes;
use crate::cli::confirm::confirm;
use crate::cli::exit::Failure;
use crate::cli::json::QueueChange;
use crate::cli::render;
use crate::cli::session::Session;
use naq_client::{AuditAction, Client};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Queues' names
    #[arg(required = true, value_name = "QUEUE")]
    queues: Vec<String>,
    /// Do not ask for confirmation
    #[arg(short = 'y', long)]
    yes: bool,
}

pub(in crate::cli) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    purge_queues(session, &args.queues, args.yes).await
}

/// Removes the jobs of queues, except for running ones.
pub(in crate::cli) async fn purge_queues(
    session: &Session,
    queues: &[String],
    yes: bool,
) -> Result<u8, Failure> {
    let client = session.connect().await?;
    let mut changes = Changes::new(AuditAction::QueuePurge);
    let purged = purge_each(session, &client, queues, yes, &mut changes).await;
    changes.record(&client, &purged).await;
    purged.map(|()| 0)
}

async fn purge_each(
    session: &Session,
    client: &Client,
    queues: &[String],
    yes: bool,
    changes: &mut Changes,
) -> Result<(), Failure> {
    for name in queues {
        let queue = client.queue(name)?;
        let info = queue.info().await?;
        let count = info.depth + info.delayed;
        if count > 0 {
            confirm(
                yes,
                &format!(
                    "remove {} from the queue {name}",
                    render::count(count, "job")
                ),
            )?;
        }
        let purged = match queue.purge().await {
            Ok(purged) => purged,
            Err(error) => {
                // some may be removed
                changes.add_with(name, 0);
                return Err(error.into());
            }
        };
        if purged.removed > 0 {
            changes.add_with(name, purged.removed);
        }
        if session.json {
            render::print_json(&QueueChange {
                queue: name,
                action: "purged",
                removed: Some(purged.removed),
                running: Some(purged.running),
            })?;
        } else {
            let left = match purged.running {
                0 => String::new(),
                running => format!(", {} left running", render::count(running, "job")),
            };
            render::print_line(format_args!(
                "{name}: {} removed{left}",
                render::count(purged.removed, "job")
            ))?;
        }
    }
    Ok(())
}
