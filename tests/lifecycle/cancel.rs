//! Cancelling a job in each of its states.

use naq_client::CancelOutcome;
use naq_protocol::{Reason, Record, State};
use nix::sys::signal::Signal;

use crate::harness::naq::{Naq, eventually, id, is_process_alive, text};
use crate::harness::nats::TestServer;

#[test]
fn cancel_stops_a_running_job_with_its_process_tree_and_releases_its_dependents() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).with_host_pids().spawn();
    let pid_file = naq.home().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", pid_file.display());
    naq.enqueue(&["--id", "long", "--", "sh", "-c", &script]);
    naq.enqueue(&[
        "--id",
        "next",
        "--depends-on",
        "long=failure",
        "--",
        "echo",
        "gone",
    ]);
    eventually("the child exists", || {
        std::fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n'))
    });
    let child: i32 = std::fs::read_to_string(&pid_file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let waiting = naq.cli(["wait", "long"]).spawn();
    naq.cli(["cancel", "long"])
        .run()
        .succeeds()
        .expect_stdout("stopping");
    assert_eq!(waiting.close_stdout_and_wait().code(), Some(1));
    let record = naq.wait_ended(&id("long"));
    assert_eq!(
        (record.state(), record.reason()),
        (State::Cancelled, Some(Reason::Cancelled))
    );
    assert!(!is_process_alive(child));
    assert_eq!(text(naq.wait_ended(&id("next")).stdout.as_ref()), "gone\n");
    naq.cli(["cancel", "long"])
        .run()
        .succeeds()
        .expect_stdout("cancelled already");
    naq.wait_drained("default");
}

#[test]
fn cancelled_job_that_exits_with_0_has_succeeded() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    let ready = naq.home().join("ready");
    let script = format!(
        "trap 'exit 0' TERM; touch {}; while :; do sleep 0.05; done",
        ready.display()
    );
    naq.enqueue(&["--id", "graceful", "--", "sh", "-c", &script]);
    eventually("it minds the signal", || ready.exists());
    naq.cli(["cancel", "--wait", "graceful"]).run().succeeds();
    let record = naq.wait_ended(&id("graceful"));
    assert_eq!(
        (record.state(), record.exit_code),
        (State::Succeeded, Some(0))
    );
    assert!(record.cancel_requested);
}

#[test]
fn cancel_ends_a_queued_a_blocked_and_a_retrying_job_at_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.enqueue(&["--id", "queued", "--label", "a=b", "--", "true"]);
    naq.cli(["cancel", "queued"])
        .run()
        .succeeds()
        .expect_stdout("queued  cancelled");
    let record = naq.wait_ended(&id("queued"));
    assert_eq!((record.state(), record.attempt), (State::Cancelled, 0));
    assert_eq!(record.labels.get("a").map(String::as_str), Some("b"));
    assert!(record.envelope.is_some());
    assert_eq!(naq.stream_messages("default"), 0);

    let _worker = naq.worker(&["default"]).spawn();
    naq.enqueue(&["--id", "waiting", "--depends-on", "ghost", "--", "true"]);
    naq.wait_for(&id("waiting"), "waiting", |record| {
        record.state() == State::Waiting
    });
    naq.cli(["cancel", "waiting"]).run().succeeds();
    assert_eq!(naq.wait_ended(&id("waiting")).state(), State::Cancelled);

    naq.enqueue(&[
        "--id",
        "retrying",
        "--retries",
        "1",
        "--retry-delay",
        "1h",
        "--no-retry-jitter",
        "--",
        "false",
    ]);
    naq.wait_for(&id("retrying"), "retrying", |record| {
        record.state() == State::Retrying
    });
    naq.cli(["cancel", "retrying"]).run().succeeds();
    assert_eq!(naq.wait_ended(&id("retrying")).state(), State::Cancelled);
    naq.wait_drained("default");

    naq.cli(["cancel", "nobody"])
        .run()
        .exits(4)
        .expect_stderr(&["nobody"]);
}

#[test]
fn cancel_of_a_job_of_a_crashed_worker_takes_effect_after_its_lease() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["default"]).ack_wait("2s").spawn();
    naq.enqueue(&["--id", "orphan", "--", "sleep", "1000"]);
    naq.wait_running(&id("orphan"));
    worker.signal(Signal::SIGKILL);
    worker.wait_exit();
    naq.cli(["cancel", "orphan"])
        .run()
        .succeeds()
        .expect_stdout("has not answered");
    let _next = naq.worker(&["default"]).ack_wait("2s").spawn();
    let record = naq.wait_ended(&id("orphan"));
    assert_eq!((record.state(), record.attempt), (State::Cancelled, 1));
}

