//! The reconciler: what crashes left behind, and the leader repairs.

use futures_util::TryStreamExt;
use naq_protocol::{Dependency, Envelope, JobId, Reason, Record, State};
use serde_json::json;

use super::now;
use crate::harness::naq::{FollowedCli, Naq, eventually, id};
use crate::harness::nats::TestServer;

/// A leader that reconciles often; what is a second old counts as left behind.
fn reconciling_leader(naq: &Naq) -> FollowedCli {
    super::scheduler(naq, &["--reconcile-interval", "1s"])
}

/// The number of keys of the index of blocked jobs. The index of unsuccessful jobs is in the same bucket.
fn keys(naq: &Naq) -> usize {
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let bucket = jetstream.get_stream("KV_naq_dependents").await.unwrap();
        let subjects = bucket.info_with_subjects("$KV.naq_dependents.>").await;
        let subjects: Vec<(String, usize)> = subjects.unwrap().try_collect().await.unwrap();
        let is_blocked = |subject: &str| !subject.starts_with("$KV.naq_dependents.unsuccessful.");
        let blocked = subjects.iter().filter(|(subject, _)| is_blocked(subject));
        blocked.count()
    })
}

/// A record of a job in the queue `build`.
fn record(job: &JobId, state: State) -> Record {
    stored_record(json!({
        "job_id": job, "queue": "build", "state": state, "enqueue_time": now(),
        "attempt": u32::from(state == State::Running),
    }))
}

/// A record of a running job in the queue `build`, whose worker holds the lease by this message.
fn leased(job: &JobId, worker: &str, sequence: u64) -> Record {
    stored_record(json!({
        "job_id": job, "queue": "build", "state": "running", "enqueue_time": now(), "attempt": 1,
        "lease": {"worker_id": worker, "sequence": sequence, "delivery": 1},
    }))
}

fn stored_record(fields: serde_json::Value) -> Record {
    serde_json::from_value(fields).unwrap()
}

/// The worker that ended the dependency died before it released the job.
#[test]
fn reconcile_releases_a_blocked_job_that_was_not_released() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    naq.publish(
        "build",
        r#"{"job_id": "waiting", "command": "true", "depends_on": ["first"]}"#,
    );
    naq.wait_for(&id("waiting"), "waiting", |record| {
        record.state() == State::Waiting
    });
    naq.wait_for(&id("first"), "awaited", |record| record.placeholder);
    // the end of the first job, written by a worker that died before it released the dependent
    naq.block_on(async {
        let broker = naq.client().broker();
        let (_, revision) = broker.read_record(&id("first")).await.unwrap();
        let mut ended = record(&id("first"), State::Succeeded);
        ended.has_dependents = true;
        broker.write_record(&ended, revision, None).await.unwrap();
    });
    let leader = reconciling_leader(&naq);
    assert_eq!(naq.wait_ended(&id("waiting")).state(), State::Succeeded);
    leader.expect_stderr("reconciled what");
}

#[test]
fn reconcile_removes_index_keys_of_ended_jobs_only() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    naq.publish(
        "build",
        r#"{"job_id": "waits", "command": "true", "depends_on": ["ghost", "other"]}"#,
    );
    naq.wait_for(&id("waits"), "waiting", |record| {
        record.state() == State::Waiting
    });
    naq.publish("build", r#"{"job_id": "over", "command": "true"}"#);
    naq.wait_ended(&id("over"));
    eventually("four keys", || keys(&naq) == 4);
    let on = |job: &str| Dependency::new(id(job), naq_protocol::DependencyCondition::default());
    naq.block_on(async {
        let broker = naq.client().broker();
        let open = [on("ghost"), on("other")];
        broker.index_dependencies(&id("over"), &open).await.unwrap();
        broker.index_slot_waiter("key", &id("over")).await.unwrap();
    });
    assert_eq!(keys(&naq), 9);
    let _leader = reconciling_leader(&naq);
    eventually("the other keys are removed", || keys(&naq) == 4);
    let waits = naq.block_on(naq.client().fetch_job(&id("waits"))).unwrap();
    assert_eq!(waits.state(), State::Waiting);
}

#[test]
fn reconcile_offers_a_free_slot_to_a_waiting_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let first = naq.worker(&["build"]).spawn();
    let job = |name: &str| {
        format!(
            r#"{{"job_id": "{name}", "command": "sleep", "args": ["600"], "concurrency_key": "k"}}"#
        )
    };
    naq.publish("build", job("holds"));
    naq.wait_running(&id("holds"));
    naq.publish("build", job("waits"));
    naq.wait_for(&id("waits"), "waiting", |record| {
        record.state() == State::Waiting
    });
    // the slot is released, but not the job that waits for it
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let bucket = jetstream.get_stream("KV_naq_slots").await.unwrap();
        bucket.purge().await.unwrap();
    });
    let _leader = reconciling_leader(&naq);
    naq.wait_running(&id("waits"));
    drop(first);
}

