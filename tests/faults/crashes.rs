//! A worker that dies or is suspended at any failpoint: the job ends once, correctly, whichever
//! worker continues it.

use std::path::Path;
use std::time::Duration;

use naq_protocol::{JobId, Reason, Record, State};
use nix::sys::signal::Signal;

use crate::harness::naq::{Naq, eventually, is_process_alive, text};
use crate::harness::nats::TestServer;

/// `ack_wait` of the queues in these tests.
const ACK_WAIT: &str = "2s";

/// A job that records each of its runs.
fn noting(naq: &Naq, then: &str) -> String {
    let ran = naq.home().join("ran");
    serde_json::json!({"script": format!("echo $NAQ_ATTEMPT >> {}; {then}", ran.display())})
        .to_string()
}

fn runs(naq: &Naq) -> usize {
    let ran = std::fs::read_to_string(naq.home().join("ran")).unwrap_or_default();
    ran.lines().count()
}

fn read_pid(path: &Path) -> Option<i32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Each case: the failpoint at which the first worker dies, the number of runs of the job, and its
/// last attempt.
#[test]
fn a_worker_killed_at_any_failpoint_loses_no_job() {
    for (step, runs_expected, attempt) in [
        ("claim.before", 1, 1),
        ("claim.written", 1, 2),
        ("run.ended", 2, 2),
        ("outcome.before", 2, 2),
        ("outcome.written", 1, 1),
        ("released", 1, 1),
        ("ack.before", 1, 1),
        ("ack.done", 1, 1),
    ] {
        let server = TestServer::start();
        let naq = Naq::new(&server);
        let first = naq
            .worker(&["build"])
            .ack_wait(ACK_WAIT)
            .env("FAILPOINTS", &format!("{step}=return"))
            .spawn();
        let job = naq.publish("build", noting(&naq, "echo done"));
        assert!(!first.wait_exit().success(), "{step}");
        let _next = naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn();
        let record = naq.wait_ended(&job);
        assert_eq!(record.state(), State::Succeeded, "{step}");
        assert_eq!(record.attempt, attempt, "{step}");
        naq.wait_drained("build");
        assert_eq!(runs(&naq), runs_expected, "{step}");
        let kept = naq.block_on(naq.client().fetch_job(&job)).unwrap();
        assert_eq!(kept.finished_at(), record.finished_at(), "{step}");
    }
}

#[test]
fn redelivery_after_a_killed_worker_leaves_no_process_and_reruns_the_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let first = naq
        .worker(&["build"])
        .with_host_pids()
        .ack_wait(ACK_WAIT)
        .spawn();
    let tree = "if [ $NAQ_ATTEMPT = 1 ]; then \
                (trap '' TERM; echo $$ > shell; exec sleep 3600) & \
                setsid sh -c 'echo $$ > daemon; exec sleep 3600' & sleep 3600; fi";
    let job = naq.publish("build", noting(&naq, tree));
    let pids = ["shell", "daemon"].map(|name| naq.home().join(name));
    eventually("the tree stands", || {
        pids.iter().all(|path| read_pid(path).is_some())
    });
    first.signal(Signal::SIGKILL);
    first.wait_exit();
    eventually("the tree is gone", || {
        !pids
            .iter()
            .filter_map(|path| read_pid(path))
            .any(is_process_alive)
    });
    let _next = naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn();
    let record = naq.wait_ended(&job);
    assert_eq!(
        (record.state(), record.attempt, record.shared_crashes),
        (State::Succeeded, 2, 1)
    );
    naq.wait_drained("build");
}

