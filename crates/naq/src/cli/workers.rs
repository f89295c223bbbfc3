//! `naq workers`, and `naq list-workers` as the Python library calls it

mod drain;

use super::exit::{Exit, FREE_ROOM, Failure};
use super::render::{self, Column};
use super::session::Session;
use super::worker::join_names;
use naq_client::describe_unstored;
use naq_protocol::{Timestamp, WorkerInfo, WorkerState};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<WorkersVerb>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, clap::Subcommand)]
enum WorkersVerb {
    /// Drain workers: they start no more jobs, let those that run finish, and exit
    ///
    /// Does what a TERM signal to each of them does, from any machine. Jobs that still run after the worker's
    /// drain timeout are stopped and requeued. Whatever restarts the worker, such as systemd, starts a new one.
    Drain(drain::Args),
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Names or ids of the workers to list [default: all]
    #[arg(value_name = "WORKER")]
    workers: Vec<String>,
    /// List the runners of scripts and functions that each worker has found, with their versions
    #[arg(long)]
    runners: bool,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    match args.verb {
        None => list(session, args.list).await,
        Some(WorkersVerb::Drain(args)) => drain::run(session, args).await,
    }
}

pub(super) async fn list(session: &Session, args: ListArgs) -> Result<u8, Failure> {
    let client = session.connect().await?;
    let mut workers = client.list_workers().await?;
    if !args.workers.is_empty() {
        let is_named =
            |worker: &WorkerInfo, name: &String| *name == worker.name || *name == worker.worker_id;
        for name in &args.workers {
            if !workers.iter().any(|worker| is_named(worker, name)) {
                return Err(Failure::new(
                    Exit::NotFound,
                    format!("no worker `{name}` runs"),
                ));
            }
        }
        workers.retain(|worker| args.workers.iter().any(|name| is_named(worker, name)));
    }
    if session.json {
        for worker in &workers {
            render::print_json(worker)?;
        }
        return Ok(0);
    }
    if workers.is_empty() {
        render::note("no workers; `naq worker` starts one");
        return Ok(0);
    }
    if args.runners {
        return print_runners(&workers);
    }
    let now = render::now();
    let rows: Vec<Vec<String>> = workers.iter().map(|worker| row(worker, now)).collect();
    render::print_table(
        &[
            Column::new("WORKER"),
            Column::new("NAME"),
            Column::new("STATE"),
            Column::new("RUNNING"),
            Column::number("ENDED").optional(2),
            Column::new("UP").optional(1),
            Column::new("SEEN").optional(3),
            Column::new("CONTAINMENT").optional(5),
            Column::new("MEMORY").optional(6),
            Column::new("LABELS").optional(4),
            Column::new("QUEUES"),
        ],
        &rows,
    )?;
    for reason in workers.iter().filter_map(describe_unstored) {
        render::note(format!("{reason}; {FREE_ROOM}"));
    }
    Ok(0)
}

/// The cells of a worker's row.
fn row(worker: &WorkerInfo, now: Timestamp) -> Vec<String> {
    let labels: Vec<String> = worker
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    vec![
        worker.worker_id.clone(),
        worker.name.clone(),
        state(worker.state),
        format!("{}/{}", worker.running, worker.concurrency),
        worker.jobs_ended.to_string(),
        render::age(worker.started_at, now),
        format!("{} ago", render::age(worker.last_seen, now)),
        worker.containment.clone(),
        render::or_dash(worker.memory_limit.clone().unwrap_or_default()),
        render::or_dash(labels.join(" ")),
        join_names(&worker.queues),
    ]
}

/// Prints the runners of each worker: `node 20.20.2, python 3.12.3`.
fn print_runners(workers: &[WorkerInfo]) -> Result<u8, Failure> {
    let named =
        |(name, version): (&String, &String)| format!("{name} {version}").trim_end().to_owned();
    let rows: Vec<Vec<String>> = workers
        .iter()
        .map(|worker| {
            let runners: Vec<String> = worker.runners.iter().map(named).collect();
            vec![
                worker.worker_id.clone(),
                worker.name.clone(),
                render::or_dash(runners.join(", ")),
            ]
        })
        .collect();
    render::print_table(
        &[
            Column::new("WORKER"),
            Column::new("NAME"),
            Column::new("RUNNERS"),
        ],
        &rows,
    )?;
    Ok(0)
}

fn state(state: WorkerState) -> String {
    let is_unknown = matches!(state, WorkerState::Unknown(_));
    render::name_of_any_version(state, is_unknown)
}
