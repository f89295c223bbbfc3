//! A server that speaks enough of the NATS protocol to be connected to, and then does harm.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

/// What the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// The server sends no greeting.
    Mute,
    /// Its greeting has no end.
    EndlessInfo,
    /// The first message has no end.
    EndlessMessage,
    /// A list always has another page, with new names.
    EndlessPages,
    /// A list always has another page, which is the same.
    SamePage,
    /// A list always has another page, which takes seconds.
    SlowPages,
    /// A bucket always has another message.
    EndlessBucket,
    /// A read of the next message returns one that was read before.
    Backwards,
    /// It answers requests with what is no JSON.
    Garbage,
    /// It never answers a request.
    Silence,
    /// It reads nothing after the handshake.
    Deaf,
}

/// A server, which runs until the test's process ends.
pub(crate) struct HostileServer {
    pub(crate) url: String,
    entries_read: Arc<AtomicU64>,
}

impl HostileServer {
    /// The number of streams that a client had in its list when it asked for the next page. The most of
    /// any client.
    pub(crate) fn entries_read(&self) -> u64 {
        self.entries_read.load(Ordering::SeqCst)
    }
}

/// Starts a server.
pub(crate) fn start(harm: Harm) -> HostileServer {
    let entries_read = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&entries_read);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counter = Arc::clone(&counter);
            // each ends when its client has gone
            std::thread::spawn(move || {
                let _ = serve(harm, &stream, &counter);
            });
        }
    });
    HostileServer {
        url: format!("nats://127.0.0.1:{port}"),
        entries_read,
    }
}

fn serve(harm: Harm, stream: &TcpStream, entries_read: &AtomicU64) -> io::Result<()> {
    let mut to = stream;
    let endless = |mut to: &TcpStream| -> io::Result<()> {
        let piece = vec![b'x'; 1 << 20];
        loop {
            to.write_all(&piece)?;
        }
    };
    if harm == Harm::Mute {
        loop {
            std::thread::park();
        }
    }
    to.write_all(b"INFO {\"server_id\":\"E\",\"server_name\":\"e\",")?;
    if harm == Harm::EndlessInfo {
        to.write_all(b"\"version\":\"")?;
        return endless(to);
    }
    to.write_all(b"\"version\":\"2.14.0\",\"max_payload\":8388608,\"proto\":1,\"headers\":true,\"jetstream\":true,\"auth_required\":true}\r\n")?;
    let mut session = Session {
        harm,
        to: stream,
        entries_read,
        subscriptions: Vec::new(),
        sequence: 0,
    };
    let mut from = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if from.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["PING"] => {
                to.write_all(b"PONG\r\n")?;
                match harm {
                    Harm::EndlessMessage => {
                        to.write_all(b"MSG _INBOX.x 1 999999999999\r\n")?;
                        return endless(to);
                    }
                    Harm::Deaf => loop {
                        std::thread::park();
                    },
                    _ => {}
                }
            }
            ["SUB", subject, sid] => {
                session
                    .subscriptions
                    .push((subject.to_owned(), sid.to_owned()));
            }
            ["PUB" | "HPUB", subject, .., size] => {
                let (subject, reply) = (subject.to_owned(), words[2].to_owned());
                let mut payload = vec![0; size.parse::<usize>().unwrap() + 2];
                from.read_exact(&mut payload)?;
                if words.len() >= 4 {
                    payload.truncate(payload.len() - 2);
                    session.answer(&subject, &reply, &payload)?;
                }
            }
            _ => {}
        }
    }
}

struct Session<'s> {
    harm: Harm,
    to: &'s TcpStream,
    entries_read: &'s AtomicU64,
    subscriptions: Vec<(String, String)>,
    sequence: u64,
}

