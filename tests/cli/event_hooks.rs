//! `naq events` with something to do: a command or a webhook for each change.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

use serde_json::Value;

use super::events::path;
use crate::harness::naq::{FollowedCli, Naq, eventually, id};
use crate::harness::nats::{TEST_TIMEOUT, TestServer};

/// Starts `naq events` with something to do, and waits until it is ready.
fn hook(naq: &Naq, args: &[&str]) -> FollowedCli {
    let followed = naq
        .cli([&["events"], args].concat())
        .env("NAQ_DEFAULT_ACK_WAIT", "2s")
        .follow();
    followed.expect_stderr("waiting for changes");
    followed
}

fn lines(naq: &Naq, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(naq.home().join(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
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
fn a_command_gets_only_the_variables_that_are_named() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    let job = naq.publish("build", r#"{"command":"false"}"#);
    naq.wait_ended(&job);
    for (named, seen) in [
        (None, false),
        (Some("DEPLOY_*"), true),
        (Some("DEPLOY_KEY"), true),
    ] {
        let file = path(&naq, "seen");
        let command = format!("env > {file}");
        let mut args = vec!["events", "--exec", &command];
        args.extend(named.into_iter().flat_map(|name| ["--env", name]));
        let hook = naq.cli(args).env("DEPLOY_KEY", "hunter2").follow();
        hook.expect_stderr("waiting for changes");
        let job = naq.publish("build", r#"{"command":"false"}"#);
        hook.expect_stderr(&format!("action done job_id={job}"));
        let lines = lines(&naq, "seen");
        let has = |start: &str| lines.iter().any(|line| line.starts_with(start));
        assert!(
            has("PATH=") && has("HOME=") && has("NAQ_JOB_ID="),
            "{lines:?}"
        );
        assert_eq!(has("DEPLOY_KEY=hunter2"), seen, "{named:?}: {lines:?}");
        assert!(!has("NAQ_TOKEN="), "{lines:?}");
        assert!(hook.stop().success());
    }
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
/// count as having run for these, and a consumer that waits for later ones receives nothing.
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
