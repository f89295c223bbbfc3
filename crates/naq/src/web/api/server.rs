//! The installation as a whole, and the identity of the client.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::on;
use axum::{Extension, Json};
use serde::Serialize;

use crate::web::access::{Identity, Right};
use crate::web::overview::{MinuteCounts, Warning, warnings};
use crate::web::problem::Problem;
use crate::web::record_index::IndexState;
use crate::web::route::{Route, json, schema_of};
use crate::web::state::Web;
use naq_protocol::{LeaderInfo, SchedulerInfo};

pub(super) const ROUTES: &[Route] = &[
    Route::get(
        "/api/server",
        Right::View,
        "Show NATS, the schedulers, and what needs to be mended",
        |method| on(method, show),
    )
    .answers(&[json(200, "The installation", schema_of::<ServerState>)]),
    Route::get(
        "/api/me",
        Right::View,
        "Show who this token or session is, and what it may do",
        |method| on(method, me),
    )
    .answers(&[json(200, "The token", schema_of::<Me>)]),
];

/// The installation.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "server")]
struct ServerState {
    /// The version of this dashboard.
    version: &'static str,
    /// The server's version and address, for people.
    nats: String,
    /// The scheduler that leads. Absent means that none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<LeaderInfo>,
    /// Every scheduler whose last heartbeat has not expired.
    schedulers: Vec<SchedulerInfo>,
    /// Problems that a user should fix.
    warnings: Vec<Warning>,
    /// Counts of each of the last 60 minutes, oldest first.
    minutes: Vec<MinuteCounts>,
    /// The index of records, from which lists of jobs are served.
    index: IndexInfo,
}

/// The index of records.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "index")]
struct IndexInfo {
    /// `ready`, `indexing`, `off`, or `unavailable` if NATS does not permit or answer the reads.
    state: &'static str,
    /// The part of the records that has been read, while they are being read.
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<u8>,
    /// Number of records, if it is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<usize>,
    /// Approximate memory, in bytes, if it is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
}

impl IndexInfo {
    /// The state of an index. `None` means that it is switched off.
    fn new(state: Option<IndexState>) -> IndexInfo {
        let (state, percent, records, bytes) = match state {
            None => ("off", None, None, None),
            Some(IndexState::Unavailable) => ("unavailable", None, None, None),
            Some(IndexState::Indexing { percent }) => ("indexing", Some(percent), None, None),
            Some(IndexState::Ready { records, bytes }) => {
                ("ready", None, Some(records), Some(bytes))
            }
        };
        IndexInfo {
            state,
            percent,
            records,
            bytes,
        }
    }
}

/// The identity of the client.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "me")]
struct Me {
    /// The name of the token.
    name: String,
    /// The right of the request, after the limits of this dashboard.
    right: Right,
}

async fn show(State(web): State<Arc<Web>>) -> Result<Json<ServerState>, Problem> {
    let snapshot = web.live.snapshot().await?;
    let facts = &snapshot.facts;
    Ok(Json(ServerState {
        version: env!("CARGO_PKG_VERSION"),
        nats: facts.server.clone(),
        leader: facts.leader.clone(),
        schedulers: facts.schedulers.clone(),
        warnings: warnings(facts),
        minutes: snapshot.minutes.clone(),
        index: IndexInfo::new(web.index.as_ref().map(|index| index.state())),
    }))
}

async fn me(Extension(identity): Extension<Identity>) -> Result<Json<Me>, Problem> {
    Ok(Json(Me {
        name: identity.name,
        right: identity.right,
    }))
}
