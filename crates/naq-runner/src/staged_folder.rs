//! A folder that is filled before its job starts, and then moved into the job's scratch folder.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::scratch::ScratchDirs;

/// Mode of its folders: accessible to their owner only.
const FOLDER_MODE: u32 = 0o700;

/// Mode of its files.
const FILE_MODE: u32 = 0o600;

/// A folder of files for a job, which belongs to this process until [`StagedFolder::release`]: what runs as the
/// user of the jobs can neither read nor replace anything in it meanwhile. Removed on drop, unless a job has
/// got it.
#[derive(Debug)]
pub struct StagedFolder {
    path: PathBuf,
    scratch_dirs: Arc<ScratchDirs>,
    /// Folders in it that were created.
    folders: Mutex<Vec<PathBuf>>,
    is_moved: AtomicBool,
}

impl StagedFolder {
    /// Creates an empty one among the scratch folders.
    pub(super) fn create(scratch_dirs: &Arc<ScratchDirs>) -> io::Result<StagedFolder> {
        let path = scratch_dirs.next_staged()?;
        DirBuilder::new().mode(FOLDER_MODE).create(&path)?;
        Ok(StagedFolder {
            path,
            scratch_dirs: Arc::clone(scratch_dirs),
            folders: Mutex::default(),
            is_moved: AtomicBool::new(false),
        })
    }

    /// Creates a folder in it.
    ///
    /// # Errors
    ///
    /// Returns an I/O error, also if it exists.
    pub fn create_folder(&self, name: &str) -> io::Result<()> {
        let path = self.path.join(name);
        DirBuilder::new().mode(FOLDER_MODE).create(&path)?;
        self.folders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(path);
        Ok(())
    }

    /// Creates a file in it, of which `path` is the relative path.
    ///
    /// # Errors
    ///
    /// Returns an I/O error, also if it exists.
    pub fn create_file(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = self.path.join(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&path)?;
        if let Some((user, group)) = self.scratch_dirs.owner() {
            std::os::unix::fs::fchown(&file, Some(user), Some(group))?;
        }
        Ok(file)
    }

    /// Removes a file from it, and returns it, open for reading.
    ///
    /// # Errors
    ///
    /// Returns an I/O error if there is no such file.
    pub fn take_file(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = self.path.join(path);
        let file = File::open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }

    /// Passes it to the user of the jobs. Nothing is created in it afterwards.
    ///
    /// # Errors
    ///
    /// Returns an I/O error if the owner of a folder cannot be changed.
    pub fn release(&self) -> io::Result<()> {
        let Some((user, group)) = self.scratch_dirs.owner() else {
            return Ok(());
        };
        let folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        for folder in folders.iter().chain([&self.path]) {
            chown(folder, Some(user), Some(group))?;
        }
        Ok(())
    }

    /// Moves it to `target`. Does nothing if it was moved before.
    pub(super) fn move_to(&self, target: &Path) -> io::Result<()> {
        if self.is_moved.load(Ordering::Relaxed) {
            return Ok(());
        }
        // A target that another job of the same user has created is replaced or refused, never followed.
        fs::rename(&self.path, target)?;
        self.is_moved.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for StagedFolder {
    fn drop(&mut self) {
        if !self.is_moved.load(Ordering::Relaxed) {
            self.scratch_dirs.discard(std::mem::take(&mut self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_staged_folder_is_moved_once_or_removed() {
        let temp = tempfile::tempdir().unwrap();
        let pool = ScratchDirs::new(temp.path().join("root"), None);
        let staged = StagedFolder::create(&pool).unwrap();
        staged.create_folder("fetch").unwrap();
        let mut file = staged.create_file("fetch/stdout").unwrap();
        file.write_all(b"text").unwrap();
        assert!(staged.create_file("fetch/stdout").is_err());
        staged.release().unwrap();
        let target = temp.path().join("inputs");
        staged.move_to(&target).unwrap();
        staged.move_to(&target).unwrap();
        let from = staged.path.clone();
        drop(staged);
        assert_eq!(fs::read(target.join("fetch/stdout")).unwrap(), b"text");
        assert!(!from.exists());
        let unused = StagedFolder::create(&pool).unwrap();
        let path = unused.path.clone();
        drop(unused);
        assert_eq!(pool.discarded(), [path]);
    }
}
