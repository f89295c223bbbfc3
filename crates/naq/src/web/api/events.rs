//! Changes of jobs as they happen, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use futures_util::Stream;
use tokio::sync::broadcast::error::RecvError;

use super::jobs::event_filter;
use super::parameters::Query;
use crate::web::access::Right;
use crate::web::live::{LiveEvent, Viewer};
use crate::web::live_streams::ProgramStream;
use crate::web::problem::{self, Problem};
use crate::web::route::{Route, other, query};
use crate::web::state::Web;
use naq_client::JobFilter;

/// Interval of keep-alive comments on a stream without events. Proxies close silent connections.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) const ROUTES: &[Route] = &[Route::get(
    "/api/events",
    Right::View,
    "Follow changes of jobs: an event for each, and `gap` if some are missing",
    |method| on(method, follow),
)
.parameters(&[
    query(
        "state",
        "Only changes to this state; may be given again",
        "failed",
    ),
    query("queue", "Only jobs of this queue", "build"),
    query(
        "label",
        "Only jobs with this label, KEY or KEY=VALUE; may be given again",
        "team=web",
    ),
])
.answers(&[other(200, "A stream of events", "text/event-stream")])
.problems(&[&problem::BAD_REQUEST])
.endless()];

async fn follow(
    State(web): State<Arc<Web>>,
    Extension(query): Extension<Query>,
) -> Result<Response, Problem> {
    let filter = event_filter(&query)?;
    let viewer = (web.live.watch(), web.streams.of_program());
    Ok(event_stream(events(viewer, filter, Arc::clone(&web))))
}

/// An answer that lasts until its stream ends.
pub(in crate::web) fn event_stream(
    events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
) -> Response {
    let mut response = Sse::new(events)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response();
    // nginx buffers answers, except those with this header
    let headers = response.headers_mut();
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The events that a filter selects, until the dashboard stops.
fn events(
    viewer: (Viewer, ProgramStream),
    filter: JobFilter,
    web: Arc<Web>,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let stop = web.stop.clone();
    futures_util::stream::unfold(
        (viewer, filter, stop),
        |(mut viewer, filter, mut stop)| async move {
            loop {
                let received = tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return None,
                    received = viewer.0.events.recv() => received,
                };
                let event = match received {
                    Ok(LiveEvent::Job(job)) if !job.is_selected(&filter) => continue,
                    Ok(LiveEvent::Job(job)) => match Event::default().json_data(&*job) {
                        Ok(event) => match job.revision {
                            Some(revision) => event.id(revision.to_string()),
                            None => event,
                        },
                        Err(_) => continue,
                    },
                    Ok(LiveEvent::Gap) | Err(RecvError::Lagged(_)) => {
                        Event::default().event("gap").data("events are missing")
                    }
                    Err(RecvError::Closed) => return None,
                };
                return Some((Ok(event), (viewer, filter, stop)));
            }
        },
    )
}
