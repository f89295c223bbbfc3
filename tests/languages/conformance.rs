//! The cases of `runners/conformance`, by a real worker: cold, and in warm processes.
//!
//! `runners/conformance/run.py` plays the worker for the authors of a shim. Here the same calls go through an
//! envelope, and what is expected is compared with the record.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;

use naq_protocol::{Record, State};
use serde_json::{Value, json};

use crate::harness::naq::{Naq, text};
use crate::harness::nats::TestServer;

/// Keys of a case that say what only a worker of one's own can do: signals, what a process loads first, and
/// what it says of itself.
const NOT_HERE: &[&str] = &["send", "preload", "hello", "files", "kind"];

/// Cases that need more than a machine of the tests has, or the job's id that the driver chooses.
const LEFT_OUT: &[&str] = &["memory", "large_output", "current"];

/// A call of a case, and what is expected of it in one language.
struct Call {
    case: String,
    envelope: Value,
    expect: toml::Table,
}

fn json_of(table: &toml::Table, key: &str, default: Value) -> Value {
    let text = table.get(key).and_then(toml::Value::as_str);
    text.map_or(default, |text| {
        serde_json::from_str(text).expect("a case has valid JSON")
    })
}

/// What is expected in a language: the keys of `[expect.LANGUAGE]` replace those of `[expect]`.
fn expectation(table: &toml::Table, language: &str) -> toml::Table {
    let found = table.get("expect").and_then(toml::Value::as_table);
    let mut all = found.cloned().unwrap_or_default();
    if let Some(toml::Value::Table(own)) = all.remove(language) {
        all.extend(own);
    }
    all
}

/// The calls of the cases that a worker can run in this language and mode. Each job's file is written.
fn calls(naq: &Naq, language: &str, extension: &str, mode: &str) -> Vec<Call> {
    let folder = Path::new(crate::ROOT).join("runners/conformance/cases");
    let entries = std::fs::read_dir(folder).expect("the cases are in the repository");
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut calls = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let case: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
        let list = |table: &toml::Table, key: &str| -> Option<Vec<String>> {
            let list = table.get(key)?.as_array()?;
            Some(
                list.iter()
                    .map(|one| one.as_str().unwrap().to_owned())
                    .collect(),
            )
        };
        let not_modes = case.get("not_modes").and_then(toml::Value::as_table);
        let not_modes = not_modes.and_then(|table| list(table, language));
        let source = case["job"].get(language).and_then(toml::Value::as_str);
        let is_here = NOT_HERE.iter().all(|key| !case.contains_key(*key))
            && !LEFT_OUT.contains(&name.as_str())
            && list(&case, "modes").is_none_or(|modes| modes.iter().any(|one| one == mode))
            && !not_modes.is_some_and(|modes| modes.iter().any(|one| one == mode));
        let (Some(source), true) = (source, is_here) else {
            continue;
        };
        std::fs::create_dir_all(naq.home().join(&name)).unwrap();
        let job = naq.file(&format!("{name}/job.{extension}"), source);
        let then = case.get("then").and_then(toml::Value::as_array);
        let then = then.into_iter().flatten().filter_map(toml::Value::as_table);
        for table in std::iter::once(&case).chain(then) {
            if NOT_HERE.iter().any(|key| table.contains_key(*key)) {
                break;
            }
            let whole = table.get("calls").and_then(|calls| calls.get(language));
            let function = match whole.and_then(toml::Value::as_str) {
                Some(whole) => whole.rsplit(':').next().unwrap_or(whole).to_owned(),
                None => table["call"].as_str().unwrap().to_owned(),
            };
            let own_file = whole.is_none_or(|call| call.as_str().unwrap().starts_with("./job."));
            if !own_file {
                break;
            }
            let mut envelope = json!({
                "function": format!("{}:{function}", job.display()),
                "runner": language,
                "args": json_of(table, "args", json!([])),
                "kwargs": json_of(table, "kwargs", json!({})),
                "limits": {"output": "1M"},
            });
            if let Some(env) = table.get("env") {
                envelope["env"] = serde_json::to_value(env).unwrap();
            }
            if let Some(stdin) = table.get("stdin").and_then(toml::Value::as_str) {
                envelope["stdin"] = stdin.into();
            }
            if envelope["env"].get("NAQ_CONTROL_LINE_MAX").is_some() {
                // it is the worker that sets it
                break;
            }
            calls.push(Call {
                case: format!("{language}, {mode}: {name}: {function}"),
                envelope,
                expect: expectation(table, language),
            });
        }
    }
    assert!(calls.len() > 20, "only {} calls", calls.len());
    calls
}

