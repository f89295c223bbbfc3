//! The OpenAPI document, made from the table of routes.

use naq_client::FailureGroupId;
use naq_protocol::{AuditAction, JobId, QueueName, Reason, ScheduleId, State};
use schemars::generate::SchemaSettings;
use schemars::{SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::filter::BYTES_MAX;
use super::output::search::NEEDLE_CHARS_MAX;
use super::problem::{self, ProblemBody, ProblemKind};
use super::route::{Answer, Parameter, ParameterPlace, Route, schema_of};

/// Problems of every route that requires a token. An unknown parameter is among them.
const EVERYWHERE: &[&ProblemKind] = &[
    &problem::BAD_REQUEST,
    &problem::UNAUTHENTICATED,
    &problem::FORBIDDEN,
    &problem::HOST,
    &problem::UNAVAILABLE,
];

/// The document about these routes, in version 3.1: its schemas are JSON Schemas.
pub(super) fn document<'r>(routes: impl Iterator<Item = &'r Route>) -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let operation = operation(route, &mut generator);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_ascii_lowercase()] = operation;
    }
    let problem = schema_of::<ProblemBody>(&mut generator);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "naq",
            "description": "Enqueue jobs, read their outcomes, and control queues and schedules.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A token of the dashboard."}
            },
            "responses": {
                "problem": {
                    "description": "An error (RFC 9457)",
                    "content": {"application/problem+json": {"schema": problem}},
                }
            },
            "schemas": generator.take_definitions(true),
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut answers: Map<String, Value> = Map::new();
    for answer in route.answers {
        let described = describe_answer(answer, generator);
        match answers.get_mut(&answer.status.to_string()) {
            // the same answer in another type
            Some(known) => {
                if let Some(media_type) = answer.media_type {
                    known["content"][media_type] = described["content"][media_type].clone();
                }
            }
            None => {
                answers.insert(answer.status.to_string(), described);
            }
        }
    }
    let everywhere = route.right.map_or(&[][..], |_| EVERYWHERE);
    for kind in route.problems.iter().chain(everywhere) {
        answers
            .entry(kind.status.to_string())
            .or_insert_with(|| json!({"$ref": "#/components/responses/problem"}));
    }
    let parameters = route.parameters.iter();
    let parameters: Vec<Value> = parameters
        .map(|parameter| describe_parameter(parameter, generator))
        .collect();
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "responses": answers,
    });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = route.body {
        operation["requestBody"] = json!({
            "required": !route.is_body_optional,
            "content": {"application/json": {"schema": body(generator)}},
        });
    }
    match route.right {
        Some(right) => operation["x-naq-right"] = right.name().into(),
        None => operation["security"] = json!([]),
    }
    if route.is_stream {
        operation["x-naq-stream"] = true.into();
    }
    operation
}

/// The `operationId` of a route, from which clients derive function names: `get_api_jobs_job`.
fn operation_id(route: &Route) -> String {
    let words = route
        .path
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty() && *word != "api");
    let words: Vec<&str> = words.collect();
    format!("{}_{}", route.method.to_ascii_lowercase(), words.join("_"))
}

fn describe_answer(answer: &Answer, generator: &mut SchemaGenerator) -> Value {
    let content = match answer.schema {
        Some(schema) => json!({"schema": schema(generator)}),
        None => json!({}),
    };
    match answer.media_type {
        Some(media_type) => json!({"description": answer.text, "content": {media_type: content}}),
        None => json!({"description": answer.text}),
    }
}

fn describe_parameter(parameter: &Parameter, generator: &mut SchemaGenerator) -> Value {
    let place = match parameter.place {
        ParameterPlace::Path => "path",
        ParameterPlace::Query => "query",
        ParameterPlace::Header => "header",
    };
    json!({
        "name": parameter.name,
        "in": place,
        "required": parameter.is_required,
        "description": parameter.text,
        "schema": parameter_schema(parameter.schema, generator),
        "example": parameter.example,
    })
}

/// A pattern of filters of jobs: words between spaces. The language also has quotes after a colon.
fn filter_pattern() -> String {
    let states: Vec<&str> = State::ALL.iter().map(|state| state.as_str()).collect();
    let states = states.join("|");
    let name = "[A-Za-z0-9_-]{1,60}";
    let word = format!(
        r#"(state:({states})|queue:{name}|label:{name}(={name})?|worker:{name}|reason:(exit|signal|timeout|oom|spawn)|since:\d{{1,4}}[smhd]|[^": ]+|"[^"\\]*")"#
    );
    format!("^ *({word}( +{word})*)? *$")
}

/// The words that select actions of the audit: each name, noun and verb.
fn action_words() -> Vec<&'static str> {
    let words = AuditAction::ALL.iter().flat_map(|action| {
        let name = action.as_static();
        let (noun, verb) = name.split_once('.').unwrap_or((name, name));
        [name, noun, verb]
    });
    let words: std::collections::BTreeSet<_> = words.collect();
    words.into_iter().collect()
}

