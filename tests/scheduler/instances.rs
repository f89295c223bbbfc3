//! The list of schedulers: which one leads, how far the clocks are off, and what a user is warned of.

use serde_json::{Value, json};

use super::{progressed, put, schedule};
use crate::harness::naq::{FollowedCli, Naq, eventually};
use crate::harness::nats::TestServer;
use crate::harness::shifted_clock::ShiftedClock;

const HOUR_S: i64 = 3_600;

fn list(naq: &Naq) -> Vec<Value> {
    let listed = naq.cli(["scheduler", "list", "--json"]).run().succeeds();
    let lines = listed.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The entry of a scheduler once it is in this state.
fn in_state(naq: &Naq, name: &str, state: &str) -> Value {
    let mut found = None;
    eventually(&format!("{name} is {state}"), || {
        found = list(naq)
            .into_iter()
            .find(|one| one["instance_id"] == name && one["state"] == state);
        found.is_some()
    });
    found.unwrap()
}

fn start(naq: &Naq, name: &str, environment: &[(&'static str, String)]) -> FollowedCli {
    let scheduler = naq.cli(["scheduler", "--instance-id", name, "--lock-ttl", "20s"]);
    environment
        .iter()
        .fold(scheduler, |cli, (name, value)| cli.env(name, value))
        .follow()
}

#[test]
fn list_of_schedulers_shows_the_leader_and_clocks_that_are_off() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    naq.cli(["scheduler", "list"])
        .run()
        .succeeds()
        .expect_stderr(&["no schedulers; `naq scheduler` starts one"]);
    put(&naq, &schedule("often", json!({"every": 0.5})));
    for verb in [
        &["schedules"][..],
        &["scheduler", "list"],
        &["list-scheduled", "--json"],
    ] {
        naq.cli(verb.iter().copied())
            .run()
            .succeeds()
            .expect_stderr(&["no scheduler runs; `naq scheduler` starts one"]);
    }
    let clock = ShiftedClock::new(&naq);
    let first = start(&naq, "first", &clock.environment());
    first.expect_stderr("leading");
    let second = start(&naq, "second", &[]);
    second.expect_stderr("standing by");
    let leading = in_state(&naq, "first", "leading");
    let offset = leading["clock_offset_ms"].as_i64().unwrap();
    assert!(offset.abs() < 2_000, "{leading}");
    for field in [
        "hostname",
        "pid",
        "since",
        "started_at",
        "last_seen",
        "version",
    ] {
        assert!(!leading[field].is_null(), "{field}: {leading}");
    }
    in_state(&naq, "second", "standing_by");
    progressed(&naq, "often", "runs", |one| one.runs >= 2);
    eventually("ticks are counted", || {
        in_state(&naq, "first", "leading")["enqueued"].as_u64() >= Some(2)
    });
    let quiet = naq.cli(["schedules"]).run().succeeds();
    assert_eq!(quiet.stderr, "");

    clock.set_wall_s(HOUR_S);
    first.expect_stderr("ahead of the server's: not leading until it is right");
    let off = in_state(&naq, "first", "clock_off");
    let offset = off["clock_offset_ms"].as_i64().unwrap();
    assert!((offset - HOUR_S * 1_000).abs() < 2_000, "{off}");
    in_state(&naq, "second", "leading");
    let ahead = "the clock of scheduler `first` on ";
    let table = naq.cli(["scheduler", "list"]).run().succeeds();
    let row = |name: &str| {
        let found = table.stdout.lines().find(|line| line.starts_with(name));
        found.unwrap_or_else(|| panic!("{table:#?}")).to_owned()
    };
    assert!(row("first").contains("clock off"), "{table:#?}");
    assert!(
        row("first").contains("+3600.") || row("first").contains("+3599."),
        "{table:#?}"
    );
    assert!(row("second").contains("leading"), "{table:#?}");
    table.expect_stderr(&[ahead, "ahead of the server's: it does not lead"]);

    assert!(second.stop().success());
    eventually("nobody leads", || list(&naq).len() == 1);
    naq.cli(["schedules"])
        .run()
        .succeeds()
        .expect_stderr(&[ahead, "no scheduler leads, so schedules enqueue no jobs"]);
    clock.set_wall_s(0);
    in_state(&naq, "first", "leading");
    assert!(first.stop().success());
    assert_eq!(list(&naq), [] as [Value; 0]);
}

#[test]
fn verb_that_computes_times_warns_if_the_clock_of_its_machine_is_off() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let scheduler = super::scheduler(&naq, &[]);
    let clock = ShiftedClock::new(&naq);
    let verbs: [&[&str]; 5] = [
        &[
            "schedule", "add", "--name", "a", "-q", "build", "--every", "1h", "--", "true",
        ],
        &["schedule", "update", "a", "--every", "2h"],
        &["schedule", "pause", "a"],
        &["schedule", "resume", "a"],
        &["enqueue", "-q", "build", "--in", "1h", "--", "true"],
    ];
    let run = |verb: &[&str]| {
        let verb = naq.cli(verb.iter().copied());
        let environment = clock.environment().into_iter();
        environment
            .fold(verb, |cli, (name, value)| cli.env(name, &value))
            .run()
            .succeeds()
    };
    for verb in verbs {
        clock.set_wall_s(-HOUR_S);
        let wrong =
            run(verb).expect_stderr(&["the clock of this machine is ", "behind the server's"]);
        assert!(
            wrong.stderr.contains(" 3600.") || wrong.stderr.contains(" 3599."),
            "{wrong:#?}"
        );
    }
    clock.set_wall_s(0);
    for verb in &verbs[1..] {
        let right = run(verb);
        assert!(!right.stderr.contains("clock"), "{right:#?}");
    }
    assert!(scheduler.stop().success());
}
