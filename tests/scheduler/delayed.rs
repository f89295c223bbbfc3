//! Delayed jobs: kept by the server until their time, then run once.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;
use std::time::Duration;

use naq_client::ClientError;
use naq_core::delayed_until_max;
use naq_jetstream::BrokerError;
use naq_protocol::{Envelope, JobId, QueueName, State, Timestamp};

use crate::harness::cluster::Cluster;
use crate::harness::naq::{Naq, eventually, id, text};
use crate::harness::nats::TestServer;

/// The time `wait` from now.
pub(super) fn from_now(wait: Duration) -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "a test's times are real ones")]
    let now = std::time::SystemTime::now();
    (now + wait).into()
}

pub(super) fn an_hour() -> Timestamp {
    from_now(Duration::from_secs(3_600))
}

/// The state that `naq status` shows.
pub(super) fn state(naq: &Naq, job: &str) -> State {
    let record = naq.block_on(naq.client().fetch_job(&id(job)));
    record.unwrap().state()
}

/// Waits until a job that no worker takes is in its queue.
pub(super) fn queued(naq: &Naq, job: &str) {
    eventually(&format!("{job} queued"), || {
        // the server is down in part of some tests
        let found = naq.block_on(naq.client().fetch_job(&id(job)));
        found.is_ok_and(|record| record.state() == State::Queued)
    });
}

/// A script that appends a line each time it runs.
fn leaves_a_line(file: &Path) -> String {
    format!("echo ran >> {}", file.display())
}

fn lines(file: &Path) -> usize {
    std::fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

#[test]
fn delayed_job_starts_although_naq_and_the_server_were_down_at_its_time() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let file = naq.home().join("lines");
    let line = leaves_a_line(&file);
    let due = from_now(Duration::from_secs(1));
    for (job, at) in [("soon", due), ("later", an_hour())] {
        let at = at.to_string();
        naq.cli(["enqueue", "--id", job, "--at", &at, "--", "sh", "-c", &line])
            .run()
            .succeeds();
    }
    // no process of naq runs now, and the server stops as well
    server.kill9();
    std::thread::sleep(Duration::from_secs(2));
    server.restart();
    queued(&naq, "soon");
    assert_eq!(state(&naq, "later"), State::Scheduled);
    // a worker that starts long after
    let worker = naq.worker(&["default"]).spawn();
    let record = naq.wait_ended(&id("soon"));
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 1));
    assert!(record.started_at.unwrap() >= due);
    // another restart does not deliver it again
    naq.wait_for_messages("default", 1);
    worker.stop();
    server.kill9();
    server.restart();
    let _worker = naq.worker(&["default"]).spawn();
    naq.assert_jobs_still_run("default");
    assert_eq!(lines(&file), 1);
    assert_eq!(state(&naq, "later"), State::Scheduled);
}

#[test]
fn delayed_job_waits_for_its_time_although_a_worker_is_idle() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    let job = naq.enqueue(&["--in", "2s", "--", "true"]);
    let before = naq.block_on(naq.client().fetch_job(&job)).unwrap();
    let due = before.next_attempt_at();
    let record = naq.wait_ended(&job);
    assert_eq!(record.state(), State::Succeeded);
    // on a machine so slow that the state was read too late, there is nothing to compare
    if let Some(due) = due {
        assert!(record.started_at.unwrap() >= due, "{record:#?}");
    }
    naq.wait_drained("default");
}

#[test]
fn naq_wait_waits_for_the_end_of_a_delayed_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    naq.cli(["enqueue", "--in", "1s", "--wait", "--", "echo", "there"])
        .run()
        .succeeds()
        .expect_stdout("there");
    naq.enqueue(&["--id", "x", "--in", "1s", "--", "false"]);
    naq.cli(["wait", "x"])
        .run()
        .exits(1)
        .expect_stdout("failed");
    naq.enqueue(&["--id", "y", "--in", "1h", "--", "true"]);
    naq.cli(["wait", "--timeout", "100ms", "y"])
        .run()
        .exits(124);
}

