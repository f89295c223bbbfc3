//! The files in `schemas/` are what the program prints, and agree with the parser.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod differential;
mod documents;
mod page;

use std::path::Path;

use futures_util::StreamExt;
use naq_protocol::{Envelope, Record, SCHEMAS, WorkerInfo, schema};
use serde_json::Value;

use crate::harness::naq::Naq;

fn file(name: &str) -> std::path::PathBuf {
    Path::new(crate::ROOT).join(format!("schemas/{name}.v1.json"))
}

fn checked_in(name: &str) -> Value {
    let text = std::fs::read_to_string(file(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn validator(name: &str) -> jsonschema::Validator {
    jsonschema::options()
        .should_validate_formats(true)
        .build(&checked_in(name))
        .unwrap()
}

/// Asserts that each record on the server of `naq`, whichever program has written it, is valid by its schema, and so
/// is the envelope in it. Panics if there is no record.
pub(crate) fn assert_records_are_valid(naq: &Naq) {
    let (records, envelopes) = (validator("record"), validator("envelope"));
    let stored: Vec<Value> = naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let bucket = jetstream.get_key_value("naq_results").await.unwrap();
        let mut keys = bucket.keys().await.unwrap();
        let mut stored = Vec::new();
        while let Some(key) = keys.next().await {
            let value = bucket.get(key.unwrap()).await.unwrap().unwrap();
            stored.push(serde_json::from_slice(&value).unwrap());
        }
        stored
    });
    assert!(!stored.is_empty(), "no job has a record");
    for record in stored {
        let (record, envelope) = (&record, record.get("envelope"));
        if let Err(error) = records.validate(record) {
            panic!("{record}: {error} at {}", error.instance_path);
        }
        // that of a rejected job may be anything
        let Some(envelope) = envelope.filter(|_| record["state"] != "rejected") else {
            continue;
        };
        if let Err(error) = envelopes.validate(envelope) {
            panic!("{record}: {error} at {}", error.instance_path);
        }
    }
}

#[test]
fn schema_files_are_what_the_program_prints() {
    let names: Vec<&str> = SCHEMAS.into_iter().chain(["output"]).collect();
    for name in &names {
        let name = *name;
        let checked_in = std::fs::read_to_string(file(name)).unwrap_or_default();
        // that of the output is generated from types of the command line
        assert!(
            schema(name).is_none_or(|schema| checked_in == schema),
            "schemas/{name}.v1.json has drifted; run: naq schema {name} > schemas/{name}.v1.json"
        );
        let output = assert_cmd::Command::new(crate::harness::nats::naq())
            .args(["schema", name])
            .output()
            .unwrap();
        assert!(output.status.success(), "naq schema {name}");
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            checked_in,
            "schemas/{name}.v1.json has drifted; run: naq schema {name} > schemas/{name}.v1.json"
        );
    }
    let files = std::fs::read_dir(file("x").parent().unwrap())
        .unwrap()
        .count();
    assert_eq!(
        files,
        names.len(),
        "`schemas/` has a file that nothing generates"
    );
}

