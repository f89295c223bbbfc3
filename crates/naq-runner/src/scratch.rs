//! Scratch folders: one per running job, reused if a job leaves its folder empty.
//!
//! Creating and removing a folder for every job would cost more than starting a
//! short job does, and most jobs leave nothing in it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use super::removal::Removal;
use super::work_folder::WorkFolder;

/// Mode of every scratch folder: accessible to its owner only.
const MODE: u32 = 0o700;

/// Mode of their parent folder if the scratch folders belong to another user.
const MODE_TRAVERSABLE: u32 = 0o711;

/// How long the removal of all folders may delay the end of a worker.
const REMOVE_ALL_MAX: Duration = Duration::from_secs(30);

/// File name of a job's script in its scratch folder.
pub(super) const SCRIPT: &str = "script";

/// Name of [`Command::folder`](super::Command::folder) in the job's scratch folder.
pub(super) const FOLDER: &str = "inputs";

/// Name of a job's work folder in its scratch folder, if it has one of its own.
pub(super) const WORK: &str = "work";

/// The scratch folders of one runner.
#[derive(Debug)]
pub(super) struct ScratchDirs {
    root: PathBuf,
    /// User and group that own the folders, if not this process's.
    owner: Option<(u32, u32)>,
    state: Mutex<PoolState>,
    /// Wakes one of those that wait for [`ScratchDirs::next_removals`].
    removals_added: Notify,
}

#[derive(Debug, Default)]
struct PoolState {
    has_root: bool,
    made: u32,
    /// Number of folders that were staged.
    staged: u64,
    free: Vec<PooledDir>,
    /// Folders that their jobs have filled.
    removals: Vec<PathBuf>,
}

#[derive(Debug)]
struct PooledDir {
    path: PathBuf,
    /// `None` until the folder is created.
    made: Option<DirStamp>,
    /// Whether the stamp is so old that every later change differs from it.
    is_stamp_reliable: bool,
}

/// Identifies a folder that nobody has changed: its inode, since a job may replace
/// the folder, and the time of its last change, which creating, removing or renaming
/// a file in it updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DirStamp {
    inode: u64,
    changed_s: i64,
    changed_ns: i64,
}

/// Twice the coarsest resolution of the kernel's clock for change times (one tick at
/// 100 Hz).
const CTIME_GRANULARITY: Duration = Duration::from_millis(20);

