//! `naq schedule backfill`.

use naq_protocol::State;
use serde_json::Value;

use crate::harness::naq::{Naq, id};
use crate::harness::nats::TestServer;

const ADD: &[&str] = &[
    "schedule",
    "add",
    "--name",
    "nightly",
    "--cron",
    "30 2 * * *",
    "--tz",
    "Europe/Berlin",
    "--",
    "true",
];

/// A week, in the time zone of the schedule.
const WEEK: &[&str] = &[
    "schedule",
    "backfill",
    "nightly",
    "--from",
    "2025-03-28 00:00",
    "--to",
    "2025-04-04 00:00",
];

#[test]
fn runs_of_the_past_are_listed_and_then_enqueued_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(ADD.to_vec()).run().succeeds();
    let week = |options: &[&str]| naq.cli([WEEK, options].concat()).run();
    let would = week(&["--dry-run"]).succeeds();
    assert!(
        would
            .stdout
            .contains("2025-03-30T03:00:00+02:00  nightly-20250330T010000Z  would be enqueued"),
        "{}",
        would.stdout
    );
    would.expect_stderr(&["from 2025-03-28 00:00 Europe/Berlin"]);
    naq.cli(["status", "nightly-20250330T010000Z"])
        .run()
        .exits(4);

    let first = week(&["--limit", "2"]).succeeds();
    assert_eq!(
        first.stdout.matches("  enqueued").count(),
        2,
        "{}",
        first.stdout
    );
    let first = first.expect_stderr(&[
        "2 jobs enqueued",
        "the range has 5 more runs; `naq schedule backfill nightly --from ",
    ]);
    // the command that is named continues
    let command = first
        .stderr
        .split("`naq ")
        .find(|part| part.contains("continues"))
        .unwrap();
    let words = command.split('`').next().unwrap().split(' ');
    let rest = naq.cli(words.collect::<Vec<_>>()).run().succeeds();
    assert_eq!(
        rest.stdout.matches("  enqueued").count(),
        5,
        "{}",
        rest.stdout
    );
    let again = week(&[]).succeeds();
    assert_eq!(
        again.stdout.matches("  exists").count(),
        7,
        "{}",
        again.stdout
    );
    assert!(!again.stderr.contains("enqueued"), "{}", again.stderr);

    let newest = week(&["-n", "1", "--order", "newest", "--json"]).succeeds();
    let newest: Value = serde_json::from_str(newest.stdout.trim()).unwrap();
    assert_eq!(newest["job_id"], "nightly-20250403T003000Z", "{newest}");
    assert_eq!(
        (newest["existed"].as_bool(), newest["enqueued"].as_bool()),
        (Some(true), Some(false))
    );
    // the label of the rest selects its jobs
    let label = rest
        .stderr
        .split("--label ")
        .nth(1)
        .unwrap()
        .split('`')
        .next()
        .unwrap();
    let listed = naq
        .cli(["jobs", "--label", label, "--json"])
        .run()
        .succeeds();
    assert_eq!(listed.stdout.lines().count(), 5, "{}", listed.stdout);
    let _worker = naq.worker(&["default"]).spawn();
    let ended = naq.wait_ended(&id("nightly-20250330T010000Z"));
    assert_eq!(ended.state(), State::Succeeded);
    assert_eq!(
        ended.scheduled_for.unwrap().to_string(),
        "2025-03-30T01:00:00.000Z"
    );
}

#[test]
fn a_range_that_cannot_be_backfilled_is_refused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(ADD.to_vec()).run().succeeds();
    let refused = |code, options: &[&str], words: &[&str]| {
        let words_of = [&["schedule", "backfill", "nightly"], options].concat();
        naq.cli(words_of).run().exits(code).expect_stderr(words);
    };
    refused(2, &[], &["--from"]);
    refused(2, &["--from", "soon"], &["--from"]);
    refused(
        2,
        &["--from", "2025-01-01 00:00", "--limit", "1001"],
        &["1..=1000"],
    );
    refused(
        2,
        &["--from", "2025-01-01 00:00", "--to", "2999-01-01 00:00"],
        &["in the future"],
    );
    refused(
        2,
        &["--from", "2025-01-02 00:00", "--to", "2025-01-01 00:00"],
        &["not after"],
    );
    refused(
        2,
        &["--from", "2025-01-01 00:00", "--tz", "Mars/Olympus"],
        &["--tz"],
    );
    let none = ["schedule", "backfill", "none", "--from", "2025-01-01 00:00"];
    naq.cli(none).run().exits(4).expect_stderr(&["none"]);
    let empty = [
        "schedule",
        "backfill",
        "nightly",
        "--from",
        "2025-01-01 03:00",
        "--to",
        "2025-01-01 04:00",
    ];
    naq.cli(empty)
        .run()
        .succeeds()
        .expect_stderr(&["no run in this range"]);
}

#[test]
fn a_paused_schedule_is_backfilled_and_does_not_change() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(ADD.to_vec()).run().succeeds();
    naq.cli(["schedule", "pause", "nightly"]).run().succeeds();
    let shown = || {
        naq.cli(["schedule", "show", "nightly", "--json"])
            .run()
            .succeeds()
            .stdout
    };
    let before = shown();
    naq.cli(WEEK.to_vec()).run().succeeds();
    assert_eq!(shown(), before);
}
