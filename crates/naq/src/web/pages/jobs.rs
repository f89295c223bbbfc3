//! The page of jobs: its address contains a filter, and it shows one page of the jobs that match.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use serde::Serialize;

use super::frame::frame;
use super::job_row::JobRow;
use crate::clock;
use crate::web::access::{Identity, Right};
use crate::web::api::parameters::{Query, encode};
use crate::web::bulk_action::ActionVerb;
use crate::web::bulk_selection::Selection;
use crate::web::filter::Filter;
use crate::web::job_rows::Format;
use crate::web::job_search::search;
use crate::web::problem::Problem;
use crate::web::state::Web;
use naq_client::{JobCursor, JobPage};
use naq_cron::Timezone;
use naq_protocol::State as JobState;

/// Number of jobs in a page.
const LIMIT: usize = 100;

/// Number of jobs that an export reads at a time.
const EXPORT_LIMIT: usize = 500;

/// Maximum number of jobs in an export.
const EXPORT_MAX: usize = 1_000_000;

/// States that the page links to, after the link to all jobs. A link has the name of the state, as badges,
/// verbs and the API have.
const VIEWS: &[(JobState, &str)] = &[
    (JobState::Queued, "Queued"),
    (JobState::Scheduled, "Scheduled"),
    (JobState::Waiting, "Waiting"),
    (JobState::Running, "Running"),
    (JobState::Retrying, "Retrying"),
    (JobState::Failed, "Failed"),
    (JobState::Succeeded, "Succeeded"),
    (JobState::Cancelled, "Cancelled"),
];

/// A link to jobs in a state, which keeps the rest of the filter.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct View {
    name: &'static str,
    /// The query of its address.
    query: String,
    is_here: bool,
}

/// The position of a request in the list.
struct Place {
    /// The filter as it was written.
    text: String,
    before: Option<JobCursor>,
}

impl Place {
    fn read(query: &Query) -> Result<Place, Problem> {
        let cursor = query.one("cursor")?.filter(|text| !text.is_empty());
        Ok(Place {
            text: query.one("q")?.unwrap_or_default().trim().to_owned(),
            before: cursor
                .map(str::parse)
                .transpose()
                .map_err(|error: String| Problem::parameter("cursor", error))?,
        })
    }
}

/// The page.
pub(in crate::web) async fn show(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    query: RawQuery,
) -> Response {
    let place = Query::parse(query, &["q", "cursor"]).and_then(|query| Place::read(&query));
    let place = match place {
        Ok(place) => place,
        Err(problem) => return web.error_page(&problem),
    };
    let mut context = frame(&identity, "/jobs", false);
    context.insert("q", &place.text);
    context.insert("views_path", "/jobs");
    let all: Vec<&str> = JobState::ALL.iter().map(|state| state.as_str()).collect();
    context.insert("states", &all.join(", "));
    let filter: Result<Filter, String> = place.text.parse();
    context.insert("views", &views(filter.as_ref().ok()));
    let (status, page) = match &filter {
        Ok(filter) => {
            let filters = std::slice::from_ref(filter);
            let index = web.index.as_ref();
            let before = place.before.clone();
            match search(&web.client, index, filters, before, LIMIT).await {
                Ok(page) => (StatusCode::OK, Some(page)),
                Err(error) => return web.error_page(&Problem::from(error)),
            }
        }
        Err(_) => (StatusCode::BAD_REQUEST, None),
    };
    context.insert("selectable", &(identity.right >= Right::Operate));
    for (name, verb) in [
        ("cancel_all", ActionVerb::Cancel),
        ("retry_all", ActionVerb::Retry),
        ("keep_all", ActionVerb::Ttl),
    ] {
        context.insert(
            name,
            &address_of_all(verb, &place.text, filter.as_ref().ok()),
        );
    }
    context.insert("problem", filter.as_ref().err().map_or("", String::as_str));
    let indexing = web.indexing();
    let indexing = indexing.map(|percent| format!("Indexing, {percent} %"));
    context.insert("indexing", &indexing.unwrap_or_default());
    insert_page(&mut context, &place, page.as_ref());
    web.page(status, "jobs.html", &context)
}

/// The query of the page that shows what an action on all jobs of the filter would do. Empty if it applies to
/// none of them.
fn address_of_all(verb: ActionVerb, text: &str, filter: Option<&Filter>) -> String {
    let applies = |filter: &Filter| Selection::restrict(verb, filter.clone()).is_ok();
    match filter.is_some_and(applies) {
        true => format!("?action={}&q={}", verb.name(), encode(text)),
        false => String::new(),
    }
}

/// The rows and the links to other pages. Without a page, the filter is invalid.
fn insert_page(context: &mut tera::Context, place: &Place, page: Option<&JobPage>) {
    let now = clock::now();
    let jobs = page.map(|page| page.jobs.as_slice()).unwrap_or_default();
    let rows: Vec<JobRow> = jobs.iter().map(|job| JobRow::new(job, now)).collect();
    let next = page.and_then(|page| page.next.as_ref());
    let is_cut = page.is_some_and(|page| page.is_cut);
    let address = |more: &str| match (place.text.as_str(), more) {
        ("", "") => String::new(),
        ("", more) => format!("?{more}"),
        (text, "") => format!("?q={}", encode(text)),
        (text, more) => format!("?q={}&{more}", encode(text)),
    };
    let next_address = next.map(|next| address(&format!("cursor={}", encode(&next.to_string()))));
    context.insert("jobs", &rows);
    context.insert("next", next_address.as_deref().unwrap_or_default());
    context.insert(
        "next_text",
        match is_cut {
            true => "Search further",
            false => "Older",
        },
    );
    context.insert("is_cut", &is_cut);
    let searched = next.map(|next| next.time().to_string());
    context.insert("searched", &searched.unwrap_or_default());
    context.insert("has_before", &place.before.is_some());
    context.insert("first", &address(""));
    context.insert("csv", &address("format=csv"));
    context.insert("ndjson", &address("format=ndjson"));
    context.insert(
        "empty",
        match (page, is_cut, place.text.as_str()) {
            (None, ..) => "The filter is invalid.",
            (Some(_), true, _) => "No job matches so far.",
            (Some(_), false, "") => "No job has been enqueued yet.",
            (Some(_), false, _) => "No job matches.",
        },
    );
}

