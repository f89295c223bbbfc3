//! `naq workers`, and `naq list-workers` as the Python library calls it

use super::exit::Failure;
use super::render;
use super::session::Session;
use super::worker::join_names;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(session: &Session, _args: Args) -> Result<u8, Failure> {
    let client = session.connect().await?;
    let workers = client.list_workers().await?;
    if session.json {
        render::print_json(&workers)?;
        return Ok(0);
    }
    if workers.is_empty() {
        render::note("no worker is there; start one with `naq worker`");
        return Ok(0);
    }
    let now = render::now();
    let rows: Vec<Vec<String>> = workers
        .iter()
        .map(|worker| {
            let labels: Vec<String> = worker
                .labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            vec![
                worker.name.clone(),
                worker.worker_id.clone(),
                worker.state.to_string(),
                format!("{}/{}", worker.running, worker.concurrency),
                join_names(&worker.queues),
                worker.jobs_ended.to_string(),
                worker.containment.clone(),
                labels.join(" "),
                render::age(worker.started_at, now),
                format!("{} ago", render::age(worker.last_seen, now)),
            ]
        })
        .collect();
    render::print_table(
        &[
            "NAME",
            "ID",
            "STATE",
            "RUNNING",
            "QUEUES",
            "ENDED",
            "CONTAINMENT",
            "LABELS",
            "UP",
            "SEEN",
        ],
        &rows,
    )?;
    Ok(0)
}
