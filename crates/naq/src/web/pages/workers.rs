//! The page of workers.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Serialize;

use super::frame::frame;
use crate::clock;
use crate::text::{count, relative_time};
use crate::web::access::{Identity, Right};
use crate::web::api::parameters::{Query, encode};
use crate::web::problem::Problem;
use crate::web::state::Web;
use naq_protocol::{QueueName, Timestamp, WorkerInfo, WorkerState, escape};

/// Maximum number of a worker's jobs that the page names.
const JOBS_SHOWN_MAX: usize = 8;

#[derive(Serialize)]
struct WorkerRow {
    id: String,
    name: String,
    host: String,
    version: String,
    state: String,
    class: &'static str,
    running: u32,
    slots: u32,
    /// Share of slots in use, 0 to 100.
    used_percent: u32,
    containment: String,
    memory_limit: String,
    labels: Vec<String>,
    queues: String,
    jobs: Vec<String>,
    /// Number of running jobs that `jobs` does not name.
    jobs_more: u64,
    ended: u64,
    started: String,
    started_at: String,
    seen: String,
    /// Whether it can be drained.
    is_open: bool,
    /// What a drain of it means for its jobs.
    drain_text: String,
    /// Why the worker takes no jobs. Empty if it takes jobs.
    problem: String,
}

pub(in crate::web) async fn show(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    query: RawQuery,
) -> Response {
    let workers = async {
        let query = Query::parse(query, &["draining", "unheard"])?;
        let draining = query.one("draining")?.map(escape).unwrap_or_default();
        let is_unheard = query.is_on("unheard")?;
        Ok::<_, Problem>((web.client.list_workers().await?, draining, is_unheard))
    };
    let (workers, draining, is_unheard) = match workers.await {
        Ok(found) => found,
        Err(problem) => return web.error_page(&problem),
    };
    let now = clock::now();
    let rows: Vec<WorkerRow> = workers.iter().map(|worker| row(worker, now)).collect();
    let slots: u64 = workers
        .iter()
        .map(|worker| u64::from(worker.concurrency))
        .sum();
    let running: u64 = workers.iter().map(|worker| u64::from(worker.running)).sum();
    let mut context = frame(&identity, "/workers", false);
    context.insert("workers", &rows);
    context.insert("draining", &draining);
    context.insert("is_unheard", &is_unheard);
    context.insert("may_operate", &(identity.right >= Right::Operate));
    let total = count(workers.len() as u64, "worker");
    context.insert(
        "total",
        &format!("{total}, {running} of {} in use", count(slots, "slot")),
    );
    web.page(StatusCode::OK, "workers.html", &context)
}

fn row(worker: &WorkerInfo, now: Timestamp) -> WorkerRow {
    let queues: Vec<&str> = worker.queues.iter().map(QueueName::as_str).collect();
    let labels = worker.labels.iter();
    let jobs = worker.jobs.iter().take(JOBS_SHOWN_MAX);
    let jobs: Vec<String> = jobs.map(ToString::to_string).collect();
    WorkerRow {
        id: escape(&worker.worker_id),
        name: escape(&worker.name),
        host: format!("{}, pid {}", escape(&worker.hostname), worker.pid),
        version: escape(&worker.version),
        state: worker.state.to_string(),
        class: match worker.state {
            _ if worker.unstored_outcomes > 0 => "bad",
            WorkerState::Busy => "run",
            WorkerState::Idle => "idle",
            _ => "wait",
        },
        running: worker.running,
        slots: worker.concurrency,
        used_percent: (worker.running.min(worker.concurrency) * 100) / worker.concurrency.max(1),
        containment: escape(&worker.containment),
        memory_limit: worker
            .memory_limit
            .as_deref()
            .map(escape)
            .unwrap_or_default(),
        labels: labels
            .map(|(key, value)| escape(&format!("{key}={value}")))
            .collect(),
        queues: queues.join(", "),
        jobs_more: u64::from(worker.running).saturating_sub(jobs.len() as u64),
        jobs,
        ended: worker.jobs_ended,
        started: relative_time(worker.started_at, now),
        started_at: worker.started_at.to_string(),
        seen: relative_time(worker.last_seen, now),
        is_open: matches!(worker.state, WorkerState::Busy | WorkerState::Idle),
        drain_text: match worker.running {
            0 => "It runs no job, and exits at once.".to_owned(),
            running => format!(
                "It runs {}. Jobs that still run after its drain timeout are stopped and requeued.",
                count(u64::from(running), "job")
            ),
        },
        problem: naq_client::describe_unstored(worker)
            .map(|text| escape(&text))
            .unwrap_or_default(),
    }
}

/// Requests that a worker drains.
pub(in crate::web) async fn drain(
    State(web): State<Arc<Web>>,
    Path(worker): Path<String>,
) -> Response {
    match web.client.drain_worker(&worker).await {
        Ok(requested) => {
            let name = encode(&requested.worker.name);
            let unheard = match requested.acknowledged {
                true => "",
                false => "&unheard",
            };
            let base = web.base_path();
            Redirect::to(&format!("{base}/workers?draining={name}{unheard}")).into_response()
        }
        Err(error) => web.error_page(&error.into()),
    }
}
