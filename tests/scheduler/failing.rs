//! Ticks that cannot be enqueued: retried within their grace period, then counted as missed. After
//! too many of them the schedule is paused; other schedules continue.

use std::time::Duration;

use async_nats::jetstream;
use naq_client::Client;
use naq_jetstream::ConnectOptions;
use naq_protocol::{QueueName, Schedule, ScheduleStatus};
use serde_json::json;

use super::{change, each_once, jobs_of, later, now, progressed, put, schedule, scheduler, stored};
use crate::harness::naq::{Naq, eventually, start_plain_server};
use crate::harness::nats::{TestOptions, TestServer};

/// Limits the size of a queue's messages, in bytes. `None` means no limit.
fn bound(naq: &Naq, queue: &str, bytes: Option<i32>) {
    naq.block_on(async {
        let jetstream = jetstream::new(naq.nats().clone());
        let stream = jetstream
            .get_stream(format!("naq_queue_{queue}"))
            .await
            .unwrap();
        let mut config = stream.cached_info().config.clone();
        config.max_message_size = bytes.unwrap_or(-1);
        jetstream.update_stream(config).await.unwrap();
    });
}

/// A schedule of another queue, which continues whatever happens to the first.
fn healthy(naq: &Naq) -> Schedule {
    naq.add_queue("other");
    let mut healthy = schedule("healthy", json!({"every": 0.1}));
    healthy.queue = QueueName::new("other").unwrap();
    put(naq, &healthy);
    healthy
}

#[test]
fn a_schedule_whose_jobs_cannot_be_enqueued_is_paused_with_a_reason_and_others_continue() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    bound(&naq, "build", Some(1));
    put(
        &naq,
        &schedule("refused", json!({"every": 0.5, "misfire_grace": 1})),
    );
    healthy(&naq);
    let scheduler = scheduler(&naq, &["--max-failures", "3"]);
    eventually("paused", || {
        stored(&naq, "refused").status == ScheduleStatus::Paused
    });
    let paused = stored(&naq, "refused");
    let reason = paused.paused_reason.unwrap();
    assert!(
        reason.contains("3 ticks in a row") && reason.contains("maximum"),
        "{reason}"
    );
    assert_eq!(paused.progress.failures, 3);
    assert_eq!(paused.progress.runs, 0);
    assert!(paused.progress.missed >= 3);
    assert!(paused.progress.last_error.unwrap().contains("maximum"));
    scheduler.expect_stderr("naq schedule resume refused");
    let so_far = stored(&naq, "healthy").progress.runs;
    let healthy = progressed(&naq, "healthy", "continues", |one| one.runs >= so_far + 10);
    assert_eq!((healthy.progress.missed, healthy.progress.failures), (0, 0));
    // it stays so until someone resumes it
    assert_eq!(stored(&naq, "refused").status, ScheduleStatus::Paused);
    bound(&naq, "build", None);
    change(&naq, "refused", |refused| {
        refused.status = ScheduleStatus::Active;
        refused.paused_reason = None;
        refused.progress.done_until = now();
    });
    let resumed = progressed(&naq, "refused", "continues", |one| one.runs >= 2);
    assert_eq!(resumed.progress.failures, 0);
    assert_eq!(resumed.progress.last_error, None);
}

/// Ticks that are refused for less than their grace period are not missed; that includes late ticks
/// after an outage.
#[test]
fn refused_ticks_are_retried_within_their_grace_period() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    bound(&naq, "build", Some(1));
    let often = schedule("often", json!({"every": 0.2, "misfire_grace": 600}));
    put(&naq, &often);
    // no scheduler ran for three hours
    let fields = json!({"every": "1h", "misfire": "all", "misfire_grace": 600});
    let mut late = schedule("late", fields);
    late.created_at = later(now(), -3 * 3_600_000 - 60_000);
    late.progress.done_until = late.created_at;
    put(&naq, &late);
    let healthy = healthy(&naq);
    let _scheduler = scheduler(&naq, &["--max-failures", "1"]);
    progressed(&naq, "healthy", "runs", |one| one.runs >= 20);
    for name in ["often", "late"] {
        let waiting = stored(&naq, name);
        assert_eq!(waiting.status, ScheduleStatus::Active);
        assert_eq!(waiting.progress.done_until, waiting.created_at);
    }
    bound(&naq, "build", None);
    let caught_up = progressed(&naq, "late", "caught up", |one| one.runs == 3);
    assert_eq!(caught_up.progress.missed, 0);
    let often_now = progressed(&naq, "often", "caught up", |one| one.runs >= 20);
    assert_eq!(often_now.progress.missed, 0);
    let healthy_now = stored(&naq, "healthy");
    change(&naq, "often", |one| one.status = ScheduleStatus::Paused);
    let ticks = |schedule: &Schedule, every_ms: i64, runs: u64| {
        let created_at = schedule.created_at;
        let runs = i64::try_from(runs).unwrap();
        (1..=runs).map(move |count| later(created_at, every_ms * count))
    };
    let jobs = jobs_of(&naq, "build");
    each_once(&jobs, "late", ticks(&late, 3_600_000, 3));
    let runs = jobs.iter().filter(|job| job.starts_with("often-")).count() as u64;
    assert!(runs >= often_now.progress.runs);
    each_once(&jobs, "often", ticks(&often, 200, runs));
    let jobs = jobs_of(&naq, "other");
    assert!(jobs.len() as u64 >= healthy_now.progress.runs);
    each_once(&jobs, "healthy", ticks(&healthy, 100, jobs.len() as u64));
}

