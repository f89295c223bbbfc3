//! The metrics of a worker.

use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use serde_json::json;

use super::address_in;
use super::scrape::{Scrape, check_by_promtool, request};
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;
use crate::harness::proxy::{Link, Proxy};
use naq_protocol::{Reason, State};

#[test]
fn jobs_that_a_job_enqueues_through_its_worker_are_counted() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["mail"])
        .arg("--grant=enqueue:*")
        .arg("--metrics-listen=127.0.0.1:0")
        .spawn();
    let address = address_in(&worker.log());
    let program = crate::harness::nats::naq();
    let script = format!(
        "{0} enqueue -q other -- true; {0} enqueue -q other -- true; {0} enqueue -q other --dry-run -- true",
        program.display()
    );
    let parent = naq.enqueue(&["--queue", "mail", "--", "sh", "-c", &script]);
    assert_eq!(naq.wait_ended(&parent).state(), State::Succeeded);
    Scrape::of(&address).expect(&[("naq_enqueued_total{queue=\"other\",via=\"child\"}", 2.0)]);
    worker.stop();
}

#[test]
fn the_metrics_of_a_worker_count_exactly_what_its_jobs_did() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["mail", "idle"])
        .concurrency(3)
        .arg("--metrics-listen=127.0.0.1:0")
        .spawn();
    let address = address_in(&worker.log());
    let slots = || Scrape::of(&address).value("naq_worker_slots");
    eventually("the worker has started", || slots() == 3.0);
    let before = Scrape::of(&address);
    before.expect(&[
        ("naq_worker_slots", 3.0),
        ("naq_worker_slots_busy", 0.0),
        ("naq_worker_draining", 0.0),
        ("naq_nats_up", 1.0),
        ("naq_nats_reconnects_total", 0.0),
        ("naq_attempts_started_total{queue=\"idle\"}", 0.0),
        ("naq_attempts_total{queue=\"mail\",outcome=\"lost\"}", 0.0),
        ("naq_spawner_restarts_total", 0.0),
    ]);
    let shell = |script: &str| json!({ "command": "sh", "args": ["-c", script] });
    let publish = |envelope: serde_json::Value| naq.publish("mail", envelope.to_string());

    // success: 5 and 3 bytes of output
    for _ in 0..2 {
        let done = naq.wait_ended(&publish(shell("printf secre; printf err >&2")));
        assert_eq!(done.state(), State::Succeeded);
    }
    // failure
    let done = naq.wait_ended(&publish(shell("exit 3")));
    assert_eq!(done.reason(), Some(Reason::Exit));
    // two retries, the second one succeeds
    let mut retried = shell("test $NAQ_ATTEMPT = 3");
    retried["max_retries"] = json!(5);
    retried["retry_delay"] = json!("10ms");
    let done = naq.wait_ended(&publish(retried));
    assert_eq!((done.state(), done.attempt), (State::Succeeded, 3));
    // timeout
    let mut endless = shell("sleep 60");
    endless["timeout"] = json!("300ms");
    let done = naq.wait_ended(&publish(endless));
    assert_eq!(done.reason(), Some(Reason::Timeout));
    // spawn failure
    let missing = publish(json!({ "command": "/nowhere/that-command" }));
    assert_eq!(naq.wait_ended(&missing).reason(), Some(Reason::Spawn));
    // an envelope that is none
    let invalid = naq.publish("mail", r#"{"command": 1}"#);
    assert_eq!(naq.wait_ended(&invalid).state(), State::Rejected);
    // output that is cut
    let long = publish(shell("head -c 100000 /dev/zero"));
    assert_eq!(naq.wait_ended(&long).state(), State::Succeeded);

    // the record of an attempt is stored before the attempt is acknowledged and counted
    naq.wait_drained("mail");
    eventually("every attempt counted", || {
        let scrape = Scrape::of(&address);
        let ended: f64 = scrape.series("naq_attempts_total").values().sum();
        ended == 9.0 && scrape.value("naq_worker_slots_busy") == 0.0
    });
    let scrape = Scrape::of(&address);
    let pairs = |found: &[(&'static str, f64)]| found.iter().copied().collect();
    assert_eq!(
        scrape.series("naq_attempts_started_total"),
        pairs(&[("{queue=\"mail\"}", 9.0)])
    );
    assert_eq!(
        scrape.series("naq_attempts_total"),
        pairs(&[
            ("{queue=\"mail\",outcome=\"failed\"}", 3.0),
            ("{queue=\"mail\",outcome=\"retry\"}", 2.0),
            ("{queue=\"mail\",outcome=\"success\"}", 4.0),
        ])
    );
    assert_eq!(
        scrape.series("naq_jobs_ended_total"),
        pairs(&[
            ("{queue=\"mail\",state=\"failed\",reason=\"exit\"}", 1.0),
            ("{queue=\"mail\",state=\"failed\",reason=\"spawn\"}", 1.0),
            ("{queue=\"mail\",state=\"failed\",reason=\"timeout\"}", 1.0),
            (
                "{queue=\"mail\",state=\"rejected\",reason=\"invalid\"}",
                1.0
            ),
            ("{queue=\"mail\",state=\"succeeded\",reason=\"none\"}", 4.0),
        ])
    );
    assert_eq!(
        scrape.series("naq_spawn_failures_total"),
        pairs(&[("{error=\"ENOENT\"}", 1.0)])
    );
    assert_eq!(
        scrape.series("naq_job_output_truncated_total"),
        pairs(&[("{queue=\"mail\",stream=\"stdout\"}", 1.0)])
    );
    scrape.expect(&[
        (
            "naq_job_output_bytes_total{queue=\"mail\",stream=\"stdout\"}",
            100_010.0,
        ),
        (
            "naq_job_output_bytes_total{queue=\"mail\",stream=\"stderr\"}",
            6.0,
        ),
        // the first attempts and the retries of all jobs that were claimed
        ("naq_job_wait_seconds_count{queue=\"mail\"}", 9.0),
        (
            "naq_job_run_seconds_count{queue=\"mail\",outcome=\"ok\"}",
            4.0,
        ),
        // without the one that did not start
        (
            "naq_job_run_seconds_count{queue=\"mail\",outcome=\"bad\"}",
            4.0,
        ),
        ("naq_job_peak_memory_bytes_count{queue=\"mail\"}", 8.0),
        ("naq_jobs_leaked_total", 0.0),
        ("naq_leases_lost_total", 0.0),
        // the two retries, which were due sooner than the server can delay a message
        ("naq_redeliveries_total", 2.0),
    ]);
    let timed_out = scrape.value("naq_job_run_seconds_sum{queue=\"mail\",outcome=\"bad\"}");
    assert!((0.3..30.0).contains(&timed_out), "{timed_out}");
    let waited = scrape.value("naq_job_wait_seconds_sum{queue=\"mail\"}");
    assert!((0.0..30.0).contains(&waited), "{waited}");
    assert!(scrape.value("process_resident_memory_bytes") > 1e6);

    // nothing that identifies a job, or that is in it
    let host = nix::unistd::gethostname().unwrap();
    let host = format!("\"{}", host.to_string_lossy());
    for secret in [
        "secre",
        "nowhere",
        "that-command",
        "sleep",
        missing.as_str(),
        host.as_str(),
    ] {
        assert!(!scrape.text.contains(secret), "{secret} in {}", scrape.text);
    }
    check_by_promtool(&address);
}

#[test]
fn the_metrics_of_a_worker_count_what_ends_attempts_from_outside() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["mail"])
        .arg("--metrics-listen=127.0.0.1:0")
        // so that a job can kill its spawner
        .arg("--containment=subreaper")
        .arg("--allow-setuid")
        .spawn();
    let address = address_in(&worker.log());
    let run = |script: &str| {
        let envelope = json!({ "command": "sh", "args": ["-c", script] });
        naq.publish("mail", envelope.to_string())
    };
    let busy = run("i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done");
    assert_eq!(naq.wait_ended(&busy).state(), State::Succeeded);
    let leaking = run("setsid sleep 1000 > /dev/null 2>&1 & exit 0");
    assert_eq!(naq.wait_ended(&leaking).state(), State::Succeeded);
    let cancelled = run("sleep 1000");
    naq.wait_running(&cancelled);
    naq.cli(["cancel", cancelled.as_str()]).run().succeeds();
    assert_eq!(naq.wait_ended(&cancelled).state(), State::Cancelled);
    // a crash of its spawner costs a job nothing at first
    let killer = run("test -e killed || { : > killed; kill -9 $PPID; sleep 1000; }");
    assert_eq!(naq.wait_ended(&killer).state(), State::Succeeded);
    naq.wait_drained("mail");
    eventually("every attempt counted", || {
        let ended = Scrape::of(&address)
            .series("naq_attempts_total")
            .values()
            .sum::<f64>();
        ended == 5.0
    });
    let scrape = Scrape::of(&address);
    scrape.expect(&[
        (
            "naq_attempts_total{queue=\"mail\",outcome=\"success\"}",
            3.0,
        ),
        (
            "naq_attempts_total{queue=\"mail\",outcome=\"cancelled\"}",
            1.0,
        ),
        (
            "naq_attempts_total{queue=\"mail\",outcome=\"requeued\"}",
            1.0,
        ),
        ("naq_jobs_leaked_total", 1.0),
        ("naq_spawner_restarts_total", 1.0),
        // the request to cancel is in the record by the time at which the outcome is written
        ("naq_write_conflicts_total", 1.0),
    ]);
    let cpu = scrape.value("naq_job_cpu_seconds_total{queue=\"mail\",mode=\"user\"}");
    assert!(cpu > 0.01, "{cpu}");
}

