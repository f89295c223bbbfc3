//! Outages of NATS that are longer than `ack_wait`: a job keeps its retries, and never runs twice
//! at once.

use std::path::Path;
use std::time::Duration;

use naq_protocol::{JobId, QueueName, Record, State};
use nix::sys::signal::Signal;

use crate::harness::naq::{Naq, Worker, eventually, is_process_alive};
use crate::harness::nats::TestServer;
use crate::harness::proxy::{Link, Proxy};

const ACK_WAIT: Duration = Duration::from_secs(2);

/// A job that appends when it began, notes all the time that it lives, and waits for a file.
fn noting(naq: &Naq, id: &str, max_retries: u32) -> JobId {
    let script = "echo $$ > pid; echo $NAQ_FENCE $(date +%s%N) >> runs
        while [ ! -e go ]; do date +%s%N >> alive.$NAQ_FENCE; sleep 0.02; done; echo well";
    let job = serde_json::json!({ "script": script, "max_retries": max_retries });
    let payload = job.to_string().into_bytes();
    naq.publish_to("build", &format!("naq.queue.build.{id}"), payload);
    crate::harness::naq::id(id)
}

/// When each run began and when it was last seen alive, in nanoseconds since the epoch.
fn runs(folder: &Path) -> Vec<(u64, u64)> {
    let text = std::fs::read_to_string(folder.join("runs")).unwrap_or_default();
    text.lines()
        .map(|line| {
            let (fence, began) = line.split_once(' ').unwrap();
            let began = began.parse().unwrap();
            let alive = std::fs::read_to_string(folder.join(format!("alive.{fence}")));
            // a process that was killed may have left half a line
            let times = alive.unwrap_or_default();
            let last = times.lines().rfind(|line| line.len() == 19);
            (began, last.map_or(began, |time| time.parse().unwrap()))
        })
        .collect()
}

/// Asserts that each run was dead before the next one began.
#[track_caller]
fn assert_no_overlap(folder: &Path) {
    let runs = runs(folder);
    for pair in runs.windows(2) {
        let overlap_ms = pair[0].1.saturating_sub(pair[1].0) / 1_000_000;
        assert!(
            pair[0].1 < pair[1].0,
            "two runs at once for {overlap_ms} ms: {runs:?}"
        );
    }
}

fn has_begun(naq: &Naq, count: usize) {
    eventually("the job runs", || runs(naq.home()).len() == count);
}

fn worker(naq: &Naq, url: &str) -> Worker {
    worker_with(naq, url, 2)
}

fn worker_with(naq: &Naq, url: &str, slots: usize) -> Worker {
    let worker = naq.worker(&["build"]).with_host_pids().concurrency(slots);
    let ack_wait = format!("{}ms", ACK_WAIT.as_millis());
    worker.ack_wait(&ack_wait).env("NAQ_NATS_URL", url).spawn()
}

fn finish(naq: &Naq, job: &JobId) -> Record {
    std::fs::write(naq.home().join("go"), "").unwrap();
    let record = naq.wait_ended(job);
    naq.wait_drained("build");
    record
}

fn pid(naq: &Naq) -> i32 {
    let text = std::fs::read_to_string(naq.home().join("pid")).unwrap();
    text.trim().parse().unwrap()
}

fn is_running(naq: &Naq) -> bool {
    is_process_alive(pid(naq))
}

/// Three outages during one job, none of which its worker survives with its lease.
fn three_outages(link: Link) {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let mut proxy = Proxy::start(server.port());
    let worker = worker(&naq, &proxy.url());
    let job = noting(&naq, "j", 5);
    for outage in 1..=3 {
        has_begun(&naq, outage as usize);
        proxy.set(link);
        eventually("the job is stopped", || !is_running(&naq));
        worker.expect_stderr("lease lost");
        std::thread::sleep(ACK_WAIT);
        proxy.set(Link::Open);
        naq.wait_for(&job, "started again or ended", |record| {
            record.state().is_terminal() || record.attempt > outage
        });
    }
    let record = finish(&naq, &job);
    assert_eq!(
        (record.state(), record.crashes, record.lost_leases),
        (State::Succeeded, 0, 3),
        "{record:#?}"
    );
    assert!(record.interruptions.iter().all(|one| !one.crashed));
    assert_no_overlap(naq.home());
    assert!(worker.stop().success());
}

