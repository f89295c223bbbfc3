//! Jobs that require labels of their worker.

use std::collections::BTreeMap;

use naq_jetstream::label_route_key;
use naq_protocol::{JobId, QueueName, Record, State};
use nix::sys::signal::Signal;

use super::{consumer, counts, expect_counts, id, release, until_file};
use crate::harness::naq::{Naq, Worker, eventually, text};
use crate::harness::nats::TestServer;

fn spawn(naq: &Naq, name: &str, labels: &[&str]) -> Worker {
    spawn_with(naq, "30s", name, labels)
}

/// A worker whose leases expire soon after its death.
fn spawn_brief(naq: &Naq, name: &str, labels: &[&str]) -> Worker {
    spawn_with(naq, "2s", name, labels)
}

fn spawn_with(naq: &Naq, ack_wait: &str, name: &str, labels: &[&str]) -> Worker {
    let mut worker = naq
        .worker(&["build"])
        .concurrency(2)
        .ack_wait(ack_wait)
        .arg("--name")
        .arg(name);
    for label in labels {
        worker = worker.arg("--label").arg(label);
    }
    worker.spawn()
}

/// A job that prints its attempt, and requires labels.
fn requiring(labels: &[(&str, &str)]) -> String {
    let mut envelope = serde_json::json!({"script": "echo $NAQ_ATTEMPT"});
    envelope["requires"] = set(labels).into_iter().collect();
    envelope.to_string()
}

fn set(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// The name of the worker that ran a job.
fn ran_on(naq: &Naq, record: &Record) -> String {
    let workers = naq
        .block_on(naq.client().list_workers())
        .expect("an answer");
    workers
        .into_iter()
        .find(|worker| Some(&worker.worker_id) == record.worker_id.as_ref())
        .map(|worker| worker.name)
        .expect("its worker runs")
}

/// Waits until this many jobs of the queue have been rerouted, and none is left in the queue itself.
fn wait_until_rerouted(naq: &Naq, count: u64) {
    eventually("rerouted", || {
        let main = consumer(naq, "build", "naq-worker");
        main.num_pending == 0 && main.num_ack_pending == 0 && counts(naq, "build").0 == count
    });
}

#[test]
fn label_routing_runs_jobs_on_workers_with_the_labels() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _plain = spawn(&naq, "plain", &[]);
    let _gpu = spawn(&naq, "gpu", &["gpu=yes", "zone=a"]);
    let _other = spawn(&naq, "other", &["gpu=no"]);
    let jobs: Vec<JobId> = (0..12)
        .map(|_| {
            let echo = ["--", "echo", "ran"];
            naq.enqueue(&[&["--queue", "build", "--require", "gpu=yes"][..], &echo].concat())
        })
        .collect();
    for job in &jobs {
        let record = naq.wait_ended(job);
        assert_eq!((record.state(), record.attempt), (State::Succeeded, 1));
        assert_eq!(ran_on(&naq, &record), "gpu");
        assert_eq!(text(record.stdout.as_ref()), "ran\n");
    }
    naq.assert_jobs_still_run("build");
    naq.wait_drained("build");
}

/// One worker serves as many sets as the queue's stream has room for, and not just the first few hundred.
#[test]
fn many_sets_of_labels_are_served_by_one_worker() {
    const SETS: u64 = 270;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let plain = spawn(&naq, "plain", &[]);
    let labels: Vec<String> = (0..SETS).map(|at| format!("set-{at}=yes")).collect();
    let jobs: Vec<String> = (0..SETS)
        .map(|at| requiring(&[(&format!("set-{at}"), "yes")]))
        .collect();
    naq.file("jobs.ndjson", jobs.join("\n"));
    naq.cli(["enqueue", "--queue", "build", "--file", "jobs.ndjson"])
        .run()
        .succeeds();
    wait_until_rerouted(&naq, SETS);
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let _labelled = spawn(&naq, "labelled", &labels);
    naq.wait_drained("build");
    plain.stop();
}