/// While the account's storage is full, not even the leader lease can be renewed. Once there is room
/// again a scheduler leads, and misses no tick that was due within its grace period.
#[test]
fn schedulers_wait_while_the_storage_is_full() {
    let server = TestServer::with(&TestOptions {
        max_file_store_bytes: Some(6 << 20),
        ..TestOptions::default()
    });
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let often = schedule("often", json!({"every": 0.2, "misfire_grace": 600}));
    put(&naq, &often);
    let scheduler = scheduler(&naq, &["--lock-ttl", "3s", "--max-failures", "1"]);
    progressed(&naq, "often", "runs", |one| one.runs >= 3);
    naq.fill_storage();
    scheduler.expect_stderr("storage is full");
    naq.cli(["purge", "--yes", "filler"]).run().succeeds();
    let so_far = stored(&naq, "often").progress.runs;
    let done = progressed(&naq, "often", "continues", |one| one.runs >= so_far + 20);
    assert_eq!(done.status, ScheduleStatus::Active);
    assert_eq!((done.progress.missed, done.progress.failures), (0, 0));
    let jobs = jobs_of(&naq, "build");
    let count = i64::try_from(jobs.len()).unwrap();
    let ticks = (1..=count).map(|count| later(often.created_at, 200 * count));
    each_once(&jobs, "often", ticks);
}

/// A missing permission to publish is distinguished from a server that does not answer.
#[test]
fn schedule_is_paused_if_publishing_to_its_queue_is_denied() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let conf = naq.file(
        "users.conf",
        r#"jetstream: enabled
authorization { users: [
  {user: admin, password: secret}
  {user: scheduler, password: secret, permissions: {publish: {allow: ">", deny: "naq.queue.build.>"}}}
] }
"#,
    );
    let (_denying, port) = start_plain_server(&naq, &["-c", conf.to_str().unwrap()]);
    let url = format!("nats://127.0.0.1:{port}");
    let options = ConnectOptions {
        url: url.clone(),
        user: Some(("admin".to_owned(), "secret".to_owned())),
        ..ConnectOptions::default()
    };
    let admin = naq.block_on(Client::connect(&options)).unwrap();
    let denied = schedule("denied", json!({"every": 0.2, "misfire_grace": 1}));
    let read = || {
        let read = admin.broker().read_schedule(&denied.schedule_id);
        naq.block_on(read).unwrap()
    };
    naq.block_on(async {
        let broker = admin.broker();
        broker.ensure_queue(&denied.queue).await.unwrap();
        drop(broker.watch_schedules().await.unwrap());
        broker.write_schedule(&denied, 0).await.unwrap();
    });
    let scheduler = naq
        .cli([
            "scheduler",
            "--max-failures",
            "2",
            "--user",
            "scheduler",
            "--password",
            "secret",
        ])
        .without_env("NAQ_TOKEN")
        .env("NAQ_NATS_URL", &url)
        .follow();
    let mut last = None;
    eventually("paused", || {
        last = read().0;
        std::thread::sleep(Duration::from_millis(100));
        last.as_ref().unwrap().status == ScheduleStatus::Paused
    });
    let reason = last.unwrap().paused_reason.unwrap();
    let denied = "denies the user `scheduler` permission";
    assert!(reason.contains(denied), "{reason}");
    scheduler.expect_stderr(denied);
}

/// Every tick is enqueued and every job ends, so nothing else tells that the schedule does nothing.
#[test]
fn schedule_whose_jobs_never_start_is_flagged_in_the_list() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).spawn();
    let lost = json!({"every": 0.5, "repeat": 4, "envelope": {"command": "true", "cwd": "/no/such/folder"}});
    put(&naq, &schedule("lost", lost));
    let denied = json!({"every": 0.5, "repeat": 2, "envelope": {"command": "true", "env": {"LD_PRELOAD": "x"}}});
    put(&naq, &schedule("denied", denied));
    let fails = json!({"every": 0.5, "repeat": 2, "envelope": {"command": "false"}});
    put(&naq, &schedule("fails", fails));
    let scheduler = scheduler(&naq, &[]);
    for name in ["lost", "denied", "fails"] {
        let ended = || stored(&naq, name);
        eventually(name, || ended().status == ScheduleStatus::Ended);
        naq.wait_ended(&ended().progress.last_job_id.unwrap());
    }
    let table = naq.cli(["schedules"]).run().succeeds().stdout;
    let row = |name: &str| table.lines().find(|row| row.starts_with(name)).unwrap();
    assert!(
        row("lost").contains("last 3 runs failed to start: "),
        "{table}"
    );
    assert!(row("lost").contains("/no/such/folder"), "{table}");
    assert!(
        row("denied").contains("last 2 runs failed to start: "),
        "{table}"
    );
    assert!(row("denied").contains("LD_PRELOAD"), "{table}");
    assert!(!row("fails").contains("failed to start"), "{table}");
    let show = |name: &str| naq.cli(["schedule", "show", name]).run().succeeds();
    show("lost").expect_stdout("last 3 runs failed to start: ");
    let json = naq.cli(["schedules", "--json"]).run().succeeds().stdout;
    let field = |name: &str, field: &str| {
        let mut entries = json
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        entries.find(|one| one["schedule_id"] == name).unwrap()[field].clone()
    };
    assert_eq!(field("lost", "failed_starts"), 3);
    assert!(
        field("lost", "start_error")
            .as_str()
            .unwrap()
            .contains("/no/such/folder")
    );
    assert_eq!(field("fails", "failed_starts"), serde_json::Value::Null);
    assert!(scheduler.stop().success());
    assert!(worker.stop().success());
}
