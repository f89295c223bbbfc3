//! One rule for every option that takes a time: the zone, what was understood, times that are past.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use naq_protocol::Timestamp;
use serde_json::Value;

use super::schedule::stored;
use crate::harness::naq::{CliOutput, Naq, id};
use crate::harness::nats::TestServer;

/// A verb on a machine in Tokyo.
fn in_tokyo(naq: &Naq, args: &[&str]) -> CliOutput {
    let args = args.iter().copied();
    naq.cli(args).env("TZ", "Asia/Tokyo").run()
}

fn due(naq: &Naq, job: &str) -> String {
    let record = naq.block_on(naq.client().fetch_job(&id(job))).unwrap();
    record.next_attempt_at().unwrap().to_string()
}

fn at(text: &str) -> Option<Timestamp> {
    Some(text.parse().unwrap())
}

#[test]
fn a_time_without_a_zone_is_local_and_what_was_understood_is_printed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let local = "2096-07-01 18:00";
    let enqueue = ["enqueue", "--id", "a", "--at", local, "--", "true"];
    let done = in_tokyo(&naq, &enqueue).succeeds();
    assert_eq!(due(&naq, "a"), "2096-07-01T09:00:00.000Z");
    assert_eq!(done.stderr.lines().count(), 1, "{done:#?}");
    done.expect_stderr(&["naq: at 2096-07-01 18:00 Asia/Tokyo, in "]);
    let quiet = [
        "enqueue", "--quiet", "--id", "q", "--at", local, "--", "true",
    ];
    assert_eq!(in_tokyo(&naq, &quiet).succeeds().stderr, "");

    let moved = ["job", "reschedule", "a", "2096-07-02 18:00"];
    in_tokyo(&naq, &moved)
        .succeeds()
        .expect_stderr(&["next run 2096-07-02 18:00 Asia/Tokyo, in "]);
    assert_eq!(due(&naq, "a"), "2096-07-02T09:00:00.000Z");

    let args = ["enqueue", "--dry-run", "--expires-at", local, "--", "true"];
    let done = in_tokyo(&naq, &args).succeeds();
    let envelope: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(envelope["expires_at"], "2096-07-01T09:00:00.000Z");
    done.expect_stderr(&["naq: expires at 2096-07-01 18:00 Asia/Tokyo, in "]);

    let args = [
        "schedule",
        "--name",
        "s",
        "--cron",
        "0 5 * * *",
        "--start",
        local,
        "--",
        "true",
    ];
    in_tokyo(&naq, &args).succeeds().expect_stderr(&[
        "start 2096-07-01 18:00 Asia/Tokyo, in ",
        "times are in Asia/Tokyo, the time zone of this machine",
    ]);
    let (schedule, _) = stored(&naq, "s");
    assert_eq!(schedule.tz.as_deref(), Some("Asia/Tokyo"));
    assert_eq!(schedule.start, at("2096-07-01T09:00:00Z"));

    // --tz names another, and a schedule has its own
    let args = [
        "enqueue",
        "--id",
        "b",
        "--at",
        local,
        "--tz",
        "Europe/Berlin",
        "--",
        "true",
    ];
    in_tokyo(&naq, &args)
        .succeeds()
        .expect_stderr(&["at 2096-07-01 18:00 Europe/Berlin"]);
    assert_eq!(due(&naq, "b"), "2096-07-01T16:00:00.000Z");
    naq.cli(["schedule", "update", "s", "--start", "2096-07-03 18:00"])
        .env("TZ", "Europe/Berlin")
        .run()
        .succeeds()
        .expect_stderr(&["start 2096-07-03 18:00 Asia/Tokyo"]);

    naq.file("my.crontab", "0 5 * * * x\n");
    let args = ["schedule", "apply", "my.crontab", "--dry-run", "--json"];
    in_tokyo(&naq, &args)
        .succeeds()
        .expect_stderr(&["times are in Asia/Tokyo"]);
}

#[test]
fn a_past_time_is_refused_by_every_option() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.enqueue(&["--id", "later", "--in", "1h", "--", "true"]);
    let schedule = ["schedule", "--name", "s", "--every", "1h", "--", "true"];
    naq.cli(schedule).run().succeeds();
    const PAST: &str = "2020-01-01 00:00";
    for args in [
        &["enqueue", "--id", "a", "--at", PAST, "--", "true"][..],
        &["enqueue", "--id", "b", "--expires-at", PAST, "--", "true"],
        &[
            "schedule", "--name", "n", "--every", "1h", "--start", PAST, "--", "true",
        ],
        &["schedule", "update", "s", "--start", PAST],
        &["schedule", "update", "s", "--next-run", PAST],
        &["job", "reschedule", "later", PAST],
    ] {
        let refused = naq.cli(args.iter().copied()).run().exits(2);
        refused.expect_stderr(&["2020-01-01 00:00 UTC is past", "--past-ok"]);
        let end = args
            .iter()
            .position(|arg| *arg == "--")
            .unwrap_or(args.len());
        let accepting = [&args[..end], &["--past-ok"], &args[end..]].concat();
        naq.cli(accepting).run().succeeds();
    }
}

/// A variable that names no zone was once read as UTC, or as the zone of the system.
#[test]
fn rules_in_tz_are_refused_where_a_zone_is_needed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let with_rules = |args: &[&str]| {
        naq.cli(args.iter().copied())
            .env("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
            .run()
    };
    with_rules(&["enqueue", "--at", "18:00", "--", "true"])
        .exits(2)
        .expect_stderr(&["TZ=CET-1CEST", "--tz ZONE"]);
    with_rules(&["schedule", "--cron", "@daily", "--", "true"])
        .exits(2)
        .expect_stderr(&["TZ=CET-1CEST", "--tz ZONE"]);
    with_rules(&["enqueue", "--", "true"]).succeeds();
    let path = [
        "enqueue",
        "--id",
        "p",
        "--at",
        "2096-07-01 18:00",
        "--",
        "true",
    ];
    naq.cli(path)
        .env("TZ", ":/usr/share/zoneinfo/Asia/Tokyo")
        .run()
        .succeeds();
    assert_eq!(due(&naq, "p"), "2096-07-01T09:00:00.000Z");
}