/// Valid envelopes.
const ACCEPTED: &[&str] = &[
    r#"{"command":"./script.sh","args":["arg"]}"#,
    r#"{"version":1,"command":"echo","args":["a",2,true,1.5]}"#,
    r#"{"version":null,"command":"echo","script":null}"#,
    r#"{"script":"echo hi\n"}"#,
    r#"{"script":"a\u0000b"}"#,
    r#"{"function":"module:name","args":[null,{"a":[1]}],"kwargs":{"k":null},"runner":"python"}"#,
    r#"{"function":"f","runner":"python","module_path":["src","/lib"]}"#,
    r#"{"script":"x","runner":"podman:docker.io/library/alpine:3"}"#,
    r#"{"command":"x","kwargs":{},"module_path":[],"runner":null}"#,
    r#"{"command":"x","job_id":"a-B_9"}"#,
    r#"{"command":"x","input":{"any":[1,2.5,null]}}"#,
    r#"{"command":"x","stdin":"text"}"#,
    r#"{"command":"x","stdin_base64":"AAE="}"#,
    r#"{"command":"x","stdin_base64":""}"#,
    r#"{"command":"x","input":null,"stdin":"a","stdin_base64":null}"#,
    r#"{"command":"x","env":{"A":"","B_C":"ö=1"},"secrets":["TOKEN","_t1"]}"#,
    r#"{"command":"x","cwd":"/tmp","timeout":90}"#,
    r#"{"command":"x","timeout":"250ms"}"#,
    r#"{"command":"x","timeout":"1h 30m"}"#,
    r#"{"command":"x","timeout":0.25}"#,
    r#"{"command":"x","limits":{}}"#,
    r#"{"command":"x","limits":{"memory":"256M","address_space":"4G","cpu_time":10,"cpus":0.5,"processes":64,"open_files":64,"file_size":"1G","output":1048576,"nice":-20}}"#,
    r#"{"command":"x","limits":{"memory":null,"nice":null}}"#,
    r#"{"command":"x","max_retries":10000,"retry_delay":"5s","retry_strategy":"exponential","retry_max_delay":60,"retry_jitter":false}"#,
    r#"{"command":"x","retry_delay":[1,"2s",0.5],"retry_on":[1,75],"fatal_on":[2],"success_on":[3,255]}"#,
    r#"{"command":"x","depends_on":["a",{"job":"b","on":"failure"}],"dependency_timeout":"24h"}"#,
    r#"{"command":"x","expires_at":"2026-12-24T18:00:00+01:00","enqueue_time":"2026-12-24T17:00:00Z"}"#,
    r#"{"command":"x","result_ttl":0,"concurrency_key":"k","concurrency_max":1,"overlap_ok":true}"#,
    r#"{"command":"x","labels":{"a":"b"},"requires":{"gpu":"yes"},"meta":[1,"two"]}"#,
    r#"{"command":"x","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}"#,
    r#"{"command":"x","rerun_of":"a-B_9"}"#,
    r#"{"command":"x","schedule_id":"nightly","scheduled_for":"2026-12-24T17:00:00Z"}"#,
    r#"{"command":"x","colour":"red"}"#,
    r#"{"command":"x","must_understand":["timeout","limits.memory"]}"#,
    r#"{"command":"x","args":[12345678901234567890123,1.50]}"#,
    r#"{"command":"x","retry_on":[75.0],"fatal_on":[1e0],"limits":{"memory":1e6}}"#,
    r#"{"version":1,"command":"x","unique":null,"must_understand":null}"#,
    r#"{"command":"x","args":null,"kwargs":null,"input":null,"env":null,"secrets":null,"limits":null}"#,
    r#"{"command":"x","fatal_on":null,"success_on":null,"depends_on":null,"labels":null,"requires":null}"#,
    r#"{"command":"x","depends_on":[{"job":"a","on":null,"as":null}],"inputs":null}"#,
    r#"{"command":"x","depends_on":[{"job":"a","as":"fetch"},"b"],"inputs":"all"}"#,
    r#"{"command":"x","depends_on":["a"],"inputs":"stdin","stdin":null}"#,
    r#"{"command":"x","depends_on":[{"job":"a","on":null}]}"#,
    r#"{"command":"./sum.sh","files":[{"path":"data/..in.csv","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","bytes":1},{"path":"sum.sh","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","bytes":9.0,"executable":true,"later":1}],"artifacts":["out/*.csv","**/log"]}"#,
    r#"{"script_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","files":null,"artifacts":null}"#,
];

