//! A job's output where a part of it is missing: every verb marks the place and says how much.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::{Duration, Instant};

use crate::harness::naq::{CliOutput, Naq};
use crate::harness::nats::{TestOptions, TestServer};

/// Writes 200,000 bytes to standard output and 100,000 to standard error; a job keeps 65,536 of each.
const LONG: &str = "yes out | head -c 200000; yes err | head -c 100000 >&2";

const GAP: &str = "\n[naq: 134464 bytes missing here]\n";

/// Asserts that both streams are marked and that notes count the missing bytes.
#[track_caller]
fn expect_marked(done: CliOutput) {
    let (head, tail) = done.stdout.split_once(GAP).expect("a mark");
    assert!(head.starts_with("out\nout\n") && tail.ends_with("out\nout\n"));
    // the mark begins after the newline that ends the head
    assert_eq!(head.len() + tail.len(), 65_535);
    done.expect_stderr(&[
        "\n[naq: 34464 bytes missing here]\n",
        "naq: 134464 bytes of the job's standard output not kept",
        "--output 196K",
        "naq: 34464 bytes of the job's standard error not kept",
        "--output 98K",
    ]);
}

#[test]
fn every_verb_marks_where_output_is_missing() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let enqueue = ["enqueue", "-q", "build", "--wait", "--id", "long", "--"];
    let done = naq.cli([&enqueue[..], &["sh", "-c", LONG]].concat()).run();
    expect_marked(done.succeeds());
    for args in [&["logs", "long"][..], &["retry", "--wait", "long"]] {
        expect_marked(naq.cli(args.iter().copied()).run().succeeds());
    }
    // `result` prints one stream
    let result = naq.cli(["result", "long"]).run().succeeds();
    assert!(result.stdout.contains(GAP), "{result:#?}");
    assert_eq!(result.stderr.lines().count(), 1, "{result:#?}");
    naq.cli(["status", "long"])
        .run()
        .succeeds()
        .expect_stdout("195.3 KiB, of which 131.3 KiB in the middle were not kept");
    // the live output of `run` is whole, the stored output of an earlier run is not
    let run = ["run", "--id", "here", "--", "sh", "-c", LONG];
    let live = naq.cli(run).run().succeeds();
    assert_eq!((live.stdout.len(), live.stderr.len()), (200_000, 100_000));
    expect_marked(naq.cli(run).run().succeeds());
    // objects
    let logs = naq.cli(["logs", "--json", "long"]).run().succeeds();
    let gap = r#"{"stream":"stdout","attempt":1,"missing_bytes":134464}"#;
    assert!(
        logs.stdout.lines().any(|line| line == gap),
        "{}",
        logs.stdout
    );
}

#[test]
fn full_output_is_whole_or_an_error() {
    let server = TestServer::with(&TestOptions {
        max_payload_bytes: Some(64 << 10),
        ..TestOptions::default()
    });
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let enqueue = |id: &str, output: &str| {
        let args = [
            "enqueue", "-q", "build", "--wait", "--id", id, "--output", output,
        ];
        naq.cli([&args[..], &["--", "sh", "-c", LONG]].concat())
            .run()
            .succeeds()
    };
    // everything was kept, in the object store
    let whole = enqueue("whole", "1M");
    assert_eq!((whole.stdout.len(), whole.stderr.len()), (200_000, 100_000));
    let text_bytes = |args: &[&str]| {
        let done = naq.cli(args.iter().copied()).run().succeeds();
        let record: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
        record["stdout"]["text"].as_str().unwrap().len()
    };
    assert_eq!(text_bytes(&["result", "--json", "whole"]), 4_096);
    assert_eq!(
        text_bytes(&["result", "--json", "--full", "whole"]),
        200_000
    );
    let logs = naq.cli(["logs", "--full", "whole"]).run().succeeds();
    assert_eq!((logs.stdout.len(), logs.stderr.len()), (200_000, 100_000));
    // a part was kept, in the object store: the gap is where it was
    let part = enqueue("part", "150000");
    let (head, tail) = part
        .stdout
        .split_once("\n[naq: 50000 bytes missing here]\n")
        .unwrap();
    assert!(
        head.len().abs_diff(75_000) <= 1 && tail.len() == 75_000,
        "{} {}",
        head.len(),
        tail.len()
    );
    for args in [
        &["result", "--full"][..],
        &["result", "--full", "--json"],
        &["logs", "--full"],
    ] {
        let done = naq.cli([args, &["part"]].concat()).run().exits(1);
        assert_eq!(done.stdout, "");
        done.expect_stderr(&[
            "50000 bytes of the job's standard output not kept",
            "--output 196K",
        ]);
    }
    naq.cli(["enqueue", "--full", "--", "true"])
        .run()
        .exits(2)
        .expect_stderr(&["--full needs --wait"]);
}

