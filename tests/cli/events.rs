//! `naq events`: changes as they are stored and as they happen, and what is done about them.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

use futures_util::StreamExt;
use naq_client::Client;
use naq_jetstream::ConnectOptions;
use naq_protocol::{JobId, Outcome, Phase, QueueName, Reason, Record, State, Timestamp};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::naq::{FollowedCli, Naq, eventually, id, start_plain_server};
use crate::harness::nats::{TEST_TIMEOUT, TestServer};

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

/// `naq events` with something to do, standing.
fn hook(naq: &Naq, args: &[&str]) -> FollowedCli {
    let followed = naq
        .cli([&["events"], args].concat())
        .env("NAQ_DEFAULT_ACK_WAIT", "2s")
        .follow();
    followed.expect_stderr("waiting for changes");
    followed
}

fn path(naq: &Naq, name: &str) -> String {
    naq.home().join(name).display().to_string()
}

fn lines(naq: &Naq, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(naq.home().join(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
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

#[test]
fn a_command_is_run_for_each_failure_until_it_works() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    // one that failed before anybody asked
    let before = naq.publish("build", r#"{"command":"false"}"#);
    naq.wait_ended(&before);
    let (log, marker, record) = (
        path(&naq, "log"),
        path(&naq, "marker"),
        path(&naq, "record"),
    );
    let command = format!(
        "echo \"$NAQ_JOB_ID $NAQ_STATE $NAQ_REASON $NAQ_EXIT_CODE\" >> {log}; cat > {record}; \
         echo \"saw $NAQ_JOB_ID\"; [ -e {marker} ] || {{ touch {marker}; exit 4; }}"
    );
    let hook = hook(&naq, &["--exec", &command]);
    let well = naq.publish("build", r#"{"command":"true"}"#);
    naq.wait_ended(&well);
    let badly = naq.publish("build", r#"{"command":"sh","args":["-c","exit 3"]}"#);
    let ended = naq.wait_ended(&badly);
    hook.expect_stderr("exited with 4; retrying in ");
    hook.expect_stderr("done");
    hook.expect_stdout(&format!("saw {badly}\nsaw {badly}\n"));
    let line = format!("{badly} failed exit 3");
    assert_eq!(lines(&naq, "log"), [line.clone(), line]);
    let given: Value =
        serde_json::from_slice(&std::fs::read(naq.home().join("record")).unwrap()).unwrap();
    assert_eq!(given, serde_json::to_value(&ended).unwrap());

    // a time to live is no failure
    naq.cli(["job", "ttl", badly.as_str(), "1h"])
        .run()
        .succeeds();
    let rejected = naq.publish("build", "broken");
    naq.wait_ended(&rejected);
    hook.expect_stdout(&format!("saw {rejected}\n"));
    assert_eq!(lines(&naq, "log").len(), 3);
    assert!(hook.stop().success());
}

#[test]
fn a_command_that_was_cut_off_is_run_again() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let (log, pid, marker) = (path(&naq, "log"), path(&naq, "pid"), path(&naq, "marker"));
    let command =
        format!("echo \"$NAQ_JOB_ID\" >> {log}; echo $$ > {pid}; [ -e {marker} ] || sleep 600");
    let first = hook(&naq, &["--exec", &command]);
    let job = naq.publish("build", r#"{"command":"false"}"#);
    naq.wait_ended(&job);
    eventually("the command runs", || lines(&naq, "pid").len() == 1);
    first.kill9();
    // No server listens for this one.
    let missed = naq.publish("build", r#"{"command":"false"}"#);
    naq.wait_ended(&missed);
    std::fs::write(&marker, "").unwrap();
    let second = hook(&naq, &["--exec", &command]);
    eventually("both are done", || lines(&naq, "log").len() >= 3);
    let mut ran = lines(&naq, "log");
    ran.sort();
    let mut expected = vec![job.to_string(), job.to_string(), missed.to_string()];
    expected.sort();
    assert_eq!(ran, expected);
    assert!(second.stop().success());
    // what is done with is not done again
    let third = hook(&naq, &["--exec", &command]);
    let last = naq.publish("build", r#"{"command":"false"}"#);
    naq.wait_ended(&last);
    eventually("the last is done", || {
        lines(&naq, "log").contains(&last.to_string())
    });
    assert_eq!(lines(&naq, "log").len(), 4);
    drop(third);
}

/// Changes after a power cut may have the revisions of changes that were lost: what ran for those must not
/// count as having run for these, and a consumer that waits for later ones hears nothing.
#[test]
fn a_command_does_not_wait_for_changes_that_the_server_has_lost() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let log = path(&naq, "log");
    let command = format!("echo \"$NAQ_JOB_ID\" >> {log}");
    let args = ["--exec", &*command, "--state", "succeeded"];
    let first = hook(&naq, &args);
    for job in ["a", "b", "c"] {
        naq.publish("build", format!(r#"{{"job_id":"{job}","command":"true"}}"#));
    }
    eventually("it ran for each", || lines(&naq, "log").len() == 3);
    server.stop_gracefully();
    server.forget_stream("KV_naq_results");
    server.restart();
    naq.publish("build", r#"{"job_id":"d","command":"true"}"#);
    naq.wait_ended(&id("d"));
    first.expect_stderr("the server has lost");
    assert!(!first.wait_exit().success());
    let second = hook(&naq, &args);
    naq.publish("build", r#"{"job_id":"e","command":"true"}"#);
    eventually("it runs for a later job", || {
        lines(&naq, "log").contains(&"e".to_owned())
    });
    assert!(second.stop().success());
}

#[test]
fn a_command_outlasts_the_server() {
    let mut server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let log = path(&naq, "log");
    let hook = hook(&naq, &["--exec", &format!("echo \"$NAQ_JOB_ID\" >> {log}")]);
    let mut expected = Vec::new();
    for _ in 0..2 {
        let job = naq.publish("build", r#"{"command":"false"}"#);
        naq.wait_ended(&job);
        expected.push(job.to_string());
        eventually("it ran", || lines(&naq, "log").contains(&job.to_string()));
        server.kill9();
        server.restart();
    }
    let last = naq.publish("build", r#"{"command":"false"}"#);
    naq.wait_ended(&last);
    eventually("it ran", || lines(&naq, "log").contains(&last.to_string()));
    expected.push(last.to_string());
    // each at least once
    let ran: std::collections::HashSet<_> = lines(&naq, "log").into_iter().collect();
    assert_eq!(ran, expected.into_iter().collect());
    assert!(hook.stop().success());
}

/// A request as it came: its head, in lower case, and its body.
struct Request {
    head: String,
    body: Vec<u8>,
    stream: TcpStream,
}

impl Request {
    fn answer(mut self, status: &str) {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        self.stream.write_all(answer.as_bytes()).unwrap();
    }

    fn header(&self, name: &str) -> &str {
        let prefix = format!("{name}: ");
        self.head
            .lines()
            .find_map(|line| line.strip_prefix(&prefix))
            .unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }

    fn job(&self) -> String {
        let record: Value = serde_json::from_slice(&self.body).unwrap();
        record["job_id"].as_str().unwrap().to_owned()
    }
}

/// A listener, and what it is asked, each request as it comes.
fn listener() -> (String, mpsc::Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "http://{}/hook/secret?token=secret",
        listener.local_addr().unwrap()
    );
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if reader.read_line(&mut head).unwrap_or(0) == 0 {
                        return;
                    }
                }
                let head = head.to_lowercase();
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .map_or(0, |length| length.trim().parse().unwrap());
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let _ = sender.send(Request { head, body, stream });
            });
        }
    });
    (url, receiver)
}

#[test]
fn a_record_is_posted_until_it_is_taken() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let (url, requests) = listener();
    let hook = hook(
        &naq,
        &["--webhook", &url, "--parallel", "2", "--durable", "pager"],
    );
    let job = naq.publish(
        "build",
        r#"{"command":"sh","args":["-c","echo out; exit 3"]}"#,
    );
    let ended = naq.wait_ended(&job);
    let first = requests.recv_timeout(TEST_TIMEOUT).unwrap();
    assert!(
        first.head.starts_with("post /hook/secret?token=secret "),
        "{}",
        first.head
    );
    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!(first.header("naq-job-id"), job.as_str());
    let posted: Value = serde_json::from_slice(&first.body).unwrap();
    assert_eq!(posted, serde_json::to_value(&ended).unwrap());
    let revision = first.header("naq-revision").to_owned();
    first.answer("500 Internal Server Error");
    hook.expect_stderr("the response was 500");

    let again = requests.recv_timeout(TEST_TIMEOUT).unwrap();
    assert_eq!(again.header("naq-revision"), revision);
    // one that is slow holds up no other
    let other = naq.publish("build", r#"{"command":"false"}"#);
    naq.wait_ended(&other);
    let quick = requests.recv_timeout(TEST_TIMEOUT).unwrap();
    assert_eq!(quick.job(), other.as_str());
    quick.answer("204 No Content");
    again.answer("200 OK");
    let last = naq.publish("build", "broken");
    naq.wait_ended(&last);
    let request = requests.recv_timeout(TEST_TIMEOUT).unwrap();
    assert_eq!(request.job(), last.as_str());
    assert_eq!(request.header("naq-state"), "rejected");
    // a redirect is not followed, and is no success
    request.answer("302 Found");
    let request = requests.recv_timeout(TEST_TIMEOUT).unwrap();
    assert_eq!(request.job(), last.as_str());
    // nobody at all is tried again as well
    drop(request);
    let request = requests.recv_timeout(TEST_TIMEOUT).unwrap();
    assert_eq!(request.job(), last.as_str());
    request.answer("201 Created");
    let said = hook.stderr_text();
    assert!(!said.contains("secret"), "{said}");
    assert!(hook.stop().success());
}

#[test]
fn other_changes_can_be_acted_on() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build", "other"]).spawn();
    let log = path(&naq, "log");
    let command = format!("echo \"$NAQ_QUEUE $NAQ_STATE\" >> {log}");
    let _hook = hook(
        &naq,
        &[
            "--exec",
            &command,
            "--state",
            "succeeded",
            "--queue",
            "build",
        ],
    );
    for queue in ["other", "build"] {
        for program in ["false", "true"] {
            let job = naq.publish(queue, format!(r#"{{"command":"{program}"}}"#));
            naq.wait_ended(&job);
        }
    }
    eventually("it ran", || !lines(&naq, "log").is_empty());
    assert_eq!(lines(&naq, "log"), ["build succeeded"]);
}

#[test]
fn impossible_options_are_refused_at_once() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let refused = |args: &[&str], words: &str| {
        naq.cli([&["events"], args].concat())
            .run()
            .exits(2)
            .expect_stderr(&[words]);
    };
    refused(&["--webhook", "example.org/x"], "http://");
    refused(&["--webhook", "ftp://example.org"], "http://");
    refused(
        &["--exec", "true", "--webhook", "http://a"],
        "cannot be used with",
    );
    refused(&["--exec", "true", "--durable", "a b"], "--durable");
    refused(&["--durable", "a"], "--exec");
    refused(&["--state", "gone"], "not a state");
    refused(&["--label", "=x"], "KEY");
}