/// Envelopes that schema and parser refuse.
const REFUSED: &[&str] = &[
    "{}",
    "[]",
    "null",
    r#""echo""#,
    r#"{"args":[]}"#,
    r#"{"command":null}"#,
    r#"{"command":""}"#,
    r#"{"command":7}"#,
    r#"{"command":"a\u0000b"}"#,
    r#"{"command":"x","script":"y"}"#,
    r#"{"command":"x","function":"m:f"}"#,
    r#"{"function":"m:f"}"#,
    r#"{"command":"x","runner":"python"}"#,
    r#"{"script":"x","runner":"Python"}"#,
    r#"{"script":"x","runner":"podman:"}"#,
    r#"{"script":"x","module_path":["src"]}"#,
    r#"{"function":"m:f","runner":"python","module_path":["a:b"]}"#,
    r#"{"function":"m:f","runner":"python","module_path":[""]}"#,
    r#"{"script":""}"#,
    r#"{"version":0,"command":"x"}"#,
    r#"{"version":2,"command":"x"}"#,
    r#"{"version":"1","command":"x"}"#,
    r#"{"command":"x","args":"a"}"#,
    r#"{"command":"x","args":[null]}"#,
    r#"{"command":"x","args":[["a"]]}"#,
    r#"{"command":"x","args":["a\u0000"]}"#,
    r#"{"command":"x","kwargs":{"a":1}}"#,
    r#"{"command":"x","job_id":"../x"}"#,
    r#"{"command":"x","job_id":""}"#,
    r#"{"command":"x","job_id":"12345678901234567890123456789012345678901234567890123456789012345"}"#,
    r#"{"command":"x","rerun_of":"a.b"}"#,
    r#"{"command":"x","stdin":"a","input":1}"#,
    r#"{"command":"x","stdin":"a","stdin_base64":"AA=="}"#,
    r#"{"command":"x","input":1,"stdin_base64":"AA=="}"#,
    r#"{"command":"x","stdin_base64":"*"}"#,
    r#"{"command":"x","stdin_base64":"AAA"}"#,
    r#"{"command":"x","env":{"A":1}}"#,
    r#"{"command":"x","env":{"":"a"}}"#,
    r#"{"command":"x","env":{"A=B":"a"}}"#,
    r#"{"command":"x","env":{"NAQ_X":"a"}}"#,
    r#"{"command":"x","env":{"A":"\u0000"}}"#,
    r#"{"command":"x","secrets":["a-b"]}"#,
    r#"{"command":"x","secrets":["1a"]}"#,
    r#"{"command":"x","cwd":""}"#,
    r#"{"command":"x","timeout":0}"#,
    r#"{"command":"x","timeout":"0s"}"#,
    r#"{"command":"x","timeout":-1}"#,
    r#"{"command":"x","timeout":1e20}"#,
    r#"{"command":"x","timeout":"5 parsecs"}"#,
    r#"{"command":"x","timeout":[1]}"#,
    r#"{"command":"x","limits":[]}"#,
    r#"{"command":"x","limits":{"memory":0}}"#,
    r#"{"command":"x","limits":{"memory":"lots"}}"#,
    r#"{"command":"x","limits":{"memory":-1}}"#,
    r#"{"command":"x","limits":{"cpu_time":0}}"#,
    r#"{"command":"x","limits":{"cpus":0}}"#,
    r#"{"command":"x","limits":{"processes":0}}"#,
    r#"{"command":"x","limits":{"open_files":3}}"#,
    r#"{"command":"x","limits":{"address_space":0}}"#,
    r#"{"command":"x","limits":{"output":67108865}}"#,
    r#"{"command":"x","limits":{"nice":20}}"#,
    r#"{"command":"x","max_retries":-1}"#,
    r#"{"command":"x","max_retries":10001}"#,
    r#"{"command":"x","retry_delay":[]}"#,
    r#"{"command":"x","retry_strategy":"quadratic"}"#,
    r#"{"command":"x","retry_jitter":1}"#,
    r#"{"command":"x","retry_on":[256]}"#,
    r#"{"command":"x","fatal_on":[-1]}"#,
    r#"{"command":"x","depends_on":"a"}"#,
    r#"{"command":"x","depends_on":[{"job":"a","as":"../x"}]}"#,
    r#"{"command":"x","inputs":"some"}"#,
    r#"{"command":"x","depends_on":["a"],"inputs":"stdin","stdin":"x"}"#,
    r#"{"command":"x","inputs":"stdin","input":1}"#,
    r#"{"command":"x","expires_at":"soon"}"#,
    r#"{"command":"x","result_ttl":"forever"}"#,
    r#"{"command":"x","concurrency_max":0}"#,
    r#"{"command":"x","labels":{"a":1}}"#,
    r#"{"command":"x","requires":["gpu"]}"#,
    r#"{"command":"x","traceparent":""}"#,
    r#"{"command":"x","must_understand":"timeout"}"#,
    r#"{"command":"x","must_understand":["colour"]}"#,
    r#"{"command":"x","timeout":"1.2.3s"}"#,
    r#"{"command":"x","stdin_base64":"AB=="}"#,
    r#"{"command":"x","depends_on":["a","a"]}"#,
    r#"{"command":"x","concurrency_max":4294967296}"#,
    r#"{"command":"x","unique":"a"}"#,
    r#"{"command":"x","rate":"10/m"}"#,
    r#"{"command":"x","priority":1}"#,
    r#"{"command":"x","share":"a"}"#,
    r#"{"command":"x","batch":{}}"#,
    r#"{"command":"x","need":{"gpu":1}}"#,
    r#"{"command":"x","approval":true}"#,
    r#"{"command":"x","on_success":{}}"#,
    r#"{"command":"x","on_failure":{}}"#,
    r#"{"command":"x","on_end":{}}"#,
    r#"{"command":"x","record":"none"}"#,
    r#"{"command":"x","limits":{"gpus":2}}"#,
    r#"{"command":"x","max_retries":1.5}"#,
    r#"{"command":"x","env":{"A":null}}"#,
    r#"{"command":"x","script_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}"#,
    r#"{"script_digest":"sha256:00"}"#,
    r#"{"script_digest":"sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#,
    r#"{"command":"x","files":[{"path":"/etc/passwd","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","bytes":1}]}"#,
    r#"{"command":"x","files":[{"path":"../a","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","bytes":1}]}"#,
    r#"{"command":"x","files":[{"path":"a/../../b","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","bytes":1}]}"#,
    r#"{"command":"x","files":[{"path":"a/..","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","bytes":1}]}"#,
    r#"{"command":"x","files":[{"path":"./a","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","bytes":1}]}"#,
    r#"{"command":"x","files":[{"path":"a//b","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","bytes":1}]}"#,
    r#"{"command":"x","files":[{"path":"a/","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","bytes":1}]}"#,
    r#"{"command":"x","files":[{"path":"","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","bytes":1}]}"#,
    r#"{"command":"x","files":[{"path":"a\u0000b","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","bytes":1}]}"#,
    r#"{"command":"x","files":[{"path":"a","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","bytes":2147483648}]}"#,
    r#"{"command":"x","files":[{"path":"a","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","bytes":-1}]}"#,
    r#"{"command":"x","files":["a"]}"#,
    r#"{"command":"x","files":[{"path":"a","bytes":1}]}"#,
    r#"{"command":"x","files":[{"path":"a","digest":"md5:0","bytes":1}]}"#,
    r#"{"command":"x","artifacts":["/etc/*"]}"#,
    r#"{"command":"x","artifacts":["../*"]}"#,
    r#"{"command":"x","artifacts":[""]}"#,
    r#"{"command":"x","artifacts":[null]}"#,
    r#"{"command":"x","artifacts":"a"}"#,
];

