//! The wall clock set an hour forward and back under a leader. Only the leader's process sees that,
//! by a preloaded library; the machine's clock and the server's stay as they are. So the kernel does
//! not report the change, and the leader notices it when it next reads the clock.

use std::collections::BTreeSet;

use naq_protocol::{JobId, Schedule};
use serde_json::json;

use super::{jobs_of, later, now, progressed, put, schedule, stored};
use crate::harness::naq::{FollowedCli, Naq, eventually};
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

/// Asserts that no tick of a schedule was enqueued before its time.
fn none_is_early(naq: &Naq, name: &str) {
    let one = stored(naq, name);
    // before the time: on a busy machine, a tick may fall due while they are read
    let jobs = jobs_of_one(naq, name);
    let now = now();
    let ticks = (1..).map(|count| later(one.created_at, 500 * count));
    let due: BTreeSet<String> = ticks
        .take_while(|tick| *tick <= now)
        .map(|tick| JobId::for_tick(&one.schedule_id, tick).to_string())
        .collect();
    let early: Vec<_> = jobs.difference(&due).collect();
    assert!(early.is_empty(), "{early:?}");
}

#[test]
fn scheduler_whose_clock_is_off_stops_leading_and_enqueues_no_tick_early() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let clock = ShiftedClock::new(&naq);
    let first = scheduler(&naq, &clock);
    first.expect_stderr("leading");
    let second = naq.cli(["scheduler", "--lock-ttl", "20s"]).follow();
    second.expect_stderr("standing by");
    put(&naq, &schedule("often", json!({"every": 0.5})));
    progressed(&naq, "often", "runs", |one| one.runs >= 3);

    clock.set_wall_s(HOUR_S);
    first.expect_stderr("the clock is 3600.0 s ahead of the server's: not leading");
    second.expect_stderr("leading");
    let before = stored(&naq, "often").progress.runs;
    let continued = progressed(&naq, "often", "continues", |one| one.runs >= before + 3);
    assert_eq!(continued.progress.missed, 0, "{continued:#?}");
    none_is_early(&naq, "often");
    adds_up(&naq, &continued);

    // with the right time it stands by again, and takes over
    clock.set_wall_s(0);
    first.expect_stderr("the clock is right again");
    first.expect_stderr("standing by");
    assert!(second.stop().success());
    let terms = |log: &str| log.matches(" leading schedules=").count();
    eventually("it leads again", || terms(&first.stderr_text()) == 2);
    let before = stored(&naq, "often").progress.runs;
    progressed(&naq, "often", "continues", |one| one.runs >= before + 3);

    // with a clock that is behind, nobody leads, and nothing is enqueued late without need
    clock.set_wall_s(-HOUR_S);
    first.expect_stderr("s behind the server's");
    clock.set_wall_s(0);
    eventually("it leads once more", || terms(&first.stderr_text()) == 3);
    let before = stored(&naq, "often").progress.runs;
    let continued = progressed(&naq, "often", "continues", |one| one.runs >= before + 3);
    none_is_early(&naq, "often");
    adds_up(&naq, &continued);
    assert!(first.stop().success());
}

/// What a scheduler of an earlier version left after its clock was an hour ahead for some seconds.
#[test]
fn progress_in_the_future_does_not_stall_a_schedule() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let ahead = |name: &str| {
        let mut one = schedule(name, json!({"every": 0.5}));
        let in_an_hour = later(one.created_at, HOUR_S * 1_000);
        one.progress.done_until = in_an_hour;
        one.progress.last_run = Some(in_an_hour);
        one
    };
    put(&naq, &ahead("before"));
    let leader = naq.cli(["scheduler"]).follow();
    leader.expect_stderr("leading");
    put(&naq, &ahead("meanwhile"));
    for name in ["before", "meanwhile"] {
        let continued = progressed(&naq, name, "runs", |one| one.runs >= 3);
        assert!(continued.progress.done_until <= now(), "{continued:#?}");
        assert_eq!(continued.progress.missed, 0);
        none_is_early(&naq, name);
    }
    leader.expect_stderr("the progress was in the future");
    assert!(leader.stop().success());
}
