//! `naq queue`: queues are listed, created, changed and removed.

pub(super) mod purge;

use std::num::NonZeroU32;

use clap::Subcommand;

use super::changes::Changes;
use super::confirm::confirm;
use super::exit::Failure;
use super::json::{QueueChange, QueueReport};
use super::render::{self, Column};
use super::session::Session;
use naq_client::{
    AuditAction, BrokerError, Client, ClientError, Queue, QueueInfo, QueueName, QueueSettings,
    WorkerInfo,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<QueueVerb>,
}

#[derive(Debug, Subcommand)]
enum QueueVerb {
    /// List queues (the default)
    List(ListArgs),
    /// Create queues
    Add {
        #[command(flatten)]
        names: NameArgs,
        /// Number of servers that keep a copy [default: the setting `replicas`]
        #[arg(id = "replicas", long, value_name = "COUNT")]
        _replicas: Option<String>,
        /// Maximum number of each queue's jobs that run at once, on all workers [default: no limit]
        #[arg(long, value_name = "COUNT")]
        max_running: Option<NonZeroU32>,
    },
    /// Change the settings of queues
    Set {
        #[command(flatten)]
        names: NameArgs,
        /// Maximum number of each queue's jobs that run at once, on all workers; `none` removes
        /// the limit
        #[arg(long, value_name = "COUNT|none", value_parser = parse_max_running)]
        max_running: Option<MaxRunning>,
        /// Number of servers of the cluster that keep a copy; more are made while the queue is in use
        #[arg(id = "replicas", long, value_name = "COUNT")]
        replicas: Option<String>,
    },
    /// Pause queues
    ///
    /// Workers receive no more jobs of a paused queue; running jobs continue.
    Pause(NameArgs),
    /// Resume paused queues
    Resume(NameArgs),
    /// Remove queues and every job in them
    Remove {
        #[command(flatten)]
        names: NameArgs,
        /// Do not ask for confirmation
        #[arg(short = 'y', long)]
        yes: bool,
    },
    /// Remove every job of queues, except for running ones
    Purge(purge::Args),
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {}

#[derive(Debug, clap::Args)]
struct NameArgs {
    /// Queues' names
    #[arg(required = true, value_name = "QUEUE")]
    queues: Vec<String>,
}

/// A limit of running jobs. `None` means no limit.
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
    match args.verb.unwrap_or(QueueVerb::List(ListArgs {})) {
        QueueVerb::List(args) => list(session, args).await,
        QueueVerb::Purge(args) => purge::run(session, args).await,
        QueueVerb::Remove { names, yes } => remove(session, &names.queues, yes).await,
        QueueVerb::Add {
            names,
            max_running,
            _replicas: _,
        } => {
            let settings = QueueSettings {
                replicas: session.settings().replicas,
                max_running,
                ack_wait: session.settings().ack_wait,
            };
            let change = async |queue: &Queue| queue.add(&settings).await;
            change_each(session, &names, AuditAction::QueueAdd, "added", change).await
        }
        QueueVerb::Set {
            names,
            max_running,
            replicas,
        } => {
            if max_running.is_none() && replicas.is_none() {
                return Err(Failure::usage(
                    "--max-running or --replicas: one of them is needed",
                ));
            }
            // the flag of this name is a setting of every verb, which has checked its value
            let replicas = replicas.and(session.settings().replicas);
            let change = async |queue: &Queue| {
                if let Some(MaxRunning(count)) = max_running {
                    queue.set_max_running(count).await?;
                }
                if let Some(count) = replicas {
                    queue.set_replicas(count).await?;
                }
                Ok(())
            };
            change_each(session, &names, AuditAction::QueueSet, "set", change).await
        }
        QueueVerb::Pause(names) => {
            let pause = async |queue: &Queue| queue.pause().await;
            change_each(session, &names, AuditAction::QueuePause, "paused", pause).await
        }
        QueueVerb::Resume(names) => {
            let resume = async |queue: &Queue| queue.resume().await;
            change_each(session, &names, AuditAction::QueueResume, "resumed", resume).await
        }
    }
}

/// Carries out a change on each queue, and prints it as `done`.
async fn change_each(
    session: &Session,
    names: &NameArgs,
    action: AuditAction,
    done: &str,
    change: impl AsyncFn(&Queue) -> Result<(), ClientError>,
) -> Result<u8, Failure> {
    let client = session.connect().await?;
    let mut changes = Changes::new(action);
    let changed: Result<(), Failure> = async {
        for name in &names.queues {
            change(&client.queue(name)?).await?;
            changes.add(name);
            print_change(session, name, done)?;
        }
        Ok(())
    }
    .await;
    changes.record(&client, &changed).await;
    changed.map(|()| 0)
}

