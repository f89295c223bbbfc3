//! A queue's limit of running jobs.

use naq_protocol::{JobId, State};

use super::{consumer, expect_counts, info, release, until_file};
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

/// Number of these jobs that run.
fn running(naq: &Naq, jobs: &[JobId]) -> usize {
    jobs.iter()
        .filter(|job| {
            let (record, _) = naq
                .block_on(naq.client().broker().read_record(job))
                .expect("an answer");
            record.is_some_and(|record| record.state() == State::Running)
        })
        .count()
}

/// Largest number of jobs that ran at once, from what each wrote at its start and end.
fn most_at_once(log: &str) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    for line in log.lines() {
        now = if line == "begin" { now + 1 } else { now - 1 };
        most = most.max(now);
    }
    most
}

/// A short job that writes its start and its end.
fn logged_job(naq: &Naq) -> serde_json::Value {
    let log = naq.home().join("log");
    let log = log.display();
    let script = format!("echo begin >> {log}; sleep 0.02; echo end >> {log}");
    serde_json::json!({ "script": script })
}

/// Runs this many such jobs, and asserts that no more than two of them ran at once.
fn run_logged(naq: &Naq, job: &serde_json::Value, count: usize) {
    let jobs: Vec<JobId> = (0..count)
        .map(|_| naq.publish("build", job.to_string()))
        .collect();
    for job in &jobs {
        assert_eq!(naq.wait_ended(job).state(), State::Succeeded);
    }
    let text = std::fs::read_to_string(naq.home().join("log")).expect("they wrote");
    assert_eq!(text.lines().count(), 2 * count);
    assert!(most_at_once(&text) <= 2, "{text}");
}

#[test]
fn queue_limit_bounds_running_jobs_over_all_workers() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["queue", "add", "build", "--max-running", "2"])
        .run()
        .succeeds();
    assert_eq!(info(&naq, "build").max_running.map(u32::from), Some(2));
    let workers = [
        naq.worker(&["build"]).concurrency(2).spawn(),
        naq.worker(&["build"]).concurrency(2).spawn(),
    ];
    // a worker that starts on a queue with a limit keeps it
    assert_eq!(
        consumer(&naq, "build", "naq-worker").config.max_ack_pending,
        2
    );
    run_logged(&naq, &logged_job(&naq), 40);
    drop(workers);
}

#[test]
fn queue_limit_can_be_changed_under_running_workers() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    // before any worker
    naq.cli(["queue", "set", "build", "--max-running", "2"])
        .run()
        .succeeds();
    let _workers = [
        naq.worker(&["build"]).concurrency(4).spawn(),
        naq.worker(&["build"]).concurrency(4).spawn(),
    ];
    let long = until_file(&naq, "go").to_string();
    let jobs: Vec<JobId> = (0..8).map(|_| naq.publish("build", long.clone())).collect();
    eventually("two run", || running(&naq, &jobs) == 2);
    expect_counts(&naq, "build", (6, 2, 0));
    let shown = naq.cli(["queues"]).run().succeeds().stdout;
    assert!(shown.contains(" 2/2 "), "{shown}");

    naq.cli(["queue", "set", "build", "--max-running", "5"])
        .run()
        .succeeds();
    eventually("five run", || running(&naq, &jobs) == 5);
    expect_counts(&naq, "build", (3, 5, 0));

    // running jobs continue if there are more than the new limit allows
    naq.cli(["queue", "set", "build", "--max-running", "1"])
        .run()
        .succeeds();
    assert_eq!(running(&naq, &jobs), 5);

    naq.cli(["queue", "set", "build", "--max-running", "none"])
        .run()
        .succeeds();
    eventually("all run", || running(&naq, &jobs) == 8);
    assert_eq!(info(&naq, "build").max_running, None);
    release(&naq, "go");
    for job in &jobs {
        assert_eq!(naq.wait_ended(job).attempt, 1);
    }
}

#[test]
fn queue_limit_of_zero_is_refused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["queue", "set", "build", "--max-running", "0"])
        .run()
        .exits(2)
        .expect_stderr(&["from 1 on"]);
    naq.cli(["queue", "set", "nowhere", "--max-running", "1"])
        .run()
        .exits(4)
        .expect_stderr(&["no queue `nowhere`"]);
}

#[test]
fn queue_limit_applies_to_jobs_that_require_labels() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq
        .worker(&["build"])
        .concurrency(6)
        .arg("--label")
        .arg("gpu=yes")
        .spawn();
    let _other = naq.worker(&["build"]).concurrency(6).spawn();
    naq.cli(["queue", "set", "build", "--max-running", "1"])
        .run()
        .succeeds();
    // at most one straight from the queue and one of the rerouted ones
    let mut short = logged_job(&naq);
    short["requires"] = serde_json::json!({"gpu": "yes"});
    run_logged(&naq, &short, 20);
    let mut long = until_file(&naq, "go");
    long["requires"] = serde_json::json!({"gpu": "yes"});
    let jobs: Vec<JobId> = (0..4)
        .map(|_| naq.publish("build", long.to_string()))
        .collect();
    naq.cli(["queue", "set", "build", "--max-running", "none"])
        .run()
        .succeeds();
    eventually("all run", || running(&naq, &jobs) == 4);
    release(&naq, "go");
    for job in &jobs {
        naq.wait_ended(job);
    }
}

#[test]
fn worker_renews_leases_by_the_ack_wait_of_the_queue() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    // the first program that sets something creates the consumer, with an ack_wait of its own
    naq.cli(["queue", "set", "build", "--max-running", "3"])
        .env("NAQ_DEFAULT_ACK_WAIT", "2s")
        .run()
        .succeeds();
    let _slow = naq.worker(&["build"]).ack_wait("10m").spawn();
    let _other = naq.worker(&["build"]).spawn();
    let job = naq.publish("build", r#"{"script":"sleep 5"}"#);
    // renewed in time: no other worker gets the job
    let record = naq.wait_ended(&job);
    assert_eq!((record.attempt, record.crashes), (1, 0));
    assert_eq!(consumer(&naq, "build", "naq-worker").num_redelivered, 0);
}

/// An update that is built from a client library's own type resets what that type lacks: settings of a
/// later server or naq.
#[test]
fn queue_limit_changes_no_other_setting_of_the_consumer() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).spawn();
    naq.assert_jobs_still_run("build");
    let api = |what: &str, body: serde_json::Value| -> serde_json::Value {
        let subject = format!("$JS.API.CONSUMER.{what}.naq_queue_build.naq-worker");
        let request = naq.nats().request(subject, body.to_string().into());
        let reply = naq.block_on(request).unwrap();
        serde_json::from_slice(&reply.payload).unwrap()
    };
    let config = || api("INFO", serde_json::json!({}))["config"].clone();
    let mut wanted = config();
    wanted["metadata"]["colour"] = "red".into();
    wanted["description"] = "shades".into();
    wanted["sample_freq"] = "7".into();
    let update = serde_json::json!({
        "stream_name": "naq_queue_build", "config": wanted, "action": "update",
    });
    let updated = api("CREATE", update);
    assert!(updated["error"].is_null(), "{updated}");
    let mut before = config();
    naq.cli(["queue", "set", "build", "--max-running", "3"])
        .run()
        .succeeds();
    before["max_ack_pending"] = 3.into();
    assert_eq!(config(), before);
    assert!(worker.stop().success());
}
