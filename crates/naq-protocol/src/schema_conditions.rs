//! What the JSON Schemas say in addition to the types: which fields belong together, and how much a field holds.
//!
//! A test compares the schemas with the parser on generated values. It also lists the rules that no schema can
//! express, such as lengths in bytes of UTF-8.

use serde_json::{Value, json};

use crate::audit::{AUDIT_NAME_CHARS_MAX, AUDIT_TEXT_CHARS_MAX};
use crate::envelope_schema::given;
use crate::envelope_validate::{
    CONCURRENCY_KEY_BYTES_MAX, LABELS_BYTES_MAX, REQUIRES_BYTES_MAX, names_to_understand,
};
use crate::names::SEQUENCE_FORM;
use crate::record::{FAILED_ATTEMPT_TEXT_BYTES_MAX, FAILED_ATTEMPTS_MAX, INTERRUPTIONS_MAX};
use crate::schedule::{INTERVAL_MS_MIN, MISFIRE_MAX_MAX, PER_JOB_FIELDS};
use crate::state::State;
use crate::worker::HEARTBEAT_JOBS_MAX;

/// Adds conditions to those that the schema has.
fn require(schema: &mut Value, conditions: Vec<Value>) {
    match schema["allOf"].as_array_mut() {
        Some(present) => present.extend(conditions),
        None => schema["allOf"] = conditions.into(),
    }
}

/// Adds keywords to the schema of a field. An absent path would be a mistake here, and is found by the test that
/// looks for every keyword.
fn extend(schema: &mut Value, pointer: &str, keywords: &Value) {
    let Some(field) = schema.pointer_mut(pointer).and_then(Value::as_object_mut) else {
        debug_assert!(false, "the schema has no {pointer}");
        return;
    };
    for (keyword, value) in keywords.as_object().into_iter().flatten() {
        field.insert(keyword.clone(), value.clone());
    }
}

/// Bounds integers by their types: `format` is a remark to most validators. An integer that may be `null` gets a
/// choice of two types, since some validators accept `3.0` as an `integer` only if that is the one type.
pub(crate) fn complete_integers(schema: &mut Value) {
    match schema {
        Value::Object(keywords) => {
            let format = keywords.get("format").and_then(Value::as_str);
            let bounds: Option<(Value, Value)> = match format {
                Some("uint32") => Some((0.into(), u32::MAX.into())),
                Some("uint64") => Some((0.into(), u64::MAX.into())),
                Some("int32") => Some((i32::MIN.into(), i32::MAX.into())),
                _ => None,
            };
            if let Some((min, max)) = bounds {
                keywords.entry("minimum").or_insert(min);
                keywords.entry("maximum").or_insert(max);
            }
            if keywords.get("type") == Some(&json!(["integer", "null"])) {
                keywords.remove("type");
                let types = json!([{"type": "integer"}, {"type": "null"}]);
                keywords.insert("anyOf".to_owned(), types);
            }
            keywords.values_mut().for_each(complete_integers);
        }
        Value::Array(items) => items.iter_mut().for_each(complete_integers),
        _ => {}
    }
}

