//! Trusts the `naq.toml` of the current folder, and withdraws the trust.

use std::io;
use std::path::PathBuf;

use super::error::ConfigError;
use super::file_search::{self, FILE_NAME};
use super::process_env::ProcessEnv;
use super::trust;

/// A `./naq.toml` that is now trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedFile {
    /// The file.
    pub path: PathBuf,
    /// The settings in the file that are not harmless, in the order of its lines.
    pub settings: Vec<&'static str>,
}

/// Trusts the `./naq.toml` of the current folder as it is now. `None` if there is none.
///
/// # Errors
/// Returns the error of a file that cannot be read or is invalid, and [`ConfigError::Write`] if the
/// decision cannot be stored.
pub fn trust_current_dir(env: &ProcessEnv) -> Result<Option<TrustedFile>, ConfigError> {
    let Some((file, text)) = file_search::read_current_dir(env)? else {
        return Ok(None);
    };
    trust::remember(env, &file.path, &text).map_err(cannot_write)?;
    Ok(Some(TrustedFile {
        settings: file_search::keys_that_need_trust(&file),
        path: file.path,
    }))
}

/// Withdraws the trust in the `./naq.toml` of the current folder. Returns whether it was trusted.
///
/// # Errors
/// Returns [`ConfigError::Write`] if the decision cannot be removed.
pub fn revoke_trust_of_current_dir(env: &ProcessEnv) -> Result<bool, ConfigError> {
    trust::forget(env, &env.current_dir.join(FILE_NAME)).map_err(cannot_write)
}

fn cannot_write((path, source): (PathBuf, io::Error)) -> ConfigError {
    ConfigError::Write { path, source }
}