#[test]
fn label_routing_waits_visibly_for_a_worker_with_the_labels() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _plain = spawn(&naq, "plain", &[]);
    naq.publish_to(
        "build",
        "naq.queue.build.fast",
        requiring(&[("zone", "a"), ("gpu", "yes")]).into(),
    );
    let both = id("fast");
    let ssd = naq.publish("build", requiring(&[("disk", "ssd")]));
    wait_until_rerouted(&naq, 2);
    // each was delivered once and rerouted once; nothing circulates
    for _ in 0..3 {
        naq.assert_jobs_still_run("build");
    }
    let main = consumer(&naq, "build", "naq-worker");
    assert_eq!(main.delivered.consumer_sequence, 2 + 3);
    naq.wait_for_messages("build", 2);
    for job in [&both, &ssd] {
        let (record, _) = naq
            .block_on(naq.client().broker().read_record(job))
            .expect("an answer");
        assert!(record.is_none(), "{record:#?}");
    }
    let shown = naq.cli(["status", ssd.as_str()]).run().succeeds().stdout;
    for words in [
        "queued",
        "requires        disk=ssd",
        "no worker of queue `build`",
    ] {
        assert!(shown.contains(words), "no {words:?} in {shown}");
    }

    let _ssd = spawn(&naq, "ssd", &["disk=ssd", "gpu=yes"]);
    let record = naq.wait_ended(&ssd);
    assert_eq!(ran_on(&naq, &record), "ssd");
    expect_counts(&naq, "build", (1, 0, 0));
    // half of the required labels are not enough
    let shown = naq.cli(["status", "fast"]).run().succeeds().stdout;
    assert!(shown.contains("no worker of queue `build`"), "{shown}");

    let _gpu = spawn(&naq, "gpu", &["gpu=yes", "zone=a", "more=1"]);
    let record = naq.wait_ended(&both);
    assert_eq!(ran_on(&naq, &record), "gpu");
    assert_eq!(record.attempt, 1);
    naq.wait_drained("build");
}

#[test]
fn label_routes_registered_later_are_served() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let _plain = spawn(&naq, "plain", &[]);
    let _all = spawn(&naq, "all", &["a=1", "b=2", "c=3"]);
    let run_all = |count: usize| {
        for labels in [
            &[("a", "1")][..],
            &[("b", "2")],
            &[("a", "1"), ("c", "3")],
            &[("c", "3")],
        ]
        .into_iter()
        .take(count)
        {
            // more than one, so that some are rerouted by the other worker
            let jobs: Vec<JobId> = (0..6)
                .map(|_| naq.publish("build", requiring(labels)))
                .collect();
            for job in &jobs {
                let record = naq.wait_ended(job);
                assert_eq!(ran_on(&naq, &record), "all");
            }
        }
    };
    run_all(3);
    server.restart();
    run_all(4);
    naq.wait_drained("build");
}

#[test]
fn rerouted_jobs_survive_a_server_restart() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let plain = spawn(&naq, "plain", &[]);
    let job = naq.publish("build", requiring(&[("gpu", "yes")]));
    wait_until_rerouted(&naq, 1);
    assert!(plain.stop().success());
    server.restart();
    let _gpu = spawn(&naq, "gpu", &["gpu=yes"]);
    assert_eq!(naq.wait_ended(&job).attempt, 1);
}

#[test]
fn redelivery_of_a_rerouted_job_goes_to_another_worker_with_the_labels() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _plain = spawn_brief(&naq, "plain", &[]);
    let mut long = until_file(&naq, "go");
    long["requires"] = serde_json::json!({"gpu": "yes"});
    let job = naq.publish("build", long.to_string());
    wait_until_rerouted(&naq, 1);
    let first = spawn_brief(&naq, "first", &["gpu=yes"]);
    naq.wait_running(&job);
    let _second = spawn_brief(&naq, "second", &["gpu=yes"]);
    first.signal(Signal::SIGKILL);
    let record = naq.wait_for(&job, "taken over", |record| {
        record.state() == State::Running && record.interrupted_attempts() >= 1
    });
    assert_eq!(ran_on(&naq, &record), "second");
    release(&naq, "go");
    let record = naq.wait_ended(&job);
    assert_eq!(record.state(), State::Succeeded);
    assert_eq!(record.attempt, record.interrupted_attempts() + 1);
    naq.wait_drained("build");
}

