//! Results that find no room: a worker holds no more jobs than it may run, says so, and `naq purge
//! --results` frees room.

use std::time::{Duration, Instant};

use naq_protocol::{JobId, State};
use nix::sys::signal::Signal;

use crate::harness::naq::{Naq, Worker, eventually, id};
use crate::harness::nats::{TEST_TIMEOUT, TestOptions, TestServer};

const OUTPUT_BYTES: usize = 60_000;

fn job_with_output(bytes: usize) -> String {
    let script = format!("echo x >> ran; head -c {bytes} /dev/zero | tr '\\0' x");
    serde_json::json!({"script": script, "limits": {"output": "2M"}}).to_string()
}

/// Limits a stream to what it has now and this many bytes more. `None` removes the limit.
fn limit(naq: &Naq, stream: &str, more: Option<u64>) {
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let stream = jetstream.get_stream(stream).await.unwrap();
        let mut config = stream.cached_info().config.clone();
        let bytes = stream.cached_info().state.bytes;
        config.max_bytes = more.map_or(-1, |more| i64::try_from(bytes + more).unwrap());
        jetstream.update_stream(config).await.unwrap();
    });
}

/// What a stream has stored.
fn state(naq: &Naq, stream: &str) -> async_nats::jetstream::stream::State {
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let stream = jetstream.get_stream(stream).await.unwrap();
        stream.cached_info().state.clone()
    })
}

fn running(naq: &Naq) -> usize {
    let done = naq.cli(["jobs", "--state", "running", "--json"]).run();
    done.succeeds().stdout.lines().count()
}

fn ran(naq: &Naq) -> usize {
    let ran = std::fs::read_to_string(naq.home().join("ran"));
    ran.map_or(0, |ran| ran.lines().count())
}

/// A worker of two slots with jobs whose outcomes find no room.
fn worker_without_room(naq: &Naq, jobs: usize) -> Worker {
    let worker = naq.worker(&["build"]).concurrency(2);
    let worker = worker.arg("--drain-timeout").arg("2s").spawn();
    // results that have ended, and can be removed
    for _ in 0..2 {
        let job = naq.publish("build", job_with_output(OUTPUT_BYTES));
        assert_eq!(naq.wait_ended(&job).state(), State::Succeeded);
    }
    // claims fit, and outcomes with output do not
    limit(naq, "KV_naq_results", Some(40_000));
    for _ in 0..jobs {
        naq.publish("build", job_with_output(OUTPUT_BYTES));
    }
    worker.expect_stderr("cannot record the outcome yet");
    worker
}

#[test]
fn worker_holds_no_more_jobs_than_it_may_run_while_outcomes_find_no_room() {
    const JOBS: usize = 24;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = worker_without_room(&naq, JOBS);
    std::thread::sleep(Duration::from_secs(3));
    assert!(running(&naq) <= 2, "{} at concurrency 2", running(&naq));
    assert!(ran(&naq) <= 4, "{} jobs have run", ran(&naq));
    // every list says what it waits for
    let remedy = "naq purge --results --older-than 1d";
    worker.expect_stderr(remedy);
    eventually("the heartbeat says so", || {
        let done = naq.cli(["workers"]).run().succeeds();
        done.stderr.contains("maximum bytes exceeded") && done.stderr.contains(remedy)
    });
    naq.cli(["jobs"]).run().succeeds().expect_stderr(&[remedy]);
    // each removal makes room for the next outcomes
    let began = Instant::now();
    while ran(&naq) < JOBS + 2 || running(&naq) > 0 {
        assert!(began.elapsed() < TEST_TIMEOUT, "{} ran", ran(&naq));
        naq.cli(["purge", "--results", "--yes"]).run().succeeds();
    }
    naq.wait_drained("build");
    assert_eq!(ran(&naq), JOBS + 2);
    assert!(worker.stop().success());
}

#[test]
fn blocked_job_with_a_large_envelope_waits_for_room_and_runs_after_its_dependency() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).spawn();
    // makes the bucket of objects
    naq.wait_ended(&naq.publish("build", job_with_output(1_500_000)));
    limit(&naq, "OBJ_naq_files", Some(0));
    // too large for the record
    let envelope = serde_json::json!({
        "command": "true", "depends_on": ["later"], "meta": {"text": "x".repeat(200_000)},
    });
    let blocked = naq.publish("build", envelope.to_string());
    worker.expect_stderr("maximum bytes exceeded");
    limit(&naq, "OBJ_naq_files", None);
    naq.wait_for(&blocked, "waiting", |record| {
        record.state() == State::Waiting
    });
    naq.enqueue(&["-q", "build", "--id", "later", "--", "true"]);
    let record = naq.wait_ended(&blocked);
    assert_eq!(record.state(), State::Succeeded, "{:?}", record.error);
    assert!(worker.stop().success());
}