#[test]
fn three_outages_longer_than_ack_wait_count_no_crash_when_the_network_is_silent() {
    three_outages(Link::Silent);
}

#[test]
fn three_outages_longer_than_ack_wait_count_no_crash_when_connections_are_reset() {
    three_outages(Link::Reset);
}

#[test]
fn three_outages_longer_than_ack_wait_count_no_crash_when_replies_are_lost() {
    three_outages(Link::ToServerOnly);
}

/// A server on this machine that refuses connections is down for everybody: the job continues.
#[test]
fn a_job_continues_through_three_kills_of_its_server_longer_than_ack_wait() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = worker(&naq, server.url());
    let job = noting(&naq, "j", 5);
    for _outage in 0..3 {
        has_begun(&naq, 1);
        server.kill9();
        std::thread::sleep(ACK_WAIT * 2);
        assert!(is_running(&naq));
        server.restart();
        // and the server has the word of it before the next outage
        naq.wait_running(&job);
    }
    let record = finish(&naq, &job);
    assert_eq!(
        (
            record.state(),
            record.attempt,
            record.crashes,
            record.lost_leases
        ),
        (State::Succeeded, 1, 0, 0),
        "{record:#?}"
    );
    assert_eq!(runs(naq.home()).len(), 1);
    assert!(worker.stop().success());
}

/// The outcome of a job that ended during the outage is recorded after it, and the job does not run
/// again.
#[test]
fn an_outcome_outlives_an_outage_longer_than_ack_wait() {
    // what was sent during the outage arrives after it, or is lost with the connection
    for link in [Link::Silent, Link::Reset] {
        let server = TestServer::start();
        let naq = Naq::new(&server);
        let mut proxy = Proxy::start(server.port());
        let worker = worker(&naq, &proxy.url());
        let job = noting(&naq, "j", 0);
        has_begun(&naq, 1);
        proxy.set(Link::Silent);
        std::fs::write(naq.home().join("go"), "").unwrap();
        eventually("the job has ended", || !is_running(&naq));
        // past the lease, and past the time-out of the request that was to store the outcome
        std::thread::sleep(ACK_WAIT * 4);
        proxy.set(link);
        proxy.set(Link::Open);
        let record = naq.wait_ended(&job);
        assert_eq!(
            (record.state(), record.attempt, record.crashes),
            (State::Succeeded, 1, 0),
            "{link:?} {record:#?}"
        );
        assert_eq!(runs(naq.home()).len(), 1);
        naq.wait_drained("build");
        assert!(worker.stop().success());
    }
}

const GRACE: Duration = Duration::from_secs(6);

/// A worker with a grace for jobs with `overlap_ok`.
fn worker_with_grace(naq: &Naq, url: &str) -> Worker {
    let grace = format!("--outage-grace={}s", GRACE.as_secs());
    let worker = naq
        .worker(&["build"])
        .with_host_pids()
        .concurrency(2)
        .arg(&grace);
    let ack_wait = format!("{}ms", ACK_WAIT.as_millis());
    worker.ack_wait(&ack_wait).env("NAQ_NATS_URL", url).spawn()
}

/// Enqueues a job that notes all the time that it lives, and returns its id.
fn alive(naq: &Naq, id: &str, options: &[&str]) -> JobId {
    let script = format!(
        "echo $NAQ_ATTEMPT >> begun.{id}; until [ -e go ]; do sleep 0.02; date +%s%N > alive.{id}.$NAQ_ATTEMPT; done"
    );
    let fixed = ["--queue", "build", "--id", id];
    naq.enqueue(&[&fixed[..], options, &["--", "sh", "-c", &script]].concat())
}

/// Whether an attempt of such a job has lived within the last half second.
fn lives(naq: &Naq, id: &str, attempt: u32) -> bool {
    let file = naq.home().join(format!("alive.{id}.{attempt}"));
    let changed = std::fs::metadata(file).and_then(|file| file.modified());
    changed.is_ok_and(|at| at.elapsed().unwrap_or_default() < Duration::from_millis(500))
}