#[test]
fn every_verb_supports_delayed_jobs() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let at = "2126-12-24T18:00:00+01:00";
    naq.enqueue(&["--id", "far", "-l", "a=b", "--at", at, "--", "echo", "far"]);
    naq.cli(["status", "far"])
        .run()
        .succeeds()
        .expect_stdout("scheduled")
        .expect_stdout("2126-12-24T17:00:00.000Z")
        .expect_stdout("echo far");
    naq.cli(["status", "--tree", "far"])
        .run()
        .succeeds()
        .expect_stdout("far  scheduled");
    naq.cli(["jobs", "--state", "scheduled", "--label", "a=b"])
        .run()
        .succeeds()
        .expect_stdout("far");
    let jobs = naq.cli(["jobs", "--json"]).run().succeeds();
    assert!(
        jobs.stdout
            .contains(r#""next_attempt_at":"2126-12-24T17:00:00.000Z""#)
    );
    let info = |naq: &Naq| {
        let queue = naq.client().queue("default").unwrap();
        let info = naq.block_on(queue.info()).unwrap();
        (info.depth, info.delayed)
    };
    assert_eq!(info(&naq), (0, 1));
    let seen = naq.cli(["enqueue", "--in", "1h", "--max-jobs", "1", "--", "true"]);
    seen.run().exits(7);
    naq.cli(["result", "far"])
        .run()
        .exits(1)
        .expect_stderr(&["has not ended"]);
    naq.cli(["cancel", "far"])
        .run()
        .succeeds()
        .expect_stdout("cancelled");
    let record = naq.wait_ended(&id("far"));
    assert_eq!((record.state(), record.attempt), (State::Cancelled, 0));
    assert_eq!(info(&naq), (0, 0));
    assert_eq!(naq.stream_messages("default"), 0);
    naq.enqueue(&["--id", "more", "--in", "1h", "--", "true"]);
    naq.cli(["purge", "--yes", "default"]).run().succeeds();
    naq.cli(["status", "more"]).run().exits(4);
}

#[test]
fn jobs_that_depend_on_a_delayed_job_continue_when_it_has_run_or_is_cancelled() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    naq.enqueue(&["--id", "first", "--in", "1s", "--", "true"]);
    naq.enqueue(&["--id", "next", "--depends-on", "first", "--", "true"]);
    naq.enqueue(&["--id", "far", "--in", "1h", "--", "true"]);
    let after = "far=failure";
    naq.enqueue(&["--id", "alarm", "--depends-on", after, "--", "true"]);
    assert_eq!(naq.wait_ended(&id("next")).state(), State::Succeeded);
    naq.wait_for(&id("alarm"), "waiting", |record| {
        record.state() == State::Waiting
    });
    naq.cli(["cancel", "far"]).run().succeeds();
    assert_eq!(naq.wait_ended(&id("alarm")).state(), State::Succeeded);
    naq.wait_drained("default");
}

#[test]
fn delayed_job_with_the_same_id_is_the_same_request_or_refused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let enqueue = |args: &[&str]| {
        let args = [&["enqueue", "--id", "x"], args].concat();
        naq.cli(args).run()
    };
    let at = |time: Timestamp| time.to_string();
    let (due, other) = (at(an_hour()), at(from_now(Duration::from_secs(7_200))));
    let hint = &["`x` exists already", "naq job reschedule x"];
    enqueue(&["--at", &due, "--", "echo", "x"]).succeeds();
    enqueue(&["--at", &due, "--", "echo", "x"]).succeeds();
    enqueue(&["--at", &other, "--", "echo", "x"])
        .exits(5)
        .expect_stderr(hint);
    enqueue(&["--", "echo", "x"]).exits(5).expect_stderr(hint);
    // the end of a relative delay differs by milliseconds: the first one counts
    enqueue(&["--in", "5m", "--", "echo", "x"]).succeeds();
    let taken = &["`x` is taken by another envelope"];
    enqueue(&["--at", &due, "--", "echo", "y"])
        .exits(5)
        .expect_stderr(taken);
    enqueue(&["--in", "5m", "--", "echo", "y"])
        .exits(5)
        .expect_stderr(taken);
    enqueue(&["--", "echo", "y"]).exits(5).expect_stderr(taken);
    let bulk = |args: &[&str], envelope: &str| {
        let args = [&["enqueue", "--file", "-"], args].concat();
        naq.cli(args).stdin(envelope).run()
    };
    let (same, another) = (
        r#"{"job_id": "x", "command": "echo", "args": ["x"]}"#,
        r#"{"job_id": "x", "command": "echo", "args": ["y"]}"#,
    );
    bulk(&["--at", &due], same).succeeds();
    bulk(&["--in", "5m"], same).succeeds();
    bulk(&["--at", &other], same).exits(5).expect_stderr(hint);
    bulk(&["--at", &due], another).exits(5).expect_stderr(taken);
    // and by the server's own deduplication, if nothing was looked up before
    bulk(&[], same).exits(5).expect_stderr(hint);
    let record = naq.block_on(naq.client().fetch_job(&id("x"))).unwrap();
    assert_eq!(record.next_attempt_at().unwrap().to_string(), due);
    assert_eq!(naq.stream_messages("default"), 1);

    // once in its queue, it can no longer be delayed
    naq.block_on(naq.client().run_delayed_job_now(&id("x")))
        .unwrap();
    enqueue(&["--at", &due, "--", "echo", "x"]).succeeds();
    enqueue(&["--at", &other, "--", "echo", "x"])
        .exits(5)
        .expect_stderr(&["in its queue"]);
    // once it has started, its time has passed
    let _worker = naq.worker(&["default"]).spawn();
    naq.wait_ended(&id("x"));
    enqueue(&["--at", &other, "--", "echo", "x"]).succeeds();
    enqueue(&["--at", &other, "--", "echo", "y"])
        .exits(5)
        .expect_stderr(taken);
    naq.wait_drained("default");
}