#[test]
fn schema_and_parser_agree() {
    let validator = validator("envelope");
    for text in ACCEPTED {
        if let Err(invalid) = Envelope::parse(text.as_bytes()) {
            panic!("{text}: {invalid}");
        }
        let value: Value = serde_json::from_str(text).unwrap();
        if let Err(error) = validator.validate(&value) {
            panic!("{text}: {error} at {}", error.instance_path);
        }
    }
    for text in REFUSED {
        assert!(Envelope::parse(text.as_bytes()).is_err(), "parsed: {text}");
        let value: Value = serde_json::from_str(text).unwrap();
        assert!(!validator.is_valid(&value), "the schema takes {text}");
    }
}

/// Every property in the schema of the envelope occurs in a valid case above.
#[test]
fn every_envelope_field_in_the_schema_is_tested() {
    let schema: Value = serde_json::from_str(&schema("envelope").unwrap()).unwrap();
    let fields =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let limits = fields(&schema["$defs"]["ResourceLimits"]["properties"]);
    assert!(limits.len() >= 8, "{limits:?}");
    for field in fields(&schema["properties"]).iter().chain(&limits) {
        let quoted = format!("\"{field}\":");
        assert!(
            ACCEPTED.iter().any(|text| text.contains(&quoted)),
            "no accepted case has {field}"
        );
    }
}

