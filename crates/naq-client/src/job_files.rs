//! Files that travel with jobs: uploads before them, artifacts after them.

use bytes::Bytes;
use naq_jetstream::{Broker, StoreFileError, StoredFile, StoredObject, UPLOAD_KEPT_MIN};
use naq_protocol::{Artifact, Timestamp};
use tokio::io::AsyncRead;

use super::{Client, ClientError};

/// What is kept of a file that a job has left, read part by part.
#[derive(Debug)]
pub struct ArtifactContent {
    broker: Broker,
    object: StoredObject,
    offset: u64,
    sequence: u64,
}

impl ArtifactContent {
    /// Its size, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.object.size_bytes
    }

    /// Reads the next part. `None` at the end.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if it cannot be read, or has another size than its description says.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.offset >= self.object.size_bytes {
            return Ok(None);
        }
        let reading = self
            .broker
            .read_object_chunk(&self.object, self.sequence, self.offset);
        let chunk = reading.await?;
        self.offset += chunk.bytes.len() as u64;
        self.sequence = chunk.sequence + 1;
        Ok(Some(chunk.bytes))
    }
}

impl Client {
    /// Whether a file is stored already, and kept until 30 days after `needed_at`, when a job that needs it
    /// starts.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer, or denies the request.
    pub async fn is_uploaded(
        &self,
        file: &StoredFile,
        needed_at: Timestamp,
    ) -> Result<bool, ClientError> {
        let kept_until = (needed_at.0)
            .checked_add_signed(chrono::Duration::from_std(UPLOAD_KEPT_MIN).unwrap_or_default());
        let stored = self.broker.find_upload(&file.digest).await?;
        Ok(stored.is_some_and(|stored| {
            let is_kept = kept_until.is_none_or(|time| stored.is_kept_until(Timestamp(time)));
            is_kept && stored.object.size_bytes == file.bytes
        }))
    }

    /// Uploads a file for jobs whose envelope names its digest. It is kept until 30 days after `needed_at`, when
    /// the job starts, and longer if another job needs it. `on_chunk` is called after each part.
    ///
    /// # Errors
    /// Returns [`StoreFileError::Changed`] if the content is not that of the digest, and
    /// [`StoreFileError::Broker`] if NATS refuses it.
    pub async fn upload(
        &self,
        file: &StoredFile,
        content: impl AsyncRead + Unpin,
        needed_at: Timestamp,
        on_chunk: impl FnMut(),
    ) -> Result<(), StoreFileError> {
        let now = self.now();
        self.broker
            .put_upload(file, content, now, needed_at, on_chunk)
            .await
    }

    /// Opens a file that a job has left.
    ///
    /// # Errors
    /// Returns [`BrokerError::NotFound`](crate::BrokerError::NotFound) if it is no longer stored.
    pub async fn open_artifact(&self, artifact: &Artifact) -> Result<ArtifactContent, ClientError> {
        Ok(ArtifactContent {
            broker: self.broker.clone(),
            object: self.broker.open_object(&artifact.object).await?,
            offset: 0,
            sequence: 1,
        })
    }
}
