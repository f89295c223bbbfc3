//! `naq list-scheduled`: every schedule, when it runs next, and how it did.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use futures_util::StreamExt;
use naq_protocol::{JobId, Schedule, ScheduleStatus};
use serde_json::{Value, json};

use super::schedule::{name, store, stored};
use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

fn lines(naq: &Naq, args: &[&str]) -> Vec<Value> {
    let args = [&["list-scheduled", "--json"], args].concat();
    let done = naq.cli(args).run().succeeds();
    done.stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A schedule's name, or a delayed job's id.
fn id_of(line: &Value) -> &str {
    let id = line.get("schedule_id").or_else(|| line.get("job_id"));
    id.unwrap().as_str().unwrap()
}

fn ids(naq: &Naq, args: &[&str]) -> Vec<String> {
    let mut ids: Vec<String> = lines(naq, args)
        .iter()
        .map(|line| id_of(line).to_owned())
        .collect();
    ids.sort();
    ids
}

#[test]
fn every_schedule_is_shown_with_how_it_is() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["list-scheduled"])
        .run()
        .succeeds()
        .expect_stderr(&["no such schedules"]);
    assert_eq!(lines(&naq, &[]), [Value::Null; 0]);

    let schedule = |args: &[&str]| {
        let args = [&["schedule"], args].concat();
        naq.cli(args).run().succeeds();
    };
    schedule(&[
        "--name",
        "late",
        "--cron",
        "0 0 1 1 *",
        "--tz",
        "Asia/Tokyo",
        "--",
        "echo",
        "hi",
    ]);
    schedule(&[
        "--name", "soon", "--every", "1h", "-q", "build", "--", "true",
    ]);
    schedule(&["--name", "rests", "--every", "1h", "--", "true"]);
    schedule(&["--name", "over", "--every", "1h", "--", "true"]);
    let (rests, _) = stored(&naq, "rests");
    store(
        &naq,
        &Schedule {
            status: ScheduleStatus::Paused,
            paused_reason: Some("its queue\x1b[31m is full".to_owned()),
            ..rests
        },
    );
    let (over, _) = stored(&naq, "over");
    store(
        &naq,
        &Schedule {
            status: ScheduleStatus::Ended,
            ..over
        },
    );

    // as the scheduler leaves it once it has enqueued a tick
    let _worker = naq.worker(&["build"]).spawn();
    let job = naq.publish_to(
        "build",
        "naq.queue.build.soon-1",
        br#"{"command":"false"}"#.to_vec(),
    );
    drop(job);
    let job = JobId::new("soon-1").unwrap();
    naq.wait_ended(&job);
    let (mut soon, _) = stored(&naq, "soon");
    soon.progress.last_run = Some(soon.created_at);
    soon.progress.last_job_id = Some(job);
    soon.progress.runs = 41;
    soon.progress.missed = 2;
    store(&naq, &soon);

    assert_eq!(ids(&naq, &[]), ["late", "over", "rests", "soon"]);
    assert_eq!(ids(&naq, &["--queue", "build"]), ["soon"]);
    assert_eq!(ids(&naq, &["--status", "active"]), ["late", "soon"]);
    assert_eq!(ids(&naq, &["--status", "paused"]), ["rests"]);
    assert_eq!(ids(&naq, &["--status", "ended"]), ["over"]);
    assert_eq!(ids(&naq, &["--job-id", "late"]), ["late"]);
    assert_eq!(ids(&naq, &["--limit", "1"]), ["soon"]);
    naq.cli(["list-scheduled", "--job-id", "none"])
        .run()
        .exits(4)
        .expect_stderr(&["no schedule and no delayed job is named `none`"]);
    naq.cli(["list-scheduled", "--status", "asleep"])
        .run()
        .exits(2)
        .expect_stderr(&["active, paused, ended"]);

    let line = &lines(&naq, &["--job-id", "soon"])[0];
    assert_eq!(line["kind"], "recurring");
    assert_eq!(line["runs"], 41);
    assert_eq!(line["last_job_id"], "soon-1");
    assert_eq!(line["last_state"], "failed");
    assert_eq!(line["last_reason"], "exit");
    assert_eq!(line["every"], 3600);
    let next = soon.created_at.unix_ms() + 3_600_000;
    let shown: naq_protocol::Timestamp = line["next_run"].as_str().unwrap().parse().unwrap();
    assert_eq!(shown.unix_ms(), next);
    assert_eq!(line.get("envelope"), None);
    let line = &lines(&naq, &["--job-id", "late", "--detailed"])[0];
    assert_eq!(line["envelope"]["command"], "echo");
    assert_eq!(line["misfire"], "once");
    let line = &lines(&naq, &["--job-id", "rests"])[0];
    assert_eq!(line.get("next_run"), None);

    let table = naq.cli(["list-scheduled"]).run().succeeds().stdout;
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 5, "{table}");
    // what runs next comes first, what has ended last
    assert!(
        rows[1].starts_with("soon") && rows[1].contains("failed (exit"),
        "{table}"
    );
    assert!(rows[2].contains("0 0 1 1 * Asia/Tokyo") && rows[2].contains("-01-01T00:00:00+09:00)"));
    assert!(
        rows[3].contains("paused: its queue\\u{1b}[31m is full"),
        "{table}"
    );
    assert!(rows[4].starts_with("over"), "{table}");
    let few = naq.cli(["list-scheduled", "--limit", "2"]).run().succeeds();
    assert_eq!(few.stdout.lines().count(), 3);
    assert!(few.stderr.contains("2 more"), "{few:#?}");
    naq.cli(["list-scheduled", "--detailed", "--job-id", "late"])
        .run()
        .succeeds()
        .expect_stdout("command         echo hi");
}

