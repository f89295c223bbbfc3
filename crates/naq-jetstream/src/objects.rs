//! The object store `naq_files`: what does not fit a message.

use tokio::io::AsyncReadExt;

use super::{Broker, BrokerError};

/// The largest piece that objects are cut into, in bytes.
const CHUNK_BYTES_MAX: usize = 128 << 10;

impl Broker {
    /// Stores bytes under a name, in place of what was there.
    ///
    /// # Errors
    /// Where the server refuses.
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
            // the client's own choice may be more than this server takes in a message
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

    /// Reads what is stored under a name.
    ///
    /// # Errors
    /// [`BrokerError::NotFound`] where there is nothing.
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

    /// Removes what is stored under a name; nothing where there is nothing.
    ///
    /// # Errors
    /// Where the server refuses.
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
