//! The parts of the JSON Schema of an envelope that no type expresses.

use serde_json::Value;

use crate::planned_fields::PLANNED_FIELDS;

/// A duration or a size of 0, as a number or a text. A duration is rounded to microseconds.
pub(crate) fn nothing() -> Value {
    serde_json::json!({"anyOf": [
        {"type": "number", "exclusiveMaximum": 5e-7},
        {"type": "string", "pattern": "^[^1-9]*$"}
    ]})
}

/// A field that is set. `null` stands for an absent field.
pub(crate) fn given(field: &str) -> Value {
    serde_json::json!({"required": [field], "properties": {field: {"not": {"type": "null"}}}})
}

/// The combinations of fields that [`Envelope::validate`](crate::Envelope::validate) requires.
pub(crate) fn combinations(schema: &mut schemars::Schema) {
    use serde_json::json;
    let [command, script, script_digest, function, runner] =
        ["command", "script", "script_digest", "function", "runner"].map(given);
    let [input, stdin, stdin_base64] = ["input", "stdin", "stdin_base64"].map(given);
    let inputs = json!({"required": ["inputs"], "properties": {"inputs": {"const": "stdin"}}});
    // What later versions will define is refused until then; `null` is absent.
    let planned: serde_json::Map<String, Value> = PLANNED_FIELDS
        .into_iter()
        .map(|name| (name.to_owned(), json!({"type": "null"})))
        .collect();
    schema.insert(
        "oneOf".to_owned(),
        json!([command, script, script_digest, function]),
    );
    schema.insert(
        "allOf".to_owned(),
        json!([
            {"not": {"allOf": [input, stdin]}},
            {"not": {"allOf": [input, stdin_base64]}},
            {"not": {"allOf": [stdin, stdin_base64]}},
            {"if": inputs, "then": {"not": {"anyOf": [input, stdin, stdin_base64]}}},
            {
                "if": function,
                "then": runner,
                "else": {"properties": {
                    "args": {"items": {"type": ["string", "number", "boolean"], "pattern": r"^[^\u0000]*$"}},
                    "kwargs": {"maxProperties": 0},
                    "module_path": {"maxItems": 0}
                }}
            },
            {"if": command, "then": {"properties": {"runner": {"type": "null"}}}},
            {"properties": planned}
        ]),
    );
}
