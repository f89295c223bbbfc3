//! The clock of the server, which schedulers of several machines have in common.

use async_nats::jetstream::ErrorCode;
use serde::Deserialize;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use naq_protocol::Timestamp;

const DOING: &str = "reading the server's clock";

impl Broker {
    /// Reads the clock of the server that leads the stream of the leader lease. Creates the stream if
    /// it does not exist.
    ///
    /// # Errors
    /// Returns an error if the server does not answer or refuses.
    pub async fn server_time(&self) -> Result<Timestamp, BrokerError> {
        let bucket = self.names.leader_lease_bucket();
        if let Some(now) = self.time_of_leader(&bucket).await? {
            return Ok(now);
        }
        // No scheduler has run on this server yet.
        self.ensure_leader_lease().await?;
        self.time_of_leader(&bucket)
            .await?
            .ok_or(BrokerError::Timeout(DOING))
    }

    /// Reads the clock of the server that leads the stream of the leader lease or, if no scheduler has
    /// run yet, that of the records. `None` if neither exists. Creates nothing.
    ///
    /// # Errors
    /// Returns an error if the server does not answer or refuses.
    pub async fn read_server_time(&self) -> Result<Option<Timestamp>, BrokerError> {
        match self
            .time_of_leader(&self.names.leader_lease_bucket())
            .await?
        {
            Some(now) => Ok(Some(now)),
            None => self.time_of_leader(&self.names.results_bucket()).await,
        }
    }

    /// The clock of the server that leads a bucket's stream. `None` if the stream does not exist.
    async fn time_of_leader(&self, bucket: &str) -> Result<Option<Timestamp>, BrokerError> {
        #[derive(Deserialize)]
        struct Now {
            ts: Timestamp,
        }
        let subject = format!("STREAM.INFO.{}", Names::bucket_stream(bucket));
        match self
            .api_request::<Now>(subject, &serde_json::json!({}), DOING)
            .await?
        {
            Ok(now) => Ok(Some(now.ts)),
            Err(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            Err(error) => Err(BrokerError::from_api(&error, DOING)),
        }
    }
}
