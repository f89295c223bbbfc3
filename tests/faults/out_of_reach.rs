//! Jobs that put themselves, or what they leave, out of their worker's reach.

use std::path::{Path, PathBuf};
use std::process::Command;

use naq_protocol::{Reason, State};

use crate::harness::naq::{Naq, eventually, id};
use crate::harness::nats::TestServer;
use crate::harness::skipped;

#[test]
fn timeout_cancel_and_drain_reach_a_job_that_has_stopped_its_spawner() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    for containment in ["best", "cgroup", "subreaper"] {
        let mut worker = naq.worker(&["build"]).concurrency(4);
        if containment != "best" {
            // with no_new_privs a job cannot signal its spawner
            worker = worker
                .arg("--containment")
                .arg(containment)
                .arg("--allow-setuid");
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
        assert!(worker.stop().success());
        naq.wait_ended(&job("drained"));
    }
}

/// A file system of 64 KiB. `None` if this process may not mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> Option<SmallDisk> {
        std::fs::create_dir_all(path).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a disk that is soon full")]
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "none"])
            .arg(path)
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            skipped("a full disk, since this process may mount none");
        }
        mounted.then(|| SmallDisk(path.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "as above")]
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_script_that_fits_no_scratch_folder_fails_in_words_and_frees_its_slot() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let scratch = naq.home().join("small");
    let Some(_disk) = SmallDisk::mount(&scratch) else {
        return;
    };
    let worker = naq
        .worker(&["build"])
        .concurrency(1)
        .env("TMPDIR", scratch.to_str().unwrap())
        .spawn();
    let script = format!("#!/bin/sh\n# {}\n", "x".repeat(100_000));
    let envelope = serde_json::json!({"script": script, "timeout": "500ms", "max_retries": 5});
    let record = naq.wait_ended(&naq.publish("build", envelope.to_string()));
    assert_eq!(
        (record.state(), record.reason()),
        (State::Failed, Some(Reason::Spawn))
    );
    assert_eq!(record.failed_starts, 3);
    let error = record.error.unwrap();
    assert!(
        error.contains("ENOSPC") && error.contains("cannot write"),
        "{error}"
    );
    worker.expect_stderr("cannot start a job yet");
    naq.assert_jobs_still_run("build");
    assert!(worker.stop().success());
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