#[test]
fn a_worker_stopped_past_its_lease_changes_nothing_and_stops_its_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let first = naq
        .worker(&["build"])
        .with_host_pids()
        .ack_wait(ACK_WAIT)
        .spawn();
    // the first run continues until it is stopped; the second one ends the job
    let script = "echo $$ > pid.$NAQ_ATTEMPT; [ $NAQ_ATTEMPT = 2 ] || exec sleep 3600; echo second";
    let job = naq.publish("build", noting(&naq, script));
    let pid = naq.home().join("pid.1");
    eventually("it runs", || read_pid(&pid).is_some());
    first.signal(Signal::SIGSTOP);
    let second = naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn();
    let record = naq.wait_ended(&job);
    assert_eq!(
        (record.state(), record.attempt, record.shared_crashes),
        (State::Succeeded, 2, 1)
    );
    naq.wait_drained("build");
    first.signal(Signal::SIGCONT);
    first.expect_stderr("lease lost");
    eventually("its job is gone", || {
        !read_pid(&pid).is_some_and(is_process_alive)
    });
    let kept = naq.block_on(naq.client().fetch_job(&job)).unwrap();
    assert_eq!(kept.finished_at(), record.finished_at());
    assert_eq!(kept.attempt, 2);
    naq.assert_jobs_still_run("build");
    assert!(first.stop().success());
    assert!(second.stop().success());
}

#[test]
fn a_job_that_crashes_its_worker_three_times_fails() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let kill = "until kill -9 $(cat worker); do sleep 0.05; done; sleep 3600";
    let job = naq.publish("build", noting(&naq, kill));
    for _ in 0..3 {
        let worker = naq
            .worker(&["build"])
            .with_host_pids()
            // with no_new_privs a job cannot signal its worker
            .arg("--allow-setuid")
            .concurrency(1)
            .ack_wait(ACK_WAIT)
            .spawn();
        naq.file("worker", worker.pid().to_string());
        worker.wait_exit();
    }
    let _last = naq
        .worker(&["build"])
        .concurrency(1)
        .ack_wait(ACK_WAIT)
        .spawn();
    let record = naq.wait_ended(&job);
    assert_eq!(
        (record.state(), record.reason(), record.crashes),
        (State::Failed, Some(Reason::Crashed), 3)
    );
    assert_eq!(runs(&naq), 3);
    naq.wait_drained("build");
    assert_eq!(naq.dead_letter(&job).reason, Some(Reason::Crashed));
    naq.assert_jobs_still_run("build");
}

/// Removing the message of one job leaves the server's account of the other deliveries intact: of
/// running jobs, and of later ones.
#[test]
fn redelivery_after_a_killed_worker_works_although_another_job_was_cancelled() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let first = naq
        .worker(&["build"])
        .concurrency(2)
        .ack_wait(ACK_WAIT)
        .spawn();
    let wait = "[ $NAQ_ATTEMPT = 2 ] || exec sleep 3600";
    let jobs = [0, 1].map(|_| naq.publish("build", noting(&naq, wait)));
    for job in &jobs {
        naq.wait_running(job);
    }
    let others = ["a", "b", "c"].map(|id| {
        let job = naq.enqueue(&["-q", "build", "--id", id, "--", "true"]);
        assert_eq!(job.as_str(), id);
        job
    });
    naq.cli(["cancel", "b"]).run().succeeds();
    first.signal(Signal::SIGKILL);
    first.wait_exit();
    let _next = naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn();
    for job in &jobs {
        let record = naq.wait_ended(job);
        assert_eq!((record.state(), record.attempt), (State::Succeeded, 2));
    }
    for (job, state) in others
        .iter()
        .zip([State::Succeeded, State::Cancelled, State::Succeeded])
    {
        assert_eq!(naq.wait_ended(job).state(), state);
    }
    naq.wait_drained("build");
}

/// A worker is suspended just before its claim, while another worker, which lacks a label that the
/// job requires, reroutes the message: the claim refers to a message that is gone.
#[test]
fn a_claim_with_a_message_that_was_rerouted_meanwhile_does_not_block_the_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let slow = naq
        .worker(&["build"])
        .ack_wait(ACK_WAIT)
        .arg("--label")
        .arg("gpu=yes")
        .env("FAILPOINTS", "claim.before=1*sleep(6000)")
        .spawn();
    let envelope = serde_json::json!({"command": "true", "requires": {"gpu": "yes"}});
    let job = naq.publish("build", envelope.to_string());
    let _other = naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn();
    let record = naq.wait_ended(&job);
    assert_eq!(record.state(), State::Succeeded);
    naq.wait_drained("build");
    assert!(slow.stop().success());
}

