//! `naq job-control`: schedules paused, resumed, changed, run at once and removed, while a scheduler
//! writes to them too.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::SystemTime;

use naq_client::ListedSchedule;
use naq_protocol::{JobId, Schedule, ScheduleId, ScheduleStatus, State, Timestamp};
use serde_json::Value;

use super::schedule::{name, store, stored};
use crate::harness::naq::{CliOutput, Naq, eventually, text};
use crate::harness::nats::TestServer;

#[expect(clippy::disallowed_methods, reason = "tests are at the edge")]
fn now() -> Timestamp {
    SystemTime::now().into()
}

fn schedule(naq: &Naq, args: &[&str]) {
    naq.cli([&["schedule"], args].concat()).run().succeeds();
}

fn control(naq: &Naq, args: &[&str]) -> CliOutput {
    naq.cli([&["job-control"], args].concat()).run()
}

/// The next run as the list shows it.
fn next_run(naq: &Naq, id: &str) -> Option<Timestamp> {
    let summary = naq
        .block_on(naq.client().fetch_schedule(&name(id)))
        .unwrap();
    summary.unwrap().next_run
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn each_action_says_what_it_did() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    schedule(
        &naq,
        &[
            "--name",
            "late",
            "--cron",
            "0 0 1 1 *",
            "--tz",
            "Asia/Tokyo",
            "--",
            "true",
        ],
    );
    control(&naq, &["late", "pause"])
        .succeeds()
        .expect_stdout("late  paused\n");
    control(&naq, &["late", "pause"])
        .succeeds()
        .expect_stdout("paused already");
    assert_eq!(next_run(&naq, "late"), None);

    // what failed is forgotten with a resume
    let (mut paused, _) = stored(&naq, "late");
    paused.paused_reason = Some("its queue is full".to_owned());
    paused.progress.failures = 5;
    paused.progress.done_until = at("2020-01-01T00:00:00Z");
    store(&naq, &paused);
    let before = now();
    let done = control(&naq, &["late", "resume"]).succeeds();
    assert!(
        done.stdout.starts_with("late  active, next run "),
        "{done:#?}"
    );
    assert!(
        done.stdout.contains("-01-01T00:00:00+09:00 (in "),
        "{done:#?}"
    );
    control(&naq, &["late", "resume"])
        .succeeds()
        .expect_stdout("active already");
    let (resumed, _) = stored(&naq, "late");
    assert_eq!(resumed.paused_reason, None);
    assert_eq!(resumed.progress.failures, 0);
    assert!(resumed.progress.done_until >= before);

    let done = control(&naq, &["late", "cancel", "--json"]).succeeds();
    let printed: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(printed["action"], "cancel");
    for action in ["cancel", "pause", "resume", "run-now"] {
        control(&naq, &["late", action])
            .exits(4)
            .expect_stderr(&["no schedule and no delayed job is named `late`"]);
    }
    control(&naq, &["late", "reschedule", "--repeat", "3"]).exits(4);
    // the name is free again
    schedule(&naq, &["--name", "late", "--every", "1h", "--", "true"]);
}

