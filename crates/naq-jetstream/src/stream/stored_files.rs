//! Files of jobs in the object store `naq_files`: those that producers upload, by digest, and those that jobs
//! leave. They are written and read piece by piece, and expire.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::client::RequestErrorKind;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::broker::{Broker, REQUEST_TIMEOUT};
use crate::error::BrokerError;
use crate::stream::objects::{ObjectInfo, StoredObject, chunks_subject, meta_subject};
use crate::stream::publish::PendingWrite;
use crate::stream::stream_api::MessageSelector;
use naq_protocol::{FileDigest, JobId, Timestamp};

/// Maximum size of a file's chunks, in bytes.
const CHUNK_BYTES_MAX: usize = 512 << 10;

/// Number of chunks that may be under way to the server.
const CHUNKS_UNDER_WAY_MAX: usize = 8;

/// How much longer the chunks are kept than the description that names them: who has read the description can
/// read the content.
const CHUNKS_OUTLIVE: Duration = Duration::from_secs(3_600);

/// How long an uploaded file is kept if nobody needs it again.
const UPLOAD_TTL: Duration = Duration::from_secs(60 * 86_400);

/// How long a file is kept at least after it was last needed. What expires sooner is stored again when it is
/// needed. So a file is not stored at each use.
pub const UPLOAD_KEPT_MIN: Duration = Duration::from_secs(30 * 86_400);

/// Why a file could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreFileError {
    /// NATS refused it, or did not answer.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// It has other content than its digest says.
    #[error("it was changed while it was read")]
    Changed,
    /// It is longer than it may be.
    #[error("it is longer than {0} bytes")]
    TooLong(u64),
}

/// An uploaded file in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredUpload {
    /// Its content.
    pub object: StoredObject,
    /// When it expires. `None` if it does not, or if its description does not say.
    expires_at: Option<Timestamp>,
}

impl StoredUpload {
    /// Whether the file is kept until this time.
    #[must_use]
    pub fn is_kept_until(&self, time: Timestamp) -> bool {
        self.expires_at.is_none_or(|expires_at| expires_at >= time)
    }
}

/// What was stored of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// The size, in bytes.
    pub bytes: u64,
    /// The digest of the content.
    pub digest: FileDigest,
}

impl Broker {
    /// Finds an uploaded file, in the copy of any server. `None` if it is not stored.
    ///
    /// # Errors
    /// Returns an error if the server does not answer, or denies the request.
    pub async fn find_upload(
        &self,
        digest: &FileDigest,
    ) -> Result<Option<StoredUpload>, BrokerError> {
        const DOING: &str = "looking for an uploaded file";
        let stream = self.names.files_stream();
        let description = self.names.upload(digest);
        // by the subject, so that a producer may be permitted to read these descriptions and no others
        let subject = format!("{}.DIRECT.GET.{stream}.{description}", self.api_prefix);
        let asking = async {
            let asking = self.client.request(subject.clone(), Bytes::new());
            tokio::time::timeout(REQUEST_TIMEOUT, asking).await
        };
        match self.until_denied(DOING, &subject, asking).await? {
            // the status is that of an answer without a message
            Ok(Ok(message)) if message.status.is_some() => Ok(None),
            Ok(Ok(message)) => Ok(self.read_upload(&stream, &message.payload)),
            // there is no such stream
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => Ok(None),
            Ok(Err(error)) => Err(BrokerError::refused(DOING, error)),
            Err(_) => Err(BrokerError::Timeout(DOING)),
        }
    }

    /// Opens an uploaded file, to read its chunks. `None` if it is not stored.
    ///
    /// # Errors
    /// Returns an error if the server does not answer, or denies the request.
    pub async fn open_upload(
        &self,
        digest: &FileDigest,
    ) -> Result<Option<StoredUpload>, BrokerError> {
        let stream = self.names.files_stream();
        let description = self.names.upload(digest);
        let last = MessageSelector::LastBySubject(&description);
        let message = self.read_message(&stream, last).await?;
        Ok(message.and_then(|message| self.read_upload(&stream, &message.payload())))
    }

