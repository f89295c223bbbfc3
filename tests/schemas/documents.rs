//! The JSON of the pages is valid by the schemas, also for Python's jsonschema.
//!
//! The info string of a block of JSON names its schema (`json envelope`), or what else it is.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use naq_protocol::SCHEMAS;
use serde_json::{Value, json};

use super::{ACCEPTED, REFUSED, validator};
use crate::harness::python::python;

/// Blocks of JSON that are no values of the wire: settings of NATS, and requests between workers.
const OF_OTHERS: &[&str] = &["layout", "request"];

/// A value on a page.
struct Documented {
    page: String,
    schema: String,
    value: Value,
}

/// The pages for users.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(crate::ROOT);
    let mut pages = vec![root.join("README.md")];
    for folder in [
        "docs",
        "clients/python",
        "clients/node",
        "examples/producers",
    ] {
        let files = std::fs::read_dir(root.join(folder)).unwrap();
        let files = files.map(|file| file.unwrap().path());
        pages.extend(files.filter(|file| file.extension().is_some_and(|ending| ending == "md")));
    }
    pages
}

/// The blocks of a page, each with its info string.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let fences = page.split("\n```").skip(1).step_by(2);
    fences.filter_map(|block| block.split_once('\n')).collect()
}

/// The values of the wire in a transcript: those that have the fields by which a value is recognized.
fn values_in_transcript(transcript: &str) -> Vec<(&'static str, Value)> {
    let mut found = Vec::new();
    let mut text = String::new();
    for line in transcript.lines() {
        let line = line.trim_start_matches(['<', '>']).trim();
        if text.is_empty() && !line.starts_with('{') {
            continue;
        }
        text.push_str(line);
        let Ok(value) = serde_json::from_str::<Value>(&text) else {
            continue;
        };
        text.clear();
        let has = |field: &str| value.get(field).is_some();
        let schema = if has("state") && has("job_id") {
            "record"
        } else if has("cron") || has("every") {
            "schedule"
        } else if has("command") {
            "envelope"
        } else {
            continue;
        };
        found.push((schema, value));
    }
    assert!(text.is_empty(), "no JSON: {text}");
    found
}

/// Every value of the wire on the pages.
fn documented() -> Vec<Documented> {
    let mut found = Vec::new();
    for path in pages() {
        let text = std::fs::read_to_string(&path).unwrap();
        let page = path.display().to_string();
        for (info, block) in blocks(&text) {
            let mut add = |schema: &str, value: Value| {
                let (page, schema) = (page.clone(), schema.to_owned());
                found.push(Documented {
                    page,
                    schema,
                    value,
                });
            };
            match *info.split_whitespace().collect::<Vec<_>>() {
                ["text", "transcript"] => {
                    for (schema, value) in values_in_transcript(block) {
                        add(schema, value);
                    }
                }
                ["json", kind, ..] if OF_OTHERS.contains(&kind) => {
                    serde_json::from_str::<Value>(block).unwrap();
                }
                ["json", schema] if SCHEMAS.contains(&schema) => {
                    add(schema, serde_json::from_str(block).unwrap());
                }
                ["json", ..] => panic!("{page}: `{info}` names no schema"),
                _ => {}
            }
        }
    }
    found
}

#[test]
fn the_json_of_every_page_is_valid_by_its_schema() {
    let documented = documented();
    for schema in ["envelope", "record", "input", "schedule"] {
        let validator = validator(schema);
        let values: Vec<_> = documented
            .iter()
            .filter(|one| one.schema == schema)
            .collect();
        assert!(!values.is_empty(), "no page shows a value of {schema}");
        for Documented { page, value, .. } in values {
            if let Err(error) = validator.validate(value) {
                panic!("{page}: {value}: {error} at {}", error.instance_path);
            }
        }
    }
}

/// Records, schedules and heartbeats that earlier versions have written are valid.
#[test]
fn the_bytes_on_the_wire_are_valid_by_their_schemas() {
    let folder = Path::new(crate::ROOT).join("tests/wire");
    for schema in ["envelope", "record", "schedule", "worker"] {
        let validator = validator(schema);
        let lines = std::fs::read_to_string(folder.join(format!("{schema}s.v1.jsonl"))).unwrap();
        for line in lines.lines() {
            let value: Value = serde_json::from_str(line).unwrap();
            if let Err(error) = validator.validate(&value) {
                panic!("{line}: {error} at {}", error.instance_path);
            }
        }
    }
}

/// What is valid, and what is not, is so for a second implementation of JSON Schema too.
#[test]
fn python_agrees_on_the_pages_and_on_the_envelopes_of_the_tests() {
    let mut cases: Vec<Value> = documented()
        .into_iter()
        .map(|one| json!({"schema": one.schema, "value": one.value, "is_valid": true}))
        .collect();
    for (texts, is_valid) in [(ACCEPTED, true), (REFUSED, false)] {
        cases.extend(texts.iter().map(|text| {
            let value: Value = serde_json::from_str(text).unwrap();
            json!({"schema": "envelope", "value": value, "is_valid": is_valid})
        }));
    }
    let root = Path::new(crate::ROOT);
    let python = python(
        "python-client",
        &root.join("clients/python/tests/requirements.txt"),
    );
    #[expect(clippy::disallowed_methods, reason = "Python is a process of its own")]
    let mut child = Command::new(python)
        .arg(root.join("tests/schemas/validate.py"))
        .arg(root.join("schemas"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines: String = cases.iter().map(|case| format!("{case}\n")).collect();
    let writing = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, format!("{} lines\n", cases.len()));
}