#[test]
fn job_id_of_a_removed_delayed_job_is_free_again() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for args in [&["--in", "1h"][..], &[], &["--in", "1h"], &[]] {
        // within the server's deduplication window
        naq.enqueue(&[&["--id", "x"], args, &["--", "true"]].concat());
        assert_eq!(naq.stream_messages("default"), 1);
        naq.cli(["purge", "--yes", "default"]).run().succeeds();
    }
}

#[test]
fn invalid_start_times_are_refused_and_past_ones_start_at_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let enqueue = |args: &[&str]| naq.cli([&["enqueue"], args].concat()).run();
    let last = delayed_until_max().to_string();
    enqueue(&["--id", "last", "--at", &last, "--", "true"]).succeeds();
    enqueue(&["--at", "2262-01-01T00:00:00Z", "--", "true"])
        .exits(6)
        .expect_stderr(&["until the end of the year 2261"]);
    enqueue(&[
        "--in",
        "100d",
        "--expires-at",
        "2027-01-01T00:00:00Z",
        "--",
        "true",
    ])
    .exits(6)
    .expect_stderr(&["expires at 2027-01-01T00:00:00.000Z, before its start"]);
    enqueue(&["--at", "tomorrow", "--", "true"])
        .exits(2)
        .expect_stderr(&["--at: `tomorrow` is not a time"]);
    enqueue(&["--at", "18:00", "--tz", "Europe/Berln", "--", "true"])
        .exits(2)
        .expect_stderr(&["did you mean `Europe/Berlin`?"]);
    enqueue(&["--in", "1s", "--at", "18:00", "--", "true"]).exits(2);
    let line = r#"{"command": "true"}
        {"command": "true", "expires_at": "2026-01-01T00:00:00Z"}"#;
    naq.cli(["enqueue", "--file", "-", "--in", "1h"])
        .stdin(line)
        .run()
        .exits(6)
        .expect_stderr(&["line 2: the job expires at", "1 job enqueued"]);
    // in its queue before the answer arrives
    let over = ["--id", "over", "--at", "2020-01-01T00:00:00Z"];
    enqueue(&[&over[..], &["--past-ok", "--", "true"]].concat()).succeeds();
    assert_eq!(state(&naq, "over"), State::Queued);
    let over = ["--id", "over", "--at", "2020-01-01T00:00:00Z"];
    enqueue(&[&over[..], &["--past-ok", "--", "true"]].concat()).succeeds();
    assert_eq!(state(&naq, "last"), State::Scheduled);
    // by the local time of a zone
    enqueue(&[
        "--id",
        "z",
        "--at",
        "2126-07-01 18:00",
        "--tz",
        "Asia/Tokyo",
        "--",
        "true",
    ])
    .succeeds();
    let record = naq.block_on(naq.client().fetch_job(&id("z"))).unwrap();
    let due = record.next_attempt_at().unwrap().to_string();
    assert_eq!(due, "2126-07-01T09:00:00.000Z");
    let done = enqueue(&["--json", "--in", "1h", "--", "true"]).succeeds();
    assert!(done.stdout.contains(r#""scheduled_for":""#), "{done:?}");
}

#[test]
fn a_thousand_delayed_jobs_and_a_flow_are_kept() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let file: String = (0..1_000)
        .map(|number| format!("{{\"command\": \"echo\", \"args\": [{number}]}}\n"))
        .collect();
    let file = naq.file("jobs", file);
    let file = file.to_str().unwrap();
    let done = naq
        .cli(["enqueue", "-q", "many", "--file", file, "--in", "2s"])
        .run()
        .succeeds();
    let ids: Vec<JobId> = done.stdout.lines().map(id).collect();
    assert_eq!(ids.len(), 1_000);
    assert_eq!(naq.stream_messages("many"), 1_000);
    let flow = r#"{"jobs": {
        "one": {"command": "true"},
        "two": {"command": "true", "depends_on": ["one"]}}}"#;
    naq.cli([
        "enqueue", "-q", "many", "--id", "f", "--file", "-", "--in", "1h",
    ])
    .stdin(flow)
    .run()
    .succeeds();
    naq.cli(["status", "--tree", "f"])
        .run()
        .succeeds()
        .expect_stdout("f-one  scheduled")
        .expect_stdout("f-two  scheduled");
    let _worker = naq.worker(&["many"]).concurrency(8).spawn();
    naq.block_on(naq.client().wait_each(&ids, |record| {
        assert_eq!((record.state(), record.attempt), (State::Succeeded, 1));
    }))
    .unwrap();
    // all but the flow
    naq.wait_for_messages("many", 2);
    for job in ["f-two", "f-one"] {
        naq.block_on(naq.client().run_delayed_job_now(&id(job)))
            .unwrap();
    }
    assert_eq!(naq.wait_ended(&id("f-two")).state(), State::Succeeded);
    naq.wait_drained("many");
}

