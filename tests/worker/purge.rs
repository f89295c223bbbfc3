//! Purging and removing queues: what is removed, and what stays.

use naq_core::StartDelay;
use naq_jetstream::{NewJob, PurgeSummary};
use naq_protocol::{JobId, State};

use super::{counts, expect_counts, id, info, name, release, until_file};
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

const TRUE: &str = r#"{"command":"true"}"#;

/// A time long after the test.
fn some_day() -> StartDelay {
    StartDelay {
        due: "2199-01-01T00:00:00Z".parse().expect("a time"),
        is_relative: false,
        is_due: false,
    }
}

/// Enqueues jobs of every kind: `count` each with an id, without one, and delayed.
fn fill(naq: &Naq, queue: &str, count: usize) {
    let broker = naq.client().broker();
    for number in 0..count {
        naq.publish(queue, TRUE);
        let job = NewJob::new(name(queue), TRUE.into());
        naq.block_on(broker.enqueue(job)).expect("it is taken");
        let job = NewJob::with_id(id(&format!("later-{number}")), name(queue), TRUE.into());
        naq.block_on(broker.enqueue(job.delayed(some_day())))
            .expect("it is taken");
    }
}

#[test]
fn purge_leaves_running_jobs_and_they_are_redelivered_after_a_crash() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(3).ack_wait("2s").spawn();
    let long = until_file(&naq, "go").to_string();
    let mut jobs: Vec<JobId> = vec![naq.publish("build", long.clone())];
    naq.wait_running(&jobs[0]);
    // an earlier job that has ended leaves a gap, and others are in between
    naq.assert_jobs_still_run("build");
    jobs.push(naq.enqueue(&["--queue", "build", "--file", &file_of(&naq, &long)]));
    naq.wait_running(&jobs[1]);
    jobs.push(naq.publish("build", long));
    naq.wait_running(&jobs[2]);
    fill(&naq, "build", 20);
    expect_counts(&naq, "build", (40, 3, 20));

    let done = naq.cli(["purge", "build", "--yes"]).run().succeeds();
    assert_eq!(done.stdout, "build: 60 jobs removed, 3 jobs left running\n");
    expect_counts(&naq, "build", (0, 3, 0));
    assert!(!info(&naq, "build").paused);
    let again = naq
        .cli(["purge", "build", "--yes", "--json"])
        .run()
        .succeeds();
    let again: serde_json::Value = serde_json::from_str(&again.stdout).expect("JSON");
    assert_eq!(
        again,
        serde_json::json!({"queue": "build", "action": "purged", "removed": 0, "running": 3})
    );

    drop(worker);
    release(&naq, "go");
    let _next = naq.worker(&["build"]).ack_wait("2s").spawn();
    for job in &jobs {
        let record = naq.wait_ended(job);
        assert_eq!(record.state(), State::Succeeded);
        assert!(record.interrupted_attempts() >= 1, "{record:#?}");
    }
    naq.assert_jobs_still_run("build");
    naq.wait_drained("build");
}

fn file_of(naq: &Naq, envelope: &str) -> String {
    naq.file("job.json", envelope).display().to_string()
}

#[test]
fn purge_removes_all_jobs_of_a_queue_without_running_jobs() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let purge = |queue: &str| {
        let queue = naq.client().queue(queue).expect("a name");
        naq.block_on(queue.purge()).expect("it is purged")
    };
    let all = PurgeSummary {
        removed: 9,
        running: 0,
    };
    // no worker has served it
    naq.add_queue("fresh");
    fill(&naq, "fresh", 3);
    expect_counts(&naq, "fresh", (6, 0, 3));
    assert_eq!(purge("fresh"), all);
    expect_counts(&naq, "fresh", (0, 0, 0));
    // a paused queue stays paused
    naq.add_queue("paused");
    naq.cli(["queue", "pause", "paused"]).run().succeeds();
    let _worker = naq.worker(&["paused"]).spawn();
    fill(&naq, "paused", 3);
    expect_counts(&naq, "paused", (6, 0, 3));
    assert_eq!(purge("paused"), all);
    assert!(info(&naq, "paused").paused);
    naq.cli(["queue", "resume", "paused"]).run().succeeds();
    naq.assert_jobs_still_run("paused");
}

