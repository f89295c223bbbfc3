//! Firing: which jobs a leader enqueues, and when.

use std::time::{Duration, Instant};

use naq_protocol::units::WireDuration;
use naq_protocol::{JobId, QueueName, ScheduleStatus, State};
use serde_json::json;

use super::{
    change, each_once, jobs_of, later, now, progressed, put, schedule, schedule_id, scheduler,
    stored,
};
use crate::harness::naq::{Naq, eventually, text};
use crate::harness::nats::TestServer;

#[test]
fn scheduled_jobs_have_their_schedule_id_and_tick() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let script = "echo $NAQ_SCHEDULE_ID $NAQ_SCHEDULED_FOR";
    let mut often = schedule("often", json!({"every": 0.3, "repeat": 4}));
    often.envelope = serde_json::value::to_raw_value(&json!({"script": script})).unwrap();
    put(&naq, &often);
    let scheduler = scheduler(&naq, &[]);
    let done = progressed(&naq, "often", "done", |progress| progress.runs == 4);
    for count in 1..=4 {
        let tick = later(often.created_at, 300 * count);
        let job = JobId::for_tick(&often.schedule_id, tick);
        let record = naq.wait_ended(&job);
        assert_eq!(record.state(), State::Succeeded);
        assert_eq!(record.schedule_id.as_ref(), Some(&often.schedule_id));
        assert_eq!(record.scheduled_for, Some(tick));
        assert_eq!(text(record.stdout.as_ref()), format!("often {tick}\n"));
        assert!(record.enqueue_time >= tick, "{record:#?}");
    }
    let last = later(often.created_at, 1_200);
    assert_eq!(done.progress.last_run, Some(last));
    assert_eq!(
        done.progress.last_job_id,
        Some(JobId::for_tick(&often.schedule_id, last))
    );
    eventually("ended", || {
        stored(&naq, "often").status == ScheduleStatus::Ended
    });
    assert!(scheduler.stop().success());
}

#[test]
fn schedule_changes_take_effect_at_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let _scheduler = scheduler(&naq, &[]);
    // due next year, then soon, then paused, then in another queue
    put(&naq, &schedule("one", json!({"cron": "0 0 1 1 *"})));
    let changed_at = Instant::now();
    change(&naq, "one", |one| {
        one.cron = None;
        one.every = Some(WireDuration(Duration::from_millis(100)));
        one.anchor = Some(now());
        one.progress.done_until = now();
    });
    progressed(&naq, "one", "runs", |progress| progress.runs >= 3);
    // by the watch: the check that no change was lost is only made every 30 seconds
    assert!(changed_at.elapsed() < Duration::from_secs(20));
    change(&naq, "one", |one| one.status = ScheduleStatus::Paused);
    // a later tick was enqueued: the leader has received the pause
    put(&naq, &schedule("two", json!({"every": 0.1})));
    progressed(&naq, "two", "runs", |progress| progress.runs >= 5);
    let paused = stored(&naq, "one");
    let before = jobs_of(&naq, "build");
    let last = progressed(&naq, "two", "runs", |progress| progress.runs >= 10);
    let after = jobs_of(&naq, "build");
    let of_one = |jobs: &[String]| jobs.iter().filter(|job| job.starts_with("one-")).count();
    assert_eq!(of_one(&before), of_one(&after));
    assert_eq!(of_one(&after) as u64, paused.progress.runs);
    change(&naq, "one", |one| {
        one.status = ScheduleStatus::Active;
        one.queue = naq_protocol::QueueName::new("other").unwrap();
        one.progress.done_until = now();
    });
    eventually("in the other queue", || !jobs_of(&naq, "other").is_empty());
    // ticks during the pause are not enqueued afterwards
    let resumed = progressed(&naq, "one", "continues", |progress| {
        progress.runs > paused.progress.runs
    });
    assert_eq!(resumed.progress.missed, 0);
    // deleted schedules have no more ticks
    naq.block_on(async {
        let broker = naq.client().broker();
        for name in ["one", "two"] {
            loop {
                let id = schedule_id(name);
                let (_, revision) = broker.read_schedule(&id).await.unwrap();
                if broker.remove_schedule(&id, revision).await.is_ok() {
                    break;
                }
            }
        }
    });
    put(&naq, &schedule("three", json!({"every": 0.1})));
    progressed(&naq, "three", "runs", |progress| progress.runs >= 5);
    let before = jobs_of(&naq, "build");
    progressed(&naq, "three", "runs", |progress| progress.runs >= 10);
    let after = jobs_of(&naq, "build");
    let of_two = |jobs: &[String]| jobs.iter().filter(|job| job.starts_with("two-")).count();
    assert_eq!(of_two(&before), of_two(&after));
    assert!(last.progress.runs as usize <= of_two(&after));
}

