//! Several schedulers: one leads, another takes over, and no tick is lost or enqueued twice.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use super::{each_once, jobs_of, later, progressed, put, schedule, scheduler};
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

#[test]
fn leader_failover_is_immediate_after_a_stop_and_waits_for_the_lease_after_a_crash() {
    // at least half of it is left when a leader stops or dies, since the leader renews it in time
    const LOCK_TTL: &str = "12s";
    const LEFT_MIN: Duration = Duration::from_secs(6);
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let often = schedule("often", json!({"every": 0.1}));
    put(&naq, &often);
    let first = scheduler(&naq, &["--lock-ttl", LOCK_TTL]);
    let second = naq.cli(["scheduler", "--lock-ttl", LOCK_TTL]).follow();
    let third = naq.cli(["scheduler", "--lock-ttl", LOCK_TTL]).follow();
    second.expect_stderr("standing by");
    third.expect_stderr("standing by");
    progressed(&naq, "often", "runs", |progress| progress.runs >= 5);
    assert!(first.stop().success());
    let stopped_at = Instant::now();
    eventually("another leads", || {
        second.stderr_text().contains("leading") || third.stderr_text().contains("leading")
    });
    assert!(stopped_at.elapsed() < LEFT_MIN);
    let (leader, other) = if second.stderr_text().contains("leading") {
        (second, third)
    } else {
        (third, second)
    };
    let runs = progressed(&naq, "often", "continues", |progress| progress.runs >= 10);
    leader.kill9();
    let killed_at = Instant::now();
    other.expect_stderr("leading");
    assert!(killed_at.elapsed() > LEFT_MIN / 2);
    let last = progressed(&naq, "often", "continues", |progress| {
        progress.runs >= runs.progress.runs + 40
    });
    assert!(other.stop().success());
    let last = super::stored(&naq, "often")
        .progress
        .runs
        .max(last.progress.runs);
    let ticks =
        (1..=i64::try_from(last).unwrap()).map(|count| later(often.created_at, 100 * count));
    each_once(&jobs_of(&naq, "build"), "often", ticks);
}

#[test]
fn a_leader_suspended_past_its_lease_enqueues_nothing_more() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let often = schedule("often", json!({"every": 0.1}));
    put(&naq, &often);
    let first = scheduler(&naq, &["--lock-ttl", "3s"]);
    let second = naq.cli(["scheduler", "--lock-ttl", "3s"]).follow();
    second.expect_stderr("standing by");
    progressed(&naq, "often", "runs", |progress| progress.runs >= 3);
    first.signal(Signal::SIGSTOP);
    second.expect_stderr("leading");
    // the schedule is another one by the time the first leader continues
    super::change(&naq, "often", |often| {
        often.status = naq_protocol::ScheduleStatus::Paused;
    });
    put(&naq, &schedule("other", json!({"every": 0.1})));
    progressed(&naq, "other", "runs", |progress| progress.runs >= 3);
    let before = jobs_of(&naq, "build");
    first.signal(Signal::SIGCONT);
    first.expect_stderr("no longer the leader");
    first.expect_stderr("standing by");
    progressed(&naq, "other", "runs", |progress| progress.runs >= 10);
    let of_often = |jobs: &[String]| -> Vec<String> {
        let mine = jobs.iter().filter(|job| job.starts_with("often-"));
        mine.cloned().collect()
    };
    let after = jobs_of(&naq, "build");
    assert_eq!(of_often(&before), of_often(&after));
}

#[test]
fn two_leaders_without_a_lease_enqueue_each_tick_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let often = schedule("often", json!({"every": 0.1, "repeat": 30}));
    put(&naq, &often);
    let _first = scheduler(&naq, &["--disable-ha"]);
    let _second = scheduler(&naq, &["--disable-ha"]);
    eventually("it has ended", || {
        super::stored(&naq, "often").status == naq_protocol::ScheduleStatus::Ended
    });
    let jobs = jobs_of(&naq, "build");
    let mut once = jobs.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), jobs.len(), "{jobs:?}");
    assert!(jobs.len() >= 30);
}
