//! A worker that was suspended past its leases, with its process or its machine.

use naq_protocol::State;
use nix::sys::signal::Signal;

use crate::harness::naq::{Naq, eventually, is_process_alive};
use crate::harness::nats::TestServer;
use crate::harness::shifted_clock::ShiftedClock;

/// A job whose first attempt runs until it is killed, and whose second succeeds.
const SCRIPT: &str = "echo $$ > pid.$NAQ_ATTEMPT; [ $NAQ_ATTEMPT = 2 ] || exec sleep 3600";

fn first_pid(naq: &Naq) -> Option<i32> {
    let pid = std::fs::read_to_string(naq.home().join("pid.1")).ok()?;
    pid.trim().parse().ok()
}

/// Index of `words` in a log; fails if it lacks them.
#[track_caller]
fn position(log: &str, words: &str) -> usize {
    let found = log.find(words);
    found.unwrap_or_else(|| panic!("no {words:?} in {log}"))
}

#[test]
fn a_worker_stopped_past_its_lease_kills_its_job_before_it_takes_another() {
    const ACK_WAIT: &str = "3s";
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let first = naq
        .worker(&["build"])
        .with_host_pids()
        .concurrency(2)
        .ack_wait(ACK_WAIT)
        .spawn();
    let job = naq.publish("build", serde_json::json!({ "script": SCRIPT }).to_string());
    eventually("the job runs", || first_pid(&naq).is_some());
    let pid = first_pid(&naq).unwrap();
    first.signal(Signal::SIGSTOP);
    let second = naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn();
    let record = naq.wait_ended(&job);
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 2));
    // the spawner killed the first attempt, since its worker could not
    assert!(!is_process_alive(pid));
    assert!(second.stop().success());
    // delivered to the first worker as soon as it continues
    let next = naq.publish("build", r#"{"command":"true"}"#);
    first.signal(Signal::SIGCONT);
    naq.wait_ended(&next);
    first.expect_stderr("lease lost");
    position(&first.log(), "the worker was suspended");
    assert_eq!(naq.wait_ended(&job).finished_at(), record.finished_at());
    assert!(first.stop().success());
}

#[test]
fn a_worker_whose_machine_was_suspended_past_its_lease_kills_its_job() {
    // Renewed every two minutes, by timers that do not count suspended time: not within this test.
    const ACK_WAIT: &str = "360s";
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let clock = ShiftedClock::new(&naq);
    let worker = naq
        .worker(&["build"])
        .with_host_pids()
        .concurrency(2)
        .ack_wait(ACK_WAIT);
    let worker = clock
        .environment()
        .into_iter()
        .fold(worker, |worker, (name, value)| worker.env(name, &value))
        .spawn();
    let job = naq.publish("build", serde_json::json!({ "script": SCRIPT }).to_string());
    eventually("the job runs", || first_pid(&naq).is_some());
    let pid = first_pid(&naq).unwrap();
    // a suspension that the lease outlasts changes nothing
    clock.suspend_s(60);
    naq.assert_jobs_still_run("build");
    assert!(is_process_alive(pid));
    // whatever wakes the worker after a longer one, it kills the job first
    clock.suspend_s(60 + 600);
    naq.assert_jobs_still_run("build");
    eventually("the job is killed", || !is_process_alive(pid));
    worker.expect_stderr("lease lost");
    let log = worker.log();
    assert!(
        position(&log, "the worker was suspended") < position(&log, "lease lost"),
        "{log}"
    );
    let record = naq.block_on(naq.client().fetch_job(&job)).unwrap();
    assert_eq!(record.state(), State::Running, "another worker ends it");
    assert!(worker.stop().success());
}

#[test]
fn a_worker_whose_only_events_are_renewals_was_not_suspended() {
    // renewed every 667 ms; the next heartbeat is due after five seconds
    const ACK_WAIT: &str = "2s";
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn();
    let job = naq.publish("build", r#"{"command": "sleep", "args": ["4"]}"#);
    assert_eq!(naq.wait_ended(&job).attempt, 1);
    assert!(!worker.log().contains("suspended"), "{}", worker.log());
    assert!(worker.stop().success());
}
