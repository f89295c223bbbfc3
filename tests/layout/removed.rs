//! Streams, buckets and consumers that are removed under running programs.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{api, info, remove_stream, settings, streams};
use crate::harness::naq::{Naq, eventually, text};
use crate::harness::nats::TestServer;
use naq_protocol::State;

#[test]
fn every_stream_removed_under_a_worker_is_recreated_and_named() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).spawn();
    naq.assert_jobs_still_run("build");
    // one job each that makes the streams that not every worker has
    naq.enqueue(&["-q", "build", "--depends-on", "later", "--", "true"]);
    let keyed = serde_json::json!({"command": "true", "concurrency_key": "k"});
    naq.wait_ended(&naq.publish("build", keyed.to_string()));
    let requires = serde_json::json!({"command": "true", "requires": {"gpu": "yes"}});
    naq.publish("build", requires.to_string());
    let long = ["-q", "build", "--", "sh", "-c", "yes | head -c 3000000"];
    let long = naq.enqueue(&[&["--output", "4M"][..], &long].concat());
    naq.wait_ended(&long);
    let made = [
        "KV_naq_dependents",
        "KV_naq_requires",
        "KV_naq_results",
        "KV_naq_slots",
        "KV_naq_workers",
        "OBJ_naq_files",
        "naq_failed_jobs",
        "naq_logs",
    ];
    eventually("the streams exist", || {
        let existing = streams(&naq);
        made.iter()
            .all(|stream| existing.contains(&(*stream).to_owned()))
    });
    // the worker looks at the list every ten seconds, and has to have seen them
    std::thread::sleep(Duration::from_secs(11));
    for stream in made {
        remove_stream(&naq, stream);
    }
    eventually("the streams exist again", || {
        let existing = streams(&naq);
        made.iter()
            .all(|stream| existing.contains(&(*stream).to_owned()))
    });
    for stream in made {
        worker.expect_stderr(&format!("stream=\"{stream}\""));
    }
    // Every process that misses the stream computes the same first sequence, from what the server says,
    // and so removes nothing that another has stored.
    eventually("the sequences begin at the time of creation", || {
        let info = info(&naq, "naq_failed_jobs");
        let created: DateTime<Utc> = info["created"].as_str().unwrap().parse().unwrap();
        info["state"]["first_seq"] == created.timestamp_micros()
    });
    assert!(worker.log().contains("the record of every job"));
    eventually("the worker is listed again", || {
        let listed = naq.cli(["workers", "--json"]).run().succeeds();
        listed.stdout.contains("\"queues\":[\"build\"]")
    });
    let done = naq
        .cli(["enqueue", "-q", "build", "--wait", "--", "echo", "hi"])
        .run()
        .succeeds();
    assert_eq!(done.stdout, "hi\n");
}

#[test]
fn the_outcome_of_a_job_survives_the_removal_of_the_results() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).spawn();
    let go = naq.home().join("go");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; echo done",
        go.display()
    );
    let job = naq.publish("build", serde_json::json!({ "script": script }).to_string());
    let before = naq.wait_running(&job);
    let fence = naq
        .block_on(naq.client().broker().read_record(&job))
        .unwrap()
        .1;
    remove_stream(&naq, "KV_naq_results");
    naq.file("go", "");
    let record = naq.wait_ended(&job);
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    assert_eq!(text(record.stdout.as_ref()), "done\n");
    assert_eq!((record.attempt, before.attempt), (1, 1));
    naq.wait_drained("build");
    worker.expect_stderr("the record of every job");
    // revisions only grow: those of the new bucket do not begin at 1
    let after = naq
        .block_on(naq.client().broker().read_record(&job))
        .unwrap()
        .1;
    assert!(after > fence, "{after} after {fence}");
    assert_eq!(settings(&naq, "KV_naq_results")["allow_msg_ttl"], true);
}

#[test]
fn a_scheduler_survives_the_removal_of_its_buckets() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let scheduler = naq.cli(["scheduler"]).follow();
    scheduler.expect_stderr("leading");
    let add = |name: &str, every: &str| {
        let args = [
            "schedule", "add", "--name", name, "-q", "build", "--every", every,
        ];
        naq.cli([&args[..], &["--", "true"]].concat())
            .run()
            .succeeds();
    };
    add("hourly", "1h");
    add("beat", "1s");
    let has_run = |name: &str| {
        let shown = naq.cli(["schedule", "show", name, "--json"]).run();
        shown.stdout.contains("\"last_job_id\"")
    };
    eventually("the schedule has run", || has_run("beat"));
    remove_stream(&naq, "KV_naq_scheduled_jobs");
    scheduler.expect_stderr("the bucket of schedules was removed");
    scheduler.expect_stderr("stream=\"KV_naq_scheduled_jobs\"");
    remove_stream(&naq, "KV_naq_scheduler_lock");
    scheduler.expect_stderr("stream=\"KV_naq_scheduler_lock\"");
    add("again", "1s");
    eventually("the new schedule has run", || has_run("again"));
    let listed = naq.cli(["schedules", "--json"]).run().succeeds();
    assert_eq!(listed.stdout.lines().count(), 1, "{}", listed.stdout);
}

#[test]
fn a_worker_with_labels_is_found_after_the_labels_were_removed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let plain = naq.worker(&["build"]).spawn();
    let _gpu = naq.worker(&["build"]).arg("--label").arg("gpu=yes").spawn();
    let requires = serde_json::json!({"command": "true", "requires": {"gpu": "yes"}}).to_string();
    for _ in 0..4 {
        naq.wait_ended(&naq.publish("build", requires.clone()));
    }
    eventually("the labels are known", || {
        streams(&naq).contains(&"KV_naq_requires".to_owned())
    });
    std::thread::sleep(Duration::from_secs(11));
    remove_stream(&naq, "KV_naq_requires");
    plain.expect_stderr("the labels that jobs require");
    eventually("a new worker can find the labels", || {
        let state = api(&naq, "STREAM.INFO.KV_naq_requires", serde_json::json!({}));
        state["state"]["messages"] == 1
    });
}

#[test]
fn a_scheduler_that_stands_by_leads_although_the_lock_was_removed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let leader = naq.cli(["scheduler"]).follow();
    leader.expect_stderr("leading");
    let standby = naq.cli(["scheduler"]).follow();
    standby.expect_stderr("standing by");
    leader.kill9();
    remove_stream(&naq, "KV_naq_scheduler_lock");
    standby.expect_stderr("leading");
}
