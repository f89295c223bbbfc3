//! The page that enqueues a job: a form that is checked while it is filled in, empty or with the envelope of
//! another job.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use serde::Serialize;

use super::frame::frame;
use super::job_envelope::{OWN_FIELDS, cli};
use crate::clock;
use crate::web::access::Identity;
use crate::web::api::parameters::Query;
use crate::web::api::submit::check_envelope;
use crate::web::audit::Tally;
use crate::web::enqueue_form::{EnqueueForm, Fields, pretty, restore_env};
use crate::web::envelope_diff::envelope_diff;
use crate::web::hidden_values::hide_values;
use crate::web::line_diff::DiffLine;
use crate::web::problem::{self, FieldProblem, Problem};
use crate::web::state::Web;
use naq_client::{ClientError, ErrorKind, Queue};
use naq_core::{StartDelay, delay_for, delay_until};
use naq_protocol::units::parse_duration;
use naq_protocol::{Envelope, JobId, Record, Timestamp, escape, escape_json, rerun_envelope};

/// The queue of a form that names none.
const QUEUE_DEFAULT: &str = "default";

/// What the form says so far.
#[derive(Default, Serialize)]
struct Check {
    /// Whether anything was entered.
    is_filled: bool,
    problems: Vec<ShownProblem>,
    /// The envelope, without values of variables. Empty if there are problems.
    json: String,
    /// The command that enqueues the same.
    cli: String,
    /// What differs from the job that is edited.
    diff: Vec<DiffLine>,
    /// Whether a job is edited.
    is_edit: bool,
}

/// Something that is wrong.
#[derive(Serialize)]
struct ShownProblem {
    /// The field of the envelope, or of the form. Empty if it is about the whole.
    field: String,
    detail: String,
}

impl ShownProblem {
    fn of(problem: &FieldProblem) -> ShownProblem {
        let field = problem.pointer.trim_start_matches('/').replace('/', ".");
        ShownProblem {
            field: escape(&field),
            detail: escape(&problem.detail),
        }
    }

    fn of_field(field: &str, problem: &Problem) -> ShownProblem {
        ShownProblem {
            field: field.to_owned(),
            detail: escape(problem.detail()),
        }
    }

    fn whole(detail: &str) -> ShownProblem {
        ShownProblem {
            field: String::new(),
            detail: escape(detail),
        }
    }

    /// The wrong fields of a problem, or the problem as one.
    fn all_of(problem: &Problem) -> Vec<ShownProblem> {
        match problem.errors() {
            [] => vec![ShownProblem::whole(problem.detail())],
            errors => errors.iter().map(ShownProblem::of).collect(),
        }
    }
}

/// A job that can be enqueued.
struct CheckedJob {
    queue: Queue,
    /// The id that the user has chosen.
    chosen_id: Option<JobId>,
    fields: Fields,
    envelope: Envelope,
    start: Option<StartDelay>,
    payload: Vec<u8>,
}

pub(in crate::web) async fn show(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    query: RawQuery,
) -> Response {
    let page = async {
        let query = Query::parse(query, &["from", "queue"])?;
        let mut form = match query.one("from")?.filter(|from| !from.is_empty()) {
            Some(from) => {
                let record = original(&web, from).await?;
                let fields = own_fields_removed(hidden_fields(&record)?);
                EnqueueForm {
                    from: from.to_owned(),
                    queue: record.queue.to_string(),
                    ..EnqueueForm::of_envelope(fields)
                }
            }
            None => EnqueueForm {
                queue: query.one("queue")?.unwrap_or_default().to_owned(),
                ..EnqueueForm::default()
            },
        };
        form.fresh_id = JobId::generate().to_string();
        let (check, _) = check(&web, &form).await?;
        page(&web, &identity, StatusCode::OK, &form, &check).await
    };
    page.await
        .unwrap_or_else(|problem: Problem| web.error_page(&problem))
}

/// Checks the form, or enqueues its job and leads to the page of the job.
pub(in crate::web) async fn submit(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    Extension(tally): Extension<Tally>,
    Form(form): Form<EnqueueForm>,
) -> Response {
    let answer = async {
        let (mut shown, job) = check(&web, &form).await?;
        let mut status = StatusCode::OK;
        if form.action == "enqueue" {
            status = StatusCode::UNPROCESSABLE_ENTITY;
            if let Some(job) = job {
                let queue = job.queue.name().clone();
                match enqueue(&form, job).await {
                    Ok(job) => {
                        web.metrics.enqueued.add(&queue, 1);
                        tally.set_name(&job);
                        let place = format!("{}/jobs/{job}", web.base_path());
                        return Ok(Redirect::to(&place).into_response());
                    }
                    Err(problem) if problem.status().is_client_error() => {
                        status = problem.status();
                        shown.problems = ShownProblem::all_of(&problem);
                    }
                    Err(problem) => return Err(problem),
                }
            } else if shown.problems.is_empty() {
                shown.problems = vec![ShownProblem::whole(
                    "enter a command, a script or an envelope",
                )];
            }
        }
        tally.set_unchanged();
        page(&web, &identity, status, &form, &shown).await
    };
    answer
        .await
        .unwrap_or_else(|problem: Problem| web.error_page(&problem))
}

/// The job that is edited.
async fn original(web: &Web, job: &str) -> Result<Record, Problem> {
    Ok(web.client.fetch_job(&JobId::new(job)?).await?)
}

/// The envelope of a job without values of variables.
fn hidden_fields(record: &Record) -> Result<Fields, Problem> {
    let hidden = record.envelope.as_deref().and_then(hide_values);
    hidden
        .and_then(|hidden| serde_json::from_str(hidden.get()).ok())
        .ok_or_else(|| {
            let detail = format!(
                "the envelope of the job `{}` is not stored in its record, so it cannot be edited here",
                record.job_id
            );
            Problem::new(&problem::CONFLICT, detail)
        })
}

