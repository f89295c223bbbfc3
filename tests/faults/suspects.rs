//! Jobs that share a worker or a spawner process with one that kills it: the culprit fails, and no
//! crash is counted against its neighbours.

use std::path::Path;

use naq_protocol::{JobId, Reason, Record, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::naq::{Naq, Worker, eventually};
use crate::harness::nats::TestServer;
use crate::harness::skipped;

const SLOTS: usize = 8;

/// Jobs for all slots but one, whose first attempt lasts until the file `go` exists, and that note each attempt.
fn neighbours(naq: &Naq) -> Vec<JobId> {
    let script = "echo $NAQ_ATTEMPT >> ran.$NAQ_JOB_ID
        until [ $NAQ_ATTEMPT -gt 1 ] || [ -e go ]; do sleep 0.05; done";
    let job = serde_json::json!({"script": script}).to_string();
    (1..SLOTS)
        .map(|_| naq.publish("build", job.clone()))
        .collect()
}

/// A job that asks in each attempt to be killed with its spawner process, and waits for that. Where
/// it has a PID namespace of its own, it does not see that process.
fn spawner_killer(naq: &Naq, id: &str) -> JobId {
    let script = "exec 9>>kill.me; echo $NAQ_ATTEMPT >> ran.$NAQ_JOB_ID; exec sleep 1000";
    let job = serde_json::json!({"script": script}).to_string();
    let subject = format!("naq.queue.build.{id}");
    naq.publish_to("build", &subject, job.into_bytes());
    crate::harness::naq::id(id)
}

fn attempts(naq: &Naq, job: &JobId) -> usize {
    let ran = naq.home().join(format!("ran.{job}"));
    let text = std::fs::read_to_string(ran).unwrap_or_default();
    text.lines().count()
}

fn status_field(pid: i32, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.map(|value| value.trim().to_owned())
}

/// The spawner process above the job that has this file open.
fn spawner_above(file: &Path) -> Option<Pid> {
    let has_open = |pid: i32| {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd"));
        fds.into_iter()
            .flatten()
            .flatten()
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|path| path == file))
    };
    let mut pids = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut pid = pids.find(|pid| has_open(*pid))?;
    while status_field(pid, "Name:")? != "naq-spawner" {
        pid = status_field(pid, "PPid:")?.parse().ok()?;
    }
    Some(Pid::from_raw(pid))
}

/// Kills the spawner process of the job that asks for it.
fn kill_its_spawner(naq: &Naq) {
    let file = naq.home().join("kill.me");
    eventually("the job asks for it", || {
        spawner_above(&file).is_some_and(|spawner| kill(spawner, Signal::SIGKILL).is_ok())
    });
}

/// The culprit failed as the only one that a crash was counted against: once as one of several, then
/// alone, three times.
fn assert_only_the_culprit_is_charged(naq: &Naq, culprit: &JobId, neighbours: &[JobId]) {
    let record = naq.wait_ended(culprit);
    assert_eq!(
        (record.state(), record.reason()),
        (State::Failed, Some(Reason::Crashed)),
        "{record:#?}"
    );
    assert_eq!((record.crashes, record.shared_crashes), (3, 1));
    assert_eq!((record.attempt, attempts(naq, culprit)), (4, 4));
    std::fs::write(naq.home().join("go"), "").unwrap();
    let records: Vec<Record> = neighbours.iter().map(|job| naq.wait_ended(job)).collect();
    for record in &records {
        assert_eq!(
            (record.state(), record.crashes),
            (State::Succeeded, 0),
            "{record:#?}"
        );
        assert!(!record.suspect);
    }
    assert!(
        records.iter().any(|record| record.shared_crashes == 1),
        "it had no neighbour"
    );
    naq.wait_drained("build");
}