/// Another implementation is written from `docs/protocol.md`, so it must name every field.
#[test]
fn protocol_page_names_every_field() {
    let page = Path::new(crate::ROOT).join("docs/protocol.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut fields = 0;
    for name in ["envelope", "record", "schedule"] {
        let schema: Value = serde_json::from_str(&schema(name).unwrap()).unwrap();
        let types = schema["$defs"].as_object().unwrap().values();
        for part in types.chain([&schema]) {
            let Some(properties) = part["properties"].as_object() else {
                continue;
            };
            for field in properties.keys() {
                fields += 1;
                assert!(
                    page.contains(&format!("`{field}`")) || page.contains(&format!("\"{field}\"")),
                    "docs/protocol.md does not name `{field}` of the {name}"
                );
            }
        }
    }
    assert!(fields > 60, "only {fields} fields were looked for");
}

/// The envelope that `naq enqueue --dry-run` prints for these options (two words each) and a command.
fn enqueue_dry(options: &str, rest: &[&str]) -> Value {
    let output = assert_cmd::Command::new(crate::harness::nats::naq())
        .args(["enqueue", "--dry-run"])
        .args(options.split_whitespace())
        .args(rest)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_envelope_field_has_an_option_and_the_result_is_valid() {
    let options = "--id j --env A=b --secret S --cwd / --timeout 5m --label k=v --require gpu=yes \
        --meta {} --traceparent 00-a-b-01 --concurrency-key k --concurrency-max 2 --overlap-ok \
        --expires-at 2030-01-01T00:00:00Z --result-ttl 1h --memory 64M --address-space 4G --cpu-time 1s --cpus 1 \
        --processes 9 --open-files 9 --file-size 1M --output 1K --nice 1 --max-retries 2 \
        --retry-delay 1s,2s --retry-strategy linear --retry-max-delay 1m --no-retry-jitter \
        --retry-on 3 --fatal-on 4 --success-on 5 --depends-on other,as=other --inputs all --dependency-timeout 1h";
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/main.rs");
    let files = ["--upload", script, "--artifact", "out/*"];
    let input = [&files[..], &["--input", "[1]", "--", "echo", "hi"]].concat();
    let call = "--call m:f --runner python --module-path src --kwargs";
    let written = [
        enqueue_dry(options, &input),
        enqueue_dry("", &["--script", script, "--stdin", script]),
        enqueue_dry(call, &["{\"k\":null}", "--", "null"]),
    ];
    let validator = validator("envelope");
    for value in &written {
        if let Err(error) = validator.validate(value) {
            panic!("{value}: {error}");
        }
    }
    // Fields without an option: those that a schedule or a rerun sets, the version, and bytes that no
    // text option can express.
    let others = [
        "version",
        "enqueue_time",
        "schedule_id",
        "scheduled_for",
        "rerun_of",
        "stdin_base64",
        // of a script that is too long for a message
        "script_digest",
    ];
    let schema = checked_in("envelope");
    for field in schema["properties"].as_object().unwrap().keys() {
        let has_option = written.iter().any(|value| value.get(field).is_some());
        assert_ne!(has_option, others.contains(&field.as_str()), "{field}");
    }
    let limits = schema["$defs"]["ResourceLimits"]["properties"]
        .as_object()
        .unwrap();
    for limit in limits.keys() {
        assert!(written[0]["limits"].get(limit).is_some(), "{limit}");
    }
}

#[test]
fn records_and_heartbeats_match_their_schemas() {
    let record = serde_json::json!({
        "job_id": "j", "queue": "q", "state": "failed", "reason": "exit", "attempt": 2,
        "worker_id": "w", "enqueue_time": "2026-12-24T17:00:00.000Z", "started_at": "2026-12-24T17:00:01.000Z",
        "finished_at": "2026-12-24T17:00:02.000Z", "exit_code": 3,
        "stdout": {"text": "head", "tail": "tail", "bytes": 9_000_000, "truncated": true},
        "stderr": {"base64": "AP8=", "bytes": 2, "object": "o"},
        "progress": {"percent": 40.0, "message": "resizing"},
        "usage": {"max_rss_bytes": 1, "cpu_user_ms": 2, "cpu_system_ms": 3, "wall_ms": 4},
        "error": "exit code 3", "warnings": ["odd"], "labels": {"a": "b"},
        "envelope": {"command": "x"}, "envelope_object": "e"
    });
    let worker = serde_json::json!({
        "worker_id": "w", "name": "n", "hostname": "h", "pid": 1, "version": "0.1.0",
        "queues": ["q"], "concurrency": 2, "state": "busy", "running": 1, "jobs": ["j"],
        "jobs_ended": 5, "containment": "cgroup", "labels": {"a": "b"},
        "started_at": "2026-12-24T17:00:00.000Z", "last_seen": "2026-12-24T17:00:05.000Z"
    });
    let (records, workers) = (validator("record"), validator("worker"));
    let read: Record = serde_json::from_value(record.clone()).unwrap();
    assert!(records.is_valid(&record));
    assert!(records.is_valid(&serde_json::to_value(&read).unwrap()));
    let read: WorkerInfo = serde_json::from_value(worker.clone()).unwrap();
    assert!(workers.is_valid(&worker));
    assert!(workers.is_valid(&serde_json::to_value(&read).unwrap()));
    for (field, wrong) in [("state", "asleep"), ("job_id", "a.b"), ("reason", "mood")] {
        let mut record = record.clone();
        record[field] = wrong.into();
        assert!(!records.is_valid(&record), "{field}: {wrong}");
        // A state or reason of a later version is read and shown; an invalid id never is.
        assert_eq!(
            serde_json::from_value::<Record>(record).is_ok(),
            field != "job_id"
        );
    }
    let mut silent = worker.clone();
    silent.as_object_mut().unwrap().remove("last_seen");
    assert!(!workers.is_valid(&silent));
}
