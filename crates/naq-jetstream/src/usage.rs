//! Data for metrics: the storage of the account, and since when jobs are queued.

use async_nats::jetstream::ErrorCode;
use serde::Deserialize;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::stream::stream_api::MessageSelector;
use naq_protocol::{QueueName, Timestamp};

/// The storage that an account uses in JetStream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageUsage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes that the account may store on disk. `None` means that only the servers' disks limit it.
    pub bytes_max: Option<u64>,
}

#[derive(Deserialize)]
struct AccountReply {
    storage: u64,
    limits: AccountLimits,
}

#[derive(Deserialize)]
struct AccountLimits {
    /// -1 without a limit.
    max_storage: i64,
}

impl From<AccountReply> for StorageUsage {
    fn from(reply: AccountReply) -> StorageUsage {
        StorageUsage {
            bytes: reply.storage,
            bytes_max: u64::try_from(reply.limits.max_storage)
                .ok()
                .filter(|max| *max > 0),
        }
    }
}

impl Broker {
    /// Reads the storage that this connection's account uses in JetStream.
    ///
    /// # Errors
    /// Returns [`BrokerError::PermissionDenied`] if the user may not read it, and another error if the server
    /// does not answer.
    pub async fn storage_usage(&self) -> Result<StorageUsage, BrokerError> {
        const DOING: &str = "reading how much is stored";
        let reply = self
            .api_request::<AccountReply>("INFO".to_owned(), &serde_json::json!({}), DOING)
            .await?;
        let reply = reply.map_err(|error| BrokerError::from_api(&error, DOING))?;
        Ok(reply.into())
    }

    /// Reads the number of dead letters.
    ///
    /// # Errors
    /// Returns an error if the server does not answer, or denies the read.
    pub async fn count_dead_letters(&self) -> Result<u64, BrokerError> {
        const DOING: &str = "counting failed jobs";
        #[derive(Deserialize)]
        struct StreamReply {
            state: StreamState,
        }
        #[derive(Deserialize)]
        struct StreamState {
            messages: u64,
        }
        let request = format!("STREAM.INFO.{}", self.names.dead_letter_stream());
        match self
            .api_request::<StreamReply>(request, &serde_json::json!({}), DOING)
            .await?
        {
            Ok(reply) => Ok(reply.state.messages),
            Err(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(0),
            Err(error) => Err(BrokerError::from_api(&error, DOING)),
        }
    }

    /// Reads the time since which the first job that no worker has received is queued. `None` if no such job
    /// exists. Jobs that require labels do not count.
    ///
    /// # Errors
    /// Returns an error if the server does not answer, or denies the read.
    pub async fn oldest_queued(&self, queue: &QueueName) -> Result<Option<Timestamp>, BrokerError> {
        let consumers = self.consumers(queue).await?;
        let main = self.names.worker_consumer();
        let delivered = consumers
            .iter()
            .find(|consumer| consumer.name == main)
            .map_or(0, |consumer| consumer.delivered.stream_sequence);
        let stream = self.names.queue_stream(queue);
        let mut oldest: Option<Timestamp> = None;
        for subject in [self.names.jobs(queue), self.names.job_without_id(queue)] {
            let next = MessageSelector::NextBySubject(&subject, delivered + 1);
            if let Some(message) = self.read_message(&stream, next).await? {
                oldest = Some(oldest.map_or(message.time, |time| time.min(message.time)));
            }
        }
        Ok(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_without_a_limit_has_none() {
        for (limit, expected) in [(-1, None), (0, None), (1_000, Some(1_000))] {
            let text = format!(
                r#"{{"memory":0,"storage":12,"limits":{{"max_memory":-1,"max_storage":{limit}}}}}"#
            );
            let reply: AccountReply = serde_json::from_str(&text).unwrap();
            let usage = StorageUsage::from(reply);
            assert_eq!((usage.bytes, usage.bytes_max), (12, expected));
        }
    }
}
