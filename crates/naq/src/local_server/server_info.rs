//! The greeting of a nats-server (its `INFO` line), which shows that the server runs and which one it is.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::certificate::{BoundedStream, RequiredProof};

/// Delay between two attempts to connect to a starting server. It is ready in some 15 ms, and no event
/// announces that.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// Time limit of one attempt, so that cancellation is checked between attempts.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(500);

/// Maximum length of a greeting, in bytes. A real one has some 400, more in a cluster.
const INFO_BYTES_MAX: u64 = 64 * 1024;

/// The fields of the greeting that naq uses.
#[derive(Debug, Deserialize)]
pub(super) struct ServerInfo {
    /// The name from the configuration.
    #[serde(default)]
    pub(super) server_name: String,
    /// The server's version.
    #[serde(default)]
    pub(super) version: String,
    /// Whether JetStream is enabled.
    #[serde(default)]
    pub(super) jetstream: bool,
    /// Whether the kernel shows that it is the process which it has to be.
    #[serde(skip)]
    pub(super) is_process_shown: bool,
}

/// The address of a managed server.
pub(super) fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Connects once and reads the greeting, within `limit`. A greeting goes to everybody and so proves nothing:
/// with `proof`, the server has to prove that it is the one of the data folder.
pub(super) fn read(
    port: u16,
    proof: Option<&RequiredProof>,
    limit: Duration,
) -> io::Result<ServerInfo> {
    let stream = TcpStream::connect_timeout(&address(port), limit)?;
    let mut stream = BoundedStream::new(stream, limit);
    let mut line = String::new();
    // Nothing is lost with the buffer: after its greeting, a server waits for the client.
    BufReader::new((&mut stream).take(INFO_BYTES_MAX)).read_line(&mut line)?;
    let other = |why: String| io::Error::new(ErrorKind::InvalidData, why);
    let json = line
        .strip_prefix("INFO ")
        .ok_or_else(|| other("the program that answers there is not a NATS server".to_owned()))?;
    let mut greeting: ServerInfo = serde_json::from_str(json)
        .map_err(|error| other(format!("its greeting is malformed: {error}")))?;
    if let Some(proof) = proof {
        greeting.is_process_shown = proof.verify(address(port), &mut stream).map_err(|error| {
            other(format!(
                "it does not prove that it is the server of this data folder ({error})"
            ))
        })?;
    }
    Ok(greeting)
}

/// Waits until the server of this name greets, with JetStream enabled, and proves what `proof` requires.
///
/// Calls `cancelled` between attempts; `Some` ends the wait with that reason.
pub(super) fn wait_until_ready(
    port: u16,
    server_name: &str,
    proof: Option<&RequiredProof>,
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
        let limit = left.clamp(RETRY_INTERVAL, ATTEMPT_TIMEOUT);
        match read(port, proof, limit) {
            Ok(greeting) if greeting.server_name != server_name => {
                last = format!(
                    "another NATS server answers there ({})",
                    greeting.server_name
                );
            }
            Ok(greeting) if !greeting.jetstream => last = "JetStream is not enabled".to_owned(),
            Ok(greeting) => return Ok(greeting),
            Err(error) => last = error.to_string(),
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
}
