//! The consumer that a queue has before its first worker, by which an autoscaler counts its jobs.

use serde_json::json;

use super::api;
use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

const SECOND_NS: u64 = 1_000_000_000;

fn consumer(naq: &Naq, queue: &str) -> serde_json::Value {
    let subject = format!("CONSUMER.INFO.naq_queue_{queue}.naq-worker");
    api(naq, &subject, json!({}))
}

#[test]
fn the_process_that_creates_a_queue_creates_its_consumer() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let lines = "{\"command\": \"true\"}\n{\"command\": \"true\"}\n";
    naq.file("jobs.ndjson", lines);
    naq.cli(["queue", "add", "added"]).run().succeeds();
    naq.enqueue(&["--queue", "single", "--", "true"]);
    naq.cli(["enqueue", "--queue", "bulk", "--file", "jobs.ndjson"])
        .run()
        .succeeds();
    for (queue, pending) in [("added", 0), ("single", 1), ("bulk", 2)] {
        assert_eq!(consumer(&naq, queue)["num_pending"], pending, "{queue}");
    }
    // each job of `naq run` has a consumer of its own, and a work queue allows no second one
    naq.cli(["run", "--", "true"]).run().succeeds();
    assert!(!naq.has_consumer("run", "naq-worker"));
    naq.cli(["run", "--", "true"]).run().succeeds();
    // what was created is what naq needs
    naq.cli(["server", "check"]).run().succeeds();
}

#[test]
fn the_first_worker_decides_how_long_its_queue_waits() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let job = naq.enqueue(&["--queue", "build", "--", "true"]);
    let ack_wait = || consumer(&naq, "build")["config"]["ack_wait"].clone();
    assert_eq!(ack_wait(), 30 * SECOND_NS);
    let first = naq.worker(&["build"]).ack_wait("2s").spawn();
    naq.wait_ended(&job);
    assert_eq!(ack_wait(), 2 * SECOND_NS);
    assert!(first.stop().success());
    let second = naq.worker(&["build"]).ack_wait("9s").spawn();
    let job = naq.enqueue(&["--queue", "build", "--", "true"]);
    naq.wait_ended(&job);
    assert_eq!(ack_wait(), 2 * SECOND_NS);
    assert!(second.stop().success());
}
