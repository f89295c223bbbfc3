//! The connection that everything else of this crate is a method of.

use std::sync::Arc;
use std::time::Duration;

use crate::connection::options::ConnectOptions;
use crate::connection::state::ConnectionWatch;
use crate::error::BrokerError;
use crate::layout::memory::LayoutMemory;
use crate::names::Names;
use crate::request_timings::{RequestObserver, RequestTimings};
use crate::slot_queues::SlotQueues;

/// A connection to NATS with naq's layout on it. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    pub(crate) client: async_nats::Client,
    pub(crate) jetstream: async_nats::jetstream::Context,
    pub(crate) names: Arc<Names>,
    /// Prefix of the subjects of the JetStream API.
    pub(crate) api_prefix: Arc<str>,
    pub(crate) link: ConnectionWatch,
    /// The streams as this process has seen them.
    pub(crate) layout: Arc<LayoutMemory>,
    /// Who learns how long the server takes to answer.
    pub(crate) timings: RequestTimings,
    /// The options to open further connections with.
    pub(crate) options: Arc<ConnectOptions>,
    /// Changes of concurrency slots that are written together.
    pub(crate) slot_queues: Arc<SlotQueues>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// The names of streams, buckets and subjects on this connection.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Calls `observer` with each request that the server answers from now on.
    pub fn observe_requests(&self, observer: RequestObserver) {
        self.timings.add(observer);
    }

    /// The state of the connection.
    #[must_use]
    pub fn connection(&self) -> &ConnectionWatch {
        &self.link
    }

    /// Maximum size of a message including headers, in bytes, as the server announces it.
    #[must_use]
    pub fn message_bytes_max(&self) -> usize {
        self.client.max_payload()
    }

    /// The server's version and address, for people.
    #[must_use]
    pub fn server(&self) -> String {
        let info = self.client.server_info();
        format!(
            "nats-server {} at {}:{}",
            info.version, info.host, info.port
        )
    }

    /// Subscribes to a subject.
    pub(crate) async fn subscribe(
        &self,
        subject: String,
    ) -> Result<async_nats::Subscriber, BrokerError> {
        self.client
            .subscribe(subject)
            .await
            .map_err(BrokerError::connection_lost)
    }

    /// Waits until everything sent so far has left this process.
    ///
    /// # Errors
    /// Returns [`BrokerError::ConnectionLost`] if the connection is closed.
    pub async fn flush(&self) -> Result<(), BrokerError> {
        // a server that reads nothing more would block it
        let flushing = tokio::time::timeout(REQUEST_TIMEOUT, self.client.flush());
        let flushed = flushing.await.map_err(BrokerError::connection_lost)?;
        flushed.map_err(BrokerError::connection_lost)
    }
}

/// Timeout of a request to the server.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
