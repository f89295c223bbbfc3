//! The transcripts of `docs/protocol.md` and `docs/worker-protocol.md`, replayed: what they send is sent to
//! a nats-server, byte by byte, with a worker of naq next to it, and what they show as received is received.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use naq_protocol::State;
use serde_json::Value;

use crate::harness::naq::Naq;
use crate::harness::nats::{TEST_TIMEOUT, TestServer};

fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(crate::ROOT).join("docs").join(name)).unwrap()
}

/// The lines of one transcript in order, each with whether it is sent.
type Transcript = Vec<(bool, String)>;

fn transcripts(page: &str) -> Vec<Transcript> {
    let blocks = page.split("\n```text transcript\n").skip(1);
    blocks
        .map(|block| {
            let (lines, _) = block.split_once("\n```").unwrap();
            let lines = lines.lines().map(|line| {
                let rest = |mark| line.strip_prefix(mark);
                let (is_sent, rest) = rest('>')
                    .map(|rest| (true, rest))
                    .or_else(|| rest('<').map(|rest| (false, rest)))
                    .unwrap_or_else(|| panic!("a line is neither sent nor received: {line}"));
                (is_sent, rest.strip_prefix(' ').unwrap_or(rest).to_owned())
            });
            lines.collect()
        })
        .collect()
}

/// A message as the server sends it: its line without the sizes, and its bytes, without what differs from
/// run to run.
fn settled(line: &str, bytes: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let mut lines: Vec<&str> = bytes.lines().map(str::trim).collect();
    if lines.first() == Some(&"NATS/1.0") {
        // a client may write headers in any order
        let is_header = |line: &&&str| !line.is_empty() && !line.starts_with('{');
        let headers = lines.iter().take_while(is_header).count();
        lines[1..headers].sort_unstable();
    }
    let text = lines.join("\n");
    let text: String = text
        .chars()
        .filter(|c| *c == '\n' || !c.is_whitespace())
        .collect();
    let mut rest = text.as_str();
    let mut settled = words[..3].join(" ") + " ";
    while let Some(first) = rest.chars().next() {
        if first == '\n' {
            rest = &rest[1..];
            continue;
        }
        let word_bytes = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && !"-:.".contains(c))
            .unwrap_or(rest.len());
        let word = &rest[..word_bytes];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let is_time = digits == 4 && word.len() >= 20 && word.as_bytes()[10] == b'T';
        let is_uuid = word.len() == 36 && word.bytes().filter(|byte| *byte == b'-').count() == 4;
        let is_measured = ["_ms\":", "_bytes\":"]
            .iter()
            .any(|key| settled.ends_with(key));
        let (taken, shown) = if is_time {
            (word.len(), "<time>")
        } else if is_uuid {
            (word.len(), "<id>")
        } else if digits >= 9 || (digits > 0 && is_measured) {
            (digits, "<number>")
        } else {
            (first.len_utf8(), &rest[..first.len_utf8()])
        };
        settled.push_str(shown);
        rest = &rest[taken..];
    }
    settled
}

/// The messages that a transcript shows in a row.
fn shown(lines: &[&str]) -> Vec<String> {
    let mut messages: Vec<(String, String)> = Vec::new();
    for line in lines {
        if line.starts_with("MSG ") || line.starts_with("HMSG ") {
            messages.push(((*line).to_owned(), String::new()));
        } else {
            let (_, bytes) = messages.last_mut().expect("a message before its bytes");
            bytes.push_str(line);
            bytes.push('\n');
        }
    }
    let messages = messages.iter().map(|(line, bytes)| settled(line, bytes));
    messages.collect()
}

