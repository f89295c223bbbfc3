//! `naq failed`: what failed, whole; run again or discarded.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::HashSet;

use naq_protocol::{JobId, State};

use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

fn ids(stdout: &str) -> Vec<String> {
    let read = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let jobs = stdout.lines().map(read);
    jobs.map(|job| job["job_id"].as_str().unwrap().to_owned())
        .collect()
}

/// Puts entries into the failed stream as a worker does, many at once.
fn keep_many(naq: &Naq, count: usize) {
    naq.block_on(async {
        naq.client().broker().ensure_layout().await.unwrap();
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let mut pending = Vec::new();
        for number in 0..count {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Naq-Job-Id", format!("j{number}").as_str());
            headers.insert("Naq-State", "failed");
            headers.insert("Naq-Reason", "exit");
            headers.insert("Naq-Attempt", "1");
            let payload = format!(r#"{{"job_id":"j{number}","command":"true","meta":{number}}}"#);
            let subject = format!("naq.failed.many.j{number}");
            let sent = jetstream.publish_with_headers(subject, headers, payload.into());
            pending.push(sent.await.unwrap());
            if pending.len() == 1_000 {
                for sent in pending.drain(..) {
                    sent.await.unwrap();
                }
            }
        }
        for sent in pending {
            sent.await.unwrap();
        }
    });
}

/// Every message of a queue: subject and payload.
fn queued(naq: &Naq, queue: &str) -> Vec<(String, Vec<u8>)> {
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let Ok(mut stream) = jetstream.get_stream(format!("naq_queue_{queue}")).await else {
            return Vec::new();
        };
        let state = stream.info().await.unwrap().state.clone();
        let mut messages = Vec::new();
        for sequence in state.first_sequence..=state.last_sequence {
            if let Ok(message) = stream.get_raw_message(sequence).await {
                messages.push((message.subject.to_string(), message.payload.to_vec()));
            }
        }
        messages
    })
}

#[test]
fn failures_are_listed_and_shown_whole() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build", "other"]).spawn();
    naq.cli(["failed", "list"])
        .run()
        .succeeds()
        .expect_stderr(&["no failed job"]);
    let exit = naq.publish("build", r#"{"command":"sh","args":["-c","exit 3"]}"#);
    naq.wait_ended(&exit);
    let missing = naq.publish("other", r#"{"command":"/no/such"}"#);
    naq.wait_ended(&missing);
    let bytes = b"\xff\xfe not an envelope\x1b[31m\n".to_vec();
    let rejected = naq.publish("other", bytes.clone());
    naq.wait_ended(&rejected);

    let listed = |args: &[&str]| {
        let args = [&["failed", "list", "--json"], args].concat();
        ids(&naq.cli(args).run().succeeds().stdout)
    };
    let all = [rejected.as_str(), missing.as_str(), exit.as_str()];
    assert_eq!(listed(&[]), all);
    assert_eq!(listed(&["--limit", "2"]), all[..2]);
    assert_eq!(listed(&["--queue", "other"]), all[..2]);
    assert_eq!(listed(&["--reason", "spawn"]), [missing.as_str()]);
    assert_eq!(listed(&["--reason", "invalid"]), [rejected.as_str()]);
    assert_eq!(listed(&["--older-than", "1h"]), [""; 0]);
    assert_eq!(listed(&["--newer-than", "1h"]), all);
    let table = naq.cli(["failed", "list"]).run().succeeds().stdout;
    for words in [
        "JOB",
        "failed (exit 3)",
        "failed (spawn)",
        "rejected (invalid)",
    ] {
        assert!(table.contains(words), "{words:?} in {table}");
    }

    // the bytes as they came, and a text that does nothing to a terminal
    let (status, stdout, _) = naq
        .cli(["failed", "show", rejected.as_str(), "--envelope"])
        .run_bytes();
    assert!(status.success());
    assert_eq!(stdout, bytes);
    let shown = naq
        .cli(["failed", "show", rejected.as_str()])
        .run()
        .succeeds();
    assert!(shown.stdout.contains("UTF-8"), "{shown:#?}");
    assert!(!shown.stdout.contains('\u{1b}'), "{shown:#?}");
    let shown = naq
        .cli(["failed", "show", exit.as_str(), "--json"])
        .run()
        .succeeds();
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["reason"], "exit");
    assert_eq!(shown["exit_code"], 3);
    assert_eq!(shown["envelope"]["args"][1], "exit 3");
    naq.cli(["failed", "show", "nobody"])
        .run()
        .exits(4)
        .expect_stderr(&["no failed job `nobody`"]);
}

