//! The folder in which a job's files are: naq places files into it before the job runs, and reads from it
//! what the job has left.
//!
//! What is in it, and what another job of the same user does with it meanwhile, is not trusted. Each path is
//! walked name by name from the descriptor of the folder, and no name is followed that is a symbolic link. So
//! nothing outside is read or written, on kernels and under filters without `openat2` too.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, fchmod, fchown, fstat, mkdirat, openat, statat,
};
use rustix::fs::{CWD, Gid, Uid};

/// Maximum depth of the folders that are listed.
const DEPTH_MAX: usize = 64;

/// The folder with a job's files.
#[derive(Debug)]
pub struct WorkFolder {
    dir: OwnedFd,
    /// User and group that own what is in it, if not this process's.
    owner: Option<(u32, u32)>,
}

/// What a name in a folder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A device, a FIFO or a socket.
    Special,
}

impl EntryKind {
    /// What it is, for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            EntryKind::File => "a file",
            EntryKind::Link => "a symbolic link",
            EntryKind::Special => "a device, a FIFO or a socket",
        }
    }
}

/// A regular file that can be read.
#[derive(Debug)]
pub struct OpenedFile {
    /// The file, at its beginning.
    pub file: File,
    /// Its size when it was opened, in bytes.
    pub bytes: u64,
    /// Whether its owner can execute it.
    pub executable: bool,
}

/// The end of a listing that was ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished;

impl WorkFolder {
    /// Opens a folder of this process's own user.
    ///
    /// # Errors
    /// Returns an I/O error if it does not exist, or is no folder.
    pub fn open(path: &Path) -> io::Result<WorkFolder> {
        WorkFolder::open_owned(path, None)
    }

    /// Opens a folder whose files belong to this user and group. A symbolic link is no folder.
    pub(super) fn open_owned(path: &Path, owner: Option<(u32, u32)>) -> io::Result<WorkFolder> {
        let dir = openat(CWD, path, folder_flags(), Mode::empty())?;
        Ok(WorkFolder { dir, owner })
    }

    /// Creates a file for writing, and the folders in which it is. It must not exist.
    ///
    /// # Errors
    /// Returns an I/O error, also if a name of the path is a symbolic link or the path leads outside.
    pub fn create_file(&self, path: &str, executable: bool) -> io::Result<File> {
        let (folders, name) = split(path)?;
        let folder = self.folder(&folders, true)?;
        let folder = folder.as_ref().map_or(self.dir.as_fd(), AsFd::as_fd);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = match executable {
            true => Mode::RWXU,
            false => Mode::RUSR | Mode::WUSR,
        };
        let file = openat(folder, name, flags, mode)?;
        // whatever the umask of this process is
        fchmod(&file, mode)?;
        self.give_to_owner(file.as_fd())?;
        Ok(file.into())
    }

