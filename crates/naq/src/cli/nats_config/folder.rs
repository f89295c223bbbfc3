//! The folder of a fleet: the configuration of nats-server, and for each user its credentials and its
//! settings. Nobody but its owner can read them.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::super::exit::Failure;
use super::super::session::Session;
use naq_client::config::Settings;
use naq_client::{
    Login, Role, SMALL_FILE_BYTES_MAX, UserKey, UsersConfig, read_text_file, write_private_file,
};

/// Number of random bytes of a password.
const PASSWORD_BYTES: usize = 24;

/// A folder that files are written into.
pub(super) struct Folder {
    path: PathBuf,
    written: Vec<PathBuf>,
}

impl Folder {
    /// Creates the folder if it does not exist.
    pub(super) fn open(path: &Path) -> Result<Folder, Failure> {
        let creating = DirBuilder::new().recursive(true).mode(0o700).create(path);
        creating.map_err(|error| cannot("create", path, &error))?;
        // settings name the files from wherever naq is started
        let path = std::path::absolute(path).map_err(|error| cannot("find", path, &error))?;
        Ok(Folder {
            path,
            written: Vec::new(),
        })
    }

    /// The settings file of a user in a folder.
    pub(super) fn settings_file(folder: &Path, user: &str) -> PathBuf {
        folder.join(format!("{user}.toml"))
    }

    /// The files that were written.
    pub(super) fn into_written(self) -> Vec<PathBuf> {
        self.written
    }

    /// Writes the credentials of a user and the settings of its role. Credentials that the folder has are
    /// kept, so that a change of queues or roles locks nobody out.
    pub(super) fn add_user(
        &mut self,
        session: &Session,
        config: UsersConfig<'_>,
        user: &str,
        role: Role,
        with_nkeys: bool,
    ) -> Result<Login, Failure> {
        let settings = session.settings();
        let mut lines = connection(settings)?;
        let login = if with_nkeys {
            let (file, public_key) = self.key(user)?;
            lines.push(("nkey", file.display().to_string()));
            Login::Nkey(public_key)
        } else {
            let password = self.password(user)?;
            lines.push(("user", user.to_owned()));
            lines.push(("password", password.clone()));
            Login::Password {
                user: user.to_owned(),
                password,
            }
        };
        lines.push(("inbox_prefix", role.inbox_prefix()));
        if role == Role::Producer {
            lines.push(("jetstream_domain", config.producers_domain().to_owned()));
        }
        let mut text = format!("# Settings of naq for the role {role}: naq --config FILE …\n");
        for (name, value) in lines {
            text.push_str(&format!("{name} = {}\n", toml::Value::String(value)));
        }
        self.write(&format!("{user}.toml"), &text)?;
        Ok(login)
    }

    /// The key pair of a user, which is made if there is none: the file of its seed, and its public key.
    fn key(&mut self, user: &str) -> Result<(PathBuf, String), Failure> {
        let file = self.path.join(format!("{user}.nk"));
        let invalid = |error| Failure::general(format!("{}: {error}", file.display()));
        match read_text_file(&file, SMALL_FILE_BYTES_MAX) {
            Ok(seed) => {
                let key = UserKey::from_seed(&seed).map_err(invalid)?;
                Ok((file.clone(), key.public_key()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = UserKey::generate();
                let seed = key.seed().map_err(invalid)?;
                self.write(&format!("{user}.nk"), &format!("{seed}\n"))?;
                Ok((file.clone(), key.public_key()))
            }
            Err(error) => Err(cannot("read", &file, &error)),
        }
    }

    /// The password in the settings of a user, or a new one.
    fn password(&self, user: &str) -> Result<String, Failure> {
        let file = Folder::settings_file(&self.path, user);
        match read_text_file(&file, SMALL_FILE_BYTES_MAX) {
            Ok(text) => {
                let settings: toml::Table = text.parse().map_err(|error: toml::de::Error| {
                    Failure::general(format!("{}: {}", file.display(), error.message()))
                })?;
                if let Some(toml::Value::String(password)) = settings.get("password") {
                    return Ok(password.clone());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot("read", &file, &error)),
        }
        Ok(URL_SAFE_NO_PAD.encode(rand::random::<[u8; PASSWORD_BYTES]>()))
    }

    /// Writes a file that only its owner can read.
    pub(super) fn write(&mut self, name: &str, text: &str) -> Result<(), Failure> {
        let path = self.path.join(name);
        write_private_file(&path, text.as_bytes())
            .map_err(|error| cannot("write", &path, &error))?;
        self.written.push(path);
        Ok(())
    }
}

/// The settings that say where the server is.
fn connection(settings: &Settings) -> Result<Vec<(&'static str, String)>, Failure> {
    let mut lines = vec![("prefix", settings.prefix.clone())];
    // naq sends the credentials of a file only to the address that the file names
    lines.extend(settings.nats_url.clone().map(|url| ("nats_url", url)));
    for (name, path) in [
        ("tls_ca", &settings.tls_ca),
        ("tls_cert", &settings.tls_cert),
        ("tls_key", &settings.tls_key),
    ] {
        let Some(path) = path else { continue };
        let path = std::path::absolute(path).map_err(|error| cannot("find", path, &error))?;
        lines.push((name, path.display().to_string()));
    }
    Ok(lines)
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::general(format!("cannot {what} {}: {error}", path.display()))
}
