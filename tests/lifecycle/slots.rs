//! Concurrency slots: at most `concurrency_max` jobs of a `concurrency_key` run at once.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;

use naq_protocol::{JobId, Slots, State};
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

/// A limit of which workers take slots ahead.
const LARGE: &str = "8";

/// A job that runs until there is a file `gate`, and shows that it runs.
fn gated(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "touch {folder}/run-$NAQ_JOB_ID; while [ ! -e {folder}/gate ]; do sleep 0.05; done; rm {folder}/run-$NAQ_JOB_ID"
    )
}

fn running(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(name)
        .filter(|name| name.to_string_lossy().starts_with("run-"))
        .count()
}

fn enqueue_with_key(naq: &Naq, queue: &str, max: &str, script: &str) -> JobId {
    let key = ["--queue", queue, "--concurrency-key", "k"];
    let job = ["--concurrency-max", max, "--", "sh", "-c", script];
    naq.enqueue(&[key.as_slice(), &job].concat())
}

/// The slots of the key `k`, and how often they were written.
fn stored_slots(naq: &Naq) -> (Slots, u64) {
    naq.block_on(async { naq.client().broker().read_slots("k").await })
        .unwrap()
}

#[test]
fn slots_of_a_large_limit_are_taken_ahead() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).concurrency(2).spawn();
    let envelope = r#"{"command":"true","concurrency_key":"k","concurrency_max":100}"#;
    let jobs: Vec<JobId> = (0..40).map(|_| naq.publish("default", envelope)).collect();
    for job in &jobs {
        assert_eq!(naq.wait_ended(job).state(), State::Succeeded);
    }
    let (_, writes) = stored_slots(&naq);
    // one by one they would be 80
    assert!((1..=20).contains(&writes), "{writes} writes");
    eventually("idle slots are returned", || {
        stored_slots(&naq).0.in_use() == 0
    });
}

#[test]
fn workers_return_slots_that_another_one_needs() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _workers = [
        naq.worker(&["a"]).concurrency(9).spawn(),
        naq.worker(&["b"]).concurrency(9).spawn(),
    ];
    let script = gated(naq.home());
    let mut jobs = vec![enqueue_with_key(&naq, "a", LARGE, &script)];
    eventually("the first worker has taken slots ahead", || {
        running(naq.home()) == 1 && !stored_slots(&naq).0.lumps.is_empty()
    });
    // seven for the second worker need what the first one does not use
    jobs.extend((0..7).map(|_| enqueue_with_key(&naq, "b", LARGE, &script)));
    eventually("the limit is reached", || running(naq.home()) == 8);
    let last = ["a", "b"].map(|queue| enqueue_with_key(&naq, queue, LARGE, &script));
    for job in &last {
        naq.wait_for(job, "waiting", |record| record.state() == State::Waiting);
    }
    assert_eq!(running(naq.home()), 8);
    assert_eq!(stored_slots(&naq).0.in_use(), 8);
    std::fs::write(naq.home().join("gate"), "").unwrap();
    for job in jobs.iter().chain(&last) {
        assert_eq!(naq.wait_ended(job).state(), State::Succeeded);
    }
    eventually("all slots are returned", || {
        stored_slots(&naq).0.in_use() == 0
    });
}

#[test]
fn slots_of_a_dead_worker_are_free_after_its_lease() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let brief = |queue| {
        let worker = naq.worker(&[queue]).ack_wait("2s").concurrency(8);
        worker.arg("--takeover-after").arg("6s").spawn()
    };
    let worker = brief("a");
    let again = format!("[ $NAQ_ATTEMPT -gt 1 ] || {{ {}; }}", gated(naq.home()));
    let first: Vec<JobId> = (0..4)
        .map(|_| enqueue_with_key(&naq, "a", LARGE, &again))
        .collect();
    for job in &first {
        naq.wait_running(job);
    }
    assert!(stored_slots(&naq).0.holders.is_empty());
    worker.signal(Signal::SIGKILL);
    worker.wait_exit();
    let _next = [brief("a"), brief("b")];
    let script = gated(naq.home());
    for entry in std::fs::read_dir(naq.home()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("run-")
        {
            std::fs::remove_file(path).unwrap();
        }
    }
    let second: Vec<JobId> = (0..8)
        .map(|_| enqueue_with_key(&naq, "b", LARGE, &script))
        .collect();
    // four of them need the dead worker's slots
    eventually("the dead worker's slots are used", || {
        running(naq.home()) == 8
    });
    std::fs::write(naq.home().join("gate"), "").unwrap();
    for job in first.iter().chain(&second) {
        assert_eq!(naq.wait_ended(job).state(), State::Succeeded);
    }
}

#[test]
fn worker_that_exits_returns_its_slots() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["default"]).concurrency(4).spawn();
    let job = enqueue_with_key(&naq, "default", "100", "exit 0");
    assert_eq!(naq.wait_ended(&job).state(), State::Succeeded);
    worker.signal(Signal::SIGTERM);
    worker.wait_exit();
    assert_eq!(stored_slots(&naq).0.in_use(), 0);
}
