//! What only a later version of naq defines. A record in an unknown state is shown and left as it is;
//! unknown fields stay when naq changes the object that has them.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use naq_protocol::{ScheduleStatus, State};

use crate::harness::naq::{Naq, eventually, id};
use crate::harness::nats::TestServer;

const RECORD: &str = r#"{"job_id":"a","queue":"build","state":"suspended","attempt":1,"enqueue_time":"2026-12-24T16:00:00.000Z","suspended_until":"2026-12-24T18:00:00.000Z","envelope":{"command":"true"}}"#;

const SUBJECT: &str = "$KV.naq_results.a";

#[test]
fn record_of_a_later_version_survives_a_cancel_a_dependent_and_a_redelivery() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).ack_wait("1s").spawn();
    // the buckets exist once a job has run
    naq.assert_jobs_still_run("build");
    store(&naq, SUBJECT, RECORD);
    naq.cli(["cancel", "a"])
        .run()
        .exits(5)
        .expect_stderr(&["suspended", "later version"]);
    naq.enqueue(&[
        "-q",
        "build",
        "--id",
        "b",
        "--depends-on",
        "a",
        "--",
        "true",
    ]);
    naq.wait_for(&id("b"), "waiting", |record| {
        record.state() == State::Waiting
    });
    // a message of the job, which the worker neither runs nor acknowledges
    naq.publish_to(
        "build",
        "naq.queue.build.a",
        br#"{"command":"true"}"#.to_vec(),
    );
    naq.assert_jobs_still_run("build");
    naq.cli(["purge", "--yes", "build"]).run().succeeds();
    naq.wait_for_messages("build", 1);
    naq.cli(["status", "a"])
        .run()
        .succeeds()
        .expect_stdout("suspended (written by a newer naq)");
    naq.cli(["jobs"])
        .run()
        .succeeds()
        .expect_stdout("suspended (written by a newer naq)");
    naq.cli(["jobs", "--json", "--state", "succeeded"])
        .run()
        .succeeds();
    assert_eq!(last(&naq, "KV_naq_results", SUBJECT), RECORD);
}

/// The last value that is stored under a subject.
fn last(naq: &Naq, stream: &str, subject: &str) -> String {
    let message = naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let bucket = jetstream.get_stream(stream).await.unwrap();
        bucket
            .get_last_raw_message_by_subject(subject)
            .await
            .unwrap()
    });
    String::from_utf8(message.payload.to_vec()).unwrap()
}

/// Stores a value as another program does.
fn store(naq: &Naq, subject: &str, value: impl Into<String>) {
    let (subject, value) = (subject.to_owned(), value.into());
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let sent = jetstream.publish(subject, value.into()).await.unwrap();
        sent.await.unwrap();
    });
}

/// A known field in a form that only a later version defines must not hide the job.
#[test]
fn record_that_cannot_be_parsed_is_listed_with_its_state() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).spawn();
    naq.assert_jobs_still_run("build");
    let odd = r#"{"job_id":"odd","queue":"build","state":"failed","attempt":{"of":3},"enqueue_time":"2026-12-24T16:00:00.000Z"}"#;
    store(&naq, "$KV.naq_results.odd", odd);
    store(&naq, "$KV.naq_results.noise", "{\"job_id\":");
    let listed = naq.cli(["jobs"]).run().succeeds().stdout;
    let row = listed.lines().find(|row| row.starts_with("odd")).unwrap();
    assert!(row.contains("failed (written by a newer naq)"), "{listed}");
    naq.cli(["jobs", "--json"])
        .run()
        .succeeds()
        .expect_stdout("the record cannot be read: ");
    assert!(worker.stop().success());
}

/// Adds fields to an object that is written as text, as its first ones.
fn with_fields(object: &str, fields: &str) -> String {
    format!("{{{fields},{}", object.strip_prefix('{').unwrap())
}

const LATER: &str = r#""colour":{"shades":[1.50, 12345678901234567890123]}"#;

#[test]
fn unknown_fields_of_a_record_survive_block_release_claim_and_end() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).spawn();
    naq.assert_jobs_still_run("build");
    naq.enqueue(&[
        "-q",
        "build",
        "--id",
        "b",
        "--depends-on",
        "a",
        "--",
        "sh",
        "-c",
        "exit 3",
    ]);
    naq.wait_for(&id("b"), "waiting", |record| {
        record.state() == State::Waiting
    });
    let subject = "$KV.naq_results.b";
    let blocked = last(&naq, "KV_naq_results", subject);
    store(&naq, subject, with_fields(&blocked, LATER));
    // The end of `a` releases `b`, and a worker claims it, runs it and records its end.
    naq.enqueue(&["-q", "build", "--id", "a", "--", "true"]);
    naq.wait_for(&id("b"), "failed", |record| record.state() == State::Failed);
    let ended = last(&naq, "KV_naq_results", subject);
    assert!(ended.contains(LATER), "{ended}");
    // A copy with another TTL, and what a user sees.
    naq.cli(["job", "ttl", "b", "1h"]).run().succeeds();
    assert!(last(&naq, "KV_naq_results", subject).contains(LATER));
    naq.cli(["status", "b", "--json"])
        .run()
        .succeeds()
        .expect_stdout("12345678901234567890123");
    assert!(worker.stop().success());
}

#[test]
fn unknown_fields_that_a_record_gets_while_the_job_runs_survive_its_end() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).spawn();
    let go = naq.home().join("go");
    let hold = format!("until [ -e {} ]; do sleep 0.05; done", go.display());
    naq.enqueue(&["-q", "build", "--id", "r", "--", "sh", "-c", &hold]);
    naq.wait_running(&id("r"));
    let subject = "$KV.naq_results.r";
    let running = last(&naq, "KV_naq_results", subject);
    store(&naq, subject, with_fields(&running, LATER));
    std::fs::write(go, "").unwrap();
    assert_eq!(naq.wait_ended(&id("r")).state(), State::Succeeded);
    let ended = last(&naq, "KV_naq_results", subject);
    assert!(ended.contains(LATER), "{ended}");
    assert!(worker.stop().success());
}

