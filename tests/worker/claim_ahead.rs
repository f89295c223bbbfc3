//! Workers that claim the next of many short jobs ahead.

use futures_util::StreamExt;
use naq_protocol::{JobId, Record, State};

use super::{release, until_file};
use crate::harness::naq::{Naq, Worker, WorkerOptions, eventually};
use crate::harness::nats::TestServer;

/// Jobs after which a worker claims ahead for certain.
const SHORT_JOBS: usize = 60;

/// A worker with one slot.
fn worker<'n>(naq: &'n Naq, name: &str, ack_wait: &str) -> WorkerOptions<'n> {
    let worker = naq.worker(&["build"]).concurrency(1).ack_wait(ack_wait);
    worker.arg("--name").arg(name)
}

/// Starts a worker that takes its jobs for short ones, however slow the machine is.
fn spawn(naq: &Naq, name: &str, ack_wait: &str) -> Worker {
    let worker = worker(naq, name, ack_wait);
    worker
        .env("FAILPOINTS", "claim_ahead.short=return(1)")
        .spawn()
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

/// Whether a worker has claimed the job ahead, as its record says.
fn is_ahead(naq: &Naq, job: &JobId) -> bool {
    read(naq, job).is_some_and(|record| {
        record.state() == State::Running && record.lease().is_some_and(|lease| lease.claimed_ahead)
    })
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
        !behind.iter().any(|job| is_ahead(&naq, job))
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

/// A job whose turn is now may need longer until it starts than the one behind it, which must not get its slot: it could
/// keep it for hours, while the record of the first one says that it runs.
#[test]
fn a_job_that_is_prepared_is_not_overtaken_by_a_long_one() {
    const ROUNDS: usize = 10;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_preparing_runner("sleep 0.004");
    let _workers = ["first", "second"].map(|name| {
        let worker = worker(&naq, name, "300s").env("NAQ_RUNNERS_DIR", "runners");
        worker
            .env("FAILPOINTS", "claim_ahead.short=return(1)")
            .spawn()
    });
    for round in 0..ROUNDS {
        let short = publish_short(&naq, SHORT_JOBS);
        let script = format!(r##"{{"runner": "kit", "script": "# needs {round}"}}"##);
        let prepared = naq.publish("build", script);
        let end = format!("end-{round}");
        let long = until_file(&naq, &end)["script"].take();
        let long = serde_json::json!({ "command": "sh", "args": ["-c", long] });
        let long = naq.publish("build", long.to_string());
        for job in short.iter().chain([&prepared]) {
            let record = naq.wait_ended(job);
            assert_eq!(record.state(), State::Succeeded, "{record:?}");
        }
        naq.wait_running(&long);
        release(&naq, &end);
        naq.wait_ended(&long);
    }
}

/// A worker that dies with jobs that it has claimed ahead: none is lost, and no crash is counted as one of theirs.
#[test]
fn a_killed_worker_loses_none_of_the_jobs_that_it_has_claimed_ahead() {
    for step in ["ahead.claimed", "ahead.withdrawn"] {
        let server = TestServer::start();
        let naq = Naq::new(&server);
        let first = worker(&naq, "first", "2s").env(
            "FAILPOINTS",
            &format!("claim_ahead.short=return(1);{step}=return"),
        );
        let first = first.spawn();
        let mut jobs = publish_short(&naq, SHORT_JOBS);
        jobs.push(naq.publish("build", r#"{"command": "sleep", "args": ["0.4"]}"#));
        jobs.extend(publish_short(&naq, 10));
        assert!(!first.wait_exit().success(), "{step}");
        let ahead: Vec<_> = jobs.iter().filter(|job| is_ahead(&naq, job)).collect();
        assert!(!ahead.is_empty(), "{step}");
        let _second = spawn(&naq, "second", "2s");
        for job in &jobs {
            assert_eq!(naq.wait_ended(job).state(), State::Succeeded, "{step}");
        }
        for job in ahead {
            let record = read(&naq, job).expect("a record");
            let crashes = (record.crashes, record.shared_crashes);
            assert_eq!(crashes, (0, 1), "{step}: {record:?}");
        }
    }
}

/// Jobs that take long, behind many short ones, all claimed ahead by one worker: from the moment another worker
/// runs one of them, no two run one after the other while a worker is idle.
#[test]
fn no_job_waits_behind_another_while_a_slot_is_free_elsewhere() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _first = spawn(&naq, "first", "300s");
    let short = publish_short(&naq, SHORT_JOBS);
    let gate = naq.publish("build", until_file(&naq, "end").to_string());
    let slow: Vec<_> = (0..8)
        .map(|_| naq.publish("build", r#"{"command": "sleep", "args": ["0.4"]}"#))
        .collect();
    naq.wait_running(&gate);
    let _second = spawn(&naq, "second", "300s");
    release(&naq, "end");
    let slow: Vec<_> = slow.iter().map(|job| naq.wait_ended(job)).collect();
    let first = naq.wait_ended(&short[0]).worker_id;
    let on_second = slow.iter().filter(|record| record.worker_id != first);
    let begin = on_second.map(|record| record.started_at).min();
    let begin = begin.expect("the second worker has got a job");
    let runs_during = |record: &Record, other: &Record| {
        record.worker_id != other.worker_id
            && record.started_at < other.finished_at()
            && other.started_at < record.finished_at()
    };
    for record in slow.iter().filter(|record| record.started_at >= begin) {
        let has_follower = slow.iter().any(|next| {
            next.worker_id == record.worker_id && next.started_at >= record.finished_at()
        });
        let is_alone = !slow.iter().any(|other| runs_during(other, record));
        assert!(!(has_follower && is_alone), "{record:?}\n{slow:#?}");
    }
}
