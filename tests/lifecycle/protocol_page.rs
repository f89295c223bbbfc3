//! The examples of `docs/protocol.md` and `docs/worker-protocol.md`, executed as another program would: with
//! bytes from the pages and a client without any naq code.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;

use async_nats::HeaderMap;
use futures_util::StreamExt;
use naq_protocol::{Envelope, State, Timestamp};

use crate::harness::naq::{Naq, id, text};
use crate::harness::nats::TestServer;

fn page() -> String {
    let folder = Path::new(crate::ROOT).join("docs");
    let pages = ["protocol.md", "worker-protocol.md"];
    pages
        .map(|page| std::fs::read_to_string(folder.join(page)).unwrap())
        .concat()
}

/// The first code block of the page that contains `word`, without its fences.
fn block(word: &str) -> String {
    let page = page();
    let mut blocks = page.split("\n```").skip(1).step_by(2);
    let block = blocks.find(|block| block.contains(word));
    let block = block.unwrap_or_else(|| panic!("no block has {word}"));
    block.split_once('\n').unwrap().1.to_owned()
}

fn publish(naq: &Naq, subject: &str, headers: HeaderMap, payload: String) {
    let subject = subject.to_owned();
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let sent = jetstream.publish_with_headers(subject, headers, payload.into());
        sent.await.unwrap().await.unwrap();
    });
}

#[test]
fn envelopes_of_the_protocol_page_are_valid() {
    for word in [
        r#"{"command": "./script.sh", "args": ["arg"]}"#,
        r#""depends_on": ["import-7"]"#,
    ] {
        Envelope::parse(block(word).as_bytes()).unwrap();
    }
}

#[test]
fn delayed_job_of_the_protocol_page_runs_at_its_time_and_receives_it() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).spawn();
    naq.assert_jobs_still_run("build");
    let example = block("nats pub naq.delayed.build.job-7").replace("\\\n", " ");
    let subject = example.split(' ').nth(2).unwrap();
    let in_a_second =
        Timestamp::from_unix_ms(time_now().unix_ms() / 1_000 * 1_000 + 2_000).unwrap();
    let mut headers = HeaderMap::new();
    for option in example.split("-H '").skip(1) {
        let (name, value) = option.split('\'').next().unwrap().split_once(": ").unwrap();
        let time = "2026-12-24T18:00:00+01:00";
        headers.insert(name, value.replace(time, &in_a_second.to_string()));
    }
    assert_eq!(headers.len(), 3, "{headers:?}");
    let script = r#"{"script": "echo $NAQ_SCHEDULED_FOR"}"#;
    publish(&naq, subject, headers.clone(), script.to_owned());
    // Without the third header the job runs at the same time, and nothing says when that was.
    headers = headers
        .iter()
        .filter(|(name, _)| name.to_string() != "Naq-Scheduled-For")
        .map(|(name, values)| (name.clone(), values[0].clone()))
        .fold(HeaderMap::new(), |mut rest, (name, value)| {
            rest.insert(name, value);
            rest
        });
    headers.insert("Nats-Schedule-Target", "naq.queue.build.job-8");
    publish(&naq, "naq.delayed.build.job-8", headers, script.to_owned());
    let with = naq.wait_ended(&id("job-7"));
    assert_eq!(
        text(with.stdout.as_ref()).trim_end(),
        in_a_second.to_string()
    );
    assert_eq!(with.scheduled_for, Some(in_a_second));
    assert!(with.started_at.unwrap() >= in_a_second);
    let without = naq.wait_ended(&id("job-8"));
    assert_eq!(text(without.stdout.as_ref()), "\n");
    assert_eq!(without.scheduled_for, None);
    assert!(without.started_at.unwrap() >= in_a_second);
    assert!(worker.stop().success());
}

#[test]
fn schedule_of_the_protocol_page_has_a_next_run() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    naq.cli([
        "schedule", "add", "--name", "first", "--every", "1h", "--", "true",
    ])
    .run()
    .succeeds();
    let example = block(r#""schedule_id": "nightly""#);
    publish(
        &naq,
        "$KV.naq_scheduled_jobs.nightly",
        HeaderMap::new(),
        example,
    );
    let listed = naq.cli(["schedules", "--json"]).run().succeeds().stdout;
    let nightly = listed
        .lines()
        .find(|line| line.contains("nightly"))
        .unwrap();
    let nightly: serde_json::Value = serde_json::from_str(nightly).unwrap();
    assert_eq!(nightly["status"], "active", "{nightly}");
    assert!(nightly["next_run"].is_string(), "{nightly}");
    assert_eq!(nightly["problem"], serde_json::Value::Null, "{nightly}");
}

/// The server repeats every message of a queue's stream, so a program that subscribes to all events
/// receives those that are no events of a job, too.
#[test]
fn events_of_the_protocol_page_include_reroutes_and_rechecks() {
    let page = page();
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).spawn();
    naq.assert_jobs_still_run("build");
    let mut events = naq.block_on(naq.nats().subscribe("naq.event.>")).unwrap();
    naq.enqueue(&[
        "-q",
        "build",
        "--id",
        "routed",
        "--require",
        "gpu=yes",
        "--",
        "true",
    ]);
    naq.enqueue(&[
        "-q",
        "build",
        "--id",
        "blocked",
        "--depends-on",
        "a",
        "--",
        "true",
    ]);
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 3 {
        let event = naq.block_on(events.next()).unwrap();
        let tokens: Vec<&str> = event.subject.split('.').collect();
        if tokens.len() > 3 {
            seen.insert(tokens[2].to_owned());
        }
    }
    for kind in seen {
        let subject = format!("`naq.event.{kind}.<queue>");
        assert!(page.contains(&subject), "the page lacks {subject}");
    }
    assert!(worker.stop().success());
}

/// A worker answers a question about its leases, in the form of the page.
#[test]
fn lease_question_of_the_protocol_page_is_answered() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).spawn();
    naq.enqueue(&["-q", "build", "--id", "long", "--", "sleep", "1000"]);
    let running = naq.wait_for(&id("long"), "running", |record| {
        record.state() == State::Running
    });
    let lease = running.lease().unwrap();
    let ask = |job: &str| {
        let question = block(r#"{"holds": "<job_id>""#)
            .replace("<job_id>", job)
            .replace("7", &lease.sequence.to_string());
        let subject = format!("naq.lease.{}", lease.worker_id);
        let answer = naq.block_on(naq.nats().request(subject, question.into()));
        String::from_utf8(answer.unwrap().payload.to_vec()).unwrap()
    };
    assert_eq!(ask("long"), r#"{"state":"running"}"#);
    assert_eq!(ask("another"), r#"{"state":"released"}"#);
    naq.cli(["cancel", "long"]).run().succeeds();
    assert_eq!(naq.wait_ended(&id("long")).state(), State::Cancelled);
    assert!(worker.stop().success());
}

#[expect(clippy::disallowed_methods, reason = "tests are at the edge")]
fn time_now() -> Timestamp {
    std::time::SystemTime::now().into()
}
