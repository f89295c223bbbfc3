//! Which jobs belong to a flow: their names, stored under the flow's id, to show them together.

use std::time::Duration;

use async_nats::HeaderMap;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use crate::stream::stream_api::MessageSelector;
use naq_protocol::JobId;

/// How long the names of a flow's jobs are kept. The jobs themselves do not need them.
const FLOW_TTL: Duration = Duration::from_secs(30 * 86_400);

impl Broker {
    /// Stores the names of a flow's jobs.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request or does not answer.
    pub async fn write_flow(&self, flow: &JobId, names: &[&str]) -> Result<(), BrokerError> {
        let value =
            serde_json::to_vec(names).map_err(|error| BrokerError::not_json("the value", error))?;
        let mut headers = HeaderMap::new();
        let ttl = format!("{}s", FLOW_TTL.as_secs());
        headers.insert(async_nats::header::NATS_MESSAGE_TTL, ttl);
        let ensure = || self.ensure_dependents();
        self.store_creating(self.names.flow(flow), headers, value.into(), ensure)
            .await
            .map(drop)
    }

    /// Reads the names of a flow's jobs. `None` if there is no such flow.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn read_flow(&self, flow: &JobId) -> Result<Option<Vec<String>>, BrokerError> {
        let bucket = Names::bucket_stream(&self.names.dependents_bucket());
        let subject = self.names.flow(flow);
        let message = self
            .read_message(&bucket, MessageSelector::LastBySubject(&subject))
            .await?;
        Ok(message.and_then(|message| serde_json::from_slice(&message.payload()).ok()))
    }
}