#[test]
fn redelivery_after_a_crash_reroutes_the_job_with_its_crash_count() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    // this worker gets the job straight from the queue
    let gpu = spawn_brief(&naq, "gpu", &["gpu=yes"]);
    let mut long = until_file(&naq, "go");
    long["requires"] = serde_json::json!({"gpu": "yes"});
    let job = naq.publish("build", long.to_string());
    naq.wait_running(&job);
    gpu.signal(Signal::SIGKILL);
    gpu.wait_exit();
    let _plain = spawn_brief(&naq, "plain", &[]);
    let record = naq.wait_for(&job, "rerouted", |record| record.state() == State::Queued);
    assert_eq!((record.attempt, record.shared_crashes), (1, 1));
    assert!(record.suspect);
    assert!(record.lease().is_none());
    wait_until_rerouted(&naq, 1);
    release(&naq, "go");
    let _next = spawn_brief(&naq, "next", &["gpu=yes"]);
    let record = naq.wait_ended(&job);
    assert_eq!(
        (record.state(), record.attempt, record.shared_crashes),
        (State::Succeeded, 2, 1)
    );
    naq.wait_drained("build");
}

/// A worker that reroutes a job is suspended before it acknowledges, and does so at last, when another
/// has the same message.
#[test]
fn a_late_reroute_does_not_take_the_job_from_the_worker_that_runs_it() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let still = naq
        .worker(&["build"])
        .ack_wait("2s")
        .env("FAILPOINTS", "reroute.published=sleep(6000)")
        .spawn();
    let labels = [("gpu", "yes")];
    let mut long = until_file(&naq, "go");
    long["requires"] = set(&labels).into_iter().collect();
    let job = naq.publish("build", long.to_string());
    naq.wait_for_messages("build", 2);
    // rerouted jobs are not delivered for now
    let queue = QueueName::new("build").expect("a name");
    let route_consumer = naq
        .block_on(async {
            let (broker, key) = (naq.client().broker(), label_route_key(&set(&labels)));
            broker.ensure_route_consumer(&queue, &key).await
        })
        .expect("a consumer");
    let pause_until = |time: &str| {
        let request = serde_json::json!({"pause_until": time}).to_string();
        let subject = format!("$JS.API.CONSUMER.PAUSE.naq_queue_build.{route_consumer}");
        naq.block_on(naq.nats().request(subject, request.into()))
            .expect("an answer");
    };
    pause_until("2100-01-01T00:00:00Z");
    // once that worker's lease expires, the message is redelivered to a worker with the labels
    let first = spawn_brief(&naq, "first", &["gpu=yes"]);
    let original = || naq.block_on(naq.client().broker().payload_at(&queue, 1, &job));
    eventually("redelivered", || {
        let record = naq.block_on(naq.client().fetch_job(&job)).expect("a job");
        record.state() == State::Running || original().expect("an answer").is_none()
    });
    pause_until("2000-01-01T00:00:00Z");
    naq.wait_running(&job);
    naq.wait_for_messages("build", 1);
    // which is after it has continued
    assert!(still.stop().success());
    first.signal(Signal::SIGKILL);
    first.wait_exit();
    release(&naq, "go");
    let _next = spawn_brief(&naq, "next", &["gpu=yes"]);
    let record = naq.wait_ended(&job);
    assert_eq!(
        (record.state(), record.interrupted_attempts()),
        (State::Succeeded, 1)
    );
    naq.wait_drained("build");
}

#[test]
fn a_retry_is_rerouted_again() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _plain = spawn(&naq, "plain", &[]);
    let _gpu = spawn(&naq, "gpu", &["gpu=yes"]);
    let envelope = serde_json::json!({
        "script": "echo $NAQ_ATTEMPT; [ $NAQ_ATTEMPT = 4 ]",
        "requires": {"gpu": "yes"}, "max_retries": 3, "retry_delay": "20ms",
    });
    let jobs: Vec<JobId> = (0..4)
        .map(|_| naq.publish("build", envelope.to_string()))
        .collect();
    for job in &jobs {
        let record = naq.wait_ended(job);
        assert_eq!((record.state(), record.attempt), (State::Succeeded, 4));
        assert_eq!(ran_on(&naq, &record), "gpu");
    }
    naq.wait_drained("build");
}

