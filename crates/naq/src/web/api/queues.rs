//! Queues.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::parameters::{DRY_RUN, Query};
use super::submit::parse_object;
use crate::web::access::Right;
use crate::web::audit::Tally;
use crate::web::overview::Facts;
use crate::web::problem::{self, Problem};
use crate::web::route::{Parameter, Route, empty, json, path, query, schema_of};
use crate::web::state::Web;
use naq_client::{BrokerError, BrokerErrorKind, ClientError, QueueInfo, QueueSettings};
use naq_protocol::{AuditAction, QueueName, Timestamp};

const QUEUE: Parameter = path("queue", "Name of the queue", "build");

pub(super) const ROUTES: &[Route] = &[
    Route::get("/api/queues", Right::View, "List queues", |method| {
        on(method, list)
    })
    .answers(&[json(200, "The queues, by name", schema_of::<Queues>)]),
    Route::get(
        "/api/queues/{queue}",
        Right::View,
        "Show a queue",
        |method| on(method, show),
    )
    .parameters(&[QUEUE])
    .answers(&[json(200, "The queue", schema_of::<QueueState>)])
    .problems(&[&problem::NOT_FOUND]),
    Route::post(
        "/api/queues/{queue}/pause",
        Right::Operate,
        "Pause a queue: workers get no more jobs of it, and running jobs continue",
        |method| on(method, pause),
    )
    .audited(AuditAction::QueuePause)
    .parameters(&[QUEUE, DRY_RUN])
    .answers(&[json(200, "The queue is paused", schema_of::<QueueState>)])
    .problems(&[&problem::NOT_FOUND]),
    Route::post(
        "/api/queues/{queue}/resume",
        Right::Operate,
        "Resume a paused queue",
        |method| on(method, resume),
    )
    .audited(AuditAction::QueueResume)
    .parameters(&[QUEUE, DRY_RUN])
    .answers(&[json(
        200,
        "The queue delivers jobs",
        schema_of::<QueueState>,
    )])
    .problems(&[&problem::NOT_FOUND]),
    Route::put(
        "/api/queues/{queue}",
        Right::Operate,
        "Create a queue, or change its settings",
        |method| on(method, set),
    )
    .audited(AuditAction::QueueSet)
    .parameters(&[QUEUE, DRY_RUN])
    .body(schema_of::<NewSettings>)
    .answers(&[
        json(
            200,
            "The queue existed, and has these settings",
            schema_of::<QueueState>,
        ),
        json(201, "The queue is created", schema_of::<QueueState>),
        empty(204, "The queue would be created, with `dry_run`"),
    ])
    .problems(&[
        &problem::BAD_REQUEST,
        &problem::MEDIA_TYPE,
        &problem::REFUSED,
        &problem::STORAGE_FULL,
    ]),
    Route::delete(
        "/api/queues/{queue}",
        Right::Operate,
        "Remove a queue and its jobs, also those that run",
        |method| on(method, remove),
    )
    .audited(AuditAction::QueueRemove)
    .parameters(&[
        QUEUE,
        query(
            "jobs",
            "Number of its jobs, queued, running and delayed, as the sender saw it",
            "0",
        )
        .required(),
        DRY_RUN,
    ])
    .answers(&[empty(
        204,
        "The queue is removed, or would be, with `dry_run`",
    )])
    .problems(&[
        &problem::BAD_REQUEST,
        &problem::NOT_FOUND,
        &problem::CONFLICT,
    ]),
    Route::post(
        "/api/queues/{queue}/purge",
        Right::Operate,
        "Remove the jobs of a queue that no worker runs",
        |method| on(method, purge),
    )
    .audited(AuditAction::QueuePurge)
    .parameters(&[QUEUE, DRY_RUN])
    .answers(&[json(
        200,
        "How many are removed, or would be, with `dry_run`",
        schema_of::<Purged>,
    )])
    .problems(&[&problem::BAD_REQUEST, &problem::NOT_FOUND]),
];

/// Maximum number of copies that NATS keeps.
const REPLICAS_MAX: usize = 5;

