//! The object store `naq_files`: output, envelopes and files that do not fit into a message.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::object_store::GetErrorKind;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::broker::Broker;
use crate::error::{BrokerError, is_object_store_not_found};
use crate::stream::stream_api::MessageSelector;
use naq_protocol::JobId;

/// Maximum size of an object's chunks, in bytes.
const CHUNK_BYTES_MAX: usize = 128 << 10;

/// Maximum size of an object that is read, in bytes.
const OBJECT_BYTES_MAX: usize = 1 << 30;

/// Time limit for a whole chunk, in however many parts it arrives. So reading an object of this size takes a
/// bounded time.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

impl Broker {
    /// Stores bytes under a name, and replaces an earlier object of that name.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn put_object(&self, name: &str, bytes: &[u8]) -> Result<(), BrokerError> {
        const DOING: &str = "storing an object";
        let bucket = self.names.files_bucket();
        let about = object_stream(&bucket);
        let looking = self.jetstream.get_object_store(&bucket);
        if self.until_denied(DOING, &about, looking).await?.is_err() {
            self.ensure_files().await?;
        }
        let (stream, subject) = (object_stream(&bucket), meta_subject(&bucket, name));
        let replaced = self.object_info(&stream, &subject).await?;
        let id = JobId::generate().to_string();
        let chunks = chunks_subject(&bucket, &id);
        let stored = self.publish_object(name, &id, bytes).await;
        if let Err(error) = stored {
            // Without its description nothing would ever remove the part that is stored. The caller
            // may try again, and in a store that is full each try would take what little room there is.
            let _ = self.purge_subjects(&stream, &chunks, None).await;
            return Err(error);
        }
        if let Some(replaced) = replaced {
            let chunks = chunks_subject(&bucket, &replaced.id);
            self.purge_subjects(&stream, &chunks, None).await?;
        }
        Ok(())
    }

    /// Publishes an object's chunks, then its description.
    async fn publish_object(&self, name: &str, id: &str, bytes: &[u8]) -> Result<(), BrokerError> {
        let bucket = self.names.files_bucket();
        // the default of clients may be more than this server accepts in a message
        let chunk_bytes = CHUNK_BYTES_MAX.min(self.message_bytes_max() / 2);
        let subject = chunks_subject(&bucket, id);
        let mut count = 0;
        for chunk in bytes.chunks(chunk_bytes) {
            let chunk = Bytes::copy_from_slice(chunk);
            self.store(subject.clone(), HeaderMap::new(), chunk).await?;
            count += 1;
        }
        let description = serde_json::json!({
            "name": name,
            "options": {"max_chunk_size": chunk_bytes},
            "bucket": bucket,
            "nuid": id,
            "size": bytes.len(),
            "chunks": count,
            "digest": format!("SHA-256={}", URL_SAFE.encode(Sha256::digest(bytes))),
        });
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_ROLLUP, "sub");
        let payload = description.to_string().into();
        let stored = self.store(meta_subject(&bucket, name), headers, payload);
        stored.await.map(drop)
    }

    /// Reads the description of a stored object. `None` if it does not exist.
    async fn object_info(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<ObjectInfo>, BrokerError> {
        let message = self
            .read_message(stream, MessageSelector::LastBySubject(subject))
            .await?;
        Ok(message
            .and_then(|message| ObjectInfo::read(&message.payload()))
            .filter(|info| !info.is_deleted))
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
        let object = getting.await?.map_err(|error| match error.kind() {
            GetErrorKind::NotFound => missing(),
            _ => self.request_error(DOING, error),
        })?;
        // the description may name any size
        let size = object.info.size.min(OBJECT_BYTES_MAX);
        read_object(object, size, CHUNK_TIMEOUT)
            .await
            .map_err(|error| match error {
                ObjectError::Io(error) => self.request_error(DOING, error),
                ObjectError::TimedOut => BrokerError::Timeout(DOING),
                ObjectError::TooLarge => {
                    let reason = "it is larger than its description says, or than 1 GiB";
                    BrokerError::unreadable("an object", reason)
                }
            })
    }

    /// Removes the object of this name; does nothing if it does not exist. It leaves no marker, so it
    /// needs no room.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn remove_object(&self, name: &str) -> Result<(), BrokerError> {
        let bucket = self.names.files_bucket();
        let (stream, subject) = (object_stream(&bucket), meta_subject(&bucket, name));
        if let Some(info) = self.object_info(&stream, &subject).await? {
            let chunks = chunks_subject(&bucket, &info.id);
            self.purge_subjects(&stream, &chunks, None).await?;
        }
        self.purge_subjects(&stream, &subject, None).await.map(drop)
    }
}

/// A stored object whose content is read chunk by chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    stream: String,
    /// Subject of its chunks.
    chunks: String,
    /// Its id. Another object that replaces it under the same name has another id.
    pub id: String,
    /// Its size, in bytes, as its description says.
    pub size_bytes: u64,
}

/// A chunk of a stored object.
#[derive(Clone, Debug)]
pub struct ObjectChunk {
    /// Its sequence in the stream. Later chunks of the object have larger ones.
    pub sequence: u64,
    /// Its content.
    pub bytes: Bytes,
}

impl StoredObject {
    /// An object with these chunks in a stream.
    pub(crate) fn new(stream: String, chunks: String, id: String, size_bytes: u64) -> StoredObject {
        StoredObject {
            stream,
            chunks,
            id,
            size_bytes,
        }
    }
}

