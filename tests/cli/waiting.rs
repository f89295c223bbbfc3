//! Verbs that wait say what they wait for.

use std::time::Duration;

use naq_client::{Client, ConnectOptions};
use naq_protocol::State;
use nix::sys::signal::Signal;

use crate::harness::naq::{FollowedCli, Naq, eventually};
use crate::harness::nats::{TestOptions, TestServer};
use crate::harness::proxy::{Link, Proxy};

fn follow(naq: &Naq, args: &[&str]) -> FollowedCli {
    naq.cli(args.iter().copied()).follow()
}

#[test]
fn an_unserved_queue_is_named_by_every_verb() {
    const NOBODY: &str = "no worker serves queue `nobody`; start one with `naq worker nobody`";
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let enqueued = follow(
        &naq,
        &[
            "enqueue", "-q", "nobody", "--wait", "--id", "j", "--", "echo", "hi",
        ],
    );
    enqueued.expect_stderr(NOBODY);
    let waiting = [
        &["wait", "j"][..],
        &["result", "--wait", "j"],
        &["logs", "-f", "j"],
        &["wait", "j", "--json"],
    ]
    .map(|args| follow(&naq, args));
    for verb in &waiting {
        verb.expect_stderr(NOBODY);
    }
    naq.cli(["status", "j"])
        .run()
        .succeeds()
        .expect_stdout(NOBODY);
    naq.cli(["status", "--json", "j"])
        .run()
        .succeeds()
        .expect_stdout(NOBODY);
    naq.cli(["queues"])
        .run()
        .succeeds()
        .expect_stdout("no worker")
        .expect_stderr(&["`naq worker nobody`"]);
    let queues = naq.cli(["queues", "--json"]).run().succeeds();
    queues.expect_stdout("\"workers\":0");

    let _worker = naq.worker(&["nobody"]).spawn();
    for verb in waiting {
        let said = verb.stderr_text();
        assert!(verb.wait_exit().success());
        assert_eq!(said.matches(NOBODY).count(), 1, "{said}");
    }
    assert!(enqueued.wait_exit().success());
    // what is served and ends soon needs no words
    let quick = ["enqueue", "-q", "nobody", "--wait", "--", "sleep", "2.5"];
    assert_eq!(naq.cli(quick).run().succeeds().stderr, "");
    naq.cli(["queues"]).run().succeeds().expect_stdout("open");
}

#[test]
fn what_a_job_waits_for_is_printed_when_it_changes() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    naq.cli(["queue", "pause", "build"]).run().succeeds();
    let job = naq.enqueue(&["-q", "build", "--", "true"]);
    let waiting = follow(&naq, &["wait", job.as_str()]);
    waiting
        .expect_stderr("waiting: the queue `build` is paused; `naq queue resume build` resumes it");
    naq.cli(["queue", "resume", "build"]).run().succeeds();
    waiting.expect_stderr("waiting: no worker serves queue `build`");
    let _worker = naq.worker(&["build"]).concurrency(2).spawn();
    assert!(waiting.wait_exit().success());

    let block =
        |id| naq.wait_running(&naq.enqueue(&["-q", "build", "--id", id, "--", "sleep", "60"]));
    let expect = |options: &[&str], words: &str| {
        let args = [
            &["enqueue", "-q", "build", "--wait"][..],
            options,
            &["--", "true"],
        ]
        .concat();
        let verb = follow(&naq, &args);
        verb.expect_stderr(words);
        verb.kill9();
    };
    block("first");
    expect(
        &["--depends-on", "first"],
        "waiting: blocked on job `first`",
    );
    expect(&["--in", "1h"], "waiting: delayed until 20");
    block("second");
    expect(
        &[],
        "waiting: the workers of queue `build` are busy: 2 slots, none is free",
    );
}

#[test]
fn a_job_whose_worker_has_vanished_is_marked() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["build"])
        .env("NAQ_WORKER_TTL", "2s")
        .env("NAQ_WORKER_HEARTBEAT_INTERVAL", "500ms")
        .spawn();
    let job = naq.enqueue(&["-q", "build", "--id", "j", "--", "sleep", "60"]);
    naq.wait_running(&job);
    let shown = naq.cli(["jobs"]).run().succeeds();
    assert!(!shown.stdout.contains("vanished"), "{shown:#?}");
    let waiting = follow(&naq, &["wait", "j"]);
    worker.signal(Signal::SIGKILL);
    worker.wait_exit();
    waiting.expect_stderr("has sent no heartbeat for");
    waiting.expect_stderr("no worker serves queue `build`; start one with `naq worker build`");
    naq.cli(["jobs"])
        .run()
        .succeeds()
        .expect_stdout("running (worker vanished)");
    naq.cli(["jobs", "--json"])
        .run()
        .succeeds()
        .expect_stdout("\"worker_vanished\":true");
    naq.cli(["status", "j"])
        .run()
        .succeeds()
        .expect_stdout("has sent no heartbeat for");
}