/// Of two jobs on a worker that is cut off, the one with `overlap_ok` continues, and the other one
/// is killed when its lease ends.
#[test]
fn a_job_that_bears_an_overlap_outlives_its_lease_in_an_outage() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let mut proxy = Proxy::start(server.port());
    let worker = worker_with_grace(&naq, &proxy.url());
    let spared = alive(&naq, "spared", &["--overlap-ok"]);
    let plain = alive(&naq, "plain", &[]);
    eventually("both run", || {
        lives(&naq, "spared", 1) && lives(&naq, "plain", 1)
    });
    proxy.set(Link::Silent);
    std::thread::sleep(ACK_WAIT * 2);
    eventually("the one that may overlap lives on", || {
        lives(&naq, "spared", 1)
    });
    assert!(!lives(&naq, "plain", 1));
    worker.expect_stderr("the job has overlap_ok");
    proxy.set(Link::Open);
    naq.wait_for(&plain, "started again", |record| record.attempt == 2);
    std::fs::write(naq.home().join("go"), "").unwrap();
    let records = [&spared, &plain].map(|job| naq.wait_ended(job));
    let ends = records.map(|record| {
        assert_eq!(
            (record.state(), record.crashes),
            (State::Succeeded, 0),
            "{record:#?}"
        );
        (record.attempt, record.lost_leases)
    });
    assert_eq!(ends, [(1, 0), (2, 1)]);
    naq.wait_drained("build");
    assert!(worker.stop().success());
}

/// An overlap ends with the grace, and the outcome is that of the later attempt.
#[test]
fn the_overlap_of_two_attempts_ends_with_the_outage_grace() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let mut proxy = Proxy::start(server.port());
    let first = worker_with_grace(&naq, &proxy.url());
    let spared = alive(&naq, "spared", &["--overlap-ok"]);
    eventually("it runs", || lives(&naq, "spared", 1));
    // it is frozen at once: its spawner has to end the job
    first.signal(Signal::SIGSTOP);
    proxy.set(Link::Silent);
    let cut_at = std::time::Instant::now();
    let second = naq
        .worker(&["build"])
        .with_host_pids()
        .concurrency(2)
        .ack_wait("2s")
        .arg("--takeover-after=6s")
        .spawn();
    std::thread::sleep((ACK_WAIT + GRACE / 2).saturating_sub(cut_at.elapsed()));
    eventually("it lives during the grace", || lives(&naq, "spared", 1));
    std::thread::sleep(
        (ACK_WAIT + GRACE).saturating_sub(cut_at.elapsed()) + Duration::from_millis(600),
    );
    assert!(!lives(&naq, "spared", 1), "it lives after the grace");
    eventually("the other worker has taken over", || {
        lives(&naq, "spared", 2)
    });
    first.signal(Signal::SIGCONT);
    proxy.set(Link::Open);
    first.expect_stderr("lease lost");
    std::fs::write(naq.home().join("go"), "").unwrap();
    let record = naq.wait_ended(&spared);
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 2));
    naq.wait_drained("build");
    assert!(first.stop().success());
    assert!(second.stop().success());
}

/// The spawner ends the job of a stopped worker, which cannot.
#[test]
fn a_job_of_a_stopped_worker_is_dead_before_its_message_is_redelivered() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = worker(&naq, server.url());
    let job = noting(&naq, "j", 0);
    has_begun(&naq, 1);
    worker.signal(Signal::SIGSTOP);
    std::thread::sleep(ACK_WAIT);
    assert!(
        !is_running(&naq),
        "it lives when its message is redelivered"
    );
    worker.signal(Signal::SIGCONT);
    has_begun(&naq, 2);
    let record = finish(&naq, &job);
    assert_eq!(
        (record.state(), record.crashes, record.lost_leases),
        (State::Succeeded, 0, 1),
        "{record:#?}"
    );
    assert!(worker.stop().success());
}