    /// Renames a file in the folder. Unless `replace` is set, the new path must not exist.
    ///
    /// # Errors
    /// Returns an I/O error, also if a name of the path is a symbolic link or the path leads outside.
    pub fn rename(&self, from: &str, to: &str, replace: bool) -> io::Result<()> {
        let (from_folders, from_name) = split(from)?;
        let (to_folders, to_name) = split(to)?;
        let source = self.folder(&from_folders, false)?;
        let target = self.folder(&to_folders, true)?;
        let source = source.as_ref().map_or(self.dir.as_fd(), AsFd::as_fd);
        let target = target.as_ref().map_or(self.dir.as_fd(), AsFd::as_fd);
        let flags = match replace {
            true => rustix::fs::RenameFlags::empty(),
            false => rustix::fs::RenameFlags::NOREPLACE,
        };
        Ok(rustix::fs::renameat_with(
            source, from_name, target, to_name, flags,
        )?)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// Returns an I/O error, also if a name of the path is a symbolic link or the path leads outside.
    pub fn remove_file(&self, path: &str) -> io::Result<()> {
        let (folders, name) = split(path)?;
        let folder = self.folder(&folders, false)?;
        let folder = folder.as_ref().map_or(self.dir.as_fd(), AsFd::as_fd);
        Ok(rustix::fs::unlinkat(folder, name, AtFlags::empty())?)
    }

    /// Opens a regular file for reading. Never blocks, whatever the path stands for.
    ///
    /// # Errors
    /// Returns an I/O error, also if the file is no regular file, if a name of its path is a symbolic link, if
    /// it belongs to another user than the job, or if the path leads outside.
    pub fn open_file(&self, path: &str) -> io::Result<OpenedFile> {
        let (folders, name) = split(path)?;
        let folder = self.folder(&folders, false)?;
        let folder = folder.as_ref().map_or(self.dir.as_fd(), AsFd::as_fd);
        // Looked at before it is opened, since to open a device can have effects.
        check_regular(FileType::from_raw_mode(
            statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode,
        ))?;
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(folder, name, flags, Mode::empty())?;
        let found = fstat(&file)?;
        check_regular(FileType::from_raw_mode(found.st_mode))?;
        // A hard link to a file that the job may not read, which this process, as root, may.
        if self.owner.is_some_and(|(user, _)| user != found.st_uid) {
            let why = "it belongs to another user than the job";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        Ok(OpenedFile {
            file: file.into(),
            bytes: u64::try_from(found.st_size).unwrap_or_default(),
            executable: Mode::from_raw_mode(found.st_mode).contains(Mode::XUSR),
        })
    }

    /// Calls `visit` with the path and the kind of everything but folders at `base` and below, which is the
    /// whole folder if it is empty. Links are not followed, and folders that cannot be read are left out.
    /// Nothing is called for a base that does not exist.
    ///
    /// # Errors
    /// Returns [`Unfinished`] if `visit` returned false, or if folders are nested too deeply.
    pub fn list(
        &self,
        base: &str,
        visit: &mut dyn FnMut(&str, EntryKind) -> bool,
    ) -> Result<(), Unfinished> {
        if base.is_empty() {
            return list_folder(self.dir.as_fd(), "", 0, visit);
        }
        let Ok((folders, name)) = split(base) else {
            return Ok(());
        };
        let Ok(folder) = self.folder(&folders, false) else {
            return Ok(());
        };
        let folder = folder.as_ref().map_or(self.dir.as_fd(), AsFd::as_fd);
        list_entry(folder, name, base, folders.len(), visit)
    }

    /// The folder at these names. `None` if there are none: it is this one. With `create`, folders that do not
    /// exist are created.
    fn folder(&self, names: &[&str], create: bool) -> io::Result<Option<OwnedFd>> {
        let mut folder: Option<OwnedFd> = None;
        for name in names {
            let parent = folder.as_ref().map_or(self.dir.as_fd(), AsFd::as_fd);
            let is_new = create
                && match mkdirat(parent, *name, Mode::RWXU) {
                    Ok(()) => true,
                    Err(rustix::io::Errno::EXIST) => false,
                    Err(error) => return Err(error.into()),
                };
            let next = openat(parent, *name, folder_flags(), Mode::empty())?;
            if is_new {
                self.give_to_owner(next.as_fd())?;
            }
            folder = Some(next);
        }
        Ok(folder)
    }

    fn give_to_owner(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        if let Some((user, group)) = self.owner {
            fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        Ok(())
    }
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// The folders of a path and its last name.
fn split(path: &str) -> io::Result<(Vec<&str>, &str)> {
    let mut names: Vec<&str> = path.split('/').collect();
    let leads_out = names.iter().any(|name| matches!(*name, "" | "." | ".."));
    match names.pop() {
        Some(last) if !leads_out => Ok((names, last)),
        _ => {
            let why = "the path is empty, absolute, or has an empty name, `.` or `..`";
            Err(io::Error::new(io::ErrorKind::InvalidInput, why))
        }
    }
}

fn check_regular(kind: FileType) -> io::Result<()> {
    if kind == FileType::RegularFile {
        return Ok(());
    }
    let why = match kind {
        FileType::Directory => "it is a folder",
        FileType::Symlink => "it is a symbolic link",
        _ => "it is a device, a FIFO or a socket",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// Visits one name of a folder, and what is below it.
fn list_entry(
    folder: BorrowedFd<'_>,
    name: &str,
    path: &str,
    depth: usize,
    visit: &mut dyn FnMut(&str, EntryKind) -> bool,
) -> Result<(), Unfinished> {
    let Ok(found) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
        return Ok(());
    };
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => {
            return match openat(folder, name, folder_flags(), Mode::empty()) {
                Ok(below) => list_folder(below.as_fd(), path, depth + 1, visit),
                Err(_) => Ok(()),
            };
        }
        FileType::RegularFile => EntryKind::File,
        FileType::Symlink => EntryKind::Link,
        _ => EntryKind::Special,
    };
    match visit(path, kind) {
        true => Ok(()),
        false => Err(Unfinished),
    }
}

/// Visits what is in a folder. Holds one descriptor for each level.
fn list_folder(
    folder: BorrowedFd<'_>,
    path: &str,
    depth: usize,
    visit: &mut dyn FnMut(&str, EntryKind) -> bool,
) -> Result<(), Unfinished> {
    if depth > DEPTH_MAX {
        return Err(Unfinished);
    }
    let Ok(entries) = Dir::read_from(folder) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        // A name that is no UTF-8 cannot be in a record.
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if matches!(name, "." | "..") {
            continue;
        }
        let below = match path {
            "" => name.to_owned(),
            path => format!("{path}/{name}"),
        };
        list_entry(folder, name, &below, depth, visit)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    fn listed(folder: &WorkFolder, base: &str) -> Vec<(String, EntryKind)> {
        let mut found = Vec::new();
        let listing = folder.list(base, &mut |path, kind| {
            found.push((path.to_owned(), kind));
            true
        });
        listing.unwrap();
        found.sort_by(|one, other| one.0.cmp(&other.0));
        found
    }

    #[test]
    fn files_are_created_and_read_below_the_folder_only() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "s").unwrap();
        let path = temp.path().join("work");
        std::fs::create_dir(&path).unwrap();
        symlink(&outside, path.join("link")).unwrap();
        symlink(outside.join("secret"), path.join("file-link")).unwrap();
        let work = WorkFolder::open(&path).unwrap();
        let mut file = work.create_file("a/b/c", true).unwrap();
        file.write_all(b"content").unwrap();
        let opened = work.open_file("a/b/c").unwrap();
        assert!(opened.executable && opened.bytes == 7);
        let mut text = String::new();
        { opened.file }.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert!(work.create_file("a/b/c", false).is_err(), "it exists");
        for hostile in [
            "",
            "/etc/passwd",
            "../outside/secret",
            "a/../../outside/secret",
            "a//b",
            "./a",
            "link/secret",
            "link/new",
            "file-link",
        ] {
            assert!(work.create_file(hostile, false).is_err(), "{hostile}");
            assert!(work.open_file(hostile).is_err(), "{hostile}");
            assert!(work.rename("a/b/c", hostile, true).is_err() || hostile == "file-link");
            if hostile == "file-link" {
                // a rename replaces the link itself
                work.rename("file-link", "a/b/c", true).unwrap();
                symlink(outside.join("secret"), path.join("file-link")).unwrap();
            }
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(
            std::fs::read_to_string(outside.join("secret")).unwrap(),
            "s"
        );
        assert!(
            WorkFolder::open(&path.join("link")).is_err(),
            "a link is no folder"
        );
    }

    #[test]
    fn listing_follows_no_link_and_opens_no_fifo() {
        let temp = tempfile::tempdir().unwrap();
        let work = WorkFolder::open(temp.path()).unwrap();
        work.create_file("out/a", false).unwrap();
        work.create_file("b", false).unwrap();
        symlink("/etc", temp.path().join("out/etc")).unwrap();
        let fifo = temp.path().join("out/fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let expected = [
            ("out/a", EntryKind::File),
            ("out/etc", EntryKind::Link),
            ("out/fifo", EntryKind::Special),
        ];
        let expected: Vec<_> = expected.map(|(path, kind)| (path.to_owned(), kind)).into();
        assert_eq!(listed(&work, "out"), expected);
        assert_eq!(listed(&work, "").len(), 4);
        assert_eq!(listed(&work, "out/a"), expected[..1]);
        assert!(listed(&work, "out/etc/passwd").is_empty() && listed(&work, "no").is_empty());
        assert!(work.open_file("out/fifo").is_err(), "a FIFO must not block");
        assert!(work.open_file("out").is_err());
        let ended = work.list("", &mut |_, _| false);
        assert_eq!(ended, Err(Unfinished));
    }

    #[test]
    fn a_hard_link_to_a_file_of_another_user_is_not_read() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("a"), "x").unwrap();
        let own = nix::unistd::geteuid().as_raw();
        let folder = |user| WorkFolder::open_owned(temp.path(), Some((user, 0))).unwrap();
        assert!(folder(own).open_file("a").is_ok());
        assert!(folder(own + 1).open_file("a").is_err());
    }
}
