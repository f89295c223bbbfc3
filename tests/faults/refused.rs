//! Writes that NATS will never accept, and jobs that a worker refuses half-way: the job
//! ends with an explanation, and does not run or wait forever.

use naq_client::OutputStream;
use naq_protocol::{Envelope, Reason, State};

use crate::harness::naq::{Naq, id};
use crate::harness::nats::{TestOptions, TestServer};

const MESSAGE_BYTES_MAX: usize = 16 << 10;

fn with_small_messages() -> TestServer {
    TestServer::with(&TestOptions {
        max_payload_bytes: Some(MESSAGE_BYTES_MAX as u64),
        ..TestOptions::default()
    })
}

fn job_with_labels_of(bytes: usize) -> Vec<u8> {
    let label = "x".repeat(bytes);
    serde_json::json!({"command": "pwd", "labels": {"l": label}})
        .to_string()
        .into()
}

#[test]
fn job_whose_claim_does_not_fit_a_message_is_rejected() {
    let server = with_small_messages();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let payload = job_with_labels_of(MESSAGE_BYTES_MAX - 300);
    naq.publish_to("build", "naq.queue.build.large", payload.clone());
    let record = naq.wait_ended(&id("large"));
    assert_eq!(record.state(), State::Rejected);
    let error = record.error.unwrap();
    assert!(error.contains("cannot be recorded"), "{error}");
    assert_eq!(naq.dead_letter(&id("large")).payload, payload);
    naq.wait_drained("build");
    naq.assert_jobs_still_run("build");
}

#[test]
fn job_whose_outcome_does_not_fit_a_message_fails() {
    let server = with_small_messages();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    // a claim of the same length, but for the labels
    let probe = r#"{"script":"sleep 1","labels":{"l":""}}"#;
    naq.publish_to("build", "naq.queue.build.probe", probe.into());
    let claim = serde_json::to_string(&naq.wait_running(&id("probe"))).unwrap();
    assert_eq!(naq.wait_ended(&id("probe")).state(), State::Succeeded);
    // headers, and a few bytes to spare: less than the outcome adds
    let payload = job_with_labels_of(MESSAGE_BYTES_MAX - claim.len() - 80);
    naq.publish_to("build", "naq.queue.build.large", payload.clone());
    let record = naq.wait_ended(&id("large"));
    assert_eq!(
        (record.state(), record.reason(), record.attempt),
        (State::Failed, Some(Reason::Unstorable), 1)
    );
    let error = record.error.unwrap();
    assert!(error.contains("could not be stored"), "{error}");
    assert_eq!(naq.dead_letter(&id("large")).payload, payload);
    naq.wait_drained("build");
    naq.assert_jobs_still_run("build");
}

/// The worker that runs the first attempt permits what the next one refuses.
#[test]
fn retry_that_another_worker_refuses_fails_the_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let permissive = naq.worker(&["build"]).arg("--allow-env").arg("PYTHONPATH");
    let permissive = permissive.spawn();
    let payload =
        r#"{"command":"false","env":{"PYTHONPATH":"/x"},"max_retries":1,"retry_delay":2}"#;
    naq.publish_to("build", "naq.queue.build.mine", payload.into());
    naq.wait_for(&id("mine"), "retrying", |record| {
        record.state() == State::Retrying
    });
    assert!(permissive.stop().success());
    let _strict = naq.worker(&["build"]).spawn();
    let record = naq.wait_ended(&id("mine"));
    assert_eq!(
        (record.state(), record.reason(), record.attempt),
        (State::Failed, Some(Reason::NotAllowed), 1)
    );
    assert!(record.error.unwrap().contains("PYTHONPATH"));
    naq.wait_drained("build");
    naq.assert_jobs_still_run("build");
}

