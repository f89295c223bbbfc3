//! The form that creates or edits a schedule. Its fields become the body of `PUT /api/schedules/…`, which one parser
//! reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::frame::frame;
use super::job_envelope::envelope_text;
use super::schedules::zone_of;
use crate::clock;
use crate::web::access::Identity;
use crate::web::audit::Tally;
use crate::web::precondition::Precondition;
use crate::web::problem::{self, FieldProblem, Problem};
use crate::web::schedule_definition::{self, ScheduleDefinition, etag_of};
use crate::web::state::Web;
use naq_client::ClientError;
use naq_cron::{Timezone, parse_datetime};
use naq_protocol::{Schedule, ScheduleId, Timestamp};

/// The envelope of a form that creates a schedule.
const EXAMPLE_ENVELOPE: &str = "{\n  \"command\": \"./backup.sh\",\n  \"args\": []\n}";

/// The fields, as the user typed them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::web) struct ScheduleForm {
    /// The name. Absent if an existing schedule is edited.
    name: String,
    /// The version that the user saw. Empty if the schedule is created.
    etag: String,
    queue: String,
    cron: String,
    tz: String,
    every: String,
    envelope: String,
    repeat: String,
    start: String,
    end: String,
    jitter: String,
    misfire: String,
    misfire_max: String,
    misfire_grace: String,
    overlap: String,
}

impl ScheduleForm {
    /// The form of a new schedule.
    fn empty() -> ScheduleForm {
        ScheduleForm {
            queue: "default".to_owned(),
            tz: "UTC".to_owned(),
            envelope: EXAMPLE_ENVELOPE.to_owned(),
            misfire: "once".to_owned(),
            overlap: "allow".to_owned(),
            ..ScheduleForm::default()
        }
    }

    /// The form of a stored schedule. `None` if its envelope is no object.
    fn of(schedule: &Schedule, etag: String) -> Option<ScheduleForm> {
        let zone = zone_of(schedule);
        let definition = ScheduleDefinition::of(schedule)?;
        let time = |time: Option<Timestamp>| time.map(|time| zone.format(time.0));
        fn text<T: ToString>(value: Option<T>) -> String {
            value.map(|value| value.to_string()).unwrap_or_default()
        }
        Some(ScheduleForm {
            name: schedule.schedule_id.to_string(),
            etag,
            queue: schedule.queue.to_string(),
            cron: text(definition.cron.as_ref()),
            tz: text(definition.tz.as_ref()),
            every: text(definition.every),
            envelope: envelope_text(&definition.envelope),
            repeat: text(definition.repeat),
            start: text(time(definition.start)),
            end: text(time(definition.end)),
            jitter: text(definition.jitter),
            misfire: schedule.misfire.to_string(),
            misfire_max: text(definition.misfire_max),
            misfire_grace: text(definition.misfire_grace),
            overlap: schedule.overlap.to_string(),
        })
    }

    /// The body of the request of the API that these fields stand for.
    fn body(&self) -> Result<Vec<u8>, Problem> {
        let mut body = Map::new();
        for (name, text) in [
            ("queue", &self.queue),
            ("cron", &self.cron),
            ("every", &self.every),
            ("jitter", &self.jitter),
            ("misfire", &self.misfire),
            ("misfire_grace", &self.misfire_grace),
            ("overlap", &self.overlap),
        ] {
            insert_given(&mut body, name, text, |text| text.into());
        }
        // an interval has no time zone, and the form may keep that of an expression
        if !self.cron.trim().is_empty() {
            insert_given(&mut body, "tz", &self.tz, |text| text.into());
        }
        for (name, text) in [("repeat", &self.repeat), ("misfire_max", &self.misfire_max)] {
            let number = |text: &str| {
                text.parse::<u64>()
                    .map_or_else(|_| text.into(), Value::from)
            };
            insert_given(&mut body, name, text, number);
        }
        let zone: Timezone = self.tz.trim().parse().unwrap_or_default();
        for (name, text) in [("start", &self.start), ("end", &self.end)] {
            if text.trim().is_empty() {
                continue;
            }
            let time = parse_datetime(text, zone, clock::now().0).map_err(|error| {
                Problem::new(&problem::REFUSED, error.to_string()).at(&format!("/{name}"))
            })?;
            body.insert(name.to_owned(), Timestamp(time).to_string().into());
        }
        let envelope = RawValue::from_string(self.envelope.trim().to_owned()).map_err(|error| {
            Problem::new(&problem::REFUSED, format!("it is not JSON: {error}")).at("/envelope")
        })?;
        #[derive(Serialize)]
        struct Body<'b> {
            #[serde(flatten)]
            fields: Map<String, Value>,
            envelope: &'b RawValue,
        }
        let body = Body {
            fields: body,
            envelope: &envelope,
        };
        serde_json::to_vec(&body).map_err(|error| Problem::new(&problem::FAILED, error.to_string()))
    }
}

