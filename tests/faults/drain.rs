//! A worker that drains or has no free slot, and its jobs. How queues share slots.

use naq_protocol::{JobId, State};
use nix::sys::signal::Signal;

use crate::harness::naq::{Naq, eventually, is_process_alive};
use crate::harness::nats::TestServer;

fn waiting_for(naq: &Naq, file: &str) -> String {
    let file = naq.home().join(file);
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; echo done",
        file.display()
    );
    serde_json::json!({"script": script}).to_string()
}

#[test]
fn draining_on_term_or_int_finishes_running_jobs_and_claims_no_more() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for (queue, signal) in [("term", Signal::SIGTERM), ("int", Signal::SIGINT)] {
        let worker = naq.worker(&[queue]).concurrency(1).spawn();
        let running = naq.publish(queue, waiting_for(&naq, queue));
        let waiting = naq.publish(queue, r#"{"command":"true"}"#);
        naq.wait_running(&running);
        worker.signal(signal);
        worker.expect_stderr("draining");
        std::fs::write(naq.home().join(queue), "").unwrap();
        assert!(worker.wait_exit().success());
        let record = naq.wait_ended(&running);
        assert_eq!((record.state(), record.attempt), (State::Succeeded, 1));
        let left = naq.block_on(naq.client().fetch_job(&waiting)).unwrap();
        assert_eq!(left.state(), State::Queued);
        let _next = naq.worker(&[queue]).spawn();
        assert_eq!(naq.wait_ended(&waiting).attempt, 1);
    }
}

#[test]
fn jobs_that_outlast_the_drain_timeout_are_requeued_without_using_a_retry() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["build"])
        .concurrency(1)
        .ack_wait("10m")
        .arg("--drain-timeout")
        .arg("500ms")
        .spawn();
    let job = naq.publish("build", waiting_for(&naq, "go"));
    naq.wait_running(&job);
    worker.signal(Signal::SIGTERM);
    assert!(worker.wait_exit().success());
    let (record, _) = naq
        .block_on(naq.client().broker().read_record(&job))
        .unwrap();
    let record = record.unwrap();
    assert_eq!(
        (record.state(), record.attempt, record.crashes),
        (State::Queued, 0, 0)
    );
    std::fs::write(naq.home().join("go"), "").unwrap();
    // requeued by a nak: waiting for the lease to expire would take longer than this test
    let _next = naq.worker(&["build"]).spawn();
    let record = naq.wait_ended(&job);
    assert_eq!(
        (record.state(), record.attempt, record.crashes),
        (State::Succeeded, 1, 0)
    );
}

#[test]
fn a_second_signal_stops_at_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["build"])
        .concurrency(2)
        .arg("--drain-timeout")
        .arg("1h")
        .arg("--kill-grace")
        .arg("1h")
        .spawn();
    // a job that ignores TERM
    let stubborn = serde_json::json!({"script": "trap '' TERM; while :; do sleep 0.1; done"});
    let jobs = [
        naq.publish("build", stubborn.to_string()),
        naq.publish("build", waiting_for(&naq, "never")),
    ];
    for job in &jobs {
        naq.wait_running(job);
    }
    worker.signal(Signal::SIGTERM);
    worker.expect_stderr("draining");
    worker.signal(Signal::SIGTERM);
    assert!(worker.wait_exit().success());
    for job in &jobs {
        let record = naq.wait_for(job, "queued", |record| record.state() == State::Queued);
        assert_eq!((record.attempt, record.crashes), (0, 0));
    }
}

#[test]
fn deliveries_to_a_worker_without_a_free_slot_are_requeued() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    // by a nak: waiting for the lease to expire would take longer than this test
    let busy = naq.worker(&["one", "two"]).concurrency(1);
    let _busy = busy.ack_wait("10m").spawn();
    let long = naq.publish("one", waiting_for(&naq, "go"));
    naq.wait_running(&long);
    let jobs: Vec<JobId> = (0..3)
        .map(|_| naq.publish("two", r#"{"command":"true"}"#))
        .collect();
    let idle = naq.worker(&["two"]).concurrency(1);
    let _idle = idle.ack_wait("10m").spawn();
    for job in &jobs {
        let record = naq.wait_ended(job);
        assert_eq!((record.state(), record.attempt), (State::Succeeded, 1));
    }
    assert_eq!(naq.wait_running(&long).state(), State::Running);
    std::fs::write(naq.home().join("go"), "").unwrap();
    naq.wait_ended(&long);
}

/// Runs ten jobs from each of two queues on one slot, and returns the order of their queues.
fn order_of(naq: &Naq, order: &str) -> Vec<String> {
    const JOBS: usize = 10;
    let (high, low) = (format!("{order}-high"), format!("{order}-low"));
    let file = naq.home().join(order);
    let script = serde_json::json!({"script": format!("echo $NAQ_QUEUE >> {}", file.display())});
    let mut jobs = Vec::new();
    for queue in [&high, &low] {
        naq.add_queue(queue);
        jobs.extend((0..JOBS).map(|_| naq.publish(queue, script.to_string())));
    }
    let worker = naq
        .worker(&[&high, &low])
        .concurrency(1)
        .arg("--order")
        .arg(order)
        .spawn();
    for job in &jobs {
        assert_eq!(naq.wait_ended(job).state(), State::Succeeded);
    }
    assert!(worker.stop().success());
    let ran = std::fs::read_to_string(file).unwrap();
    ran.lines().map(str::to_owned).collect()
}

#[test]
fn strict_order_serves_the_first_queue_first_and_fair_order_alternates() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let strict = order_of(&naq, "strict");
    // the very first job may be from either queue: the worker has no state of the queues yet
    let early = strict[..11]
        .iter()
        .filter(|queue| *queue == "strict-high")
        .count();
    assert_eq!(early, 10, "{strict:?}");
    let fair = order_of(&naq, "fair");
    let early = fair[..10]
        .iter()
        .filter(|queue| *queue == "fair-high")
        .count();
    assert!((4..=6).contains(&early), "{fair:?}");
}

/// Row 49.
#[test]
fn a_job_that_keeps_forking_while_its_worker_drains_leaves_no_process() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["build"])
        .with_host_pids()
        .concurrency(1)
        .arg("--drain-timeout")
        .arg("300ms")
        .arg("--kill-grace")
        .arg("300ms")
        .spawn();
    let pids = naq.home().join("pids");
    // processes that ignore TERM, each in its own session and the parent of the next
    let script = format!(
        "trap '' TERM; while :; do setsid sh -c 'trap \"\" TERM; echo $$ >> {}; sleep 1000' & sleep 0.02; done",
        pids.display()
    );
    let job = naq.publish("build", serde_json::json!({"script": script}).to_string());
    eventually("it forks", || {
        std::fs::read_to_string(&pids).is_ok_and(|text| text.lines().count() > 10)
    });
    worker.signal(Signal::SIGTERM);
    assert!(worker.wait_exit().success());
    for pid in std::fs::read_to_string(&pids).unwrap().lines() {
        assert!(!is_process_alive(pid.parse().unwrap()), "{pid} is left");
    }
    let (record, _) = naq
        .block_on(naq.client().broker().read_record(&job))
        .unwrap();
    assert_eq!(record.unwrap().state(), State::Queued);
}