/// A worker of a later version has blocked the job on a condition that this version does not know.
#[test]
fn blocked_job_with_a_condition_of_a_later_version_fails_with_an_explanation() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    // the buckets exist once a job has been blocked
    naq.enqueue(&["-q", "build", "--id", "one", "--", "true"]);
    let two = ["-q", "build", "--depends-on", "one", "--", "true"];
    naq.wait_ended(&naq.enqueue(&two));
    naq.enqueue(&["-q", "build", "--id", "slow", "--in", "3s", "--", "true"]);
    let three = naq.enqueue(&["-q", "build", "--depends-on", "slow", "--", "true"]);
    naq.wait_for(&three, "waiting", |record| record.state() == State::Waiting);
    let envelope = r#"{"command":"true","depends_on":[{"job":"slow","on":"started"}]}"#;
    let record = serde_json::json!({
        "job_id": "later",
        "queue": "build",
        "state": "waiting",
        "attempt": 0,
        "enqueue_time": "2026-12-24T16:00:00.000Z",
        "waits": {
            "dependencies": [{"job": "slow", "on": "started"}],
            "since": "2026-12-24T16:00:00.000Z",
        },
        "envelope_digest": Envelope::digest(envelope.as_bytes()),
    });
    let mut record = record.to_string();
    assert_eq!(record.pop(), Some('}'));
    // as text: the digest is of these bytes
    record.push_str(&format!(r#","envelope":{envelope}}}"#));
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let edge = r#"{"on":"started","is_only":true}"#;
        for (subject, value) in [
            ("$KV.naq_results.later", record),
            ("$KV.naq_dependents.slow.later", edge.to_owned()),
        ] {
            let sent = jetstream.publish(subject, value.into()).await.unwrap();
            sent.await.unwrap();
        }
    });
    let record = naq.wait_ended(&id("later"));
    assert_eq!(
        (record.state(), record.reason()),
        (State::Failed, Some(Reason::Invalid))
    );
    let error = record.error.unwrap();
    assert!(error.contains("started"), "{error}");
    assert_eq!(naq.wait_ended(&three).state(), State::Succeeded);
    naq.wait_drained("build");
}

/// A rejection whose record does not fit a message at first, or never will, is not repeated forever.
#[test]
fn rejection_whose_record_does_not_fit_a_message_ends_the_job() {
    let server = with_small_messages();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).ack_wait("2s").spawn();
    worker.expect_stderr("streams and buckets are ready");
    // refused by this worker, although another one has run it
    let envelope = |name: &str| {
        let stdin = "x".repeat(MESSAGE_BYTES_MAX / 4 - 200);
        serde_json::json!({"job_id": name, "command": "true", "env": {"LD_PRELOAD": "x"}, "stdin": stdin})
            .to_string()
    };
    let retrying = |name: &str, field: &str, value: serde_json::Value| {
        let mut record = serde_json::json!({
            "job_id": name,
            "queue": "build",
            "state": "retrying",
            "reason": "exit",
            "attempt": 1,
            "enqueue_time": "2026-01-01T00:00:00.000Z",
            "finished_at": "2026-01-01T00:00:01.000Z",
            "next_attempt_at": "2026-01-01T00:00:02.000Z",
            "envelope_digest": Envelope::digest(envelope(name).as_bytes()),
        });
        record[field] = value;
        let subject = format!("$KV.naq_results.{name}");
        naq.publish_to("build", &subject, record.to_string().into());
        let subject = format!("naq.queue.build.{name}");
        naq.publish_to("build", &subject, envelope(name).into());
    };
    let large = "o".repeat(MESSAGE_BYTES_MAX - 2_000);
    let output = serde_json::json!({"text": large, "bytes": large.len()});
    retrying("output", "stdout", output);
    retrying("labels", "labels", serde_json::json!({"l": large}));
    // a field of a later version, which this one never drops
    retrying("later", "later", serde_json::json!(large));
    naq.wait_drained("build");
    for name in ["output", "labels", "later"] {
        let letter = naq.dead_letter(&id(name));
        assert!(letter.error.unwrap().contains("env.LD_PRELOAD"), "{name}");
        assert_eq!(letter.payload, envelope(name));
    }
    let [_, record] = ["labels", "output"].map(|name| {
        let record = naq.wait_ended(&id(name));
        assert_eq!(
            (record.state(), record.reason()),
            (State::Failed, Some(Reason::NotAllowed))
        );
        record
    });
    let stored = record.stdout.clone().unwrap();
    let read = naq.client().read_output(&record, OutputStream::Stdout);
    assert_eq!(naq.block_on(read).unwrap().into_bytes().len(), large.len());
    assert!(stored.object.is_some(), "{stored:?}");
    naq.assert_jobs_still_run("build");
}