#[test]
fn library_delays_jobs_like_the_command_line() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let queue = naq.client().queue("made-by-it").unwrap();
    let mut envelope = Envelope::command("true", [] as [&str; 0]);
    envelope.job_id = Some(id("x"));
    let wait = Duration::from_secs(3_600);
    naq.block_on(queue.enqueue_in(&envelope, wait)).unwrap();
    naq.block_on(queue.enqueue_in(&envelope, wait)).unwrap();
    let again = naq.block_on(queue.enqueue_at(&envelope, delayed_until_max()));
    assert!(
        matches!(
            again,
            Err(ClientError::Broker(BrokerError::DueTimeConflict { .. }))
        ),
        "{again:?}"
    );
    let never = naq.block_on(queue.enqueue_in(&envelope, Duration::MAX));
    assert!(
        matches!(never, Err(ClientError::InvalidDueTime(_))),
        "{never:?}"
    );
    envelope.job_id = None;
    let past = Timestamp::from_unix_ms(0).unwrap();
    let job = naq.block_on(queue.enqueue_at(&envelope, past)).unwrap();
    assert_eq!(state(&naq, job.as_str()), State::Queued);
}

#[test]
fn a_delayed_job_gets_its_due_time() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    // whole milliseconds, as on the wire
    let due = from_now(Duration::from_secs(1)).unix_ms();
    let due = Timestamp::from_unix_ms(due).unwrap();
    let script = ["sh", "-c", "echo $NAQ_SCHEDULED_FOR"];
    let at = due.to_string();
    let options = ["-q", "build", "--id", "timed", "--at", &at, "--"];
    naq.enqueue(&[&options[..], &script[..]].concat());
    let record = naq.wait_ended(&id("timed"));
    assert_eq!(text(record.stdout.as_ref()), format!("{due}\n"));
    assert_eq!(record.scheduled_for, Some(due));
    let shown = naq.cli(["status", "timed"]).run().succeeds();
    let shown = shown
        .stdout
        .lines()
        .find(|line| line.starts_with("scheduled for "));
    assert!(shown.is_some_and(|line| line.contains(&at)), "{shown:?}");
}

