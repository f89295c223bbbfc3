//! Another envelope under an id that is taken: the first one stays (row 37).

use naq_protocol::{Reason, State};

use crate::harness::naq::{Naq, id, text};
use crate::harness::nats::TestServer;

const SUBJECT: &str = "naq.queue.default.mine";

fn say(word: &str) -> Vec<u8> {
    format!(r#"{{"command":"echo","args":["{word}"]}}"#).into_bytes()
}

#[test]
fn a_different_envelope_under_a_queued_id_is_a_conflict() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("default");
    // published by another program, without a message id that the server could deduplicate
    let first = r#"{"job_id":"mine","command":"echo","args":["first"]}"#;
    naq.publish_to("default", SUBJECT, first.into());
    for (word, code) in [("first", 0), ("other", 5)] {
        naq.cli(["enqueue", "--id", "mine", "--", "echo", word])
            .run()
            .exits(code);
        naq.cli(["enqueue", "--file", "-"])
            .stdin(first.replace("first", word))
            .run()
            .exits(code);
    }
    assert_eq!(naq.stream_messages("default"), 1);
}

/// The job ends, and its message is removed, between two reads of the second enqueue.
#[test]
fn the_same_request_is_no_conflict_although_the_job_ends_meanwhile() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    let enqueue = |script: &str| naq.cli(["enqueue", "--id", "mine", "--", "sh", "-c", script]);
    enqueue("sleep 2").run().succeeds();
    naq.wait_for(&id("mine"), "running", |record| {
        record.state() == State::Running
    });
    // each reads the record of the running job, and its envelope when the job has ended
    let late = |script: &str| enqueue(script).env("FAILPOINTS", "envelope.read=1*sleep(5000)");
    let (same, other) = (late("sleep 2").follow(), late("true").follow());
    assert_eq!(same.wait_exit().code(), Some(0));
    assert_eq!(other.wait_exit().code(), Some(5));
}

#[test]
fn a_second_message_with_another_envelope_is_dead_lettered_and_not_run() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).concurrency(2).spawn();
    let retrying =
        br#"{"command":"sh","args":["-c","echo $NAQ_ATTEMPT; [ $NAQ_ATTEMPT = 2 ]"],"max_retries":1,"retry_delay":2,"retry_jitter":false}"#;
    naq.publish_to("default", SUBJECT, retrying.to_vec());
    naq.wait_for(&id("mine"), "retrying", |record| {
        record.state() == State::Retrying
    });
    naq.publish_to("default", SUBJECT, say("second"));
    let record = naq.wait_ended(&id("mine"));
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 2));
    assert_eq!(text(record.stdout.as_ref()), "2\n");
    // also once the first job has ended
    naq.publish_to("default", SUBJECT, say("third"));
    naq.wait_drained("default");
    let kept = naq.dead_letters();
    assert_eq!(kept.len(), 2, "{kept:#?}");
    for (job, word) in kept.iter().zip(["second", "third"]) {
        assert_eq!(job.payload, say(word));
        let record = naq.wait_ended(&job.job_id);
        assert_eq!(
            (record.state(), record.reason()),
            (State::Rejected, Some(Reason::Invalid))
        );
        assert!(record.error.unwrap().contains("`mine` is taken"));
    }
}

#[test]
fn an_equivalent_envelope_under_a_used_id_is_a_duplicate() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    naq.publish_to("default", SUBJECT, say("once"));
    assert_eq!(naq.wait_ended(&id("mine")).state(), State::Succeeded);
    naq.publish_to(
        "default",
        SUBJECT,
        br#" { "args" : ["once"], "command" : "echo" } "#.to_vec(),
    );
    naq.wait_drained("default");
    assert_eq!(naq.wait_ended(&id("mine")).attempt, 1);
    assert!(naq.dead_letters().is_empty());
}
