//! Whether the server refuses connections, which tells a server that is down from a network that
//! is cut.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::broker::Broker;

/// How long a server on this machine may take to accept or refuse a connection.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

impl Broker {
    /// Whether a refused connection proves that the server is down for everybody: all addresses are
    /// on this machine, and the server belongs to no cluster and has JetStream itself. Elsewhere a load balancer, a tunnel or
    /// a server that has moved refuses a connection although others are served.
    #[must_use]
    pub fn refusal_means_down(&self) -> bool {
        let info = self.client.server_info();
        // A leaf node passes requests on to the JetStream of another server, maybe by its domain.
        let is_own =
            self.options.jetstream_domain.is_none() || self.options.jetstream_domain == info.domain;
        self.options.is_local() && info.cluster.is_none() && info.jetstream && is_own
    }

    /// Tries to connect to every address of NATS. Returns true if all of them refuse.
    pub async fn is_refused(&self) -> bool {
        for url in self.options.url.split(',') {
            let Ok(address) = url.trim().parse::<async_nats::ServerAddr>() else {
                return false;
            };
            let target = (
                address.host().trim_matches(['[', ']']).to_owned(),
                address.port(),
            );
            let connecting = TcpStream::connect(target);
            match tokio::time::timeout(PROBE_TIMEOUT, connecting).await {
                Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {}
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }
}
