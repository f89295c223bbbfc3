//! Dependencies between jobs.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use naq_jetstream::NewJob;
use naq_protocol::{
    BlockedOn, Dependency, DependencyCondition, Phase, QueueName, Reason, Record, State, Timestamp,
};

use crate::harness::naq::{Naq, eventually, id, text};
use crate::harness::nats::TestServer;

fn push(naq: &Naq, envelopes: impl IntoIterator<Item = (String, serde_json::Value)>) {
    let queue = QueueName::new("default").unwrap();
    naq.block_on(async {
        let mut bulk = naq.client().bulk();
        for (job, envelope) in envelopes {
            let payload = serde_json::to_vec(&envelope).unwrap().into();
            bulk.push(NewJob::with_id(id(&job), queue.clone(), payload))
                .await
                .unwrap();
        }
        bulk.finish().await.unwrap();
    });
}

#[test]
fn job_runs_after_its_dependencies() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let log = naq.home().join("log");
    let say = |word: &str| format!("echo {word} >> {}", log.display());
    // The last job first: its dependency does not exist yet.
    naq.enqueue(&[
        "--id",
        "c",
        "--depends-on",
        "a",
        "--depends-on",
        "b",
        "--",
        "sh",
        "-c",
        &say("c"),
    ]);
    let worker = naq.worker(&["default"]).concurrency(4).spawn();
    naq.wait_for(&id("c"), "waiting", |record| {
        record.state() == State::Waiting
    });
    naq.enqueue(&[
        "--id",
        "b",
        "--depends-on",
        "a",
        "--",
        "sh",
        "-c",
        &say("b"),
    ]);
    naq.wait_for(&id("b"), "waiting", |record| {
        record.state() == State::Waiting
    });
    naq.enqueue(&["--id", "a", "--", "sh", "-c", &say("a")]);
    let record = naq.wait_ended(&id("c"));
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 1));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "a\nb\nc\n");
    naq.wait_drained("default");
    drop(worker);
}

#[test]
fn job_with_an_unsatisfiable_dependency_fails_with_its_dependents() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).concurrency(4).spawn();
    naq.enqueue(&["--id", "third", "--depends-on", "second", "--", "true"]);
    naq.enqueue(&["--id", "second", "--depends-on", "first", "--", "true"]);
    naq.enqueue(&[
        "--id",
        "alarm",
        "--depends-on",
        "first=failure",
        "--",
        "echo",
        "alarm",
    ]);
    naq.enqueue(&[
        "--id",
        "tidy",
        "--depends-on",
        "second=finished",
        "--",
        "echo",
        "tidy",
    ]);
    naq.enqueue(&[
        "--id",
        "calm",
        "--depends-on",
        "third=failure",
        "--depends-on",
        "tidy",
        "--",
        "true",
    ]);
    naq.enqueue(&["--id", "first", "--", "false"]);
    for (job, cause) in [("second", "first"), ("third", "second")] {
        let record = naq.wait_ended(&id(job));
        assert_eq!(
            (record.state(), record.reason(), record.attempt),
            (State::Failed, Some(Reason::Dependency), 0)
        );
        assert!(record.error.unwrap().contains(cause));
        naq.dead_letter(&id(job));
    }
    for job in ["alarm", "tidy", "calm"] {
        assert_eq!(naq.wait_ended(&id(job)).state(), State::Succeeded, "{job}");
    }
    assert_eq!(
        text(naq.wait_ended(&id("alarm")).stdout.as_ref()),
        "alarm\n"
    );
    naq.wait_drained("default");
}

#[test]
fn dependency_that_finished_before_does_not_block() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    naq.enqueue(&["--id", "early", "--", "true"]);
    naq.wait_ended(&id("early"));
    naq.enqueue(&["--id", "late", "--depends-on", "early", "--", "true"]);
    assert_eq!(naq.wait_ended(&id("late")).state(), State::Succeeded);
    naq.enqueue(&[
        "--id",
        "never",
        "--depends-on",
        "early=failure",
        "--",
        "true",
    ]);
    assert_eq!(
        naq.wait_ended(&id("never")).reason(),
        Some(Reason::Dependency)
    );
}

