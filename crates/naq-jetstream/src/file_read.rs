//! Reads whole files. Each may turn out to be a FIFO, a device or an endless file, so it is opened once,
//! checked through its descriptor, and read up to a bound.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Maximum size of a file that naq or a user wrote for naq, in bytes.
pub const SMALL_FILE_BYTES_MAX: u64 = 1 << 20;

/// The content of a file, and its owner and permissions.
#[derive(Debug)]
pub struct FileContent {
    /// The content.
    pub bytes: Vec<u8>,
    /// The user id of the owner. `None` on systems without such ids.
    pub uid: Option<u32>,
    /// The permission bits. `None` on systems without them.
    pub mode: Option<u32>,
}

/// Reads a regular file of at most this size, in bytes.
///
/// Neither waits for the writer of a FIFO nor reads from a device. All checks use the open descriptor, so
/// that nobody can replace the file between the check and the read. The call blocks for as long as the file
/// system does.
///
/// # Errors
/// Returns [`io::ErrorKind::InvalidInput`] if the file is not a regular one, [`io::ErrorKind::FileTooLarge`]
/// if it is larger than the bound, and the error of the operating system if it cannot be read.
pub fn read_file(path: &Path, bytes_max: u64) -> io::Result<FileContent> {
    let file = open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        let what = if found.is_dir() {
            "it is a folder"
        } else {
            "it is not a regular file"
        };
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    // The size that the descriptor reports may be wrong, as in /proc, and the file may grow.
    let expected = usize::try_from(found.len().min(bytes_max)).unwrap_or(0);
    let mut bytes = Vec::with_capacity(expected + 1);
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let reason = format!("it is larger than {}", spelt_size(bytes_max));
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    let (uid, mode) = owner_and_mode(&found);
    Ok(FileContent { bytes, uid, mode })
}

/// Reads a regular file of at most this size, in bytes, as text.
///
/// # Errors
/// Returns the errors of [`read_file`], and [`io::ErrorKind::InvalidData`] if the content is not UTF-8.
pub fn read_text_file(path: &Path, bytes_max: u64) -> io::Result<String> {
    text_of_file(read_file(path, bytes_max)?.bytes)
}

/// The text of a file's bytes.
///
/// # Errors
/// Returns [`io::ErrorKind::InvalidData`] if they are not UTF-8.
pub fn text_of_file(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

fn spelt_size(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    }
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

#[cfg(unix)]
fn owner_and_mode(found: &std::fs::Metadata) -> (Option<u32>, Option<u32>) {
    use std::os::unix::fs::MetadataExt;
    (Some(found.uid()), Some(found.mode() & 0o7777))
}

#[cfg(not(unix))]
fn owner_and_mode(_found: &std::fs::Metadata) -> (Option<u32>, Option<u32>) {
    (None, None)
}
