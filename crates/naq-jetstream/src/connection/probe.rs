//! Finds out what listens at an address that accepts connections and sends no greeting of NATS.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connect_failure::ConnectFailure;

/// Time limit of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Finds out why no greeting came from an address: a NATS server speaks first, and an HTTP server
/// waits for a request. `None` if the probe shows no more than the missing greeting did.
pub(super) async fn explain_silence(url: &str) -> Option<(ConnectFailure, String)> {
    let address = url.trim().parse::<async_nats::ServerAddr>().ok()?;
    let host = address.host().trim_matches(['[', ']']).to_owned();
    let probe = async {
        let mut stream = TcpStream::connect((host, address.port())).await.ok()?;
        let request = format!("GET / HTTP/1.0\r\nHost: {}\r\n\r\n", address.host());
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.ok()?;
        Some(answer)
    };
    let answer = tokio::time::timeout(PROBE_TIMEOUT, probe).await.ok()??;
    (answer == *b"HTTP/").then(|| {
        let problem = "it is an HTTP server and no NATS server".to_owned();
        (ConnectFailure::NotNats, problem)
    })
}
