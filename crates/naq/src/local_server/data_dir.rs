//! The data folder of a managed server: file names, private files, the clients' key.

use std::fs::{self, DirBuilder, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use naq_client::{SMALL_FILE_BYTES_MAX, read_text_file, write_private_file};
use nkeys::KeyPair;

use super::error::ServerError;

/// A data folder, with an absolute path.
#[derive(Clone, Debug)]
pub(super) struct DataDir {
    root: PathBuf,
}

impl DataDir {
    /// Creates the folder (mode 0700) if it is missing, and checks that only this user can change it.
    ///
    /// # Errors
    /// Returns [`ServerError::DataDir`] if another user could change the folder or its path is unsuitable,
    /// and [`ServerError::File`] if it cannot be created.
    pub(super) fn prepare(path: &Path) -> Result<DataDir, ServerError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(ServerError::file("create", path))?;
        let folder = DataDir::open(path)?;
        let found = fs::metadata(&folder.root).map_err(ServerError::file("read", &folder.root))?;
        let refuse = |reason: String| ServerError::DataDir {
            path: folder.root.clone(),
            reason,
        };
        // In a folder of another user, that user could replace the locks, the key or the
        // configuration.
        if found.uid() != nix::unistd::geteuid().as_raw() {
            return Err(refuse(format!("it belongs to user id {}", found.uid())));
        }
        if found.mode() & 0o022 != 0 {
            return Err(refuse(format!(
                "other users can write to it (mode {:o}); run chmod 700 on it or choose another folder",
                found.mode() & 0o777
            )));
        }
        if folder
            .root
            .to_str()
            .is_none_or(|text| text.contains(['\n', '\r', '\0']))
        {
            return Err(refuse(
                "its path is not UTF-8 or contains a line break, which nats-server's configuration does not allow"
                    .to_owned(),
            ));
        }
        Ok(folder)
    }

    /// Resolves an existing folder.
    pub(super) fn open(path: &Path) -> Result<DataDir, ServerError> {
        let root = fs::canonicalize(path).map_err(ServerError::file("find", path))?;
        Ok(DataDir { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join(naq_client::server_state::LOCK_FILE)
    }

    pub(super) fn users(&self) -> PathBuf {
        self.root.join("users")
    }

    pub(super) fn start(&self) -> PathBuf {
        self.root.join("start")
    }

    pub(super) fn stay(&self) -> PathBuf {
        self.root.join("stay")
    }

    pub(super) fn nkey_file(&self) -> PathBuf {
        self.root.join("client.nk")
    }

    /// The certificate that the server presents, in PEM.
    pub(super) fn certificate_file(&self) -> PathBuf {
        self.root.join("server.pem")
    }

    /// The key of the certificate, in PEM.
    pub(super) fn certificate_key_file(&self) -> PathBuf {
        self.root.join("server.key")
    }

    /// The file of the token by which earlier versions of naq admitted clients.
    pub(super) fn former_token_file(&self) -> PathBuf {
        self.root.join("token")
    }

    pub(super) fn config_file(&self) -> PathBuf {
        self.root.join("nats-server.conf")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.root.join(naq_client::server_state::STATE_FILE)
    }

    pub(super) fn server_log(&self) -> PathBuf {
        self.root.join("nats-server.log")
    }

    pub(super) fn supervisor_log(&self) -> PathBuf {
        self.root.join("supervisor.log")
    }

    pub(super) fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// The public part of the key that the clients of the server log in with. Created at the first start
    /// and kept, so that clients stay connected across restarts. The server never sees the private part,
    /// so that no program that takes the server's place learns it.
    pub(super) fn client_key(&self) -> Result<String, ServerError> {
        let path = self.nkey_file();
        match read_text_file(&path, SMALL_FILE_BYTES_MAX) {
            Ok(seed) => {
                // A power cut may have left an empty file.
                if let Ok(key) = KeyPair::from_seed(seed.trim()) {
                    // Copying a folder may have changed the mode.
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
                        .map_err(ServerError::file("protect", &path))?;
                    return Ok(key.public_key());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ServerError::file("read", &path)(error)),
        }
        let key = KeyPair::new_user();
        let seed = key.seed().map_err(|error| ServerError::DataDir {
            path: self.root.clone(),
            reason: format!("cannot make a key for its clients: {error}"),
        })?;
        write_private(&path, format!("{seed}\n").as_bytes())?;
        Ok(key.public_key())
    }
}

/// Replaces a file atomically, with mode 0600: a reader sees the old or the new content.
pub(super) fn write_private(path: &Path, content: &[u8]) -> Result<(), ServerError> {
    write_private_file(path, content).map_err(ServerError::file("write", path))
}

/// Removes a file if it exists.
pub(super) fn remove_if_there(path: &Path) -> Result<(), ServerError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(ServerError::file("remove", path)(source))
        }
        _ => Ok(()),
    }
}

/// The content of a file from byte `from_bytes` on, but at most its last `limit_bytes`, cut at the
/// start of a line. Empty if the file cannot be read.
pub(super) fn tail(path: &Path, from_bytes: u64, limit_bytes: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let size_bytes = file.metadata()?.len();
        let start_bytes = size_bytes.saturating_sub(limit_bytes).max(from_bytes);
        file.seek(SeekFrom::Start(start_bytes))?;
        let mut bytes = Vec::new();
        file.take(limit_bytes).read_to_end(&mut bytes)?;
        if start_bytes > from_bytes
            && let Some(end) = bytes.iter().position(|byte| *byte == b'\n')
        {
            bytes.drain(..=end);
        }
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default())
        .trim_end()
        .to_owned()
}

/// Lower-case hexadecimal.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _infallible = write!(text, "{byte:02x}");
            text
        })
}
