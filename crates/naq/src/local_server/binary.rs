//! A nats-server program: where to search for it, where it was found, and which version it is.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use serde::Serialize;

use super::subprocess;
use super::version::Version;

/// Time limit of `nats-server --version`, which takes some 10 ms.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Where to search for nats-server.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// The program that the user configured. If present, nothing else is tried.
    pub explicit: Option<PathBuf>,
    /// The folder of naq's own program, without symbolic links. `None` if it is unknown.
    pub program_dir: Option<PathBuf>,
    /// The value of PATH. Relative entries are skipped, so that the current folder does not decide
    /// which program runs.
    pub path: Option<OsString>,
    /// naq's cache folder, which contains a downloaded nats-server.
    pub cache_dir: PathBuf,
}

/// The folder of this program, without symbolic links: a link in another folder, as uv and pipx make it, leads to
/// the folder in which nats-server is too. `None` if it is unknown.
#[must_use]
pub fn program_dir() -> Option<PathBuf> {
    let program = std::env::current_exe().and_then(std::fs::canonicalize);
    program.ok()?.parent().map(Path::to_path_buf)
}

/// Where a program was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "origin")]
pub enum Origin {
    /// The user configured it.
    Explicit,
    /// It was installed with naq.
    Installed,
    /// On PATH.
    Path,
    /// In naq's cache, with the pinned SHA-256.
    Cache,
    /// Downloaded by this call, with the pinned SHA-256.
    Downloaded,
}

/// A usable nats-server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Binary {
    /// Absolute path of the program.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
    /// Where it was found.
    pub origin: Origin,
}

/// The nats-server programs that were installed with naq: in the folder of its program, as a wheel, an npm package
/// and an image have it, or in `../lib/naq`, where a package of a distribution has it, so that it is not on PATH.
///
/// No checksum is needed: a user who could replace this program could replace naq itself.
pub(super) fn installed_programs(program_dir: Option<&Path>) -> Vec<PathBuf> {
    let Some(folder) = program_dir else {
        return Vec::new();
    };
    let folders = [
        Some(folder.to_path_buf()),
        folder.parent().map(|up| up.join("lib/naq")),
    ];
    let programs = folders.into_iter().flatten();
    programs
        .map(|folder| folder.join("nats-server"))
        .filter(|program| is_program(program))
        .collect()
}

/// All programs of this name on PATH, in the order of PATH.
pub(super) fn programs_on_path(name: &str, path: Option<&OsStr>) -> Vec<PathBuf> {
    let Some(path) = path else { return Vec::new() };
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .filter(|program| is_program(program))
        .collect()
}

pub(super) fn is_program(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

/// Runs a program for its version. The error is a text for the user.
pub(super) fn version_of(path: &Path) -> Result<Version, String> {
    let finished = subprocess::run(subprocess::command(path).arg("--version"), VERSION_TIMEOUT)?;
    let shown = path.display();
    if !finished.status.success() {
        return Err(format!(
            "{shown} --version failed: {}",
            finished.error_summary(3)
        ));
    }
    Version::parse(&finished.stdout).ok_or_else(|| {
        let said: String = finished.stdout.chars().take(80).collect();
        format!("{shown} --version printed {said:?}, which is not a version of nats-server")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_entries_of_path_are_skipped() {
        let path = OsString::from(".:bin::/bin");
        assert_eq!(
            programs_on_path("sh", Some(&path)),
            [PathBuf::from("/bin/sh")]
        );
    }
}
