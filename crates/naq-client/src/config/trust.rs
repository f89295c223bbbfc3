//! Which `./naq.toml` the user trusts: its path and a digest of its text, in a folder of the user.
//!
//! A file in the current folder may come with what was cloned or unpacked there. It could name a
//! program to run, or a server that would get the jobs. So it may set more than harmless settings
//! only after `naq config trust`, and only while its text is the same.

use std::fs::{self, DirBuilder};
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::file_read;
use super::process_env::ProcessEnv;
use crate::private_file::write_private_file;

/// Whether a file is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// The user trusts the file as it is.
    Trusted,
    /// The user trusted it, and it has changed since then.
    Changed,
    /// The user has never trusted it.
    Unknown,
}

/// Remembers that the user trusts a file with this text. Returns the file that it cannot write, with
/// the reason.
pub(super) fn remember(
    env: &ProcessEnv,
    path: &Path,
    text: &str,
) -> Result<(), (PathBuf, io::Error)> {
    let entry = entry(env, path);
    write(&entry, path, text).map_err(|error| (entry, error))
}

/// Forgets that the user trusts a file. Returns whether there was something to forget, or the file that
/// it cannot remove, with the reason.
pub(super) fn forget(env: &ProcessEnv, path: &Path) -> Result<bool, (PathBuf, io::Error)> {
    let entry = entry(env, path);
    match fs::remove_file(&entry) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err((entry, error)),
    }
}

/// Whether the user trusts a file with this text.
pub(super) fn state_of(env: &ProcessEnv, path: &Path, text: &str) -> Trust {
    let Ok(found) = file_read::read(&entry(env, path), env.uid) else {
        return Trust::Unknown;
    };
    if found.text.lines().next() == Some(digest(text.as_bytes()).as_str()) {
        Trust::Trusted
    } else {
        Trust::Changed
    }
}

/// The file with the decision about a path. A path in a settings file is relative to its folder, so
/// that the folder counts and not where a symbolic link of this name leads.
fn entry(env: &ProcessEnv, path: &Path) -> PathBuf {
    let place = match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(folder)), Some(name)) => folder.join(name),
        _ => path.to_path_buf(),
    };
    env.app_dir("XDG_DATA_HOME", ".local/share", "data")
        .join("trusted")
        .join(digest(place.as_os_str().as_encoded_bytes()))
}

fn write(entry: &Path, path: &Path, text: &str) -> io::Result<()> {
    let mut folder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut folder, 0o700);
    if let Some(parent) = entry.parent() {
        folder.recursive(true).create(parent)?;
    }
    // the path is for people who look into the folder
    let content = format!("{}\n{}\n", digest(text.as_bytes()), path.display());
    write_private_file(entry, content.as_bytes())
}

fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}
