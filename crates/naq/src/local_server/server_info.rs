//! The line a nats-server sends to whoever connects, read to know that it is there and which one
//! it is.

use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// Between two attempts to connect while a server is starting. It is ready in some 15 ms, and
/// there is nothing to wait on but the port.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// How long one attempt may take, so that its purpose is looked at again in between.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(500);

/// The longest greeting taken; the real one has some 400 bytes, more in a cluster.
const INFO_BYTES_MAX: u64 = 64 * 1024;

/// What the greeting says, of interest here.
#[derive(Debug, Deserialize)]
pub(super) struct ServerInfo {
    /// The name from the configuration.
    #[serde(default)]
    pub(super) server_name: String,
    /// The server's version.
    #[serde(default)]
    pub(super) version: String,
    /// Whether JetStream is on.
    #[serde(default)]
    pub(super) jetstream: bool,
}

/// Where a managed server is.
pub(super) fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Connects once and reads the greeting, within `limit`.
pub(super) fn read(port: u16, limit: Duration) -> io::Result<ServerInfo> {
    let stream = TcpStream::connect_timeout(&address(port), limit)?;
    stream.set_read_timeout(Some(limit))?;
    let mut line = String::new();
    BufReader::new(stream.take(INFO_BYTES_MAX)).read_line(&mut line)?;
    let other = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let json = line
        .strip_prefix("INFO ")
        .ok_or_else(|| other("something that is not a NATS server answers there".to_owned()))?;
    serde_json::from_str(json).map_err(|error| other(format!("its greeting is malformed: {error}")))
}

/// Waits until the server of this name greets, with JetStream on.
///
/// `cancelled` is asked between attempts; an answer of `Some` ends the waiting.
pub(super) fn wait_until_ready(
    port: u16,
    server_name: &str,
    limit: Duration,
    mut cancelled: impl FnMut() -> Option<String>,
) -> Result<ServerInfo, String> {
    let start = Instant::now();
    let mut last = "no answer".to_owned();
    loop {
        if let Some(reason) = cancelled() {
            return Err(reason);
        }
        let left = limit.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(last);
        }
        match read(port, left.clamp(RETRY_INTERVAL, ATTEMPT_TIMEOUT)) {
            Ok(greeting) if greeting.server_name != server_name => {
                last = format!(
                    "another NATS server answers there ({})",
                    greeting.server_name
                );
            }
            Ok(greeting) if !greeting.jetstream => last = "JetStream is not on".to_owned(),
            Ok(greeting) => return Ok(greeting),
            Err(error) => last = error.to_string(),
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
}
