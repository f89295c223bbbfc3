//! The page of a flow, and its live updates.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::response::sse::Event;
use futures_util::Stream;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::dependencies::Dependencies;
use super::frame::frame;
use super::job_row::class_of;
use crate::clock;
use crate::text::{count, relative_time, span};
use crate::web::access::Identity;
use crate::web::live::{LiveEvent, Viewer};
use crate::web::problem::{self, Problem};
use crate::web::state::Web;
use naq_client::DependencyNode;
use naq_protocol::{JobId, State as JobState, Timestamp};

/// Shortest time between two versions of the page.
const PAGE_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Longest time between two versions, although no event came.
const PAGE_INTERVAL_MAX: Duration = Duration::from_secs(15);

/// The jobs in a state.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Part {
    state: String,
    class: &'static str,
    count: usize,
    /// Where its part of the bar begins, and its width, in thousandths.
    at: usize,
    width: usize,
}

/// The variables of `flow_body.html`.
#[derive(Serialize)]
struct FlowView {
    name: String,
    parts: Vec<Part>,
    summary: String,
    dependencies: Dependencies,
}

impl FlowView {
    fn new(flow: &JobId, nodes: &[DependencyNode], now: Timestamp) -> FlowView {
        FlowView {
            name: flow.to_string(),
            parts: parts(nodes),
            summary: summary(nodes, now),
            dependencies: Dependencies::new(nodes, &format!("{flow}-"), None),
        }
    }
}

/// The states of the jobs, those that have ended first.
fn parts(nodes: &[DependencyNode]) -> Vec<Part> {
    let order = |state: JobState| {
        let ended = [
            JobState::Succeeded,
            JobState::Failed,
            JobState::Rejected,
            JobState::Cancelled,
            JobState::Expired,
            JobState::Running,
            JobState::Retrying,
        ];
        ended
            .iter()
            .position(|one| *one == state)
            .unwrap_or(ended.len())
    };
    let mut states: Vec<JobState> = nodes
        .iter()
        .filter_map(|node| Some(node.record.as_ref()?.state()))
        .collect();
    states.sort_by(|one, next| (order(*one), one.as_str()).cmp(&(order(*next), next.as_str())));
    let total = states.len().max(1);
    let mut parts: Vec<Part> = Vec::new();
    for (place, same) in states
        .chunk_by(|one, next| one == next)
        .scan(0, |place, same| {
            *place += same.len();
            Some((*place - same.len(), same))
        })
    {
        let at = place * 1_000 / total;
        parts.extend(same.first().map(|state| Part {
            state: state.to_string(),
            class: class_of(*state),
            count: same.len(),
            at,
            width: (place + same.len()) * 1_000 / total - at,
        }));
    }
    parts
}

/// How far the flow is, in words.
fn summary(nodes: &[DependencyNode], now: Timestamp) -> String {
    let records = || nodes.iter().filter_map(|node| node.record.as_ref());
    let jobs = count(nodes.len() as u64, "job");
    let first = records().map(|record| record.enqueue_time).min();
    let Some(first) = first else { return jobs };
    let last = records().filter_map(|record| record.finished_at()).max();
    match last.filter(|_| has_ended(nodes)) {
        Some(last) => {
            let milliseconds = last.unix_ms().saturating_sub(first.unix_ms());
            let took = Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0));
            format!(
                "{jobs}, took {}, ended {}",
                span(took),
                relative_time(last, now)
            )
        }
        None => format!("{jobs}, enqueued {}", relative_time(first, now)),
    }
}

fn has_ended(nodes: &[DependencyNode]) -> bool {
    nodes.iter().all(|node| {
        node.record
            .as_ref()
            .is_none_or(|one| one.state().is_terminal())
    })
}

pub(in crate::web) async fn show(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    Path(flow): Path<String>,
) -> Response {
    let page = async {
        let flow = JobId::new(&flow)?;
        let nodes = web.client.fetch_dependency_tree(&flow).await?;
        let is_live = !has_ended(&nodes);
        let mut context = frame(&identity, "/jobs", is_live);
        context.insert("name", flow.as_str());
        context.insert("body", &body(&web, &flow, &nodes)?);
        Ok(web.page(StatusCode::OK, "flow.html", &context))
    };
    page.await
        .unwrap_or_else(|problem: Problem| web.error_page(&problem))
}

