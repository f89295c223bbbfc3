//! `naq events`: changes as they are stored and as they happen.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use futures_util::StreamExt;
use naq_client::Client;
use naq_jetstream::ConnectOptions;
use naq_protocol::{JobId, Outcome, Phase, QueueName, Reason, Record, State, Timestamp};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::naq::{FollowedCli, Naq, eventually, start_plain_server};
use crate::harness::nats::TestServer;

/// What was printed, one event a line, as far as lines are whole.
fn events(printed: &str) -> Vec<Value> {
    let whole = printed.rfind('\n').map_or("", |end| &printed[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Those of records: not that a job was put into its queue.
fn of_records(seen: Vec<Value>) -> Vec<Value> {
    let mut seen = seen;
    seen.retain(|event| event.get("revision").is_some());
    seen
}

fn follow(naq: &Naq, args: &[&str]) -> FollowedCli {
    let following = ["events", "--follow", "--json", "--log-level", "debug"];
    let followed = naq.cli([&following, args].concat()).follow();
    followed.expect_stderr("following");
    followed
}

pub(super) fn path(naq: &Naq, name: &str) -> String {
    naq.home().join(name).display().to_string()
}

#[test]
fn every_change_is_printed_as_it_happens() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let all = follow(&naq, &[]);
    let only = follow(&naq, &["--label", "team=a", "--state", "succeeded,failed"]);
    let people = naq
        .cli(["events", "-f", "--queue", "build", "--log-level", "debug"])
        .follow();
    people.expect_stderr("following");
    let marker = path(&naq, "once");
    let script = format!("[ -e {marker} ] || {{ touch {marker}; exit 9; }}");
    let job = naq.publish(
        "build",
        serde_json::json!({
            "script": script, "labels": {"team": "a"},
            "max_retries": 1, "retry_delay": 1, "retry_jitter": false,
        })
        .to_string(),
    );
    naq.wait_ended(&job);
    let other = naq.publish("build", r#"{"command":"false"}"#);
    naq.wait_ended(&other);

    let seen = events(&all.expect_stdout(r#""state":"failed""#));
    let life: Vec<(&str, &str, u64)> = seen
        .iter()
        .filter(|event| event["job_id"] == job.as_str())
        .map(|event| {
            (
                event["previous_state"].as_str().unwrap_or("-"),
                event["state"].as_str().unwrap(),
                event["attempt"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        life,
        [
            ("-", "queued", 0),
            ("queued", "running", 1),
            ("running", "retrying", 1),
            ("retrying", "queued", 1),
            ("queued", "running", 2),
            ("running", "succeeded", 2)
        ]
    );
    assert_eq!(seen[0]["labels"]["team"], "a");
    let seen = of_records(seen);
    assert!(seen.is_sorted_by_key(|event| event["revision"].as_u64()));
    assert_eq!(seen[1]["reason"], "exit");
    assert_eq!(seen[1]["exit_code"], 9);
    assert_eq!(seen[0]["labels"]["team"], "a");
    let only = events(&only.expect_stdout("succeeded"));
    assert_eq!(only.len(), 1);
    assert_eq!(only[0]["job_id"], job.as_str());
    let text = people.expect_stdout("→failed");
    assert!(text.contains("running→succeeded"), "{text}");
    assert!(text.contains("exit 1"), "{text}");

    // without --follow: where each job stands, oldest change first
    let stored = events(&naq.cli(["events", "--json"]).run().succeeds().stdout);
    let stored: Vec<_> = stored
        .iter()
        .map(|event| {
            (
                event["job_id"].as_str().unwrap(),
                event["state"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        stored,
        [(job.as_str(), "succeeded"), (other.as_str(), "failed")]
    );
    let failed = naq.cli(["events", "--state", "failed"]).run().succeeds();
    assert_eq!(failed.stdout.lines().count(), 1, "{failed:#?}");
}

#[test]
fn messages_that_enter_a_queue_are_events() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    let all = follow(&naq, &["--queue", "build"]);
    let only = follow(&naq, &["--state", "queued,scheduled", "--label", "team"]);
    naq.enqueue(&["-q", "other", "--id", "elsewhere", "--", "true"]);
    naq.enqueue(&[
        "-q", "build", "--id", "held", "--in", "2s", "--label", "team=b", "--", "true",
    ]);
    // by a producer that knows nothing but the subject, and sends on what a server said elsewhere
    naq.raw().publish_with_headers(
        b"naq.queue.build",
        b"NATS/1.0\r\nNats-Subject: naq.queue.other.x\r\nNats-Sequence: 999\r\n\r\n",
        br#"{"command":"true","labels":{"team":"c"}}"#,
    );
    let bare = JobId::new("build-seq-2").unwrap();
    let bad = naq.publish("build", "{");
    let changes = |id: &str, seen: &[Value]| -> Vec<String> {
        let of_job = seen.iter().filter(|event| event["job_id"] == id);
        of_job
            .map(|event| {
                let before = event["previous_state"].as_str().unwrap_or("-");
                format!("{before}→{}", event["state"].as_str().unwrap())
            })
            .collect()
    };
    // the server itself puts it into the queue, with nobody there to take it
    let seen = events(&all.expect_stdout(r#""previous_state":"scheduled""#));
    assert_eq!(changes("held", &seen), ["-→scheduled", "scheduled→queued"]);
    assert_eq!(changes(bare.as_str(), &seen), ["-→queued"]);
    assert_eq!(changes(bad.as_str(), &seen), ["-→queued"]);
    assert!(changes("elsewhere", &seen).is_empty());
    let _worker = naq.worker(&["build"]).spawn();
    naq.wait_ended(&JobId::new("held").unwrap());
    naq.wait_ended(&bad);
    let seen = events(&all.expect_stdout(r#""state":"rejected""#));
    assert_eq!(
        changes(bad.as_str(), &seen),
        ["-→queued", "queued→rejected"]
    );
    let seen = events(&only.expect_stdout(r#""previous_state":"scheduled""#));
    let seen: Vec<_> = seen.iter().map(|event| event["job_id"].clone()).collect();
    assert_eq!(seen, ["held", bare.as_str(), "held"]);

    // what no record says is not acted on, and asking for it is an error
    naq.cli(["events", "--exec", "true", "--state", "queued"])
        .run()
        .exits(2)
        .expect_stderr(&["--state queued", "--follow"]);
}

/// What one producer sends badly costs a watcher a connection, and nothing else.
#[test]
fn what_no_client_can_read_is_outlived() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let followed = follow(&naq, &[]);
    // the first makes a client reconnect, the second ends its connection
    for headers in ["no colon here", "A: b\rc"] {
        naq.raw().publish_with_headers(
            b"naq.queue.build",
            format!("NATS/1.0\r\n{headers}\r\n\r\n").as_bytes(),
            br#"{"command":"true"}"#,
        );
        let job = naq.publish("build", r#"{"command":"true"}"#);
        naq.wait_ended(&job);
        eventually("its end is printed", || {
            let seen = events(&followed.expect_stdout(""));
            seen.iter()
                .any(|event| event["job_id"] == job.as_str() && event["state"] == "succeeded")
        });
    }
    followed.expect_stderr("the connection was lost");
    let good = naq.publish("build", r#"{"command":"false"}"#);
    naq.wait_ended(&good);
    let seen = events(&followed.expect_stdout(r#""state":"failed""#));
    let rejected = seen.iter().filter(|event| event["state"] == "rejected");
    assert_eq!(rejected.count(), 2, "{seen:#?}");
}

/// A filter of states that only records have: the server sends such a watcher nothing of the queues, so what no client
/// can read costs it no connection.
#[test]
fn ends_are_followed_without_the_messages_of_queues() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let ends = follow(&naq, &["--state", "running,succeeded,failed"]);
    naq.raw().publish_with_headers(
        b"naq.queue.build",
        b"NATS/1.0\r\nA: b\rc\r\n\r\n",
        br#"{"command":"true"}"#,
    );
    let marker = path(&naq, "once");
    let script = format!("[ -e {marker} ] || {{ touch {marker}; exit 9; }}; exit 3");
    let job = naq.publish(
        "build",
        serde_json::json!({
            "script": script, "max_retries": 1, "retry_delay": 1, "retry_jitter": false,
        })
        .to_string(),
    );
    naq.wait_ended(&job);
    let seen = events(&ends.expect_stdout(r#""state":"failed""#));
    let life: Vec<(&str, &str)> = seen
        .iter()
        .filter(|event| event["job_id"] == job.as_str())
        .map(|event| {
            let state = |field: &str| event[field].as_str().unwrap_or("-");
            (state("previous_state"), state("state"))
        })
        .collect();
    // it was queued twice, although no event said so
    assert_eq!(
        life,
        [
            ("queued", "running"),
            ("queued", "running"),
            ("running", "failed")
        ]
    );
    let errors = ends.stderr_text();
    assert!(!errors.contains("the connection was lost"), "{errors}");
}

/// A queue that was made before the server was asked to repeat what comes into it.
#[test]
fn an_older_queue_has_events_once_it_is_used() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.add_queue("build");
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let mut stream = jetstream.get_stream("naq_queue_build").await.unwrap();
        let mut config = stream.info().await.unwrap().config.clone();
        assert!(config.republish.take().is_some());
        jetstream.update_stream(config).await.unwrap();
    });
    let followed = follow(&naq, &[]);
    let unseen = naq.publish("build", r#"{"command":"true"}"#);
    let _worker = naq.worker(&["build"]).spawn();
    naq.wait_ended(&unseen);
    let job = naq.publish("build", r#"{"command":"false"}"#);
    naq.wait_ended(&job);
    let seen = events(&followed.expect_stdout(r#""state":"failed""#));
    let queued = seen.iter().filter(|event| event["state"] == "queued");
    let queued: Vec<_> = queued.map(|event| event["job_id"].clone()).collect();
    assert_eq!(queued, [job.as_str()]);
}

#[test]
fn a_time_to_live_is_no_change() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let first = naq.publish("build", r#"{"command":"true"}"#);
    naq.wait_ended(&first);
    let followed = follow(&naq, &[]);
    naq.cli(["job", "ttl", first.as_str(), "1h"])
        .run()
        .succeeds();
    let second = naq.publish("build", r#"{"command":"true"}"#);
    naq.wait_ended(&second);
    naq.cli(["job", "ttl", second.as_str(), "0"])
        .run()
        .succeeds();
    let third = naq.publish("build", r#"{"command":"false"}"#);
    naq.wait_ended(&third);
    let seen = of_records(events(&followed.expect_stdout("failed")));
    let seen: Vec<_> = seen
        .iter()
        .map(|event| {
            (
                event["job_id"].as_str().unwrap(),
                event["state"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (second.as_str(), "running"),
            (second.as_str(), "succeeded"),
            (third.as_str(), "running"),
            (third.as_str(), "failed")
        ]
    );
}

#[test]
fn no_end_is_missed_while_the_server_is_away() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(4).spawn();
    let followed = follow(&naq, &[]);
    let go = path(&naq, "go");
    let script = format!("while [ ! -e {go} ]; do sleep 0.05; done");
    let jobs: Vec<JobId> = (0..4)
        .map(|_| naq.publish("build", serde_json::json!({"script": script}).to_string()))
        .collect();
    for job in &jobs {
        naq.wait_running(job);
    }
    server.kill9();
    std::fs::write(&go, "").unwrap();
    server.restart();
    for job in &jobs {
        assert_eq!(naq.wait_ended(job).state(), State::Succeeded);
    }
    followed.expect_stderr("the connection was lost");
    let last = naq.publish("build", r#"{"command":"false"}"#);
    naq.wait_ended(&last);
    let seen = events(&followed.expect_stdout(r#""state":"failed""#));
    for job in &jobs {
        let ends = seen
            .iter()
            .filter(|event| event["job_id"] == job.as_str() && event["state"] == "succeeded");
        assert_eq!(ends.count(), 1, "{seen:#?}");
    }
}

/// Records as a worker would write them, many at once.
fn write_records(naq: &Naq, count: usize) {
    naq.block_on(async {
        let broker = naq.client().broker();
        let queue = QueueName::new("many").unwrap();
        let time = Timestamp::from_unix_ms(0).unwrap();
        let records = (0..count).map(|number| {
            let job = JobId::new(format!("r{number}")).unwrap();
            let succeeded = Phase::Finished {
                outcome: Outcome::Succeeded,
                finished_at: time,
            };
            let record = Record::new(job, queue.clone(), succeeded, time);
            async move { broker.write_record(&record, 0, None).await.unwrap() }
        });
        futures_util::stream::iter(records)
            .buffered(256)
            .for_each(|_| std::future::ready(()))
            .await;
    });
}

#[test]
fn a_suspended_watcher_misses_no_end() {
    // more than what is buffered on the way holds
    const RECORDS: usize = 20_000;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.block_on(naq.client().broker().ensure_layout()).unwrap();
    let followed = follow(&naq, &[]);
    followed.signal(Signal::SIGSTOP);
    write_records(&naq, RECORDS);
    followed.signal(Signal::SIGCONT);
    let last = format!(r#""revision":{RECORDS}}}"#);
    let seen = events(&followed.expect_stdout(&last));
    let jobs: Vec<_> = seen.iter().map(|event| event["job_id"].as_str()).collect();
    assert_eq!(jobs.len(), RECORDS);
    assert!(seen.is_sorted_by_key(|event| event["revision"].as_u64()));
}

#[test]
fn an_event_that_was_dropped_on_the_way_is_caught_up_with() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    // a server that keeps one event from the watcher, which only the numbers can show
    let config = naq.file(
        "server.conf",
        r#"jetstream {}
        authorization { users: [
            {user: all, password: secret}
            {user: watcher, password: secret, permissions: {
                publish: ">", subscribe: {allow: ">", deny: "naq.event.hidden"}
            }}
        ] }"#,
    );
    let (_plain, port) = start_plain_server(&naq, &["-c", config.to_str().unwrap()]);
    let url = format!("nats://127.0.0.1:{port}");
    let client = naq.block_on(async {
        let options = ConnectOptions {
            url: url.clone(),
            user: Some(("all".to_owned(), "secret".to_owned())),
            ..ConnectOptions::default()
        };
        let client = Client::connect(&options).await.unwrap();
        client.broker().ensure_layout().await.unwrap();
        client
    });
    let followed = naq
        .cli(["events", "--follow", "--json", "--log-level", "debug"])
        .without_env("NAQ_TOKEN")
        .env("NAQ_NATS_URL", &url)
        .env("NAQ_USER", "watcher")
        .env("NAQ_PASSWORD", "secret")
        .follow();
    followed.expect_stderr("following");
    for id in ["before", "hidden", "after"] {
        let time = Timestamp::from_unix_ms(0).unwrap();
        let (job, queue) = (JobId::new(id).unwrap(), QueueName::new("q").unwrap());
        let failed = Phase::Finished {
            outcome: Outcome::Failed(Reason::Exit),
            finished_at: time,
        };
        let record = Record::new(job, queue, failed, time);
        naq.block_on(client.broker().write_record(&record, 0, None))
            .unwrap();
    }
    let seen = events(&followed.expect_stdout("after"));
    let seen: Vec<_> = seen.iter().map(|event| event["job_id"].clone()).collect();
    assert_eq!(seen, ["before", "hidden", "after"]);
}

#[test]
fn a_record_that_expires_is_no_event_and_hides_none() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let first = naq.publish("build", r#"{"command":"true"}"#);
    naq.wait_ended(&first);
    let followed = follow(&naq, &[]);
    let subject = format!("$KV.naq_results.{first}");
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-TTL", "1s");
        let (record, _) = naq.client().broker().read_record(&first).await.unwrap();
        let payload = serde_json::to_vec(&record.unwrap()).unwrap();
        let sent = jetstream.publish_with_headers(subject, headers, payload.into());
        sent.await.unwrap().await.unwrap();
    });
    eventually("the record has gone", || {
        let read = naq.block_on(naq.client().broker().read_record(&first));
        read.unwrap().0.is_none()
    });
    let second = naq.publish("build", r#"{"command":"false"}"#);
    naq.wait_ended(&second);
    let seen = of_records(events(&followed.expect_stdout(r#""state":"failed""#)));
    let seen: Vec<_> = seen.iter().map(|event| event["job_id"].as_str()).collect();
    let (first, second) = (Some(first.as_str()), Some(second.as_str()));
    assert_eq!(seen, [first, second, second]);
}