/// The links to jobs in common states. `None` means that the filter is invalid.
fn views(filter: Option<&Filter>) -> Vec<View> {
    let is_valid = filter.is_some();
    let filter = filter.cloned().unwrap_or_default();
    let view = |states: Vec<JobState>, name| {
        let is_here = is_valid && filter.states == states;
        let text = Filter {
            states,
            ..filter.clone()
        }
        .to_string();
        View {
            name,
            query: match text.as_str() {
                "" => String::new(),
                text => format!("?q={}", encode(text)),
            },
            is_here,
        }
    };
    let all = std::iter::once(view(Vec::new(), "All"));
    let states = VIEWS.iter().map(|(state, name)| view(vec![*state], name));
    all.chain(states).collect()
}

/// The jobs of a filter as a file.
pub(in crate::web) async fn export(State(web): State<Arc<Web>>, query: RawQuery) -> Response {
    match read_export(query) {
        Ok((filter, format, zone)) => {
            let name = match format {
                Format::Csv => "attachment; filename=\"jobs.csv\"",
                Format::Ndjson => "attachment; filename=\"jobs.ndjson\"",
            };
            let headers = [
                (header::CONTENT_TYPE, format.media_type()),
                (
                    header::CONTENT_DISPOSITION,
                    axum::http::HeaderValue::from_static(name),
                ),
            ];
            let body = Body::from_stream(lines(web, filter, format, zone));
            (headers, body).into_response()
        }
        Err(problem) => web.error_page(&problem),
    }
}

fn read_export(query: RawQuery) -> Result<(Filter, Format, Timezone), Problem> {
    let query = Query::parse(query, &["q", "format", "tz"])?;
    let filter = query.parsed("q", str::parse::<Filter>)?;
    let format = query.parsed("format", |text| match text {
        "csv" => Ok(Format::Csv),
        "ndjson" => Ok(Format::Ndjson),
        _ => Err("expected csv or ndjson"),
    })?;
    let zone = query.parsed("tz", str::parse::<Timezone>)?;
    Ok((
        filter.unwrap_or_default(),
        format.unwrap_or(Format::Csv),
        zone.unwrap_or_default(),
    ))
}

/// What an export reads next.
enum ExportStep {
    Head,
    Jobs {
        before: Option<JobCursor>,
        written: usize,
    },
    End,
}

/// The lines of an export, page by page. A page is read only when the client can receive it.
fn lines(
    web: Arc<Web>,
    filter: Filter,
    format: Format,
    zone: Timezone,
) -> impl Stream<Item = Result<String, std::io::Error>> {
    let stop = web.stop.clone();
    futures_util::stream::unfold(
        (web, filter, stop, ExportStep::Head),
        move |(web, filter, mut stop, step)| async move {
            let (before, written) = match step {
                ExportStep::End => return None,
                ExportStep::Head => {
                    let next = ExportStep::Jobs {
                        before: None,
                        written: 0,
                    };
                    return Some((Ok(format.head()), (web, filter, stop, next)));
                }
                ExportStep::Jobs { before, written } => (before, written),
            };
            let filters = std::slice::from_ref(&filter);
            let page = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => None,
                page = search(&web.client, web.index.as_ref(), filters, before, EXPORT_LIMIT) => Some(page),
            };
            // an export that ends early must not look complete
            let page = page.map_or_else(
                || Err("the dashboard stops".to_owned()),
                |page| page.map_err(|error| error.to_string()),
            );
            match page {
                Ok(page) => {
                    let written = written + page.jobs.len();
                    let next = match page.next {
                        Some(next) if written < EXPORT_MAX => ExportStep::Jobs {
                            before: Some(next),
                            written,
                        },
                        _ => ExportStep::End,
                    };
                    let text = format.lines(&page.jobs, zone);
                    Some((Ok(text), (web, filter, stop, next)))
                }
                Err(error) => {
                    tracing::warn!("an export of jobs ends early: {error}");
                    let error = std::io::Error::other(error);
                    Some((Err(error), (web, filter, stop, ExportStep::End)))
                }
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_states_keep_the_rest_of_the_filter() {
        let filter: Filter = "state:failed queue:mail \"a b\"".parse().unwrap();
        let views = views(Some(&filter));
        assert_eq!(views[0].query, "?q=queue%3Amail%20%22a%20b%22");
        assert_eq!(
            views[1].query,
            "?q=state%3Aqueued%20queue%3Amail%20%22a%20b%22"
        );
        let here: Vec<&str> = views
            .iter()
            .filter(|view| view.is_here)
            .map(|view| view.name)
            .collect();
        assert_eq!(here, ["Failed"]);
        assert_eq!(super::views(None)[0].query, "");
    }
}