#[test]
fn misfire_policy_decides_about_late_ticks() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    // no scheduler ran for three hours
    let away = later(now(), -3 * 3_600_000 - 60_000);
    for (name, fields) in [
        ("skip", json!({"misfire": "skip"})),
        ("once", json!({})),
        ("all", json!({"misfire": "all"})),
        ("some", json!({"misfire": "all", "misfire_max": 2})),
    ] {
        let mut missed = schedule(name, json!({"every": "1h"}));
        let mut value = serde_json::to_value(&missed).unwrap();
        value
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        missed = naq_protocol::Schedule::parse(value.to_string().as_bytes()).unwrap();
        missed.created_at = away;
        missed.progress.done_until = away;
        put(&naq, &missed);
    }
    let _scheduler = scheduler(&naq, &[]);
    let hour = |count: i64| later(away, count * 3_600_000);
    for (name, runs, missed) in [
        ("skip", 0, 3),
        ("once", 1, 2),
        ("all", 3, 0),
        ("some", 2, 1),
    ] {
        let done = progressed(&naq, name, "caught up", |progress| {
            progress.runs == runs && progress.missed == missed
        });
        assert!(done.progress.done_until >= hour(3), "{done:#?}");
        let jobs = jobs_of(&naq, "build");
        each_once(
            &jobs,
            name,
            (4 - i64::try_from(runs).unwrap()..=3).map(hour),
        );
    }
}

#[test]
fn invalid_schedules_are_logged_and_do_not_affect_others() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    put(&naq, &schedule("good", json!({"every": 0.1})));
    let put_raw = |key: &str, payload: &str| {
        let (subject, payload) = (format!("$KV.naq_scheduled_jobs.{key}"), payload.to_owned());
        naq.block_on(async {
            let jetstream = async_nats::jetstream::new(naq.nats().clone());
            jetstream
                .publish(subject, payload.into())
                .await
                .unwrap()
                .await
                .unwrap();
        });
    };
    let mut odd = serde_json::to_value(schedule("odd", json!({"every": 1}))).unwrap();
    odd["cron"] = json!("61 * * * *");
    odd.as_object_mut().unwrap().remove("every");
    put_raw("odd", &odd.to_string());
    put_raw("noise", "{\"schedule_id\":");
    put_raw("a.b", "{}");
    put_raw(
        "other",
        &serde_json::to_string(&schedule("mine", json!({"every": 0.1}))).unwrap(),
    );
    let scheduler = scheduler(&naq, &[]);
    scheduler.expect_stderr("61");
    scheduler.expect_stderr("noise");
    scheduler.expect_stderr("it calls itself `mine`");
    progressed(&naq, "good", "runs", |progress| progress.runs >= 3);
    // and a schedule that becomes invalid while it is in memory
    put_raw("good", "null");
    put(&naq, &schedule("next", json!({"every": 0.1})));
    progressed(&naq, "next", "runs", |progress| progress.runs >= 3);
    assert!(
        jobs_of(&naq, "build")
            .iter()
            .all(|job| !job.starts_with("mine"))
    );
}

