//! Which jobs belong to a flow: their names, kept under the flow's, to show them together.

use std::time::Duration;

use async_nats::HeaderMap;

use super::names::Names;
use super::stream_api::MessageSelector;
use super::{Broker, BrokerError};
use naq_protocol::JobId;

/// How long the list of a flow's jobs stays. The jobs themselves do not need it.
const FLOW_TTL: Duration = Duration::from_secs(30 * 86_400);

impl Broker {
    /// Keeps the names of a flow's jobs.
    ///
    /// # Errors
    /// Where the server refuses or does not answer.
    pub async fn write_flow(&self, flow: &JobId, names: &[&str]) -> Result<(), BrokerError> {
        let value = serde_json::to_vec(names).map_err(|error| {
            BrokerError::InvalidData(format!("cannot be written as JSON: {error}"))
        })?;
        let mut made = false;
        loop {
            let mut headers = HeaderMap::new();
            headers.insert(
                async_nats::header::NATS_MESSAGE_TTL,
                format!("{}s", FLOW_TTL.as_secs()),
            );
            let pending = self
                .send(self.names.flow(flow), headers, value.clone().into())
                .await?;
            match pending.confirmed().await {
                Err(BrokerError::NotFound(_)) if !made => {
                    made = true;
                    self.ensure_dependents().await?;
                }
                done => return done.map(|_| ()),
            }
        }
    }

    /// The names of a flow's jobs; none where no such flow is known.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn read_flow(&self, flow: &JobId) -> Result<Option<Vec<String>>, BrokerError> {
        let bucket = Names::bucket_stream(&self.names.dependents_bucket());
        let subject = self.names.flow(flow);
        let message = self
            .read_message(&bucket, MessageSelector::LastBySubject(&subject))
            .await?;
        Ok(message.and_then(|message| serde_json::from_slice(&message.payload()).ok()))
    }
}