#[test]
fn a_full_store_is_what_a_job_waits_for_whose_outcome_finds_no_room() {
    let server = TestServer::with(&TestOptions {
        max_file_store_bytes: Some(6 << 20),
        ..TestOptions::default()
    });
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["build"])
        .env("NAQ_WORKER_HEARTBEAT_INTERVAL", "500ms")
        .spawn();
    let script = "while [ ! -e go ]; do sleep 0.05; done; head -c 60000 /dev/zero | tr '\\0' x";
    let job = naq.publish("build", serde_json::json!({"script": script}).to_string());
    naq.wait_running(&job);
    naq.fill_storage();
    std::fs::write(naq.home().join("go"), "").unwrap();
    worker.expect_stderr("cannot record the outcome yet");
    let waiting = follow(&naq, &["wait", job.as_str()]);
    waiting.expect_stderr("waiting: the store is full, so workers cannot record outcomes");
    let said = waiting.stderr_text();
    assert!(!said.contains("no heartbeat"), "{said}");
}

#[test]
fn a_user_who_interrupts_a_wait_learns_the_id() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let verb = follow(
        &naq,
        &["enqueue", "-q", "build", "--wait", "--", "sleep", "60"],
    );
    let mut job = None;
    eventually("the job running", || {
        let listed = naq
            .cli(["jobs", "--state", "running", "--json"])
            .run()
            .succeeds();
        job = listed.stdout.lines().next().map(|line| {
            let job: serde_json::Value = serde_json::from_str(line).unwrap();
            job["job_id"].as_str().unwrap().to_owned()
        });
        job.is_some()
    });
    let job = job.unwrap();
    verb.signal(Signal::SIGINT);
    verb.expect_stderr(&format!(
        "stopped waiting for job {job}, which is not cancelled"
    ));
    verb.expect_stderr(&format!(
        "`naq wait {job}` waits for it, `naq cancel {job}` cancels it"
    ));
    assert_eq!(verb.wait_exit().code(), Some(130));
    let listed = naq.cli(["status", &job]).run().succeeds();
    listed.expect_stdout("running");
}

#[test]
fn a_time_out_does_not_end_a_wait() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let job = naq.enqueue(&["-q", "build", "--", "true"]);
    naq.wait_ended(&job);
    let mut proxy = Proxy::start(server.port());
    let options = ConnectOptions {
        url: proxy.url(),
        token: Some(server.token().to_owned()),
        ..ConnectOptions::default()
    };
    let waiter = naq.block_on(async {
        let client = Client::connect(options).await.unwrap();
        client.waiter(std::slice::from_ref(&job)).await.unwrap()
    });
    proxy.set(Link::Silent);
    let waiting = naq.handle().spawn(async move {
        let mut ended = None;
        let waited = waiter.each(|record| ended = Some(record.state())).await;
        (waited.map_err(|error| error.to_string()), ended)
    });
    // longer than a request waits for its answer
    std::thread::sleep(Duration::from_secs(6));
    proxy.set(Link::Open);
    let waited = naq.block_on(waiting).unwrap();
    assert_eq!(waited, (Ok(()), Some(State::Succeeded)));
}

/// Verbs that end by themselves have a time limit, even if a server answers without an end. A verb that waits
/// for a job waits for as long as the job runs.
#[test]
fn a_verb_that_waits_for_a_job_has_no_time_limit() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let without_time = |args: &[&str]| {
        let verb = naq.cli(args.iter().copied());
        verb.env("FAILPOINTS", "verb.time_max=return(0)")
    };
    let job = naq.enqueue(&["-q", "build", "--", "sh", "-c", "sleep 1; echo waited"]);
    without_time(&["result", job.as_str(), "--wait"])
        .run()
        .succeeds()
        .expect_stdout("waited\n");
    let script = "trap 'sleep 1; exit 1' TERM; touch ready; while :; do sleep 0.01; done";
    let job = naq.enqueue(&["-q", "build", "--", "sh", "-c", script]);
    eventually("it can be asked to end", || {
        naq.home().join("ready").exists()
    });
    without_time(&["cancel", job.as_str(), "--wait"])
        .run()
        .succeeds()
        .expect_stdout("cancelled");
    // the others have one
    for verb in [["result", job.as_str()], ["cancel", job.as_str()]] {
        without_time(&verb)
            .run()
            .exits(3)
            .expect_stderr(&["without an end"]);
    }
}

#[test]
fn naq_why_says_what_a_job_waits_for_and_how_it_ended() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.enqueue(&["-q", "nobody", "--id", "waits", "--", "true"]);
    let why = |job: &str| naq.cli(["why", job]).run().succeeds();
    why("waits").expect_stdout("no worker serves queue `nobody`; start one with");
    let json = naq.cli(["why", "waits", "--json"]).run().succeeds();
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["state"], "queued");
    assert_eq!(json["cause"]["cause"], "no_worker");
    assert_eq!(json["needs_action"], true);

    let _worker = naq.worker(&["build"]).spawn();
    let long = naq.enqueue(&["-q", "build", "--id", "long", "--", "sleep", "60"]);
    naq.wait_running(&long);
    why("long").expect_stdout("it has been running since 20");
    let bad = naq.enqueue(&["-q", "build", "--id", "bad", "--", "/no/such\u{1b}[31m"]);
    naq.cli(["cancel", "long"]).run().succeeds();
    naq.wait_ended(&bad);
    let ended = why("bad").expect_stdout("failed (spawn)");
    assert!(!ended.stdout.contains('\u{1b}'), "{ended:?}");
    naq.cli(["why", "nothing"]).run().exits(4);
}
