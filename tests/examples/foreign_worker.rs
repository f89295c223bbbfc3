//! `examples/foreign-worker`: a worker without naq's code follows docs/worker-protocol.md, so it and naq's
//! worker can serve the same jobs, and each takes over the jobs of the other when that dies.

use std::io::{BufRead, BufReader};

use naq_protocol::{Reason, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{command, example};
use crate::harness::naq::{GuardedChild, Naq, eventually, id, is_process_alive, text};
use crate::harness::nats::TestServer;
use crate::harness::python::python;
use crate::schemas::assert_records_are_valid;

/// A running worker in Python.
struct ForeignWorker {
    process: GuardedChild,
    worker_id: String,
}

impl ForeignWorker {
    /// Starts one and waits until it pulls. `arguments` are a queue, and options.
    fn start(naq: &Naq, arguments: &[&str]) -> ForeignWorker {
        let folder = example("foreign-worker");
        let mut program = command(python("nats-py", &folder.join("requirements.txt")));
        program
            .arg(folder.join("worker.py"))
            .args(arguments)
            .envs(naq.environment())
            .stdout(std::process::Stdio::piped());
        let mut process = GuardedChild::spawn(&mut program);
        let mut line = String::new();
        let mut printed = BufReader::new(process.child().stdout.take().unwrap());
        printed.read_line(&mut line).unwrap();
        std::thread::spawn(move || std::io::copy(&mut printed, &mut std::io::sink()));
        let worker_id = line.trim().rsplit(' ').next().unwrap().to_owned();
        assert!(line.starts_with("serving "), "{line}");
        ForeignWorker { process, worker_id }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.pid()), signal).unwrap();
    }
}

#[test]
fn the_foreign_worker_runs_jobs_next_to_naqs_worker() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    // it creates every stream and consumer, by docs/layout.json
    let foreign = ForeignWorker::start(&naq, &["alone"]);
    naq.cli(["server", "check"]).run().succeeds();
    create_consumer_with_short_ack_wait(&naq, "shared");
    let sharing = ForeignWorker::start(&naq, &["shared", "--others"]);

    let hello = r#"{"command": "sh", "args": ["-c", "echo $NAQ_QUEUE; echo note >&2"]}"#;
    let ended = naq.wait_ended(&naq.publish("alone", hello));
    assert_eq!(ended.state(), State::Succeeded, "{ended:#?}");
    assert_eq!(text(ended.stdout.as_ref()), "alone\n");
    assert_eq!(ended.worker_id.as_ref(), Some(&foreign.worker_id));
    assert!(ended.envelope.is_some() && ended.lease().is_none());

    // what it cannot honour it rejects, and keeps
    let limited = r#"{"command": "true", "limits": {"memory": "64M"}}"#;
    let rejected = naq.wait_ended(&naq.publish("alone", limited));
    assert_eq!(rejected.state(), State::Rejected, "{rejected:#?}");
    assert_eq!(rejected.reason(), Some(Reason::NotAllowed));
    assert_eq!(naq.dead_letter(&rejected.job_id).payload, limited);

    // or leaves to naq's worker, which arrives later
    let left = naq.publish("shared", limited);
    let own = naq.wait_ended(&naq.publish("shared", hello));
    assert_eq!(own.worker_id.as_ref(), Some(&sharing.worker_id));
    let worker = naq.worker(&["shared"]).spawn();
    let left = naq.wait_ended(&left);
    assert_eq!(left.state(), State::Succeeded, "{left:#?}");
    let names = [&foreign.worker_id, &sharing.worker_id];
    assert!(!names.contains(&left.worker_id.as_ref().unwrap()));
    // a job that waits for one that no worker has seen is released by the foreign worker
    let after = [
        "-q",
        "shared",
        "--id",
        "after",
        "--depends-on",
        "first",
        "--",
        "true",
    ];
    naq.enqueue(&after);
    naq.wait_for(&id("after"), "blocked", |record| record.waits().is_some());
    naq.enqueue(&["-q", "alone", "--id", "first", "--", "true"]);
    assert_eq!(naq.wait_ended(&id("after")).state(), State::Succeeded);
    let first = naq.wait_ended(&id("first"));
    assert_eq!(first.worker_id.as_ref(), Some(&foreign.worker_id));

    naq.enqueue(&["-q", "alone", "--id", "long", "--", "sleep", "1000"]);
    naq.wait_running(&id("long"));
    naq.cli(["cancel", "long"]).run().succeeds();
    assert_eq!(naq.wait_ended(&id("long")).state(), State::Cancelled);
    assert_records_are_valid(&naq);
    assert!(worker.stop().success());
    foreign.signal(Signal::SIGTERM);
    let mut foreign = foreign.process;
    eventually("the foreign worker has exited", || {
        foreign.child().try_wait().unwrap().is_some()
    });
}

/// Runs for good in its first attempt, and ends in the second.
const ENDS_WHEN_REPEATED: &str =
    r#"{"command": "sh", "args": ["-c", "test $NAQ_ATTEMPT = 2 || exec sleep 1000; echo again"]}"#;

/// Has a worker create the consumer of a queue whose messages are delivered again after two seconds.
fn create_consumer_with_short_ack_wait(naq: &Naq, queue: &str) {
    let first = naq.worker(&[queue]).ack_wait("2s").spawn();
    // it has the consumer once it has run a job
    naq.assert_jobs_still_run(queue);
    assert!(first.stop().success());
}

#[test]
fn naqs_worker_takes_over_the_job_of_a_foreign_worker_that_died() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    create_consumer_with_short_ack_wait(&naq, "build");
    let foreign = ForeignWorker::start(&naq, &["build"]);
    let job = naq.publish("build", ENDS_WHEN_REPEATED);
    let running = naq.wait_running(&job);
    assert_eq!(running.worker_id.as_ref(), Some(&foreign.worker_id));
    let next = naq.worker(&["build"]);
    let next = next.arg("--takeover-after=6s").spawn();
    foreign.signal(Signal::SIGKILL);
    let ended = naq.wait_ended(&job);
    assert_eq!(ended.state(), State::Succeeded, "{ended:#?}");
    assert_eq!((ended.attempt, ended.crashes), (2, 1), "{ended:#?}");
    assert_eq!(text(ended.stdout.as_ref()), "again\n");
    assert!(ended.fence > running.fence);
    assert_records_are_valid(&naq);
    assert!(next.stop().success());
}

#[test]
fn the_foreign_worker_takes_over_the_job_of_naqs_worker_that_died() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    create_consumer_with_short_ack_wait(&naq, "build");
    let worker = naq.worker(&["build"]).spawn();
    let job = naq.publish("build", ENDS_WHEN_REPEATED);
    let running = naq.wait_running(&job);
    let foreign = ForeignWorker::start(&naq, &["build"]);
    worker.signal(Signal::SIGKILL);
    let ended = naq.wait_ended(&job);
    assert_eq!(ended.state(), State::Succeeded, "{ended:#?}");
    assert_eq!(ended.worker_id.as_ref(), Some(&foreign.worker_id));
    // the dead worker could run several jobs at once, so nobody knows which one was the cause
    let counts = (ended.attempt, ended.crashes, ended.shared_crashes);
    assert_eq!(counts, (2, 0, 1), "{ended:#?}");
    assert!(!ended.suspect && ended.fence > running.fence);
    assert_eq!(text(ended.stdout.as_ref()), "again\n");
    assert!(!is_process_alive(worker.pid()));
    assert_records_are_valid(&naq);
}
