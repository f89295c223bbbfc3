//! Reads files with secrets that a flag names.

use std::path::Path;

use naq_client::{SMALL_FILE_BYTES_MAX, read_file, text_of_file};

/// Reads a file that belongs to this user or root, and that nobody else can read or change.
pub(super) fn read_private(path: &Path) -> std::io::Result<String> {
    let file = read_file(path, SMALL_FILE_BYTES_MAX)?;
    let own = nix::unistd::geteuid().as_raw();
    let refuse = |why: &str| {
        Err(std::io::Error::new(
            std::io::ErrorKind::PermissionDenied,
            why,
        ))
    };
    if file.uid.is_some_and(|uid| uid != own && uid != 0) {
        return refuse("it belongs to another user");
    }
    if file.mode.is_some_and(|mode| mode & 0o077 != 0) {
        return refuse("other users can read it; run chmod 600 on it");
    }
    text_of_file(file.bytes)
}
