//! Concurrency slots: at most `concurrency_max` jobs of a `concurrency_key` run at once.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;

use futures_util::future::join_all;
use naq_protocol::{JobId, QueueName, SlotHolder, State, UnknownFields};
use nix::sys::signal::Signal;

use crate::harness::naq::{Naq, eventually, id};
use crate::harness::nats::TestServer;

/// A job that records how many jobs of its kind run at once.
fn counted(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "touch {folder}/run-$NAQ_JOB_ID; ls {folder} | grep -c ^run- >> {folder}/seen; sleep 0.1; rm {folder}/run-$NAQ_JOB_ID"
    )
}

fn most_at_once(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("seen"))
        .unwrap()
        .lines()
        .map(|line| line.trim().parse().unwrap())
        .max()
        .unwrap()
}

#[test]
fn concurrency_max_holds_across_workers() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _workers = [
        naq.worker(&["default"]).concurrency(4).spawn(),
        naq.worker(&["default"]).concurrency(4).spawn(),
    ];
    let script = counted(naq.home());
    let jobs: Vec<JobId> = (0..20)
        .map(|_| {
            naq.enqueue(&[
                "--concurrency-key",
                "licence",
                "--concurrency-max",
                "2",
                "--",
                "sh",
                "-c",
                &script,
            ])
        })
        .collect();
    // A job without the key is not blocked by them.
    let free = naq.enqueue(&["--", "true"]);
    assert_eq!(naq.wait_ended(&free).state(), State::Succeeded);
    for job in &jobs {
        assert_eq!(naq.wait_ended(job).state(), State::Succeeded);
    }
    let most = most_at_once(naq.home());
    assert!((1..=2).contains(&most), "{most} at once");
    naq.wait_drained("default");
}

/// One value names the jobs that have a slot, so each write for itself would make the others start over.
#[test]
fn slots_that_jobs_request_at_once_are_written_together() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let broker = naq.client().broker();
    let holder = |at: usize| SlotHolder {
        job: id(&format!("job-{at}")),
        queue: QueueName::new("default").unwrap(),
        sequence: 1,
        unknown: UnknownFields::default(),
    };
    naq.block_on(async {
        let holders: Vec<SlotHolder> = (0..60).map(holder).collect();
        // the bucket is made first, which takes a write of its own
        assert!(broker.acquire_slot("k", 60, &holders[0]).await.unwrap());
        let acquired = join_all(holders.iter().map(|one| broker.acquire_slot("k", 60, one))).await;
        assert!(
            acquired.iter().all(|one| matches!(one, Ok(true))),
            "{acquired:?}"
        );
        let released = join_all(holders.iter().map(|one| broker.release_slot("k", &one.job))).await;
        assert!(released.iter().all(Result::is_ok), "{released:?}");
        assert!(broker.acquire_slot("k", 1, &holders[59]).await.unwrap());
    });
    let writes = naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let stream = jetstream.get_stream("KV_naq_slots").await.unwrap();
        stream.cached_info().state.last_sequence
    });
    // One for each request would be 122. How many are on their way together depends on the machine's load.
    assert!(writes <= 20, "{writes} writes");
}

#[test]
fn concurrency_slot_survives_a_worker_crash() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["default"]).ack_wait("2s").spawn();
    let gate = naq.home().join("gate");
    let script = format!("[ -e {} ] || sleep 1000", gate.display());
    naq.enqueue(&[
        "--id",
        "holder",
        "--concurrency-key",
        "k",
        "--",
        "sh",
        "-c",
        &script,
    ]);
    naq.wait_running(&id("holder"));
    naq.enqueue(&["--id", "second", "--concurrency-key", "k", "--", "true"]);
    naq.wait_for(&id("second"), "waiting", |record| {
        record.state() == State::Waiting
    });
    worker.signal(Signal::SIGKILL);
    worker.wait_exit();
    std::fs::write(&gate, "").unwrap();
    let _next = naq.worker(&["default"]).ack_wait("2s").spawn();
    assert_eq!(naq.wait_ended(&id("holder")).attempt, 2);
    assert_eq!(naq.wait_ended(&id("second")).state(), State::Succeeded);
}

#[test]
fn concurrency_slot_of_a_vanished_job_is_taken_over() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["default"]).ack_wait("2s").spawn();
    naq.enqueue(&[
        "--id",
        "holder",
        "--concurrency-key",
        "k",
        "--",
        "sleep",
        "1000",
    ]);
    naq.wait_running(&id("holder"));
    worker.signal(Signal::SIGKILL);
    worker.wait_exit();
    // No worker and no message will ever finish the job.
    naq.block_on(async {
        let broker = naq.client().broker();
        let queue = naq_protocol::QueueName::new("default").unwrap();
        broker
            .remove_job_messages(&queue, &id("holder"))
            .await
            .unwrap();
    });
    let _next = naq.worker(&["default"]).ack_wait("2s").spawn();
    naq.enqueue(&["--id", "second", "--concurrency-key", "k", "--", "true"]);
    assert_eq!(naq.wait_ended(&id("second")).state(), State::Succeeded);
}

#[test]
fn retrying_job_releases_its_concurrency_slot() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).concurrency(2).spawn();
    naq.enqueue(&[
        "--id",
        "flaky",
        "--concurrency-key",
        "k",
        "--retries",
        "1",
        "--retry-delay",
        "1h",
        "--no-retry-jitter",
        "--",
        "false",
    ]);
    naq.wait_for(&id("flaky"), "retrying", |record| {
        record.state() == State::Retrying
    });
    naq.enqueue(&["--id", "other", "--concurrency-key", "k", "--", "true"]);
    assert_eq!(naq.wait_ended(&id("other")).state(), State::Succeeded);
    naq.cli(["cancel", "flaky"]).run().succeeds();
}

#[test]
fn cancel_of_a_job_blocked_on_a_slot_passes_the_slot_on() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).concurrency(3).spawn();
    let gate = naq.home().join("gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    naq.enqueue(&[
        "--id",
        "first",
        "--concurrency-key",
        "k",
        "--",
        "sh",
        "-c",
        &script,
    ]);
    naq.wait_running(&id("first"));
    for job in ["second", "third"] {
        naq.enqueue(&["--id", job, "--concurrency-key", "k", "--", "true"]);
        naq.wait_for(&id(job), "waiting", |record| {
            record.state() == State::Waiting
        });
    }
    naq.cli(["cancel", "second"]).run().succeeds();
    std::fs::write(&gate, "").unwrap();
    eventually("the third has run", || {
        naq.wait_ended(&id("third")).state() == State::Succeeded
    });
    assert_eq!(naq.wait_ended(&id("second")).state(), State::Cancelled);
    naq.wait_drained("default");
}