/// Several jobs share a spawner process, except in a subreaper.
#[test]
fn a_job_that_kills_its_spawner_fails_and_no_crash_is_counted_against_its_neighbours() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["build"])
        .concurrency(SLOTS)
        .arg("--spawners=2")
        .spawn();
    if worker.log().contains("containment=subreaper") {
        skipped("a spawner process of several jobs, which a subreaper never is");
        return;
    }
    let neighbours = neighbours(&naq);
    for job in &neighbours {
        eventually("the neighbours run", || attempts(&naq, job) == 1);
    }
    let culprit = spawner_killer(&naq, "culprit");
    for attempt in 1..=4 {
        if attempt == 2 {
            naq.wait_for(&culprit, "a suspect", |record| record.suspect);
            let shown = naq.cli(["status", "culprit"]).run().succeeds();
            shown.expect_stdout("suspect").expect_stdout("not counted");
        }
        eventually("the job runs", || attempts(&naq, &culprit) == attempt);
        kill_its_spawner(&naq);
    }
    assert_only_the_culprit_is_charged(&naq, &culprit, &neighbours);
    worker.expect_stderr("the job runs alone next");
    naq.assert_jobs_still_run("build");
    assert!(worker.stop().success());
}

/// A worker that takes over soon.
fn quick(naq: &Naq) -> Worker {
    naq.worker(&["build"])
        .concurrency(SLOTS)
        .ack_wait("2s")
        .arg("--takeover-after=6s")
        .spawn()
}

#[test]
fn a_job_that_kills_its_worker_fails_and_no_crash_is_counted_against_its_neighbours() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let mut worker = quick(&naq);
    let neighbours = neighbours(&naq);
    for job in &neighbours {
        eventually("the neighbours run", || attempts(&naq, job) == 1);
    }
    let culprit = spawner_killer(&naq, "culprit");
    for attempt in 1..=4 {
        eventually("the job runs", || attempts(&naq, &culprit) == attempt);
        worker.signal(Signal::SIGKILL);
        worker.wait_exit();
        worker = quick(&naq);
    }
    assert_only_the_culprit_is_charged(&naq, &culprit, &neighbours);
    naq.assert_jobs_still_run("build");
    assert!(worker.stop().success());
}

/// Suspects that cannot run yet hold neither a slot nor a lease, and do not delay the end of a
/// worker. The next worker runs them.
#[test]
fn a_worker_ends_while_suspects_wait_and_the_next_one_runs_them() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let first = quick(&naq);
    let script = "echo $NAQ_ATTEMPT >> ran.$NAQ_JOB_ID; until [ -e go ]; do sleep 0.05; done";
    let job = serde_json::json!({"script": script}).to_string();
    let jobs: Vec<JobId> = (0..3).map(|_| naq.publish("build", job.clone())).collect();
    for job in &jobs {
        eventually("they run", || attempts(&naq, job) == 1);
    }
    first.signal(Signal::SIGKILL);
    first.wait_exit();
    let second = quick(&naq);
    let records = || {
        jobs.iter()
            .map(|job| naq.block_on(naq.client().fetch_job(job)).unwrap())
    };
    eventually("one runs alone and two wait", || {
        records().all(|record| record.suspect)
            && records()
                .filter(|record| record.state() == State::Running)
                .count()
                == 1
            && records()
                .filter(|record| record.state() == State::Retrying)
                .count()
                == 2
    });
    naq.assert_jobs_still_run("build");
    let begun = || jobs.iter().map(|job| attempts(&naq, job)).sum::<usize>();
    eventually("one runs again", || begun() == 4);
    let third = quick(&naq);
    eventually("one runs alone on each worker", || {
        records()
            .filter(|record| record.state() == State::Running)
            .count()
            == 2
    });
    // one of the three still waits
    second.signal(Signal::SIGTERM);
    std::fs::write(naq.home().join("go"), "").unwrap();
    assert!(second.wait_exit().success());
    for job in &jobs {
        let record = naq.wait_ended(job);
        assert_eq!(
            (record.state(), record.attempt, record.crashes),
            (State::Succeeded, 2, 0),
            "{record:#?}"
        );
    }
    naq.wait_drained("build");
    assert!(third.stop().success());
}