/// Compares numbers as numbers: `1.0` and `1` are equal.
fn is_equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| is_equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, value)| other.get(key).is_some_and(|it| is_equal(value, it)))
        }
        _ => one == other,
    }
}

/// What differs from what is expected. `None` if nothing does.
fn difference(record: &Record, expect: &toml::Table) -> Option<String> {
    let word = |key: &str| expect.get(key).and_then(toml::Value::as_str);
    let signal = word("signal").map(|name| match name {
        "TERM" => 15,
        "SEGV" => 11,
        _ => 9,
    });
    if record.signal != signal {
        return Some(format!("signal {:?}", record.signal));
    }
    let code = expect
        .get("exit")
        .and_then(toml::Value::as_integer)
        .unwrap_or(0);
    if signal.is_none() && record.exit_code.map(i64::from) != Some(code) {
        return Some(format!("exit code {:?}", record.exit_code));
    }
    if let Some(expected) = word("result") {
        let expected: Value = serde_json::from_str(expected).expect("a case has valid JSON");
        let found = record.result.as_ref().map(|result| result.get());
        // a record without a result is one whose result is null
        let found: Value = serde_json::from_str(found.unwrap_or("null")).expect("JSON");
        if !is_equal(&found, &expected) {
            return Some(format!("result {found}, not {expected}"));
        }
    }
    let stdout = text(record.stdout.as_ref());
    if word("stdout").is_some_and(|expected| expected != stdout) {
        return Some(format!("stdout {stdout:?}"));
    }
    if let Some(error) = expect.get("error").and_then(toml::Value::as_table) {
        let part = |key: &str| error.get(key).and_then(toml::Value::as_str).unwrap_or("");
        let Some(found) = &record.exception else {
            return Some("no exception".to_owned());
        };
        let is_type = part("type").is_empty() || part("type") == found.kind;
        let is_fatal = error.get("retry").and_then(toml::Value::as_bool) == Some(false);
        // the message of a record is shorter than that of a shim
        if !is_type || !found.message.contains(part("message")) || (is_fatal && !found.fatal) {
            return Some(format!("exception {found:?}"));
        }
    }
    None
}

/// Runs all cases of a language, with these arguments of the worker.
fn check(language: &str, extension: &str, mode: &str, arguments: &[&str]) {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    if naq.cli(["runner", "check", language]).run().code != Some(0) {
        assert!(
            !crate::harness::is_required(),
            "{language} does not work here"
        );
        crate::harness::skipped(&format!("{language} is not installed"));
        return;
    }
    let calls = calls(&naq, language, extension, mode);
    std::fs::create_dir(naq.home().join("cwd")).unwrap();
    let worker = naq.worker(&["default"]).concurrency(1).arg("--workdir=cwd");
    let _worker = arguments
        .iter()
        .fold(worker, |worker, arg| worker.arg(arg))
        .spawn();
    let mut wrong = Vec::new();
    for call in calls {
        let job = naq.publish("default", call.envelope.to_string());
        let record = naq.wait_ended(&job);
        assert_ne!(
            record.state(),
            State::Rejected,
            "{}: {record:#?}",
            call.case
        );
        if let Some(why) = difference(&record, &call.expect) {
            let stderr = text(record.stderr.as_ref());
            wrong.push(format!("{}: {why}\n{stderr}", call.case));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn python_conforms() {
    check("python", "py", "cold", &[]);
}

#[test]
fn warm_python_conforms() {
    check("python", "py", "fork", &["--warm=python"]);
}

#[test]
fn reused_python_conforms() {
    check("python", "py", "reuse", &["--warm=python:reuse"]);
}

#[test]
fn node_conforms() {
    check("node", "mjs", "cold", &[]);
}

#[test]
fn warm_node_conforms() {
    check("node", "mjs", "reuse", &["--warm=node"]);
}

#[test]
fn warm_ruby_conforms() {
    check("ruby", "rb", "fork", &["--warm=ruby"]);
}

#[test]
fn warm_perl_conforms() {
    check("perl", "pl", "fork", &["--warm=perl"]);
}
