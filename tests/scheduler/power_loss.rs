//! What a power cut leaves to a scheduler: see `faults::power_loss`.

use naq_protocol::{JobId, ScheduleStatus, State};
use serde_json::json;

use super::{change, progressed, put, schedule, scheduler, stored};
use crate::harness::naq::{Naq, eventually, id};
use crate::harness::nats::TestServer;

/// The sequence that a consumer delivered last. `None` while the consumer does not exist.
fn delivered(naq: &Naq, consumer: &str) -> Option<u64> {
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let stream = jetstream.get_stream("naq_queue_build").await.unwrap();
        let info = stream.consumer_info(consumer).await.ok()?;
        Some(info.delivered.stream_sequence)
    })
}

/// nats-server then refuses to create a consumer of this name for ever.
#[test]
fn jobs_run_although_the_stored_states_of_their_consumers_are_lost_in_a_power_cut() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(2);
    let worker = worker.arg("--label=gpu=yes").spawn();
    let run_all = |round: usize| {
        for (name, requires) in [("plain", json!({})), ("routed", json!({"gpu": "yes"}))] {
            let name = format!("{name}-{round}");
            let job = json!({"job_id": name, "command": "true", "requires": requires});
            let words = ["enqueue", "-q", "build", "--file", "-"];
            let enqueued = naq.cli(words).stdin(format!("{job}\n"));
            enqueued.run().succeeds();
            assert_eq!(naq.wait_ended(&id(&name)).state(), State::Succeeded);
        }
    };
    run_all(0);
    naq.wait_drained("build");
    server.kill9();
    server.erase_consumer_states("naq_queue_build");
    server.restart();
    run_all(1);
    let log = worker.log();
    assert!(log.contains("the consumer is created in memory"), "{log}");
    // a consumer in memory ends with its server
    server.kill9();
    server.restart();
    run_all(2);
    assert!(worker.stop().success());
}

/// A consumer that another program or an earlier naq recreated.
#[test]
fn reconcile_recreates_a_consumer_that_is_past_the_end_of_its_stream() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let worker = naq.worker(&["build"]).concurrency(2).spawn();
    let jobs: Vec<JobId> = (0..20)
        .map(|_| naq.publish("build", r#"{"command": "true"}"#))
        .collect();
    for job in &jobs {
        naq.wait_ended(job);
    }
    naq.wait_drained("build");
    assert!(worker.stop().success());
    naq.cli(["queue", "set", "build", "--max-running", "3"])
        .run()
        .succeeds();
    let settings = || {
        let mut info: serde_json::Value = naq.block_on(async {
            let jetstream = async_nats::jetstream::new(naq.nats().clone());
            let subject = "CONSUMER.INFO.naq_queue_build.naq-worker";
            jetstream.request(subject, &json!({})).await.unwrap()
        });
        info["config"].take()
    };
    let mut config = settings();
    config["description"] = "of an operator".into();
    config["pause_until"] = "2100-01-01T00:00:00Z".into();
    server.stop_gracefully();
    server.forget_stream("naq_queue_build");
    server.restart();
    naq.add_queue("build");
    naq.block_on(async {
        let request = json!({"stream_name": "naq_queue_build", "config": config});
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let subject = "CONSUMER.DURABLE.CREATE.naq_queue_build.naq-worker";
        let _: serde_json::Value = jetstream.request(subject, &request).await.unwrap();
    });
    assert_eq!(
        delivered(&naq, "naq-worker"),
        Some(20),
        "the state survived"
    );
    let before = settings();
    assert_eq!(before["description"], "of an operator");
    naq.publish("build", r#"{"job_id": "after", "command": "true"}"#);
    let leader = scheduler(&naq, &["--reconcile-interval", "1s"]);
    leader.expect_stderr("consumer is past the end of its stream");
    eventually("the consumer starts from the first message", || {
        delivered(&naq, "naq-worker") == Some(0)
    });
    assert_eq!(settings(), before);
    let shown = naq.cli(["queue", "list", "--json"]).run().succeeds().stdout;
    assert!(shown.contains(r#""max_running":3"#), "{shown}");
    let _worker = naq.worker(&["build"]).spawn();
    naq.cli(["queue", "resume", "build"]).run().succeeds();
    assert_eq!(naq.wait_ended(&id("after")).state(), State::Succeeded);
}

/// Messages that a consumer has skipped, because the server took them for those of a lost stream, or that
/// came back while their records did not. Nothing says that the jobs have run.
#[test]
fn reconcile_runs_the_jobs_of_skipped_messages_that_have_no_record() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let script = format!("echo x >> {}", naq.home().join("ran").display());
    let envelope = json!({"job_id": "a", "script": script});
    naq.publish("build", envelope.to_string());
    server.stop_gracefully();
    let messages = server.messages("naq_queue_build");
    server.restart();
    let worker = naq.worker(&["build"]).spawn();
    assert_eq!(naq.wait_ended(&id("a")).state(), State::Succeeded);
    naq.wait_drained("build");
    server.stop_gracefully();
    server.restore_messages("naq_queue_build", &messages);
    server.forget_stream("KV_naq_results");
    server.restart();
    eventually("the message exists again", || {
        naq.block_on(naq.client().broker().read_record(&id("a")))
            .is_ok_and(|(record, _)| record.is_none())
            && naq.stream_messages("build") == 1
    });
    let leader = scheduler(&naq, &["--reconcile-interval", "1s"]);
    leader.expect_stderr("orphaned message, republishing");
    assert_eq!(naq.wait_ended(&id("a")).state(), State::Succeeded);
    naq.wait_drained("build");
    assert_eq!(
        std::fs::read_to_string(naq.home().join("ran")).unwrap(),
        "x\nx\n"
    );
    assert!(worker.stop().success());
}

/// The bucket of schedules loses its last writes under a leader that lives on, whose memory has them.
#[test]
fn a_leader_stores_progress_and_sees_changes_after_the_schedules_lost_their_last_writes() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(4).spawn();
    put(&naq, &schedule("often", json!({"every": 0.2})));
    let leader = scheduler(&naq, &[]);
    progressed(&naq, "often", "runs", |progress| progress.runs > 2);
    server.stop_gracefully();
    let early = server.messages("KV_naq_scheduled_jobs");
    server.restart();
    let before = progressed(&naq, "often", "runs on", |progress| progress.runs > 40);
    server.stop_gracefully();
    server.restore_messages("KV_naq_scheduled_jobs", &early);
    server.restart();
    leader.expect_stderr("the server has lost changes of schedules");
    let runs = before.progress.runs;
    progressed(&naq, "often", "stored again", |progress| {
        progress.runs > runs
    });
    change(&naq, "often", |often| often.status = ScheduleStatus::Paused);
    eventually("the pause is seen", || {
        stored(&naq, "often").progress.inactive
    });
    assert!(leader.stop().success());
}
