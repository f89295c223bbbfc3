//! Jobs that expire: what the record says decides, and at once.

use std::time::Duration;

use naq_protocol::{JobId, Reason, Record, State, Timestamp};

use crate::harness::naq::{Naq, eventually, id};
use crate::harness::nats::TestServer;

/// Longer than a test waits for anything: a job that ends does not wait for a redelivery.
const ACK_WAIT: &str = "10m";

#[expect(clippy::disallowed_methods, reason = "tests are at the edge")]
fn from_now(seconds: u64) -> Timestamp {
    Timestamp(chrono::Utc::now() + Duration::from_secs(seconds))
}

/// A started job is seen through. The message of a retry is new, so the worker might claim the job
/// without reading its record, and find it expired.
#[test]
fn retry_after_the_job_has_expired_runs_when_it_is_due() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn();
    let envelope = serde_json::json!({
        "command": "sh",
        "args": ["-c", "[ $NAQ_ATTEMPT = 2 ]"],
        "max_retries": 1,
        "retry_delay": 3,
        "retry_jitter": false,
        "expires_at": from_now(2),
    });
    naq.publish_to("build", "naq.queue.build.mine", envelope.to_string().into());
    let record = naq.wait_ended(&id("mine"));
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 2));
    naq.wait_drained("build");
}

/// Others that depend on a job write a placeholder before the job has a record: a worker that ends
/// the job without reading that meets a conflict.
#[test]
fn expired_job_that_others_depend_on_ends_at_its_first_delivery() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn();
    let dependent = r#"{"command":"true","depends_on":["first"]}"#;
    naq.publish_to("build", "naq.queue.build.second", dependent.into());
    naq.wait_for(&id("second"), "waiting", |record| {
        record.state() == State::Waiting
    });
    let expired = r#"{"command":"true","expires_at":"2020-01-01T00:00:00Z"}"#;
    naq.publish_to("build", "naq.queue.build.first", expired.into());
    assert_eq!(naq.wait_ended(&id("first")).state(), State::Expired);
    let record = naq.wait_ended(&id("second"));
    assert_eq!(record.reason(), Some(Reason::Dependency));
    naq.wait_drained("build");
}

/// A job whose command waits for the file `go`, and that another client ends while it runs. Returns the job, and what
/// its record said before.
fn ended_by_another_client(naq: &Naq) -> (JobId, Record) {
    let script = "while [ ! -e go ]; do sleep 0.02; done";
    let job = naq.publish("build", serde_json::json!({"script": script}).to_string());
    let record = naq.wait_running(&job);
    let ended = serde_json::json!({
        "job_id": job,
        "queue": "build",
        "state": "succeeded",
        "attempt": 1,
        "enqueue_time": record.enqueue_time,
        "finished_at": from_now(0),
        "envelope_digest": record.envelope_digest,
    });
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let subject = format!("$KV.naq_results.{job}");
        let sent = jetstream.publish(subject, ended.to_string().into()).await;
        sent.expect("it is sent").await.expect("it is stored");
    });
    (job, record)
}

#[test]
fn outcome_that_meets_an_ended_record_gives_the_message_back_at_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn();
    let (job, _) = ended_by_another_client(&naq);
    std::fs::write(naq.home().join("go"), "").unwrap();
    naq.wait_drained("build");
    assert_eq!(naq.wait_ended(&job).state(), State::Succeeded);
}

/// The worker compares a running job with its record when it renews the lease, and when it is asked to.
#[test]
fn running_job_whose_record_has_ended_is_stopped_and_gives_the_message_back_at_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).ack_wait(ACK_WAIT).spawn();
    let (job, record) = ended_by_another_client(&naq);
    let subject = format!("naq.control.worker.{}", record.lease().unwrap().worker_id);
    let request = serde_json::json!({"cancel": job}).to_string();
    // the command never ends by itself
    eventually("the message is acknowledged", || {
        let asking = naq.nats().publish(subject.clone(), request.clone().into());
        naq.block_on(asking).unwrap();
        naq.block_on(naq.client().broker().queue_messages(&record.queue))
            .unwrap()
            == 0
    });
    assert_eq!(naq.wait_ended(&job).state(), State::Succeeded);
    assert!(worker.stop().success());
}