/// As a program does that knows the bucket and none of naq's verbs.
#[test]
fn resume_by_a_bare_status_enqueues_no_tick_of_the_pause() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let fields = json!({"every": 0.2, "misfire": "all"});
    for name in ["led", "handed"] {
        put(&naq, &schedule(name, fields.clone()));
    }
    let leader = scheduler(&naq, &[]);
    for name in ["led", "handed"] {
        progressed(&naq, name, "runs", |progress| progress.runs > 0);
        change(&naq, name, |one| one.status = ScheduleStatus::Paused);
        progressed(&naq, name, "the pause is seen", |progress| {
            progress.inactive
        });
    }
    let activate = |name: &str| {
        std::thread::sleep(Duration::from_millis(1_500));
        let paused = stored(&naq, name);
        let activated_at = now();
        change(&naq, name, |one| one.status = ScheduleStatus::Active);
        (paused.progress, activated_at)
    };
    let assert_nothing_of_the_pause = |name: &str,
                                       (paused, activated_at): (
        naq_protocol::ScheduleProgress,
        naq_protocol::Timestamp,
    )| {
        let resumed = progressed(&naq, name, "runs again", |progress| {
            progress.runs > paused.runs + 1
        });
        assert_eq!(resumed.progress.missed, paused.missed);
        assert!(!resumed.progress.inactive);
        let during_the_pause = jobs_of(&naq, "build").into_iter().filter(|job| {
            let every = 200;
            let mut tick = resumed.created_at;
            while tick < activated_at {
                tick = later(tick, every);
                if *job == JobId::for_tick(&schedule_id(name), tick).to_string() {
                    return tick > paused.done_until && tick < activated_at;
                }
            }
            false
        });
        assert_eq!(during_the_pause.collect::<Vec<_>>(), [""; 0], "{name}");
    };
    // by the leader that saw the pause
    let activated = activate("led");
    assert_nothing_of_the_pause("led", activated);
    // by one that did not
    assert!(leader.stop().success());
    let activated = activate("handed");
    let _leader = scheduler(&naq, &[]);
    assert_nothing_of_the_pause("handed", activated);
}

/// Many ticks of one time are sent together. Those of a queue that refuses them, and those that a leader
/// before has enqueued, do not disturb the others.
#[test]
fn a_burst_of_ticks_is_enqueued_once_each() {
    const SCHEDULES: usize = 600;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let name = |number: usize| format!("burst{number}");
    let tick = now();
    naq.block_on(async {
        for number in 0..SCHEDULES {
            let mut one = schedule(
                &name(number),
                json!({"every": 3600, "start": tick, "progress": {"done_until": later(tick, -1)}}),
            );
            // this queue is created by the first of its ticks
            if number % 3 == 0 {
                one.queue = QueueName::new("missing").unwrap();
            }
            let broker = naq.client().broker();
            broker.write_schedule(&one, 0).await.unwrap();
        }
    });
    let in_queue = |queue: &str, numbers: &mut dyn Iterator<Item = usize>| {
        let mut found = jobs_of(&naq, queue);
        found.sort();
        let ids = numbers.map(|number| schedule_id(&name(number)));
        let mut expected: Vec<String> = ids
            .map(|id| JobId::for_tick(&id, tick).to_string())
            .collect();
        expected.sort();
        found == expected
    };
    let is_enqueued = || {
        in_queue("missing", &mut (0..SCHEDULES).step_by(3))
            && in_queue("build", &mut (0..SCHEDULES).filter(|number| number % 3 > 0))
    };
    let dying = naq
        .cli(["scheduler", "--disable-ha"])
        .env("FAILPOINTS", "tick.enqueued=250*off->return")
        .follow();
    dying.expect_stderr("dies at tick.enqueued");
    let scheduler = scheduler(&naq, &["--disable-ha"]);
    eventually("every tick is enqueued", is_enqueued);
    for number in [0, 1, SCHEDULES - 1] {
        progressed(&naq, &name(number), "stored", |progress| progress.runs == 1);
    }
    assert!(scheduler.stop().success());
    assert!(is_enqueued());
}
