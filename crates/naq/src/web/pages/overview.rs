//! The overview: queues, the activity of the last hour, workers, the latest jobs, and warnings.

use std::sync::{Arc, PoisonError};

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::frame::frame;
use super::job_row::JobRow;
use crate::clock;
use crate::text::{age, bytes, count, relative_time};
use crate::web::access::Identity;
use crate::web::api::parameters::Query;
use crate::web::guard::Frameable;
use crate::web::live::Snapshot;
use crate::web::overview::{Facts, MinuteCounts, Warning, warnings};
use crate::web::problem::Problem;
use crate::web::sentence::{Piece, pieces};
use crate::web::state::Web;
use naq_client::QueueInfo;
use naq_protocol::{Timestamp, WorkerInfo, WorkerState, escape};

/// Height of the chart, in its own units.
const CHART_HEIGHT: u64 = 40;

/// The variables of the template.
#[derive(Serialize)]
struct Overview {
    server: String,
    leader: String,
    has_leader: bool,
    warnings: Vec<WarningView>,
    totals: Totals,
    queues: Vec<QueueRow>,
    workers: Vec<WorkerRow>,
    jobs: Vec<JobRow>,
    /// Whether rows of jobs have check boxes.
    selectable: bool,
    bars: Vec<Bar>,
    per_minute_max: u64,
}

/// A problem that a user should fix.
#[derive(Serialize)]
struct WarningView {
    pieces: Vec<Piece>,
    command: String,
}

#[derive(Serialize)]
struct Totals {
    queued: u64,
    running: u64,
    delayed: u64,
    slots: u64,
    succeeded: u64,
    failed: u64,
}

#[derive(Serialize)]
struct QueueRow {
    name: String,
    depth: u64,
    running: String,
    delayed: u64,
    oldest: String,
    slots: u64,
    size: String,
    state: &'static str,
    /// The class of the state: `ok`, `wait` or `bad`.
    class: &'static str,
}

#[derive(Serialize)]
struct WorkerRow {
    name: String,
    host: String,
    state: String,
    class: &'static str,
    running: u32,
    concurrency: u32,
    /// Share of slots in use, 0 to 100.
    used_percent: u32,
    queues: String,
    version: String,
    seen: String,
}

/// A minute of the chart: the bar of succeeded jobs stands on the bar of failed ones.
#[derive(Serialize)]
struct Bar {
    x: usize,
    failed_y: u64,
    failed_height: u64,
    succeeded_y: u64,
    succeeded_height: u64,
    text: String,
}

/// Base paths for which the part is kept: that of the settings, and those that proxies name.
const BODIES_MAX: usize = 16;

/// The whole page. With `?kiosk` it has larger type, and neither navigation nor buttons, for a wall screen.
pub(in crate::web) async fn show(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    query: RawQuery,
) -> Response {
    let is_kiosk = Query::parse(query, &["kiosk"]).and_then(|query| query.is_on("kiosk"));
    let is_kiosk = match is_kiosk {
        Ok(is_kiosk) => is_kiosk,
        Err(problem) => return web.error_page(&problem),
    };
    let snapshot = match web.live.snapshot().await {
        Ok(snapshot) => snapshot,
        Err(error) => return web.error_page(&Problem::from(error)),
    };
    let body = match body(&web, &snapshot) {
        Ok(body) => body,
        Err(error) => {
            tracing::error!("the overview cannot be shown: {error}");
            let failed = Problem::new(&crate::web::problem::FAILED, "the page cannot be shown");
            return web.error_page(&failed);
        }
    };
    let mut context = frame(&identity, "/", true);
    context.insert("body", &*body);
    context.insert("is_kiosk", &is_kiosk);
    let mut page = web.page(StatusCode::OK, "overview.html", &context);
    if is_kiosk {
        page.extensions_mut().insert(Frameable);
    }
    page
}

/// The part of the page that changes, rendered once per snapshot for all viewers of a base path.
///
/// # Errors
/// Returns an error if the template cannot be filled.
pub(super) fn body(web: &Web, snapshot: &Snapshot) -> Result<Arc<str>, String> {
    let mut bodies = snapshot
        .bodies
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    // its links begin with the base path
    if let Some((_, made)) = bodies.iter().find(|(base, _)| base == web.base_path()) {
        return Ok(Arc::clone(made));
    }
    let overview = overview(snapshot, clock::now());
    let context = tera::Context::from_serialize(&overview).map_err(|error| error.to_string())?;
    let text: Arc<str> = web.templates.render("overview_body.html", &context)?.into();
    if bodies.len() < BODIES_MAX {
        bodies.push((web.base_path().to_owned(), Arc::clone(&text)));
    }
    Ok(text)
}

