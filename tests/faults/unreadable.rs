//! Stored values that cannot be read: the jobs that need them end with an error that names them, and all
//! other jobs run.

use naq_protocol::{JobId, Reason, State};

use crate::harness::naq::{FollowedCli, Naq, Worker, eventually, id};
use crate::harness::nats::TestServer;

/// A value that naq never writes.
const GARBAGE: &[u8] = b"{\"job_id\":";

fn put(naq: &Naq, subject: &str) {
    naq.publish_to("build", subject, GARBAGE.into());
}

/// A worker whose messages are soon redelivered if it does not acknowledge them.
fn worker(naq: &Naq) -> Worker {
    let options = naq.worker(&["build"]).concurrency(2);
    let worker = options.ack_wait("2s").spawn();
    worker.expect_stderr("streams and buckets are ready");
    worker
}

/// A job that runs until the file `go` exists, in the background of a test.
fn until_go(naq: &Naq, name: &str) {
    let script = format!(
        "until [ -e {}/go ]; do sleep 0.05; done",
        naq.home().display()
    );
    let key = ["-q", "build", "--id", name, "--concurrency-key", "k"];
    naq.enqueue(&[&key[..], &["--", "sh", "-c", &script]].concat());
    naq.wait_running(&id(name));
}

/// Enqueues a job with an id and an option.
fn enqueue(naq: &Naq, name: &str, option: &[&str]) -> JobId {
    let words = ["-q", "build", "--id", name];
    naq.enqueue(&[&words[..], option, &["--", "true"]].concat())
}

fn wait_blocked(naq: &Naq, job: &str) {
    naq.wait_for(&id(job), "waiting", |record| {
        record.state() == State::Waiting
    });
}

#[test]
fn dependents_of_a_job_whose_record_is_unreadable_fail_with_its_name() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = worker(&naq);
    put(&naq, "$KV.naq_results.bad");
    let jobs = ["bad", "bad=failure", "bad=finished"]
        .map(|on| naq.enqueue(&["-q", "build", "--depends-on", on, "--", "true"]));
    for job in &jobs {
        let record = naq.wait_ended(job);
        let error = record.error.clone().unwrap_or_default();
        assert_eq!(
            (record.state(), record.reason()),
            (State::Failed, Some(Reason::Dependency)),
            "{error}"
        );
        let why = "it depends on bad, and the record of bad cannot be read: ";
        assert!(error.starts_with(why), "{error}");
        naq.dead_letter(job);
    }
    naq.wait_drained("build");
}

/// The record becomes unreadable while jobs wait for its end. The reconciler, which finds them, does
/// not stop at another job whose own record is unreadable.
#[test]
fn reconcile_ends_the_wait_for_a_job_whose_record_became_unreadable() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = worker(&naq);
    until_go(&naq, "bad");
    for job in ["first", "second", "lost"] {
        enqueue(&naq, job, &["--depends-on", "bad"]);
        wait_blocked(&naq, job);
    }
    for job in ["bad", "lost"] {
        put(&naq, &format!("$KV.naq_results.{job}"));
    }
    naq.file("go", "");
    let _leader: FollowedCli = naq
        .cli(["scheduler", "--reconcile-interval", "1s"])
        .follow();
    for job in ["first", "second"] {
        let error = naq.wait_ended(&id(job)).error.unwrap();
        assert!(
            error.contains("the record of bad cannot be read"),
            "{error}"
        );
    }
    // a message that nobody acknowledges would be redelivered forever
    naq.wait_drained("build");
    naq.assert_jobs_still_run("build");
}

#[test]
fn jobs_that_need_unreadable_slots_are_refused_with_the_key() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = worker(&naq);
    until_go(&naq, "holder");
    let keyed = |name: &str| enqueue(&naq, name, &["--concurrency-key", "k"]);
    let blocked = keyed("blocked");
    wait_blocked(&naq, "blocked");
    let slots = naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let bucket = jetstream.get_stream("KV_naq_slots").await.unwrap();
        let any = bucket.get_last_raw_message_by_subject("$KV.naq_slots.>");
        any.await.unwrap().subject.to_string()
    });
    put(&naq, &slots);
    naq.file("go", "");
    assert_eq!(naq.wait_ended(&id("holder")).state(), State::Succeeded);
    let later = keyed("later");
    for (job, state) in [(blocked, State::Failed), (later, State::Rejected)] {
        let record = naq.wait_ended(&job);
        let error = record.error.clone().unwrap_or_default();
        assert_eq!(
            (record.state(), record.reason()),
            (state, Some(Reason::Invalid)),
            "{error}"
        );
        assert!(error.contains("the slots of `k` cannot be read"), "{error}");
    }
    naq.wait_drained("build");
    naq.assert_jobs_still_run("build");
}

/// Of the jobs that wait for a slot, one can never be released. The job that had the slot ends all the
/// same, and the next one gets it.
#[test]
fn slot_passes_a_waiting_job_whose_record_is_unreadable() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = worker(&naq);
    until_go(&naq, "holder");
    for name in ["lost", "next"] {
        enqueue(&naq, name, &["--concurrency-key", "k"]);
        wait_blocked(&naq, name);
    }
    put(&naq, "$KV.naq_results.lost");
    naq.file("go", "");
    for name in ["holder", "next"] {
        assert_eq!(naq.wait_ended(&id(name)).state(), State::Succeeded);
    }
    naq.wait_drained("build");
}

/// The message that makes a worker look at a blocked job again is dropped if there is nothing to look at.
#[test]
fn recheck_of_a_job_whose_record_is_unreadable_is_not_repeated() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = worker(&naq);
    let waits = ["--depends-on", "ghost", "--dependency-timeout", "2s"];
    enqueue(&naq, "waits", &waits);
    wait_blocked(&naq, "waits");
    // of the recheck, which is scheduled after the record is written
    naq.wait_for_messages("build", 1);
    put(&naq, "$KV.naq_results.waits");
    worker.expect_stderr("cannot recheck a blocked job");
    eventually("the recheck is gone", || naq.stream_messages("build") == 0);
}
