//! Poison messages, which the client library cannot parse, sent as raw bytes.

use naq_protocol::{JobId, QueueName, Reason, State};

use crate::harness::naq::{Naq, id};
use crate::harness::nats::TestServer;

const GOOD: &[u8] = br#"{"command":"echo","args":["well"]}"#;

/// Subjects and headers, each of which makes the client drop its connection or panic.
fn poison() -> Vec<(&'static str, &'static [u8], &'static [u8])> {
    vec![
        (
            "a subject that is not UTF-8",
            b"naq.queue.build.\xff\xfe",
            b"",
        ),
        (
            "a header without a colon",
            b"naq.queue.build",
            b"NATS/1.0\r\nno colon here\r\n\r\n",
        ),
        (
            "a header version of another kind",
            b"naq.queue.build",
            b"NATS/2.0\r\nA: b\r\n\r\n",
        ),
        ("no header version", b"naq.queue.build", b"A: b\r\n\r\n"),
        (
            "a header that is not UTF-8",
            b"naq.queue.build",
            b"NATS/1.0\r\nA: \xff\r\n\r\n",
        ),
        (
            "a header's name with a space",
            b"naq.queue.build",
            b"NATS/1.0\r\nA b: c\r\n\r\n",
        ),
        (
            "a fold before any header",
            b"naq.queue.build",
            b"NATS/1.0\r\n folded\r\n\r\n",
        ),
        (
            "a lone carriage return",
            b"naq.queue.build",
            b"NATS/1.0\r\nA: b\rc\r\n\r\n",
        ),
        (
            "a fold after an empty line",
            b"naq.queue.build",
            b"NATS/1.0\r\nA: b\r\n\r\n folded\r\n\r\n",
        ),
    ]
}

/// Enqueues a message between two valid jobs and returns the three ids.
fn between_good_jobs(naq: &Naq, first: u64, subject: &[u8], headers: &[u8]) -> Vec<JobId> {
    let queue = QueueName::new("build").unwrap();
    let mut raw = naq.raw();
    raw.publish(b"naq.queue.build", GOOD);
    if headers.is_empty() {
        raw.publish(subject, GOOD);
    } else {
        raw.publish_with_headers(subject, headers, GOOD);
    }
    raw.publish(b"naq.queue.build", GOOD);
    (first..first + 3)
        .map(|sequence| JobId::for_sequence(&queue, sequence))
        .collect()
}

#[test]
fn poison_messages_become_dead_letters_and_their_neighbours_run() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(1).spawn();
    let mut sequence = 1;
    for (what, subject, headers) in poison() {
        let jobs = between_good_jobs(&naq, sequence, subject, headers);
        sequence += 3;
        for neighbour in [&jobs[0], &jobs[2]] {
            assert_eq!(
                naq.wait_ended(neighbour).state(),
                State::Succeeded,
                "{what}"
            );
        }
        let record = naq.wait_ended(&jobs[1]);
        assert_eq!(record.state(), State::Rejected, "{what}: {record:#?}");
        assert_eq!(record.reason(), Some(Reason::Invalid), "{what}");
        assert_eq!(naq.dead_letter(&jobs[1]).payload, GOOD, "{what}");
    }
    naq.wait_drained("build");
    assert!(worker.stop().success());
}

/// A program that waits for the job waits for the id in the subject.
#[test]
fn poison_message_is_recorded_under_the_id_of_its_subject_unless_another_job_has_it() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(1).spawn();
    let headers = b"NATS/1.0\r\nno colon here\r\n\r\n";
    naq.enqueue(&[
        "-q",
        "build",
        "--id",
        "after",
        "--depends-on",
        "mine",
        "--",
        "true",
    ]);
    naq.wait_for(&id("after"), "waiting", |record| {
        record.state() == State::Waiting
    });
    let mut raw = naq.raw();
    raw.publish_with_headers(b"naq.queue.build.mine", headers, GOOD);
    let record = naq.wait_for(&id("mine"), "rejected", |record| !record.placeholder);
    assert_eq!(record.state(), State::Rejected, "{record:#?}");
    assert_eq!(naq.dead_letter(&id("mine")).payload, GOOD);
    // The job that waited for it learns of its end.
    let after = naq.wait_ended(&id("after"));
    assert_eq!(after.reason(), Some(Reason::Dependency), "{after:#?}");

    naq.enqueue(&["-q", "build", "--id", "theirs", "--", "true"]);
    naq.wait_ended(&id("theirs"));
    let last = naq.stream_last_sequence("build");
    raw.publish_with_headers(b"naq.queue.build.theirs", headers, GOOD);
    let queue = QueueName::new("build").unwrap();
    let record = naq.wait_ended(&JobId::for_sequence(&queue, last + 1));
    assert_eq!(record.state(), State::Rejected, "{record:#?}");
    assert_eq!(naq.wait_ended(&id("theirs")).state(), State::Succeeded);
    naq.wait_drained("build");
    assert!(worker.stop().success());
}

/// Newer servers remove the status from a published message; a status that an older one leaves must
/// not be taken for the server's own reply to a pull request.
#[test]
fn a_status_header_of_the_producer_is_not_taken_for_the_servers() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(1).spawn();
    let mut sequence = 1;
    for headers in [
        &b"NATS/1.0 503\r\n\r\n"[..],
        b"NATS/1.0 404 No Messages\r\nA: b\r\n\r\n",
        b"NATS/1.0 abc\r\nA: b\r\n\r\n",
        b"NATS/1.0 099\r\nA: b\r\n\r\n",
    ] {
        let jobs = between_good_jobs(&naq, sequence, b"naq.queue.build", headers);
        sequence += 3;
        for neighbour in [&jobs[0], &jobs[2]] {
            assert_eq!(naq.wait_ended(neighbour).state(), State::Succeeded);
        }
        naq.wait_ended(&jobs[1]);
    }
    naq.wait_drained("build");
    assert!(worker.stop().success());
}

/// Deliveries that are lost with the connection that the poison message broke are requeued by a
/// nak. Waiting until the server takes the worker for dead would take longer than this test.
#[test]
fn deliveries_lost_with_a_poison_message_are_requeued_at_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let queue = QueueName::new("build").unwrap();
    let mut raw = naq.raw();
    for (_, subject, headers) in poison().into_iter().take(3) {
        for _ in 0..5 {
            raw.publish(b"naq.queue.build", GOOD);
        }
        if headers.is_empty() {
            raw.publish(subject, GOOD);
        } else {
            raw.publish_with_headers(subject, headers, GOOD);
        }
    }
    raw.publish(b"naq.queue.build", GOOD);
    let worker = naq
        .worker(&["build"])
        .concurrency(19)
        .ack_wait("10m")
        .spawn();
    for sequence in 1..=19 {
        let record = naq.wait_ended(&JobId::for_sequence(&queue, sequence));
        let expected = if sequence % 6 == 0 {
            State::Rejected
        } else {
            State::Succeeded
        };
        assert_eq!(record.state(), expected, "{sequence}: {record:#?}");
        assert!(record.attempt <= 1 && record.crashes == 0);
    }
    naq.wait_drained("build");
    assert!(worker.stop().success());
}