#[test]
fn discarding_asks_and_removes_the_stored_objects() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    // with the headers of the failed stream this does not fit a message
    let start = r#"{"command":"false","meta":""#;
    let long = format!("{start}{}\"}}", "x".repeat((1 << 20) - start.len() - 40));
    let long = naq.publish("build", long);
    naq.wait_ended(&long);
    let object = naq.dead_letter(&long).object.expect("an object");
    let short = naq.publish("build", r#"{"command":"/no/such"}"#);
    naq.wait_ended(&short);

    // what is meant has to be said, and meant
    naq.cli(["failed", "discard"])
        .run()
        .exits(2)
        .expect_stderr(&["--all"]);
    naq.cli(["failed", "discard", "--all", "some-id"])
        .run()
        .exits(2);
    naq.cli(["failed", "discard", "--all"])
        .run()
        .exits(2)
        .expect_stderr(&["discard 2 failed jobs", "--yes"]);
    assert_eq!(naq.dead_letters().len(), 2);

    let done = naq
        .cli(["failed", "discard", "--reason", "spawn", "--yes"])
        .run()
        .succeeds();
    assert_eq!(done.stdout, "1 failed job discarded\n");
    assert_eq!(naq.dead_letters().len(), 1);
    let object_exists = || {
        naq.block_on(naq.client().broker().get_object(&object))
            .is_ok()
    };
    assert!(object_exists());
    naq.cli(["failed", "discard", "nobody", "--yes"])
        .run()
        .exits(4);
    naq.cli(["failed", "discard", long.as_str(), "--yes"])
        .run()
        .succeeds();
    assert!(naq.dead_letters().is_empty());
    assert!(!object_exists());
    // the record is not what was discarded
    assert_eq!(naq.wait_ended(&long).state(), State::Failed);

    keep_many(&naq, 500);
    let done = naq
        .cli(["failed", "discard", "--all", "--yes", "--json"])
        .run()
        .succeeds();
    assert_eq!(done.stdout, "{\"discarded\":500}\n");
    assert!(naq.dead_letters().is_empty());
}

#[test]
fn thousands_run_again_once_though_the_first_try_is_killed() {
    const COUNT: usize = 3_000;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    keep_many(&naq, COUNT);
    naq.add_queue("many");
    let killed = naq.cli(["failed", "retry", "--queue", "many"]).follow();
    eventually("some are enqueued", || naq.stream_messages("many") > 50);
    killed.kill9();
    let done = naq
        .cli(["failed", "retry", "--queue", "many", "--json"])
        .run()
        .succeeds();
    assert!(naq.dead_letters().is_empty());
    let messages = queued(&naq, "many");
    assert_eq!(messages.len(), COUNT);
    let subjects: HashSet<_> = messages.iter().map(|(subject, _)| subject).collect();
    assert_eq!(subjects.len(), COUNT);
    let repeated: HashSet<String> = messages
        .iter()
        .map(|(_, payload)| {
            let envelope: serde_json::Value = serde_json::from_slice(payload).unwrap();
            envelope["rerun_of"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(repeated.len(), COUNT);
    // what was printed is what was enqueued
    for line in done.stdout.lines() {
        let printed: serde_json::Value = serde_json::from_str(line).unwrap();
        let subject = format!("naq.queue.many.{}", printed["job_id"].as_str().unwrap());
        assert!(subjects.contains(&subject), "{line}");
    }
}

#[test]
fn selections_are_run_again() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let exit = naq.publish("build", r#"{"command":"false"}"#);
    let missing = naq.publish("build", r#"{"command":"/no/such"}"#);
    let broken = naq.publish("build", "broken");
    for job in [&exit, &missing, &broken] {
        naq.wait_ended(job);
    }
    naq.cli(["failed", "retry"]).run().exits(2);
    naq.cli(["failed", "retry", "--older-than", "1h"])
        .run()
        .succeeds()
        .expect_stderr(&["0 failed jobs enqueued again"]);
    let done = naq
        .cli(["failed", "retry", "--reason", "spawn"])
        .run()
        .succeeds()
        .expect_stderr(&["1 failed job enqueued again"]);
    let again = JobId::new(done.stdout.trim_end()).unwrap();
    assert_eq!(naq.wait_ended(&again).rerun_of, Some(missing));
    // what cannot run is reported and stays, and the rest continues
    naq.cli(["failed", "retry", "--all", "--quiet"])
        .run()
        .exits(6)
        .expect_stderr(&["2 failed jobs enqueued again", broken.as_str(), "rejected"]);
    assert_eq!(naq.dead_letter(&broken).job_id, broken);
    naq.cli(["failed", "retry", "nobody"])
        .run()
        .exits(4)
        .expect_stderr(&["no failed job"]);
}

#[test]
fn an_entry_whose_job_has_succeeded_since_is_discarded() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["many"]).spawn();
    // a worker that dies between the copy and the record leaves an entry of a job that continues
    let job = naq.enqueue(&["-q", "many", "--id", "j0", "--", "true"]);
    assert_eq!(naq.wait_ended(&job).state(), State::Succeeded);
    naq.wait_drained("many");
    let go = naq.home().join("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", go.display());
    let open = serde_json::json!({"job_id": "j1", "script": script}).to_string();
    naq.publish("many", open);
    naq.wait_running(&JobId::new("j1").unwrap());
    keep_many(&naq, 2);
    naq.cli(["failed", "retry", "--all"])
        .run()
        .succeeds()
        .expect_stderr(&[
            "0 failed jobs enqueued again",
            "1 skipped because of a later outcome",
            "1 skipped because the job has not ended",
        ]);
    let left = naq.dead_letters();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].job_id.as_str(), "j1");
    std::fs::write(&go, "").unwrap();
    naq.wait_ended(&JobId::new("j1").unwrap());
}

