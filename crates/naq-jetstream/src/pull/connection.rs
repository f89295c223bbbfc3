//! The connection of a worker's deliveries.

use async_nats::Subscriber;

use crate::broker::Broker;
use crate::connection::connect::{ConnectionPurpose, RECONNECT_BACKOFF, open};
use crate::connection::state::ConnectionWatch;
use crate::error::BrokerError;

pub(super) struct ReplyInbox {
    pub(super) inbox: String,
    pub(super) subscriber: Subscriber,
}

impl ReplyInbox {
    pub(super) async fn open(client: &async_nats::Client) -> Result<ReplyInbox, BrokerError> {
        let inbox = client.new_inbox();
        let subscriber = client
            .subscribe(format!("{inbox}.*.*"))
            .await
            .map_err(BrokerError::connection_lost)?;
        Ok(ReplyInbox { inbox, subscriber })
    }
}

/// The connection of the deliveries, with its subscriptions.
pub(super) struct PullConnection {
    pub(super) client: async_nats::Client,
    pub(super) link: ConnectionWatch,
    /// Reply subjects of the open requests, and of those that are answered at once.
    pub(super) expiring: ReplyInbox,
    pub(super) no_wait: ReplyInbox,
}

impl PullConnection {
    pub(super) async fn open(broker: &Broker) -> Result<PullConnection, BrokerError> {
        let (client, link) = open(&broker.options, ConnectionPurpose::Deliveries).await?;
        Ok(PullConnection {
            expiring: ReplyInbox::open(&client).await?,
            no_wait: ReplyInbox::open(&client).await?,
            client,
            link,
        })
    }

    /// Opens a connection, and retries until it succeeds.
    pub(super) async fn open_with_retry(broker: Broker) -> PullConnection {
        let mut failures = 0;
        loop {
            match PullConnection::open(&broker).await {
                Ok(connection) => return connection,
                Err(error) => {
                    tracing::debug!("cannot open the connection for deliveries yet: {error}")
                }
            }
            failures += 1;
            tokio::time::sleep(RECONNECT_BACKOFF.pause(failures, rand::random())).await;
        }
    }
}
