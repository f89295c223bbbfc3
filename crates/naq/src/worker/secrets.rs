//! The worker's secrets: an envelope names them, only the worker has their values.

use std::path::{Path, PathBuf};

/// A folder of secrets: one file each, named like the environment variable that it becomes.
#[derive(Clone, Debug, Default)]
pub struct SecretStore {
    folder: Option<PathBuf>,
}

/// Why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The worker has no store at all.
    #[error("the job needs the secret `{0}`, but this worker has no secrets (--secrets-dir)")]
    NoStore(String),
    /// The store has no secret of this name.
    #[error("this worker has no secret `{0}`")]
    Missing(String),
    /// The secret exists and cannot be used.
    #[error("the secret `{name}` cannot be read: {problem}")]
    Unreadable {
        /// Name of the secret.
        name: String,
        /// Why it cannot be used.
        problem: String,
    },
}

/// The largest secret, in bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

impl SecretStore {
    /// A store without secrets.
    #[must_use]
    pub fn empty() -> SecretStore {
        SecretStore::default()
    }

    /// The secrets in a folder, a file for each.
    #[must_use]
    pub fn folder(path: &Path) -> SecretStore {
        SecretStore {
            folder: Some(path.to_owned()),
        }
    }

    /// Reads the secrets of these names. A line break at the end is not part of a secret.
    ///
    /// # Errors
    /// Returns a [`SecretError`] for the first secret that cannot be read.
    pub fn read(&self, names: &[String]) -> Result<Vec<(String, String)>, SecretError> {
        names
            .iter()
            .map(|name| self.read_one(name).map(|value| (name.clone(), value)))
            .collect()
    }

    fn read_one(&self, name: &str) -> Result<String, SecretError> {
        let Some(folder) = &self.folder else {
            return Err(SecretError::NoStore(name.to_owned()));
        };
        // names are checked when the envelope is read: letters, digits and underscores
        let path = folder.join(name);
        let unreadable = |problem: String| SecretError::Unreadable {
            name: name.to_owned(),
            problem,
        };
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() > SECRET_BYTES_MAX => {
                return Err(unreadable("it is over 64 KiB".to_owned()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(SecretError::Missing(name.to_owned()));
            }
            Err(error) => return Err(unreadable(error.to_string())),
        }
        let text = std::fs::read_to_string(&path).map_err(|error| unreadable(error.to_string()))?;
        let value = text.strip_suffix('\n').unwrap_or(&text);
        let value = value.strip_suffix('\r').unwrap_or(value);
        if value.contains('\0') {
            return Err(unreadable("it contains a NUL byte".to_owned()));
        }
        Ok(value.to_owned())
    }
}
