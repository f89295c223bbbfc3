//! The contract of `--json` (`docs/cli.md`): every verb prints one object a line, each valid by a
//! schema under `schemas/`, with no field that the schema does not name and no `null`; an error is
//! one line on standard error.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::{BTreeSet, HashMap};

use naq_protocol::JobId;
use serde_json::{Value, json};

use crate::harness::naq::{CliOutput, Naq, eventually};
use crate::harness::nats::TestServer;

/// Verbs whose output is no list of objects: they print nothing of their own, a script or a
/// document. What they report as an error is checked for every verb.
const WITHOUT_OBJECTS: &[&str] = &[
    "worker",
    "dashboard",
    "dev",
    "progress",
    "checkpoint",
    "schema",
    "completions",
    "man",
    "help",
];

/// Verbs that print objects, and are checked elsewhere because they start servers or take long.
const CHECKED_ELSEWHERE: &[&str] = &["server", "bench"];

/// The objects of one command, checked.
struct Contract<'n> {
    naq: &'n Naq,
    schemas: HashMap<&'static str, Value>,
    verbs: BTreeSet<String>,
}

impl<'n> Contract<'n> {
    fn new(naq: &'n Naq) -> Contract<'n> {
        let read = |name| {
            let file = format!("{}/schemas/{name}.v1.json", crate::ROOT);
            (
                name,
                serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap(),
            )
        };
        Contract {
            naq,
            schemas: [
                "output",
                "record",
                "schedule",
                "worker",
                "scheduler",
                "envelope",
            ]
            .map(read)
            .into(),
            verbs: BTreeSet::new(),
        }
    }

    /// Runs a verb, which succeeds and prints objects of one kind: a definition of
    /// `output.v1.json`, or the name of another schema.
    fn prints(&mut self, kind: &str, args: &[&str]) -> Vec<Value> {
        let done = self.run(args).succeeds();
        self.objects(kind, &done, args)
    }

    fn run(&mut self, args: &[&str]) -> CliOutput {
        self.verbs.insert(args[0].to_owned());
        // before the arguments, since those after `--` belong to the job
        self.naq.cli([&["--json"], args].concat()).run()
    }

    fn objects(&self, kind: &str, done: &CliOutput, args: &[&str]) -> Vec<Value> {
        let objects: Vec<Value> = done
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{args:?}: {line}")))
            .collect();
        assert!(!objects.is_empty(), "{args:?} printed nothing: {done:#?}");
        for object in &objects {
            self.check(kind, object, args);
        }
        objects
    }

    fn check(&self, kind: &str, object: &Value, args: &[&str]) {
        let schema = match self.schemas.get(kind) {
            Some(schema) => schema.clone(),
            None => json!({
                "$ref": format!("#/$defs/{kind}"),
                "$defs": self.schemas["output"]["$defs"],
            }),
        };
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)
            .unwrap();
        if let Err(error) = validator.validate(object) {
            panic!("{args:?} is no {kind}: {error}: {object:#}");
        }
        let mut known = BTreeSet::new();
        collect_fields(&schema, &schema, &mut known);
        for field in object.as_object().unwrap().keys() {
            // a measurement's figures are not listed
            assert!(
                known.contains(field),
                "{args:?}: {kind} has no field {field}"
            );
        }
        assert!(!has_null(object), "{args:?}: null in {object:#}");
    }

    /// Runs a verb that fails, and checks the error's line.
    fn fails(&mut self, exit: i32, code: &str, args: &[&str]) {
        let done = self.run(args).exits(exit);
        let lines: Vec<&str> = done.stderr.lines().collect();
        let [line] = lines[..] else {
            panic!("{args:?}: not one line: {done:#?}");
        };
        let object = serde_json::from_str(line).unwrap_or_else(|_| panic!("{args:?}: {line}"));
        self.check("error", &object, args);
        assert_eq!(object["error"]["code"], code, "{args:?}");
    }
}

/// The names of an object's fields by its schema.
fn collect_fields(schema: &Value, root: &Value, known: &mut BTreeSet<String>) {
    if let Some(properties) = schema["properties"].as_object() {
        known.extend(properties.keys().cloned());
    }
    for part in ["anyOf", "allOf", "oneOf"] {
        for schema in schema[part].as_array().into_iter().flatten() {
            collect_fields(schema, root, known);
        }
    }
    if let Some(reference) = schema["$ref"].as_str() {
        let place = reference.strip_prefix('#').unwrap();
        collect_fields(root.pointer(place).unwrap(), root, known);
    }
}

/// Whether a field is null. What a user has written is left as it is.
fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            !matches!(name.as_str(), "envelope" | "result") && has_null(value)
        }),
        _ => false,
    }
}

