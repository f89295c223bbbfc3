//! Queues.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::routing::{get, post};
use serde::Serialize;

use super::parameters::Query;
use crate::web::access::Right;
use crate::web::overview::Facts;
use crate::web::problem::{self, Problem};
use crate::web::route::{Parameter, Route, json, path, query, schema_of};
use crate::web::state::Web;
use naq_client::QueueInfo;
use naq_protocol::{QueueName, Timestamp};

const QUEUE: Parameter = path("queue", "Name of the queue", "build");
const DRY_RUN: Parameter = query("dry_run", "Check the request, and change nothing", "true");

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/api/queues",
        right: Some(Right::View),
        summary: "List queues",
        parameters: &[],
        body: None,
        answers: &[json(200, "The queues, by name", schema_of::<Queues>)],
        problems: &[],
        is_stream: false,
        handler: || get(list),
    },
    Route {
        method: "GET",
        path: "/api/queues/{queue}",
        right: Some(Right::View),
        summary: "Show a queue",
        parameters: &[QUEUE],
        body: None,
        answers: &[json(200, "The queue", schema_of::<QueueState>)],
        problems: &[&problem::NOT_FOUND],
        is_stream: false,
        handler: || get(show),
    },
    Route {
        method: "POST",
        path: "/api/queues/{queue}/pause",
        right: Some(Right::Operate),
        summary: "Pause a queue: workers get no more jobs of it, and running jobs continue",
        parameters: &[QUEUE, DRY_RUN],
        body: None,
        answers: &[json(200, "The queue is paused", schema_of::<QueueState>)],
        problems: &[&problem::NOT_FOUND],
        is_stream: false,
        handler: || post(pause),
    },
    Route {
        method: "POST",
        path: "/api/queues/{queue}/resume",
        right: Some(Right::Operate),
        summary: "Resume a paused queue",
        parameters: &[QUEUE, DRY_RUN],
        body: None,
        answers: &[json(
            200,
            "The queue delivers jobs",
            schema_of::<QueueState>,
        )],
        problems: &[&problem::NOT_FOUND],
        is_stream: false,
        handler: || post(resume),
    },
];

/// All queues.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "queues")]
struct Queues {
    /// The queues, by name.
    queues: Vec<QueueState>,
}

/// A queue.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "queue")]
pub(super) struct QueueState {
    /// Its name.
    name: QueueName,
    /// Jobs that wait for a worker.
    depth: u64,
    /// Jobs that are delivered to workers.
    running: u64,
    /// Delayed jobs, with those that wait to be retried.
    delayed: u64,
    /// Size of the stored messages, in bytes.
    bytes: u64,
    /// When the oldest job that still exists was enqueued.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest: Option<Timestamp>,
    /// Whether deliveries are paused.
    paused: bool,
    /// How many of its jobs may run at once. Absent means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_running: Option<NonZeroU32>,
    /// Number of servers that keep a copy.
    replicas: usize,
    /// Number of workers that serve it.
    workers: usize,
    /// Number of jobs that these workers run at once at most.
    slots: u64,
}

impl QueueState {
    fn new(info: &QueueInfo, facts: &Facts) -> QueueState {
        let serves = |worker: &&naq_protocol::WorkerInfo| worker.queues.contains(&info.name);
        QueueState {
            name: info.name.clone(),
            depth: info.depth,
            running: info.running,
            delayed: info.delayed,
            bytes: info.bytes,
            oldest: info.oldest,
            paused: info.paused,
            max_running: info.max_running,
            replicas: info.replicas,
            workers: facts.workers.iter().filter(serves).count(),
            slots: facts.slots(info),
        }
    }
}

async fn list(State(web): State<Arc<Web>>, query: RawQuery) -> Result<Json<Queues>, Problem> {
    Query::parse(query, &[])?;
    let snapshot = web.live.snapshot().await?;
    let facts = &snapshot.facts;
    let queues = facts.queues.iter();
    Ok(Json(Queues {
        queues: queues.map(|info| QueueState::new(info, facts)).collect(),
    }))
}

async fn show(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    query: RawQuery,
) -> Result<Json<QueueState>, Problem> {
    Query::parse(query, &[])?;
    state_of(&web, &name).await
}

/// The state of a queue, read now.
async fn state_of(web: &Web, name: &str) -> Result<Json<QueueState>, Problem> {
    let info = web.client.queue(name)?.info().await?;
    let snapshot = web.live.snapshot().await?;
    Ok(Json(QueueState::new(&info, &snapshot.facts)))
}

async fn pause(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    query: RawQuery,
) -> Result<Json<QueueState>, Problem> {
    let queue = web.client.queue(&name)?;
    if !Query::parse(query, &["dry_run"])?.is_on("dry_run")? {
        queue.pause().await?;
    }
    state_of(&web, &name).await
}

async fn resume(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    query: RawQuery,
) -> Result<Json<QueueState>, Problem> {
    let queue = web.client.queue(&name)?;
    if !Query::parse(query, &["dry_run"])?.is_on("dry_run")? {
        queue.resume().await?;
    }
    state_of(&web, &name).await
}