#[test]
fn unknown_fields_of_a_schedule_survive_ticks_and_changes() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    naq.cli([
        "schedule", "add", "--name", "often", "-q", "build", "--every", "500ms", "--", "true",
    ])
    .run()
    .succeeds();
    let subject = "$KV.naq_scheduled_jobs.often";
    let stream = "KV_naq_scheduled_jobs";
    let added = last(&naq, stream, subject)
        .replace(r#""progress":{"#, r#""progress":{"phase":{"of":"moon"},"#);
    store(&naq, subject, with_fields(&added, LATER));
    let keeps = || {
        let now = last(&naq, stream, subject);
        assert!(now.contains(LATER), "{now}");
        assert!(now.contains(r#""phase":{"of":"moon"}"#), "{now}");
        naq_protocol::Schedule::parse(now.as_bytes()).unwrap()
    };
    let scheduler = naq.cli(["scheduler"]).follow();
    eventually("it runs", || keeps().progress.runs >= 2);
    // A status of a later version is shown as it is, and no tick is enqueued.
    let hibernating = last(&naq, stream, subject).replace(r#""active""#, r#""hibernating""#);
    store(
        &naq,
        "$KV.naq_scheduled_jobs.later",
        hibernating.replace("often", "later"),
    );
    naq.cli(["schedules"])
        .run()
        .succeeds()
        .expect_stdout("hibernating (written by a newer naq)");
    naq.cli(["schedule", "pause", "often"]).run().succeeds();
    eventually("it is paused", || keeps().status == ScheduleStatus::Paused);
    naq.cli(["schedule", "update", "often", "--every", "1h"])
        .run()
        .succeeds();
    naq.cli(["schedule", "trigger", "often"]).run().succeeds();
    let again = [
        "schedule",
        "add",
        "--name",
        "often",
        "-q",
        "build",
        "--every",
        "2h",
        "--replace",
        "--",
        "true",
    ];
    naq.cli(again).run().succeeds();
    assert_eq!(keeps().every.map(|every| every.0.as_secs()), Some(7_200));
    assert!(scheduler.stop().success());
}

/// A write goes to the name that is in the object. Under another key it never arrives, and a change
/// that is repeated until it succeeds never ends.
#[test]
fn object_that_is_stored_under_another_name_is_refused_and_can_be_removed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).spawn();
    naq.assert_jobs_still_run("build");
    let added = [
        "schedule", "add", "--name", "right", "-q", "build", "--every", "1h", "--", "true",
    ];
    naq.cli(added).run().succeeds();
    let schedule = last(
        &naq,
        "KV_naq_scheduled_jobs",
        "$KV.naq_scheduled_jobs.right",
    );
    store(&naq, "$KV.naq_scheduled_jobs.wrong", schedule);
    for verb in [
        vec!["job-control", "wrong", "pause"],
        vec!["schedule", "resume", "wrong"],
        vec!["schedule", "update", "wrong", "--every", "2h"],
        vec!["schedule", "trigger", "wrong"],
        vec![
            "schedule",
            "add",
            "--name",
            "wrong",
            "-q",
            "build",
            "--every",
            "2h",
            "--replace",
            "--",
            "true",
        ],
    ] {
        let done = naq.cli(verb.clone()).run();
        assert_ne!(done.code, Some(0), "{verb:?}");
        done.expect_stderr(&["calls itself `right`", "stored as `wrong`"]);
    }
    let toml = "[schedule.wrong]\nqueue = \"build\"\nevery = \"3h\"\ncommand = [\"true\"]\n";
    let file = naq.file("set.toml", toml).display().to_string();
    let apply = ["schedule", "apply", "--set", "s", "--adopt", &file];
    naq.cli(apply).run().succeeds();
    naq.cli(["schedule", "delete", "wrong"]).run().succeeds();

    store(
        &naq,
        "$KV.naq_results.wrong",
        r#"{"job_id":"right","queue":"build","state":"queued","attempt":0,"enqueue_time":"2026-12-24T16:00:00.000Z"}"#,
    );
    let done = naq.cli(["cancel", "wrong"]).run();
    assert_ne!(done.code, Some(0));
    done.expect_stderr(&["calls itself `right`"]);
    assert!(worker.stop().success());
}

/// A program may write what the protocol page shows: without `progress`, and with `null` for what is
/// absent.
#[test]
fn schedule_without_progress_begins_when_it_was_created() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let scheduler = naq.cli(["scheduler"]).follow();
    scheduler.expect_stderr("leading");
    let created = naq_protocol::Timestamp::from(time_now());
    let subject = "$KV.naq_scheduled_jobs.bare";
    store(
        &naq,
        subject,
        format!(
            r#"{{"schedule_id":"bare","queue":"build","every":0.5,"envelope":{{"command":"true"}},
            "created_at":"{created}","overlap":null,"misfire":null,"status":null,"repeat":2.0,"tz":null}}"#
        ),
    );
    let read = || {
        let text = last(&naq, "KV_naq_scheduled_jobs", subject);
        naq_protocol::Schedule::parse(text.as_bytes()).unwrap()
    };
    eventually("it ends", || read().status == ScheduleStatus::Ended);
    assert_eq!((read().progress.runs, read().progress.missed), (2, 0));
    assert!(scheduler.stop().success());
}

#[expect(clippy::disallowed_methods, reason = "tests are at the edge")]
fn time_now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}