#[test]
fn rerouted_job_runs_although_its_dependencys_record_has_expired() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _plain = spawn(&naq, "plain", &[]);
    let first = naq.publish("build", until_file(&naq, "go").to_string());
    naq.wait_running(&first);
    let envelope = serde_json::json!({
        "command": "true", "depends_on": [first], "requires": {"gpu": "yes"},
    });
    let job = naq.publish("build", envelope.to_string());
    naq.wait_for(&job, "waiting", |record| record.state() == State::Waiting);
    release(&naq, "go");
    naq.wait_ended(&first);
    let record = naq.wait_for(&job, "rerouted", |record| record.state() == State::Queued);
    assert_eq!((record.attempt, record.dependencies_met), (0, true));
    wait_until_rerouted(&naq, 1);
    naq.block_on(async {
        let records = async_nats::jetstream::new(naq.nats().clone())
            .get_key_value("naq_results")
            .await
            .expect("the bucket exists");
        records.purge(first.as_str()).await.expect("it is removed");
    });
    let _gpu = spawn(&naq, "gpu", &["gpu=yes"]);
    assert_eq!(naq.wait_ended(&job).state(), State::Succeeded);
}

#[test]
fn concurrency_slot_is_acquired_by_the_worker_that_runs_the_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _plain = spawn_brief(&naq, "plain", &[]);
    let mut long = until_file(&naq, "go");
    long["requires"] = serde_json::json!({"gpu": "yes"});
    long["concurrency_key"] = "one".into();
    let jobs: Vec<JobId> = (0..3)
        .map(|_| naq.publish("build", long.to_string()))
        .collect();
    wait_until_rerouted(&naq, 3);
    // rerouted without a slot: a job without labels has it to itself
    let other = serde_json::json!({"command": "true", "concurrency_key": "one"});
    let other = naq.publish("build", other.to_string());
    assert_eq!(naq.wait_ended(&other).state(), State::Succeeded);
    let first = spawn_brief(&naq, "first", &["gpu=yes"]);
    eventually("one of them runs", || {
        jobs.iter().any(|job| {
            let (record, _) = naq
                .block_on(naq.client().broker().read_record(job))
                .expect("an answer");
            record.is_some_and(|record| record.state() == State::Running)
        })
    });
    first.signal(Signal::SIGKILL);
    first.wait_exit();
    let _second = spawn_brief(&naq, "second", &["gpu=yes"]);
    release(&naq, "go");
    for job in &jobs {
        assert_eq!(naq.wait_ended(job).state(), State::Succeeded);
    }
    naq.wait_drained("build");
}

#[test]
fn job_id_is_taken_while_a_rerouted_job_waits() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _plain = spawn(&naq, "plain", &[]);
    let enqueue = |program: &str| {
        let options = ["enqueue", "--queue", "build", "--id", "mine"];
        naq.cli([&options[..], &["--require", "gpu=yes", "--", program]].concat())
            .run()
    };
    enqueue("true").succeeds();
    wait_until_rerouted(&naq, 1);
    enqueue("true").succeeds();
    enqueue("false").exits(5).expect_stderr(&["is taken"]);
    naq.wait_for_messages("build", 1);
}

#[test]
fn cancelled_rerouted_job_leaves_nothing() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _plain = spawn(&naq, "plain", &[]);
    let job = naq.publish("build", requiring(&[("gpu", "yes")]));
    wait_until_rerouted(&naq, 1);
    naq.cli(["cancel", job.as_str()]).run().succeeds();
    assert_eq!(naq.wait_ended(&job).state(), State::Cancelled);
    naq.wait_drained("build");
}

#[test]
fn drained_job_is_requeued_to_another_worker_without_a_crash() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    // requeued by a nak: waiting for the lease to expire would take longer than this test
    let _plain = spawn_with(&naq, "10m", "plain", &[]);
    let mut long = until_file(&naq, "go");
    long["requires"] = serde_json::json!({"gpu": "yes"});
    let job = naq.publish("build", long.to_string());
    wait_until_rerouted(&naq, 1);
    let first = naq
        .worker(&["build"])
        .ack_wait("10m")
        .arg("--label")
        .arg("gpu=yes")
        .arg("--drain-timeout")
        .arg("100ms")
        .spawn();
    naq.wait_running(&job);
    assert!(first.stop().success());
    release(&naq, "go");
    let _second = spawn_with(&naq, "10m", "second", &["gpu=yes"]);
    let record = naq.wait_ended(&job);
    assert_eq!((record.attempt, record.crashes), (1, 0));
}

