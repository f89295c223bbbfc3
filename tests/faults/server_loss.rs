//! A server that dies at each step of a job's way. Each job ends once, and runs once.

use std::path::Path;

use naq_protocol::{JobId, State};

use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

/// A job that records that it ran, and waits for a file.
fn noting(naq: &Naq, go: &str) -> String {
    let (ran, go) = (naq.home().join("ran"), naq.home().join(go));
    serde_json::json!({"script": format!(
        "echo $NAQ_JOB_ID >> {}; while [ ! -e {} ]; do sleep 0.05; done; echo done",
        ran.display(),
        go.display()
    )})
    .to_string()
}

fn runs(naq: &Naq) -> Vec<String> {
    let ran = std::fs::read_to_string(naq.home().join("ran")).unwrap_or_default();
    ran.lines().map(str::to_owned).collect()
}

/// Waits until the job's command runs. Its record says so a moment earlier, and a server that dies
/// in between leaves the worker in doubt whether its claim counts.
fn has_begun(naq: &Naq) {
    eventually("its command runs", || !runs(naq).is_empty());
}

fn touch(path: &Path) {
    std::fs::write(path, "").unwrap();
}

#[test]
fn a_producer_without_a_server_gets_an_error() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    server.kill9();
    naq.cli(["enqueue", "--", "true"])
        .env("NAQ_CONNECT_TIMEOUT", "1s")
        .run()
        .exits(3)
        .expect_stderr(&["cannot connect to NATS", "--nats-url"]);
    server.restart();
    naq.enqueue(&["--", "true"]);
}

#[test]
fn a_server_killed_between_enqueue_and_claim_loses_no_job() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    touch(&naq.home().join("go"));
    naq.add_queue("build");
    let jobs: Vec<JobId> = (0..20)
        .map(|_| naq.publish("build", noting(&naq, "go")))
        .collect();
    server.kill9();
    server.restart();
    let worker = naq.worker(&["build"]).concurrency(2).spawn();
    for job in &jobs {
        assert_eq!(naq.wait_ended(job).state(), State::Succeeded);
    }
    assert_eq!(runs(&naq).len(), 20);
    naq.wait_drained("build");
    assert!(worker.stop().success());
}

#[test]
fn a_server_restarted_while_a_job_runs_loses_no_outcome() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(1).spawn();
    let job = naq.publish("build", noting(&naq, "go"));
    has_begun(&naq);
    for graceful in [false, true, false] {
        if graceful {
            server.stop_gracefully();
        } else {
            server.kill9();
        }
        server.restart();
    }
    touch(&naq.home().join("go"));
    let record = naq.wait_ended(&job);
    assert_eq!(
        (record.state(), record.attempt, record.crashes),
        (State::Succeeded, 1, 0)
    );
    assert_eq!(runs(&naq), [job.as_str()]);
    naq.assert_jobs_still_run("build");
    naq.wait_drained("build");
    assert!(worker.stop().success());
}

#[test]
fn a_job_that_ends_while_the_server_is_down_is_recorded_later() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(1).spawn();
    let ended = naq.home().join("ended");
    let script = format!(
        "echo $NAQ_JOB_ID >> ran; while [ ! -e go ]; do sleep 0.05; done; echo out; touch {}",
        ended.display()
    );
    let job = naq.publish("build", serde_json::json!({"script": script}).to_string());
    has_begun(&naq);
    server.kill9();
    touch(&naq.home().join("go"));
    eventually("the job ended while the server was down", || ended.exists());
    server.restart();
    let record = naq.wait_ended(&job);
    assert_eq!(
        (record.state(), record.attempt, record.crashes),
        (State::Succeeded, 1, 0)
    );
    assert_eq!(runs(&naq), [job.as_str()]);
    naq.assert_jobs_still_run("build");
    naq.wait_drained("build");
}

#[test]
fn repeated_server_kills_among_many_jobs_run_each_once() {
    const JOBS: usize = 120;
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["build"])
        .concurrency(4)
        .ack_wait("10s")
        .spawn();
    let ran = naq.home().join("ran");
    let lines: String = (0..JOBS)
        .map(|index| {
            let script = format!("echo $NAQ_JOB_ID >> {}; sleep 0.05", ran.display());
            let line = serde_json::json!({"job_id": format!("j{index}"), "script": script});
            format!("{line}\n")
        })
        .collect();
    naq.cli(["enqueue", "-q", "build", "--quiet", "--file", "-"])
        .stdin(lines)
        .run()
        .succeeds();
    for done in [10, 40, 80] {
        eventually("some done", || runs(&naq).len() >= done);
        server.kill9();
        server.restart();
    }
    for index in 0..JOBS {
        let record = naq.wait_ended(&JobId::new(format!("j{index}")).unwrap());
        assert_eq!(record.state(), State::Succeeded, "{record:#?}");
    }
    // the worker lived throughout: it ran each job once, however often requests were repeated
    let mut ran = runs(&naq);
    ran.sort();
    ran.dedup();
    assert_eq!((ran.len(), runs(&naq).len()), (JOBS, JOBS));
    naq.wait_drained("build");
    assert!(worker.stop().success());
}
