//! Flows, and the jobs that depend on one another.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use axum::{Extension, Json};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::Serialize;

use super::jobs::JOB;
use super::parameters::Query;
use super::submit::check_media_type;
use crate::web::access::Right;
use crate::web::audit::Tally;
use crate::web::problem::{self, Problem};
use crate::web::route::{Route, json, query, schema_of};
use crate::web::state::Web;
use naq_client::DependencyNode;
use naq_protocol::{
    AuditAction, Dependency, Envelope, FLOW_JOBS_MAX, Flow, JobId, QueueName, Reason,
    State as JobState,
};

/// The queue of jobs for which neither the flow nor the request names one.
const QUEUE_DEFAULT: &str = "default";

pub(super) const ROUTES: &[Route] = &[
    Route::post(
        "/api/flows",
        Right::Submit,
        "Enqueue a flow: jobs that depend on one another",
        |method| on(method, enqueue),
    )
    .audited(AuditAction::JobEnqueue)
    .parameters(&[
        query("name", "Name of the flow; a new one if absent", "night-17"),
        query(
            "queue",
            "Queue of jobs that name none; `default` if absent",
            "build",
        ),
        query("dry_run", "Check the flow, and enqueue nothing", "true"),
    ])
    .body(schema_of::<FlowBody>)
    .answers(&[
        json(
            200,
            "The jobs that would be enqueued, with `dry_run`",
            schema_of::<EnqueuedFlow>,
        ),
        json(201, "The jobs are enqueued", schema_of::<EnqueuedFlow>),
    ])
    .problems(&[
        &problem::BAD_REQUEST,
        &problem::NOT_FOUND,
        &problem::CONFLICT,
        &problem::TOO_LARGE,
        &problem::MEDIA_TYPE,
        &problem::REFUSED,
        &problem::STORAGE_FULL,
    ]),
    Route::get(
        "/api/jobs/{job}/tree",
        Right::View,
        "Show the jobs of a flow; or a job, those that it depends on, and those that wait for it",
        |method| on(method, tree),
    )
    .parameters(&[JOB])
    .answers(&[json(
        200,
        "The jobs, each after those that it depends on",
        schema_of::<Tree>,
    )])
    .problems(&[&problem::BAD_REQUEST, &problem::NOT_FOUND]),
];

/// A flow.
#[derive(schemars::JsonSchema)]
#[schemars(rename = "flow", deny_unknown_fields)]
#[expect(dead_code, reason = "describes the body, which is parsed as a flow")]
struct FlowBody {
    /// The envelopes of its jobs, by their names. A job names those that it depends on in `depends_on`, and
    /// its queue in `queue`.
    #[schemars(schema_with = "member_envelopes")]
    jobs: (),
}

/// The schema of the envelopes of a flow. An envelope has no id, which is derived from its name.
fn member_envelopes(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": FLOW_JOBS_MAX,
        "propertyNames": generator.subschema_for::<JobId>(),
        "additionalProperties": {
            "allOf": [generator.subschema_for::<Envelope>()],
            "properties": {
                "job_id": {"type": "null"},
                "queue": generator.subschema_for::<QueueName>(),
            },
        },
    })
}

/// A flow that is enqueued.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "enqueued_flow")]
struct EnqueuedFlow {
    /// The flow.
    flow: JobId,
    /// Its jobs, each after those that it depends on.
    jobs: Vec<EnqueuedMember>,
}

/// A job of a flow.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "enqueued_member")]
struct EnqueuedMember {
    /// The job.
    job_id: JobId,
    /// Its name in the flow.
    name: String,
    /// Its queue.
    queue: QueueName,
}

/// Jobs that depend on one another.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "tree")]
struct Tree {
    /// The jobs, each after those that it depends on.
    jobs: Vec<TreeNode>,
}

/// A job of a tree.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "tree_node")]
struct TreeNode {
    /// The job.
    job_id: JobId,
    /// Its queue. Absent if the job does not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<QueueName>,
    /// Its state. Absent if the job does not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<JobState>,
    /// Why it is in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    /// The jobs that it depends on.
    depends_on: Vec<Dependency>,
}

impl From<DependencyNode> for TreeNode {
    fn from(node: DependencyNode) -> TreeNode {
        let record = node.record.as_ref();
        TreeNode {
            queue: record.map(|record| record.queue.clone()),
            state: record.map(|record| record.state()),
            reason: record.and_then(|record| record.reason()),
            job_id: node.job_id,
            depends_on: node.depends_on,
        }
    }
}

async fn enqueue(
    State(web): State<Arc<Web>>,
    Extension(query): Extension<Query>,
    Extension(tally): Extension<Tally>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    check_media_type(&headers)?;
    let queue = QueueName::new(query.one("queue")?.unwrap_or(QUEUE_DEFAULT))?;
    let name = match query.one("name")? {
        Some(name) => JobId::from_user(name)?,
        None => JobId::generate(),
    };
    let of_flow = |error| Problem::of_envelope(&error, "");
    let flow = Flow::parse(&body).map_err(of_flow)?;
    let is_dry = query.is_on("dry_run")?;
    let (status, members) = match is_dry {
        true => (StatusCode::OK, flow.members(&name).map_err(of_flow)?),
        false => {
            let members = web.client.enqueue_flow(&flow, &name, &queue).await?;
            tally.set_filter(format!("flow {name}"));
            tally.add(members.len() as u64);
            for member in &members {
                web.metrics
                    .enqueued
                    .add(member.queue.as_ref().unwrap_or(&queue), 1);
            }
            (StatusCode::CREATED, members)
        }
    };
    let jobs = members.into_iter().map(|member| EnqueuedMember {
        job_id: member.job_id,
        name: member.name,
        queue: member.queue.unwrap_or_else(|| queue.clone()),
    });
    let body = EnqueuedFlow {
        jobs: jobs.collect(),
        flow: name,
    };
    Ok((status, Json(body)).into_response())
}

async fn tree(State(web): State<Arc<Web>>, Path(job): Path<String>) -> Result<Json<Tree>, Problem> {
    let nodes = web.client.fetch_dependency_tree(&JobId::new(&job)?).await?;
    Ok(Json(Tree {
        jobs: nodes.into_iter().map(TreeNode::from).collect(),
    }))
}
