//! `docs/schemas.md`: the fields of every schema in `schemas/`, as tables.

use crate::harness::generated_file::assert_is_generated;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use naq_protocol::SCHEMAS;
use serde_json::Value;

use super::checked_in;

const PAGE: &str = "docs/schemas.md";

const HEAD: &str = "# Schemas

<!-- Written from schemas/ by `NAQ_TEST_UPDATE=1 cargo test schemas_page`. Edit the comments of the types, not this file. -->

The fields of everything that naq reads and writes as JSON. `naq schema envelope` prints a schema as
[JSON Schema](../schemas), which has the patterns too, and the conditions between fields. [Protocol](protocol.md) says
what the fields are for, with examples.

A field is optional unless its type says *required*, and `null` stands for an absent one. A *duration* is a number of
seconds or a text such as `\"1m 30s\"`, a *size* a number of bytes or a text such as `\"256M\"`, a *time* a text as in RFC
3339. Readers ignore unknown fields, and keep them. A few unknown fields of an envelope reject the job: see
[Unknown fields](protocol.md#unknown-fields).
";

/// More values of a field than this would make a table unreadable. The schema lists them.
const LISTED_VALUES_MAX: usize = 12;

/// Whether a schema permits nothing but `null`.
fn is_null(schema: &Value) -> bool {
    schema["type"] == "null" || schema.get("const") == Some(&Value::Null)
}

/// The bounds of the integers of Rust, which say nothing about a field.
fn is_bound_of_type(schema: &Value, key: &str) -> bool {
    let bound = match (schema["format"].as_str(), key) {
        (Some("uint8"), "maximum") => u64::from(u8::MAX).into(),
        (Some("uint32"), "maximum") => u64::from(u32::MAX).into(),
        (Some("uint64" | "uint"), "maximum") => u64::MAX.into(),
        (Some("uint8" | "uint32" | "uint64" | "uint"), "minimum") => 0_u64.into(),
        (Some("int32"), "maximum") => i64::from(i32::MAX).into(),
        (Some("int32"), "minimum") => i64::from(i32::MIN).into(),
        (Some("int64"), "maximum") => i64::MAX.into(),
        (Some("int64"), "minimum") => i64::MIN.into(),
        _ => return false,
    };
    schema[key] == Value::Number(bound)
}

/// A number with a separator of thousands, as the pages write it.
fn number(value: &Value) -> String {
    let text = value.to_string();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.as_str()),
    };
    let (whole, rest) = digits.split_once('.').unwrap_or((digits, ""));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let fraction = match rest {
        "" | "0" => String::new(),
        rest => format!(".{rest}"),
    };
    format!("{sign}{grouped}{fraction}")
}

/// What a schema says besides the kind of a value: ` from 1 to 10,000`.
fn bounds(schema: &Value) -> String {
    let bound = |key: &str| {
        let value = schema.get(key)?;
        (!is_bound_of_type(schema, key)).then(|| number(value))
    };
    let within = match (bound("minimum"), bound("maximum")) {
        (Some(min), Some(max)) => format!(" from {min} to {max}"),
        (Some(min), None) => format!(" from {min}"),
        (None, Some(max)) => format!(" up to {max}"),
        (None, None) => String::new(),
    };
    let characters = bound("maxLength").map(|max| format!(" of at most {max} characters"));
    within + &characters.unwrap_or_default()
}

/// Describes the types of a schema, and links to the sections of those that have a name.
struct Types<'s> {
    /// The name of the schema, which the headings of its sections begin with.
    schema: &'s str,
}

