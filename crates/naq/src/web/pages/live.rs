//! The stream of updates of a browser: what its open pages show, after each change. The id of an event is its topic.
//!
//! The first event is `stream` with the number of the stream, by which its topics change. `closed` follows the last
//! event of a topic.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, AbortHandle, BoxStream, SelectAll};
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, sleep_until};

use super::action_live::action_events;
use super::flow::flow_events;
use super::job_live::job_events;
use super::overview::body;
use crate::web::access::{Identity, Right};
use crate::web::api::actions::find_action;
use crate::web::api::event_stream;
use crate::web::api::parameters::Query;
use crate::web::guard;
use crate::web::live::Viewer;
use crate::web::live_streams::StreamEntry;
use crate::web::live_topic::{Subject, Topic};
use crate::web::login::random_hex;
use crate::web::problem::{self, Problem};
use crate::web::state::Web;

/// Interval at which an open stream checks that its session has not ended.
const SESSION_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum number of topics of a stream. A browser has one stream for all of its pages.
const TOPICS_MAX: usize = 64;

/// The topics in a query. A query without any is the overview.
fn topics(query: RawQuery) -> Result<BTreeSet<Topic>, Problem> {
    let query = Query::parse(query, Topic::NAMES)?;
    let mut topics = BTreeSet::new();
    for name in Topic::NAMES {
        for value in query.all(name) {
            let topic = Topic::parse(name, value);
            topics.insert(topic.map_err(|error| Problem::parameter(name, error))?);
        }
    }
    if topics.is_empty() {
        topics.extend(Topic::parse("overview", ""));
    }
    match topics.len() > TOPICS_MAX {
        true => {
            let detail = format!("more than {TOPICS_MAX} topics");
            Err(Problem::parameter("query", detail))
        }
        false => Ok(topics),
    }
}

/// Opens a stream with the topics of the query.
pub(in crate::web) async fn stream(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    parts: Parts,
    query: RawQuery,
) -> Response {
    let opened = topics(query).and_then(|topics| {
        let number = random_hex::<16>().map_err(|error| {
            tracing::error!("a stream of updates cannot be opened: {error}");
            Problem::new(&problem::FAILED, "the system provides no random numbers")
        })?;
        let entry = web.streams.open(number.clone(), &identity.name, topics);
        Ok((number, entry))
    });
    match opened {
        Ok((number, entry)) => {
            let first = Event::default().event("stream").data(number);
            let updates = updates(OpenTopics::new(web, identity.right, parts, entry));
            event_stream(stream::iter([Ok(first)]).chain(updates))
        }
        Err(problem) => problem.into_response(),
    }
}

/// Replaces the topics of an open stream by those in the body, which has the form of a query.
pub(in crate::web) async fn set_topics(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    Path(number): Path<String>,
    body: String,
) -> Response {
    let topics = match topics(RawQuery(Some(body))) {
        Ok(topics) => topics,
        Err(problem) => return problem.into_response(),
    };
    match web.streams.set_topics(&number, &identity.name, topics) {
        true => StatusCode::NO_CONTENT.into_response(),
        false => Problem::new(&problem::NOT_FOUND, "no such stream is open").into_response(),
    }
}

/// The events of a topic. `None` after the last one.
type TopicEvents = BoxStream<'static, (Topic, Option<Event>)>;

/// The topics of a stream, with their events.
struct OpenTopics {
    web: Arc<Web>,
    right: Right,
    /// The request, which proves the session.
    request: Parts,
    checked_at: Instant,
    entry: StreamEntry,
    open: BTreeMap<Topic, AbortHandle>,
    events: SelectAll<TopicEvents>,
}

fn updates(topics: OpenTopics) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(topics, |mut topics| async move {
        let event = topics.next().await?;
        Some((Ok(event), topics))
    })
}

impl OpenTopics {
    fn new(web: Arc<Web>, right: Right, request: Parts, entry: StreamEntry) -> OpenTopics {
        let mut topics = OpenTopics {
            web,
            right,
            request,
            checked_at: Instant::now(),
            entry,
            open: BTreeMap::new(),
            events: SelectAll::new(),
        };
        topics.update();
        topics
    }

    /// Opens topics that are wanted now, and closes the others. A topic that has closed opens again.
    fn update(&mut self) {
        let wanted = self.entry.topics.borrow_and_update().clone();
        self.open.retain(|topic, events| {
            let is_wanted = wanted.contains(topic);
            if !is_wanted {
                events.abort();
            }
            is_wanted
        });
        for topic in wanted {
            if self.open.contains_key(&topic) {
                continue;
            }
            let (events, handle) = stream::abortable(self.events_of(&topic));
            self.open.insert(topic, handle);
            self.events.push(events.boxed());
        }
    }

    fn events_of(&self, topic: &Topic) -> TopicEvents {
        let web = Arc::clone(&self.web);
        let events = match &topic.subject {
            Subject::Overview => changes(web.live.watch(), web).boxed(),
            Subject::Job(job) => job_events(web, self.right, job.clone()).boxed(),
            Subject::Flow(flow) => flow_events(web, flow.clone()).boxed(),
            Subject::Action(action) => match find_action(&web, action.as_str()) {
                Ok(action) => action_events(web, self.right, action).boxed(),
                Err(_) => {
                    let end = Event::default().event("end").data("no such action exists");
                    stream::iter([Ok(end)]).boxed()
                }
            },
        };
        let topic = topic.clone();
        let end = stream::iter([None]);
        let events = events.map(|Ok(event)| Some(event)).chain(end);
        events.map(move |event| (topic.clone(), event)).boxed()
    }

    /// The next event. `None` when every topic has closed, the session has ended, or the dashboard stops.
    async fn next(&mut self) -> Option<Event> {
        let mut stop = self.web.stop.clone();
        while !self.open.is_empty() {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return None,
                changed = self.entry.topics.changed() => {
                    changed.ok()?;
                    self.update();
                }
                next = self.events.next(), if !self.events.is_empty() => match next {
                    Some((topic, Some(event))) => return Some(event.id(&topic.text)),
                    Some((topic, None)) => {
                        self.open.remove(&topic);
                        let closed = Event::default().event("closed").data("no more events");
                        return Some(closed.id(&topic.text));
                    }
                    None => {}
                },
                () = sleep_until(self.checked_at + SESSION_CHECK_INTERVAL) => {
                    self.checked_at = Instant::now();
                    if !guard::has_session(&self.web, &self.request) {
                        return None;
                    }
                }
            }
        }
        None
    }
}

/// The overview, after each change.
fn changes(viewer: Viewer, web: Arc<Web>) -> impl Stream<Item = Result<Event, Infallible>> {
    let stop = web.stop.clone();
    stream::unfold(
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Vec<String>, Problem> {
        let topics = topics(RawQuery(Some(query.to_owned())))?;
        Ok(topics.into_iter().map(|topic| topic.text).collect())
    }

    #[test]
    fn a_query_names_topics() {
        assert_eq!(read("").unwrap(), ["overview"]);
        assert_eq!(
            read("job=a%7E1f&overview&flow=b&job=a~2&job=a~2").unwrap(),
            ["flow=b", "job=a~1f", "job=a~2", "overview"]
        );
        assert!(read("all").is_err() && read("job=a.b").is_err());
        let many: Vec<String> = (0..=TOPICS_MAX).map(|n| format!("job=a~{n:x}")).collect();
        assert!(read(&many[1..].join("&")).is_ok());
        assert!(read(&many.join("&")).is_err());
    }
}
