//! `naq schedule`: what it stores, and what it refuses.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use naq_client::{AddScheduleOutcome, NewSchedule};
use naq_protocol::{
    Envelope, LeaderInfo, Misfire, Overlap, Schedule, ScheduleId, ScheduleStatus, Timestamp,
};
use serde_json::Value;

use crate::harness::naq::{Naq, eventually, text};
use crate::harness::nats::TestServer;

pub(super) fn name(text: &str) -> ScheduleId {
    ScheduleId::new(text).unwrap()
}

/// A schedule as it is stored, and its revision.
pub(super) fn stored(naq: &Naq, id: &str) -> (Schedule, u64) {
    let broker = naq.client().broker();
    let (schedule, revision) = naq.block_on(broker.read_schedule(&name(id))).unwrap();
    (schedule.expect("the schedule exists"), revision)
}

/// Stores a schedule as it is, as a scheduler would.
pub(super) fn store(naq: &Naq, schedule: &Schedule) {
    let broker = naq.client().broker();
    naq.block_on(async {
        let id = &schedule.schedule_id;
        let (_, revision) = broker.read_schedule(id).await.unwrap();
        broker.write_schedule(schedule, revision).await.unwrap();
    });
}

#[test]
fn a_schedule_is_stored_as_it_was_said() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let args = [
        &["schedule", "--name", "nightly"][..],
        &["--cron", "0 5 * * *", "--tz", "Europe/Berlin"],
        &["--queue", "backups", "--repeat", "10", "--jitter", "30s"],
        &[
            "--start",
            "2099-01-01 00:00",
            "--end",
            "2099-12-31T00:00:00Z",
        ],
        &["--misfire", "all", "--misfire-max", "5"],
        &[
            "--misfire-grace",
            "2m",
            "--overlap",
            "skip",
            "--timeout",
            "1h",
        ],
        &["-e", "LEVEL=high", "--", "./backup.sh", "--all"],
    ]
    .concat();
    let done = naq.cli(args.clone()).run().succeeds();
    assert_eq!(done.stdout, "nightly\n");
    // No scheduler runs, so nothing is enqueued.
    assert!(done.stderr.contains("`naq scheduler`"), "{done:#?}");

    let (schedule, revision) = stored(&naq, "nightly");
    assert_eq!(schedule.queue.as_str(), "backups");
    assert_eq!(schedule.cron.as_deref(), Some("0 5 * * *"));
    assert_eq!(schedule.tz.as_deref(), Some("Europe/Berlin"));
    assert_eq!(schedule.repeat, Some(10));
    // by the clocks of the zone
    let start: Timestamp = "2098-12-31T23:00:00Z".parse().unwrap();
    assert_eq!(schedule.start, Some(start));
    assert_eq!(schedule.misfire, Misfire::All);
    assert_eq!(schedule.misfire_max, Some(5));
    assert_eq!(schedule.overlap, Overlap::Skip);
    assert_eq!(schedule.status, ScheduleStatus::Active);
    let envelope = Envelope::parse(schedule.envelope.get().as_bytes()).unwrap();
    assert_eq!(envelope.summary(), "./backup.sh --all");
    assert_eq!(envelope.env["LEVEL"], "high");

    // the same again is the same
    let again = [&["--json"], &args[..]].concat();
    let done = naq.cli(again).run().succeeds();
    let printed: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(printed["outcome"], "unchanged");
    assert_eq!(printed["next_run"], "2099-01-01T04:00:00.000Z");
    assert_eq!(printed["scheduler"], Value::Null);
    assert_eq!(stored(&naq, "nightly").1, revision);
}