#[test]
fn json_output_of_every_verb_matches_its_schema() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let mut contract = Contract::new(&naq);
    check_jobs(&naq, &mut contract);
    check_queues(&mut contract);
    check_schedules(&naq, &mut contract);
    contract.prints("version", &["version"]);
    contract.prints("health", &["health"]);
    contract.prints("runner", &["runner"]);
    contract.prints("setting", &["config"]);
    contract.prints("nats_config", &["nats-config"]);
    contract.prints("nats_config", &["nats-config", "--out", "fleet"]);
    let check = ["nats-config", "--check", "--role", "operator"];
    let checked = contract.run(&check).exits(1);
    contract.objects("permission_check", &checked, &check);
    contract.prints("cron_time", &["cron", "next", "@daily"]);
    contract.prints("cron_explanation", &["cron", "explain", "@daily"]);

    let help = naq.cli(["--help"]).run().succeeds().stdout;
    let commands = help.split("Commands:").nth(1).unwrap();
    let commands = commands.split("\n\n").next().unwrap();
    for line in commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
    {
        let verb = line.split_whitespace().next().unwrap();
        let is_exempt = WITHOUT_OBJECTS.contains(&verb) || CHECKED_ELSEWHERE.contains(&verb);
        assert!(
            is_exempt || contract.verbs.contains(verb),
            "no check of naq {verb} --json"
        );
        contract.fails(2, "usage", &[verb, "--no-such-option"]);
    }
}

fn check_jobs(naq: &Naq, contract: &mut Contract) {
    contract.prints("record", &["run", "--", "echo", "hello"]);
    let _worker = naq.worker(&["build"]).concurrency(2).spawn();
    contract.prints(
        "enqueued",
        &[
            "enqueue", "-q", "build", "--id", "good", "-l", "team=a", "--", "echo", "hello",
        ],
    );
    contract.prints("record", &["wait", "good"]);
    contract.prints("record", &["status", "good"]);
    contract.prints("record", &["result", "good"]);
    contract.prints("log_chunk", &["logs", "good"]);
    let files = ["--artifact", "out", "--", "touch", "out"];
    let kept = ["enqueue", "-q", "build", "--id", "kept", "--wait"];
    contract.prints("record", &[&kept[..], &files].concat());
    contract.prints("artifact", &["artifacts", "kept"]);
    contract.prints("ttl", &["job", "ttl", "good", "1h"]);
    contract.prints(
        "results_purged",
        &["purge", "--results", "--older-than", "1h", "--yes"],
    );
    let bad = [
        "enqueue", "-q", "build", "--id", "bad", "--wait", "--", "sh", "-c", "exit 3",
    ];
    let done = contract.run(&bad).exits(3);
    contract.objects("record", &done, &bad);
    contract.prints("rerun", &["retry", "good"]);
    contract.prints("envelope", &["enqueue", "--dry-run", "--", "true"]);

    let flow =
        r#"{"jobs":{"one":{"command":"true"},"two":{"command":"true","depends_on":["one"]}}}"#;
    let file = naq.file("flow.json", flow);
    let file = file.to_str().unwrap();
    contract.prints("checked_file", &["enqueue", "--dry-run", "-f", file]);
    let flow = ["enqueue", "-q", "build", "--id", "night", "-f", file];
    contract.prints("enqueued", &flow);
    naq.wait_ended(&JobId::new("night-two").unwrap());
    contract.prints("tree_node", &["status", "--tree", "night"]);
    let lines = naq.file(
        "jobs.ndjson",
        "{\"command\":\"true\"}\n{\"command\":\"true\"}\n",
    );
    let lines = lines.to_str().unwrap();
    let listed = contract.prints("enqueued", &["enqueue", "-q", "build", "-f", lines]);
    assert_eq!(listed.len(), 2);
    let waited = ["enqueue", "-q", "build", "--wait", "-f", lines];
    assert_eq!(contract.prints("record", &waited).len(), 2);

    contract.prints("job", &["jobs"]);
    contract.prints("event", &["events"]);
    contract.prints("dead_letter", &["failed", "list"]);
    contract.prints("dead_letter", &["failed", "show", "bad"]);
    contract.prints("failure_group", &["failed", "groups"]);
    contract.prints("why", &["why", "bad"]);
    contract.prints("rerun", &["failed", "retry", "bad"]);
    // a retry takes the dead letter away, so the next failure is discarded
    let worse = [
        "enqueue", "-q", "build", "--id", "worse", "--wait", "--", "false",
    ];
    contract.run(&worse).exits(1);
    contract.prints("discarded", &["failed", "discard", "worse", "--yes"]);
    contract.prints(
        "enqueued",
        &["enqueue", "-q", "idle", "--id", "never", "--", "true"],
    );
    contract.prints("why", &["why", "never"]);
    contract.prints("cancelled", &["cancel", "never"]);
    contract.prints("worker", &["workers"]);
    let idle = naq.worker(&["leaving"]).arg("--name=leaving").spawn();
    eventually("the worker is listed", || {
        naq.cli(["workers", "leaving"]).run().code == Some(0)
    });
    contract.prints("worker_drain", &["workers", "drain", "leaving"]);
    assert!(idle.wait_exit().success());
    let scheduler = naq.cli(["scheduler"]).follow();
    eventually("the scheduler is listed", || {
        let listed = naq.cli(["scheduler", "list", "--json"]).run();
        !listed.stdout.is_empty()
    });
    contract.prints("scheduler", &["scheduler", "list"]);
    assert!(scheduler.stop().success());
    let page = contract.run(&["jobs", "--limit", "1"]).succeeds();
    let note: Value = serde_json::from_str(&page.stderr).unwrap();
    contract.check("note", &note, &["jobs", "--limit", "1"]);
    assert!(note["note"]["next"].is_string(), "{note}");

    contract.fails(4, "not_found", &["status", "nobody"]);
    contract.fails(4, "not_found", &["why", "nobody"]);
    contract.fails(2, "usage", &["failed", "groups", "--group", "x"]);
    contract.fails(
        5,
        "conflict",
        &["enqueue", "-q", "build", "--id", "good", "--", "false"],
    );
    contract.fails(2, "usage", &["failed", "discard"]);
    let empty = naq.file("empty.json", "{}");
    contract.fails(6, "refused", &["enqueue", "-f", empty.to_str().unwrap()]);
    contract.prints(
        "enqueued",
        &["enqueue", "-q", "idle", "--id", "late", "--", "true"],
    );
    contract.fails(124, "timed_out", &["wait", "late", "--timeout", "100ms"]);
    let nowhere = ["--nats-url", "nats://127.0.0.1:1", "jobs"];
    contract.fails(3, "no_nats", &nowhere);
}

