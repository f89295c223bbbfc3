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

#[test]
fn a_work_folder_of_20_000_levels_harms_no_other_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let scratch = naq.home().join("scratch");
    let worker = naq
        .worker(&["build"])
        .concurrency(2)
        .env("TMPDIR", scratch.to_str().unwrap())
        .spawn();
    let neighbour = naq.publish("build", r#"{"script":"sleep 5; echo done"}"#);
    let script = "#!/usr/bin/env python3\nimport os\nos.chdir(os.environ['NAQ_WORK_DIR'])\nfor _ in range(20000):\n os.mkdir('d')\n os.chdir('d')\n";
    let deep = naq.publish("build", serde_json::json!({"script": script}).to_string());
    assert_eq!(naq.wait_ended(&deep).state(), State::Succeeded);
    eventually("its folder is removed", || {
        let runner = std::fs::read_dir(&scratch)
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        std::fs::read_dir(runner.path())
            .unwrap()
            .flatten()
            .all(|folder| {
                std::fs::read_dir(folder.path()).is_ok_and(|mut left| left.next().is_none())
            })
    });
    let record = naq.wait_ended(&neighbour);
    assert_eq!((record.state(), record.crashes), (State::Succeeded, 0));
    assert!(worker.stop().success());
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);
}