#[test]
fn another_of_the_same_name_is_refused_or_put_in_its_place() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let schedule = |more: &[&str]| {
        let args = [&["schedule", "--name", "beat"], more].concat();
        naq.cli(args).run()
    };
    schedule(&["--every", "15s", "--", "true"]).succeeds();
    schedule(&["--every", "20s", "--", "false"])
        .exits(5)
        .expect_stderr(&[
            "beat",
            "envelope, every",
            "naq schedule update",
            "--replace",
        ]);
    let (mut first, _) = stored(&naq, "beat");
    assert_eq!(first.every.unwrap().0.as_secs(), 15);
    first.progress.runs = 7;
    store(&naq, &first);

    schedule(&["--every", "20s", "--replace", "--", "false"])
        .succeeds()
        .expect_stdout("beat");
    let (second, _) = stored(&naq, "beat");
    assert_eq!(second.every.unwrap().0.as_secs(), 20);
    assert_eq!(second.progress.runs, 7);
    assert!(second.progress.done_until >= first.progress.done_until);

    // The schedule was paused: the output says so, and it stays paused.
    let paused = Schedule {
        status: ScheduleStatus::Paused,
        ..second
    };
    store(&naq, &paused);
    schedule(&["--every", "20s", "--", "false"])
        .succeeds()
        .expect_stderr(&["paused", "resume"]);
    assert_eq!(stored(&naq, "beat").0.status, ScheduleStatus::Paused);

    // one that has ended makes room
    let ended = Schedule {
        status: ScheduleStatus::Ended,
        ..paused
    };
    store(&naq, &ended);
    schedule(&["--every", "1m", "--", "true"]).succeeds();
    let (third, _) = stored(&naq, "beat");
    assert_eq!(third.status, ScheduleStatus::Active);
    assert_eq!(third.progress.runs, 0);
}

#[test]
fn without_a_name_the_same_is_one_schedule() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let made = |more: &[&str]| {
        let args = [&["schedule"], more].concat();
        let done = naq.cli(args).run().succeeds();
        done.stdout.trim_end().to_owned()
    };
    let first = made(&["--every", "1h", "--", "/opt/bin/backup.sh", "a"]);
    assert!(first.starts_with("backup-sh-"), "{first}");
    assert_eq!(
        made(&["--every", "1h", "--", "/opt/bin/backup.sh", "a"]),
        first
    );
    assert_ne!(
        made(&["--every", "1h", "--", "/opt/bin/backup.sh", "b"]),
        first
    );
    assert_ne!(
        made(&["--every", "2h", "--", "/opt/bin/backup.sh", "a"]),
        first
    );
}

#[test]
fn a_scheduler_that_runs_is_seen() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let leader = LeaderInfo {
        instance_id: "one".to_owned(),
        hostname: "here".to_owned(),
        pid: 1,
        version: "0.1.0".to_owned(),
        since: "2026-12-24T17:00:00Z".parse().unwrap(),
    };
    naq.block_on(async {
        let broker = naq.client().broker();
        // makes the bucket
        broker.watch_leader_lease().await.unwrap();
        let ttl = std::time::Duration::from_secs(600);
        broker.acquire_leader_lease(&leader, 0, ttl).await.unwrap();
    });
    let done = naq
        .cli(["schedule", "--every", "1h", "--json", "--", "true"])
        .run()
        .succeeds();
    assert_eq!(done.stderr, "");
    let printed: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(printed["scheduler"]["instance_id"], "one");
    let done = naq.cli(["schedule", "--every", "1h", "--", "true"]).run();
    assert_eq!(done.succeeds().stderr, "");
}

#[test]
fn the_next_run_is_printed_for_people() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let asked = naq
        .cli([
            "schedule",
            "--name",
            "late",
            "--cron",
            "0 0 1 1 *",
            "--start",
            "2098-06-01 00:00",
            "--tz",
            "Asia/Tokyo",
            "--",
            "true",
        ])
        .on_terminal();
    asked.expect_screen("next run 2099-01-01T00:00:00+09:00 (in ");
    asked.expect_screen("no scheduler runs");
    assert!(asked.wait_exit().success());
}