#[test]
fn one_that_cannot_be_read_is_no_hindrance() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["schedule", "--name", "sound", "--every", "1h", "--", "true"])
        .run()
        .succeeds();
    let (sound, _) = stored(&naq, "sound");
    // another program's
    store(
        &naq,
        &Schedule {
            schedule_id: name("broken"),
            cron: Some("61 * * * *".to_owned()),
            every: None,
            ..sound
        },
    );
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let sent = jetstream.publish("$KV.naq_scheduled_jobs.odd", "{}".into());
        sent.await.unwrap().await.unwrap();
    });
    let lines = lines(&naq, &[]);
    let line = |id: &str| lines.iter().find(|line| id_of(line) == id).unwrap();
    assert_eq!(lines.len(), 3);
    assert!(
        line("broken")["problem"]
            .as_str()
            .unwrap()
            .contains("minute (field 1)")
    );
    assert_eq!(line("odd")["status"], "unreadable");
    let table = naq.cli(["list-scheduled"]).run().succeeds().stdout;
    assert!(
        table.contains("unreadable") && table.contains("broken: cron"),
        "{table}"
    );
}

#[test]
fn missed_runs_that_were_not_all_counted_are_shown_as_at_least_so_many() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for id in ["exact", "more"] {
        let new = ["schedule", "--name", id, "--every", "1h", "--", "true"];
        naq.cli(new).run().succeeds();
        let (mut schedule, _) = stored(&naq, id);
        schedule.progress.missed = 10_000;
        schedule.progress.missed_is_minimum = id == "more";
        store(&naq, &schedule);
    }
    let table = naq.cli(["list-scheduled"]).run().succeeds().stdout;
    let row = |id: &str| table.lines().find(|row| row.starts_with(id)).unwrap();
    assert!(row("more").contains(" 10000+ "), "{table}");
    assert!(row("exact").contains(" 10000 "), "{table}");
    naq.cli(["schedule", "show", "more"])
        .run()
        .succeeds()
        .expect_stdout("at least 10000");
    let listed = lines(&naq, &[]);
    let flag = |id: &str| {
        listed.iter().find(|line| id_of(line) == id).unwrap()["missed_is_minimum"].clone()
    };
    assert_eq!((flag("more"), flag("exact")), (json!(true), Value::Null));
}

/// A list that said `active` of these would promise runs that never come.
#[test]
fn schedules_that_a_scheduler_refuses_are_not_listed_as_active() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["schedule", "--name", "sound", "--every", "1h", "--", "true"])
        .run()
        .succeeds();
    let (sound, _) = stored(&naq, "sound");
    let put = |key: &str, field: &str, value: Value| {
        let mut schedule = serde_json::to_value(&sound).unwrap();
        schedule["schedule_id"] = "refused".into();
        schedule[field] = value;
        naq.block_on(async {
            let jetstream = async_nats::jetstream::new(naq.nats().clone());
            let subject = format!("$KV.naq_scheduled_jobs.{key}");
            let sent = jetstream.publish(subject, schedule.to_string().into());
            sent.await.unwrap().await.unwrap();
        });
    };
    let scheduler = naq.cli(["scheduler"]).follow();
    scheduler.expect_stderr("leading");
    for (field, value, problem) in [
        ("cron", json!("0 5 * * *"), "every"),
        (
            "envelope",
            json!({"command": "x", "job_id": "one"}),
            "job_id",
        ),
        ("envelope", json!({"timeout": "5m"}), "command"),
        ("overlap", json!("later"), "overlap"),
        ("repeat", json!(0), "repeat"),
    ] {
        put("refused", field, value);
        let listed = lines(&naq, &[]);
        let line = listed.iter().find(|line| id_of(line) == "refused").unwrap();
        let why = line["problem"].as_str().unwrap_or_default();
        assert!(why.contains(problem), "{field}: {line}");
        assert!(line.get("next_run").is_none(), "{line}");
        let table = naq.cli(["list-scheduled"]).run().succeeds().stdout;
        let row = table
            .lines()
            .find(|row| row.starts_with("refused "))
            .unwrap();
        assert!(row.contains("broken: ") && !row.contains("active"), "{row}");
        scheduler.expect_stderr(&format!(
            "ignoring an invalid schedule: {}",
            &why[..20.min(why.len())]
        ));
    }
    put("moved", "repeat", json!(1));
    let table = naq.cli(["list-scheduled"]).run().succeeds().stdout;
    let row = table.lines().find(|row| row.starts_with("moved ")).unwrap();
    assert!(
        row.contains("unreadable") && row.contains("calls itself `refused`"),
        "{row}"
    );
    assert!(scheduler.stop().success());
}

