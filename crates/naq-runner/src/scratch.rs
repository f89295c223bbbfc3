//! Scratch folders: one for each job that runs, used again where a job has
//! left it empty.
//!
//! Making and removing a folder for every job would cost more than starting a
//! short job does, and most jobs leave nothing there.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The mode of every folder here: its owner's alone.
const MODE: u32 = 0o700;

/// The mode of the folder around them where they are another user's.
const MODE_PASSABLE: u32 = 0o711;

/// The file a job's source is written to, in its folder.
pub(super) const SCRIPT: &str = "script";

/// The scratch folders of one runner.
#[derive(Debug)]
pub(super) struct Scratches {
    root: PathBuf,
    /// User and group that the folders are given to.
    owner: Option<(u32, u32)>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    has_root: bool,
    made: u32,
    free: Vec<Folder>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    made: Stamp,
    /// Its stamp is so old that any change since it was taken must show.
    is_settled: bool,
}

/// What tells a folder that nobody has touched: which one it is (a job may put
/// something else in its place), and when it was last changed, since whatever
/// is made, removed or renamed in it changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    changed_s: i64,
    changed_ns: i64,
}

/// How coarse the kernel's clock for such changes can be (one tick at 100 Hz),
/// and as much again.
const CLOCK_COARSENESS: Duration = Duration::from_millis(20);

impl Scratches {
    /// Folders under `root`, which is made when the first one is needed and
    /// must not be there: in a shared place it could be anybody's. They belong
    /// to `owner`, if that is told.
    pub(super) fn new(root: PathBuf, owner: Option<(u32, u32)>) -> Arc<Scratches> {
        Arc::new(Scratches {
            root,
            owner,
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty folder.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(super) fn take(self: &Arc<Self>) -> io::Result<Scratch> {
        let mut state = self.lock();
        let folder = match state.free.pop() {
            Some(mut folder) => {
                folder.is_settled |= folder.made.is_old();
                folder
            }
            None => self.make(&mut state)?,
        };
        Ok(Scratch {
            folder: Some(folder),
            home: Arc::clone(self),
        })
    }

    fn make(&self, state: &mut State) -> io::Result<Folder> {
        if !state.has_root {
            if let Some(parent) = self.root.parent() {
                fs::create_dir_all(parent)?;
            }
            let mode = self.owner.map_or(MODE, |_| MODE_PASSABLE);
            DirBuilder::new().mode(mode).create(&self.root)?;
            state.has_root = true;
        }
        state.made += 1;
        let path = self.root.join(state.made.to_string());
        DirBuilder::new().mode(MODE).create(&path)?;
        if let Some((user, group)) = self.owner {
            std::os::unix::fs::chown(&path, Some(user), Some(group))?;
        }
        let made = Stamp::of(&path)?;
        Ok(Folder {
            path,
            made,
            is_settled: false,
        })
    }

    /// Removes everything.
    pub(super) fn remove(&self) {
        let mut state = self.lock();
        state.free.clear();
        if std::mem::take(&mut state.has_root) {
            remove(&self.root);
        }
    }
}

impl Drop for Scratches {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A folder that is a job's for as long as this lives. Files the job left
/// there (artifacts) can be taken before.
#[derive(Debug)]
pub struct Scratch {
    folder: Option<Folder>,
    home: Arc<Scratches>,
}

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder
            .as_ref()
            .map_or(Path::new(""), |folder| &folder.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(mut folder) = self.folder.take() else {
            return;
        };
        if folder.is_as_made() || folder.is_emptied() {
            let mut state = self.home.lock();
            if state.has_root {
                state.free.push(folder);
            }
            return;
        }
        let path = folder.path;
        // A big folder takes a while, which is not the worker's loop's to give.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove(&path))),
            Err(_) => remove(&path),
        }
    }
}

impl Folder {
    /// Whether it is there, the same, and empty.
    fn is_as_made(&self) -> bool {
        let untouched = Stamp::of(&self.path).is_ok_and(|now| now == self.made);
        untouched
            && (self.is_settled
                || fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_none()))
    }
}

impl Folder {
    /// Takes the script that a job was written as away. Whether that leaves
    /// nothing.
    fn is_emptied(&mut self) -> bool {
        let same = fs::symlink_metadata(&self.path).is_ok_and(|now| {
            now.is_dir() && now.ino() == self.made.inode && now.mode() & 0o7777 == MODE
        });
        if !same {
            return false;
        }
        let _ = fs::remove_file(self.path.join(SCRIPT));
        let is_empty = fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_none());
        self.is_settled = false;
        match Stamp::of(&self.path) {
            Ok(made) if is_empty => {
                self.made = made;
                true
            }
            _ => false,
        }
    }
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Stamp> {
        let found = fs::symlink_metadata(path)?;
        Ok(Stamp {
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
        now > changed.saturating_add(CLOCK_COARSENESS)
    }
}

fn remove(path: &Path) {
    if let Err(e) = remove_stubborn(path)
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), error = %e, "a scratch folder was left behind");
    }
}

/// Removes a folder whose job may have taken its own permissions away, or put
/// something else in its place.
fn remove_stubborn(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => fs::remove_file(path),
        removed => removed,
    }
}

fn open_up(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_folder_is_used_again_and_no_other() {
        let temp = tempfile::tempdir().unwrap();
        let home = Scratches::new(temp.path().join("root"), None);
        let first = home.take().unwrap().path().to_owned();
        let again = home.take().unwrap();
        assert_eq!(again.path(), first);
        fs::write(again.path().join("left"), "x").unwrap();
        drop(again);
        assert!(!first.exists());
        let mut settled = home.take().unwrap();
        settled.folder.as_mut().unwrap().is_settled = true;
        let path = settled.path().to_owned();
        std::thread::sleep(CLOCK_COARSENESS);
        fs::write(path.join("left"), "x").unwrap();
        drop(settled);
        assert!(!path.exists());
        let replaced = home.take().unwrap();
        let path = replaced.path().to_owned();
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/etc", &path).unwrap();
        drop(replaced);
        assert!(fs::symlink_metadata(&path).is_err());
        assert!(Path::new("/etc").is_dir());
        let root = home.root.clone();
        drop(home);
        assert!(!root.exists());
    }
}