#[test]
fn the_metrics_of_a_worker_count_a_lost_lease() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let mut proxy = Proxy::start(server.port());
    let worker = naq
        .worker(&["mail"])
        .ack_wait("2s")
        .env("NAQ_NATS_URL", &proxy.url())
        .arg("--metrics-listen=127.0.0.1:0")
        .spawn();
    let address = address_in(&worker.log());
    let job = json!({ "command": "sleep", "args": ["1000"] });
    naq.publish("mail", job.to_string());
    // the record says `running` before the worker has the answer to its claim
    eventually("the worker has started the job", || {
        Scrape::of(&address).value("naq_attempts_started_total{queue=\"mail\"}") == 1.0
    });
    proxy.set(Link::Silent);
    eventually("the lease is lost", || {
        let scrape = Scrape::of(&address);
        let lost = scrape.value("naq_attempts_total{queue=\"mail\",outcome=\"lost\"}");
        (lost, scrape.value("naq_leases_lost_total")) == (1.0, 1.0)
    });
}

#[test]
fn a_worker_shows_busy_slots_and_that_it_drains() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["mail"])
        .concurrency(2)
        .arg("--metrics-listen=127.0.0.1:0")
        .spawn();
    let address = address_in(&worker.log());
    let fifo = naq.home().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let held = naq.publish(
        "mail",
        json!({ "command": "cat", "args": [fifo] }).to_string(),
    );
    naq.wait_running(&held);
    eventually("a busy slot", || {
        Scrape::of(&address).value("naq_worker_slots_busy") == 1.0
    });
    worker.signal(Signal::SIGTERM);
    eventually("draining", || {
        Scrape::of(&address).value("naq_worker_draining") == 1.0
    });
    std::fs::write(&fifo, "end").unwrap();
    assert!(worker.wait_exit().success());
}

