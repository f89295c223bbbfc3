//! Streams, buckets and consumers that another program made.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{api, create_bucket, create_stream, remove_stream, settings};
use crate::harness::naq::{Naq, eventually, text};
use crate::harness::nats::TestServer;
use naq_protocol::State;

/// A queue as a reader of the first protocol page would make it, with a consumer without a filter.
fn create_queue(naq: &Naq, queue: &str) {
    let stream = format!("naq_queue_{queue}");
    let subjects = [
        format!("naq.queue.{queue}"),
        format!("naq.queue.{queue}.*"),
        format!("naq.delayed.{queue}.*"),
    ];
    create_stream(
        naq,
        &stream,
        json!({ "subjects": subjects, "retention": "workqueue" }),
    );
    let consumer = json!({ "stream_name": stream, "config": {
        "durable_name": "naq-worker", "ack_policy": "explicit", "ack_wait": 30_000_000_000_u64,
    }});
    api(
        naq,
        &format!("CONSUMER.CREATE.{stream}.naq-worker"),
        consumer,
    );
}

#[test]
fn buckets_without_ttl_and_republish_get_them_at_start() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for bucket in [
        "naq_results",
        "naq_workers",
        "naq_scheduled_jobs",
        "naq_scheduler_lock",
    ] {
        create_bucket(&naq, bucket);
    }
    // an operator keeps the values before the last one too
    let mut kept = settings(&naq, "KV_naq_scheduled_jobs");
    kept["max_msgs_per_subject"] = (-1).into();
    api(&naq, "STREAM.UPDATE.KV_naq_scheduled_jobs", kept);
    let worker = naq.worker(&["build"]).spawn();
    worker.expect_stderr("streams and buckets are ready");
    // without the republishing nobody would wake the waiting program
    let done = naq
        .cli(["enqueue", "-q", "build", "--wait", "--", "echo", "hi"])
        .run()
        .succeeds();
    assert_eq!(done.stdout, "hi\n");
    let results = settings(&naq, "KV_naq_results");
    assert_eq!(results["allow_msg_ttl"], true);
    assert_eq!(results["republish"]["dest"], "naq.event.>");
    assert_eq!(results["subject_delete_marker_ttl"], 600_000_000_000_u64);
    // the leader learns of a schedule at once
    let scheduler = naq.cli(["scheduler"]).follow();
    scheduler.expect_stderr("leading");
    let started = Instant::now();
    naq.cli([
        "schedule", "add", "--name", "beat", "-q", "build", "--every", "1s", "--", "true",
    ])
    .run()
    .succeeds();
    let schedules = settings(&naq, "KV_naq_scheduled_jobs");
    assert_eq!(schedules["republish"]["dest"], "naq.schedule.>");
    assert_eq!(schedules["max_msgs_per_subject"], -1);
    eventually("the schedule has enqueued a job", || {
        let listed = naq.cli(["schedules", "--json"]).run().succeeds();
        listed.stdout.contains("\"last_job_id\"")
    });
    assert!(started.elapsed() < Duration::from_secs(20), "{started:?}");
}

#[test]
fn a_consumer_without_a_filter_does_not_run_delayed_jobs_at_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    create_queue(&naq, "build");
    let worker = naq.worker(&["build"]).spawn();
    worker.expect_stderr("streams and buckets are ready");
    let delayed = naq.enqueue(&["-q", "build", "--in", "1h", "--", "echo", "early"]);
    let second = naq.enqueue(&["-q", "build", "--in", "2s", "--", "echo", "late"]);
    // the queue has message schedules by now, which the stream did not have
    let record = naq.wait_ended(&second);
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    assert_eq!(text(record.stdout.as_ref()), "late\n");
    let status = naq.cli(["status", delayed.as_str()]).run().succeeds();
    assert!(status.stdout.contains("scheduled"), "{}", status.stdout);
    let stream = settings(&naq, "naq_queue_build");
    assert_eq!(stream["allow_msg_schedules"], true);
    let subjects = stream["subjects"].as_array().unwrap();
    assert!(subjects.contains(&json!("naq.recheck.build.*")), "{stream}");
    assert!(subjects.contains(&json!("naq.route.build.*.*")), "{stream}");
}

