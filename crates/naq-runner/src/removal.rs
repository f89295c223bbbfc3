//! Removes a folder that a job has filled, however deep, wide or unreadable it is.
//!
//! A job may nest folders deeper than a stack, a path or the number of open files allows. A removal
//! therefore never descends: it works on one folder at a time and moves the folders that it finds
//! there up into the folder that is being removed. It uses two descriptors and constant memory, and
//! works in slices, so that its caller can do other things in between.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

/// Entries that are read at once.
const ENTRIES_MAX: usize = 256;

/// How long a slice may take.
const SLICE_MAX: Duration = Duration::from_millis(2);

/// Permissions that let their owner empty a folder.
const EMPTIABLE: u32 = 0o700;

/// A removal under way.
#[derive(Debug)]
pub(super) struct Removal {
    path: PathBuf,
    time_max: Duration,
    /// `None` until the first slice: a removal that waits for another one uses up no time.
    deadline: Option<Instant>,
    /// The folder itself, into which others are moved.
    top: Option<Folder>,
    /// The folder in it that is being emptied.
    current: Option<(PathBuf, Folder)>,
    /// Number of folders moved so far, which makes their new names unique.
    moved: u64,
}

/// The result of a slice.
#[derive(Debug)]
pub(super) enum Slice {
    /// More is left to do.
    Unfinished,
    /// The folder does not exist any more.
    Removed,
    /// Something in it cannot be removed, or the time is up.
    Failed(io::Error),
}

/// An open folder. Its entries are reached through its descriptor, so no path becomes too long.
#[derive(Debug)]
struct Folder {
    file: File,
}

impl Folder {
    /// Opens a folder, and makes it emptiable if its permissions do not allow that.
    fn open(path: &Path) -> io::Result<Folder> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let open = || {
            File::options()
                .read(true)
                .custom_flags(flags.bits())
                .open(path)
        };
        let file = match open() {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                make_emptiable(path)?;
                open()?
            }
            opened => opened?,
        };
        Ok(Folder { file })
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Some entries, and whether each is a folder. Empty if the folder is empty.
    fn some_entries(&self) -> io::Result<Vec<(OsString, bool)>> {
        fs::read_dir(self.path())?
            .take(ENTRIES_MAX)
            .map(|entry| {
                let entry = entry?;
                Ok((entry.file_name(), entry.file_type()?.is_dir()))
            })
            .collect()
    }

    /// Carries out `change` on an entry of this folder; if permissions forbid it, a second time
    /// after making the folder emptiable. An entry that does not exist is no error: another process
    /// may be removing the same folder.
    fn change(&self, change: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let changed = match change() {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                self.file
                    .set_permissions(fs::Permissions::from_mode(EMPTIABLE))?;
                change()
            }
            changed => changed,
        };
        match changed {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            changed => changed,
        }
    }
}

/// Changes the permissions of a folder, but not of one that a link points to.
fn make_emptiable(folder: &Path) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(folder)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::set_permissions(path, fs::Permissions::from_mode(EMPTIABLE))
}

impl Removal {
    /// Removes `path`, which may be a folder or anything else, within `time_max` of the first
    /// slice.
    pub(super) fn new(path: PathBuf, time_max: Duration) -> Removal {
        Removal {
            path,
            time_max,
            deadline: None,
            top: None,
            current: None,
            moved: 0,
        }
    }

    /// What is being removed.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes entries for [`SLICE_MAX`].
    pub(super) fn advance(&mut self) -> Slice {
        let now = Instant::now();
        if now >= *self.deadline.get_or_insert(now + self.time_max) {
            let message = format!("not done within {} s", self.time_max.as_secs());
            return Slice::Failed(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        while now.elapsed() < SLICE_MAX {
            match self.remove_some() {
                Ok(true) => return Slice::Removed,
                Ok(false) => {}
                Err(e) => return Slice::Failed(e),
            }
        }
        Slice::Unfinished
    }

    /// Removes everything, and blocks until that is done or the time is up.
    ///
    /// # Errors
    ///
    /// Returns the I/O error of the first entry that cannot be removed, or `TimedOut`.
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            match self.advance() {
                Slice::Unfinished => {}
                Slice::Removed => return Ok(()),
                Slice::Failed(e) => return Err(e),
            }
        }
    }