#[test]
fn a_person_is_asked_before_anything_is_discarded() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    keep_many(&naq, 3);
    let discard = ["failed", "discard", "--queue", "many"];
    let mut asked = naq.cli(discard).on_terminal();
    asked.expect_screen("discard 3 failed jobs? [y/N]");
    asked.type_line("n");
    asked.expect_screen("nothing was done");
    assert_eq!(asked.wait_exit().code(), Some(1));
    assert_eq!(naq.dead_letters().len(), 3);

    let mut asked = naq.cli(discard).on_terminal();
    asked.expect_screen("[y/N]");
    // one that fails while the question is open was not asked about
    let _worker = naq.worker(&["many"]).spawn();
    let late = naq.publish("many", r#"{"command":"false"}"#);
    naq.wait_ended(&late);
    asked.type_line("y");
    asked.expect_screen("3 failed jobs discarded");
    assert!(asked.wait_exit().success());
    assert_eq!(naq.dead_letters().len(), 1);
    assert_eq!(naq.dead_letter(&late).job_id, late);
}

#[test]
fn failures_are_grouped_by_their_cause_and_retried_or_discarded_as_a_group() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["failed", "groups"])
        .run()
        .succeeds()
        .expect_stderr(&["no failed job"]);
    let _worker = naq.worker(&["build", "other"]).spawn();
    for (queue, script) in [
        ("build", "exit 3"),
        ("other", "exit 3"),
        ("build", "exit 4"),
        ("build", "kill -9 $$"),
    ] {
        let envelope = format!(r#"{{"command":"sh","args":["-c","{script}"]}}"#);
        naq.wait_ended(&naq.publish(queue, envelope));
    }
    for program in ["/no/such/17", "/no/such/18"] {
        naq.wait_ended(&naq.publish("build", format!(r#"{{"command":"{program}"}}"#)));
    }
    let groups = |options: &[&str]| -> Vec<serde_json::Value> {
        let listed = naq
            .cli([&["--json", "failed", "groups"], options].concat())
            .run()
            .succeeds();
        let read = |line: &str| serde_json::from_str(line).unwrap();
        listed.stdout.lines().map(read).collect()
    };
    let all = groups(&[]);
    let counts: Vec<u64> = all
        .iter()
        .map(|one| one["count"].as_u64().unwrap())
        .collect();
    assert_eq!(counts.iter().sum::<u64>(), 6, "{all:?}");
    let of = |field: &str, value: serde_json::Value| {
        let found = all.iter().find(|one| one[field] == value);
        found.unwrap_or_else(|| panic!("{all:?}")).clone()
    };
    // programs with other paths are missing for the same reason
    assert_eq!(of("reason", "spawn".into())["count"], 2, "{all:?}");
    assert_eq!(all[0]["reason"], "spawn", "the latest failure comes first");
    let exit_3 = of("exit_code", 3.into());
    assert_eq!(exit_3["count"], 2);
    assert_eq!(exit_3["queues"], serde_json::json!(["build", "other"]));
    assert_eq!(exit_3["jobs"].as_array().unwrap().len(), 2);
    assert_eq!(of("signal", 9.into())["count"], 1);
    assert_eq!(groups(&["-q", "other"]).len(), 1);
    let shown = naq.cli(["failed", "groups"]).run().succeeds();
    shown.expect_stdout("exit 3").expect_stdout("signal 9");

    let id = exit_3["group"].as_str().unwrap();
    let listed = naq.cli(["--json", "failed", "list", "--group", id]).run();
    assert_eq!(ids(&listed.succeeds().stdout).len(), 2);
    naq.cli(["failed", "discard", "--group", id, "-q", "other", "--yes"])
        .run()
        .succeeds()
        .expect_stdout("1 failed job discarded");
    naq.cli(["failed", "retry", "--group", id])
        .run()
        .succeeds()
        .expect_stderr(&["1 failed job enqueued again"]);
    naq.cli(["failed", "retry", "--group", "exit"])
        .run()
        .exits(2)
        .expect_stderr(&["16 digits"]);
}

#[test]
fn failures_in_many_ways_are_grouped_in_bounded_memory() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    keep_many(&naq, 20_000);
    let listed = naq.cli(["--json", "failed", "groups"]).run().succeeds();
    let group: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(group["count"], 20_000, "{group}");
    assert_eq!(group["jobs"].as_array().unwrap().len(), 10);
    assert_eq!(group["jobs"][0], "j19999");
}
