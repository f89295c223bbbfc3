//! `naq purge`

use std::io::{BufRead, IsTerminal};

use super::exit::Failure;
use super::render;
use super::session::Session;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The queues
    #[arg(required = true, value_name = "QUEUE")]
    queues: Vec<String>,
    /// Do not ask
    #[arg(short = 'y', long)]
    yes: bool,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let client = session.connect().await?;
    for name in &args.queues {
        let queue = client.queue(name)?;
        let info = queue.info().await?;
        let count = info.depth + info.delayed;
        if count > 0 {
            confirm(
                args.yes,
                &format!("remove {count} jobs from the queue {name}"),
            )?;
        }
        let purged = queue.purge().await?;
        if session.json {
            render::print_json(&serde_json::json!({
                "queue": name, "purged": purged.removed, "running": purged.running,
            }))?;
        } else {
            let left = match purged.running {
                0 => String::new(),
                running => format!(", {running} running left alone"),
            };
            render::print_line(format_args!(
                "{name}: {} jobs removed{left}",
                purged.removed
            ))?;
        }
    }
    Ok(0)
}

/// Asks on a terminal; elsewhere only `--yes` says yes.
pub(super) fn confirm(yes: bool, what: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage(format!(
            "this would {what}; say --yes to do it without being asked"
        )));
    }
    render::note(format_args!("naq: {what}? [y/N]"));
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::general("nothing was done"))
    }
}