#[test]
fn what_cannot_be_changed_is_refused_with_stream_setting_and_value() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let keeps_all = json!({ "subjects": ["naq.queue.kept", "naq.queue.kept.*"] });
    create_stream(&naq, "naq_queue_kept", keeps_all);
    let work = json!({ "subjects": ["naq.queue.seen"], "retention": "workqueue" });
    create_stream(&naq, "naq_queue_seen", work);
    let pushes = json!({ "stream_name": "naq_queue_seen", "config": {
        "durable_name": "naq-worker", "ack_policy": "explicit", "deliver_subject": "mine",
    }});
    api(&naq, "CONSUMER.CREATE.naq_queue_seen.naq-worker", pushes);
    let other = json!({ "subjects": ["naq.queue.taken"], "retention": "workqueue" });
    create_stream(&naq, "naq_queue_taken", other);
    let mine = json!({ "stream_name": "naq_queue_taken", "config": {
        "durable_name": "mine", "ack_policy": "explicit",
    }});
    api(&naq, "CONSUMER.CREATE.naq_queue_taken.mine", mine);
    for (queue, expected) in [
        (
            "kept",
            "stream `naq_queue_kept` has `retention` limits where naq needs workqueue",
        ),
        (
            "seen",
            "consumer `naq-worker` of stream `naq_queue_seen` has `deliver_subject` mine where naq needs unset",
        ),
        (
            "taken",
            "stream `naq_queue_taken` has `consumers` mine where naq needs naq-worker",
        ),
    ] {
        let refused = naq.cli(["worker", queue]).run();
        assert_eq!(refused.code, Some(3), "{}", refused.stderr);
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
        assert!(refused.stderr.contains("naq server check"));
    }
    // another program has the one republishing that a stream can have
    let elsewhere = json!({
        "subjects": ["$KV.naq_results.>"], "max_msgs_per_subject": 1, "discard": "new",
        "republish": { "src": "$KV.naq_results.>", "dest": "mine.>" },
    });
    // made by the workers that have ended
    remove_stream(&naq, "KV_naq_results");
    create_stream(&naq, "KV_naq_results", elsewhere);
    let refused = naq.cli(["worker", "build"]).run();
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    let expected = "stream `KV_naq_results` has `republish` $KV.naq_results.> -> mine.> where naq needs $KV.naq_results.> -> naq.event.>";
    assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    let republish = settings(&naq, "KV_naq_results")["republish"].clone();
    assert_eq!(republish["dest"], "mine.>", "it is left alone");
}

#[test]
fn server_check_lists_what_differs_and_changes_it_on_request() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let empty = naq.cli(["server", "check"]).run().succeeds();
    assert!(
        empty.stderr.contains("nothing to compare"),
        "{}",
        empty.stderr
    );
    create_bucket(&naq, "naq_results");
    create_queue(&naq, "build");
    // jobs that nobody runs within an hour would vanish
    let mut queue = settings(&naq, "naq_queue_build");
    queue["max_age"] = json!(3_600_000_000_000_u64);
    api(&naq, "STREAM.UPDATE.naq_queue_build", queue);
    let found = naq.cli(["server", "check"]).run();
    assert_eq!(found.code, Some(1), "{}", found.stderr);
    for words in [
        "KV_naq_results",
        "allow_msg_ttl",
        "naq_queue_build/naq-worker",
        "filter_subjects",
        "max_age",
        "3600s",
    ] {
        assert!(found.stdout.contains(words), "{words}: {}", found.stdout);
    }
    assert!(
        found.stderr.contains("naq server check --fix"),
        "{}",
        found.stderr
    );
    let fixed = naq.cli(["server", "check", "--fix", "--json"]).run();
    // the number of open requests of a consumer is for good
    assert_eq!(fixed.code, Some(1), "{}", fixed.stderr);
    let left: Vec<String> = fixed
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .flat_map(|one| one["differences"].as_array().unwrap().clone())
        .map(|one| one["setting"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(left, ["max_waiting"], "{}", fixed.stdout);
    assert_eq!(settings(&naq, "naq_queue_build")["max_age"], 0);
    // a removed stream is created again with the settings that naq needs
    api(
        &naq,
        "CONSUMER.DELETE.naq_queue_build.naq-worker",
        json!({}),
    );
    let _worker = naq.worker(&["build"]).spawn();
    naq.assert_jobs_still_run("build");
    let all = naq.cli(["server", "check"]).run().succeeds();
    assert!(
        all.stdout.contains("are as naq needs them"),
        "{}",
        all.stdout
    );
}