impl Types<'_> {
    fn anchor(&self, name: &str) -> String {
        format!("{}-{}", self.schema, name.to_lowercase())
    }

    /// The kinds of value that a schema permits, without `null`.
    fn kind(&self, schema: &Value) -> String {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.trim_start_matches("#/$defs/");
            return format!("[{name}](#{})", self.anchor(name));
        }
        // a schema may only forbid fields, as that of a schedule does with the times of its envelope
        let fields = schema["properties"].as_object().into_iter().flatten();
        assert!(
            fields.map(|(_, field)| field).all(is_null),
            "fields of a type without a name would not be on the page: {schema}"
        );
        if let Some(values) = schema["enum"].as_array() {
            let values: Vec<_> = values.iter().filter(|value| !value.is_null()).collect();
            if values.len() > LISTED_VALUES_MAX {
                return format!("one of {} names", values.len());
            }
            return values
                .iter()
                .map(|value| format!("`{value}`"))
                .collect::<Vec<_>>()
                .join(", ");
        }
        if let Some(value) = schema.get("const") {
            return format!("`{value}`");
        }
        if let Some(choices) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
            return self.choice(choices) + &bounds(schema);
        }
        let kinds: Vec<String> = match &schema["type"] {
            Value::String(kind) => vec![self.simple(schema, kind)],
            Value::Array(kinds) => kinds
                .iter()
                .filter_map(Value::as_str)
                .filter(|kind| *kind != "null")
                .map(|kind| self.simple(schema, kind))
                .collect(),
            _ => vec!["any JSON".to_owned()],
        };
        kinds.join(" or ") + &bounds(schema)
    }

    fn choice(&self, choices: &[Value]) -> String {
        let kinds: Vec<String> = choices
            .iter()
            .filter(|choice| !is_null(choice))
            .map(|choice| self.kind(choice))
            .collect();
        // a number of units, or a text with units
        let units = choices.iter().find_map(|choice| choice["pattern"].as_str());
        match units {
            Some(pattern) if pattern.contains("ms|us|s|m|h|d|w") => "duration".to_owned(),
            Some(pattern) if pattern.contains("[KkMmGgTt]") => "size".to_owned(),
            _ => kinds.join(" or "),
        }
    }

    fn simple(&self, schema: &Value, kind: &str) -> String {
        match kind {
            "array" => {
                let max = schema.get("maxItems").map(number);
                let max = max.map(|max| format!("at most {max} ")).unwrap_or_default();
                format!("list of {max}{}", self.plural(&schema["items"]))
            }
            "object" => match schema.get("additionalProperties") {
                Some(values) if values.is_object() => {
                    format!("object whose values are {}", self.plural(values))
                }
                _ => "object".to_owned(),
            },
            "string" if schema["format"] == "date-time" => "time".to_owned(),
            kind => kind.to_owned(),
        }
    }

    /// The kinds of value in a list or an object.
    fn plural(&self, schema: &Value) -> String {
        let kind = self.kind(schema);
        let (first, rest) = kind.split_once(' ').unwrap_or((&kind, ""));
        match first {
            "string" | "integer" | "number" | "object" | "list" | "time" | "duration" | "size" => {
                format!("{first}s {rest}").trim_end().to_owned()
            }
            _ => kind,
        }
    }

    /// A section's description, and the table of its fields or values.
    fn body(&self, schema: &Value) -> String {
        let mut text = match schema["description"].as_str() {
            Some(description) => format!("\n{description}\n"),
            None => String::new(),
        };
        // a text alone may stand for an object
        let choices = schema["anyOf"].as_array().into_iter().flatten();
        let mut choices = choices.chain([schema]);
        if let Some(object) = choices.find(|choice| choice["properties"].is_object()) {
            text += &self.fields(object);
        } else if let Some(values) = schema["oneOf"].as_array()
            && values.iter().all(|value| value.get("const").is_some())
        {
            text += "\n| value | meaning |\n|---|---|\n";
            for value in values {
                let meaning = cell(&value["description"]);
                writeln!(text, "| `{}` | {meaning} |", value["const"]).unwrap();
            }
        } else {
            writeln!(text, "\nIts JSON: {}.", self.kind(schema)).unwrap();
        }
        text
    }

    fn fields(&self, object: &Value) -> String {
        let required = object["required"].as_array().into_iter().flatten();
        let required: BTreeSet<&str> = required.filter_map(Value::as_str).collect();
        let mut text = "\n| field | type | meaning |\n|---|---|---|\n".to_owned();
        for (name, field) in object["properties"].as_object().into_iter().flatten() {
            let mark = match required.contains(name.as_str()) {
                true => ", *required*",
                false => "",
            };
            let kind = self.kind(field);
            let meaning = cell(&field["description"]);
            writeln!(text, "| `{name}` | {kind}{mark} | {meaning} |").unwrap();
        }
        text
    }
}

/// A description in a cell of a table.
fn cell(description: &Value) -> String {
    let text = description.as_str().unwrap_or_default();
    text.replace('\n', " ").replace('|', "\\|")
}

fn section(name: &str) -> String {
    let schema = checked_in(name);
    let types = Types { schema: name };
    let mut text = format!("\n## {name}\n");
    if schema["properties"].is_object() {
        text += &types.body(&schema);
    } else {
        let each = schema["anyOf"].as_array().unwrap();
        let links: Vec<String> = each.iter().map(|one| types.kind(one)).collect();
        writeln!(
            text,
            "\nA line that a verb prints with `--json`. It is one of {}.",
            links.join(", ")
        )
        .unwrap();
    }
    for (kind, schema) in schema["$defs"].as_object().into_iter().flatten() {
        write!(text, "\n### {name}: {kind}\n").unwrap();
        text += &types.body(schema);
    }
    text
}

#[test]
fn schemas_page_has_the_fields_of_every_schema() {
    let names = SCHEMAS.into_iter().chain(["output"]);
    let expected: String = HEAD.to_owned() + &names.map(section).collect::<String>();
    assert!(
        !expected.contains("::"),
        "a description has a path of Rust, which readers of schemas do not know"
    );
    assert_is_generated(PAGE, &expected, "schemas_page");
}
