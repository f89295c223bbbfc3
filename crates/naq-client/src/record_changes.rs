//! Changes of records by a durable consumer: each is handled at least once.

use super::ClientError;
use naq_jetstream::RecordChangeDelivery;

/// The changes of records under a durable name. [`Client::consume_record_changes`] returns it.
///
/// [`Client::consume_record_changes`]: crate::Client::consume_record_changes
pub struct RecordChangeConsumer(pub(crate) naq_jetstream::RecordChangeConsumer);

impl RecordChangeConsumer {
    /// Waits for the next change. Cancel safe: a change that was received and then dropped is
    /// redelivered.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if the consumer was removed.
    pub async fn next(&mut self) -> Result<RecordChangeDelivery, ClientError> {
        Ok(self.0.next().await?)
    }

    /// Returns whether every change up to a revision is acknowledged.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn is_acknowledged(&self, revision: u64) -> Result<bool, ClientError> {
        Ok(self.0.is_acknowledged(revision).await?)
    }
}
