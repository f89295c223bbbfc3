//! `naq queue purge`

use crate::cli::confirm::confirm;
use crate::cli::exit::Failure;
use crate::cli::json::QueueChange;
use crate::cli::render;
use crate::cli::session::Session;

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
        let purged = queue.purge().await?;
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
    Ok(0)
}