impl ScratchDirs {
    /// Scratch folders below `root`, for the user and group `owner` if given. `root`
    /// is created with the first folder and must not exist: in a shared parent it
    /// could belong to anybody.
    pub(super) fn new(root: PathBuf, owner: Option<(u32, u32)>) -> Arc<ScratchDirs> {
        Arc::new(ScratchDirs {
            root,
            owner,
            state: Mutex::default(),
            removals_added: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty scratch folder: one to reuse, or the path of one that is yet to be created. Into it naq
    /// writes the files `written`.
    pub(super) fn take(self: &Arc<Self>, written: Vec<String>) -> ScratchDir {
        let mut state = self.lock();
        let folder = match state.free.pop() {
            Some(mut folder) => {
                folder.is_stamp_reliable |= folder.made.is_some_and(|made| made.is_old());
                folder
            }
            None => {
                state.made += 1;
                PooledDir {
                    path: self.root.join(state.made.to_string()),
                    made: None,
                    is_stamp_reliable: false,
                }
            }
        };
        ScratchDir {
            folder: Some(folder),
            written,
            pool: Arc::clone(self),
        }
    }

    /// The path of a new folder for files of a job that has no scratch folder yet.
    pub(super) fn next_staged(&self) -> io::Result<PathBuf> {
        let mut state = self.lock();
        self.create_root_unless(&mut state)?;
        state.staged += 1;
        Ok(self.root.join(format!("staged-{}", state.staged)))
    }

    /// User and group that own the folders, if not this process's.
    pub(super) fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    /// Has a folder in the root removed.
    pub(super) fn discard(&self, folder: PathBuf) {
        let mut state = self.lock();
        if state.has_root {
            state.removals.push(folder);
            self.removals_added.notify_one();
        }
    }

    /// The folders that are to be removed.
    #[cfg(test)]
    pub(super) fn discarded(&self) -> Vec<PathBuf> {
        self.lock().removals.clone()
    }

    /// The folder in which they are.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Creates that folder unless it exists.
    pub(super) fn create_root(&self) -> io::Result<()> {
        self.create_root_unless(&mut self.lock())
    }

    fn create_root_unless(&self, state: &mut PoolState) -> io::Result<()> {
        if !state.has_root {
            if let Some(parent) = self.root.parent() {
                fs::create_dir_all(parent)?;
            }
            let mode = self.owner.map_or(MODE, |_| MODE_TRAVERSABLE);
            DirBuilder::new().mode(mode).create(&self.root)?;
            state.has_root = true;
        }
        Ok(())
    }

    /// Creates a folder next to the scratch folders, for this process alone.
    pub(super) fn create_cache(&self, name: &str) -> io::Result<PathBuf> {
        self.create_root()?;
        let path = self.root.join(name);
        match DirBuilder::new().mode(MODE).create(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            created => created?,
        }
        Ok(path)
    }

    fn create(&self, path: &Path) -> io::Result<DirStamp> {
        let mut state = self.lock();
        self.create_root_unless(&mut state)?;
        match DirBuilder::new().mode(MODE).create(path) {
            // An earlier attempt created it and failed later.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            created => created?,
        }
        if let Some((user, group)) = self.owner {
            std::os::unix::fs::chown(path, Some(user), Some(group))?;
        }
        DirStamp::of(path)
    }

    /// Waits for folders that are to be removed, and returns them. Cancel safe. A spawner removes
    /// them: that may take long, and a worker must not depend on what its jobs have left.
    pub(super) async fn next_removals(&self) -> Vec<PathBuf> {
        loop {
            let removals = std::mem::take(&mut self.lock().removals);
            if !removals.is_empty() {
                return removals;
            }
            self.removals_added.notified().await;
        }
    }

    /// Removes all folders. Blocks for up to [`REMOVE_ALL_MAX`].
    pub(super) fn remove(&self) {
        let mut state = self.lock();
        state.free.clear();
        state.removals.clear();
        if std::mem::take(&mut state.has_root)
            && let Err(e) = Removal::new(self.root.clone(), REMOVE_ALL_MAX).run()
        {
            warn_not_removed(&self.root, &e.to_string());
        }
    }
}

impl Drop for ScratchDirs {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The scratch folder of a job, until this is dropped. Files that the job left in it
/// (artifacts) can be copied before.
#[derive(Debug)]
pub struct ScratchDir {
    folder: Option<PooledDir>,
    /// The names of the files that naq writes into it.
    written: Vec<String>,
    pool: Arc<ScratchDirs>,
}

impl ScratchDir {
    /// Its path.
    pub fn path(&self) -> &Path {
        self.folder
            .as_ref()
            .map_or(Path::new(""), |folder| &folder.path)
    }

    /// Creates the work folder of a command that has one of its own
    /// ([`Command::work_folder`](super::Command::work_folder)).
    ///
    /// # Errors
    ///
    /// Returns an I/O error if it cannot be created.
    pub fn create_work_folder(&self) -> io::Result<WorkFolder> {
        let path = self.path().join(WORK);
        DirBuilder::new().mode(MODE).create(&path)?;
        if let Some((user, group)) = self.pool.owner {
            std::os::unix::fs::chown(&path, Some(user), Some(group))?;
        }
        WorkFolder::open_owned(&path, self.pool.owner)
    }

    /// Opens the folder that the job had as `NAQ_WORK_DIR`: its work folder if it had one of its own, else
    /// this.
    ///
    /// # Errors
    ///
    /// Returns an I/O error if the job has removed it, or put something else in its place.
    pub fn open_work_folder(&self, is_own: bool) -> io::Result<WorkFolder> {
        let path = match is_own {
            true => self.path().join(WORK),
            false => self.path().to_owned(),
        };
        WorkFolder::open_owned(&path, self.pool.owner)
    }

    /// Creates the folder unless it exists.
    ///
    /// # Errors
    ///
    /// Returns an I/O error if it cannot be created. A later call may succeed.
    pub(super) fn create(&mut self) -> io::Result<()> {
        if let Some(folder) = self.folder.as_mut().filter(|folder| folder.made.is_none()) {
            folder.made = Some(self.pool.create(&folder.path)?);
        }
        Ok(())
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let Some(mut folder) = self.folder.take().filter(|folder| folder.made.is_some()) else {
            return;
        };
        if folder.is_unchanged() || folder.try_empty(&self.written) {
            let mut state = self.pool.lock();
            if state.has_root {
                state.free.push(folder);
            }
            return;
        }
        self.pool.discard(folder.path);
    }
}

impl PooledDir {
    /// Whether the folder exists, is the same one, and is empty.
    fn is_unchanged(&self) -> bool {
        let untouched = DirStamp::of(&self.path).is_ok_and(|now| Some(now) == self.made);
        untouched
            && (self.is_stamp_reliable
                || fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_none()))
    }
}

impl PooledDir {
    /// Removes what naq wrote into the folder. Returns whether the folder is empty afterwards.
    fn try_empty(&mut self, written: &[String]) -> bool {
        let same = fs::symlink_metadata(&self.path).is_ok_and(|now| {
            let inode = self.made.map(|made| made.inode);
            now.is_dir() && Some(now.ino()) == inode && now.mode() & 0o7777 == MODE
        });
        if !same {
            return false;
        }
        for name in written {
            let _ = fs::remove_file(self.path.join(name));
        }
        let is_empty = fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_none());
        self.is_stamp_reliable = false;
        match DirStamp::of(&self.path) {
            Ok(made) if is_empty => {
                self.made = Some(made);
                true
            }
            _ => false,
        }
    }
}

impl DirStamp {
    fn of(path: &Path) -> io::Result<DirStamp> {
        let found = fs::symlink_metadata(path)?;
        Ok(DirStamp {
            inode: found.ino(),
            changed_s: found.ctime(),
            changed_ns: found.ctime_nsec(),
        })
    }

    fn is_old(&self) -> bool {
        #[expect(
            clippy::disallowed_methods,
            reason = "compared with a time that the same clock gave"
        )]
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let changed = Duration::new(
            u64::try_from(self.changed_s).unwrap_or(u64::MAX),
            u32::try_from(self.changed_ns).unwrap_or_default(),
        );
        now > changed.saturating_add(CTIME_GRANULARITY)
    }
}

