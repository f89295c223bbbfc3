//! A full store: the producer gets an error, nothing is evicted, and outcomes wait for room.

use std::time::Duration;

use naq_protocol::{JobId, State};
use nix::sys::signal::Signal;

use crate::harness::naq::{Naq, Worker, eventually};
use crate::harness::nats::{TestOptions, TestServer};

const STORE_BYTES: u64 = 6 << 20;

fn small() -> TestServer {
    TestServer::with(&TestOptions {
        max_file_store_bytes: Some(STORE_BYTES),
        ..TestOptions::default()
    })
}

#[test]
fn a_full_store_is_an_error_for_the_producer_and_evicts_nothing() {
    let server = small();
    let naq = Naq::new(&server);
    let taken = naq.fill_storage();
    assert!(taken.len() > 5);
    let depth = naq.stream_messages("filler");
    assert_eq!(depth, taken.len() as u64);
    // also in bulk, and the reported number of enqueued jobs is exact
    let lines = format!(r#"{{"command":"true","meta":"{}"}}"#, "x".repeat(2_000)) + "\n";
    let done = naq
        .cli(["enqueue", "-q", "filler", "--file", "-"])
        .stdin(lines.repeat(50))
        .run()
        .exits(7)
        .expect_stderr(&["storage is full", " enqueued"]);
    let more = done.stdout.lines().count() as u64;
    assert_eq!(naq.stream_messages("filler"), depth + more);
    for job in &taken {
        let job = JobId::new(job).unwrap();
        let record = naq.block_on(naq.client().fetch_job(&job)).unwrap();
        assert_eq!(record.state(), State::Queued);
    }
}

/// A job that has run, and whose outcome finds no room in the store.
fn outcome_without_room(naq: &Naq) -> (Worker, JobId) {
    let worker = naq.worker(&["build"]).concurrency(1).spawn();
    let script = "echo x >> ran; while [ ! -e go ]; do sleep 0.05; done; head -c 60000 /dev/zero | tr '\\0' x";
    let job = naq.publish("build", serde_json::json!({"script": script}).to_string());
    let ran = naq.home().join("ran");
    eventually("its command runs", || ran.exists());
    naq.fill_storage();
    std::fs::write(naq.home().join("go"), "").unwrap();
    worker.expect_stderr("cannot record the outcome yet");
    (worker, job)
}

#[test]
fn an_outcome_that_finds_a_full_store_is_written_later_without_a_rerun() {
    let server = small();
    let naq = Naq::new(&server);
    let (worker, job) = outcome_without_room(&naq);
    naq.cli(["purge", "--yes", "filler"]).run().succeeds();
    let record = naq.wait_ended(&job);
    assert_eq!(
        (record.state(), record.attempt, record.crashes),
        (State::Succeeded, 1, 0)
    );
    assert_eq!(record.stdout.unwrap().bytes, 60_000);
    assert_eq!(
        std::fs::read_to_string(naq.home().join("ran")).unwrap(),
        "x\n"
    );
    naq.assert_jobs_still_run("build");
    assert!(worker.stop().success());
}

#[test]
fn a_worker_with_an_outcome_that_finds_a_full_store_still_stops() {
    let server = small();
    let naq = Naq::new(&server);
    let (worker, job) = outcome_without_room(&naq);
    worker.signal(Signal::SIGTERM);
    worker.expect_stderr("draining");
    worker.signal(Signal::SIGTERM);
    worker.wait_exit();
    let (record, _) = naq
        .block_on(naq.client().broker().read_record(&job))
        .unwrap();
    assert_eq!(record.unwrap().state(), State::Running);
}

/// A worker whose outcomes find no room takes no further jobs: it could not record them either, and
/// would keep them from other workers.
#[test]
fn a_worker_whose_outcomes_find_a_full_store_takes_no_further_jobs() {
    let server = small();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let script = "echo $1 >> ran; while [ ! -e $1 ]; do sleep 0.05; done";
    let jobs: Vec<_> = (1..=20)
        .map(|nth| {
            let job = serde_json::json!({ "script": script, "args": [format!("go{nth}")] });
            naq.publish("build", job.to_string())
        })
        .collect();
    let worker = naq.worker(&["build"]).concurrency(2).spawn();
    let ran = || std::fs::read_to_string(naq.home().join("ran")).unwrap_or_default();
    eventually("both run", || ran().lines().count() == 2);
    naq.fill_storage();
    let release = |nth: usize| std::fs::write(naq.home().join(format!("go{nth}")), "").unwrap();
    release(1);
    worker.expect_stderr("cannot record the outcome yet");
    std::thread::sleep(Duration::from_secs(1));
    release(2);
    let refused = "cannot record the outcome yet, retrying: the NATS storage is full";
    eventually("both outcomes are refused", || {
        let log = worker.log();
        let of = |job: &JobId| {
            let has_job = format!("job_id={job}");
            (log.lines()).any(|line| line.contains(refused) && line.contains(&has_job))
        };
        of(&jobs[0]) && of(&jobs[1])
    });
    std::thread::sleep(Duration::from_secs(2));
    let unacked = naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let stream = jetstream.get_stream("naq_queue_build").await.unwrap();
        let consumer = stream.consumer_info("naq-worker").await.unwrap();
        consumer.num_ack_pending
    });
    // the two, and one that was requested before the first refusal
    assert!(unacked <= 3, "it has taken {unacked} jobs");
    for nth in 3..=20 {
        release(nth);
    }
    naq.cli(["purge", "--yes", "filler"]).run().succeeds();
    for job in &jobs {
        assert_eq!(naq.wait_ended(job).state(), State::Succeeded);
    }
    assert!(worker.stop().success());
}