#[test]
fn a_worker_shows_a_lost_connection_and_that_it_is_back() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["mail"])
        .arg("--metrics-listen=127.0.0.1:0")
        .spawn();
    let address = address_in(&worker.log());
    server.kill9();
    eventually("the outage", || {
        Scrape::of(&address).value("naq_nats_up") == 0.0
    });
    server.restart();
    eventually("the reconnect", || {
        let scrape = Scrape::of(&address);
        scrape.value("naq_nats_up") == 1.0 && scrape.value("naq_nats_reconnects_total") == 1.0
    });
}

#[test]
fn metrics_on_an_address_of_other_machines_need_a_token() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("mail");
    let listen = "--metrics-listen=0.0.0.0:0";
    naq.cli(["worker", "mail", listen])
        .run()
        .exits(2)
        .expect_stderr(&[
            "other machines can reach this address",
            "--metrics-token-file",
        ]);
    let secret = "0123456789abcdefghij";
    let file = naq.file("metrics.token", format!("{secret}\n"));
    let option = format!("--metrics-token-file={}", file.display());
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    naq.cli(["worker", "mail", listen, &option])
        .run()
        .exits(2)
        .expect_stderr(&["other users can read it"]);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let worker = naq
        .worker(&["mail"])
        .arg("--metrics-listen=127.0.0.1:0")
        .arg(&option)
        .spawn();
    let address = address_in(&worker.log());
    for (headers, status) in [
        (vec![], 401),
        (vec!["Authorization: Bearer 0123456789abcdefghiJ"], 401),
        (vec!["Authorization: Bearer 0123456789abcdefghij"], 200),
    ] {
        let answer = request(&address, "GET", &headers);
        assert_eq!(answer.status, status, "{headers:?}");
        assert_eq!(answer.body.contains("naq_"), status == 200);
    }
    // a bucket names a job, for those who may see ids
    let job = naq.enqueue(&["-q", "mail", "--id", "slow-1", "--", "true"]);
    naq.wait_ended(&job);
    let token = "Authorization: Bearer 0123456789abcdefghij";
    let open_metrics = "Accept: application/openmetrics-text; version=1.0.0";
    eventually("the attempt is counted", || {
        let answer = request(&address, "GET", &[token, open_metrics]);
        let named = answer.body.lines().find(|line| line.contains(" # "));
        named.is_some_and(|line| {
            line.starts_with("naq_job_run_seconds_bucket{")
                && line.contains(" # {job_id=\"slow-1\"} ")
        })
    });
    let text = request(&address, "GET", &[token]);
    assert!(!text.body.contains("job_id"), "{}", text.body);
    let open = naq
        .worker(&["mail"])
        .arg("--metrics-listen=127.0.0.1:0")
        .spawn();
    let address_of_open = address_in(&open.log());
    for number in 0..4 {
        let job = naq.enqueue(&["-q", "mail", "--id", &format!("n{number}"), "--", "true"]);
        naq.wait_ended(&job);
    }
    let anyone = request(&address_of_open, "GET", &[open_metrics]);
    assert!(!anyone.body.contains("job_id"), "{}", anyone.body);
    assert_eq!(request(&address, "POST", &[]).status, 405);
}