/// The bytes that a reader of `logs -f` saw, and those that marks said are missing.
fn shown_and_missing(stdout: &str) -> (usize, usize) {
    let (mut shown, mut missing) = (0, 0);
    for (index, part) in stdout.split("[naq: ").enumerate() {
        let rest = match index {
            0 => part,
            _ => {
                let (count, rest) = part.split_once(" bytes missing here]\n").unwrap();
                missing += count.parse::<usize>().unwrap();
                rest
            }
        };
        shown += rest.bytes().filter(|byte| *byte == b'x').count();
    }
    (shown, missing)
}

#[test]
fn followed_logs_show_each_byte_or_a_mark() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(2).spawn();
    for (script, is_whole) in [
        // truncated before it goes live
        (
            "head -c 200000 /dev/zero | tr '\\0' x; sleep 1.3; printf xx",
            Some(false),
        ),
        // faster than live output may be, unless the machine is busy
        ("sleep 1.2; head -c 20000000 /dev/zero | tr '\\0' x", None),
        // all of it live
        ("printf xxx; sleep 1.3; printf xx", Some(true)),
        // ends before it goes live
        ("head -c 300 /dev/zero | tr '\\0' x", Some(true)),
    ] {
        let job = naq.publish("build", serde_json::json!({"script": script}).to_string());
        let done = naq.cli(["logs", "-f", job.as_str()]).run().succeeds();
        let written = naq.wait_ended(&job).stdout.unwrap().bytes;
        let (shown, missing) = shown_and_missing(&done.stdout);
        assert_eq!(
            (shown + missing) as u64,
            written,
            "{script}: {shown} + {missing}"
        );
        let is_marked = missing > 0;
        if let Some(is_whole) = is_whole {
            assert_eq!(is_marked, !is_whole, "{script}: {}", done.stderr);
        }
        assert_eq!(
            done.stderr.is_empty(),
            !is_marked,
            "{script}: {}",
            done.stderr
        );
    }
}

#[test]
fn followed_logs_end_with_the_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    // the second attempt is too short to go live
    let retried = r#"{"script":"echo first; [ $NAQ_ATTEMPT = 2 ] || { sleep 1.2; exit 1; }","max_retries":1,"retry_delay":"300ms"}"#;
    for envelope in [r#"{"script":"echo first; sleep 1.2; echo last"}"#, retried] {
        let job = naq.publish("build", envelope);
        let follower = naq.cli(["logs", "-f", job.as_str()]).follow();
        follower.expect_stdout("first");
        // a verb that has nothing to print is the measure
        naq.cli(["wait", job.as_str()]).run().succeeds();
        let ended = Instant::now();
        assert!(follower.wait_exit().success());
        let late = ended.elapsed();
        assert!(
            late < Duration::from_millis(1_500),
            "{late:?} after the job's end"
        );
    }
}

/// What a job or a producer writes must not control the terminal of a person who reads it as JSON either.
#[test]
fn json_on_a_terminal_contains_no_character_that_acts() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    // A C1 control, a change of direction, a line separator, a soft hyphen and a tag.
    let hostile = "x\u{9b}31m\u{202e}\u{2028}\u{ad}\u{e0041}y";
    let job = naq.publish(
        "build",
        serde_json::json!({"command": "false", "labels": {"a": hostile}, "meta": hostile})
            .to_string(),
    );
    naq.wait_ended(&job);
    let acts = |c: &char| hostile.contains(*c) && !c.is_ascii();
    for verb in [
        &["status", job.as_str(), "--json"][..],
        &["jobs", "--json"],
        &["failed", "show", job.as_str(), "--json"],
        &["failed", "show", job.as_str(), "--envelope"],
    ] {
        let terminal = naq.cli(verb.to_vec()).on_terminal();
        let screen = terminal.expect_screen("y\"");
        assert!(terminal.wait_exit().success());
        assert_eq!(screen.chars().find(acts), None, "{verb:?}: {screen}");
        assert!(
            screen.contains("x\\u009b31m\\u202e\\u2028\\u00ad\\udb40\\udc41y"),
            "{screen}"
        );
        // A program gets the bytes as they were written.
        let piped = naq.cli(verb.to_vec()).run().succeeds();
        assert!(piped.stdout.contains(hostile), "{verb:?}: {piped:?}");
    }
}
