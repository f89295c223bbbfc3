//! An HTTP client that can send any request, even an invalid one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use crate::harness::nats::TEST_TIMEOUT;

/// A request.
pub(super) struct Request {
    address: String,
    line: String,
    host: Option<String>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub(super) fn new(address: &str, method: &str, path: &str) -> Request {
        Request {
            address: address.to_owned(),
            line: format!("{method} {path} HTTP/1.1"),
            host: Some(address.to_owned()),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn host(mut self, host: &str) -> Request {
        self.host = Some(host.to_owned());
        self
    }

    pub(super) fn body(mut self, media_type: &str, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self.header("Content-Type", media_type)
    }

    pub(super) fn json(self, body: impl Into<Vec<u8>>) -> Request {
        self.body("application/json", body)
    }

    /// Sends it, and leaves the connection open.
    pub(super) fn open(self) -> BufReader<TcpStream> {
        let length = format!("Content-Length: {}\r\n", self.body.len());
        self.open_with(&length)
    }

    /// Sends the headers of a request whose body follows in chunks, and leaves the connection open.
    pub(super) fn open_chunked(self) -> BufReader<TcpStream> {
        self.open_with("Transfer-Encoding: chunked\r\n")
    }

    fn open_with(self, length: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        let mut head = format!("{}\r\n", self.line);
        if let Some(host) = &self.host {
            head.push_str(&format!("Host: {host}\r\n"));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("{length}\r\n"));
        stream.write_all(head.as_bytes()).unwrap();
        // a server may refuse the head, and close before it has read the body
        let _ = stream.write_all(&self.body);
        BufReader::new(stream)
    }

    /// Sends it, and reads the whole answer.
    pub(super) fn send(self) -> Answer {
        let request = self.line.clone();
        let mut stream = self.header("Connection", "close").open();
        let (status, headers) = read_head(&mut stream);
        let mut body = Vec::new();
        stream.read_to_end(&mut body).unwrap();
        let is_chunked = headers
            .iter()
            .any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        if is_chunked {
            body = join_chunks(&body);
        }
        Answer {
            request,
            status,
            headers,
            body,
        }
    }
}

/// The content of a body that was sent in chunks.
fn join_chunks(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = chunks.windows(2).position(|two| two == b"\r\n").unwrap();
        let length = std::str::from_utf8(&chunks[..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend_from_slice(&chunks[end + 2..][..length]);
        chunks = &chunks[end + 2 + length + 2..];
    }
}

/// Reads status and headers.
pub(super) fn read_head(stream: &mut impl BufRead) -> (u16, Vec<(String, String)>) {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("{line:?}"));
    let status = status.parse().unwrap();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            return (status, headers);
        };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
}

/// An answer.
pub(super) struct Answer {
    request: String,
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} -> {} {:?} {}",
            self.request,
            self.status,
            self.headers,
            self.text()
        )
    }
}

impl Answer {
    #[track_caller]
    pub(super) fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts that the answer is an error of this kind, with a page about it. Returns the detail.
    #[track_caller]
    pub(super) fn problem(self, status: u16, slug: &str) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let body = self.json();
        assert_eq!(body["type"], format!("/problems/{slug}"), "{self:?}");
        assert_eq!(body["status"], status, "{self:?}");
        assert_eq!(self.status, status, "{self:?}");
        body["detail"].as_str().unwrap().to_owned()
    }
}
