//! The page of a job: a part that updates itself, and a part that does not.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use tokio::time::{Instant, timeout_at};

use super::dependencies::Dependencies;
use super::failure_history::failure_history;
use super::frame::frame;
use super::job_envelope::{EnvelopeView, envelope_view};
use super::job_output::{Selection, outputs};
use super::job_view::{JobReading, job_view};
use super::past_runs::past_runs;
use super::schedules::zone_of;
use crate::clock;
use crate::web::access::{Identity, Right};
use crate::web::api::jobs::has_ended;
use crate::web::live_output::LiveOutput;
use crate::web::problem::{self, Problem};
use crate::web::proxies::Source;
use crate::web::state::Web;
use naq_client::{CancelOutcome, Client, ClientError};
use naq_protocol::{FLOW_LABEL, JobId, Record};

/// Longest time for which the page waits for the output of a job that has not ended.
const OUTPUT_READ_MAX: Duration = Duration::from_secs(1);

/// The page.
pub(in crate::web) async fn show(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    Extension(source): Extension<Source>,
    Path(job): Path<String>,
    query: RawQuery,
    headers: HeaderMap,
) -> Response {
    let address = dashboard_address(&web, &source, &headers);
    match page(&web, &identity, &job, query, &address).await {
        Ok(response) => response,
        Err(problem) => web.error_page(&problem),
    }
}

/// The address of the dashboard, as the browser names it.
pub(super) fn dashboard_address(web: &Web, source: &Source, headers: &HeaderMap) -> String {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let scheme = if source.is_https { "https" } else { "http" };
    format!("{scheme}://{host}{}", web.base_path())
}

async fn page(
    web: &Web,
    identity: &Identity,
    job: &str,
    query: RawQuery,
    address: &str,
) -> Result<Response, Problem> {
    let job = JobId::new(job)?;
    let selection = Selection::parse(query)?;
    let reading = JobReading::read(&web.client, &job, identity.right).await?;
    let record = &reading.record;
    let has_ended = record.state().is_terminal();
    let outputs = match has_ended {
        true => outputs(web, record, &selection).await?,
        false => Vec::new(),
    };
    let live = match record.attempt > 0 && !has_ended {
        true => output_so_far(&web.client, &job).await?,
        false => String::new(),
    };
    let dependencies = dependencies(&web.client, record).await?;
    let mut context = frame(identity, "/jobs", !has_ended);
    context.insert("id", job.as_str());
    context.insert(
        "body",
        &body(web, identity.right, &reading, web.base_path())?,
    );
    context.insert(
        "zone",
        &zone(&web.client, record).await?.unwrap_or_default(),
    );
    context.insert("has_ended", &has_ended);
    context.insert("outputs", &outputs);
    context.insert("live", &live);
    context.insert("has_dependencies", &dependencies.is_some());
    if let Some(dependencies) = &dependencies {
        context.insert("dependencies", dependencies);
    }
    let history = failure_history(web, record).await?;
    context.insert("has_failure", &history.is_some());
    if let Some(history) = &history {
        context.insert("failure", history);
    }
    let past_runs = past_runs(&web.client, record).await?;
    context.insert("has_past_runs", &past_runs.is_some());
    if let Some(past_runs) = &past_runs {
        context.insert("past_runs", past_runs);
    }
    let envelope: Option<EnvelopeView> = envelope_view(record, address);
    context.insert("has_envelope", &envelope.is_some());
    if let Some(envelope) = &envelope {
        context.insert("envelope", envelope);
    }
    Ok(web.page(StatusCode::OK, "job.html", &context))
}

/// The time zone of the schedule that enqueued the job.
async fn zone(client: &Client, record: &Record) -> Result<Option<String>, ClientError> {
    let Some(schedule) = &record.schedule_id else {
        return Ok(None);
    };
    let found = client.fetch_schedule(schedule).await?;
    Ok(found.map(|found| zone_of(&found.schedule).to_string()))
}

/// The part of the page that updates itself until the job has ended, for viewers with this right. Its links begin
/// with `base`.
///
/// # Errors
/// Returns a problem if the template cannot be filled.
pub(super) fn body(
    web: &Web,
    right: Right,
    reading: &JobReading,
    base: &str,
) -> Result<String, Problem> {
    let view = job_view(reading, right, clock::now());
    let rendered = tera::Context::from_serialize(&view)
        .map_err(|error| error.to_string())
        .and_then(|mut context| {
            context.insert("base", base);
            web.templates.render("job_body.html", &context)
        });
    rendered.map_err(|error| {
        tracing::error!("the page of a job cannot be shown: {error}");
        Problem::new(&problem::FAILED, "the page cannot be shown")
    })
}

/// The output so far of a job that has not ended, for browsers without scripts. Other browsers replace it
/// with live output.
async fn output_so_far(client: &Client, job: &JobId) -> Result<String, ClientError> {
    let mut logs = client.read_logs(job).await?;
    let mut output = LiveOutput::default();
    let until = Instant::now() + OUTPUT_READ_MAX;
    while let Ok(next) = timeout_at(until, logs.next()).await {
        match next? {
            Some(chunk) => output.push(chunk),
            None => break,
        }
    }
    Ok(output.markup())
}

/// The jobs of the same flow, or those that the job depends on and those that depend on it. `None` if the job is
/// alone.
async fn dependencies(
    client: &Client,
    record: &Record,
) -> Result<Option<Dependencies>, ClientError> {
    let has_dependencies = record
        .waits()
        .is_some_and(|waits| !waits.dependencies.is_empty())
        || record
            .envelope
            .as_deref()
            .is_some_and(|envelope| envelope.get().contains("\"depends_on\""));
    let flow = record.labels.get(FLOW_LABEL);
    if !has_dependencies && !record.has_dependents && flow.is_none() {
        return Ok(None);
    }
    let nodes = client.fetch_dependency_tree(&record.job_id).await?;
    let prefix = flow.map(|flow| format!("{flow}-")).unwrap_or_default();
    Ok((nodes.len() > 1).then(|| Dependencies::new(&nodes, &prefix, Some(&record.job_id))))
}

/// Cancels the job, and redirects to its page.
pub(in crate::web) async fn cancel(
    State(web): State<Arc<Web>>,
    Path(job): Path<String>,
) -> Response {
    let cancelled = async {
        let job = JobId::new(&job)?;
        match web.client.cancel(&job).await? {
            CancelOutcome::AlreadyEnded(record) => Err(has_ended(&record)),
            _ => Ok(job),
        }
    };
    lead_to_job(&web, cancelled.await)
}

/// Enqueues the job again, and redirects to the page of the new one.
pub(in crate::web) async fn retry(
    State(web): State<Arc<Web>>,
    Path(job): Path<String>,
) -> Response {
    let retried = async {
        let rerun = web.client.prepare_retry(&JobId::new(&job)?).await?;
        Ok(rerun.enqueue().await?)
    };
    lead_to_job(&web, retried.await)
}

fn lead_to_job(web: &Web, done: Result<JobId, Problem>) -> Response {
    match done {
        Ok(job) => Redirect::to(&format!("{}/jobs/{job}", web.base_path())).into_response(),
        Err(problem) => web.error_page(&problem),
    }
}
