//! The object store `naq_files`: output, envelopes and files that do not fit into a message.

use tokio::io::AsyncReadExt;

use super::{Broker, BrokerError};

/// Maximum size of an object's chunks, in bytes.
const CHUNK_BYTES_MAX: usize = 128 << 10;

impl Broker {
    /// Stores bytes under a name, and replaces an earlier object of that name.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn put_object(&self, name: &str, bytes: &[u8]) -> Result<(), BrokerError> {
        const DOING: &str = "storing an object";
        let refused = |message: String| BrokerError::Refused {
            doing: DOING,
            message,
        };
        let bucket = self.names.files_bucket();
        let store = match self.jetstream.get_object_store(&bucket).await {
            Ok(store) => store,
            Err(_) => self
                .jetstream
                .create_object_store(async_nats::jetstream::object_store::Config {
                    bucket,
                    description: Some("output, envelopes and files over a message's size".into()),
                    num_replicas: self.options.replicas,
                    ..Default::default()
                })
                .await
                .map_err(|error| refused(error.to_string()))?,
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
            .map_err(|error| refused(error.to_string()))?;
        Ok(())
    }

    /// Reads the object of this name.
    ///
    /// # Errors
    /// Returns [`BrokerError::NotFound`] if the object does not exist.
    pub async fn get_object(&self, name: &str) -> Result<Vec<u8>, BrokerError> {
        let missing = || BrokerError::NotFound(format!("the object `{name}`"));
        let store = self
            .jetstream
            .get_object_store(self.names.files_bucket())
            .await
            .map_err(|_| missing())?;
        let mut object = store.get(name).await.map_err(|_| missing())?;
        let mut bytes = Vec::with_capacity(object.info.size);
        object
            .read_to_end(&mut bytes)
            .await
            .map_err(|error| BrokerError::Refused {
                doing: "reading an object",
                message: error.to_string(),
            })?;
        Ok(bytes)
    }

    /// Removes the object of this name; does nothing if it does not exist.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn remove_object(&self, name: &str) -> Result<(), BrokerError> {
        let Ok(store) = self
            .jetstream
            .get_object_store(self.names.files_bucket())
            .await
        else {
            return Ok(());
        };
        match store.delete(name).await {
            Ok(()) => Ok(()),
            Err(error) if error.to_string().contains("not found") => Ok(()),
            Err(error) => Err(BrokerError::Refused {
                doing: "removing an object",
                message: error.to_string(),
            }),
        }
    }
}
