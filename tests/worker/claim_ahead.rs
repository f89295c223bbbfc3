//! Workers that claim the next of many short jobs ahead.

use futures_util::StreamExt;
use naq_protocol::{JobId, Record, State};
use nix::sys::signal::Signal;

use super::{release, until_file};
use crate::harness::naq::{Naq, Worker, eventually};
use crate::harness::nats::TestServer;

/// Jobs after which a worker claims ahead for certain.
const SHORT_JOBS: usize = 60;

/// Starts a worker that takes its jobs for short ones, however slow the machine is.
fn spawn(naq: &Naq, name: &str, ack_wait: &str) -> Worker {
    let worker = naq.worker(&["build"]).concurrency(1).ack_wait(ack_wait);
    let worker = worker.env("FAILPOINTS", "claim_ahead.short=return(1)");
    worker.arg("--name").arg(name).spawn()
}

fn publish_short(naq: &Naq, count: usize) -> Vec<JobId> {
    (0..count)
        .map(|_| naq.publish("build", r#"{"command": "/bin/true"}"#))
        .collect()
}

fn read(naq: &Naq, job: &JobId) -> Option<Record> {
    let read = naq.block_on(naq.client().broker().read_record(job));
    read.expect("an answer").0
}

/// The jobs of which a worker has claimed one ahead that has not started, as their records say.
fn waiting(naq: &Naq, jobs: &[JobId]) -> usize {
    let is_waiting = |job: &&JobId| {
        read(naq, job).is_some_and(|record| {
            record.state() == State::Running
                && record.lease().is_some_and(|lease| lease.claimed_ahead)
        })
    };
    jobs.iter().filter(is_waiting).count()
}

/// A worker takes jobs faster than it can run them, and then gets a long one: those behind it go to a worker that
/// is free, although the first one had claimed them.
#[test]
fn jobs_behind_a_long_one_are_requeued() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let records = naq.block_on(naq.nats().subscribe("$KV.naq_results.>"));
    let mut records = records.expect("a subscription");
    // A message that is returned and lost on the way would be redelivered after the end of the test.
    let _first = spawn(&naq, "first", "300s");
    let short = publish_short(&naq, SHORT_JOBS);
    let long = naq.publish("build", until_file(&naq, "end").to_string());
    let behind = publish_short(&naq, 20);
    naq.wait_running(&long);
    let is_claimed_ahead = |payload: &[u8]| {
        let record: Option<Record> = serde_json::from_slice(payload).ok();
        record.is_some_and(|record| record.lease().is_some_and(|lease| lease.claimed_ahead))
    };
    naq.block_on(async {
        loop {
            let written = records.next().await.expect("a record");
            if is_claimed_ahead(&written.payload) {
                break;
            }
        }
    });
    eventually("no job waits behind the long one", || {
        waiting(&naq, &behind) == 0
    });
    let _second = spawn(&naq, "second", "300s");
    for job in short.iter().chain(&behind) {
        let record = naq.wait_ended(job);
        assert_eq!(record.state(), State::Succeeded);
        assert_eq!((record.attempt, record.crashes), (1, 0), "{record:?}");
    }
    assert_eq!(
        read(&naq, &long).map(|record| record.state()),
        Some(State::Running)
    );
    release(&naq, "end");
    naq.wait_ended(&long);
}

/// Of the jobs that a killed worker had claimed ahead, none is lost, and no crash is counted but of those that ran.
#[test]
fn a_killed_worker_loses_none_of_the_jobs_that_it_has_claimed_ahead() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let first = spawn(&naq, "first", "2s");
    let jobs = publish_short(&naq, 150);
    naq.wait_ended(&jobs[SHORT_JOBS]);
    first.signal(Signal::SIGKILL);
    first.wait_exit();
    let _second = spawn(&naq, "second", "2s");
    let (mut crashes, mut suspects) = (0, 0);
    for job in &jobs {
        let record = naq.wait_ended(job);
        assert_eq!(record.state(), State::Succeeded);
        crashes += record.crashes;
        suspects += record.shared_crashes;
    }
    // the one that ran and one whose outcome was on its way, which may have been claimed in their turn
    assert!(crashes <= 2, "{crashes}");
    // those behind it
    assert!(suspects <= 17, "{suspects}");
}

/// Jobs of 100 ms spread over the workers although the jobs before them were short.
#[test]
fn no_job_waits_behind_another_while_a_slot_is_free_elsewhere() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let workers = [spawn(&naq, "first", "2s"), spawn(&naq, "second", "2s")];
    for job in publish_short(&naq, 2 * SHORT_JOBS) {
        naq.wait_ended(&job);
    }
    for _ in 0..5 {
        let slow = |_| naq.publish("build", r#"{"command": "sleep", "args": ["0.1"]}"#);
        let pair = [0, 1].map(slow);
        let records = pair.map(|job| naq.wait_ended(&job));
        let [one, other] = &records;
        assert_ne!(one.worker_id, other.worker_id, "{records:?}");
        let end = |record: &Record| record.finished_at();
        assert!(one.started_at < end(other) && other.started_at < end(one));
    }
    drop(workers);
}
