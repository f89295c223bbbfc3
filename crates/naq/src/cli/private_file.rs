//! Reads files with secrets that a flag names.

use std::path::Path;

use naq_client::{SMALL_FILE_BYTES_MAX, read_file, text_of_file};

/// Reads a file that belongs to this user or root, and that nobody else can read or change. Of a file of root, one
/// group may read it, which root has chosen: Kubernetes gives a secret to a user that is not root in this way.
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
    let for_others = if file.uid == Some(0) && own != 0 {
        0o037
    } else {
        0o077
    };
    if file.mode.is_some_and(|mode| mode & for_others != 0) {
        return refuse("other users can read it; run chmod 600 on it");
    }
    text_of_file(file.bytes)
}
