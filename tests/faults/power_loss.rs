//! What a power cut leaves behind: parts of what the server had not flushed to its disk, and not the same
//! parts of everything. `chaos::power_cuts` cuts the power; here the states are made one by one.

use naq_protocol::{JobId, Record, State};
use serde_json::json;

use crate::harness::naq::{Naq, eventually, id};
use crate::harness::nats::TestServer;

/// Runs some jobs, so that the consumer of the queue has delivered their sequences.
fn run_some(naq: &Naq, labels: &str) {
    let jobs: Vec<JobId> = (0..20)
        .map(|nth| {
            let job = json!({
                "job_id": format!("before-{labels}-{nth}"), "command": "true",
                "requires": if labels.is_empty() { json!({}) } else { json!({"gpu": labels}) },
            });
            naq.publish("build", job.to_string());
            id(&format!("before-{labels}-{nth}"))
        })
        .collect();
    for job in &jobs {
        assert_eq!(naq.wait_ended(job).state(), State::Succeeded);
    }
    naq.wait_drained("build");
}

/// The queue is created again over the state of its lost consumer.
#[test]
fn a_worker_delivers_the_jobs_of_a_queue_that_was_lost_and_created_again() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["build"])
        .concurrency(2)
        .arg("--label")
        .arg("gpu=yes")
        .spawn();
    let plain = naq.worker(&["build"]).concurrency(2).spawn();
    run_some(&naq, "");
    run_some(&naq, "yes");
    naq.cli(["queue", "set", "build", "--max-running", "3"])
        .run()
        .succeeds();
    server.stop_gracefully();
    server.forget_stream("naq_queue_build");
    server.restart();
    eventually("the queue exists again", || {
        naq.cli(["queue", "list", "--json"])
            .run()
            .stdout
            .contains("build")
    });
    let delayed = naq.enqueue(&["-q", "build", "--in", "1s", "--", "true"]);
    for nth in 0..3 {
        let name = format!("after-{nth}");
        naq.publish(
            "build",
            json!({"job_id": name, "command": "true"}).to_string(),
        );
        assert_eq!(naq.wait_ended(&id(&name)).state(), State::Succeeded);
    }
    let routed = json!({"job_id": "routed", "command": "true", "requires": {"gpu": "yes"}});
    naq.publish("build", routed.to_string());
    assert_eq!(naq.wait_ended(&id("routed")).state(), State::Succeeded);
    assert_eq!(naq.wait_ended(&delayed).state(), State::Succeeded);
    let logs = worker.log() + &plain.log();
    assert!(
        logs.contains("consumer is past the end of its stream")
            || logs.contains("consumer has the state of a lost stream"),
        "{logs}"
    );
    naq.wait_drained("build");
    assert!(worker.stop().success() && plain.stop().success());
}

/// A consumer that was recreated counts deliveries from 1. A record may name a later delivery of the
/// same sequence.
#[test]
fn a_record_with_a_later_delivery_does_not_hold_up_the_message() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let record: Record = serde_json::from_value(json!({
        "job_id": "a", "queue": "build", "state": "running", "attempt": 1,
        "enqueue_time": "2026-01-01T00:00:00Z",
        "lease": {"worker_id": "gone", "sequence": 1, "delivery": 5},
    }))
    .unwrap();
    naq.block_on(async {
        let broker = naq.client().broker();
        broker.write_record(&record, 0, None).await.unwrap();
    });
    naq.publish("build", r#"{"job_id": "a", "command": "true"}"#);
    let _worker = naq
        .worker(&["build"])
        .ack_wait("30s")
        .env("NAQ_TAKEOVER_AFTER", "6s")
        .spawn();
    let ended = naq.wait_ended(&id("a"));
    assert_eq!((ended.state(), ended.attempt), (State::Succeeded, 2));
}

/// The last records are lost, and their revisions are given again. What an attempt passes to a database
/// grows all the same.
#[test]
fn the_fence_of_a_retry_grows_although_the_records_are_lost() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(2).spawn();
    run_some(&naq, "");
    server.stop_gracefully();
    let early = server.messages("KV_naq_results");
    server.restart();
    for _ in 0..20 {
        let job = naq.publish("build", r#"{"command": "true"}"#);
        naq.wait_ended(&job);
    }
    let ran = naq.home().join("ran");
    let job = json!({
        "job_id": "a", "max_retries": 1, "retry_delay": "4s",
        "script": format!("echo $NAQ_FENCE >> {}; [ -e second ]", ran.display()),
    });
    naq.publish("build", job.to_string());
    naq.wait_for(&id("a"), "retrying", |record| {
        record.state() == State::Retrying
    });
    naq.wait_for_messages("build", 1);
    std::fs::write(naq.home().join("second"), "").unwrap();
    server.stop_gracefully();
    server.restore_messages("KV_naq_results", &early);
    server.restart();
    assert_eq!(naq.wait_ended(&id("a")).state(), State::Succeeded);
    let fences: Vec<u64> = std::fs::read_to_string(&ran)
        .unwrap()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    assert!(fences.len() == 2 && fences[0] < fences[1], "{fences:?}");
}

/// A server that forgot a stream has its messages again once the stream is created, unless the new stream
/// is to begin after them.
#[test]
fn records_are_kept_although_the_server_forgot_their_bucket() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(2).spawn();
    run_some(&naq, "");
    server.stop_gracefully();
    server.forget_settings("KV_naq_results");
    server.restart();
    naq.publish("build", r#"{"job_id": "after", "command": "true"}"#);
    assert_eq!(naq.wait_ended(&id("after")).state(), State::Succeeded);
    let job = id("before--0");
    let read = naq.client().broker().read_record(&job);
    let (record, _) = naq.block_on(read).unwrap();
    assert_eq!(
        record.map(|record| record.state()),
        Some(State::Succeeded),
        "{}",
        worker.log()
    );
    assert!(worker.stop().success());
}
