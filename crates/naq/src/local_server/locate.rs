//! Which nats-server program to run.

use std::path::Path;

use super::binary::{
    Binary, Origin, Search, installed_programs, is_program, programs_on_path, version_of,
};
use super::error::ServerError;
use super::provision;
use super::version::MINIMUM_VERSION;

/// Finds a nats-server: the configured one, else the one that was installed with naq, else one on PATH, both only
/// if they are new enough, else the cached one, else downloads one, which needs python3 with pip on PATH and may
/// take a minute.
///
/// Blocks: do not call it on a runtime thread.
///
/// # Errors
/// Returns [`ServerError::Unusable`] or [`ServerError::TooOld`] for the configured program, and
/// [`ServerError::NotFound`] if every attempt failed.
pub fn find(search: &Search) -> Result<Binary, ServerError> {
    if let Some(named) = &search.explicit {
        return explicit(named);
    }
    let mut attempts: Vec<String> = Vec::new();
    let installed = installed_programs(search.program_dir.as_deref());
    let on_path = programs_on_path("nats-server", search.path.as_deref());
    if on_path.is_empty() {
        attempts.push("PATH contains no nats-server".to_owned());
    }
    let installed = installed.into_iter().map(|path| (path, Origin::Installed));
    let on_path = on_path.into_iter().map(|path| (path, Origin::Path));
    for (path, origin) in installed.chain(on_path) {
        match version_of(&path) {
            Ok(found) if found >= MINIMUM_VERSION => {
                return Ok(Binary {
                    path,
                    version: found,
                    origin,
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