/// A worker blocks a job and is suspended before it acknowledges the message, while the message is
/// redelivered to another worker that may run the job: the late acknowledgement must not remove the
/// message under the running job.
#[test]
fn a_late_acknowledgement_of_a_blocked_job_does_not_stop_its_run() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _slow = naq
        .worker(&["build", "back"])
        .ack_wait(ACK_WAIT)
        .concurrency(1)
        .env("FAILPOINTS", "ack.before=1*sleep(8000)")
        .spawn();
    let script = "if [ $NAQ_ATTEMPT = 1 ]; then sleep 600; fi";
    let job = serde_json::json!({"job_id": "job", "script": script, "depends_on": [
        {"job": "first", "on": "finished"},
    ]});
    naq.publish("build", job.to_string());
    naq.enqueue(&["--queue", "idle", "--id", "first", "--", "true"]);
    let job = JobId::new("job").unwrap();
    naq.wait_for(&job, "waiting", |record| record.state() == State::Waiting);
    naq.cli(["cancel", "first"]).run().succeeds();
    // no event shows that the server takes the first worker for dead
    std::thread::sleep(Duration::from_secs(3));
    let other = naq
        .worker(&["build"])
        .ack_wait(ACK_WAIT)
        .concurrency(1)
        .spawn();
    naq.wait_running(&job);
    // further messages of the job are dropped as duplicates
    let _third = naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn();
    naq.wait_for_messages("build", 1);
    // the first worker is back and has acknowledged
    let back = naq.publish("back", r#"{"command":"true"}"#);
    naq.wait_ended(&back);
    other.signal(Signal::SIGKILL);
    let record = naq.wait_ended(&job);
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 2));
}

/// If only some waiters of a rejected job were notified of its end, all are notified again.
#[test]
fn waiters_of_a_rejected_job_are_notified_at_whichever_failpoint_its_worker_dies() {
    for step in [
        "rejected.dead_lettered",
        "rejected.written",
        "release.published",
    ] {
        let server = TestServer::start();
        let naq = Naq::new(&server);
        let mut mortal = Some(naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn());
        let waiting = serde_json::json!({"job_id": "waiting", "command": "true", "depends_on": [
            {"job": "bad", "on": "failure"},
        ]});
        naq.publish("build", waiting.to_string());
        let [waiting, bad] = ["waiting", "bad"].map(|id| JobId::new(id).unwrap());
        naq.wait_for(&waiting, "waiting", |record| {
            record.state() == State::Waiting
        });
        naq.wait_for(&bad, "awaited", |record| record.has_dependents);
        drop(mortal.take());
        let dying = naq
            .worker(&["build"])
            .ack_wait(ACK_WAIT)
            .env("FAILPOINTS", &format!("{step}=return"))
            .spawn();
        naq.publish_to(
            "build",
            "naq.queue.build.bad",
            br#"{"command": 7}"#.to_vec(),
        );
        assert!(!dying.wait_exit().success(), "{step}");
        let _next = naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn();
        assert_eq!(naq.wait_ended(&waiting).state(), State::Succeeded, "{step}");
        assert_eq!(naq.wait_ended(&bad).state(), State::Rejected, "{step}");
    }
}