/// The server has lost a job's message, and its worker is dead. If the record has the envelope, the
/// job runs again; if not, it fails.
#[test]
fn reconcile_republishes_or_ends_a_job_without_a_message() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let _worker = naq.worker(&["build"]).spawn();
    naq.assert_jobs_still_run("build");
    naq.block_on(async {
        let broker = naq.client().broker();
        for (name, envelope) in [("known", true), ("unknown", false)] {
            let mut lost = leased(&id(name), "dead", 1_000);
            let command = Envelope::command("true", [] as [&str; 0]);
            lost.envelope = envelope.then(|| serde_json::value::to_raw_value(&command).unwrap());
            broker.write_record(&lost, 0, None).await.unwrap();
        }
    });
    let _leader = reconciling_leader(&naq);
    let known = naq.wait_ended(&id("known"));
    assert_eq!((known.state(), known.attempt), (State::Succeeded, 2));
    let unknown = naq.wait_ended(&id("unknown"));
    assert_eq!(
        (unknown.state(), unknown.reason()),
        (State::Failed, Some(Reason::Lost))
    );
}

#[test]
fn reconcile_leaves_leased_and_delayed_jobs_alone() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let running = naq.publish("build", r#"{"command": "sleep", "args": ["600"]}"#);
    let retrying = naq.publish(
        "build",
        r#"{"command": "false", "max_retries": 1, "retry_delay": "1h", "retry_jitter": false}"#,
    );
    naq.wait_running(&running);
    naq.wait_for(&retrying, "retrying", |record| {
        record.state() == State::Retrying
    });
    let leader = reconciling_leader(&naq);
    // the leader has reconciled once it has ended this job
    let mut lost = record(&id("lost"), State::Running);
    lost.worker_id = Some("dead".to_owned());
    naq.block_on(naq.client().broker().write_record(&lost, 0, None))
        .unwrap();
    naq.wait_ended(&id("lost"));
    leader.expect_stderr("reconciled what");
    for (job, state) in [(running, State::Running), (retrying, State::Retrying)] {
        let record = naq.block_on(naq.client().fetch_job(&job)).unwrap();
        assert_eq!((record.state(), record.attempt), (state, 1));
    }
}

/// A server that was killed can have messages again that it had removed, and still treat them as
/// acknowledged: it delivers them to no consumer.
#[test]
fn reconcile_removes_orphaned_messages_and_runs_jobs_that_need_them() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let jobs = ["ended", "forgotten", "hung"];
    for job in jobs {
        let script = format!("echo $NAQ_ATTEMPT >> {}", naq.home().join(job).display());
        let envelope = serde_json::json!({"job_id": job, "script": script});
        naq.publish("build", envelope.to_string());
    }
    server.stop_gracefully();
    let messages = server.messages("naq_queue_build");
    server.restart();
    let worker = naq.worker(&["build"]).spawn();
    for job in jobs {
        assert_eq!(naq.wait_ended(&id(job)).state(), State::Succeeded);
    }
    naq.wait_drained("build");
    assert!(worker.stop().success());
    // a job whose record has expired, and a job whose worker has died
    naq.block_on(async {
        let broker = naq.client().broker();
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let records = jetstream.get_key_value("naq_results").await.unwrap();
        records.purge("forgotten").await.unwrap();
        let (_, revision) = broker.read_record(&id("hung")).await.unwrap();
        let hung = leased(&id("hung"), "gone", 3);
        broker.write_record(&hung, revision, None).await.unwrap();
    });
    server.stop_gracefully();
    server.restore_messages("naq_queue_build", &messages);
    server.restart();
    eventually("the messages exist again", || {
        naq.stream_messages("build") == 3
    });
    let _worker = naq.worker(&["build"]).spawn();
    naq.assert_jobs_still_run("build");
    naq.wait_for_messages("build", 3);

    let leader = reconciling_leader(&naq);
    let record = naq.wait_ended(&id("hung"));
    assert_eq!(
        (record.state(), record.attempt, record.shared_crashes),
        (State::Succeeded, 2, 1)
    );
    naq.wait_drained("build");
    leader.expect_stderr("reconciled what");
    let ran = |job: &str| std::fs::read_to_string(naq.home().join(job)).unwrap();
    assert_eq!(ran("ended"), "1\n");
    assert_eq!(ran("forgotten"), "1\n");
    assert_eq!(ran("hung"), "1\n2\n");
}
