//! Workers that are drained from another machine.

use naq_protocol::{State, WorkerState};

use super::{release, until_file};
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;
use crate::harness::proxy::{Link, Proxy};

/// What a worker's last heartbeat says. `None` if it has none.
fn state(naq: &Naq, name: &str) -> Option<WorkerState> {
    let found = naq.block_on(naq.client().fetch_worker(name));
    found.ok().map(|worker| worker.state)
}

#[test]
fn a_drained_worker_finishes_its_jobs_takes_no_more_and_exits() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["build"])
        .arg("--name=anvil")
        .concurrency(2)
        .spawn();
    let first = naq.publish("build", until_file(&naq, "go").to_string());
    naq.wait_running(&first);
    eventually("the heartbeat says what runs", || {
        state(&naq, "anvil") == Some(WorkerState::Busy)
    });
    let drain = |options: &[&str]| {
        naq.cli([&["workers", "drain", "anvil"], options].concat())
            .run()
    };
    drain(&["--dry-run"])
        .succeeds()
        .expect_stdout("anvil  would drain, 1 running job");
    assert_eq!(state(&naq, "anvil"), Some(WorkerState::Busy));
    let drained = drain(&["--json"]).succeeds();
    assert!(
        drained.stdout.contains("\"acknowledged\":true"),
        "{}",
        drained.stdout
    );
    worker.expect_stderr("an operator has requested that this worker drains");
    eventually("it says that it drains", || {
        state(&naq, "anvil") == Some(WorkerState::Draining)
    });
    // again is the same request
    drain(&[])
        .succeeds()
        .expect_stdout("anvil  draining, 1 running job");
    let second = naq.publish("build", r#"{"command":"true"}"#);
    release(&naq, "go");
    assert_eq!(naq.wait_ended(&first).state(), State::Succeeded);
    assert!(worker.wait_exit().success());
    // another worker is needed for the second job, and no request is about that one
    let next = naq.worker(&["build"]).arg("--name=anvil").spawn();
    assert_eq!(naq.wait_ended(&second).state(), State::Succeeded);
    assert!(next.stop().success());
}

#[test]
fn a_message_alone_drains_no_worker() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).arg("--name=anvil").spawn();
    eventually("the worker is listed", || state(&naq, "anvil").is_some());
    let found = naq.block_on(naq.client().fetch_worker("anvil")).unwrap();
    let broker = naq.client().broker();
    for _ in 0..3 {
        // the worker receives it, and reads that nothing is stored
        assert!(naq.block_on(broker.notify_drain(&found.worker_id)).unwrap());
    }
    let job = naq.publish("build", r#"{"command":"true"}"#);
    assert_eq!(naq.wait_ended(&job).state(), State::Succeeded);
    assert!(!worker.log().contains("drain"), "{}", worker.log());
    assert!(worker.stop().success());
}

#[test]
fn a_worker_that_is_disconnected_drains_when_it_is_connected_again() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let mut proxy = Proxy::start(server.port());
    let worker = naq
        .worker(&["build"])
        .arg("--name=anvil")
        .env("NAQ_NATS_URL", &proxy.url())
        .spawn();
    eventually("the worker is listed", || state(&naq, "anvil").is_some());
    proxy.set(Link::Reset);
    let drained = naq.cli(["workers", "drain", "anvil"]).run().succeeds();
    drained.expect_stderr(&["does not answer; it drains when it is connected again"]);
    assert!(!worker.log().contains("draining"), "{}", worker.log());
    proxy.set(Link::Open);
    assert!(worker.wait_exit().success());
}

#[test]
fn a_worker_to_drain_is_named_without_doubt() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let twins = [(); 2].map(|()| naq.worker(&["build"]).arg("--name=twin").spawn());
    eventually("both are listed", || {
        naq.block_on(naq.client().list_workers()).unwrap().len() == 2
    });
    let run = |words: &[&str]| naq.cli(words.to_vec()).run();
    run(&["workers", "drain", "twin"])
        .exits(4)
        .expect_stderr(&["several workers are named `twin`"]);
    run(&["workers", "drain", "none"])
        .exits(4)
        .expect_stderr(&["there is no worker `none`"]);
    let first = naq.block_on(naq.client().list_workers()).unwrap().remove(0);
    // the first is drained although the second name is wrong
    run(&["workers", "drain", &first.worker_id, "none"]).exits(4);
    eventually("one is left", || {
        naq.block_on(naq.client().list_workers()).unwrap().len() == 1
    });
    // a verb that does not exist starts no worker
    run(&["worker", "drain", "twin"])
        .exits(2)
        .expect_stderr(&["naq workers drain twin"]);
    let left = naq.cli(["workers", "--json"]).run().succeeds().stdout;
    assert_eq!(left.lines().count(), 1, "{left}");
    drop(twins);
}