/// Logs that a folder is left behind.
pub(super) fn warn_not_removed(path: &Path, error: &str) {
    tracing::warn!(path = %path.display(), error, "cannot remove a scratch folder");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_folder_is_reused_only_if_the_job_left_it_empty() {
        let temp = tempfile::tempdir().unwrap();
        let pool = ScratchDirs::new(temp.path().join("root"), None);
        let take = || {
            let mut taken = pool.take(Vec::new());
            taken.create().unwrap();
            taken
        };
        let first = take().path().to_owned();
        let again = take();
        assert_eq!(again.path(), first);
        fs::write(again.path().join("left"), "x").unwrap();
        drop(again);
        assert_eq!(pool.lock().removals.pop().unwrap(), first);
        let mut settled = take();
        settled.folder.as_mut().unwrap().is_stamp_reliable = true;
        let path = settled.path().to_owned();
        std::thread::sleep(CTIME_GRANULARITY);
        fs::write(path.join("left"), "x").unwrap();
        drop(settled);
        assert_eq!(pool.lock().removals.pop().unwrap(), path);
        let replaced = take();
        let path = replaced.path().to_owned();
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/etc", &path).unwrap();
        drop(replaced);
        assert_eq!(pool.lock().removals.pop().unwrap(), path);
        assert!(Path::new("/etc").is_dir());
        let root = pool.root.clone();
        drop(pool);
        assert!(!root.exists());
    }
}
