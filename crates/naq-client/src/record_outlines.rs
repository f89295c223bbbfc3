//! Bulk reads of all records, for a program that keeps an index of them.

use super::{Client, ClientError};
use naq_jetstream::{OutlinedRecord, RecordBucketState};

/// The outlines of all records. [`Client::record_outlines`] returns it.
pub struct RecordOutlines(naq_jetstream::RecordOutlines);

impl RecordOutlines {
    /// Returns the last revision of the bucket when the read began.
    #[must_use]
    pub fn last_revision(&self) -> u64 {
        self.0.last_revision()
    }

    /// Returns the next one, in the order of revisions. `None` at the end, which includes what was stored
    /// meanwhile.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn next(&mut self) -> Result<Option<OutlinedRecord>, ClientError> {
        Ok(self.0.next().await?)
    }
}

impl Client {
    /// Reads the outlines of all records, by which jobs can be found. A record that changes meanwhile may be
    /// returned twice, or only at its later revision; the larger revision is the newer one.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn record_outlines(&self) -> Result<RecordOutlines, ClientError> {
        Ok(RecordOutlines(self.broker.record_outlines().await?))
    }

    /// Returns the state of the bucket of records. `None` means that it does not exist.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn record_bucket_state(&self) -> Result<Option<RecordBucketState>, ClientError> {
        Ok(self.broker.record_bucket_state().await?)
    }
}