/// The conditions of an envelope, besides the combinations of its fields.
pub(crate) fn of_envelope(schema: &mut Value) {
    let bounded = |bytes_max: usize| {
        json!({
            "propertyNames": {"maxLength": bytes_max},
            "additionalProperties": {"type": "string", "maxLength": bytes_max}
        })
    };
    for (pointer, keywords) in [
        ("/properties/labels", bounded(LABELS_BYTES_MAX)),
        ("/properties/requires", bounded(REQUIRES_BYTES_MAX)),
        (
            "/properties/concurrency_key",
            json!({"maxLength": CONCURRENCY_KEY_BYTES_MAX}),
        ),
        ("/properties/depends_on", json!({"uniqueItems": true})),
        // `null` has no such form either
        (
            "/properties/job_id",
            json!({"not": {"type": "string", "pattern": SEQUENCE_FORM}}),
        ),
        // with no bits after the last byte
        (
            "/properties/stdin_base64",
            json!({"pattern": r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"}),
        ),
        (
            "/properties/must_understand",
            json!({"items": {"enum": names_to_understand()}}),
        ),
    ] {
        extend(schema, pointer, &keywords);
    }
}

fn is_in(states: &[State]) -> Value {
    let names: Vec<&str> = states.iter().map(State::as_str).collect();
    json!({"required": ["state"], "properties": {"state": {"enum": names}}})
}

/// The fields that belong to each state, as [`Record::phase`](crate::Record::phase) requires, and the bounds of
/// lists.
pub(crate) fn of_record(schema: &mut Value) {
    use State::{Failed, Rejected, Retrying, Running, Scheduled, Waiting};
    let terminal: Vec<State> = State::ALL
        .into_iter()
        .filter(|state| state.is_terminal())
        .collect();
    let when = |condition: Value, then: Value| json!({"if": condition, "then": then});
    let all_given = |fields: &[&str]| json!({"allOf": fields.iter().map(|field| given(field)).collect::<Vec<_>>()});
    let rejections = json!(["invalid", "unsupported_version", "not_allowed"]);
    let placeholder =
        json!({"required": ["placeholder"], "properties": {"placeholder": {"const": true}}});
    require(
        schema,
        vec![
            when(is_in(&terminal), given("finished_at")),
            when(is_in(&[Waiting]), given("waits")),
            when(is_in(&[Running]), all_given(&["lease", "started_at"])),
            when(
                is_in(&[Retrying]),
                all_given(&["reason", "finished_at", "next_attempt_at"]),
            ),
            when(is_in(&[Failed]), given("reason")),
            when(
                is_in(&[Rejected]),
                json!({"required": ["reason"], "properties": {"reason": {"enum": rejections}}}),
            ),
            when(given("lease"), is_in(&[Running])),
            when(given("next_attempt_at"), is_in(&[Scheduled, Retrying])),
            when(
                given("waits"),
                json!({"anyOf": [is_in(&[Waiting]), placeholder]}),
            ),
        ],
    );
    let text = json!({"maxLength": FAILED_ATTEMPT_TEXT_BYTES_MAX});
    for (pointer, keywords) in [
        (
            "/properties/interruptions",
            json!({"maxItems": INTERRUPTIONS_MAX}),
        ),
        (
            "/properties/failed_attempts",
            json!({"maxItems": FAILED_ATTEMPTS_MAX}),
        ),
        (
            "/properties/envelope_digest",
            json!({"pattern": "^[0-9a-f]{16}$"}),
        ),
        ("/$defs/FailedAttempt/properties/error", text.clone()),
        ("/$defs/FailedAttempt/properties/stdout_tail", text.clone()),
        ("/$defs/FailedAttempt/properties/stderr_tail", text),
        (
            "/$defs/JobProgress/properties/percent",
            json!({"minimum": 0, "maximum": 100}),
        ),
    ] {
        extend(schema, pointer, &keywords);
    }
    let output = "/$defs/CapturedOutput";
    extend(
        schema,
        output,
        &json!({"not": {"allOf": [given("text"), given("base64")]}}),
    );
}

/// The conditions of a schedule that has ticks. One that does not meet them is listed with the problem.
pub(crate) fn of_schedule(schema: &mut Value) {
    let absent: serde_json::Map<String, Value> = PER_JOB_FIELDS
        .into_iter()
        .map(|name| (name.to_owned(), json!({"type": "null"})))
        .collect();
    require(
        schema,
        vec![
            json!({"oneOf": [given("cron"), given("every")]}),
            json!({"if": given("tz"), "then": given("cron")}),
        ],
    );
    #[expect(clippy::cast_precision_loss, reason = "a tenth of a second")]
    let seconds_min = INTERVAL_MS_MIN as f64 / 1e3;
    for (pointer, keywords) in [
        (
            "/properties/envelope",
            json!({"type": "object", "properties": absent}),
        ),
        ("/properties/every", json!({"minimum": seconds_min})),
        ("/properties/repeat", json!({"minimum": 1})),
        (
            "/properties/misfire_max",
            json!({"minimum": 1, "maximum": MISFIRE_MAX_MAX}),
        ),
    ] {
        extend(schema, pointer, &keywords);
    }
}

/// The bounds of a worker's heartbeat.
pub(crate) fn of_worker(schema: &mut Value) {
    extend(
        schema,
        "/properties/jobs",
        &json!({"maxItems": HEARTBEAT_JOBS_MAX}),
    );
}

/// The bounds of an entry of the audit.
pub(crate) fn of_audit(schema: &mut Value) {
    for (field, chars_max) in [
        ("who", AUDIT_NAME_CHARS_MAX),
        ("from", AUDIT_NAME_CHARS_MAX),
        ("forwarded_for", AUDIT_NAME_CHARS_MAX),
        ("filter", AUDIT_TEXT_CHARS_MAX),
        ("error", AUDIT_TEXT_CHARS_MAX),
    ] {
        extend(
            schema,
            &format!("/properties/{field}"),
            &json!({"maxLength": chars_max}),
        );
    }
}
