//! The wall clock set an hour forward and back under a leader. Only the leader's process sees that,
//! by a preloaded library; the machine's clock stays as it is. So the kernel does not report the
//! change, and the leader notices it when it next reads the clock.

use std::collections::BTreeSet;

use naq_protocol::Schedule;
use serde_json::json;

use super::{jobs_of, later, now, progressed, put, schedule, stored};
use crate::harness::naq::{FollowedCli, Naq};
use crate::harness::nats::TestServer;
use crate::harness::shifted_clock::ShiftedClock;

const HOUR_S: i64 = 3_600;

/// A scheduler that sees the shifted clock.
fn scheduler(naq: &Naq, clock: &ShiftedClock) -> FollowedCli {
    let scheduler = naq.cli(["scheduler", "--lock-ttl", "20s"]);
    clock
        .environment()
        .into_iter()
        .fold(scheduler, |cli, (name, value)| cli.env(name, &value))
        .follow()
}

/// A schedule that is enqueued now, by a leader whose clock is right or slow:
/// whatever was to be done before its tenth tick has been done.
fn some_time_passes(naq: &Naq, name: &str) {
    put(naq, &schedule(name, json!({"every": 0.2, "repeat": 10})));
    progressed(naq, name, "runs", |one| one.runs == 10);
}

/// The jobs of a schedule; asserts that none exists twice. A queue keeps one message of an id at a
/// time, and no worker has taken one out.
fn jobs_of_one(naq: &Naq, name: &str) -> BTreeSet<String> {
    let mut jobs = jobs_of(naq, "build");
    jobs.retain(|job| job.starts_with(&format!("{name}-")));
    let once: BTreeSet<String> = jobs.iter().cloned().collect();
    assert_eq!(once.len(), jobs.len(), "{jobs:?}");
    once
}

/// Asserts that every tick up to the progress was enqueued or counted as missed, and that each
/// enqueued tick is a job.
fn adds_up(naq: &Naq, one: &Schedule) {
    let every_ms = i64::try_from(one.every.unwrap().0.as_millis()).unwrap();
    let passed_ms = one.progress.done_until.unix_ms() - one.created_at.unix_ms();
    let passed = u64::try_from(passed_ms / every_ms).unwrap();
    assert_eq!(one.progress.runs + one.progress.missed, passed, "{one:#?}");
    let jobs = jobs_of_one(naq, one.schedule_id.as_str()).len() as u64;
    assert!(jobs >= one.progress.runs, "{jobs} jobs of {one:#?}");
}

#[test]
fn clock_set_an_hour_forward_and_back_enqueues_no_tick_twice_and_never_moves_progress_back() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let clock = ShiftedClock::new(&naq);
    let leader = scheduler(&naq, &clock);
    leader.expect_stderr("leading");
    let other = naq.cli(["scheduler", "--lock-ttl", "20s"]).follow();
    other.expect_stderr("standing by");
    // of each of these, six ticks are due within an hour, the last one at its very end
    let rare = [
        ("skip", json!({"every": 600, "misfire": "skip"})),
        ("once", json!({"every": 600})),
        ("all", json!({"every": 600, "misfire": "all"})),
    ];
    for (name, fields) in &rare {
        put(&naq, &schedule(name, fields.clone()));
    }
    put(&naq, &schedule("often", json!({"every": 0.5})));
    progressed(&naq, "often", "runs", |one| one.runs >= 3);

    clock.set_wall_s(HOUR_S);
    let hour_on = later(now(), HOUR_S * 1_000);
    let jumped = progressed(&naq, "often", "continues an hour later", |one| {
        one.done_until > later(hour_on, 1_000)
    });
    // ticks that are later than the grace by then are left out, except for the last
    assert!(jumped.progress.missed > 6_500, "{jumped:#?}");
    adds_up(&naq, &jumped);
    for ((name, _), (runs, missed)) in rare.iter().zip([(1, 5), (2, 4), (6, 0)]) {
        let made_at = stored(&naq, name).created_at;
        let caught_up = progressed(&naq, name, "caught up", |one| {
            one.done_until >= later(made_at, 6 * 600_000)
        });
        let progress = &caught_up.progress;
        // the sixth is late by less than the grace
        assert_eq!((progress.runs, progress.missed), (runs, missed), "{name}");
        assert_eq!(jobs_of_one(&naq, name).len() as u64, runs, "{name}");
    }

    clock.set_wall_s(0);
    some_time_passes(&naq, "meanwhile");
    let jobs = jobs_of_one(&naq, "often");
    let rests = progressed(&naq, "often", "all is stored", |one| {
        one.runs == jobs.len() as u64
    });
    some_time_passes(&naq, "later");
    let still = stored(&naq, "often");
    assert_eq!(still.progress, rests.progress);
    assert_eq!(jobs_of_one(&naq, "often"), jobs);
    assert!(still.progress.done_until >= jumped.progress.done_until);
    adds_up(&naq, &still);
    // leases expire by another clock
    assert!(
        !other.stderr_text().contains("leading"),
        "{}",
        other.stderr_text()
    );
    assert!(
        !leader.stderr_text().contains("no longer"),
        "{}",
        leader.stderr_text()
    );

    // a leader with the right time takes over, and repeats nothing either
    assert!(leader.stop().success());
    other.expect_stderr("leading");
    some_time_passes(&naq, "after");
    assert_eq!(stored(&naq, "often").progress, rests.progress);
    assert_eq!(jobs_of_one(&naq, "often"), jobs);
    assert!(other.stop().success());

    // when it is that late again, it continues from there
    clock.set_wall_s(HOUR_S);
    let leader = scheduler(&naq, &clock);
    leader.expect_stderr("leading");
    let on = progressed(&naq, "often", "continues", |one| {
        one.runs >= rests.progress.runs + 3
    });
    assert_eq!(on.progress.missed, rests.progress.missed);
    adds_up(&naq, &on);
    for (name, _) in &rare {
        adds_up(&naq, &stored(&naq, name));
    }
    assert!(leader.stop().success());
}
