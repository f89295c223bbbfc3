//! A suspended server, and many jobs that fail at once.

use std::collections::BTreeSet;

use naq_jetstream::NewJob;
use naq_protocol::{Envelope, JobId, QueueName, State};
use nix::sys::signal::Signal;

use crate::harness::naq::{Naq, eventually, is_process_alive};
use crate::harness::nats::TestServer;

/// A publish that the server has stored but not acknowledged in time is repeated, and counts once.
#[test]
fn an_enqueue_while_the_server_is_suspended_is_stored_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let queue = naq.client().queue("build").unwrap();
    let envelope = Envelope::command("true", [] as [&str; 0]);
    server.pause();
    let job = std::thread::scope(|scope| {
        let handle = naq.handle();
        let enqueue = scope.spawn(|| handle.block_on(queue.enqueue(&envelope)));
        // a request with the same timeout: when it has given up, so has the first publish
        assert!(handle.block_on(queue.info()).is_err());
        server.resume();
        enqueue.join().unwrap().unwrap()
    });
    assert_eq!(naq.stream_messages("build"), 1);
    let _worker = naq.worker(&["build"]).spawn();
    let record = naq.wait_ended(&job);
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 1));
    naq.wait_drained("build");
}

/// Publishes that were in flight when the server died are repeated together, and not each after its
/// own timeout.
#[test]
fn a_bulk_enqueue_that_loses_its_server_continues_with_the_next() {
    const JOBS: u64 = 60;
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let queue = QueueName::new("build").unwrap();
    let mut bulk = naq.client().bulk();
    server.pause();
    naq.block_on(async {
        for _ in 0..JOBS {
            let payload = br#"{"command":"true"}"#.as_slice().into();
            bulk.push(NewJob::new(queue.clone(), payload))
                .await
                .unwrap();
        }
    });
    server.kill9();
    server.restart();
    assert_eq!(naq.block_on(bulk.finish()).unwrap(), JOBS);
    assert!(bulk.take_rejected().is_none());
    assert_eq!(naq.stream_messages("build"), JOBS);
}

/// A worker continues after its server was suspended for longer than the request timeout.
#[test]
fn a_job_that_ends_while_the_server_is_suspended_is_recorded_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(1).spawn();
    let (go, ended) = (naq.home().join("go"), naq.home().join("ended"));
    let script = format!(
        "echo x >> ran; while [ ! -e {} ]; do sleep 0.05; done; touch {}",
        go.display(),
        ended.display()
    );
    let job = naq.publish("build", serde_json::json!({"script": script}).to_string());
    let ran = naq.home().join("ran");
    eventually("its command runs", || ran.exists());
    server.pause();
    std::fs::write(&go, "").unwrap();
    eventually("it has ended", || ended.exists());
    worker.expect_stderr("cannot record the outcome yet");
    server.resume();
    let record = naq.wait_ended(&job);
    assert_eq!(
        (record.state(), record.attempt, record.crashes),
        (State::Succeeded, 1, 0)
    );
    naq.wait_drained("build");
    assert_eq!(std::fs::read_to_string(ran).unwrap(), "x\n");
    assert!(worker.stop().success());
}

/// Jobs that all fail at once are not all retried at once, and do not delay other jobs. (A tenth of
/// the row's number, to save time.)
#[test]
fn retries_of_a_thousand_jobs_that_fail_at_once_are_spread() {
    const JOBS: usize = 1_000;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let lines: String = (0..JOBS)
        .map(|index| {
            let job = serde_json::json!({
                "job_id": format!("f{index}"), "command": "false",
                "max_retries": 1, "retry_delay": "4s",
            });
            format!("{job}\n")
        })
        .collect();
    naq.cli(["enqueue", "-q", "failing", "--quiet", "--file", "-"])
        .stdin(lines)
        .run()
        .succeeds();
    let _worker = naq.worker(&["failing", "well"]).concurrency(8).spawn();
    let first = JobId::new("f0").unwrap();
    naq.wait_for(&first, "failed once", |record| record.attempt >= 1);
    // while the retries are delayed
    naq.assert_jobs_still_run("well");
    let mut waits = BTreeSet::new();
    for index in 0..JOBS {
        let job = JobId::new(format!("f{index}")).unwrap();
        let record = naq.wait_ended(&job);
        assert_eq!((record.state(), record.attempt), (State::Failed, 2));
        waits.insert(record.started_at.unwrap().unix_ms() / 250);
    }
    // the delays are spread over four seconds: if they were bunched, they would fill one quarter or
    // two
    assert!(waits.len() >= 8, "{waits:?}");
    assert_eq!(naq.dead_letters().len(), JOBS);
    naq.wait_drained("failing");
}

#[test]
fn services_end_when_asked_while_nats_is_away() {
    for (service, works) in [
        (["worker", "build"].as_slice(), "working"),
        (&["scheduler"], "leading"),
        (&["dev", "build"], "leading"),
    ] {
        let server = TestServer::start();
        let naq = Naq::new(&server);
        let process = naq.cli(service.iter().copied()).follow();
        process.expect_stderr(works);
        server.kill9();
        process.expect_stderr("the connection to NATS is lost");
        assert!(process.stop().success(), "{service:?}");
    }
}

#[test]
fn a_second_signal_ends_a_worker_with_a_job_while_nats_is_away() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).with_host_pids().spawn();
    let pid_file = naq.home().join("pid");
    let script = format!("echo $$ > {}; exec sleep 600", pid_file.display());
    naq.publish("build", serde_json::json!({"script": script}).to_string());
    let mut pid = None;
    eventually("its command runs", || {
        let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
        pid = text.trim().parse().ok();
        pid.is_some()
    });
    server.kill9();
    worker.expect_stderr("the connection to NATS is lost");
    worker.signal(Signal::SIGTERM);
    worker.expect_stderr("draining");
    worker.signal(Signal::SIGTERM);
    assert!(worker.wait_exit().success());
    assert!(!is_process_alive(pid.unwrap()));
}

#[test]
fn services_that_start_before_nats_wait_for_it() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    server.kill9();
    let services = [["worker", "build"].as_slice(), &["scheduler"], &["dev"]];
    for service in services {
        let process = naq.cli(service.iter().copied()).follow();
        process.expect_stderr("waiting for NATS");
        assert!(process.stop().success(), "{service:?}");
        let bounded = service.iter().chain(&["--connect-timeout", "1s"]);
        naq.cli(bounded.copied())
            .run()
            .exits(3)
            .expect_stderr(&["cannot connect to NATS"]);
    }
    // a verb that does one thing does not wait
    naq.cli(["jobs"]).run().exits(3);
    let worker = naq.cli(["worker", "build"]).follow();
    worker.expect_stderr("waiting for NATS");
    server.restart();
    worker.expect_stderr("working");
    naq.assert_jobs_still_run("build");
    assert_eq!(worker.stderr_text().matches("waiting for NATS").count(), 1);
    assert!(worker.stop().success());
}

#[test]
fn a_lost_connection_is_logged_once_and_so_is_its_return() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).spawn();
    server.kill9();
    worker.expect_stderr("the connection to NATS is lost");
    server.restart();
    worker.expect_stderr("connected to NATS again");
    naq.assert_jobs_still_run("build");
    let log = worker.log();
    for line in ["the connection to NATS is lost", "connected to NATS again"] {
        assert_eq!(log.matches(line).count(), 1, "{log}");
    }
    assert!(worker.stop().success());
}
