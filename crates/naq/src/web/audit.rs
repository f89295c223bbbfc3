//! The audit of what is changed through the dashboard: an entry for each request that has changed something, or
//! may have.
//!
//! A request neither waits for its entry nor fails because of it. The entry is written when the last [`Tally`] of
//! the request is dropped: after the answer, at the end of a body that is read as it arrives, or when the client
//! leaves.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;

use super::access::Identity;
use super::api::parameters::DryRun;
use super::guard::is_api;
use super::proxies::Source;
use super::state::Web;
use naq_core::{AuditActor, AuditChange, audit_entry};
use naq_protocol::{AuditAction, AuditInterface, QueueName};

/// Why a request without an answer was not completed.
const GIVEN_UP: &str = "the client left, or the request took too long";

/// Counts what a request changes. Clones count together.
#[derive(Clone)]
pub(super) struct Tally(Arc<PendingEntry>);

/// The entry of a request that has not ended.
struct PendingEntry {
    web: Arc<Web>,
    actor: AuditActor,
    state: Mutex<TallyState>,
}

struct TallyState {
    change: AuditChange,
    counted: Counted,
    answer: Answer,
}

/// What the handler of a request has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Counted {
    /// Nothing: if the request succeeds, it has changed one thing.
    #[default]
    No,
    /// So many things.
    Changed(u64),
    /// Everything was as wanted.
    Unchanged,
}

/// How a request has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Answer {
    /// The client left before the answer, or the answer took too long.
    #[default]
    None,
    /// The request was only checked.
    DryRun,
    /// It was answered with this status.
    Status(u16),
}

/// How many a request has changed, and why not all. `None` if it has changed nothing.
fn outcome(answer: Answer, counted: Counted) -> Option<(u64, Option<String>)> {
    let so_far = match counted {
        Counted::Changed(count) => count,
        Counted::No | Counted::Unchanged => 0,
    };
    match answer {
        Answer::DryRun => None,
        Answer::None => Some((so_far, Some(GIVEN_UP.to_owned()))),
        Answer::Status(..400) => match counted {
            Counted::No => Some((1, None)),
            Counted::Changed(count) => Some((count, None)),
            Counted::Unchanged => None,
        },
        // what is refused is refused before it changes anything, except for one of many
        Answer::Status(400..500) if so_far == 0 => None,
        Answer::Status(status) => Some((so_far, Some(format!("answered with {status}")))),
    }
}

impl Tally {
    fn change(&self, change: impl FnOnce(&mut TallyState)) {
        change(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Adds so many things that were changed.
    pub(super) fn add(&self, count: u64) {
        self.change(|state| {
            let before = match state.counted {
                Counted::Changed(before) => before,
                Counted::No | Counted::Unchanged => 0,
            };
            state.counted = Counted::Changed(before + count);
        });
    }

    /// Says that everything was as wanted.
    pub(super) fn set_unchanged(&self) {
        self.change(|state| state.counted = Counted::Unchanged);
    }

    /// Names what was done, if it is not what the path says.
    pub(super) fn set_action(&self, action: AuditAction) {
        self.change(|state| state.change.action = action);
    }

    /// Names what was changed, if its path does not.
    pub(super) fn set_name(&self, name: &impl ToString) {
        self.change(|state| state.change.names = vec![name.to_string()]);
    }

    /// Sets the options that select what was changed.
    pub(super) fn set_filter(&self, filter: String) {
        self.change(|state| state.change.filter = Some(filter));
    }
}

impl Drop for PendingEntry {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some((count, error)) = outcome(state.answer, state.counted) {
            if state.change.action == AuditAction::JobEnqueue
                && let Some(queue) = &state.change.queue
            {
                self.web.metrics.enqueued.add(queue, count);
            }
            let change = AuditChange {
                count,
                error,
                ..state.change.clone()
            };
            self.web.audit.append(audit_entry(&self.actor, change));
        }
    }
}

/// Gives the request of a route a [`Tally`], and notes how it was answered.
pub(super) async fn record(
    State((web, action)): State<(Arc<Web>, AuditAction)>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let shared = Arc::clone(&web);
    let entry = PendingEntry {
        actor: actor(&parts),
        state: Mutex::new(TallyState {
            change: named_change(action, &mut parts).await,
            counted: Counted::default(),
            answer: Answer::default(),
        }),
        web,
    };
    let tally = Tally(Arc::new(entry));
    parts.extensions.insert(tally.clone());
    let response = next.run(Request::from_parts(parts, body)).await;
    // one of many thousand new jobs is not worth a read of everything
    if action != AuditAction::JobEnqueue {
        shared.live.on_change();
    }
    let is_dry_run = response.extensions().get::<DryRun>().is_some();
    tally.change(|state| {
        state.answer = match is_dry_run {
            true => Answer::DryRun,
            false => Answer::Status(response.status().as_u16()),
        };
    });
    response
}

/// Who sends a request, and from where.
fn actor(parts: &Parts) -> AuditActor {
    let identity = parts.extensions.get::<Identity>();
    let source = parts.extensions.get::<Source>();
    let unknown = || "unknown".to_owned();
    let is_forwarded = |source: &&Source| source.client != source.peer;
    AuditActor {
        who: identity.map_or_else(unknown, |identity| identity.name.clone()),
        via: match is_api(parts.uri.path()) {
            true => AuditInterface::Api,
            false => AuditInterface::Page,
        },
        from: source.map_or_else(unknown, |source| source.peer.to_string()),
        forwarded_for: source
            .filter(is_forwarded)
            .map(|source| source.client.to_string()),
    }
}

/// A change of what the path names.
async fn named_change(action: AuditAction, parts: &mut Parts) -> AuditChange {
    let mut change = AuditChange {
        action,
        names: Vec::new(),
        queue: None,
        filter: None,
        count: 0,
        error: None,
    };
    if let Ok(named) = RawPathParams::from_request_parts(parts, &()).await {
        for (parameter, value) in &named {
            match parameter {
                "queue" if action.noun_and_verb().0 != "queue" => {
                    change.queue = QueueName::new(value).ok();
                }
                // of a bulk action, whose jobs the handler names
                "id" => {}
                _ => change.names.push(value.to_owned()),
            }
        }
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_nothing_leaves_no_entry() {
        let some =
            |count, error: &str| Some((count, (!error.is_empty()).then(|| error.to_owned())));
        for (answer, counted, expected) in [
            (Answer::Status(200), Counted::No, some(1, "")),
            (Answer::Status(303), Counted::Changed(7), some(7, "")),
            (Answer::Status(204), Counted::Changed(0), some(0, "")),
            (Answer::Status(200), Counted::Unchanged, None),
            (Answer::DryRun, Counted::No, None),
            (Answer::Status(404), Counted::No, None),
            (Answer::Status(409), Counted::Changed(0), None),
            (
                Answer::Status(409),
                Counted::Changed(2),
                some(2, "answered with 409"),
            ),
            (
                Answer::Status(503),
                Counted::No,
                some(0, "answered with 503"),
            ),
            (Answer::None, Counted::Changed(3), some(3, GIVEN_UP)),
            (Answer::None, Counted::No, some(0, GIVEN_UP)),
        ] {
            assert_eq!(outcome(answer, counted), expected, "{answer:?} {counted:?}");
        }
    }
}