/// Adds a field unless it is empty.
fn insert_given(
    body: &mut Map<String, Value>,
    name: &str,
    text: &str,
    value: impl Fn(&str) -> Value,
) {
    let text = text.trim();
    if !text.is_empty() {
        body.insert(name.to_owned(), value(text));
    }
}

/// The fields of the form. The page shows below each of them what is wrong with it.
const FIELDS: &[&str] = &[
    "name",
    "queue",
    "envelope",
    "cron",
    "tz",
    "every",
    "start",
    "end",
    "repeat",
    "jitter",
    "misfire",
    "misfire_max",
    "misfire_grace",
    "overlap",
];

/// What is wrong with each field, by the name of the field.
fn errors_by_field(errors: &[FieldProblem]) -> BTreeMap<String, String> {
    let mut by_field: BTreeMap<String, String> = BTreeMap::new();
    for error in errors {
        let field = error.pointer.trim_start_matches('/');
        let (field, inner) = field.split_once('/').unwrap_or((field, ""));
        let detail = match inner {
            "" => error.detail.clone(),
            inner => format!("{inner}: {}", error.detail),
        };
        by_field.entry(field.to_owned()).or_insert(detail);
    }
    by_field
}

/// Whether a schedule has another version than the form was made of.
fn is_precondition(problem: &Problem) -> bool {
    *problem.kind() == problem::PRECONDITION_FAILED
}

fn page(
    web: &Web,
    identity: &Identity,
    status: StatusCode,
    form: &ScheduleForm,
    refused: Option<&Problem>,
) -> Response {
    let mut context = frame(identity, "/schedules", false);
    context.insert("form", form);
    context.insert("is_new", &form.etag.is_empty());
    let mut errors = errors_by_field(refused.map_or(&[][..], Problem::errors));
    let problem =
        refused.map(
            |problem| match errors.keys().any(|field| FIELDS.contains(&field.as_str())) {
                true => "Nothing is saved: a field is wrong.".to_owned(),
                false => format!("{}: {}", problem.kind().title, problem.detail()),
            },
        );
    // a template must not name a field that is absent
    for field in FIELDS {
        errors.entry((*field).to_owned()).or_default();
    }
    context.insert("errors", &errors);
    context.insert("problem", &problem.unwrap_or_default());
    let has_changed = refused.is_some_and(is_precondition) && !form.etag.is_empty();
    context.insert("has_changed", &has_changed);
    context.insert("misfires", &["once", "skip", "all"]);
    context.insert("overlaps", &["allow", "skip", "queue", "replace"]);
    web.page(status, "schedule_form.html", &context)
}

/// The form of a new schedule.
pub(in crate::web) async fn create(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
) -> Response {
    page(
        &web,
        &identity,
        StatusCode::OK,
        &ScheduleForm::empty(),
        None,
    )
}

/// The form of a schedule.
pub(in crate::web) async fn edit(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
) -> Response {
    let form = async {
        let name = ScheduleId::new(&name)?;
        let found = web.client.fetch_schedule_revision(&name).await?;
        let Some((schedule, revision)) = found else {
            return Err(ClientError::NoSuchSchedule(name.to_string()).into());
        };
        let etag = etag_of(&web.config.tokens, Some(&schedule), revision);
        ScheduleForm::of(&schedule, etag.to_string()).ok_or_else(|| {
            Problem::new(
                &problem::REFUSED,
                "its envelope is not a JSON object; delete it",
            )
        })
    };
    match form.await {
        Ok(form) => page(&web, &identity, StatusCode::OK, &form, None),
        Err(problem) => web.error_page(&problem),
    }
}