fn own_fields_removed(mut fields: Fields) -> Fields {
    for own in OWN_FIELDS {
        fields.remove(*own);
    }
    fields
}

/// Checks the form as the API checks an envelope. The job is `None` if something is wrong, or nothing was entered.
async fn check(web: &Web, form: &EnqueueForm) -> Result<(Check, Option<CheckedJob>), Problem> {
    let original = match form.from.as_str() {
        "" => None,
        from => Some(original(web, from).await?),
    };
    let mut check = Check {
        is_edit: original.is_some(),
        is_filled: true,
        ..Check::default()
    };
    let fields = match form.envelope() {
        Ok(fields) => fields,
        Err(problems) => {
            check.problems = problems.iter().map(ShownProblem::of).collect();
            return Ok((check, None));
        }
    };
    if fields.is_empty() {
        check.is_filled = false;
        return Ok((check, None));
    }
    match checked_job(web, form, fields, original.as_ref()) {
        Ok(job) => {
            let shown = shown_fields(&job.fields);
            check.json = escape_json(&pretty(&shown)).into_owned();
            check.cli = cli(job.queue.name().as_str(), &shown, Some(&job.envelope));
            if let Some(original) = &original {
                let before = own_fields_removed(hidden_fields(original)?);
                check.diff = envelope_diff(&before, &shown);
            }
            Ok((check, Some(job)))
        }
        Err(problems) => {
            check.problems = problems;
            Ok((check, None))
        }
    }
}

fn checked_job(
    web: &Web,
    form: &EnqueueForm,
    mut fields: Fields,
    original: Option<&Record>,
) -> Result<CheckedJob, Vec<ShownProblem>> {
    let stored: Option<Fields> = original
        .and_then(|record| record.envelope.as_deref())
        .and_then(|envelope| serde_json::from_str(envelope.get()).ok());
    let restored = restore_env(&mut fields, stored.as_ref());
    restored.map_err(|problems| problems.iter().map(ShownProblem::of).collect::<Vec<_>>())?;
    let of_envelope = |problem: Problem| ShownProblem::all_of(&problem);
    let mut payload = pretty(&fields).into_bytes();
    let envelope = check_envelope(&payload, "").map_err(of_envelope)?;
    if let Some(original) = original {
        payload = rerun_envelope(&payload, &original.job_id)
            .map_err(|error| of_envelope(Problem::of_envelope(&error, "")))?;
    }
    let queue = match form.queue.trim() {
        "" => QUEUE_DEFAULT,
        queue => queue,
    };
    let queue = web
        .client
        .queue(queue)
        .map_err(|error| vec![ShownProblem::of_field("queue", &error.into())])?;
    let start = start(form.start.trim(), envelope.expires_at)
        .map_err(|error| vec![ShownProblem::of_field("start", &error)])?;
    Ok(CheckedJob {
        queue,
        chosen_id: envelope.job_id.clone(),
        fields,
        envelope,
        start,
        payload,
    })
}

/// When the job starts: at a time, or after a duration. `None` means at once.
fn start(text: &str, expires_at: Option<Timestamp>) -> Result<Option<StartDelay>, Problem> {
    let now = clock::now();
    let start = match (text, text.parse::<Timestamp>()) {
        ("", _) => return Ok(None),
        (_, Ok(time)) => delay_until(time, expires_at, now),
        (_, Err(_)) => {
            let delay = parse_duration(text).map_err(|_| {
                let detail =
                    "expected a time such as 2026-12-24T18:00:00Z, or a duration such as 2h";
                Problem::new(&problem::BAD_REQUEST, detail)
            })?;
            delay_for(delay, expires_at, now)
        }
    };
    Ok(Some(start.map_err(ClientError::InvalidDueTime)?))
}

/// The envelope as the page shows it.
fn shown_fields(fields: &Fields) -> Fields {
    let hidden = serde_json::value::to_raw_value(fields).ok();
    let hidden = hidden.and_then(|fields| hide_values(&fields));
    let fields = hidden.and_then(|hidden| serde_json::from_str(hidden.get()).ok());
    own_fields_removed(fields.unwrap_or_default())
}

/// Enqueues a job. A form that is sent twice enqueues one.
async fn enqueue(form: &EnqueueForm, job: CheckedJob) -> Result<JobId, Problem> {
    let fresh = JobId::new(&form.fresh_id).ok();
    let id = job.chosen_id.clone().or(fresh);
    match store(&job, id).await {
        // the form was changed after it had enqueued a job, as by the back button
        Err(error) if error.kind() == ErrorKind::Conflict && job.chosen_id.is_none() => {
            Ok(store(&job, Some(JobId::generate())).await?)
        }
        stored => Ok(stored?),
    }
}

async fn store(job: &CheckedJob, id: Option<JobId>) -> Result<JobId, ClientError> {
    let payload = job.payload.clone().into();
    match job.start {
        Some(start) => job.queue.enqueue_bytes_delayed(id, payload, start).await,
        None => job.queue.enqueue_bytes(id, payload).await,
    }
}

async fn page(
    web: &Web,
    identity: &Identity,
    status: StatusCode,
    form: &EnqueueForm,
    check: &Check,
) -> Result<Response, Problem> {
    let snapshot = web.live.snapshot().await?;
    let queues = snapshot.facts.queues.iter();
    let queues: Vec<&str> = queues.map(|queue| queue.name.as_str()).collect();
    let mut context = frame(identity, "/enqueue", false);
    context.insert("form", form);
    context.insert("check", check);
    context.insert("queues", &queues);
    Ok(web.page(status, "enqueue.html", &context))
}