#[test]
fn worker_that_missed_the_cancel_notification_finds_it_in_the_record() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).ack_wait("2s").spawn();
    naq.enqueue(&["--id", "deaf", "--", "sleep", "1000"]);
    naq.wait_running(&id("deaf"));
    // Only the request is recorded: the client crashes before it notifies the worker.
    naq.block_on(async {
        let broker = naq.client().broker();
        let (record, revision) = broker.read_record(&id("deaf")).await.unwrap();
        let mut record = record.unwrap();
        record.cancel_requested = true;
        broker.write_record(&record, revision, None).await.unwrap();
    });
    assert_eq!(naq.wait_ended(&id("deaf")).state(), State::Cancelled);
}

/// A program may send the request without the right to write records.
#[test]
fn a_request_to_cancel_stops_no_job_whose_record_does_not_say_so() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    // The worker reads the record by itself only after minutes.
    let _worker = naq.worker(&["default"]).ack_wait("600s").spawn();
    let go = naq.home().join("go");
    let script = format!(
        "until [ -e {} ]; do sleep 0.05; done; echo alive",
        go.display()
    );
    naq.enqueue(&["--id", "victim", "--", "sh", "-c", &script]);
    let record = naq.wait_running(&id("victim"));
    let subject = format!("naq.control.worker.{}", record.lease().unwrap().worker_id);
    for _ in 0..5 {
        let request = r#"{"cancel":"victim"}"#.into();
        let asked = naq.nats().request(subject.clone(), request);
        let reply = naq.block_on(asked).unwrap();
        assert_eq!(&*reply.payload, br#"{"ok":true}"#);
    }
    std::fs::write(&go, "").unwrap();
    let record = naq.wait_ended(&id("victim"));
    assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    // With `cancel_requested` on the record, the same request stops a job at once.
    naq.enqueue(&["--id", "wanted", "--", "sleep", "1000"]);
    naq.wait_running(&id("wanted"));
    naq.cli(["cancel", "wanted"])
        .run()
        .succeeds()
        .expect_stdout("stopping");
    assert_eq!(naq.wait_ended(&id("wanted")).state(), State::Cancelled);
}

#[test]
fn a_cancel_with_a_condition_leaves_a_job_that_does_not_satisfy_it() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["q"]).spawn();
    let running = naq.enqueue(&["-q", "q", "--", "sleep", "60"]);
    naq.wait_running(&running);
    let delayed = naq.enqueue(&["-q", "q", "--in", "1h", "--", "true"]);
    let has_not_begun = |record: &Record| record.attempt == 0;
    naq.block_on(async {
        let client = naq.client();
        let kept = client.cancel_if(&running, has_not_begun).await.unwrap();
        assert!(kept.is_none());
        let cancelled = client.cancel_if(&delayed, has_not_begun).await.unwrap();
        assert!(matches!(cancelled, Some(CancelOutcome::Cancelled(_))));
    });
    assert_eq!(naq.wait_ended(&delayed).state(), State::Cancelled);
    let record = naq.block_on(naq.client().fetch_job(&running)).unwrap();
    assert_eq!(record.state(), State::Running);
    assert!(!record.cancel_requested);
}

/// A queued record without its message, as a server sees it that has just become the leader of the stream.
fn queued_without_message(naq: &Naq, job: &str) {
    naq.add_queue("build");
    let record: Record = serde_json::from_value(serde_json::json!({
        "job_id": job, "queue": "build", "state": "queued", "attempt": 1,
        "enqueue_time": "2026-01-01T00:00:00Z",
    }))
    .expect("a record");
    naq.block_on(async {
        let broker = naq.client().broker();
        let written = broker.write_record(&record, 0, None).await;
        written.expect("an answer");
    });
}

#[test]
fn a_job_whose_message_is_found_late_is_cancelled_with_its_envelope() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    queued_without_message(&naq, "late");
    let cancelling = naq.cli(["cancel", "late"]).spawn();
    std::thread::sleep(std::time::Duration::from_millis(500));
    naq.publish_to(
        "build",
        "naq.queue.build.late",
        br#"{"command": "true"}"#.to_vec(),
    );
    assert!(cancelling.close_stdout_and_wait().success());
    let record = naq.wait_ended(&id("late"));
    assert_eq!(record.state(), State::Cancelled);
    assert!(record.envelope.is_some(), "{record:?}");
    naq.wait_drained("build");
}

#[test]
fn a_queued_job_whose_message_is_lost_can_be_cancelled() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    queued_without_message(&naq, "lost");
    naq.cli(["cancel", "lost"]).run().succeeds();
    let record = naq.wait_ended(&id("lost"));
    assert_eq!(record.state(), State::Cancelled);
    assert!(
        record.warnings[0].contains("its message was not found"),
        "{record:?}"
    );
}
