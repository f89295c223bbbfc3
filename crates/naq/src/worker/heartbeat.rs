//! The heartbeat: what a worker reports about itself.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::context::WorkerContext;
use super::options::WorkerCommand;
use crate::clock::now;
use naq_protocol::{HEARTBEAT_JOBS_MAX, Timestamp, WorkerInfo, WorkerState};

/// What the loop knows about the worker.
pub(super) struct HeartbeatFacts {
    /// What the worker was commanded to do.
    pub(super) command: WorkerCommand,
    /// Number of slots in use.
    pub(super) running: usize,
    /// Number of attempts whose outcome is recorded.
    pub(super) jobs_ended: u64,
    /// When the worker started.
    pub(super) started_at: Timestamp,
}

/// Writes the heartbeat. A failure is logged: the next one is due soon.
pub(super) async fn write(context: &Arc<WorkerContext>, facts: HeartbeatFacts) {
    let options = &context.options;
    let refused = context.refused_writes.summary();
    let hostname = hostname();
    let info = WorkerInfo {
        worker_id: context.worker_id.clone(),
        name: options.name.clone().unwrap_or_else(|| hostname.clone()),
        hostname,
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        queues: options.queues.clone(),
        concurrency: u32::try_from(options.concurrency).unwrap_or(u32::MAX),
        state: match (facts.command, facts.running) {
            (WorkerCommand::Run, 0) => WorkerState::Idle,
            (WorkerCommand::Run, _) => WorkerState::Busy,
            _ => WorkerState::Draining,
        },
        running: u32::try_from(facts.running).unwrap_or(u32::MAX),
        jobs: context
            .leases
            .all()
            .iter()
            .filter_map(|lease| lease.job_id())
            .take(HEARTBEAT_JOBS_MAX)
            .collect(),
        jobs_ended: facts.jobs_ended,
        unstored_outcomes: refused
            .as_ref()
            .map_or(0, |(count, _)| u32::try_from(*count).unwrap_or(u32::MAX)),
        unstored_error: refused.map(|(_, error)| error),
        containment: context.runner.containment().to_string(),
        memory_limit: Some(context.runner.memory_limit().name().to_owned()),
        runners: runners(context),
        labels: options.labels.clone(),
        started_at: facts.started_at,
        last_seen: now(),
        unknown: naq_protocol::UnknownFields::default(),
    };
    // sent from here, so that none is sent after the worker has signed off
    let sent = match context.broker.heartbeat(&info, options.heartbeat_ttl).await {
        Ok(sent) => sent,
        Err(error) => {
            tracing::warn!("cannot write the heartbeat: {error}");
            return;
        }
    };
    let context = Arc::clone(context);
    tokio::spawn(async move {
        let confirmed = context.broker.confirm_heartbeat(sent).await;
        if let Err(error) = confirmed
            && context.broker.connection().state().connected
        {
            tracing::warn!("the heartbeat is not stored: {error}");
        }
    });
}

/// The runners that this worker has found so far.
fn runners(context: &WorkerContext) -> BTreeMap<String, String> {
    let found = context.runners.lock();
    found.unwrap_or_else(PoisonError::into_inner).clone()
}

fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "unknown".to_owned())
}