/// More schedules than are held at once, as one line each.
#[test]
fn thousands_of_schedules_come_as_lines() {
    const SCHEDULES: usize = 3_000;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["schedule", "--name", "s0", "--every", "1h", "--", "true"])
        .run()
        .succeeds();
    let (first, _) = stored(&naq, "s0");
    naq.block_on(async {
        let broker = naq.client().broker();
        let writes = (1..SCHEDULES).map(|number| {
            let schedule = Schedule {
                schedule_id: name(&format!("s{number}")),
                ..first.clone()
            };
            async move { broker.write_schedule(&schedule, 0).await.unwrap() }
        });
        futures_util::stream::iter(writes)
            .buffered(256)
            .for_each(|_| std::future::ready(()))
            .await;
    });
    assert_eq!(ids(&naq, &[]).len(), SCHEDULES);
    let table = naq.cli(["list-scheduled"]).run().succeeds();
    assert_eq!(table.stdout.lines().count(), 201);
    assert!(table.stderr.contains("2800 more"), "{}", table.stderr);
}

#[test]
fn delayed_jobs_are_listed_with_schedules() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["schedule", "--name", "beat", "--every", "1h", "--", "true"])
        .run()
        .succeeds();
    naq.enqueue(&[
        "--id", "soon", "--in", "10m", "-q", "build", "--", "echo", "hi",
    ]);
    naq.enqueue(&[
        "--id",
        "rests",
        "--at",
        "2099-01-01T00:00:00Z",
        "--",
        "true",
    ]);
    naq.cli(["job-control", "rests", "pause"]).run().succeeds();

    assert_eq!(ids(&naq, &[]), ["beat", "rests", "soon"]);
    assert_eq!(ids(&naq, &["--kind", "delayed"]), ["rests", "soon"]);
    assert_eq!(ids(&naq, &["--kind", "recurring"]), ["beat"]);
    assert_eq!(ids(&naq, &["--status", "paused"]), ["rests"]);
    assert_eq!(ids(&naq, &["--status", "active"]), ["beat", "soon"]);
    assert_eq!(ids(&naq, &["--status", "ended"]), [""; 0]);
    assert_eq!(ids(&naq, &["--queue", "build"]), ["soon"]);
    assert_eq!(ids(&naq, &["--set", "mine"]), [""; 0]);
    assert_eq!(ids(&naq, &["--job-id", "soon"]), ["soon"]);
    naq.cli(["list-scheduled", "--job-id", "soon", "--kind", "recurring"])
        .run()
        .exits(4);

    let line = &lines(&naq, &["--job-id", "rests", "--detailed"])[0];
    assert_eq!(line["kind"], "delayed");
    assert_eq!(line["scheduled_for"], "2099-01-01T00:00:00.000Z");
    assert_eq!(line["status"], "paused");
    assert_eq!(line.get("next_run"), None);
    assert_eq!(line["command"], "true");
    let table = naq.cli(["list-scheduled"]).run().succeeds().stdout;
    let rows: Vec<&str> = table.lines().skip(1).collect();
    assert!(
        rows[0].starts_with("soon") && rows[0].contains(" in 9m ("),
        "{table}"
    );
    assert!(rows[1].starts_with("beat"), "{table}");
    assert!(
        rows[2].starts_with("rests") && rows[2].contains("paused"),
        "{table}"
    );
    naq.cli(["list-scheduled", "--detailed", "--job-id", "soon"])
        .run()
        .succeeds()
        .expect_stdout("command         echo hi");
}
