//! The NATS protocol in bytes.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use super::nats::TEST_TIMEOUT;

/// A connection that sends bytes which no client library would send.
pub(crate) struct RawNats {
    reader: BufReader<TcpStream>,
}

impl RawNats {
    /// Connects with this token.
    pub(super) fn connect(port: u16, token: &str) -> RawNats {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        let mut raw = RawNats {
            reader: BufReader::new(stream),
        };
        assert!(raw.line().starts_with("INFO "));
        raw.send(
            format!(
                r#"CONNECT {{"verbose":false,"headers":true,"auth_token":"{token}"}}{}"#,
                "\r\n"
            )
            .as_bytes(),
        );
        raw.flush();
        raw
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).unwrap();
        String::from_utf8_lossy(&line).into_owned()
    }

    fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    /// Publishes to a subject of arbitrary bytes.
    pub(crate) fn publish(&mut self, subject: &[u8], payload: &[u8]) {
        let size = payload.len().to_string();
        self.send(
            &[
                b"PUB ",
                subject,
                b" ",
                size.as_bytes(),
                b"\r\n",
                payload,
                b"\r\n",
            ]
            .concat(),
        );
        self.flush();
    }

    /// Publishes with headers of arbitrary bytes.
    pub(crate) fn publish_with_headers(&mut self, subject: &[u8], headers: &[u8], payload: &[u8]) {
        let sizes = format!(" {} {}\r\n", headers.len(), headers.len() + payload.len());
        self.send(
            &[
                b"HPUB ",
                subject,
                sizes.as_bytes(),
                headers,
                payload,
                b"\r\n",
            ]
            .concat(),
        );
        self.flush();
    }

    /// Waits until the server has processed everything sent.
    fn flush(&mut self) {
        self.send(b"PING\r\n");
        loop {
            let line = self.line();
            assert!(!line.is_empty() && !line.starts_with("-ERR"), "{line:?}");
            if line.starts_with("PONG") {
                return;
            }
        }
    }
}
