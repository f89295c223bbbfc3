//! The object store `naq_files`: output, envelopes and files that do not fit into a message.

use async_nats::jetstream::object_store::{DeleteErrorKind, GetErrorKind};
use tokio::io::AsyncReadExt;

use crate::broker::Broker;
use crate::error::{BrokerError, is_object_store_not_found};

/// Maximum size of an object's chunks, in bytes.
const CHUNK_BYTES_MAX: usize = 128 << 10;

impl Broker {
    /// Stores bytes under a name, and replaces an earlier object of that name.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn put_object(&self, name: &str, bytes: &[u8]) -> Result<(), BrokerError> {
        const DOING: &str = "storing an object";
        let bucket = self.names.files_bucket();
        let about = format!("OBJ_{bucket}");
        let looking = self.jetstream.get_object_store(&bucket);
        let store = match self.until_denied(DOING, &about, looking).await? {
            Ok(store) => store,
            Err(_) => {
                self.ensure_files().await?;
                let made = self.jetstream.get_object_store(&bucket);
                self.until_denied(DOING, &about, made)
                    .await?
                    .map_err(|error| self.request_error(DOING, error))?
            }
        };
        let object = async_nats::jetstream::object_store::ObjectMetadata {
            name: name.to_owned(),
            // the client's default may be more than this server accepts in a message
            chunk_size: Some(CHUNK_BYTES_MAX.min(self.message_bytes_max() / 2)),
            ..Default::default()
        };
        let mut reader = bytes;
        store
            .put(object, &mut reader)
            .await
            .map_err(|error| self.request_error(DOING, error))?;
        Ok(())
    }

    /// Reads the object of this name.
    ///
    /// # Errors
    /// Returns [`BrokerError::NotFound`] if the object does not exist.
    pub async fn get_object(&self, name: &str) -> Result<Vec<u8>, BrokerError> {
        const DOING: &str = "reading an object";
        let missing = || BrokerError::NotFound(format!("the object `{name}`"));
        let bucket = self.names.files_bucket();
        let about = format!("OBJ_{bucket}");
        let looking = self.jetstream.get_object_store(bucket);
        let store = self
            .until_denied(DOING, &about, looking)
            .await?
            .map_err(|error| {
                if is_object_store_not_found(&error) {
                    missing()
                } else {
                    self.request_error(DOING, error)
                }
            })?;
        let getting = self.until_denied(DOING, &about, store.get(name));
        let mut object = getting.await?.map_err(|error| match error.kind() {
            GetErrorKind::NotFound => missing(),
            _ => self.request_error(DOING, error),
        })?;
        let mut bytes = Vec::with_capacity(object.info.size);
        object
            .read_to_end(&mut bytes)
            .await
            .map_err(|error| self.request_error(DOING, error))?;
        Ok(bytes)
    }

    /// Removes the object of this name; does nothing if it does not exist.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn remove_object(&self, name: &str) -> Result<(), BrokerError> {
        const DOING: &str = "removing an object";
        let bucket = self.names.files_bucket();
        let about = format!("OBJ_{bucket}");
        let looking = self.jetstream.get_object_store(bucket);
        let store = match self.until_denied(DOING, &about, looking).await? {
            Ok(store) => store,
            Err(error) if is_object_store_not_found(&error) => return Ok(()),
            Err(error) => return Err(self.request_error(DOING, error)),
        };
        match store.delete(name).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == DeleteErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.request_error(DOING, error)),
        }
    }
}
