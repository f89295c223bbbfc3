//! `naq queues`

use std::num::NonZeroU32;

use clap::Subcommand;

use super::exit::Failure;
use super::purge::confirm;
use super::render;
use super::session::Session;
use naq_jetstream::QueueSettings;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<QueuesVerb>,
}

#[derive(Debug, Subcommand)]
enum QueuesVerb {
    /// List the queues (the default)
    List,
    /// Make queues
    Add {
        /// Their names
        #[arg(required = true, value_name = "QUEUE")]
        queues: Vec<String>,
        /// How many servers keep a copy [default: the setting `replicas`]
        #[arg(long, value_name = "COUNT")]
        replicas: Option<usize>,
        /// How many of its jobs may run at once, on all workers together
        #[arg(long, value_name = "COUNT")]
        max_running: Option<NonZeroU32>,
    },
    /// Change queues that are there
    Set {
        /// The queues
        #[arg(required = true, value_name = "QUEUE")]
        queues: Vec<String>,
        /// How many of its jobs may run at once, on all workers together; none for no limit
        #[arg(long, value_name = "COUNT|none", value_parser = parse_max_running, required = true)]
        max_running: MaxRunning,
    },
    /// Stop the delivery of jobs; running ones go on
    Pause {
        /// The queues
        #[arg(required = true, value_name = "QUEUE")]
        queues: Vec<String>,
    },
    /// Take up the delivery of jobs again
    Resume {
        /// The queues
        #[arg(required = true, value_name = "QUEUE")]
        queues: Vec<String>,
    },
    /// Remove queues and every job in them
    Remove {
        /// The queues
        #[arg(required = true, value_name = "QUEUE")]
        queues: Vec<String>,
        /// Do not ask
        #[arg(short = 'y', long)]
        yes: bool,
    },
}

/// A limit of running jobs, or none.
#[derive(Clone, Copy, Debug)]
struct MaxRunning(Option<NonZeroU32>);

fn parse_max_running(text: &str) -> Result<MaxRunning, String> {
    match text {
        "none" => Ok(MaxRunning(None)),
        count => count
            .parse()
            .map(|count| MaxRunning(Some(count)))
            .map_err(|_| "a number from 1 on, or none; to stop deliveries, pause it".to_owned()),
    }
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let client = session.connect().await?;
    match args.verb.unwrap_or(QueuesVerb::List) {
        QueuesVerb::List => list(session, &client).await?,
        QueuesVerb::Add {
            queues,
            replicas,
            max_running,
        } => {
            let settings = QueueSettings {
                replicas: replicas.unwrap_or(session.settings().replicas),
                max_running,
                ack_wait: session.settings().ack_wait,
            };
            for name in &queues {
                client.queue(name)?.add(&settings).await?;
            }
        }
        QueuesVerb::Set {
            queues,
            max_running: MaxRunning(count),
        } => {
            for name in &queues {
                let ack_wait = session.settings().ack_wait;
                client.queue(name)?.set_max_running(count, ack_wait).await?;
            }
        }
        QueuesVerb::Pause { queues } => {
            for name in &queues {
                let ack_wait = session.settings().ack_wait;
                client.queue(name)?.pause(render::now(), ack_wait).await?;
            }
        }
        QueuesVerb::Resume { queues } => {
            for name in &queues {
                client.queue(name)?.resume().await?;
            }
        }
        QueuesVerb::Remove { queues, yes } => {
            for name in &queues {
                let queue = client.queue(name)?;
                let info = queue.info().await?;
                let count = info.depth + info.running + info.delayed;
                let running = match info.running {
                    0 => String::new(),
                    running => format!(
                        ", {running} of which run and are not taken up again if their worker dies"
                    ),
                };
                confirm(
                    yes,
                    &format!("remove the queue {name} and its {count} jobs{running}"),
                )?;
                queue.remove().await?;
                if session.json {
                    render::print_json(&serde_json::json!({
                        "queue": name, "removed": info.depth + info.delayed, "running": info.running,
                    }))?;
                } else if count > 0 {
                    render::print_line(format_args!("{name}: removed with {count} jobs{running}"))?;
                }
            }
        }
    }
    Ok(0)
}

async fn list(session: &Session, client: &naq_client::Client) -> Result<(), Failure> {
    let queues = client.list_queues().await?;
    if session.json {
        render::print_json(&queues)?;
        return Ok(());
    }
    if queues.is_empty() {
        render::note("there is no queue yet; `naq enqueue` makes one");
        return Ok(());
    }
    let now = render::now();
    let rows: Vec<Vec<String>> = queues
        .iter()
        .map(|queue| {
            vec![
                queue.name.to_string(),
                queue.depth.to_string(),
                match queue.max_running {
                    Some(max) => format!("{}/{max}", queue.running),
                    None => queue.running.to_string(),
                },
                queue.delayed.to_string(),
                queue
                    .oldest
                    .map_or_else(|| "-".to_owned(), |oldest| render::age(oldest, now)),
                render::bytes(queue.bytes),
                if queue.paused { "paused" } else { "open" }.to_owned(),
            ]
        })
        .collect();
    render::print_table(
        &[
            "QUEUE", "DEPTH", "RUNNING", "DELAYED", "OLDEST", "SIZE", "STATE",
        ],
        &rows,
    )?;
    Ok(())
}