fn overview(snapshot: &Snapshot, now: Timestamp) -> Overview {
    let facts = &snapshot.facts;
    let sum = |of: fn(&QueueInfo) -> u64| facts.queues.iter().map(of).sum();
    let sum_minutes = |of: fn(&MinuteCounts) -> u64| snapshot.minutes.iter().map(of).sum();
    let leader = match &facts.leader {
        Some(leader) => format!(
            "{} on {}, since {}",
            escape(&leader.instance_id),
            escape(&leader.hostname),
            age(leader.since, now)
        ),
        None => "no scheduler leads".to_owned(),
    };
    Overview {
        server: escape(&facts.server),
        leader,
        has_leader: facts.leader.is_some(),
        warnings: warnings(facts)
            .into_iter()
            .map(|Warning { text, command }| WarningView {
                pieces: pieces(&text),
                command,
            })
            .collect(),
        totals: Totals {
            queued: sum(|queue| queue.depth),
            running: sum(|queue| queue.running),
            delayed: sum(|queue| queue.delayed),
            slots: facts
                .workers
                .iter()
                .map(|worker| u64::from(worker.concurrency))
                .sum(),
            succeeded: sum_minutes(|minute| minute.succeeded),
            failed: sum_minutes(|minute| minute.failed),
        },
        queues: facts
            .queues
            .iter()
            .map(|queue| queue_row(queue, facts, now))
            .collect(),
        workers: facts
            .workers
            .iter()
            .map(|worker| worker_row(worker, now))
            .collect(),
        jobs: facts.jobs.iter().map(|job| JobRow::new(job, now)).collect(),
        per_minute_max: per_minute_max(&snapshot.minutes),
        selectable: false,
        bars: bars(&snapshot.minutes),
    }
}

fn queue_row(queue: &QueueInfo, facts: &Facts, now: Timestamp) -> QueueRow {
    let slots = facts.slots(queue);
    let (state, class) = match (queue.paused, slots) {
        (true, _) => ("paused", "wait"),
        (false, 0) if queue.depth > 0 => ("no worker", "bad"),
        (false, 0) => ("no worker", "idle"),
        (false, _) => ("open", "ok"),
    };
    QueueRow {
        name: queue.name.to_string(),
        depth: queue.depth,
        running: match queue.max_running {
            Some(max) => format!("{} of {max}", queue.running),
            None => queue.running.to_string(),
        },
        delayed: queue.delayed,
        oldest: queue
            .oldest
            .map_or_else(String::new, |oldest| age(oldest, now)),
        slots,
        size: bytes(queue.bytes),
        state,
        class,
    }
}

fn worker_row(worker: &WorkerInfo, now: Timestamp) -> WorkerRow {
    let queues: Vec<&str> = worker.queues.iter().map(|queue| queue.as_str()).collect();
    WorkerRow {
        name: escape(&worker.name),
        host: escape(&worker.hostname),
        state: worker.state.to_string(),
        class: match worker.state {
            WorkerState::Busy => "run",
            WorkerState::Idle => "idle",
            _ => "wait",
        },
        running: worker.running,
        concurrency: worker.concurrency,
        used_percent: (worker.running.min(worker.concurrency) * 100) / worker.concurrency.max(1),
        queues: queues.join(", "),
        version: escape(&worker.version),
        seen: relative_time(worker.last_seen, now),
    }
}

fn per_minute_max(minutes: &[MinuteCounts]) -> u64 {
    let ended = minutes
        .iter()
        .map(|minute| minute.succeeded + minute.failed);
    ended.max().unwrap_or(0)
}

fn bars(minutes: &[MinuteCounts]) -> Vec<Bar> {
    let max = per_minute_max(minutes).max(1);
    // a bar that is not empty is visible, however high the others are
    let height = |jobs: u64| match jobs {
        0 => 0,
        jobs => (jobs * CHART_HEIGHT / max).max(1),
    };
    let bar = |(x, minute): (usize, &MinuteCounts)| {
        let failed_height = height(minute.failed);
        let succeeded_height = height(minute.succeeded).min(CHART_HEIGHT - failed_height);
        let minutes_ago = minutes.len() - x - 1;
        Bar {
            x: x * 10,
            failed_y: CHART_HEIGHT - failed_height,
            failed_height,
            succeeded_y: CHART_HEIGHT - failed_height - succeeded_height,
            succeeded_height,
            text: format!(
                "{}: {} succeeded, {} failed",
                match minutes_ago {
                    0 => "this minute".to_owned(),
                    ago => format!("{} ago", count(ago as u64, "minute")),
                },
                minute.succeeded,
                minute.failed
            ),
        }
    };
    minutes.iter().enumerate().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bars_stay_inside_of_the_chart(counts in proptest::collection::vec((0u64..1_000_000, 0u64..1_000_000), 0..61)) {
            let minutes: Vec<MinuteCounts> = counts
                .iter()
                .map(|(succeeded, failed)| MinuteCounts { enqueued: 0, succeeded: *succeeded, failed: *failed })
                .collect();
            for (bar, minute) in bars(&minutes).iter().zip(&minutes) {
                prop_assert_eq!(bar.failed_y + bar.failed_height, CHART_HEIGHT);
                prop_assert_eq!(bar.succeeded_y + bar.succeeded_height, bar.failed_y);
                prop_assert_eq!(bar.failed_height == 0, minute.failed == 0);
            }
        }
    }
}