async fn remove(session: &Session, queues: &[String], yes: bool) -> Result<u8, Failure> {
    let client = session.connect().await?;
    let mut changes = Changes::new(AuditAction::QueueRemove);
    let removed = remove_each(session, &client, queues, yes, &mut changes).await;
    changes.record(&client, &removed).await;
    removed.map(|()| 0)
}

async fn remove_each(
    session: &Session,
    client: &Client,
    queues: &[String],
    yes: bool,
    changes: &mut Changes,
) -> Result<(), Failure> {
    for name in queues {
        let queue = client.queue(name)?;
        let info = queue.info().await?;
        let jobs = info.depth + info.running + info.delayed;
        let mut what = render::count(jobs, "job");
        if info.running > 0 {
            let running = info.running;
            what.push_str(&format!(
                ", {running} of them running and lost if their worker dies"
            ));
        }
        confirm(yes, &format!("remove the queue {name} and its {what}"))?;
        queue.remove().await?;
        changes.add_with(name, jobs);
        if session.json {
            render::tolerate_closed_output(render::print_json(&QueueChange {
                queue: name,
                action: "removed",
                removed: Some(info.depth + info.delayed),
                running: Some(info.running),
            }))?;
        } else if jobs > 0 {
            let line = format!("{name}: removed with {what}");
            render::tolerate_closed_output(render::print_line(line))?;
        }
    }
    Ok(())
}

/// Reports a change to programs; a person sees from the exit code that it was made.
fn print_change(session: &Session, queue: &str, action: &str) -> std::io::Result<()> {
    if !session.json {
        return Ok(());
    }
    render::tolerate_closed_output(render::print_json(&QueueChange {
        queue,
        action,
        removed: None,
        running: None,
    }))
}

pub(super) async fn list(session: &Session, _args: ListArgs) -> Result<u8, Failure> {
    let client = session.connect().await?;
    let queues = client.list_queues().await?;
    let workers = match client.list_workers().await {
        Ok(workers) => Some(workers),
        // A user who may not read heartbeats sees the list without workers. Any other error fails the
        // verb: the list would look as if every queue had a worker.
        Err(ClientError::Broker(BrokerError::PermissionDenied { .. })) => None,
        Err(error) => return Err(error.into()),
    };
    let workers_of = |queue: &QueueName| {
        let serves = |worker: &&WorkerInfo| worker.queues.contains(queue);
        Some(workers.as_ref()?.iter().filter(serves).count())
    };
    if session.json {
        for queue in &queues {
            render::print_json(&QueueReport {
                queue: &queue.name,
                depth: queue.depth,
                running: queue.running,
                delayed: queue.delayed,
                bytes: queue.bytes,
                oldest: queue.oldest,
                workers: workers_of(&queue.name),
                paused: queue.paused,
                max_running: queue.max_running.map(NonZeroU32::get),
                replicas: queue.replicas,
            })?;
        }
        return Ok(0);
    }
    if queues.is_empty() {
        render::note("no queues; `naq enqueue` creates the queue of its job");
        return Ok(0);
    }
    // An empty queue needs no worker: each `naq run` serves its queue only for its own job.
    print_list(&queues, |queue| {
        queue.depth + queue.delayed > 0 && workers_of(&queue.name) == Some(0)
    })?;
    Ok(0)
}

/// Prints queues as a table. `is_unserved` tells whether a queue has jobs and no worker.
fn print_list(
    queues: &[QueueInfo],
    is_unserved: impl Fn(&QueueInfo) -> bool,
) -> std::io::Result<()> {
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
                queue.replicas.to_string(),
                match queue.paused {
                    true => "paused",
                    false if is_unserved(queue) => "no worker",
                    false => "open",
                }
                .to_owned(),
            ]
        })
        .collect();
    render::print_table(
        &[
            Column::new("QUEUE"),
            Column::number("DEPTH"),
            Column::number("RUNNING"),
            Column::number("DELAYED"),
            Column::number("OLDEST"),
            Column::number("SIZE").optional(1),
            Column::number("REPLICAS").optional(2),
            Column::new("STATE"),
        ],
        &rows,
    )?;
    let unserved: Vec<&str> = queues
        .iter()
        .filter(|queue| is_unserved(queue) && !queue.paused)
        .map(|queue| queue.name.as_str())
        .collect();
    if !unserved.is_empty() {
        let names = unserved.join(" ");
        render::note(format_args!(
            "jobs wait in queues that no worker serves; `naq worker {names}` runs them"
        ));
    }
    Ok(())
}