/// A connection without a client library.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(server: &TestServer) -> Connection {
        let stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        let mut connection = Connection(BufReader::new(stream));
        assert!(connection.line().starts_with("INFO "));
        let token = server.token();
        connection.send(&[&format!(
            r#"CONNECT {{"verbose":false,"headers":true,"no_responders":true,"auth_token":"{token}"}}"#
        )]);
        connection
    }

    fn send(&mut self, lines: &[&str]) {
        let bytes: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        self.0.get_mut().write_all(bytes.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The next message, settled.
    fn message(&mut self) -> String {
        loop {
            let line = self.line();
            if line == "PING" {
                self.send(&["PONG"]);
                continue;
            }
            let is_message = line.starts_with("MSG ") || line.starts_with("HMSG ");
            assert!(is_message, "the server sent {line:?}");
            let size: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
            let mut bytes = vec![0; size + 2];
            self.0.read_exact(&mut bytes).unwrap();
            return settled(&line, &String::from_utf8(bytes).unwrap());
        }
    }
}

/// Creates the streams and consumers of `docs/layout.json`, as a program without naq's code would.
fn create_layout(naq: &Naq) {
    let layout: Value = serde_json::from_str(&page("layout.json")).unwrap();
    let request = |subject: String, body: &Value| {
        let asking = naq.nats().request(subject, body.to_string().into());
        let answer = naq.block_on(asking).unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(answer["error"], Value::Null, "{body}");
    };
    for stream in layout["streams"].as_array().unwrap() {
        let name = stream["name"].as_str().unwrap();
        request(format!("$JS.API.STREAM.CREATE.{name}"), stream);
    }
    for consumer in layout["consumers"].as_array().unwrap() {
        let stream = consumer["stream_name"].as_str().unwrap();
        let name = consumer["config"]["durable_name"].as_str().unwrap();
        request(format!("$JS.API.CONSUMER.CREATE.{stream}.{name}"), consumer);
    }
}

/// Sends what a transcript sends, and compares what comes. Messages that are shown in a row may come in
/// another order, since several programs send them.
fn replay(transcript: &Transcript) {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    create_layout(&naq);
    naq.cli(["server", "check"]).run().succeeds();
    let worker = naq.worker(&["build"]).spawn();
    let mut connection = Connection::open(&server);
    for lines in transcript.chunk_by(|one, other| one.0 == other.0) {
        let is_sent = lines[0].0;
        let lines: Vec<&str> = lines.iter().map(|(_, line)| line.as_str()).collect();
        if is_sent {
            connection.send(&lines);
            continue;
        }
        let mut expected = shown(&lines);
        let mut received: Vec<String> = expected.iter().map(|_| connection.message()).collect();
        expected.sort();
        received.sort();
        assert_eq!(received, expected);
    }
    assert!(worker.stop().success());
}

#[test]
fn the_transcripts_of_the_protocol_page_are_what_a_server_sends() {
    let transcripts = transcripts(&page("protocol.md"));
    assert_eq!(transcripts.len(), 5);
    for transcript in &transcripts {
        replay(transcript);
    }
}

#[test]
fn the_transcripts_of_the_page_for_workers_are_what_a_server_sends() {
    let transcripts = transcripts(&page("worker-protocol.md"));
    assert_eq!(transcripts.len(), 1);
    for transcript in &transcripts {
        replay(transcript);
    }
}

/// The states of the page may follow each other as in the code, and in no other way.
#[test]
fn the_table_of_states_on_the_protocol_page_is_that_of_the_code() {
    let page = page("protocol.md");
    let (_, section) = page.split_once("### A job's life").unwrap();
    let (_, table) = section.split_once("| from | to |\n").unwrap();
    let mut open: Vec<State> = Vec::new();
    for row in table.lines().skip(1).take_while(|row| row.starts_with('|')) {
        let states = row.split('`').skip(1).step_by(2);
        let states: Vec<State> = states.map(|name| name.parse().unwrap()).collect();
        let (from, to) = states.split_first().unwrap();
        open.push(*from);
        for next in State::ALL {
            let is_listed = *from == next || to.contains(&next);
            assert_eq!(from.can_become(next), is_listed, "{from} to {next}");
        }
    }
    let not_ended = State::ALL.into_iter().filter(|state| !state.is_terminal());
    assert!(not_ended.eq(open));
}