/// A worker that is cut off right after a delivery has stopped its job before another worker gets
/// the message, whenever that was between two renewals.
#[test]
fn a_worker_cut_off_after_a_delivery_stops_its_job_before_the_redelivery() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let mut proxy = Proxy::start(server.port());
    // without a free slot, so that the server does not redeliver to it
    let first = worker_with(&naq, &proxy.url(), 1);
    // it has been connected for long enough to take over at once
    let second = worker(&naq, server.url());
    std::thread::sleep(Duration::from_secs(10));
    second.signal(Signal::SIGSTOP);
    for nth in 0..2_u64 {
        for file in ["runs", "pid", "go"] {
            let _ = std::fs::remove_file(naq.home().join(file));
        }
        // at several phases of the worker's renewals
        std::thread::sleep(Duration::from_millis(330 * nth));
        let job = noting(&naq, &format!("j{nth}"), 0);
        has_begun(&naq, 1);
        proxy.set(Link::Silent);
        second.signal(Signal::SIGCONT);
        has_begun(&naq, 2);
        let record = finish(&naq, &job);
        assert_eq!(record.state(), State::Succeeded);
        assert_no_overlap(naq.home());
        second.signal(Signal::SIGSTOP);
        proxy.set(Link::Open);
        first.expect_stderr("lease lost");
    }
    second.signal(Signal::SIGCONT);
    assert!(first.stop().success());
    assert!(second.stop().success());
}

/// After an outage for all, the message goes to the worker that asks first. It leaves the job to
/// the worker that runs it, although that one reconnects seconds later.
#[test]
fn a_worker_that_reconnects_first_leaves_the_job_to_the_one_that_runs_it() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let mut proxy = Proxy::start(server.port());
    let holder = worker(&naq, &proxy.url());
    let job = noting(&naq, "j", 0);
    has_begun(&naq, 1);
    let asker = worker(&naq, server.url());
    server.kill9();
    proxy.set(Link::Refused);
    std::thread::sleep(ACK_WAIT * 2);
    server.restart();
    // the asker has connected and got the message by then
    std::thread::sleep(Duration::from_millis(3_500));
    proxy.set(Link::Open);
    std::thread::sleep(Duration::from_secs(12));
    let record = finish(&naq, &job);
    assert_eq!(
        (record.state(), record.attempt, record.crashes),
        (State::Succeeded, 1, 0),
        "{record:#?}"
    );
    assert_eq!(runs(naq.home()).len(), 1);
    asker.expect_stderr("waiting for the worker that holds the lease");
    assert!(holder.stop().success());
    assert!(asker.stop().success());
}

/// A worker that was away for longer than a lease confirms its leases as soon as it is back, and
/// not when the next renewal is due.
#[test]
fn a_reconnected_worker_confirms_its_leases_first() {
    // Renewed every 10 seconds. A renewal that was sent during the outage is given up after 5, and a
    // refused connection extends a lease by 4: without more, it ends before the renewal after that.
    const ACK_WAIT: &str = "30s";
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn();
    let started = std::time::Instant::now();
    let sleep_until = |ms| {
        std::thread::sleep(Duration::from_millis(ms).saturating_sub(started.elapsed()));
    };
    let job = noting(&naq, "j", 0);
    has_begun(&naq, 1);
    server.kill9();
    sleep_until(35_200);
    server.restart();
    sleep_until(39_800);
    assert!(is_running(&naq));
    let record = finish(&naq, &job);
    assert_eq!(
        (record.state(), record.attempt, record.lost_leases),
        (State::Succeeded, 1, 0),
        "{record:#?}"
    );
    assert!(worker.stop().success());
}

/// A worker that does not come back after an outage has crashed.
#[test]
fn a_job_of_a_worker_that_died_in_an_outage_is_taken_over_after_it() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let holder = worker(&naq, server.url());
    let job = noting(&naq, "j", 0);
    has_begun(&naq, 1);
    let other = worker(&naq, server.url());
    server.kill9();
    holder.signal(Signal::SIGKILL);
    std::thread::sleep(ACK_WAIT * 2);
    server.restart();
    has_begun(&naq, 2);
    let record = finish(&naq, &job);
    assert_eq!(
        (record.state(), record.attempt, record.shared_crashes),
        (State::Succeeded, 2, 1),
        "{record:#?}"
    );
    assert!(record.interruptions.iter().all(|one| one.crashed));
    assert!(other.stop().success());
}

