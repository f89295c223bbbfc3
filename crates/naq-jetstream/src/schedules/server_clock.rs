//! The clock of the server, which schedulers of several machines have in common.

use async_nats::jetstream::ErrorCode;
use serde::Deserialize;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use naq_protocol::Timestamp;

const DOING: &str = "reading the server's clock";

impl Broker {
    /// Reads the clock of the server that leads the stream of the leader lease.
    ///
    /// # Errors
    /// Returns an error if the server does not answer or refuses.
    pub async fn server_time(&self) -> Result<Timestamp, BrokerError> {
        #[derive(Deserialize)]
        struct Now {
            ts: Timestamp,
        }
        let stream = Names::bucket_stream(&self.names.leader_lease_bucket());
        let read = async || {
            let subject = format!("STREAM.INFO.{stream}");
            self.api_request::<Now>(subject, &serde_json::json!({}), DOING)
                .await
        };
        let mut now = read().await?;
        if matches!(&now, Err(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND) {
            // No scheduler has run on this server yet.
            self.ensure_leader_lease().await?;
            now = read().await?;
        }
        let now = now.map_err(|error| BrokerError::from_api(&error, DOING))?;
        Ok(now.ts)
    }
}