/// The settings of a queue.
#[derive(Deserialize, schemars::JsonSchema)]
#[schemars(rename = "queue_settings")]
#[serde(deny_unknown_fields)]
struct NewSettings {
    /// How many of its jobs may run at once. Absent means no limit.
    #[serde(default)]
    max_running: Option<NonZeroU32>,
    /// Number of servers that keep a copy. Absent means no change, or the default for a new queue.
    #[serde(default)]
    #[schemars(range(max = REPLICAS_MAX))]
    replicas: Option<std::num::NonZeroUsize>,
}

/// The result of a purge.
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
    /// Delayed jobs, including those that wait for a retry.
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

async fn list(State(web): State<Arc<Web>>) -> Result<Json<Queues>, Problem> {
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
) -> Result<Json<QueueState>, Problem> {
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
    Extension(query): Extension<Query>,
) -> Result<Json<QueueState>, Problem> {
    let queue = web.client.queue(&name)?;
    if !query.is_on("dry_run")? {
        queue.pause().await?;
    }
    state_of(&web, &name).await
}

async fn resume(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    Extension(query): Extension<Query>,
) -> Result<Json<QueueState>, Problem> {
    let queue = web.client.queue(&name)?;
    if !query.is_on("dry_run")? {
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

/// The problem of a setting that NATS refuses, such as more replicas than the cluster has servers.
fn refused_setting(error: ClientError) -> Problem {
    let is_refused =
        matches!(&error, ClientError::Broker(error) if error.kind() == BrokerErrorKind::Refused);
    match is_refused {
        true => Problem::new(&problem::REFUSED, error.to_string()),
        false => error.into(),
    }
}

async fn set(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    Extension(query): Extension<Query>,
    Extension(tally): Extension<Tally>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let queue = web.client.queue(&name)?;
    let is_dry = query.is_on("dry_run")?;
    let settings: NewSettings = parse_object(&headers, &body)?;
    let replicas = settings.replicas.map(std::num::NonZeroUsize::get);
    // a check without a change does not ask NATS
    if replicas.is_some_and(|replicas| replicas > REPLICAS_MAX) {
        let detail = format!("a queue has at most {REPLICAS_MAX} replicas");
        return Err(Problem::new(&problem::REFUSED, detail).at("/replicas"));
    }
    let existing = info_of(&queue).await?;
    let status = match (&existing, is_dry) {
        (None, true) => return Ok(StatusCode::NO_CONTENT.into_response()),
        (None, false) => StatusCode::CREATED,
        (Some(_), _) => StatusCode::OK,
    };
    match existing {
        Some(_) if is_dry => {}
        Some(info) => {
            let is_same = info.max_running == settings.max_running
                && replicas.is_none_or(|replicas| replicas == info.replicas);
            if is_same {
                tally.set_unchanged();
            }
            if info.max_running != settings.max_running {
                queue.set_max_running(settings.max_running).await?;
            }
            if let Some(replicas) = replicas.filter(|replicas| *replicas != info.replicas) {
                let set = queue.set_replicas(replicas).await;
                set.map_err(refused_setting)?;
            }
        }
        None => {
            let settings = QueueSettings {
                replicas,
                max_running: settings.max_running,
                ..QueueSettings::default()
            };
            tally.set_action(AuditAction::QueueAdd);
            let added = queue.add(&settings).await;
            added.map_err(refused_setting)?;
        }
    }
    Ok((status, state_of(&web, &name).await?).into_response())
}

async fn remove(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    Extension(query): Extension<Query>,
    Extension(tally): Extension<Tally>,
) -> Result<StatusCode, Problem> {
    let queue = web.client.queue(&name)?;
    let is_dry = query.is_on("dry_run")?;
    let Some(seen) = query.parsed::<u64, _>("jobs", str::parse)? else {
        let detail = "missing; it confirms how many jobs are removed with the queue";
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
        tally.add(jobs);
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn purge(
    State(web): State<Arc<Web>>,
    Path(name): Path<String>,
    Extension(query): Extension<Query>,
    Extension(tally): Extension<Tally>,
) -> Result<Json<Purged>, Problem> {
    let queue = web.client.queue(&name)?;
    if query.is_on("dry_run")? {
        let info = queue.info().await?;
        return Ok(Json(Purged {
            removed: info.depth + info.delayed,
            running: info.running,
        }));
    }
    let purged = queue.purge().await?;
    match purged.removed {
        0 => tally.set_unchanged(),
        removed => tally.add(removed),
    }
    Ok(Json(Purged {
        removed: purged.removed,
        running: purged.running,
    }))
}