fn check_queues(contract: &mut Contract) {
    for change in [
        &["queue", "add", "extra"][..],
        &["queue", "set", "extra", "--max-running", "2"],
        &["queue", "pause", "extra"],
        &["queue", "resume", "extra"],
        &["queue", "purge", "extra", "--yes"],
    ] {
        contract.prints("queue_change", change);
    }
    contract.prints("queue", &["queues"]);
    contract.prints("layout", &["server", "check"]);
    contract.prints("queue", &["queue", "list"]);
    contract.prints("queue_change", &["queue", "remove", "extra", "--yes"]);
    assert!(
        contract
            .prints("audit_entry", &["audit", "--action", "queue"])
            .len()
            >= 4
    );
    contract.fails(2, "usage", &["audit", "--action", "queue.jump"]);
}

fn check_schedules(naq: &Naq, contract: &mut Contract) {
    let add = ["schedule", "--name", "beat", "--every", "1h", "-q", "build"];
    contract.prints(
        "schedule",
        &[&add[..], &["--dry-run", "--", "true"]].concat(),
    );
    contract.prints("added_schedule", &[&add[..], &["--", "true"]].concat());
    let late = [
        "enqueue", "-q", "build", "--id", "delayed", "--in", "1h", "--", "true",
    ];
    contract.prints("enqueued", &late);
    for args in [&["schedules"][..], &["schedule", "list", "--detailed"]] {
        assert_eq!(contract.prints("schedule_entry", args).len(), 2);
    }
    contract.prints("schedule_entry", &["schedule", "show", "beat"]);
    let yearly = [
        "schedule",
        "--name",
        "yearly",
        "--cron",
        "0 0 1 1 *",
        "-q",
        "build",
        "--",
        "true",
    ];
    contract.prints("added_schedule", &yearly);
    let backfill = [
        "schedule",
        "backfill",
        "yearly",
        "--from",
        "2024-01-01T00:00:00Z",
        "--to",
        "2025-01-01T00:00:00Z",
    ];
    contract.prints("backfill_run", &backfill);
    contract.prints("schedule_change", &["schedule", "delete", "yearly"]);
    for change in [
        &["schedule", "pause", "beat"][..],
        &["schedule", "resume", "beat"],
        &[
            "schedule",
            "update",
            "beat",
            "--next-run",
            "2099-01-01 00:00",
        ],
        &["schedule", "trigger", "beat"],
        &["schedule", "delete", "beat"],
        &["job", "pause", "delayed"],
        &["job", "resume", "delayed"],
        &["job", "reschedule", "delayed", "2099-01-01 00:00"],
        &["job", "trigger", "delayed"],
    ] {
        contract.prints("schedule_change", change);
    }
    let file = naq.file(
        "set.toml",
        "[schedule.a]\nevery = '1h'\ncommand = ['true']\n",
    );
    let file = file.to_str().unwrap();
    contract.prints("schedule_change", &["schedule", "apply", file]);
    let odd = naq.file("odd.toml", "[schedule.a]\nevery = 'soon'\n");
    contract.fails(2, "usage", &["schedule", "apply", odd.to_str().unwrap()]);
}