#[test]
fn duplicate_message_of_a_rerouted_job_runs_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let count = naq.home().join("count");
    let envelope = serde_json::json!({
        "script": format!("echo ran >> {}", count.display()), "requires": {"gpu": "yes"},
    });
    naq.add_queue("build");
    let set = label_route_key(&set(&[("gpu", "yes")]));
    let subject = format!("naq.route.build.{set}.twice");
    // as a worker leaves it that dies between publishing and acknowledging
    for subject in [&subject, &subject, "naq.queue.build.twice"] {
        naq.publish_to("build", subject, envelope.to_string().into());
    }
    let _plain = spawn(&naq, "plain", &[]);
    eventually("rerouted", || {
        consumer(&naq, "build", "naq-worker")
            .ack_floor
            .stream_sequence
            == 3
    });
    naq.wait_for_messages("build", 3);
    let _gpu = spawn(&naq, "gpu", &["gpu=yes"]);
    let record = naq.wait_ended(&id("twice"));
    assert_eq!((record.state(), record.attempt), (State::Succeeded, 1));
    naq.wait_drained("build");
    let ran = std::fs::read_to_string(count).expect("it ran");
    assert_eq!(ran, "ran\n");
}

#[test]
fn rerouting_keeps_headers_and_enqueue_time() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _plain = spawn(&naq, "plain", &[]);
    let envelope = r#"{"script":"echo $TRACEPARENT","requires":{"gpu":"yes"}}"#;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("traceparent", "00-abc-def-01");
    headers.insert("Nats-Msg-Id", "traced");
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        jetstream
            .publish_with_headers("naq.queue.build", headers, envelope.into())
            .await
            .expect("it is sent")
            .await
            .expect("it is taken");
    });
    wait_until_rerouted(&naq, 1);
    let waiting = naq
        .block_on(naq.client().fetch_job(&id("traced")))
        .expect("it is found");
    assert_eq!(waiting.state(), State::Queued);
    let _gpu = spawn(&naq, "gpu", &["gpu=yes"]);
    let record = naq.wait_ended(&id("traced"));
    assert_eq!(text(record.stdout.as_ref()), "00-abc-def-01\n");
    assert_eq!(record.enqueue_time, waiting.enqueue_time);
}

#[test]
fn queue_of_an_earlier_version_gets_the_route_subject() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.block_on(async {
        let config = async_nats::jetstream::stream::Config {
            name: "naq_queue_build".to_owned(),
            subjects: [
                "naq.queue.build",
                "naq.queue.build.*",
                "naq.delayed.build.*",
            ]
            .map(str::to_owned)
            .to_vec(),
            retention: async_nats::jetstream::stream::RetentionPolicy::WorkQueue,
            allow_rollup: true,
            allow_message_schedules: true,
            max_messages: 1_000,
            ..Default::default()
        };
        async_nats::jetstream::new(naq.nats().clone())
            .create_stream(config)
            .await
            .expect("it is made");
    });
    let old = naq.publish("build", requiring(&[("gpu", "yes")]));
    let _plain = spawn(&naq, "plain", &[]);
    wait_until_rerouted(&naq, 1);
    let config = naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let stream = jetstream
            .get_stream("naq_queue_build")
            .await
            .expect("there");
        stream.cached_info().config.clone()
    });
    assert!(config.subjects.contains(&"naq.route.build.*.*".to_owned()));
    // settings of its operator stay
    assert_eq!(config.max_messages, 1_000);
    // nats-server would permit 1,000
    assert_eq!(config.max_consumers, 5_100);
    let _gpu = spawn(&naq, "gpu", &["gpu=yes"]);
    assert_eq!(naq.wait_ended(&old).state(), State::Succeeded);
}

#[test]
fn wrong_labels_of_a_route_do_not_make_jobs_circulate() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _plain = spawn(&naq, "plain", &[]);
    let job = naq.publish("build", requiring(&[("gpu", "yes")]));
    wait_until_rerouted(&naq, 1);
    // a foreign program registers that the jobs of this route require nothing
    let key = label_route_key(&set(&[("gpu", "yes")]));
    naq.block_on(async {
        let subject = format!("$KV.naq_requires.build.{key}");
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let sent = jetstream.publish(subject, "{}".into()).await;
        sent.expect("it is sent").await.expect("it is taken");
    });
    let _labelled = spawn(&naq, "labelled", &["disk=ssd"]);
    naq.assert_jobs_still_run("build");
    let record = naq.block_on(naq.client().fetch_job(&job)).expect("found");
    assert_eq!(record.state(), State::Queued);
    naq.wait_for_messages("build", 1);
}