#[test]
fn a_schedule_is_changed_and_keeps_the_rest() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    schedule(
        &naq,
        &[
            "--name",
            "one",
            "--cron",
            "0 5 * * *",
            "--tz",
            "Europe/Berlin",
            "--overlap",
            "skip",
            "--",
            "true",
        ],
    );
    let change = |args: &[&str]| {
        let done = control(&naq, &[&["one", "reschedule"], args].concat()).succeeds();
        (stored(&naq, "one").0, done)
    };

    // by the clocks of its zone
    let (changed, done) = change(&["--next-run", "2099-07-01 12:00"]);
    assert_eq!(next_run(&naq, "one"), Some(at("2099-07-01T10:00:00Z")));
    assert!(
        done.stdout.contains("2099-07-01T12:00:00+02:00"),
        "{done:#?}"
    );
    assert_eq!(changed.cron.as_deref(), Some("0 5 * * *"));

    // another cadence counts from now, and the time set by hand is void
    let before = now();
    let (changed, _) = change(&["--interval", "90"]);
    assert_eq!((changed.cron, changed.tz), (None, None));
    let next = next_run(&naq, "one").unwrap();
    assert!(next.unix_ms() - before.unix_ms() >= 90_000);
    assert!(next.unix_ms() - now().unix_ms() <= 90_000);
    let (changed, _) = change(&["--next-run", "2020-01-01T00:00:00Z", "--past-ok"]);
    let next = next_run(&naq, "one").unwrap();
    assert!(next >= before && next <= now(), "at once");
    assert_eq!(changed.anchor, Some(next));

    let (changed, _) = change(&["--cron", "30 4 * * 1-5", "--tz", "America/New_York"]);
    assert_eq!(changed.every, None);
    assert_eq!(changed.tz.as_deref(), Some("America/New_York"));
    let revised = [
        "--repeat",
        "7",
        "--queue",
        "other",
        "--jitter",
        "5s",
        "--overlap",
        "allow",
        "--end",
        "2099-01-01T00:00:00Z",
        "--misfire",
        "all",
        "--misfire-max",
        "3",
        "--misfire-grace",
        "5s",
    ];
    let (changed, _) = change(&revised);
    assert_eq!(changed.repeat, Some(7));
    assert_eq!(changed.queue.as_str(), "other");
    assert_eq!(changed.end, Some(at("2099-01-01T00:00:00Z")));
    assert_eq!(changed.cron.as_deref(), Some("30 4 * * 1-5"));
    let (changed, _) = change(&["--repeat", "none", "--end", "none", "--jitter", "none"]);
    assert_eq!(
        (changed.repeat, changed.end, changed.jitter),
        (None, None, None)
    );
    assert_eq!(changed.misfire_max, Some(3));

    control(&naq, &["one", "pause"]).succeeds();
    let (changed, done) = change(&["--cron", "@daily"]);
    assert_eq!(changed.status, ScheduleStatus::Paused);
    assert!(done.stdout.contains("paused still"), "{done:#?}");
}

#[test]
fn what_cannot_be_is_refused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    schedule(
        &naq,
        &["--name", "one", "--cron", "0 5 * * *", "--", "true"],
    );
    let (mut one, _) = stored(&naq, "one");
    one.progress.runs = 4;
    store(&naq, &one);
    for (args, code, words) in [
        (&["one", "reschedule"][..], 2, &["--cron", "--next-run"][..]),
        (
            &["one", "pause", "--cron", "@daily"],
            2,
            &["pause", "`reschedule`"],
        ),
        (
            &["one", "run-now", "--next-run", "18:00"],
            2,
            &["run-now", "`reschedule`"],
        ),
        (
            &["one", "stop"],
            2,
            &["cancel, pause, resume, reschedule, run-now"],
        ),
        (
            &["one", "reschedule", "--cron", "0 5 * * mo"],
            2,
            &["day of week (field 5)"],
        ),
        (&["one", "reschedule", "--every", "10ms"], 2, &["100 ms"]),
        (
            &["one", "reschedule", "--tz", "Berlin"],
            2,
            &["Europe/Berlin"],
        ),
        (
            &["one", "reschedule", "--next-run", "soon"],
            2,
            &["--next-run", "not a time"],
        ),
        (
            &["one", "reschedule", "--next-run", "2020-01-01 00:00"],
            2,
            &["--next-run: 2020-01-01 00:00 ", "is past", "--past-ok"],
        ),
        (
            &["one", "reschedule", "--repeat", "4"],
            2,
            &["4 jobs already"],
        ),
        (
            &["one", "reschedule", "--end", "2020-01-01T00:00:00Z"],
            2,
            &["`end`"],
        ),
        (&["one", "reschedule", "--queue", "a b"], 2, &["queue name"]),
        (&["a.b", "pause"], 2, &["dot"]),
    ] {
        control(&naq, args).exits(code).expect_stderr(words);
    }
    let (_, revision) = stored(&naq, "one");
    let ended = Schedule {
        status: ScheduleStatus::Ended,
        repeat: Some(4),
        ..one
    };
    store(&naq, &ended);
    assert!(stored(&naq, "one").1 > revision);
    for action in ["pause", "resume"] {
        control(&naq, &["one", action])
            .exits(5)
            .expect_stderr(&["`one` has ended"]);
    }
    // until it is given more to do
    control(&naq, &["one", "reschedule", "--repeat", "5"])
        .succeeds()
        .expect_stdout("active, next run");
}

