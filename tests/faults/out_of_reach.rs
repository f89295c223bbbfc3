//! Jobs that put themselves, or what they leave, out of their worker's reach.

use std::time::{Duration, Instant};

use naq_protocol::{Reason, State};

use crate::harness::naq::{Naq, eventually, id};
use crate::harness::nats::TestServer;

#[test]
fn timeout_cancel_and_drain_reach_a_job_that_has_stopped_its_spawner() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for containment in ["best", "subreaper"] {
        let mut worker = naq.worker(&["build"]).concurrency(4);
        if containment != "best" {
            worker = worker.arg("--containment").arg(containment);
        }
        let worker = worker.spawn();
        let job = |name: &str| id(&format!("{name}-{containment}"));
        let stop = |name: &str, then: &str| {
            let file = naq.home().join(job(name).as_str());
            let script = format!("touch {}; kill -STOP $PPID; {then}", file.display());
            let id = job(name).to_string();
            naq.enqueue(&[
                "--queue",
                "build",
                "--id",
                &id,
                "--timeout",
                "2s",
                "--",
                "sh",
                "-c",
                &script,
            ]);
            eventually("the job runs", || file.exists());
        };
        stop("slow", "sleep 1000");
        let record = naq.wait_ended(&job("slow"));
        assert_eq!(record.reason(), Some(Reason::Timeout), "{record:#?}");
        stop("quick", "exit 3");
        let record = naq.wait_ended(&job("quick"));
        // it stops itself where it cannot see its spawner
        if record.reason() != Some(Reason::Timeout) {
            assert_eq!(record.exit_code, Some(3), "{record:#?}");
        }
        stop("cancelled", "sleep 1000");
        naq.cli(["cancel", job("cancelled").as_str()])
            .run()
            .succeeds();
        assert_eq!(naq.wait_ended(&job("cancelled")).state(), State::Cancelled);
        stop("drained", "sleep 1000");
        let began = Instant::now();
        assert!(worker.stop().success());
        assert!(began.elapsed() < Duration::from_secs(20));
        naq.wait_ended(&job("drained"));
    }
}