/// A dependency that ends between the first and the last step of blocking a job on it.
#[test]
fn a_dependency_that_ends_while_a_job_blocks_on_it_releases_the_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _slow = naq
        .worker(&["slow"])
        .env("FAILPOINTS", "block.indexed=1*sleep(2000)")
        .spawn();
    let _quick = naq.worker(&["quick"]).spawn();
    let last = serde_json::json!({
        "job_id": "last", "command": "true", "depends_on": ["early", "late"],
    });
    naq.publish("slow", last.to_string());
    let [early, late, last] = ["early", "late", "last"].map(|id| JobId::new(id).unwrap());
    eventually("the index has it", || {
        naq.block_on(async {
            let jetstream = async_nats::jetstream::new(naq.nats().clone());
            let bucket = jetstream.get_stream("KV_naq_dependents").await;
            // with the one that says that the index of unsuccessful jobs is complete
            bucket.is_ok_and(|bucket| bucket.cached_info().state.messages == 5)
        })
    });
    naq.publish("quick", r#"{"job_id": "early", "command": "true"}"#);
    assert_eq!(naq.wait_ended(&early).state(), State::Succeeded);
    naq.wait_for(&last, "waiting for the other", |record| {
        let waits = record.waits();
        waits.is_some_and(|waits| waits.dependencies.len() == 1)
    });
    naq.publish("quick", r#"{"job_id": "late", "command": "true"}"#);
    assert_eq!(naq.wait_ended(&late).state(), State::Succeeded);
    assert_eq!(naq.wait_ended(&last).state(), State::Succeeded);
}

/// The process that cancels a blocked job dies meanwhile: the dependents of that job continue.
#[test]
fn a_cancel_that_dies_leaves_no_dependent_blocked() {
    for step in ["cancel.written", "release.published", "cancel.released"] {
        let server = TestServer::start();
        let naq = Naq::new(&server);
        let _worker = naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn();
        let first =
            serde_json::json!({"job_id": "first", "command": "true", "depends_on": ["never"]});
        let second = serde_json::json!({
            "job_id": "second", "command": "true",
            "depends_on": [{"job": "first", "on": "finished"}],
        });
        naq.publish("build", first.to_string());
        naq.publish("build", second.to_string());
        let [first, second] = ["first", "second"].map(|id| JobId::new(id).unwrap());
        naq.wait_for(&first, "waiting with dependents", |record| {
            record.state() == State::Waiting && record.has_dependents
        });
        naq.wait_for(&second, "waiting", |record| {
            record.state() == State::Waiting
        });
        let done = naq
            .cli(["cancel", "first"])
            .env("FAILPOINTS", &format!("{step}=return"))
            .run();
        assert_eq!(done.code, None, "{step}: {done:?}");
        assert_eq!(naq.wait_ended(&first).state(), State::Cancelled, "{step}");
        assert_eq!(naq.wait_ended(&second).state(), State::Succeeded, "{step}");
    }
}

/// A server that crashes can lose a delivery it had not stored. The next delivery then looks like
/// the first, and may go to the same worker; it is another attempt with its own fence.
#[test]
fn a_redelivery_to_the_same_worker_after_a_lost_delivery_has_another_fence() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let script = "echo $NAQ_ATTEMPT $NAQ_FENCE >> ran; while [ ! -e go ]; do sleep 0.05; done; \
                  echo attempt $NAQ_ATTEMPT";
    let worker = naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn();
    let job = naq.publish("build", serde_json::json!({"script": script}).to_string());
    let ran = || -> Vec<(u32, u64)> {
        let ran = std::fs::read_to_string(naq.home().join("ran")).unwrap_or_default();
        let read = |line: &str| {
            let (attempt, fence) = line.split_once(' ')?;
            Some((attempt.parse().ok()?, fence.parse().ok()?))
        };
        ran.lines().filter_map(read).collect()
    };
    eventually("it runs", || ran().len() == 1);
    let before = naq.wait_running(&job);
    // The server hangs before it crashes: a worker whose server is down keeps its jobs.
    server.pause();
    worker.expect_stderr("lease lost");
    server.kill9();
    server.drop_consumer_state("naq_queue_build", "naq-worker");
    server.restart();
    eventually("it runs again", || ran().len() == 2);
    let after = naq.wait_running(&job);
    let lease = |record: &Record| {
        let lease = record.lease().cloned().unwrap();
        (lease.worker_id, lease.sequence)
    };
    // Only the fence distinguishes the two attempts: the server counts deliveries from 1 again. A
    // message that comes while the first attempt still ends is delivered once more.
    assert_eq!(lease(&before), lease(&after));
    assert_eq!((before.attempt, after.attempt), (1, 2));
    let fences = ran();
    assert!(fences[0].1 < fences[1].1, "{fences:?}");
    std::fs::write(naq.home().join("go"), "").unwrap();
    let record = naq.wait_ended(&job);
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 2));
    assert_eq!(text(record.stdout.as_ref()), "attempt 2\n");
    naq.wait_drained("build");
    assert_eq!(ran().len(), 2);
    assert!(worker.stop().success());
}
