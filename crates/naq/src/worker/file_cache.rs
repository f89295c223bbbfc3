//! The content of uploaded files on this machine, by digest, so that jobs that share a file do not each read it
//! from NATS.
//!
//! Jobs of the worker's own user could change what is in the folder, so its content is compared with its
//! digest at each use. The folder is removed when the worker ends.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use naq_protocol::FileDigest;
use naq_runner::Runner;

/// Maximum size of the cached files together, in bytes.
const CACHE_BYTES_MAX: u64 = 1 << 30;

/// Number of groups of digests. Of each group, one file is read at a time, so that jobs that start at the same
/// time read a common file once.
const GROUPS: usize = 16;

/// Name of the folder among the scratch folders.
const FOLDER: &str = "files";

/// The cached files of a worker.
pub(super) struct FileCache {
    folder: OnceLock<PathBuf>,
    bytes_max: u64,
    state: Mutex<CacheState>,
    groups: [tokio::sync::Mutex<()>; GROUPS],
}

#[derive(Default)]
struct CacheState {
    files: HashMap<FileDigest, CachedFile>,
    /// The sizes of all files and reservations.
    bytes: u64,
    /// Number of uses so far.
    uses: u64,
}

struct CachedFile {
    bytes: u64,
    /// The number of its last use.
    used_at: u64,
}

/// Room for a file that is being read. Returned when dropped, unless the file was kept.
pub(super) struct ReservedRoom<'c> {
    cache: &'c FileCache,
    bytes: u64,
}

impl FileCache {
    /// An empty cache. Its folder is created when it is first needed.
    pub(super) fn new() -> FileCache {
        FileCache::with_bytes_max(CACHE_BYTES_MAX)
    }

    fn with_bytes_max(bytes_max: u64) -> FileCache {
        FileCache {
            folder: OnceLock::new(),
            bytes_max,
            state: Mutex::default(),
            groups: Default::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder of the cached files.
    ///
    /// # Errors
    /// Returns an I/O error if it cannot be created.
    pub(super) fn folder(&self, runner: &Runner) -> io::Result<&Path> {
        match self.folder.get() {
            Some(folder) => Ok(folder),
            None => {
                let folder = runner.create_cache_dir(FOLDER)?;
                Ok(self.folder.get_or_init(|| folder))
            }
        }
    }

    /// Waits until no other job reads a file with this digest.
    pub(super) async fn read_alone(&self, digest: &FileDigest) -> tokio::sync::MutexGuard<'_, ()> {
        let first = digest.hex().chars().next();
        let group = first
            .and_then(|digit| digit.to_digit(16))
            .unwrap_or_default();
        self.groups[group as usize % GROUPS].lock().await
    }

    /// Whether a file is cached. Counts as a use of it.
    pub(super) fn contains(&self, digest: &FileDigest) -> bool {
        let mut state = self.lock();
        state.uses += 1;
        let uses = state.uses;
        let file = state.files.get_mut(digest);
        file.map(|file| file.used_at = uses).is_some()
    }

    /// Makes room for a file, and removes the files that were not used for longest. `None` if it is too large
    /// for the cache, or too many others are being read.
    pub(super) fn reserve(&self, bytes: u64) -> Option<ReservedRoom<'_>> {
        let mut state = self.lock();
        let mut removed = Vec::new();
        while state.bytes.saturating_add(bytes) > self.bytes_max {
            let oldest = state.files.iter().min_by_key(|(_, file)| file.used_at);
            let oldest = oldest.map(|(digest, _)| digest.clone())?;
            if let Some(file) = state.files.remove(&oldest) {
                state.bytes -= file.bytes;
            }
            removed.push(oldest);
        }
        state.bytes += bytes;
        drop(state);
        for digest in removed {
            self.remove_file(&digest);
        }
        Some(ReservedRoom { cache: self, bytes })
    }

    /// Forgets a file that has other content than it should.
    pub(super) fn forget(&self, digest: &FileDigest) {
        let mut state = self.lock();
        if let Some(file) = state.files.remove(digest) {
            state.bytes -= file.bytes;
        }
        drop(state);
        self.remove_file(digest);
    }

    fn remove_file(&self, digest: &FileDigest) {
        if let Some(folder) = self.folder.get() {
            let _ = std::fs::remove_file(folder.join(digest.hex()));
        }
    }
}

impl ReservedRoom<'_> {
    /// Keeps the file that was read, which lies in the folder under its digest.
    pub(super) fn keep(mut self, digest: &FileDigest) {
        let mut state = self.cache.lock();
        state.uses += 1;
        let file = CachedFile {
            bytes: std::mem::take(&mut self.bytes),
            used_at: state.uses,
        };
        if let Some(before) = state.files.insert(digest.clone(), file) {
            state.bytes -= before.bytes;
        }
    }
}

impl Drop for ReservedRoom<'_> {
    fn drop(&mut self) {
        let bytes = self.bytes;
        if bytes > 0 {
            self.cache.lock().bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> FileDigest {
        FileDigest::of(text.as_bytes())
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let cache = FileCache::with_bytes_max(10);
        let keep = |text: &str, bytes| cache.reserve(bytes).unwrap().keep(&digest(text));
        keep("a", 4);
        keep("b", 4);
        assert!(cache.contains(&digest("a")));
        keep("c", 4);
        assert!(!cache.contains(&digest("b")));
        assert!(cache.contains(&digest("a")) && cache.contains(&digest("c")));
        assert!(cache.reserve(11).is_none(), "it is larger than the cache");
    }

    #[test]
    fn room_of_a_file_that_was_not_kept_is_free_again() {
        let cache = FileCache::with_bytes_max(10);
        let reserved = cache.reserve(8);
        assert!(cache.reserve(8).is_none(), "another one is being read");
        drop(reserved);
        cache.reserve(8).unwrap().keep(&digest("a"));
        cache.reserve(8).unwrap().keep(&digest("a"));
        assert_eq!(cache.lock().bytes, 8);
        cache.forget(&digest("a"));
        assert_eq!(cache.lock().bytes, 0);
    }
}
