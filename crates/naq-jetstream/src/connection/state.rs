//! The state of a connection, and a watch on it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::denial::{DenialWatch, Denials};
use super::read_guard::ReadGuard;

/// The state of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionState {
    /// Whether the connection is open now.
    pub connected: bool,
    /// When it was opened. `None` before the first connection.
    pub connected_at: Option<Instant>,
    /// Number of connections so far, plus the number of times that messages were dropped because
    /// they arrived faster than they were read. After a change, messages may have been lost.
    pub generation: u64,
    /// Number of connections so far.
    pub connections: u64,
    /// Number of times that the connection was lost without an error from the server.
    pub disconnects: u64,
}

/// A watch on the state of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionWatch {
    state: watch::Receiver<ConnectionState>,
    denials: watch::Receiver<Denials>,
    _guard: Arc<ReadGuard>,
}

impl ConnectionWatch {
    pub(super) fn new(
        state: watch::Receiver<ConnectionState>,
        denials: watch::Receiver<Denials>,
        guard: ReadGuard,
    ) -> ConnectionWatch {
        ConnectionWatch {
            state,
            denials,
            _guard: Arc::new(guard),
        }
    }

    /// Waits for the first connection.
    pub(crate) async fn first_connection(&mut self) {
        drop(self.state.wait_for(|state| state.generation > 0).await);
    }

    /// A watch on what the server denies from now on.
    pub(crate) fn denials(&self) -> DenialWatch {
        DenialWatch::new(self.denials.clone())
    }

    /// The current state.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        self.state.borrow().clone()
    }

    /// The current state, marked as seen: [`changed`](Self::changed) reports only later changes.
    pub fn mark_seen(&mut self) -> ConnectionState {
        self.state.borrow_and_update().clone()
    }

    /// Calls `show` with the current state, and again after each change. Never returns.
    pub async fn follow(mut self, mut show: impl FnMut(ConnectionState)) {
        show(self.mark_seen());
        loop {
            show(self.changed().await);
        }
    }

    /// Waits until the state differs from the last one seen through this watch. Cancel safe.
    pub async fn changed(&mut self) -> ConnectionState {
        if self.state.changed().await.is_err() {
            // the client is closed: the state never changes again
            std::future::pending::<()>().await;
        }
        self.state.borrow_and_update().clone()
    }
}
