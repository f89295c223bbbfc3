//! The metrics of a scheduler.

use super::address_in;
use super::scrape::{Scrape, check_by_promtool};
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

#[test]
fn the_metrics_of_schedulers_show_the_leader_and_count_its_ticks() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("mail");
    for (name, every) in [("often", "1s"), ("seldom", "1h"), ("off", "1h")] {
        naq.cli([
            "schedule", "--name", name, "--queue", "mail", "--every", every, "--", "true",
        ])
        .run()
        .succeeds();
    }
    naq.cli(["schedule", "pause", "off"]).run().succeeds();
    let start = || {
        let process = naq
            .cli(["scheduler", "--metrics-listen=127.0.0.1:0"])
            .follow();
        process.expect_stderr("scheduling");
        let address = address_in(&process.stderr_text());
        (process, address)
    };
    let (leader, first) = start();
    leader.expect_stderr("leading");
    let (_standby, second) = start();
    eventually("two ticks", || {
        Scrape::of(&first).value("naq_schedule_ticks_total{result=\"enqueued\"}") >= 2.0
    });
    let scrape = Scrape::of(&first);
    scrape.expect(&[
        ("naq_scheduler_leader", 1.0),
        ("naq_schedules{status=\"active\"}", 2.0),
        ("naq_schedules{status=\"paused\"}", 1.0),
        ("naq_schedules{status=\"ended\"}", 0.0),
        ("naq_schedule_ticks_total{result=\"failed\"}", 0.0),
        ("naq_reconciles_total{what=\"republished\"}", 0.0),
        ("naq_nats_up", 1.0),
    ]);
    let enqueued = scrape.value("naq_schedule_ticks_total{result=\"enqueued\"}");
    scrape.expect(&[
        (
            "naq_enqueued_total{queue=\"mail\",via=\"scheduler\"}",
            enqueued,
        ),
        ("naq_schedule_lateness_seconds_count", enqueued),
    ]);
    assert!(!scrape.text.contains("often"), "{}", scrape.text);
    let standby = Scrape::of(&second);
    standby.expect(&[
        ("naq_scheduler_leader", 0.0),
        ("naq_schedules{status=\"active\"}", 0.0),
        ("naq_schedule_ticks_total{result=\"enqueued\"}", 0.0),
    ]);
    check_by_promtool(&first);
    leader.kill9();
    eventually("the other one leads", || {
        Scrape::of(&second).value("naq_scheduler_leader") == 1.0
    });
}