/// A delayed message that a program other than naq publishes is a job like any other: schedule and
/// target headers, and nothing else.
#[test]
fn plain_publish_with_schedule_headers_delays_a_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let publish = |job: &str, schedule: String| {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Schedule", schedule);
        headers.insert("Nats-Schedule-Target", format!("naq.queue.build.{job}"));
        headers.insert(
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        );
        let subject = format!("naq.delayed.build.{job}");
        let payload = r#"{"command": "sh", "args": ["-c", "echo $TRACEPARENT"]}"#;
        naq.block_on(async {
            let jetstream = async_nats::jetstream::new(naq.nats().clone());
            let sent = jetstream
                .publish_with_headers(subject, headers, payload.into())
                .await;
            sent.unwrap().await.unwrap();
        });
    };
    let at = |time: Timestamp| format!("@at {time}");
    for job in ["cancelled", "moved", "paused", "now"] {
        publish(job, at(an_hour()));
    }
    publish("soon", at(from_now(Duration::from_secs(1))));
    let client = naq.client();
    for job in ["moved", "paused", "now"] {
        naq.cli(["status", job])
            .run()
            .succeeds()
            .expect_stdout("scheduled");
    }
    let page = naq
        .block_on(client.list_delayed_jobs(None, None, 100))
        .unwrap();
    assert!(
        page.delayed_jobs
            .iter()
            .any(|one| one.job_id == id("moved") && one.due.is_some())
    );
    naq.cli([
        "enqueue", "-q", "build", "--id", "now", "--in", "1h", "--", "echo",
    ])
    .run()
    .exits(5);
    naq.cli(["cancel", "cancelled"]).run().succeeds();
    let soon = from_now(Duration::from_secs(1));
    naq.block_on(client.reschedule_delayed_job(&id("moved"), soon))
        .unwrap();
    naq.block_on(client.pause_delayed_job(&id("paused")))
        .unwrap();
    assert!(
        naq.block_on(client.fetch_delayed_job(&id("paused")))
            .unwrap()
            .paused
    );
    naq.block_on(client.resume_delayed_job(&id("paused")))
        .unwrap();
    assert!(
        !naq.block_on(client.fetch_delayed_job(&id("paused")))
            .unwrap()
            .paused
    );
    naq.block_on(client.run_delayed_job_now(&id("paused")))
        .unwrap();
    naq.block_on(client.run_delayed_job_now(&id("now")))
        .unwrap();
    let _worker = naq.worker(&["build"]).spawn();
    for job in ["soon", "moved", "paused", "now"] {
        let record = naq.wait_ended(&id(job));
        assert_eq!(record.state(), State::Succeeded, "{record:#?}");
        let trace = crate::harness::naq::text(record.stdout.as_ref());
        assert!(
            trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736"),
            "{trace}"
        );
    }
    // a message without a valid time cannot be rescheduled
    publish("ticks", "@every 1h".to_owned());
    let paused = naq.block_on(client.pause_delayed_job(&id("ticks")));
    assert!(
        matches!(paused, Err(ClientError::NoDueTime { .. })),
        "{paused:?}"
    );
    naq.block_on(client.run_delayed_job_now(&id("ticks")))
        .unwrap();
    assert_eq!(naq.wait_ended(&id("ticks")).state(), State::Succeeded);
    naq.wait_drained("build");
}

#[test]
fn delayed_jobs_survive_on_three_servers() {
    let cluster = Cluster::start(3);
    let naq = Naq::with_cluster(&cluster);
    let client = naq.client();
    let queue = QueueName::new("default").unwrap();
    eventually("the servers have a leader", || {
        let made = client.broker().ensure_queue(&queue);
        naq.handle().block_on(made).is_ok()
    });
    Cluster::wait_replicated(naq.handle(), naq.nats());
    for job in ["moved", "paused", "now"] {
        naq.enqueue(&["--id", job, "--in", "1h", "--", "true"]);
    }
    naq.enqueue(&["--id", "soon", "--in", "1s", "--", "true"]);
    let soon = from_now(Duration::from_secs(1));
    naq.block_on(client.reschedule_delayed_job(&id("moved"), soon))
        .unwrap();
    naq.block_on(client.pause_delayed_job(&id("paused")))
        .unwrap();
    naq.block_on(client.run_delayed_job_now(&id("now")))
        .unwrap();
    let _worker = naq.worker(&["default"]).spawn();
    for job in ["moved", "now", "soon"] {
        assert_eq!(naq.wait_ended(&id(job)).state(), State::Succeeded);
    }
    assert!(
        naq.block_on(client.fetch_delayed_job(&id("paused")))
            .unwrap()
            .paused
    );
    naq.wait_for_messages("default", 1);
}
