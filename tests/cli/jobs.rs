//! `naq jobs`: records and queued jobs in one list, newest change first, a page at a time.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::HashSet;

use futures_util::StreamExt;
use naq_core::StartDelay;
use naq_jetstream::NewJob;
use naq_protocol::{JobId, Outcome, Phase, QueueName, Reason, Record, State, Timestamp};
use serde_json::Value;

use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

fn page(naq: &Naq, args: &[&str]) -> (Vec<Value>, Option<String>) {
    let args = [&["jobs", "--json"], args].concat();
    let done = naq.cli(args).run().succeeds();
    let read = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let next = done.stderr.lines().map(read).next_back();
    let next = next.and_then(|note| note["note"]["next"].as_str().map(str::to_owned));
    (done.stdout.lines().map(read).collect(), next)
}

fn ids(naq: &Naq, args: &[&str]) -> Vec<String> {
    let (jobs, next) = page(naq, args);
    assert_eq!(next, None, "{args:?}");
    jobs.iter()
        .map(|job| job["job_id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_job_is_listed_once_wherever_it_is() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["jobs"])
        .run()
        .succeeds()
        .expect_stderr(&["no such jobs"]);
    let _worker = naq.worker(&["build"]).concurrency(1).spawn();
    naq.enqueue(&["-q", "build", "--id", "well", "-l", "team=a", "--", "true"]);
    naq.wait_ended(&JobId::new("well").unwrap());
    naq.enqueue(&[
        "-q", "build", "--id", "badly", "-l", "team=b", "--", "false",
    ]);
    naq.wait_ended(&JobId::new("badly").unwrap());
    let retrying = [
        "-q",
        "build",
        "--id",
        "retrying",
        "--retries",
        "3",
        "--retry-delay",
        "1h",
    ];
    naq.enqueue(&[&retrying[..], &["--", "sh", "-c", "exit 1"]].concat());
    let retrying = JobId::new("retrying").unwrap();
    naq.wait_for(&retrying, "retrying", |record| {
        record.state() == State::Retrying
    });
    naq.enqueue(&["-q", "build", "--id", "running", "--", "sleep", "600"]);
    naq.wait_running(&JobId::new("running").unwrap());
    // behind the running one
    naq.enqueue(&[
        "-q", "build", "--id", "queued", "-l", "team=a", "--", "echo", "hi",
    ]);
    let bare = naq.publish("build", r#"{"command":"true"}"#);
    naq.publish("build", r#"{"command":"true","job_id":"named"}"#);
    naq.block_on(async {
        let queue = QueueName::new("elsewhere").unwrap();
        let broker = naq.client().broker();
        broker.ensure_queue(&queue).await.unwrap();
        let job = JobId::new("scheduled").unwrap();
        let job = NewJob::with_id(job, queue, r#"{"command":"true"}"#.into());
        let start = StartDelay {
            due: "2100-01-01T00:00:00Z".parse().unwrap(),
            is_relative: false,
            is_due: false,
        };
        broker.enqueue(job.delayed(start)).await.unwrap();
    });

    let all = [
        "scheduled",
        "named",
        bare.as_str(),
        "queued",
        "running",
        "retrying",
        "badly",
        "well",
    ];
    assert_eq!(ids(&naq, &[]), all);
    assert_eq!(ids(&naq, &["--queue", "build"]), all[1..]);
    assert_eq!(ids(&naq, &["--queue", "elsewhere"]), all[..1]);
    assert_eq!(ids(&naq, &["--queue", "nowhere"]), [""; 0]);
    assert_eq!(ids(&naq, &["--state", "queued"]), all[1..4]);
    assert_eq!(ids(&naq, &["--state", "scheduled,queued"]), all[..4]);
    assert_eq!(
        ids(&naq, &["--state", "failed,running"]),
        ["running", "badly"]
    );
    assert_eq!(
        ids(&naq, &["--state", "retrying,queued"]),
        ["named", bare.as_str(), "queued", "retrying"]
    );
    assert_eq!(ids(&naq, &["--label", "team"]), ["queued", "badly", "well"]);
    assert_eq!(ids(&naq, &["--label", "team=a"]), ["queued", "well"]);
    assert_eq!(ids(&naq, &["--since", "1h"]), all);
    naq.cli(["jobs", "--state", "done"])
        .run()
        .exits(2)
        .expect_stderr(&["not a state", "succeeded"]);
    naq.cli(["jobs", "--before", "yesterday"]).run().exits(2);
    naq.cli(["jobs", "--limit", "0"]).run().exits(2);

    let (jobs, _) = page(&naq, &[]);
    assert_eq!(jobs[0]["next_attempt_at"], "2100-01-01T00:00:00.000Z");
    assert_eq!(jobs[3]["command"], "echo hi");
    assert_eq!(jobs[4]["command"], "sleep 600");
    assert_eq!(jobs[5]["command"], "sh -c 'exit 1'");
    assert_eq!(jobs[6]["exit_code"], 1);

    // page by page it is the same list
    let mut seen = Vec::new();
    let mut before = None::<String>;
    loop {
        let mut args = vec!["--limit", "3"];
        if let Some(before) = &before {
            args.extend(["--before", before]);
        }
        let (jobs, next) = page(&naq, &args);
        assert!(jobs.len() == 3 || next.is_none());
        seen.extend(
            jobs.iter()
                .map(|job| job["job_id"].as_str().unwrap().to_owned()),
        );
        before = next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen, all);
    let done = naq.cli(["jobs", "--limit", "3"]).run().succeeds();
    assert!(done.stderr.contains("--before"), "{done:#?}");
    assert_eq!(done.stdout.lines().count(), 4, "{done:#?}");
}

#[test]
fn ten_thousand_are_listed_in_pages() {
    const RECORDS: usize = 10_000;
    const QUEUED: usize = 300;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let queue = QueueName::new("many").unwrap();
    naq.add_queue("many");
    naq.block_on(async {
        let broker = naq.client().broker();
        broker.ensure_layout().await.unwrap();
        let time = Timestamp::from_unix_ms(0).unwrap();
        let records = (0..RECORDS).map(|number| {
            let job = JobId::new(format!("r{number}")).unwrap();
            let outcome = if number % 1_000 == 7 {
                Outcome::Failed(Reason::Exit)
            } else {
                Outcome::Succeeded
            };
            let finished = Phase::Finished {
                outcome,
                finished_at: time,
            };
            let record = Record::new(job, queue.clone(), finished, time);
            async move { broker.write_record(&record, 0, None).await.unwrap() }
        });
        futures_util::stream::iter(records)
            .buffered(256)
            .for_each(|_| std::future::ready(()))
            .await;
    });
    for _ in 0..QUEUED {
        naq.publish("many", r#"{"command":"true"}"#);
    }
    let mut seen = HashSet::new();
    let mut last = None;
    let mut before = None::<String>;
    let mut pages = 0;
    loop {
        let mut args = vec!["--limit", "1000"];
        if let Some(before) = &before {
            args.extend(["--before", before]);
        }
        let (jobs, next) = page(&naq, &args);
        pages += 1;
        assert!(jobs.len() == 1_000 || next.is_none());
        for job in &jobs {
            let changed: Timestamp = job["changed_at"].as_str().unwrap().parse().unwrap();
            assert!(last.is_none_or(|last| changed <= last));
            last = Some(changed);
            assert!(seen.insert(job["job_id"].as_str().unwrap().to_owned()));
        }
        before = next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), RECORDS + QUEUED);
    assert_eq!(pages, 11);
    assert_eq!(ids(&naq, &["--state", "failed"]).len(), 10);
    assert_eq!(
        ids(&naq, &["--state", "queued", "--limit", "1000"]).len(),
        QUEUED
    );
}

#[test]
fn an_old_job_behind_a_long_gap_is_found() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let old = naq.enqueue(&["-q", "gaps", "--id", "old", "--", "true"]);
    naq.block_on(async {
        let mut bulk = naq.client().bulk();
        let queue = QueueName::new("gaps").unwrap();
        for number in 0..5_000 {
            let id = JobId::new(format!("gone-{number}")).unwrap();
            let job = NewJob::with_id(id, queue.clone(), r#"{"command":"true"}"#.into());
            bulk.push(job).await.unwrap();
        }
        bulk.finish().await.unwrap();
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let stream = jetstream.get_stream("naq_queue_gaps").await.unwrap();
        // but for the first, one in the middle and the last
        for number in (0..5_000).filter(|number| ![2_500, 4_999].contains(number)) {
            let subject = format!("naq.queue.gaps.gone-{number}");
            stream.purge().filter(subject).await.unwrap();
        }
    });
    let found = ["gone-4999", "gone-2500", old.as_str()];
    assert_eq!(ids(&naq, &[]), found);
    let (jobs, next) = page(&naq, &["--limit", "1"]);
    assert_eq!(jobs[0]["job_id"], "gone-4999");
    assert_eq!(ids(&naq, &["--before", &next.unwrap()]), found[1..]);
}

#[test]
fn watching_prints_each_change_where_nobody_looks_at_a_screen() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let watching = naq
        .cli(["jobs", "--watch", "--json", "--log-level", "debug"])
        .follow();
    watching.expect_stderr("following");
    let job = naq.publish("build", r#"{"command":"true"}"#);
    naq.wait_ended(&job);
    let printed = watching.expect_stdout("succeeded");
    let states: Vec<String> = printed
        .lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            assert_eq!(event["job_id"], job.as_str());
            event["state"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(states, ["queued", "running", "succeeded"]);
}

#[test]
fn watching_redraws_the_list() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let watching = naq.cli(["jobs", "--watch"]).on_terminal();
    let go = naq.home().join("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", go.display());
    let envelope = serde_json::json!({"job_id": "seen", "script": script});
    naq.publish("build", envelope.to_string());
    watching.expect_screen("running");
    // no event tells of this one
    naq.enqueue(&["-q", "unserved", "--id", "waits", "--", "true"]);
    watching.expect_screen("waits");
    std::fs::write(&go, "").unwrap();
    let screen = watching.expect_screen("succeeded");
    let last = screen.rsplit("\x1b[2J").next().unwrap();
    assert!(last.contains("seen"), "{last:?}");
}

#[test]
fn jobs_that_wait_for_others_are_listed_and_what_stands_for_unknown_ones_is_not() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    naq.publish(
        "build",
        r#"{"job_id":"child","command":"true","depends_on":["parent"]}"#,
    );
    let child = JobId::new("child").unwrap();
    naq.wait_for(&child, "waiting", |record| record.state() == State::Waiting);
    assert_eq!(ids(&naq, &[]), ["child"]);
    assert_eq!(ids(&naq, &["--state", "waiting"]), ["child"]);
    naq.cli(["job", "ttl", "parent", "1h"]).run().exits(4);
    naq.cli(["retry", "parent"]).run().exits(4);
    naq.cli(["retry", "child"]).run().exits(5);
    let events = naq.cli(["events"]).run().succeeds().stdout;
    assert_eq!(events.lines().count(), 1, "{events}");

    naq.publish("build", r#"{"job_id":"parent","command":"true"}"#);
    assert_eq!(naq.wait_ended(&child).state(), State::Succeeded);
    let mut listed = ids(&naq, &["--state", "succeeded"]);
    listed.sort();
    assert_eq!(listed, ["child", "parent"]);
    // what it waited for is over: it does not wait again
    let again = naq
        .cli(["retry", "--wait", "child", "--json"])
        .run()
        .succeeds();
    let record: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(record["rerun_of"], "child");
}

#[test]
fn a_rerouted_job_is_listed_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    naq.publish(
        "build",
        r#"{"job_id":"picky","command":"true","requires":{"gpu":"yes"}}"#,
    );
    let last = naq.publish("build", r#"{"command":"true"}"#);
    naq.wait_ended(&last);
    eventually("it waits for another worker", || {
        let (jobs, _) = page(&naq, &["--state", "queued"]);
        let listed: Vec<_> = jobs.iter().map(|job| &job["job_id"]).collect();
        listed == ["picky"] && naq.stream_messages("build") == 1
    });
    let _gpu = naq.worker(&["build"]).arg("--label").arg("gpu=yes").spawn();
    naq.wait_ended(&JobId::new("picky").unwrap());
    assert_eq!(ids(&naq, &[]), ["picky", last.as_str()]);
}