fn body(web: &Web, flow: &JobId, nodes: &[DependencyNode]) -> Result<String, Problem> {
    let view = FlowView::new(flow, nodes, clock::now());
    let rendered = tera::Context::from_serialize(&view)
        .map_err(|error| error.to_string())
        .and_then(|context| web.templates.render("flow_body.html", &context));
    rendered.map_err(|error| {
        tracing::error!("the page of a flow cannot be shown: {error}");
        Problem::new(&problem::FAILED, "the page cannot be shown")
    })
}

/// The events of a flow for one viewer, until all jobs have ended, the viewer leaves, or the dashboard stops:
/// `flow` with the markup of the page, and `end`.
pub(super) fn flow_events(
    web: Arc<Web>,
    flow: JobId,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut stop = web.stop.clone();
        let viewer = sender.clone();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = viewer.closed() => {}
            sent = send_all(&web, &flow, &sender) => if let Err(error) = sent {
                // the browser connects again after a while
                tracing::debug!("a viewer of the flow {flow} is disconnected: {}", error.detail());
            }
        }
    });
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        let event = receiver.recv().await?;
        Some((Ok(event), receiver))
    })
}

async fn send_all(web: &Web, flow: &JobId, sender: &mpsc::Sender<Event>) -> Result<(), Problem> {
    // watched before the first read, so that no change is missed
    let mut viewer = web.live.watch();
    let mut last = String::new();
    loop {
        let read_at = Instant::now();
        let nodes = web.client.fetch_dependency_tree(flow).await?;
        let page = body(web, flow, &nodes)?;
        if page != last {
            let event = Event::default().event("flow").data(&page);
            if sender.send(event).await.is_err() {
                return Ok(());
            }
            last = page;
        }
        if has_ended(&nodes) {
            let end = Event::default().event("end").data("all jobs have ended");
            let _ = sender.send(end).await;
            return Ok(());
        }
        sleep_until(read_at + PAGE_INTERVAL_MIN).await;
        tokio::select! {
            () = changed(&mut viewer, &nodes) => {}
            () = sleep_until(read_at + PAGE_INTERVAL_MAX) => {}
        }
    }
}

/// Waits until one of the jobs may have changed.
async fn changed(viewer: &mut Viewer, nodes: &[DependencyNode]) {
    loop {
        match viewer.events.recv().await {
            Ok(LiveEvent::Job(event)) => {
                let is_one = |node: &DependencyNode| node.job_id == event.record.job_id;
                if nodes.iter().any(is_one) {
                    return;
                }
            }
            Ok(LiveEvent::Gap) | Err(RecvError::Lagged(_)) => return,
            // the dashboard stops
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{Outcome, Phase, QueueName, Record};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ms(seconds * 1_000).unwrap()
    }

    fn node(name: &str, phase: Option<Phase>) -> DependencyNode {
        let job_id = JobId::new(name).unwrap();
        let queue = QueueName::new("build").unwrap();
        DependencyNode {
            record: phase.map(|phase| Record::new(job_id.clone(), queue, phase, at(0))),
            job_id,
            depends_on: Vec::new(),
        }
    }

    fn succeeded(seconds: i64) -> Option<Phase> {
        Some(Phase::Finished {
            outcome: Outcome::Succeeded,
            finished_at: at(seconds),
        })
    }

    #[test]
    fn the_bar_shows_what_has_ended_first() {
        let nodes = [
            node("a", Some(Phase::Queued)),
            node("b", succeeded(5)),
            node("c", succeeded(9)),
        ];
        let shown: Vec<_> = parts(&nodes)
            .into_iter()
            .map(|part| (part.state, part.count, part.at, part.width))
            .collect();
        assert_eq!(
            shown,
            [
                ("succeeded".to_owned(), 2, 0, 666),
                ("queued".to_owned(), 1, 666, 334)
            ]
        );
        assert!(!has_ended(&nodes));
        assert_eq!(summary(&nodes, at(60)), "3 jobs, enqueued 60s ago");
    }

    #[test]
    fn a_flow_has_ended_when_all_of_its_jobs_have() {
        let nodes = [node("a", succeeded(90)), node("gone", None)];
        assert!(has_ended(&nodes));
        assert_eq!(
            summary(&nodes, at(100)),
            "2 jobs, took 1m 30s, ended 10s ago"
        );
        assert!(parts(&[]).is_empty());
    }
}
