//! A queue that is paused and resumed.

use naq_protocol::State;

use super::{counts, expect_counts, info, release, until_file};
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

fn verb(naq: &Naq, verb: &str, queue: &str) {
    naq.cli(["queue", verb, queue]).run().succeeds();
}

#[test]
fn pause_lets_running_jobs_continue_and_holds_others_until_resume() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(2).spawn();
    let long = naq.publish("build", until_file(&naq, "go").to_string());
    naq.wait_running(&long);
    verb(&naq, "pause", "build");
    let waiting = naq.publish("build", r#"{"command":"true"}"#);
    release(&naq, "go");
    assert_eq!(naq.wait_ended(&long).state(), State::Succeeded);
    // the acknowledgement follows the record
    expect_counts(&naq, "build", (1, 0, 0));
    assert!(info(&naq, "build").paused);
    verb(&naq, "resume", "build");
    assert_eq!(naq.wait_ended(&waiting).state(), State::Succeeded);
    assert!(!info(&naq, "build").paused);
}

#[test]
fn pause_survives_restarts_of_server_and_workers() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let first = naq.worker(&["build", "other"]).concurrency(2).spawn();
    verb(&naq, "pause", "build");
    let paused = naq.publish("build", r#"{"command":"true"}"#);
    assert!(first.stop().success());
    server.restart();
    let _second = naq.worker(&["build", "other"]).concurrency(2).spawn();
    // the same worker serves the other queue
    naq.assert_jobs_still_run("other");
    assert!(info(&naq, "build").paused);
    let record = naq
        .block_on(naq.client().fetch_job(&paused))
        .expect("the consumer exists");
    assert_eq!(record.state(), State::Queued);
    verb(&naq, "resume", "build");
    assert_eq!(naq.wait_ended(&paused).state(), State::Succeeded);
}

#[test]
fn queue_can_be_paused_before_any_worker_serves_it() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    naq.add_queue("other");
    verb(&naq, "pause", "build");
    let paused = naq.publish("build", r#"{"command":"true"}"#);
    let _worker = naq.worker(&["build", "other"]).concurrency(1).spawn();
    naq.assert_jobs_still_run("other");
    expect_counts(&naq, "build", (1, 0, 0));
    verb(&naq, "resume", "build");
    naq.wait_ended(&paused);
    // resuming a queue that is not paused is no error
    verb(&naq, "resume", "other");
}

#[test]
fn pause_applies_to_jobs_that_require_labels() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _plain = naq.worker(&["build"]).concurrency(1).spawn();
    let requiring = r#"{"command":"true","requires":{"gpu":"yes"}}"#;
    let first = naq.publish("build", requiring);
    let gpu = || {
        naq.worker(&["build"])
            .concurrency(1)
            .arg("-l")
            .arg("gpu=yes")
    };
    let labelled = gpu().spawn();
    naq.wait_ended(&first);
    assert!(labelled.stop().success());
    // it is rerouted to the consumer of its labels, and waits there
    let second = naq.publish("build", requiring);
    eventually("rerouted", || {
        super::consumer(&naq, "build", "naq-worker").num_pending == 0
            && counts(&naq, "build") == (1, 0, 0)
    });
    verb(&naq, "pause", "build");
    let labelled = gpu().spawn();
    let labels = [("gpu".to_owned(), "yes".to_owned())].into();
    let names = naq.client().broker().names();
    let route = names.route_consumer(&naq_jetstream::label_route_key(&labels));
    eventually("the worker requests jobs of the route", || {
        super::consumer(&naq, "build", &route).num_waiting > 0
    });
    assert_eq!(counts(&naq, "build"), (1, 0, 0));
    verb(&naq, "resume", "build");
    assert_eq!(naq.wait_ended(&second).state(), State::Succeeded);
    drop(labelled);
}
