//! Queues.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use serde::{Deserialize, Serialize};

use super::parameters::Query;
use super::submit::check_media_type;
use crate::web::access::Right;
use crate::web::overview::Facts;
use crate::web::problem::{self, Problem};
use crate::web::route::{Parameter, Route, json, other, path, query, schema_of};
use crate::web::state::Web;
use naq_client::{BrokerError, ClientError, QueueInfo, QueueSettings};
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
    Route {
        method: "PUT",
        path: "/api/queues/{queue}",
        right: Some(Right::Operate),
        summary: "Create a queue, or change its settings",
        parameters: &[QUEUE, DRY_RUN],
        body: Some(schema_of::<NewSettings>),
        answers: &[
            json(
                200,
                "The queue existed, and has these settings",
                schema_of::<QueueState>,
            ),
            json(201, "The queue is created", schema_of::<QueueState>),
            other(
                204,
                "The queue would be created, with `dry_run`",
                "application/json",
            ),
        ],
        problems: &[
            &problem::BAD_REQUEST,
            &problem::MEDIA_TYPE,
            &problem::REFUSED,
            &problem::STORAGE_FULL,
        ],
        is_stream: false,
        handler: || put(set),
    },
    Route {
        method: "DELETE",
        path: "/api/queues/{queue}",
        right: Some(Right::Operate),
        summary: "Remove a queue and its jobs, also those that run",
        parameters: &[
            QUEUE,
            query(
                "jobs",
                "Number of its jobs, queued, running and delayed, as the sender saw it",
                "0",
            ),
            DRY_RUN,
        ],
        body: None,
        answers: &[other(
            204,
            "The queue is removed, or would be, with `dry_run`",
            "application/json",
        )],
        problems: &[
            &problem::BAD_REQUEST,
            &problem::NOT_FOUND,
            &problem::CONFLICT,
        ],
        is_stream: false,
        handler: || delete(remove),
    },
    Route {
        method: "POST",
        path: "/api/queues/{queue}/purge",
        right: Some(Right::Operate),
        summary: "Remove the jobs of a queue that no worker runs",
        parameters: &[QUEUE, DRY_RUN],
        body: None,
        answers: &[json(
            200,
            "How many are removed, or would be, with `dry_run`",
            schema_of::<Purged>,
        )],
        problems: &[&problem::BAD_REQUEST, &problem::NOT_FOUND],
        is_stream: false,
        handler: || post(purge),
    },
];

/// The settings of a queue.
#[derive(Deserialize, schemars::JsonSchema)]
#[schemars(rename = "queue_settings")]
#[serde(deny_unknown_fields)]
struct NewSettings {
    /// How many of its jobs may run at once. Absent means no limit.
    #[serde(default)]
    max_running: Option<NonZeroU32>,
    /// Number of servers that keep a copy. Absent means that it stays, or the default for a new queue.
    #[serde(default)]
    replicas: Option<std::num::NonZeroUsize>,
}

/// What a purge has removed.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "purged")]
struct Purged {
    /// Jobs that were removed.
    removed: u64,
    /// Running jobs, which were kept.
    running: u64,
}

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

/// The state of a queue. `None` if it does not exist.
async fn info_of(queue: &naq_client::Queue) -> Result<Option<QueueInfo>, ClientError> {
    match queue.info().await {
        Ok(info) => Ok(Some(info)),
        Err(ClientError::Broker(BrokerError::QueueNotFound(_))) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn set(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    query: RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let queue = web.client.queue(&name)?;
    let is_dry = Query::parse(query, &["dry_run"])?.is_on("dry_run")?;
    check_media_type(&headers)?;
    let settings: NewSettings = serde_json::from_slice(&body)
        .map_err(|error| Problem::new(&problem::REFUSED, error.to_string()))?;
    let existing = info_of(&queue).await?;
    let status = match (&existing, is_dry) {
        (None, true) => return Ok(StatusCode::NO_CONTENT.into_response()),
        (None, false) => StatusCode::CREATED,
        (Some(_), _) => StatusCode::OK,
    };
    let replicas = settings.replicas.map(std::num::NonZeroUsize::get);
    match existing {
        Some(_) if is_dry => {}
        Some(info) => {
            if info.max_running != settings.max_running {
                queue.set_max_running(settings.max_running).await?;
            }
            if let Some(replicas) = replicas.filter(|replicas| *replicas != info.replicas) {
                queue.set_replicas(replicas).await?;
            }
        }
        None => {
            let settings = QueueSettings {
                replicas,
                max_running: settings.max_running,
                ..QueueSettings::default()
            };
            queue.add(&settings).await?;
        }
    }
    Ok((status, state_of(&web, &name).await?).into_response())
}

async fn remove(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    query: RawQuery,
) -> Result<StatusCode, Problem> {
    let queue = web.client.queue(&name)?;
    let query = Query::parse(query, &["jobs", "dry_run"])?;
    let is_dry = query.is_on("dry_run")?;
    let Some(seen) = query.parsed::<u64, _>("jobs", str::parse)? else {
        let detail = "it is missing; it confirms how many jobs are removed with the queue";
        return Err(Problem::parameter("jobs", detail));
    };
    let info = queue.info().await?;
    let jobs = info.depth + info.running + info.delayed;
    if jobs != seen {
        let detail = format!("the queue `{}` has {jobs} jobs, not {seen}", info.name);
        return Err(Problem::new(&problem::CONFLICT, detail));
    }
    if !is_dry {
        queue.remove().await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn purge(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    query: RawQuery,
) -> Result<Json<Purged>, Problem> {
    let queue = web.client.queue(&name)?;
    if Query::parse(query, &["dry_run"])?.is_on("dry_run")? {
        let info = queue.info().await?;
        return Ok(Json(Purged {
            removed: info.depth + info.delayed,
            running: info.running,
        }));
    }
    let purged = queue.purge().await?;
    Ok(Json(Purged {
        removed: purged.removed,
        running: purged.running,
    }))
}