    /// Removes some entries. Returns whether nothing is left.
    fn remove_some(&mut self) -> io::Result<bool> {
        let Some(top) = &self.top else {
            match Folder::open(&self.path) {
                Ok(folder) => self.top = Some(folder),
                // A job may have replaced its folder by a file or a link.
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
                Err(_) => return fs::remove_file(&self.path).map(|()| true),
            }
            return Ok(false);
        };
        let Some((path, current)) = self.current.take() else {
            let entries = top.some_entries()?;
            if entries.is_empty() {
                return match fs::remove_dir(&self.path) {
                    Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
                    Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                    _ => Ok(true),
                };
            }
            self.current = remove_up_to_a_full_folder(top, entries)?;
            return Ok(false);
        };
        let entries = current.some_entries()?;
        if entries.is_empty() {
            match top.change(|| fs::remove_dir(&path)) {
                Err(e) if e.kind() != io::ErrorKind::DirectoryNotEmpty => return Err(e),
                _ => return Ok(false),
            }
        }
        for (name, is_folder) in entries {
            let entry = current.path().join(name);
            if !remove_unless_full(&current, &entry, is_folder)? {
                self.moved = move_to(top, &current, &entry, self.moved)?;
            }
        }
        self.current = Some((path, current));
        Ok(false)
    }
}

/// Removes entries of `top` up to the first folder that is not empty. Returns that folder.
fn remove_up_to_a_full_folder(
    top: &Folder,
    entries: Vec<(OsString, bool)>,
) -> io::Result<Option<(PathBuf, Folder)>> {
    for (name, is_folder) in entries {
        let path = top.path().join(name);
        if !remove_unless_full(top, &path, is_folder)? {
            return match Folder::open(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                opened => opened.map(|folder| Some((path, folder))),
            };
        }
    }
    Ok(None)
}

/// Removes an entry of `parent`. Returns false if it is a folder that is not empty.
fn remove_unless_full(parent: &Folder, entry: &Path, is_folder: bool) -> io::Result<bool> {
    if !is_folder {
        return parent.change(|| fs::remove_file(entry)).map(|()| true);
    }
    match parent.change(|| fs::remove_dir(entry)) {
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        removed => removed.map(|()| true),
    }
}

/// Moves a folder of `parent` into `top`, under a new name with a number after `moved`. Returns that
/// number.
fn move_to(top: &Folder, parent: &Folder, folder: &Path, mut moved: u64) -> io::Result<u64> {
    loop {
        moved += 1;
        let name = format!(".naq-removed-{}-{moved}", std::process::id());
        let to = top.path().join(name);
        let mut renamed = parent.change(|| fs::rename(folder, &to));
        if renamed
            .as_ref()
            .is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
        {
            // A folder that moves must be writable itself, since its `..` changes.
            make_emptiable(folder)?;
            renamed = parent.change(|| fs::rename(folder, &to));
        }
        match renamed {
            Ok(()) => return Ok(moved),
            // The job has an entry of this name.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::DirectoryNotEmpty
                        | io::ErrorKind::AlreadyExists
                        | io::ErrorKind::NotADirectory
                ) => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    /// Creates `levels` folders in each other. Works by descriptors, since no path is that long.
    fn nest(top: &Path, levels: usize) {
        let mut folder = Folder::open(top).unwrap();
        for _ in 0..levels {
            fs::write(folder.path().join("file"), "x").unwrap();
            let below = folder.path().join("d");
            fs::create_dir(&below).unwrap();
            folder = Folder::open(&below).unwrap();
        }
    }

    #[test]
    fn a_folder_is_removed_however_deep_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("work");
        fs::create_dir(&path).unwrap();
        nest(&path, 3_000);
        // on a stack on which a recursion would not get far
        std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn({
                let path = path.clone();
                move || Removal::new(path, LONG).run().unwrap()
            })
            .unwrap()
            .join()
            .unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_wide_folder_with_names_of_its_own_choice_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("work");
        for number in 0..600 {
            fs::create_dir_all(path.join(format!("{number}/a/b"))).unwrap();
            fs::write(path.join(format!("file{number}")), "x").unwrap();
        }
        let taken = |number| path.join(format!(".naq-removed-{}-{number}", std::process::id()));
        fs::create_dir_all(taken(1).join("full")).unwrap();
        fs::write(taken(2), "a file").unwrap();
        std::os::unix::fs::symlink("/etc", path.join("3/a/link")).unwrap();
        let unreadable = fs::Permissions::from_mode(0o000);
        fs::set_permissions(path.join("5/a"), unreadable.clone()).unwrap();
        fs::set_permissions(&path, unreadable).unwrap();
        Removal::new(path.clone(), LONG).run().unwrap();
        assert!(!path.exists());
        assert!(Path::new("/etc").is_dir());
        // nothing is left to do for a second one
        Removal::new(path, LONG).run().unwrap();
    }

    #[test]
    fn a_removal_is_bounded_in_time() {
        let temp = tempfile::tempdir().unwrap();
        nest(temp.path(), 1_000);
        let error = Removal::new(temp.path().to_owned(), Duration::from_millis(1))
            .run()
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        Removal::new(temp.path().to_owned(), LONG).run().unwrap();
    }
}