#[test]
fn one_that_cannot_be_read_can_be_removed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    schedule(&naq, &["--name", "good", "--every", "1h", "--", "true"]);
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let sent = jetstream.publish("$KV.naq_scheduled_jobs.odd", "{}".into());
        sent.await.unwrap().await.unwrap();
    });
    control(&naq, &["odd", "pause"])
        .exits(1)
        .expect_stderr(&["`odd` cannot be read", "`naq schedule delete odd`"]);
    control(&naq, &["odd", "cancel"]).succeeds();
    control(&naq, &["odd", "cancel"]).exits(4);
}

#[test]
fn a_job_is_run_now_without_a_scheduler() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let script = naq.file("job.sh", "echo $NAQ_SCHEDULE_ID $NAQ_SCHEDULED_FOR");
    let script = script.to_str().unwrap();
    schedule(
        &naq,
        &[
            "--name",
            "one",
            "--cron",
            "@yearly",
            "-q",
            "build",
            "--overlap",
            "queue",
            "--script",
            script,
        ],
    );
    control(&naq, &["one", "pause"]).succeeds();
    let before = now();
    let done = control(&naq, &["one", "run-now"]).succeeds();
    let job = JobId::new(done.stdout.trim_end()).unwrap();
    assert!(job.as_str().starts_with("one-now-"), "{job}");
    // it waits in line with the schedule's other jobs
    let envelope = naq.block_on(naq.client().fetch_job(&job)).unwrap().envelope;
    let envelope: Value = serde_json::from_str(envelope.unwrap().get()).unwrap();
    assert_eq!(envelope["concurrency_key"], "schedule one");
    let _worker = naq.worker(&["build"]).spawn();
    let record = naq.wait_ended(&job);
    assert_eq!(record.state(), State::Succeeded);
    let printed = text(record.stdout.as_ref());
    let (id, tick) = printed.trim_end().split_once(' ').unwrap();
    assert_eq!(id, "one");
    assert!(at(tick) >= Timestamp::from_unix_ms(before.unix_ms()).unwrap());
    // and the schedule is as it was
    let (schedule, _) = stored(&naq, "one");
    assert_eq!(schedule.status, ScheduleStatus::Paused);
    assert_eq!(schedule.progress.runs, 0);
}

#[test]
fn each_of_several_triggers_at_once_enqueues_a_job() {
    const TRIGGERS: usize = 20;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    schedule(
        &naq,
        &[
            "--name", "one", "--cron", "@yearly", "-q", "build", "--", "true",
        ],
    );
    let id = ScheduleId::new("one").unwrap();
    let triggers = (0..TRIGGERS).map(|_| naq.client().trigger_schedule(&id));
    let jobs = naq
        .block_on(futures_util::future::try_join_all(triggers))
        .unwrap();
    let distinct: std::collections::BTreeSet<_> = jobs.iter().collect();
    assert_eq!(distinct.len(), TRIGGERS);
    naq.wait_for_messages("build", TRIGGERS as u64);
    let (schedule, _) = stored(&naq, "one");
    assert!(schedule.progress.last_trigger.is_some());
}