    fn read_upload(&self, stream: &str, description: &[u8]) -> Option<StoredUpload> {
        #[derive(Deserialize)]
        struct Expiry {
            #[serde(default)]
            metadata: Metadata,
        }
        #[derive(Default, Deserialize)]
        struct Metadata {
            expires_at: Option<String>,
        }
        let info = ObjectInfo::read(description).filter(|info| !info.is_deleted)?;
        let expiry: Option<Expiry> = serde_json::from_slice(description).ok();
        let expires_at = expiry.and_then(|expiry| expiry.metadata.expires_at?.parse().ok());
        let chunks = self.upload_chunks_subject(&info.id);
        let object = StoredObject::new(stream.to_owned(), chunks, info.id, info.size);
        Some(StoredUpload { object, expires_at })
    }

    fn upload_chunks_subject(&self, id: &str) -> String {
        chunks_subject(&self.names.files_bucket(), &format!("upload.{id}"))
    }

    /// Stores an uploaded file under its digest, so that it is kept until [`UPLOAD_KEPT_MIN`] after `needed_at`.
    /// What is stored under the digest already stays readable for who has found it. `on_chunk` is called after
    /// each chunk.
    ///
    /// # Errors
    /// Returns [`StoreFileError::Changed`] if the content has another digest or size; it is not stored then.
    pub async fn put_upload(
        &self,
        file: &StoredFile,
        content: impl AsyncRead + Unpin,
        now: Timestamp,
        needed_at: Timestamp,
        on_chunk: impl FnMut(),
    ) -> Result<(), StoreFileError> {
        let delay = (needed_at.0 - now.0).to_std().unwrap_or_default();
        let ttl = UPLOAD_TTL.saturating_add(delay);
        let id = JobId::generate().to_string();
        let object = NewObject {
            name: format!("upload/{}", file.digest),
            description: self.names.upload(&file.digest),
            chunks: self.upload_chunks_subject(&id),
            id,
            ttl: Some(ttl),
            expires_at: expiry(now, ttl),
        };
        let content = content.take(file.bytes.saturating_add(1));
        let stored = self.publish_content(&object, content, on_chunk).await?;
        if stored.file != *file {
            return Err(StoreFileError::Changed);
        }
        Ok(self.describe(&object, &stored).await?)
    }

    /// Stores a file as an object of this name. It expires after `ttl`; `None` means never.
    ///
    /// # Errors
    /// Returns [`StoreFileError::TooLong`] if the content is longer than `bytes_max`.
    pub async fn put_file(
        &self,
        name: &str,
        content: impl AsyncRead + Unpin,
        bytes_max: u64,
        ttl: Option<Duration>,
    ) -> Result<StoredFile, StoreFileError> {
        let bucket = self.names.files_bucket();
        let id = JobId::generate().to_string();
        let object = NewObject {
            name: name.to_owned(),
            description: meta_subject(&bucket, name),
            chunks: chunks_subject(&bucket, &id),
            id,
            ttl,
            expires_at: None,
        };
        let content = content.take(bytes_max.saturating_add(1));
        let stored = self.publish_content(&object, content, || {}).await?;
        if stored.file.bytes > bytes_max {
            return Err(StoreFileError::TooLong(bytes_max));
        }
        self.describe(&object, &stored).await?;
        Ok(stored.file)
    }

