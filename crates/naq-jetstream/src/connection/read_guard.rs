//! Closes a connection on which a message does not end.
//!
//! The client collects the bytes of a message until it is complete, without a bound: a broken or hostile
//! server would fill the memory of the process.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::AbortHandle;

/// Maximum number of bytes that may arrive without completing a message. The largest message that
/// nats-server can be configured for has 64 MiB.
const INCOMPLETE_BYTES_MAX: u64 = 72 << 20;

/// Time between two checks of the counters. Bytes that arrive in between add to the bound.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Watches a connection for as long as it is kept.
#[derive(Debug)]
pub(super) struct ReadGuard(AbortHandle);

impl ReadGuard {
    pub(super) fn of(client: async_nats::Client) -> ReadGuard {
        ReadGuard(tokio::spawn(watch(client)).abort_handle())
    }
}

impl Drop for ReadGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn watch(client: async_nats::Client) {
    let statistics = client.statistics();
    let (mut messages, mut complete_at) = (0, 0);
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let seen = statistics.in_messages.load(Ordering::Relaxed);
        let bytes = statistics.in_bytes.load(Ordering::Relaxed);
        if seen != messages {
            (messages, complete_at) = (seen, bytes);
        } else if bytes.saturating_sub(complete_at) > INCOMPLETE_BYTES_MAX {
            complete_at = bytes;
            tracing::error!("NATS sends a message without an end; the connection is closed");
            // the client drops what it has collected
            if client.force_reconnect().await.is_err() {
                return;
            }
        }
    }
}