#[test]
fn purge_removes_rerouted_jobs_too() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _plain = naq.worker(&["build"]).spawn();
    for set in ["yes", "no"] {
        let job = format!(r#"{{"command":"true","requires":{{"gpu":"{set}"}}}}"#);
        naq.publish("build", job);
    }
    eventually("rerouted", || {
        super::consumer(&naq, "build", "naq-worker").num_pending == 0
            && counts(&naq, "build") == (2, 0, 0)
    });
    let done = naq.cli(["purge", "build", "--yes"]).run().succeeds();
    assert_eq!(done.stdout, "build: 2 jobs removed\n");
    naq.wait_drained("build");
}

#[test]
fn all_messages_of_one_job_are_removed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let broker = naq.client().broker();
    let (build, job) = (name("build"), id("j"));
    let new = || NewJob::with_id(job.clone(), build.clone(), TRUE.into());
    naq.block_on(broker.enqueue(new())).expect("it is taken");
    naq.block_on(broker.delay_retry(new(), some_day().due, 1))
        .expect("it is taken");
    naq.publish_to("build", "naq.route.build.0af3.j", TRUE.into());
    naq.publish_to("build", "naq.route.build.0af3.other", TRUE.into());
    let bare = naq.publish("build", TRUE);
    assert_eq!(naq.stream_messages("build"), 5);
    let remove = |job: &JobId| {
        naq.block_on(broker.remove_job_messages(&build, job))
            .expect("they are removed")
    };
    assert_eq!(remove(&job), 3);
    assert_eq!(remove(&job), 0);
    assert_eq!(remove(&bare), 1);
    assert_eq!(remove(&bare), 0);
    assert_eq!(naq.stream_messages("build"), 1);
    // the id of a sequence whose message belongs to another job
    let other = naq.publish_to("build", "naq.queue.build.named", TRUE.into());
    assert_eq!(remove(&other), 0);
    assert_eq!(
        naq.block_on(broker.remove_job_messages(&name("nowhere"), &job))
            .expect("there is nothing to remove"),
        0
    );
}

#[test]
fn running_jobs_of_a_removed_queue_are_recorded_and_the_queue_is_recreated() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(2).spawn();
    let long = naq.publish("build", until_file(&naq, "go").to_string());
    naq.wait_running(&long);
    naq.cli(["queue", "remove", "build"])
        .run()
        .exits(2)
        .expect_stderr(&["its 1 job, 1 of them running"]);
    let done = naq
        .cli(["queue", "remove", "build", "--yes"])
        .run()
        .succeeds();
    assert!(
        done.stdout.starts_with("build: removed with 1 job,"),
        "{done:#?}"
    );
    release(&naq, "go");
    assert_eq!(naq.wait_ended(&long).state(), State::Succeeded);
    // the worker that serves the queue has created it again
    eventually("the queue exists again", || {
        naq.block_on(naq.client().list_queues())
            .is_ok_and(|queues| queues.iter().any(|queue| queue.name == name("build")))
    });
    naq.assert_jobs_still_run("build");
}

#[test]
fn purge_under_load_removes_each_job_or_lets_it_end() {
    const JOBS: usize = 600;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _workers = [
        naq.worker(&["build"]).concurrency(3).spawn(),
        naq.worker(&["build"]).concurrency(3).spawn(),
    ];
    let job = r#"{"script":"sleep 0.03"}"#;
    let jobs: Vec<JobId> = (0..JOBS).map(|_| naq.publish("build", job)).collect();
    let queue = naq.client().queue("build").expect("a name");
    let ended = || {
        let is_ended = |job: &&JobId| {
            let (record, _) = naq
                .block_on(naq.client().broker().read_record(job))
                .expect("an answer");
            record.is_some_and(|record| record.state().is_terminal())
        };
        jobs.iter().filter(is_ended).count()
    };
    // while the workers are busy
    naq.wait_ended(&jobs[20]);
    let first = naq.block_on(queue.purge()).expect("it is purged");
    assert!(first.removed > 0, "{first:?}");
    let second = naq.block_on(queue.purge()).expect("it is purged");
    naq.wait_drained("build");
    let removed = usize::try_from(first.removed + second.removed).expect("few");
    // a job's end is recorded before its message is removed
    assert_eq!(ended() + removed, JOBS, "{first:?} {second:?}");
    naq.assert_jobs_still_run("build");
}