    /// Publishes the chunks of a file, several at a time. Without its description nobody reads them, and they
    /// expire with the others.
    async fn publish_content(
        &self,
        object: &NewObject,
        mut content: impl AsyncRead + Unpin,
        mut on_chunk: impl FnMut(),
    ) -> Result<StoredContent, StoreFileError> {
        let chunk_bytes = CHUNK_BYTES_MAX.min(self.message_bytes_max() / 2);
        let chunk_ttl = object.ttl.map(|ttl| ttl.saturating_add(CHUNKS_OUTLIVE));
        let (mut sha256, mut bytes, mut chunks) = (Sha256::new(), 0, 0);
        let mut under_way = VecDeque::with_capacity(CHUNKS_UNDER_WAY_MAX);
        loop {
            let mut chunk = BytesMut::with_capacity(chunk_bytes);
            let mut part = (&mut content).take(chunk_bytes as u64);
            while part.read_buf(&mut chunk).await? > 0 {}
            if chunk.is_empty() {
                break;
            }
            sha256.update(&chunk);
            bytes += chunk.len() as u64;
            chunks += 1;
            let chunk = chunk.freeze();
            let pending = self.send_chunk(object, chunk.clone(), chunk_ttl).await?;
            if chunks == 1 {
                self.confirm_first_chunk(object, pending, chunk, chunk_ttl)
                    .await?;
            } else {
                under_way.push_back(pending);
            }
            if under_way.len() >= CHUNKS_UNDER_WAY_MAX
                && let Some(oldest) = under_way.pop_front()
            {
                oldest.confirmed().await?;
            }
            on_chunk();
        }
        for pending in under_way {
            pending.confirmed().await?;
        }
        let sha256: [u8; 32] = sha256.finalize().into();
        Ok(StoredContent {
            file: StoredFile {
                bytes,
                digest: FileDigest::from_sha256(&sha256),
            },
            sha256,
            chunks,
            chunk_bytes,
        })
    }

    async fn send_chunk(
        &self,
        object: &NewObject,
        chunk: Bytes,
        ttl: Option<Duration>,
    ) -> Result<PendingWrite, BrokerError> {
        self.send(object.chunks.clone(), ttl_headers(ttl), chunk)
            .await
    }

    /// Waits until the first chunk is stored, and creates the store if it does not exist.
    async fn confirm_first_chunk(
        &self,
        object: &NewObject,
        pending: PendingWrite,
        chunk: Bytes,
        ttl: Option<Duration>,
    ) -> Result<(), BrokerError> {
        match pending.confirmed().await {
            Err(BrokerError::NotFound(_)) => {
                let (headers, ensure) = (ttl_headers(ttl), || self.ensure_files());
                let stored = self.store_creating(object.chunks.clone(), headers, chunk, ensure);
                stored.await.map(drop)
            }
            confirmed => confirmed.map(drop),
        }
    }

    /// Publishes the description, by which the content is found.
    async fn describe(
        &self,
        object: &NewObject,
        stored: &StoredContent,
    ) -> Result<(), BrokerError> {
        let mut description = serde_json::json!({
            "name": object.name,
            "options": {"max_chunk_size": stored.chunk_bytes},
            "bucket": self.names.files_bucket(),
            "nuid": object.id,
            "size": stored.file.bytes,
            "chunks": stored.chunks,
            "digest": format!("SHA-256={}", URL_SAFE.encode(stored.sha256)),
        });
        if let Some(expires_at) = object.expires_at {
            description["metadata"] = serde_json::json!({"expires_at": expires_at});
        }
        let mut headers = ttl_headers(object.ttl);
        headers.insert(async_nats::header::NATS_ROLLUP, "sub");
        let (subject, payload) = (object.description.clone(), description.to_string());
        // an empty file has no chunk that would have created the store
        let ensure = || self.ensure_files();
        let stored = self.store_creating(subject, headers, payload.into(), ensure);
        stored.await.map(drop)
    }
}

/// An object that is about to be stored.
struct NewObject {
    name: String,
    /// Its id, with which the subject of its chunks ends.
    id: String,
    /// The subject of its description.
    description: String,
    /// The subject of its chunks.
    chunks: String,
    /// How long it is kept. `None` means for ever.
    ttl: Option<Duration>,
    /// When it expires, if its description is to say that.
    expires_at: Option<Timestamp>,
}

/// Content whose chunks are stored.
struct StoredContent {
    file: StoredFile,
    sha256: [u8; 32],
    chunks: u64,
    chunk_bytes: usize,
}

/// When what is stored now expires. `None` if no time is that late.
fn expiry(now: Timestamp, ttl: Duration) -> Option<Timestamp> {
    let ttl_ms = i64::try_from(ttl.as_millis()).ok()?;
    Timestamp::from_unix_ms(now.unix_ms().checked_add(ttl_ms)?)
}

/// The headers of a message that expires.
fn ttl_headers(ttl: Option<Duration>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(ttl) = ttl {
        let ttl = format!("{}s", ttl.as_secs().max(1));
        headers.insert(async_nats::header::NATS_MESSAGE_TTL, ttl);
    }
    headers
}
