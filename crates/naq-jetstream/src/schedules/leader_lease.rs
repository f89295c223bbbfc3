//! The lease that makes one scheduler the leader.

use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use crate::stream::publish::{removal_headers, revision_headers};
use crate::stream::stream_api::MessageSelector;
use crate::watch::{Parsed, Watch, WatchEvent, sequence};
use naq_protocol::LeaderInfo;

/// The stored leader lease.
#[derive(Clone, Debug)]
pub struct StoredLeaderLease {
    /// The current leader. `None` if there is none.
    pub leader: Option<LeaderInfo>,
    /// The revision at which the lease can be acquired.
    pub revision: u64,
}

/// A watch on the leader lease.
pub type LeaderLeaseWatch = Watch<StoredLeaderLease>;

/// An event of a leader lease watch: the lease was acquired, renewed or released.
pub type LeaderLeaseEvent = WatchEvent<StoredLeaderLease>;

/// Parses the republished lease. Sequences are not compared: only the latest lease counts.
fn parse_leader_lease(_: &Names, message: Message) -> Parsed<StoredLeaderLease> {
    let lease = sequence(&message).map(|revision| StoredLeaderLease {
        leader: serde_json::from_slice(&message.payload).ok(),
        revision,
    });
    Parsed::unordered(lease)
}

impl Broker {
    /// Watches the leader lease.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn watch_leader_lease(&self) -> Result<LeaderLeaseWatch, BrokerError> {
        self.ensure_leader_lease().await?;
        let subjects = vec![self.names.leader_lease_events()];
        Watch::open(self, subjects, parse_leader_lease).await
    }

    /// Reads the leader lease from the server that leads its stream.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn read_leader_lease(&self) -> Result<StoredLeaderLease, BrokerError> {
        let stream = Names::bucket_stream(&self.names.leader_lease_bucket());
        let subject = self.names.leader_lease();
        let message = self
            .read_message(&stream, MessageSelector::LastBySubject(&subject))
            .await?;
        Ok(match message {
            Some(message) => StoredLeaderLease {
                leader: serde_json::from_slice(&message.payload()).ok(),
                revision: message.sequence,
            },
            None => StoredLeaderLease {
                leader: None,
                revision: 0,
            },
        })
    }

    /// Acquires or renews the leader lease, if its revision is still `expected`; it expires after
    /// `ttl`, in whole seconds. Returns the new revision.
    ///
    /// # Errors
    /// Returns [`BrokerError::Conflict`] if the lease has changed.
    pub async fn acquire_leader_lease(
        &self,
        leader: &LeaderInfo,
        expected: u64,
        ttl: Duration,
    ) -> Result<u64, BrokerError> {
        let payload = serde_json::to_vec(leader)
            .map_err(|error| BrokerError::not_json("the leader lease", error))?;
        let headers = revision_headers(expected, Some(ttl));
        let sent = self
            .send(self.names.leader_lease(), headers, payload.into())
            .await?;
        let acquired = self.confirm_schedule(sent).await;
        if let Err(BrokerError::NotFound(_)) = acquired {
            // The bucket was removed, and the lease with it. The next scheduler that asks gets the lease: this
            // one does not lead any more by the lease that it had.
            self.ensure_leader_lease().await?;
            return Err(BrokerError::Conflict);
        }
        acquired
    }

    /// Releases the leader lease if its revision is still `expected`.
    ///
    /// # Errors
    /// Returns [`BrokerError::Conflict`] if another scheduler has already acquired it.
    pub async fn release_leader_lease(&self, expected: u64) -> Result<(), BrokerError> {
        let sent = self
            .send(
                self.names.leader_lease(),
                removal_headers(expected),
                Bytes::new(),
            )
            .await?;
        self.confirm_schedule(sent).await.map(|_| ())
    }
}