#[test]
fn naq_run_refuses_a_job_whose_labels_are_missing_here() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.cli(["run", "--require", "gpu=yes", "--", "true"])
        .run()
        .exits(2)
        .expect_stderr(&["enqueue --wait"]);
    naq.cli(["run", "--require", "gpu=yes", "--", "true"])
        .env("NAQ_WORKER_LABELS", "gpu=yes")
        .run()
        .succeeds();
}

/// Another client removes the registration of one route, so that workers that start later do not find it.
#[test]
fn each_removed_registration_of_a_served_route_is_made_again() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    // alone at first, so that it gets a job for each of the routes
    let _plain = spawn(&naq, "plain", &[]);
    let sets = [[("gpu", "yes")], [("disk", "ssd")], [("zone", "a")]];
    let routes = || {
        let routes = naq.block_on(naq.client().broker().list_label_routes());
        routes.expect("an answer").len()
    };
    let jobs = sets.map(|labels| naq.publish("build", requiring(&labels)));
    eventually("each route is registered", || routes() == sets.len());
    let labelled = spawn(&naq, "labelled", &["gpu=yes", "disk=ssd", "zone=a"]);
    for job in &jobs {
        naq.wait_ended(job);
    }
    assert_eq!(routes(), sets.len());
    for labels in &sets {
        let subject = format!("$KV.naq_requires.build.{}", label_route_key(&set(labels)));
        naq.block_on(async {
            let jetstream = async_nats::jetstream::new(naq.nats().clone());
            let bucket = jetstream.get_stream("KV_naq_requires").await;
            let bucket = bucket.expect("the bucket exists");
            bucket.purge().filter(subject).await.expect("it is removed");
        });
        assert_eq!(routes(), sets.len() - 1);
        eventually(&format!("{labels:?} is registered again"), || {
            routes() == sets.len()
        });
    }
    // The stream starts after the sequences of jobs that have ended. So do new consumers, without a past.
    assert!(
        !labelled.log().contains("lost stream"),
        "{}",
        labelled.log()
    );
}

/// Changes how many consumers the queue's stream may have, and returns the value before.
fn set_max_consumers(naq: &Naq, change: impl FnOnce(usize) -> i32) -> i32 {
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let stream = jetstream.get_stream("naq_queue_build").await;
        let info = stream.expect("the stream exists").cached_info().clone();
        let mut config = info.config.clone();
        config.max_consumers = change(info.state.consumer_count);
        let changed = jetstream.update_stream(config).await;
        changed.expect("it is changed");
        info.config.max_consumers
    })
}

#[test]
fn label_set_without_room_for_its_consumer_is_reported_and_served_later() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _plain = spawn(&naq, "plain", &[]);
    let labelled = spawn(&naq, "labelled", &["gpu=yes", "disk=ssd", "zone=a"]);
    let first = naq.publish("build", requiring(&[("zone", "a")]));
    assert_eq!(naq.wait_ended(&first).state(), State::Succeeded);
    let before = set_max_consumers(&naq, |consumers| i32::try_from(consumers).unwrap());
    assert_eq!(before, 5_100);
    let waiting = [("gpu", "yes"), ("disk", "ssd")].map(|set| {
        let job = naq.publish("build", requiring(&[set]));
        eventually("the worker reports the set", || {
            labelled
                .log()
                .contains(&format!(r#"{{"{}": "{}"}}"#, set.0, set.1))
        });
        job
    });
    assert!(
        labelled.log().contains("`naq-route-*`"),
        "{}",
        labelled.log()
    );
    // the other sets are served as before
    let next = naq.publish("build", requiring(&[("zone", "a")]));
    assert_eq!(naq.wait_ended(&next).state(), State::Succeeded);
    set_max_consumers(&naq, |_| before);
    for job in &waiting {
        assert_eq!(naq.wait_ended(job).state(), State::Succeeded);
    }
}