/// What people and the scheduler write at the same time is all there in the end.
#[test]
fn a_schedule_is_changed_while_it_runs() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("default");
    let scheduler = naq.cli(["scheduler"]).follow();
    scheduler.expect_stderr("leading");
    schedule(&naq, &["--name", "busy", "--every", "100ms", "--", "true"]);
    eventually("it runs", || stored(&naq, "busy").0.progress.runs >= 2);
    let client = naq.client();
    let id = name("busy");
    naq.block_on(async {
        for _ in 0..50 {
            client.pause_schedule(&id).await.unwrap();
            client.resume_schedule(&id).await.unwrap();
        }
    });
    let before = stored(&naq, "busy").0;
    assert_eq!(before.status, ScheduleStatus::Active);
    assert!(before.progress.runs >= 2);
    eventually("it continues", || {
        stored(&naq, "busy").0.progress.runs > before.progress.runs + 2
    });
    assert_eq!(stored(&naq, "busy").0.progress.missed, 0);

    // a time that has passed is now
    control(&naq, &["busy", "reschedule", "--cron", "0 0 1 1 *"]).succeeds();
    let calm = stored(&naq, "busy").0;
    control(
        &naq,
        &[
            "busy",
            "reschedule",
            "--next-run",
            "2020-01-01 00:00",
            "--past-ok",
        ],
    )
    .succeeds();
    let wished = stored(&naq, "busy").0.next_run.unwrap();
    eventually("it has run once more", || {
        stored(&naq, "busy").0.progress.last_run == Some(wished)
    });
    assert!(stored(&naq, "busy").0.progress.runs > calm.progress.runs);

    control(&naq, &["busy", "pause"]).succeeds();
    let listed = naq.block_on(async {
        let mut list = client.list_schedules(&Default::default()).await.unwrap();
        list.next().await.unwrap()
    });
    match listed {
        Some(ListedSchedule::Valid(summary)) => assert_eq!(summary.next_run, None),
        other => panic!("{other:?}"),
    }
    assert!(scheduler.stop().success());
}

#[test]
fn a_job_that_runs_once_is_controlled_the_same_way() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let job = "01890a5d-ac96-774b-bcce-b302099a8057-and-more";
    let at = ["-q", "build", "--at", "2099-01-01T00:00:00Z"];
    for id in [job, "early", "gone"] {
        naq.enqueue(&[&at[..], &["--id", id, "--", "echo", id]].concat());
    }
    control(&naq, &[job, "pause"])
        .succeeds()
        .expect_stdout("paused");
    control(&naq, &[job, "resume"])
        .succeeds()
        .expect_stdout("active, next run 2099-01-01T00:00:00Z (in ");
    let moved = [
        "reschedule",
        "--next-run",
        "2098-07-01 12:00",
        "--tz",
        "Europe/Berlin",
    ];
    control(&naq, &[&[job], &moved[..]].concat())
        .succeeds()
        .expect_stdout("active, next run 2098-07-01T12:00:00+02:00");
    for other in [
        &["--cron", "@daily"][..],
        &["--next-run", "2098-01-01 00:00", "--repeat", "2"],
    ] {
        control(&naq, &[&[job, "reschedule"], other].concat())
            .exits(2)
            .expect_stderr(&["runs once", "--next-run"]);
    }
    let done = control(&naq, &["gone", "cancel", "--json"]).succeeds();
    let printed: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(
        (&printed["kind"], &printed["status"]),
        (&"delayed".into(), &"cancelled".into())
    );
    control(&naq, &["gone", "cancel"])
        .exits(5)
        .expect_stderr(&["`gone`", "cancelled"]);
    assert_eq!(
        naq.wait_ended(&JobId::new("gone").unwrap()).state(),
        State::Cancelled
    );

    let _worker = naq.worker(&["build"]).spawn();
    control(&naq, &["early", "pause"]).succeeds();
    let done = control(&naq, &["early", "run-now"]).succeeds();
    assert_eq!(done.stdout, "early\n");
    assert_eq!(
        naq.wait_ended(&JobId::new("early").unwrap()).state(),
        State::Succeeded
    );
    // it has been
    control(&naq, &["early", "pause"])
        .exits(5)
        .expect_stderr(&["`early`"]);
    control(&naq, &["never", "pause"])
        .exits(4)
        .expect_stderr(&["no schedule and no delayed job is named `never`"]);
}
