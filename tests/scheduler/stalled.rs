//! Leaders that stand still.

use serde_json::json;

use super::{jobs_of, progressed, put, schedule};
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

/// One that loses its lock while it stops has nothing more to store, and stops all the same.
#[test]
fn one_that_loses_its_lock_while_it_stops_does_stop() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let scheduler = naq
        .cli(["scheduler", "--lock-ttl", "3s"])
        .env("FAILPOINTS", "progress.due=1*off->1*sleep(4000)")
        .follow();
    scheduler.says("leading");
    put(&naq, &schedule("often", json!({"every": 0.1})));
    // what comes next is stored a second later, or when it stops
    progressed(&naq, "often", "runs", |one| one.runs >= 1);
    eventually("there is more to store", || {
        jobs_of(&naq, "build").len() >= 3
    });
    assert!(scheduler.stop().success());
}
