//! Reads a file of settings, which nobody but this user and root may have written.

use std::io;
use std::path::Path;

use crate::{FileContent, SMALL_FILE_BYTES_MAX};

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

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Unreadable {
        Unreadable::Io(error)
    }
}

/// Reads a regular file that belongs to the user `uid` or to root and that nobody else can write to.
pub(super) fn read(path: &Path, uid: u32) -> Result<FileText, Unreadable> {
    let found = crate::read_file(path, SMALL_FILE_BYTES_MAX)?;
    let mode = check_owner(&found, uid)?;
    let text = crate::text_of_file(found.bytes)?;
    Ok(FileText { text, mode })
}

/// Checks who owns the file and who can write to it. Returns its permission bits.
fn check_owner(found: &FileContent, uid: u32) -> Result<u32, Unreadable> {
    let mode = found.mode.unwrap_or(0o600);
    if let Some(owner) = found.uid.filter(|owner| *owner != uid && *owner != 0) {
        return Err(Unreadable::ForeignOwner(owner));
    }
    if mode & 0o022 != 0 {
        return Err(Unreadable::WritableByOthers(mode));
    }
    Ok(mode)
}
