//! Workers that end by themselves, as those of an autoscaler do.

use std::time::{Duration, Instant};

use naq_protocol::State;

use super::{release, until_file};
use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

#[test]
fn a_worker_exits_after_as_many_jobs_as_it_may_run_and_takes_no_more() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq
        .worker(&["build"])
        .concurrency(4)
        .arg("--exit-after=2")
        .spawn();
    let jobs: Vec<_> = ["go-1", "go-2", "go-3"]
        .iter()
        .map(|file| naq.publish("build", until_file(&naq, file).to_string()))
        .collect();
    for job in &jobs[..2] {
        naq.wait_running(job);
    }
    // it has two free slots, and leaves the third job to others while the first two run
    release(&naq, "go-1");
    assert_eq!(naq.wait_ended(&jobs[0]).state(), State::Succeeded);
    release(&naq, "go-2");
    assert!(worker.wait_exit().success());
    assert_eq!(naq.wait_ended(&jobs[1]).state(), State::Succeeded);
    naq.wait_for_messages("build", 1);
    assert!(
        naq.block_on(naq.client().fetch_result(&jobs[2]))
            .unwrap()
            .is_none()
    );
    release(&naq, "go-3");
    let next = naq.worker(&["build"]).arg("--exit-after=1").spawn();
    assert_eq!(naq.wait_ended(&jobs[2]).state(), State::Succeeded);
    assert!(next.wait_exit().success());
}

#[test]
fn a_worker_exits_once_it_has_been_idle() {
    const IDLE: Duration = Duration::from_millis(700);
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).arg("--exit-when-idle=700ms").spawn();
    // for longer than that, but it has a job
    let job = naq.publish("build", r#"{"command":"sleep","args":[1.5]}"#);
    assert_eq!(naq.wait_ended(&job).state(), State::Succeeded);
    let ended = Instant::now();
    assert!(worker.wait_exit().success());
    assert!(ended.elapsed() > IDLE / 2, "{:?}", ended.elapsed());
}