#[test]
fn draining_worker_without_room_ends_in_time_and_names_its_jobs() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = worker_without_room(&naq, 6);
    let listed = naq.cli(["jobs", "--state", "running", "--json"]).run();
    assert!(!listed.stdout.is_empty(), "{listed:?}");
    let began = Instant::now();
    worker.signal(Signal::SIGTERM);
    worker.expect_stderr("exiting before NATS has stored every outcome");
    let log = worker.log();
    let left = log
        .lines()
        .find(|line| line.contains("exiting before"))
        .unwrap();
    assert!(left.contains("maximum bytes exceeded"), "{left}");
    for line in listed.stdout.lines() {
        let job: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(left.contains(job["job_id"].as_str().unwrap()), "{left}");
    }
    assert!(worker.wait_exit().success());
    // the drain timeout and time to sign off, and not the grace for jobs and for their outcomes, of 15 s
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn purged_results_are_those_of_jobs_that_ended_long_enough_ago() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(2).spawn();
    let ended = |name: &str, envelope: String| {
        naq.publish_to("build", &format!("naq.queue.build.{name}"), envelope.into());
        assert_eq!(naq.wait_ended(&id(name)).state(), State::Succeeded);
    };
    ended("small", job_with_output(10));
    ended("large", job_with_output(1_500_000));
    let large = naq.wait_ended(&id("large"));
    assert!(large.stdout.unwrap().object.is_some());
    let waits = serde_json::json!({"script": "while [ ! -e go ]; do sleep 0.05; done"});
    naq.publish_to("build", "naq.queue.build.runs", waits.to_string().into());
    naq.wait_running(&id("runs"));
    let purge = |args: &[&str]| {
        let args = [&["purge", "--results", "--yes", "--json"], args].concat();
        let done = naq.cli(args).run().succeeds();
        serde_json::from_str::<serde_json::Value>(&done.stdout).unwrap()
    };
    let none = purge(&["--older-than", "1h"]);
    assert_eq!((&none["jobs"], &none["objects"]), (&0.into(), &0.into()));
    let all = purge(&[]);
    assert_eq!((&all["jobs"], &all["objects"]), (&2.into(), &1.into()));
    assert!(all["bytes"].as_u64().unwrap() > 1_500_000, "{all}");
    assert_eq!(state(&naq, "OBJ_naq_files").messages, 0);
    naq.cli(["status", "small"]).run().exits(4);
    // a running job keeps its record, and ends by it
    std::fs::write(naq.home().join("go"), "").unwrap();
    assert_eq!(naq.wait_ended(&id("runs")).state(), State::Succeeded);
    // the record of an ended job keeps its message from running it again
    assert!(worker.stop().success());
    let runs = |job: &JobId| naq.block_on(naq.client().fetch_job(job)).is_ok();
    naq.publish_to("build", "naq.queue.build.runs", waits.to_string().into());
    let kept = purge(&[]);
    assert_eq!((&kept["jobs"], &kept["kept"]), (&0.into(), &1.into()));
    assert!(runs(&id("runs")));
    naq.cli(["purge", "--results"]).run().exits(2);
    naq.cli(["purge", "--results", "build"]).run().exits(2);
    naq.cli(["purge", "--older-than", "1h", "build"])
        .run()
        .exits(2);
}

/// A part of an object that finds no room must not stay: each try would take more.
#[test]
fn object_that_finds_no_room_leaves_nothing_in_the_store() {
    let server = TestServer::with(&TestOptions {
        max_file_store_bytes: Some(6 << 20),
        ..TestOptions::default()
    });
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(1).spawn();
    let job = naq.publish("build", job_with_output(1_500_000));
    assert_eq!(naq.wait_ended(&job).state(), State::Succeeded);
    naq.cli(["purge", "--results", "--yes"]).run().succeeds();
    let logged = state(&naq, "naq_logs").bytes;
    let script = "head -c 1500000 /dev/zero | tr '\\0' x; while [ ! -e go ]; do sleep 0.05; done";
    let job = serde_json::json!({"script": script, "limits": {"output": "2M"}});
    let job = naq.publish("build", job.to_string());
    // The live output is stored while there is room for it. It is as long as that of the first job, but
    // may be in more or fewer messages.
    eventually("all output is logged", || {
        state(&naq, "naq_logs").bytes >= logged + logged * 9 / 10
    });
    // room for some of the chunks
    let room = naq.file("room", "x".repeat(512 << 10));
    let room = room.to_str().unwrap();
    naq.enqueue(&["-q", "room", "--stdin", room, "--", "true"]);
    naq.fill_storage();
    naq.cli(["purge", "--yes", "room"]).run().succeeds();
    let stored_before = state(&naq, "OBJ_naq_files").last_sequence;
    std::fs::write(naq.home().join("go"), "").unwrap();
    worker.expect_stderr("NATS has no room for outcomes");
    std::thread::sleep(Duration::from_secs(3));
    eventually("nothing is left of the chunks that were stored", || {
        let objects = state(&naq, "OBJ_naq_files");
        objects.messages == 0 && objects.last_sequence > stored_before
    });
    assert_eq!(running(&naq), 1);
    naq.cli(["purge", "--yes", "filler"]).run().succeeds();
    let record = naq.wait_ended(&job);
    assert_eq!(record.stdout.unwrap().bytes, 1_500_000);
    naq.cli(["result", job.as_str()]).run().succeeds();
    assert!(worker.stop().success());
}
