//! What a job needs before its attempt starts: uploaded files in its work folder, and a script that travelled by
//! its digest.
//!
//! It is read chunk by chunk, outside of the attempt's timeout, while the lease is renewed.

use std::io;

use naq_jetstream::{BrokerError, StoredFile, StoredUpload, UPLOAD_KEPT_MIN};
use naq_protocol::{FileDigest, SCRIPT_BYTES_MAX, UploadedFile};
use naq_runner::{ScratchDir, WorkFolder};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::attempt::Attempt;
use crate::clock::{now, saturating_add};

/// Size of the parts in which a cached file is copied, in bytes.
const COPY_BYTES: usize = 256 << 10;

/// How often a file is placed if its cached content turns out to be damaged.
const TRIES: usize = 4;

/// What was fetched for an attempt.
#[derive(Debug, Default)]
pub(super) struct FetchedFiles {
    /// The scratch folder with the job's work folder, if the job has one of its own.
    pub(super) scratch: Option<ScratchDir>,
    /// The source of a script that travelled by its digest.
    pub(super) script: Option<String>,
}

/// Why an attempt cannot start.
#[derive(Debug)]
pub(super) enum FetchError {
    /// The job is to stop, or its lease is lost.
    Stopped,
    /// No worker could start it, for this reason.
    Refused(String),
    /// This machine lacks something, for this reason.
    ShortOfResources(String),
    /// The cached content is not what it should be. It is no longer cached.
    DamagedCache,
}

impl From<io::Error> for FetchError {
    fn from(error: io::Error) -> FetchError {
        FetchError::ShortOfResources(format!("cannot place the job's files: {error}"))
    }
}

/// Content to fetch.
struct Wanted<'a> {
    /// Its path in the envelope and its name, for errors.
    what: String,
    digest: &'a FileDigest,
    /// Its size in bytes, if the envelope says it.
    bytes: Option<u64>,
}

