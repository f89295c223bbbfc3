//! Reads a file of settings: opened once, checked by its descriptor, and never more than a bound.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Maximum size of a file, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The content of a file.
#[derive(Debug)]
pub(super) struct FileText {
    pub(super) text: String,
    /// The permission bits of the file. On systems without them, 0600.
    pub(super) mode: u32,
}

/// Why a file is not read.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// The operating system refuses, or the file is too large, no regular file or not UTF-8.
    Io(io::Error),
    /// It belongs to another user than this one and root.
    ForeignOwner(u32),
    /// Its group or everybody can write to it; the permission bits.
    WritableByOthers(u32),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::Io(error) => write!(out, "{error}"),
            Unreadable::ForeignOwner(uid) => write!(out, "it belongs to user id {uid}"),
            Unreadable::WritableByOthers(mode) => {
                write!(out, "other users can write to it (mode {mode:o})")
            }
        }
    }
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Unreadable {
        Unreadable::Io(error)
    }
}

/// Reads a regular file that belongs to the user `uid` or to root and that nobody else can write to.
///
/// What is checked is the open descriptor, so that nobody can replace the file between the check and
/// the read.
pub(super) fn read(path: &Path, uid: u32) -> Result<FileText, Unreadable> {
    let file = open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        let what = if found.is_dir() {
            "it is a folder"
        } else {
            "it is not a regular file"
        };
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what).into());
    }
    let mode = check_owner(&found, uid)?;
    let mut bytes = Vec::new();
    // The size that the descriptor reports may be wrong, as in /proc, and the file may grow.
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let reason = "it is larger than 1 MiB";
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason).into());
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))?;
    Ok(FileText { text, mode })
}

/// Opens a file for reading. Neither waits for the writer of a FIFO nor gets a controlling terminal.
#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Checks who owns the file and who can write to it. Returns its permission bits.
#[cfg(unix)]
fn check_owner(found: &std::fs::Metadata, uid: u32) -> Result<u32, Unreadable> {
    use std::os::unix::fs::MetadataExt;
    let mode = found.mode() & 0o7777;
    if found.uid() != uid && found.uid() != 0 {
        return Err(Unreadable::ForeignOwner(found.uid()));
    }
    if mode & 0o022 != 0 {
        return Err(Unreadable::WritableByOthers(mode));
    }
    Ok(mode)
}

/// Other systems have no such owners and modes.
#[cfg(not(unix))]
fn check_owner(_found: &std::fs::Metadata, _uid: u32) -> Result<u32, Unreadable> {
    Ok(0o600)
}