#[test]
fn missing_dependency_fails_the_job_after_its_timeout() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    naq.enqueue(&[
        "--id",
        "lonely",
        "--depends-on",
        "ghost",
        "--dependency-timeout",
        "300ms",
        "--",
        "true",
    ]);
    let record = naq.wait_ended(&id("lonely"));
    assert_eq!(record.reason(), Some(Reason::Dependency));
    let error = record.error.unwrap();
    assert!(
        error.contains("ghost") && error.contains("not enqueued in time"),
        "{error}"
    );
    // The placeholder of the missing job is not shown as a job.
    naq.cli(["status", "ghost"]).run().exits(4);
    naq.wait_drained("default");
}

#[test]
fn circular_dependency_is_detected() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    for (job, on) in [("one", "three"), ("two", "one"), ("three", "two")] {
        naq.enqueue(&[
            "--id",
            job,
            "--depends-on",
            on,
            "--dependency-timeout",
            "500ms",
            "--",
            "true",
        ]);
    }
    let mut circular = 0;
    for job in ["one", "two", "three"] {
        let record = naq.wait_ended(&id(job));
        assert_eq!(record.reason(), Some(Reason::Dependency), "{job}");
        circular += usize::from(record.error.unwrap().contains("itself waits for this job"));
    }
    assert!(circular >= 1);
    naq.wait_drained("default");
}

#[test]
fn queued_dependency_is_waited_for_beyond_the_timeout() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.enqueue(&["--queue", "slow", "--id", "slow-one", "--", "true"]);
    let _worker = naq.worker(&["default"]).spawn();
    naq.enqueue(&[
        "--id",
        "patient",
        "--depends-on",
        "slow-one",
        "--dependency-timeout",
        "300ms",
        "--",
        "true",
    ]);
    let first = naq.wait_for(&id("patient"), "waiting", |record| {
        record.state() == State::Waiting
    });
    let until = first.waits().unwrap().until.unwrap();
    // After the timeout it is rechecked, and the timeout starts again.
    naq.wait_for(&id("patient"), "given more time", |record| {
        record
            .waits()
            .and_then(|waits| waits.until)
            .is_some_and(|next| next > until)
    });
    let _other = naq.worker(&["slow"]).spawn();
    assert_eq!(naq.wait_ended(&id("patient")).state(), State::Succeeded);
}

#[test]
fn fan_and_chain_of_hundreds_of_dependencies_finish() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let fan = 300;
    let job = |after: Vec<String>| serde_json::json!({"command": "true", "depends_on": after});
    let leaves: Vec<String> = (0..fan).map(|at| format!("leaf-{at}")).collect();
    push(&naq, [("join".to_owned(), job(leaves.clone()))]);
    push(
        &naq,
        leaves
            .iter()
            .map(|leaf| (leaf.clone(), job(vec!["root".to_owned()]))),
    );
    let link = |at: usize| format!("link-{at}");
    push(
        &naq,
        (1..100).rev().map(|at| (link(at), job(vec![link(at - 1)]))),
    );
    let _workers = [
        naq.worker(&["default"]).concurrency(4).spawn(),
        naq.worker(&["default"]).concurrency(4).spawn(),
    ];
    naq.wait_for(&id("join"), "waiting", |record| {
        record.state() == State::Waiting
    });
    push(
        &naq,
        [("root".to_owned(), job(vec![])), (link(0), job(vec![]))],
    );
    assert_eq!(naq.wait_ended(&id("join")).state(), State::Succeeded);
    assert_eq!(naq.wait_ended(&id(&link(99))).state(), State::Succeeded);
    naq.wait_drained("default");
    // The server supports a few thousand consumers, so no consumer per job may remain.
    let consumers = || {
        naq.block_on(async {
            let jetstream = async_nats::jetstream::new(naq.nats().clone());
            let index = jetstream.get_stream("KV_naq_dependents").await.unwrap();
            index.cached_info().state.consumer_count
        })
    };
    eventually("no consumer is left", || consumers() == 0);
}

