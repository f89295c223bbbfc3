//! The OpenAPI document, made from the table of routes.

use naq_protocol::{JobId, QueueName, Reason, ScheduleId, State};
use schemars::generate::SchemaSettings;
use schemars::{SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

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
                known["content"][answer.media_type] =
                    described["content"][answer.media_type].clone();
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
            "required": true,
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
    json!({"description": answer.text, "content": {answer.media_type: content}})
}

fn describe_parameter(parameter: &Parameter, generator: &mut SchemaGenerator) -> Value {
    let (place, is_required) = match parameter.place {
        ParameterPlace::Path => ("path", true),
        ParameterPlace::Query => ("query", false),
    };
    json!({
        "name": parameter.name,
        "in": place,
        "required": is_required,
        "description": parameter.text,
        "schema": parameter_schema(parameter.name, generator),
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

/// The schema of a parameter. A name has the same meaning on every route.
fn parameter_schema(name: &str, generator: &mut SchemaGenerator) -> Value {
    /// A duration: `90s`, `1h 30m`, or a number of seconds.
    const DURATION: &str = r"^(\d{1,6}|(\d{1,4}(ms|s|m|h|d)\s?){1,3})$";
    /// `next` of a list of jobs, of one of failed jobs, or nothing.
    const CURSOR: &str = r"^(\d+\.\d+\.[A-Za-z0-9_-]+|\d+-\d+)?$";
    let of_type = match name {
        "job" => schema_of::<JobId>(generator),
        "queue" => schema_of::<QueueName>(generator),
        "schedule" => schema_of::<ScheduleId>(generator),
        "state" => schema_of::<State>(generator),
        "reason" => schema_of::<Reason>(generator),
        "q" => json_schema!({"type": "string", "maxLength": 500, "pattern": filter_pattern()}),
        "limit" => json_schema!({"type": "integer", "minimum": 1, "maximum": 500}),
        "max_jobs" => json_schema!({"type": "integer", "minimum": 1}),
        "dry_run" | "download" => json_schema!({"type": "boolean"}),
        "wait" => json_schema!({"type": "string", "pattern": r"^([1-5]?\d|60)s$"}),
        "in" => json_schema!({"type": "string", "pattern": DURATION}),
        "at" => json_schema!({"type": "string", "format": "date-time"}),
        "since" => json_schema!({
            "type": "string",
            "anyOf": [{"pattern": DURATION}, {"format": "date-time"}],
        }),
        "label" => json_schema!({"type": "string", "pattern": "^[^=]+(=.*)?$"}),
        "cursor" => json_schema!({"type": "string", "pattern": CURSOR}),
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
        for (path, cursor) in [("/api/jobs", job), ("/api/failed", failed)] {
            let parameters = document["paths"][path]["get"]["parameters"].as_array();
            let described = parameters
                .into_iter()
                .flatten()
                .find(|parameter| parameter["name"] == "cursor");
            let schema = &described.unwrap()["schema"];
            for value in [cursor, ""] {
                assert!(
                    jsonschema::is_valid(schema, &value.into()),
                    "{path}: {value}"
                );
            }
        }
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