impl Attempt<'_> {
    /// Whether there is anything to fetch before the attempt starts, or a work folder to create.
    pub(super) fn needs_files(&self) -> bool {
        self.envelope.script_digest.is_some() || self.envelope.has_work_folder()
    }

    /// Fetches what the attempt needs.
    ///
    /// # Errors
    /// Returns [`FetchError`] if the attempt cannot start.
    pub(super) async fn fetch_files(&self) -> Result<FetchedFiles, FetchError> {
        let mut fetched = FetchedFiles::default();
        if let Some(digest) = &self.envelope.script_digest {
            fetched.script = Some(self.fetch_script(digest).await?);
        }
        if self.envelope.has_work_folder() {
            let scratch = self.delivery.context.runner.create_scratch_dir()?;
            let folder = scratch.create_work_folder()?;
            for (index, file) in self.envelope.files.iter().enumerate() {
                self.place_file(&folder, index, file).await?;
            }
            fetched.scratch = Some(scratch);
        }
        Ok(fetched)
    }

    /// Reads a script into memory.
    async fn fetch_script(&self, digest: &FileDigest) -> Result<String, FetchError> {
        let wanted = Wanted {
            what: "script_digest: the script".to_owned(),
            digest,
            bytes: None,
        };
        let source = self.fetch_bytes(&wanted).await?;
        String::from_utf8(source)
            .map_err(|_| FetchError::Refused(format!("{} is not UTF-8", wanted.what)))
    }

    async fn fetch_bytes(&self, wanted: &Wanted<'_>) -> Result<Vec<u8>, FetchError> {
        for _ in 0..TRIES {
            let mut source = Vec::new();
            match self.fetch(wanted, &mut source).await {
                Err(FetchError::DamagedCache) => {}
                Ok(stored) => {
                    let bytes = source.len() as u64;
                    self.keep_longer(wanted.digest, bytes, stored.as_ref(), source.as_slice())
                        .await;
                    return Ok(source);
                }
                Err(error) => return Err(error),
            }
        }
        Err(damaged(wanted))
    }

    /// Places one file into the work folder.
    async fn place_file(
        &self,
        folder: &WorkFolder,
        index: usize,
        file: &UploadedFile,
    ) -> Result<(), FetchError> {
        let path = naq_protocol::escape(&file.path);
        let wanted = Wanted {
            what: format!("files[{index}]: the file `{path}`"),
            digest: &file.digest,
            bytes: Some(file.bytes),
        };
        for _ in 0..TRIES {
            let target = folder.create_file(&file.path, file.executable)?;
            let mut target = tokio::fs::File::from_std(target);
            match self.fetch(&wanted, &mut target).await {
                Err(FetchError::DamagedCache) => folder.remove_file(&file.path)?,
                Ok(stored) => {
                    target.flush().await?;
                    // A writable descriptor would keep the job from executing the file.
                    drop(target.into_std().await);
                    let placed = folder.open_file(&file.path)?.file;
                    let placed = tokio::fs::File::from_std(placed);
                    self.keep_longer(&file.digest, file.bytes, stored.as_ref(), placed)
                        .await;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Err(damaged(&wanted))
    }

    /// Writes content to `target`, from the cache or from NATS, and compares it with its digest. Returns how it
    /// is stored; `None` if only the cache has it.
    async fn fetch(
        &self,
        wanted: &Wanted<'_>,
        target: &mut (impl AsyncWrite + Unpin),
    ) -> Result<Option<StoredUpload>, FetchError> {
        let context = self.delivery.context;
        let digest = wanted.digest;
        let opening = || self.delivery.broker().open_upload(digest);
        let opened = self.delivery.persist(opening).await;
        let stored = opened.map_err(|error| self.not_read(wanted, &error))?;
        let folder = context.files.folder(&context.runner)?;
        let cached = folder.join(digest.hex());
        let reading = context.files.read_alone(digest).await;
        if context.files.contains(digest) {
            drop(reading);
            copy_cached(&cached, digest, target)
                .await
                .inspect_err(|_| context.files.forget(digest))?;
            return Ok(stored);
        }
        let Some(upload) = &stored else {
            return Err(FetchError::Refused(format!(
                "{} ({digest}) is not stored any more: naq keeps an uploaded file for 30 days after it was last needed; enqueue the job again with its files",
                wanted.what
            )));
        };
        self.check_size(wanted, upload.object.size_bytes)?;
        let Some(room) = context.files.reserve(upload.object.size_bytes) else {
            self.read_upload(wanted, upload, target).await?;
            return Ok(stored);
        };
        let part = folder.join(format!("{}.part", digest.hex()));
        let mut file = tokio::fs::File::create(&part).await?;
        let read = self.read_upload(wanted, upload, &mut file).await;
        let flushed = file.flush().await;
        drop(file.into_std().await);
        if let Err(error) = read {
            let _ = tokio::fs::remove_file(&part).await;
            return Err(error);
        }
        flushed?;
        tokio::fs::rename(&part, &cached).await?;
        room.keep(digest);
        drop(reading);
        copy_cached(&cached, digest, target)
            .await
            .inspect_err(|_| context.files.forget(digest))?;
        Ok(stored)
    }

    fn check_size(&self, wanted: &Wanted<'_>, stored_bytes: u64) -> Result<(), FetchError> {
        let is_right = match wanted.bytes {
            Some(bytes) => bytes == stored_bytes,
            None => stored_bytes <= SCRIPT_BYTES_MAX,
        };
        match is_right {
            true => Ok(()),
            false => Err(FetchError::Refused(format!(
                "{} ({}) is stored with {stored_bytes} bytes, which is not its size",
                wanted.what, wanted.digest
            ))),
        }
    }

    /// Writes stored content to `target`, chunk by chunk, and compares it with its digest.
    async fn read_upload(
        &self,
        wanted: &Wanted<'_>,
        upload: &StoredUpload,
        target: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), FetchError> {
        let (mut offset, mut sequence) = (0, 1);
        let mut sha256 = Sha256::new();
        while offset < upload.object.size_bytes {
            if self.is_stopped() {
                return Err(FetchError::Stopped);
            }
            let broker = self.delivery.broker();
            let reading = || broker.read_object_chunk(&upload.object, sequence, offset);
            let read = self.delivery.persist(reading).await;
            let chunk = read.map_err(|error| self.not_read(wanted, &error))?;
            sha256.update(&chunk.bytes);
            target.write_all(&chunk.bytes).await?;
            offset += chunk.bytes.len() as u64;
            sequence = chunk.sequence + 1;
        }
        if FileDigest::from_sha256(&sha256.finalize().into()) != *wanted.digest {
            return Err(FetchError::Refused(format!(
                "{} ({}) is stored with other content; enqueue the job again with its files",
                wanted.what, wanted.digest
            )));
        }
        Ok(())
    }

    /// Stores content again if it would expire soon, so that it lasts for the next attempt, a rerun, or the next
    /// tick of a schedule. If that fails, the attempt runs all the same.
    async fn keep_longer(
        &self,
        digest: &FileDigest,
        bytes: u64,
        stored: Option<&StoredUpload>,
        content: impl tokio::io::AsyncRead + Unpin,
    ) {
        let (now, broker) = (now(), self.delivery.broker());
        let needed = saturating_add(now, UPLOAD_KEPT_MIN);
        if stored.is_some_and(|stored| stored.is_kept_until(needed)) {
            return;
        }
        let file = StoredFile {
            bytes,
            digest: digest.clone(),
        };
        let storing = Box::pin(broker.put_upload(&file, content, now, now, || {}));
        if let Err(error) = storing.await {
            tracing::warn!(%digest, "cannot keep an uploaded file for longer: {error}");
        }
    }

    fn not_read(&self, wanted: &Wanted<'_>, error: &BrokerError) -> FetchError {
        match self.is_stopped() {
            true => FetchError::Stopped,
            false => FetchError::Refused(format!("{} cannot be read: {error}", wanted.what)),
        }
    }

    fn is_stopped(&self) -> bool {
        let lease = self.delivery.lease;
        lease.is_lost() || lease.stop_requested().is_some()
    }
}

fn damaged(wanted: &Wanted<'_>) -> FetchError {
    FetchError::ShortOfResources(format!(
        "{} is changed by another program while it is placed",
        wanted.what
    ))
}

/// Copies a cached file, and compares it with its digest.
async fn copy_cached(
    cached: &std::path::Path,
    digest: &FileDigest,
    target: &mut (impl AsyncWrite + Unpin),
) -> Result<(), FetchError> {
    // Another job may have made room by removing it.
    let Ok(mut file) = tokio::fs::File::open(cached).await else {
        return Err(FetchError::DamagedCache);
    };
    let mut sha256 = Sha256::new();
    let mut part = vec![0; COPY_BYTES];
    loop {
        let count = file.read(&mut part).await?;
        if count == 0 {
            break;
        }
        sha256.update(&part[..count]);
        target.write_all(&part[..count]).await?;
    }
    match FileDigest::from_sha256(&sha256.finalize().into()) == *digest {
        true => Ok(()),
        false => Err(FetchError::DamagedCache),
    }
}