#[test]
fn what_no_scheduler_would_take_is_refused_at_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for (args, code, words) in [
        (&["--", "true"][..], 2, &["--cron", "--every"][..]),
        (
            &["--cron", "0 25 * * *", "--", "true"],
            2,
            &["hour (field 2) \"25\""],
        ),
        (&["--cron", "@reboot", "--", "true"], 2, &["@reboot"]),
        (&["--cron", "0 0 30 2 *", "--", "true"], 2, &["never"]),
        (
            &["--cron", "* * * * *", "--every", "1s", "--", "true"],
            2,
            &["--every"],
        ),
        (
            &["--every", "50ms", "--", "true"],
            2,
            &["`every`", "100 ms"],
        ),
        (&["--every", "1s"], 2, &["nothing to run"]),
        (
            &[
                "--cron",
                "* * * * *",
                "--tz",
                "Europe/Berlinn",
                "--",
                "true",
            ],
            2,
            &["Europe/Berlin"],
        ),
        (
            &["--every", "1s", "--tz", "Europe/Berlin", "--", "true"],
            2,
            &["interval"],
        ),
        (
            &["--every", "1s", "--repeat", "0", "--", "true"],
            2,
            &["`repeat`"],
        ),
        (
            &[
                "--every",
                "1s",
                "--end",
                "2020-01-01T00:00:00Z",
                "--",
                "true",
            ],
            2,
            &["`end`"],
        ),
        (
            &["--every", "1s", "--start", "tomorrow", "--", "true"],
            2,
            &["--start", "not a time"],
        ),
        (
            &["--every", "1s", "--misfire", "never", "--", "true"],
            2,
            &["skip, once, all"],
        ),
        (
            &["--every", "1s", "--misfire-max", "0", "--", "true"],
            2,
            &["misfire_max"],
        ),
        (
            &["--every", "1s", "--id", "one", "--", "true"],
            2,
            &["--id", "--name"],
        ),
        (
            &[
                "--every",
                "1s",
                "--expires-at",
                "2099-01-01T00:00:00Z",
                "--",
                "true",
            ],
            2,
            &["--expires-at", "--end"],
        ),
        (
            &["--every", "1s", "--name", "a.b", "--", "true"],
            2,
            &["schedule name", "dot"],
        ),
        (
            &["--every", "1s", "--queue", "a b", "--", "true"],
            2,
            &["queue name"],
        ),
        (
            &["--every", "1s", "--secret", "1x", "--", "true"],
            6,
            &["secrets[0]"],
        ),
        (
            &[
                "--every",
                "1s",
                "--overlap",
                "queue",
                "--concurrency-key",
                "k",
                "--",
                "true",
            ],
            6,
            &["concurrency_key", "overlap"],
        ),
    ] {
        let args = [&["schedule"], args].concat();
        naq.cli(args).run().exits(code).expect_stderr(words);
    }
    // and nothing was stored
    let done = naq.cli(["list-scheduled", "--json"]).run().succeeds();
    assert_eq!(done.stdout, "");
}

#[test]
fn a_dry_run_needs_no_server() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let done = naq
        .cli([
            "schedule",
            "--every",
            "90s",
            "--dry-run",
            "--",
            "echo",
            "hi",
        ])
        .env("NAQ_NATS_URL", "nats://127.0.0.1:1")
        .run()
        .succeeds();
    let schedule = Schedule::parse(done.stdout.as_bytes()).unwrap();
    assert_eq!(schedule.every.unwrap().0.as_secs(), 90);
    assert!(schedule.schedule_id.as_str().starts_with("echo-"));
}

#[test]
fn many_who_make_the_same_make_one() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let queue = naq.client().queue("default").unwrap();
    let mut new = NewSchedule::cron("0 5 * * *", Envelope::command("true", [""; 0]));
    new.schedule_id = Some(name("nightly"));
    let made = naq.block_on(futures_util::future::join_all(
        (0..16).map(|_| queue.schedule(&new)),
    ));
    let created = made
        .into_iter()
        .filter(|made| made.as_ref().unwrap().outcome == AddScheduleOutcome::Created);
    assert_eq!(created.count(), 1);
}

/// From the command line to the job's end, with everything in between.
#[test]
fn a_schedule_runs_its_jobs() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let scheduler = naq.cli(["scheduler"]).follow();
    scheduler.expect_stderr("leading");
    let made = naq
        .cli([
            "schedule",
            "--name",
            "beat",
            "--every",
            "200ms",
            "--repeat",
            "3",
            "-q",
            "build",
            "--",
            "sh",
            "-c",
            "echo $NAQ_SCHEDULE_ID; exit 3",
        ])
        .run()
        .succeeds();
    // a scheduler runs: there is nothing to say
    assert_eq!(made.stderr, "");
    eventually("it has ended", || {
        stored(&naq, "beat").0.status == ScheduleStatus::Ended
    });
    let (beat, _) = stored(&naq, "beat");
    assert_eq!(beat.progress.runs, 3);
    let record = naq.wait_ended(beat.progress.last_job_id.as_ref().unwrap());
    assert_eq!(text(record.stdout.as_ref()), "beat\n");
    let done = naq
        .cli(["list-scheduled", "--json", "--job-id", "beat"])
        .run()
        .succeeds();
    let line: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(line["status"], "ended");
    assert_eq!(line["runs"], 3);
    assert_eq!(line["last_state"], "failed");
    assert_eq!(line["last_reason"], "exit");
    assert!(scheduler.stop().success());
}
