//! Reads stored outputs for requests: a few at a time, since each may take 64 MiB of memory.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use naq_client::{Client, ClientError, OutputStream, StoredOutput};
use naq_protocol::Record;

/// Number of stored objects that are in memory at once, until their clients have received them. More than one,
/// so that a slow client does not keep all others waiting.
const OBJECTS_MAX: usize = 4;

/// Reads outputs for all requests.
pub(super) struct OutputReads(Arc<Semaphore>);

impl Default for OutputReads {
    fn default() -> OutputReads {
        OutputReads(Arc::new(Semaphore::new(OBJECTS_MAX)))
    }
}

/// An output that was read.
pub(super) struct ReadOutput {
    pub(super) output: StoredOutput,
    /// Its place among the objects in memory. `None` if it comes from the record.
    _place: Option<OwnedSemaphorePermit>,
}

impl OutputReads {
    /// Reads what is stored of an output of a job. Waits while too many objects are in memory.
    ///
    /// # Errors
    /// Returns an error if the output is an object that cannot be read.
    pub(super) async fn read(
        &self,
        client: &Client,
        record: &Record,
        stream: OutputStream,
    ) -> Result<ReadOutput, ClientError> {
        let stored = match stream {
            OutputStream::Stdout => &record.stdout,
            OutputStream::Stderr => &record.stderr,
        };
        let is_object = stored
            .as_ref()
            .is_some_and(|output| output.object.is_some());
        let place = match is_object {
            // an error means that the semaphore is closed, which nothing does
            true => Arc::clone(&self.0).acquire_owned().await.ok(),
            false => None,
        };
        let output = client.read_output(record, stream).await?;
        Ok(ReadOutput {
            output,
            _place: place,
        })
    }
}
