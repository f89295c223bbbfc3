//! Fan-out and fan-in: a job for each line, and one that gets all of their outcomes.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use naq_protocol::Reason;
use serde_json::Value;

use crate::harness::naq::{Naq, id, text};
use crate::harness::nats::TestServer;

fn lines_of(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn each_line_is_a_job_and_a_join_gets_all_outcomes_in_order() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let lines = naq.file("words", "one\n\ntwo words\nbad\n");
    let lines = lines.to_str().unwrap();
    let map = [
        "enqueue",
        "--map",
        lines,
        "--id",
        "m",
        "--",
        "sh",
        "-c",
        "echo \"<$1>\"; [ \"$1\" != bad ]",
        "sh",
        "{}",
    ];
    let done = naq.cli(map).run().succeeds();
    assert_eq!(done.stdout, "m-0\nm-1\nm-2\n");
    let join = naq.enqueue(&["--join", "m=finished", "--", "cat"]);
    // only success is what a dependency requires unless the user says otherwise
    let strict = naq.enqueue(&["--join", "m", "--", "cat"]);
    let _worker = naq.worker(&["default"]).concurrency(2).spawn();
    let record = naq.wait_ended(&join);
    let received = lines_of(&text(record.stdout.as_ref()));
    let of = |field: &str| -> Vec<&str> {
        received
            .iter()
            .map(|line| line[field].as_str().unwrap())
            .collect()
    };
    assert_eq!(of("job_id"), ["m-0", "m-1", "m-2"]);
    assert_eq!(of("stdout"), ["<one>\n", "<two words>\n", "<bad>\n"]);
    assert_eq!(of("state"), ["succeeded", "succeeded", "failed"]);
    assert_eq!(naq.wait_ended(&strict).reason(), Some(Reason::Dependency));
    // again under the same name: the same jobs
    assert_eq!(naq.cli(map).run().succeeds().stdout, done.stdout);
    assert_eq!(naq.wait_ended(&id("m-0")).labels["flow"], "m");
    naq.cli(["status", "--tree", "m"])
        .run()
        .succeeds()
        .expect_stdout("m-2  failed (exit 1)");
}

#[test]
fn lines_without_a_placeholder_are_standard_input() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let rows = "{\"n\": 1}\n{\"n\": 2}\n";
    let dry = naq
        .cli([
            "enqueue",
            "--map",
            "-",
            "--id",
            "m",
            "--dry-run",
            "--",
            "cat",
        ])
        .stdin(rows)
        .run()
        .succeeds();
    let envelopes = lines_of(&dry.stdout);
    assert_eq!(envelopes[1]["stdin"], "{\"n\": 2}\n");
    assert_eq!(envelopes[1]["job_id"], "m-1");
    let _worker = naq.worker(&["default"]).spawn();
    let waited = naq
        .cli(["enqueue", "--map", "-", "--wait", "--json", "--", "cat"])
        .stdin(rows)
        .run()
        .succeeds();
    let mut outputs: Vec<Value> = lines_of(&waited.stdout)
        .iter()
        .map(|record| record["stdout"]["text"].clone())
        .collect();
    outputs.sort_by_key(Value::to_string);
    assert_eq!(outputs, ["{\"n\": 1}\n", "{\"n\": 2}\n"]);
    let listed = naq
        .cli(["enqueue", "--map", "-", "--json", "--id", "j", "--", "cat"])
        .stdin("x\n")
        .run()
        .succeeds();
    assert_eq!(lines_of(&listed.stdout)[0]["flow"], "j");
}

#[test]
fn what_cannot_be_mapped_or_joined_is_refused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let refused = |args: &[&str], stdin: &str, code: i32, words: &str| {
        let args = ["enqueue"].into_iter().chain(args.iter().copied());
        naq.cli(args)
            .stdin(stdin)
            .run()
            .exits(code)
            .expect_stderr(&[words]);
    };
    refused(&["--map", "-", "--", "cat"], "\n", 6, "no line");
    refused(
        &["--map", "-", "--stdin", "-", "--", "cat"],
        "x\n",
        2,
        "standard input",
    );
    refused(
        &["--map", "-", "--file", "x"],
        "x\n",
        2,
        "cannot be used with",
    );
    refused(
        &["--join", "nothing", "--", "cat"],
        "",
        4,
        "no flow `nothing`",
    );
    refused(&["--join", "a=maybe", "--", "cat"], "", 2, "--join");
    naq.cli(["enqueue", "--map", "-", "--id", "m", "--quiet", "--", "cat"])
        .stdin("a\n")
        .run()
        .succeeds();
    refused(
        &["--join", "m", "--stdin", "/dev/null", "--", "cat"],
        "",
        6,
        "inputs",
    );
}

#[test]
fn as_many_jobs_as_one_may_depend_on_can_be_joined() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let map = |flow: &str, jobs: usize| {
        let lines: String = (0..jobs).map(|number| format!("{number}\n")).collect();
        let map = [
            "enqueue", "--map", "-", "--id", flow, "--quiet", "--", "echo", "{}",
        ];
        naq.cli(map).stdin(lines).run().succeeds()
    };
    map("most", 10_000);
    let join = naq.cli(["enqueue", "--join", "most", "--dry-run", "--", "cat"]);
    let envelope: Value = serde_json::from_str(&join.run().succeeds().stdout).unwrap();
    assert_eq!(envelope["depends_on"].as_array().unwrap().len(), 10_000);
    map("more", 10_001).expect_stderr(&["more than 10000 jobs"]);
    let join = naq.cli(["enqueue", "--join", "more", "--", "cat"]);
    join.run().exits(4).expect_stderr(&["at most 10000"]);
}