impl Broker {
    /// Finds the object of this name, to read it chunk by chunk. In contrast to [`Broker::get_object`], it
    /// takes the memory of one chunk and no consumer, and can begin at any chunk.
    ///
    /// # Errors
    /// Returns [`BrokerError::NotFound`] if the object does not exist.
    pub async fn open_object(&self, name: &str) -> Result<StoredObject, BrokerError> {
        let bucket = self.names.files_bucket();
        let stream = object_stream(&bucket);
        let subject = meta_subject(&bucket, name);
        let Some(info) = self.object_info(&stream, &subject).await? else {
            return Err(BrokerError::NotFound(format!("the object `{name}`")));
        };
        if info.size > OBJECT_BYTES_MAX as u64 {
            return Err(BrokerError::unreadable(
                "an object",
                "it is larger than 1 GiB",
            ));
        }
        Ok(StoredObject {
            chunks: chunks_subject(&bucket, &info.id),
            stream,
            id: info.id,
            size_bytes: info.size,
        })
    }

    /// Reads the first chunk of an object at this sequence or after it. `offset` is the number of bytes of the
    /// object before it, which is less than its size.
    ///
    /// # Errors
    /// Returns [`BrokerError::InvalidData`] if there is no such chunk, or if it is empty or exceeds the size of
    /// the object.
    pub async fn read_object_chunk(
        &self,
        object: &StoredObject,
        from_sequence: u64,
        offset: u64,
    ) -> Result<ObjectChunk, BrokerError> {
        let next = MessageSelector::NextBySubject(&object.chunks, from_sequence);
        let message = self.read_message(&object.stream, next).await?;
        let chunk = message.map(|message| ObjectChunk {
            sequence: message.sequence,
            bytes: message.payload(),
        });
        let room = object.size_bytes.saturating_sub(offset);
        // an empty chunk would make a reader read on forever
        let is_whole = |chunk: &ObjectChunk| (1..=room).contains(&(chunk.bytes.len() as u64));
        chunk.filter(is_whole).ok_or_else(|| {
            let reason = "it has another size than its description says";
            BrokerError::unreadable("an object", reason)
        })
    }
}

/// Why the content of an object cannot be read.
#[derive(Debug)]
enum ObjectError {
    Io(std::io::Error),
    /// A chunk did not arrive in time.
    TimedOut,
    /// The content is longer than the description says.
    TooLarge,
}

/// Reads an object of at most this size. `chunk_timeout` is the time limit of each chunk.
async fn read_object(
    mut object: impl AsyncRead + Unpin,
    size_max: usize,
    chunk_timeout: Duration,
) -> Result<Vec<u8>, ObjectError> {
    let mut bytes = Vec::with_capacity(size_max.min(CHUNK_BYTES_MAX));
    loop {
        let mut chunk = (&mut object).take(CHUNK_BYTES_MAX as u64);
        // A limit of each read would last for days if a server sends a byte at a time.
        let read = tokio::time::timeout(chunk_timeout, chunk.read_to_end(&mut bytes)).await;
        let count = read
            .map_err(|_| ObjectError::TimedOut)?
            .map_err(ObjectError::Io)?;
        if bytes.len() > size_max {
            return Err(ObjectError::TooLarge);
        }
        if count == 0 {
            return Ok(bytes);
        }
    }
}

/// The description of an object, as clients of NATS store it.
#[derive(Debug, Deserialize)]
pub(crate) struct ObjectInfo {
    pub(crate) name: String,
    /// What the subject of its chunks ends with.
    #[serde(default, rename = "nuid")]
    pub(crate) id: String,
    /// Its size, in bytes.
    #[serde(default)]
    pub(crate) size: u64,
    /// Whether it is the marker of a removed object.
    #[serde(default, rename = "deleted")]
    pub(crate) is_deleted: bool,
}

impl ObjectInfo {
    /// Parses a description. `None` if it is not one.
    pub(crate) fn read(payload: &[u8]) -> Option<ObjectInfo> {
        serde_json::from_slice(payload).ok()
    }
}

/// The stream of an object store.
pub(crate) fn object_stream(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

/// The subject of an object's chunks.
pub(crate) fn chunks_subject(bucket: &str, id: &str) -> String {
    format!("$O.{bucket}.C.{id}")
}

/// The subject of the description of the object with this name.
pub(crate) fn meta_subject(bucket: &str, name: &str) -> String {
    format!("$O.{bucket}.M.{}", URL_SAFE.encode(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn an_object_that_arrives_a_byte_at_a_time_is_given_up() {
        let (server, client) = tokio::io::duplex(1);
        let sending = async move {
            let mut server = server;
            while server.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let reading = read_object(client, OBJECT_BYTES_MAX, Duration::from_millis(200));
        let read = tokio::time::timeout(Duration::from_secs(10), async {
            tokio::join!(sending, reading).1
        });
        assert!(matches!(read.await.unwrap(), Err(ObjectError::TimedOut)));
    }

    #[tokio::test]
    async fn an_object_is_read_whole_and_never_beyond_its_size() {
        let content = vec![7; 2 * CHUNK_BYTES_MAX + 1];
        let read = |size_max| read_object(content.as_slice(), size_max, CHUNK_TIMEOUT);
        assert_eq!(read(content.len()).await.unwrap(), content);
        let cut = read(content.len() - 1).await;
        assert!(matches!(cut, Err(ObjectError::TooLarge)));
        assert!(matches!(read(0).await, Err(ObjectError::TooLarge)));
    }
}
