//! The event stream of an open page: the overview, a job, a flow or a bulk action, after each change.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures_util::Stream;

use super::action_live::action_events;
use super::flow::flow_events;
use super::job_live::job_events;
use super::overview::body;
use crate::web::access::Identity;
use crate::web::api::actions::find_action;
use crate::web::api::event_stream;
use crate::web::api::parameters::Query;
use crate::web::live::Viewer;
use crate::web::state::Web;
use naq_protocol::JobId;

pub(in crate::web) async fn stream(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    query: RawQuery,
) -> Response {
    let topic = Query::parse(query, &["job", "flow", "action"]).and_then(|query| {
        let id = |name| query.parsed(name, |id| JobId::new(id));
        let action = query.one("action")?;
        let action = action.map(|id| find_action(&web, id)).transpose()?;
        Ok((id("job")?, id("flow")?, action))
    });
    match topic {
        Ok((_, _, Some(action))) => event_stream(action_events(web, identity.right, action)),
        Ok((Some(job), ..)) => event_stream(job_events(web, identity.right, job)),
        Ok((None, Some(flow), _)) => event_stream(flow_events(web, flow)),
        Ok((None, None, None)) => {
            let viewer = web.live.watch();
            event_stream(changes(viewer, web))
        }
        Err(problem) => problem.into_response(),
    }
}

fn changes(viewer: Viewer, web: Arc<Web>) -> impl Stream<Item = Result<Event, Infallible>> {
    let stop = web.stop.clone();
    futures_util::stream::unfold(
        (viewer, web, stop),
        |(mut viewer, web, mut stop)| async move {
            loop {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return None,
                    changed = viewer.snapshots.changed() => changed.ok()?,
                }
                let snapshot = viewer.snapshots.borrow_and_update().clone();
                let Some(snapshot) = snapshot else { continue };
                let text = match body(&web, &snapshot) {
                    Ok(text) => text,
                    Err(error) => {
                        tracing::error!("the overview cannot be shown: {error}");
                        return None;
                    }
                };
                let event = Event::default().event("overview").data(&*text);
                return Some((Ok(event), (viewer, web, stop)));
            }
        },
    )
}