/// Creates the schedule that a form names.
pub(in crate::web) async fn save_new(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    Extension(tally): Extension<Tally>,
    Form(mut form): Form<ScheduleForm>,
) -> Response {
    form.etag.clear();
    let name = form.name.trim().to_owned();
    tally.set_name(&name);
    save(&web, &identity, &name, &form, Ok(Precondition::Absent)).await
}

/// Replaces the definition of a schedule, if nobody has changed it since the user saw it.
pub(in crate::web) async fn save_edited(
    State(web): State<Arc<Web>>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    Form(mut form): Form<ScheduleForm>,
) -> Response {
    let seen = Precondition::of_form(&form.etag);
    form.name.clone_from(&name);
    save(&web, &identity, &name, &form, seen).await
}

async fn save(
    web: &Web,
    identity: &Identity,
    name: &str,
    form: &ScheduleForm,
    precondition: Result<Precondition, Problem>,
) -> Response {
    let saved = async {
        let name = ScheduleId::new(name)
            .map_err(|error| Problem::new(&problem::REFUSED, error.to_string()).at("/name"))?;
        let definition = ScheduleDefinition::parse(&form.body()?)?;
        let precondition = precondition?;
        let put = schedule_definition::put(web, &name, &definition, &precondition, false).await;
        match put {
            Err(problem) if precondition == Precondition::Absent && is_precondition(&problem) => {
                Err(problem.at("/name"))
            }
            Err(problem) => Err(problem),
            Ok(_) => Ok(name),
        }
    };
    match saved.await {
        Ok(name) => {
            let place = format!("{}/schedules/{name}?saved", web.base_path());
            Redirect::to(&place).into_response()
        }
        // the page keeps what the user typed
        Err(refused) if refused.status().is_client_error() => {
            page(web, identity, refused.status(), form, Some(&refused))
        }
        Err(problem) => web.error_page(&problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_the_body_of_the_api() {
        let form = ScheduleForm {
            cron: " 0 3 * * * ".to_owned(),
            tz: "Europe/Berlin".to_owned(),
            repeat: "7".to_owned(),
            start: "2030-06-01 12:00".to_owned(),
            ..ScheduleForm::empty()
        };
        let body: Value = serde_json::from_slice(&form.body().unwrap()).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "queue": "default", "cron": "0 3 * * *", "tz": "Europe/Berlin", "repeat": 7,
                "start": "2030-06-01T10:00:00.000Z", "misfire": "once", "overlap": "allow",
                "envelope": {"command": "./backup.sh", "args": []},
            })
        );
        ScheduleDefinition::parse(&form.body().unwrap()).unwrap();
        let every = ScheduleForm {
            every: "5m".to_owned(),
            tz: "Europe/Berlin".to_owned(),
            ..ScheduleForm::empty()
        };
        let body: Value = serde_json::from_slice(&every.body().unwrap()).unwrap();
        assert_eq!((&body["every"], body.get("tz")), (&"5m".into(), None));
    }

    #[test]
    fn each_wrong_field_of_a_form_is_named() {
        let field = |change: &dyn Fn(&mut ScheduleForm)| {
            let mut form = ScheduleForm {
                cron: "0 3 * * *".to_owned(),
                ..ScheduleForm::empty()
            };
            change(&mut form);
            let refused = form
                .body()
                .and_then(|body| ScheduleDefinition::parse(&body))
                .unwrap_err();
            let errors = errors_by_field(refused.errors());
            errors.into_keys().next().unwrap()
        };
        assert_eq!(field(&|form| form.envelope = "{".to_owned()), "envelope");
        assert_eq!(field(&|form| form.start = "soon".to_owned()), "start");
        assert_eq!(field(&|form| form.repeat = "many".to_owned()), "repeat");
        assert_eq!(field(&|form| form.jitter = "some".to_owned()), "jitter");
        assert_eq!(field(&|form| form.queue = "a.b".to_owned()), "queue");
        let inner = FieldProblem {
            pointer: "/envelope/args/1".to_owned(),
            detail: "wrong".to_owned(),
        };
        assert_eq!(errors_by_field(&[inner])["envelope"], "args/1: wrong");
    }
}