/// The schema with the key of a parameter.
fn parameter_schema(key: &str, generator: &mut SchemaGenerator) -> Value {
    /// A duration: `90s`, `1h 30m`, `1.5h`, or a number of seconds.
    const DURATION: &str =
        r"^(\d{1,6}(\.\d{1,6})?|(\d{1,4}(\.\d{1,6})? ?(us|ms|s|m|h|d|w) ?){1,3})$";
    /// A duration of at most 60 seconds.
    const WAIT: &str =
        r"^(([1-5]?\d(\.\d{1,6})?|60)s?|1m|\d{1,4}(\.\d{1,6})?ms|\d{1,7}us|[1-5]?\ds ?\d{1,3}ms)$";
    /// Some of the ranges of lines: a pattern cannot say that the last line is not before the first one.
    const LINES: &str = r"^([1-9]\d{0,8}-?|[1-9]\d?-[1-9]\d{2,8}|1\d\d-[2-9]\d\d)$";
    let of_type = match key {
        "job" => schema_of::<JobId>(generator),
        "queue" => schema_of::<QueueName>(generator),
        "schedule" => schema_of::<ScheduleId>(generator),
        "state" => schema_of::<State>(generator),
        "reason" => schema_of::<Reason>(generator),
        "action" => json_schema!({"type": "string", "enum": action_words()}),
        "q" => {
            json_schema!({"type": "string", "maxLength": BYTES_MAX, "pattern": filter_pattern()})
        }
        "schema" => json_schema!({"enum": naq_protocol::SCHEMAS}),
        "group" => schema_of::<FailureGroupId>(generator),
        "limit" => json_schema!({"type": "integer", "minimum": 1, "maximum": 500}),
        "count" => json_schema!({"type": "integer", "minimum": 1, "maximum": 1000}),
        "jobs" => json_schema!({"type": "integer", "minimum": 0, "maximum": u64::MAX}),
        // the name of a flow
        "name" => schema_of::<JobId>(generator),
        "max_jobs" => json_schema!({"type": "integer", "minimum": 1, "maximum": u64::MAX}),
        // a name without a value means true
        "dry_run" | "download" | "plain" | "follow" => {
            json_schema!({"anyOf": [{"type": "boolean"}, {"const": ""}]})
        }
        "stream" => json_schema!({"type": "string", "enum": ["stdout", "stderr"]}),
        "lines" => json_schema!({"type": "string", "pattern": LINES}),
        "tail" => json_schema!({"type": "integer", "minimum": 1, "maximum": 10_000}),
        "line" => json_schema!({"type": "integer", "minimum": 1, "maximum": u64::MAX}),
        "text" => {
            json_schema!({"type": "string", "minLength": 1, "maxLength": NEEDLE_CHARS_MAX, "pattern": r"^[^\n]*$"})
        }
        "last_event_id" => {
            json_schema!({"type": "string", "pattern": r"^\d{1,9}\.\d{1,15}\.\d{1,15}$"})
        }
        "wait" => json_schema!({"type": "string", "pattern": WAIT}),
        "in" => json_schema!({"type": "string", "pattern": DURATION}),
        "at" => json_schema!({"type": "string", "format": "date-time"}),
        "since" => json_schema!({
            "type": "string",
            // an empty one counts as absent
            "anyOf": [{"pattern": DURATION}, {"format": "date-time"}, {"const": ""}],
        }),
        "label" => json_schema!({"type": "string", "pattern": "^[^=]+(=.*)?$"}),
        // `next` of an earlier answer, or nothing
        "cursor" => json_schema!({"type": "string", "pattern": r"^(\d+\.\d+\.[A-Za-z0-9_-]+)?$"}),
        "audit_cursor" => json_schema!({"type": "string", "pattern": r"^(\d{1,19})?$"}),
        "failed_cursor" => json_schema!({"type": "string", "pattern": r"^(\d+-\d+)?$"}),
        // one strong version; the server accepts lists too
        "If-Match" | "If-None-Match" => {
            json_schema!({"type": "string", "pattern": r#"^(\*|"[!#-+\--~]*")$"#})
        }
        _ => json_schema!({"type": "string"}),
    };
    of_type.into()
}

#[cfg(test)]
mod tests {
    use super::super::api;
    use super::*;

    #[test]
    fn each_route_is_in_the_document_once() {
        let document = document(api::routes());
        let mut names = std::collections::BTreeSet::new();
        for route in api::routes() {
            let operation = &document["paths"][route.path][route.method.to_ascii_lowercase()];
            assert_eq!(operation["summary"], route.summary);
            let name = operation["operationId"].as_str().unwrap().to_owned();
            assert!(names.insert(name), "{}", route.path);
        }
        assert_eq!(names.len(), api::routes().count());
    }

    #[test]
    fn examples_of_filters_are_filters() {
        for text in [
            "",
            "state:failed queue:mail",
            "label:team=x since:2h \"a b\" word",
        ] {
            assert!(
                text.parse::<super::super::filter::Filter>().is_ok(),
                "{text}"
            );
        }
        for state in State::ALL {
            assert!(filter_pattern().contains(state.as_str()));
        }
    }

    #[test]
    fn the_next_page_of_each_list_is_named_as_described() {
        let document = document(api::routes());
        let failed = "1766000000123-17";
        assert!(failed.parse::<api::failed::FailedCursor>().is_ok());
        let job = "1766000000123.17.KV_naq_results";
        assert!(job.parse::<naq_client::JobCursor>().is_ok());
        let lists = [
            ("/api/jobs", job),
            ("/api/failed", failed),
            ("/api/audit", "17"),
        ];
        for (path, cursor) in lists {
            let parameters = document["paths"][path]["get"]["parameters"].as_array();
            let described = parameters
                .into_iter()
                .flatten()
                .find(|parameter| parameter["name"] == "cursor");
            let schema = &described.unwrap()["schema"];
            for value in [job, failed, "17", ""] {
                let is_valid = jsonschema::is_valid(schema, &value.into());
                let is_own = value == cursor || value.is_empty();
                assert_eq!(is_valid, is_own, "{path}: {value}");
            }
        }
    }

    /// A parameter of a query as its schema has it.
    fn typed(schema: &Value, text: &str) -> Value {
        let parsed: Option<Value> = serde_json::from_str(text).ok();
        let is_valid = |value: &Value| jsonschema::is_valid(schema, value);
        parsed.filter(is_valid).unwrap_or_else(|| text.into())
    }

    #[test]
    fn the_example_of_each_parameter_is_as_described() {
        let mut settings = SchemaSettings::draft2020_12();
        settings.inline_subschemas = true;
        let mut generator = settings.into_generator();
        for route in api::routes() {
            for parameter in route.parameters {
                let schema = parameter_schema(parameter.schema, &mut generator);
                let example = typed(&schema, parameter.example);
                let place = (route.path, parameter.name);
                assert!(jsonschema::is_valid(&schema, &example), "{place:?}");
            }
        }
    }

    #[test]
    fn durations_that_are_read_are_as_described() {
        let mut generator = SchemaGenerator::default();
        let wait = parameter_schema("wait", &mut generator);
        for text in ["0", "0.5", "30s", "60", "1m", "59.9s", "250ms", "1s 500ms"] {
            assert!(api::jobs::wait(text).is_ok(), "{text}");
            assert!(jsonschema::is_valid(&wait, &text.into()), "{text}");
        }
        for text in ["61", "60.5s", "2m", "1h"] {
            assert!(api::jobs::wait(text).is_err(), "{text}");
            assert!(!jsonschema::is_valid(&wait, &text.into()), "{text}");
        }
        for name in ["in", "since"] {
            let schema = parameter_schema(name, &mut generator);
            for text in ["0", "0.5", "90s", "1h30m", "1h 30 m", "1.5h", "2w", "10us"] {
                assert!(naq_protocol::units::parse_duration(text).is_ok(), "{text}");
                let is_valid = jsonschema::is_valid(&schema, &text.into());
                assert!(is_valid, "{name}: {text}");
            }
        }
    }

    #[test]
    fn a_new_start_and_a_flow_are_described() {
        let document = document(api::routes());
        let is_valid = |path: &str, body: Value| {
            let operation = &document["paths"][path]["post"];
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let mut schema = schema.clone();
            schema["components"] = document["components"].clone();
            jsonschema::is_valid(&schema, &body)
        };
        let start = |body| is_valid("/api/jobs/{job}/reschedule", body);
        assert!(start(json!({"in": "5m"})));
        assert!(start(json!({"in": 5, "at": null})));
        for wrong in [
            json!({}),
            json!({"in": null}),
            json!({"in": 5, "at": "2030-12-24T18:00:00Z"}),
        ] {
            assert!(!start(wrong.clone()), "{wrong}");
        }
        let flow = |jobs| is_valid("/api/flows", json!({"jobs": jobs}));
        assert!(flow(json!({"a": {"command": "true", "queue": "build"}})));
        for wrong in [
            json!({}),
            json!({"a": null}),
            json!({"a.b": {"command": "true"}}),
            json!({"a": {"command": "true", "job_id": "a"}}),
        ] {
            assert!(!flow(wrong.clone()), "{wrong}");
        }
    }

    #[test]
    fn an_answer_without_a_body_has_no_type() {
        let document = document(api::routes());
        let answers = &document["paths"]["/api/queues/{queue}"]["delete"]["responses"];
        assert!(answers["204"]["description"].is_string());
        assert_eq!(answers["204"].get("content"), None);
    }

    #[test]
    fn each_reference_of_the_document_leads_somewhere() {
        fn check(value: &Value, document: &Value) {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(place)) = fields.get("$ref") {
                        let pointer = place.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{place}");
                    }
                    fields.values().for_each(|value| check(value, document));
                }
                Value::Array(values) => values.iter().for_each(|value| check(value, document)),
                _ => {}
            }
        }
        let document = document(api::routes());
        check(&document, &document);
    }
}
