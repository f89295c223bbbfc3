//! The event stream of an open page of a bulk action: the page after each change, and while it can be undone every
//! second. The last event is `end`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event;
use futures_util::Stream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::actions::body;
use crate::web::access::Right;
use crate::web::bulk_action::ActionState;
use crate::web::bulk_actions::BulkAction;
use crate::web::state::Web;

/// Shortest time between two versions of the page.
const INTERVAL_MIN: Duration = Duration::from_millis(250);

/// Longest time between two versions, because the page shows how long an undo is possible.
const INTERVAL_MAX: Duration = Duration::from_secs(1);

/// A viewer of the page.
struct Viewer {
    web: Arc<Web>,
    right: Right,
    action: Arc<BulkAction>,
    changes: watch::Receiver<()>,
    last: String,
    has_ended: bool,
}

/// The events of an action for one viewer with this right.
pub(super) fn action_events(
    web: Arc<Web>,
    right: Right,
    action: Arc<BulkAction>,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let viewer = Viewer {
        changes: action.changes(),
        web,
        right,
        action,
        last: String::new(),
        has_ended: false,
    };
    futures_util::stream::unfold(viewer, |mut viewer| async move {
        let mut stop = viewer.web.stop.clone();
        let event = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => None,
            event = viewer.next() => event,
        };
        event.map(|event| (Ok(event), viewer))
    })
}

impl Viewer {
    async fn next(&mut self) -> Option<Event> {
        if self.has_ended {
            return None;
        }
        loop {
            self.changes.borrow_and_update();
            let (progress, can_undo) = self.action.progress();
            let is_active = matches!(progress.state, ActionState::Running | ActionState::Undoing);
            if !is_active && !can_undo {
                self.has_ended = true;
                return Some(Event::default().event("end").data("the action has ended"));
            }
            let page = body(&self.web, self.right, &self.action).ok()?;
            if page != self.last {
                self.last = page;
                return Some(Event::default().event("action").data(&self.last));
            }
            sleep(INTERVAL_MIN).await;
            let _ = timeout(INTERVAL_MAX, self.changes.changed()).await;
        }
    }
}