#[test]
fn retry_does_not_resolve_satisfied_dependencies_again() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    naq.enqueue(&["--id", "base", "--", "true"]);
    naq.enqueue(&[
        "--id",
        "top",
        "--depends-on",
        "base",
        "--retries",
        "2",
        "--retry-delay",
        "20ms",
        "--",
        "sh",
        "-c",
        "[ $NAQ_ATTEMPT = 3 ]",
    ]);
    let record = naq.wait_ended(&id("top"));
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 3));
    assert!(record.dependencies_met);
}

#[test]
fn rejected_dependency_releases_its_dependents() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["default"]).spawn();
    naq.enqueue(&["--id", "after", "--depends-on", "broken", "--", "true"]);
    naq.wait_for(&id("after"), "waiting", |record| {
        record.state() == State::Waiting
    });
    naq.publish_to(
        "default",
        "naq.queue.default.broken",
        b"{\"command\":".to_vec(),
    );
    assert_eq!(naq.wait_ended(&id("broken")).state(), State::Rejected);
    assert_eq!(
        naq.wait_ended(&id("after")).reason(),
        Some(Reason::Dependency)
    );
}

#[test]
fn dependency_on_itself_or_listed_twice_is_refused() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["enqueue", "--id", "me", "--depends-on", "me", "--", "true"])
        .run()
        .exits(6)
        .expect_stderr(&["depends_on[0]", "itself"]);
    naq.cli([
        "enqueue",
        "--depends-on",
        "a",
        "--depends-on",
        "a=failure",
        "--",
        "true",
    ])
    .run()
    .exits(6)
    .expect_stderr(&["depends_on[1]", "twice"]);
}

#[test]
fn dependency_that_finished_between_two_checks_is_not_pending() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("default");
    let after = |job: &str| Dependency::new(id(job), DependencyCondition::Success);
    let queue = QueueName::new("default").unwrap();
    let now = Timestamp::from_unix_ms(1_800_000_000_000).unwrap();
    let waits = BlockedOn {
        dependencies: vec![after("left"), after("right")],
        concurrency_key: None,
        since: now,
        until: None,
        unknown: naq_protocol::UnknownFields::default(),
    };
    let mut record = Record::new(id("join"), queue, Phase::Blocked { waits }, now);
    record.envelope = serde_json::from_str(r#"{"command":"true"}"#).ok();
    naq.block_on(async {
        let broker = naq.client().broker();
        // Blocked on both; the first finished before it could know, so nothing releases the job for it.
        let both = [after("left"), after("right")];
        broker.index_dependencies(&id("join"), &both).await.unwrap();
        broker
            .index_dependencies(&id("join"), &both[1..])
            .await
            .unwrap();
        broker.write_record(&record, 0, None).await.unwrap();
        broker
            .release_dependents(&id("right"), State::Succeeded)
            .await
            .unwrap();
        assert!(
            broker
                .list_dependents(&id("right"))
                .await
                .unwrap()
                .is_empty()
        );
    });
    assert_eq!(naq.stream_messages("default"), 1);
}

/// The trace context is kept across all messages of a job: the first one, that of a retry, and the one
/// that releases it.
#[test]
fn trace_context_survives_blocking_and_retries() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let envelope = serde_json::json!({
        "job_id": "traced", "depends_on": ["first"], "max_retries": 1, "retry_delay": "20ms",
        "script": "echo $NAQ_ATTEMPT $TRACEPARENT; [ $NAQ_ATTEMPT = 2 ]",
    });
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("traceparent", TRACE);
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let payload = envelope.to_string().into();
        let sent = jetstream
            .publish_with_headers("naq.queue.build", headers, payload)
            .await;
        sent.unwrap().await.unwrap();
    });
    let job = id("traced");
    naq.wait_for(&job, "waiting", |record| record.state() == State::Waiting);
    naq.enqueue(&["--queue", "build", "--id", "first", "--", "true"]);
    let record = naq.wait_ended(&job);
    assert_eq!(text(record.stdout.as_ref()), format!("2 {TRACE}\n"));
    assert_eq!(record.traceparent.as_deref(), Some(TRACE));
}