/// Removes the queue's stream and makes it again, as `nats stream rm` and the next enqueue do.
fn recreate_queue(naq: &Naq) {
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        jetstream.delete_stream("naq_queue_build").await.unwrap();
        let queue = QueueName::new("build").unwrap();
        naq.client().broker().ensure_queue(&queue).await.unwrap();
    });
}

/// The first message of a stream that was made again has the sequence of the first message of the
/// stream before: the acknowledgement of that one must not remove it.
#[test]
fn an_acknowledgement_of_a_removed_stream_leaves_the_new_one_alone() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(1).spawn();
    let job = noting(&naq, "old", 0);
    has_begun(&naq, 1);
    std::thread::sleep(Duration::from_secs(2));
    recreate_queue(&naq);
    let next = naq.publish_to(
        "build",
        "naq.queue.build.new",
        br#"{"command":"echo","args":["new"]}"#.to_vec(),
    );
    assert_eq!(next.as_str(), "build-seq-1");
    std::fs::write(naq.home().join("go"), "").unwrap();
    assert_eq!(naq.wait_ended(&job).state(), State::Succeeded);
    let record = naq.wait_ended(&crate::harness::naq::id("new"));
    assert_eq!(record.state(), State::Succeeded);
    naq.wait_drained("build");
    assert!(worker.stop().success());
}

/// The same where the new message reaches the worker that still has the old one.
#[test]
fn a_new_message_under_the_sequence_of_a_held_one_is_a_job_of_its_own() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(2).spawn();
    let job = noting(&naq, "old", 0);
    has_begun(&naq, 1);
    recreate_queue(&naq);
    let id = naq.enqueue(&["-q", "build", "--", "echo", "new"]);
    let record = naq.wait_ended(&id);
    assert_eq!(record.state(), State::Succeeded);
    std::fs::write(naq.home().join("go"), "").unwrap();
    assert_eq!(naq.wait_ended(&job).state(), State::Succeeded);
    naq.wait_drained("build");
    assert!(worker.stop().success());
}

/// A crash limit of its own, and the record lists the crashes.
#[test]
fn the_limit_of_worker_crashes_is_a_setting() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let job = noting(&naq, "j", 0);
    for crash in 1..=2 {
        let worker = naq
            .worker(&["build"])
            .concurrency(1)
            .ack_wait("2s")
            .arg("--max-worker-crashes=2")
            .spawn();
        if crash == 1 {
            has_begun(&naq, crash);
        } else {
            naq.wait_for(&job, "claimed again", |record| record.attempt == 2);
        }
        worker.signal(Signal::SIGKILL);
        worker.wait_exit();
    }
    let worker = naq.worker(&["build"]).arg("--max-worker-crashes=2").spawn();
    let record = naq.wait_ended(&job);
    assert_eq!((record.state(), record.crashes), (State::Failed, 2));
    assert_eq!(record.interruptions.len(), 2);
    assert!(record.interruptions.iter().all(|one| one.crashed));
    assert!(worker.stop().success());
}

/// A producer that sets no id gets one from the place of its message. In a stream that was made
/// again, that is the id of an ended job.
#[test]
fn a_message_without_an_id_in_a_new_stream_is_not_taken_for_an_ended_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(1).spawn();
    let job = br#"{"script":"echo x >> ran"}"#;
    let ran = || std::fs::read_to_string(naq.home().join("ran")).unwrap_or_default();
    let first = naq.publish("build", job.to_vec());
    naq.wait_ended(&first);
    naq.wait_drained("build");
    recreate_queue(&naq);
    assert_eq!(naq.publish("build", job.to_vec()), first);
    naq.wait_drained("build");
    assert_eq!(ran(), "x\nx\n");
    worker.expect_stderr("the job gets another one");
    assert!(worker.stop().success());
}