impl Session<'_> {
    fn answer(&mut self, subject: &str, reply: &str, payload: &[u8]) -> io::Result<()> {
        let request: Value = serde_json::from_slice(payload).unwrap_or_default();
        let answer = match self.harm {
            Harm::Silence => return Ok(()),
            Harm::Garbage => return self.send(reply, b"\xff\xfe{{{"),
            _ if subject.contains("CONSUMER.MSG.NEXT") => {
                return self.deliver_without_end(subject, reply);
            }
            _ => self.json(subject, &request),
        };
        self.send(reply, answer.to_string().as_bytes())
    }

    fn json(&mut self, subject: &str, request: &Value) -> Value {
        let offset = request["offset"].as_u64().unwrap_or_default();
        if subject.contains("STREAM.NAMES") {
            self.entries_read.fetch_max(offset, Ordering::SeqCst);
        }
        let offset = if self.harm == Harm::SamePage {
            0
        } else {
            offset
        };
        let total: u64 = 1 << 60;
        let page_entries = match self.harm {
            Harm::EndlessPages | Harm::SamePage => 1_024,
            Harm::SlowPages => 1,
            _ => 0,
        };
        let has_pages = page_entries > 0;
        if subject.contains("STREAM.NAMES") {
            if self.harm == Harm::SlowPages {
                std::thread::sleep(Duration::from_secs(3));
            }
            let names: Vec<String> = match has_pages {
                true => (offset..offset + page_entries)
                    .map(|number| format!("naq_queue_q{number}"))
                    .collect(),
                false => vec!["naq_queue_build".to_owned()],
            };
            let total = if has_pages { total } else { 1 };
            json!({"type": "io.nats.jetstream.api.v1.stream_names_response", "total": total, "offset": offset, "limit": 1024, "streams": names})
        } else if subject.contains("MSG.GET") {
            let from = request["seq"].as_u64().unwrap_or(1);
            let sequence = if self.harm == Harm::Backwards {
                1
            } else {
                from
            };
            json!({"message": {"subject": "$KV.naq_results.x", "seq": sequence, "data": "e30=", "time": "2026-01-01T00:00:00Z"}})
        } else if subject.contains("CONSUMER.CREATE") {
            json!({
                "stream_name": "s", "name": "c", "created": "2026-01-01T00:00:00Z",
                "config": {"ack_policy": "none", "deliver_policy": "all", "replay_policy": "instant", "max_deliver": -1},
                "delivered": {"consumer_seq": 0, "stream_seq": 0}, "ack_floor": {"consumer_seq": 0, "stream_seq": 0},
                "num_ack_pending": 0, "num_redelivered": 0, "num_waiting": 0, "num_pending": total,
            })
        } else if subject.contains("STREAM.INFO") {
            json!({
                "config": {"name": "s", "subjects": ["x"], "retention": "limits", "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "storage": "file", "num_replicas": 1, "discard": "new"},
                "created": "2026-01-01T00:00:00Z",
                "state": {"messages": total, "bytes": 1, "first_seq": 1, "first_ts": "2026-01-01T00:00:00Z", "last_seq": total, "last_ts": "2026-01-01T00:00:00Z", "consumer_count": 0},
                "total": total,
            })
        } else {
            json!({"success": true})
        }
    }

    /// Sends messages of a bucket, each with a heartbeat of another worker, until the client has gone.
    fn deliver_without_end(&mut self, subject: &str, reply: &str) -> io::Result<()> {
        let stream = subject.split('.').nth_back(1).unwrap_or("s").to_owned();
        let pending: u64 = 1 << 60;
        loop {
            self.sequence += 1;
            let number = self.sequence;
            let worker = json!({
                "worker_id": format!("w{number}"), "name": "x".repeat(4_000), "host": "h", "pid": 1,
                "version": "0", "state": "idle", "queues": [], "concurrency": 1, "running": 0,
                "jobs": [], "labels": {}, "started_at": "2026-01-01T00:00:00Z",
                "heartbeat_at": "2026-01-01T00:00:00Z", "last_seen": "2026-01-01T00:00:00Z",
            });
            let ack =
                format!("$JS.ACK.{stream}.c.1.{number}.{number}.1767225600000000000.{pending}");
            let (sid, payload) = (self.sid_of(reply), worker.to_string());
            let Some(sid) = sid else { return Ok(()) };
            let bucket = stream.trim_start_matches("KV_");
            let header = format!(
                "MSG $KV.{bucket}.w{number} {sid} {ack} {}\r\n",
                payload.len()
            );
            self.to
                .write_all(&[header.as_bytes(), payload.as_bytes(), b"\r\n"].concat())?;
        }
    }

    fn sid_of(&self, subject: &str) -> Option<String> {
        let mut subscriptions = self.subscriptions.iter();
        let (_, sid) = subscriptions.find(|(pattern, _)| match pattern.strip_suffix('*') {
            Some(start) => subject.starts_with(start),
            None => pattern == subject,
        })?;
        Some(sid.clone())
    }

    fn send(&self, subject: &str, payload: &[u8]) -> io::Result<()> {
        let Some(sid) = self.sid_of(subject) else {
            return Ok(());
        };
        let header = format!("MSG {subject} {sid} {}\r\n", payload.len());
        let mut to = self.to;
        to.write_all(&[header.as_bytes(), payload, b"\r\n"].concat())
    }
}
