//! Another envelope under an id that is taken: the first one stays (row 37).

use naq_protocol::{JobId, Reason, State};

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

/// An envelope of the job `mine`: the same one, whatever the space.
fn spaced(space: &str, script: &str) -> Vec<u8> {
    let envelope = format!(
        r#"{{{space}"job_id":"mine","command":"sh","args":["-c","{script}"],"max_retries":2,"retry_delay":0.1,"retry_jitter":false}}"#
    );
    envelope.into_bytes()
}

/// Publishes the job to a subject, and runs it once, by a worker that dies before it gives the message back.
fn fail_once(naq: &Naq, subject: &str, script: &str) {
    let worker = naq
        .worker(&["default"])
        .ack_wait("3s")
        .env("FAILPOINTS", "retry.slept=1*return")
        .spawn();
    naq.publish_to("default", subject, spaced("", script));
    worker.wait_exit();
}

/// Neither the record nor a subject names the message that waits for the retry.
#[test]
fn an_equivalent_envelope_is_no_conflict_while_the_job_waits_for_its_retry() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let script = "[ $NAQ_ATTEMPT = 2 ]";
    fail_once(&naq, "naq.queue.default", script);
    naq.publish("default", spaced(" ", script));
    let _worker = naq.worker(&["default"]).ack_wait("3s").spawn();
    let record = naq.wait_ended(&id("mine"));
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 2));
    naq.wait_drained("default");
    let kept = naq.dead_letters();
    assert!(kept.is_empty(), "{kept:?}");
}

/// The first message is gone, as a duplicate, when the second one is delivered for the next retry.
#[test]
fn a_job_that_is_retried_by_an_equivalent_envelope_keeps_its_other_retries() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let script = "[ $NAQ_ATTEMPT = 2 ] && sleep 6; [ $NAQ_ATTEMPT = 3 ]";
    fail_once(&naq, SUBJECT, script);
    let second = naq.publish("default", spaced(" ", script));
    let worker = || {
        let worker = naq.worker(&["default"]);
        worker.ack_wait("3s").concurrency(1).spawn()
    };
    let _runs_it = worker();
    let running = naq.wait_for(&id("mine"), "running again", |record| {
        record.state() == State::Running && record.attempt == 2
    });
    let sequence = running.lease().unwrap().sequence;
    assert_eq!(JobId::for_sequence(&running.queue, sequence), second);
    let _finds_the_first = worker();
    naq.wait_for_messages("default", 1);
    let record = naq.wait_ended(&id("mine"));
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 3));
    let kept = naq.dead_letters();
    assert!(kept.is_empty(), "{kept:?}");
}
