//! `naq.toml`: where it is searched, and its keys with their lines.

use std::collections::BTreeMap;
use std::fs;
use std::io;
#[cfg(unix)]
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::error::{ConfigError, Warning};
use super::process_env::ProcessEnv;
use super::settings_table::{CONFIG_FILE_VARIABLE, SETTINGS, Setting};
use super::source::Source;
use super::value::{self, Value};
use naq_protocol::closest_match;

/// The name of the file in the folders that are searched.
const FILE_NAME: &str = "naq.toml";

/// Maximum size of the file, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A parsed file.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) path: Option<PathBuf>,
    /// Values and their lines, by the name of the setting.
    pub(super) values: BTreeMap<&'static str, (Value, usize)>,
    pub(super) warnings: Vec<Warning>,
}

/// Finds and reads the file. A file that is named must exist; otherwise reads the first existing one of
/// `./naq.toml` and the user's.
pub(super) fn read(env: &ProcessEnv, flag: Option<&Path>) -> Result<File, ConfigError> {
    let by_variable = env
        .variable(CONFIG_FILE_VARIABLE)
        .map(|text| env.expand(text));
    let named = match (flag, by_variable) {
        (Some(path), _) => Some((path.to_path_buf(), String::new())),
        (None, Some(path)) => Some((path, format!(" (from {CONFIG_FILE_VARIABLE})"))),
        (None, None) => None,
    };
    if let Some((path, named_by)) = named {
        let path = env.current_dir.join(path);
        return match read_with_owner(&path) {
            Ok((text, mode, _)) => parse(&path, &text, mode, env),
            Err(source) => Err(ConfigError::Read {
                path,
                named_by,
                source,
            }),
        };
    }
    let users = env
        .xdg("XDG_CONFIG_HOME", ".config")
        .map(|folder| folder.join("naq").join(FILE_NAME));
    let here = env.current_dir.join(FILE_NAME);
    for (path, is_here) in [(Some(here), true), (users, false)] {
        let Some(path) = path else { continue };
        match read_with_owner(&path) {
            // In a shared folder, another user may have left a file that could start programs.
            Ok((_, _, uid)) if is_here && uid != env.uid && uid != 0 => {
                return Err(ConfigError::ForeignOwner { path, uid });
            }
            Ok((text, mode, _)) => return parse(&path, &text, mode, env),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(ConfigError::Read {
                    path,
                    named_by: String::new(),
                    source,
                });
            }
        }
    }
    Ok(File::default())
}

/// The text, mode and owner of the file.
fn read_with_owner(path: &Path) -> io::Result<(String, u32, u32)> {
    let found = fs::metadata(path)?;
    if found.len() > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is larger than 1 MiB",
        ));
    }
    #[cfg(unix)]
    let (mode, uid) = (found.mode(), found.uid());
    // Other systems have no such owners and modes, so there is nothing to warn about.
    #[cfg(not(unix))]
    let (mode, uid) = (0o600, 0);
    Ok((fs::read_to_string(path)?, mode, uid))
}

/// Parses the text. Every key must be a setting, and every value valid for it.
pub(super) fn parse(
    path: &Path,
    text: &str,
    mode: u32,
    env: &ProcessEnv,
) -> Result<File, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| {
        let (line, column) = line_and_column(text, error.span().map_or(0, |span| span.start));
        let reason = error.message().trim().replace('\n', "; ");
        ConfigError::Syntax {
            path: path.to_path_buf(),
            line,
            column,
            reason,
        }
    })?;
    let mut file = File {
        path: Some(path.to_path_buf()),
        ..File::default()
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    // In the order of the text, so that the first mistake is reported.
    let mut items: Vec<_> = table.get_ref().iter().collect();
    items.sort_by_key(|(key, _)| key.span().start);
    for (key, item) in items {
        let (line, _) = line_and_column(text, key.span().start);
        let name: &str = key.get_ref();
        let Some(setting) = Setting::by_name(name) else {
            return Err(ConfigError::UnknownKey {
                path: path.to_path_buf(),
                line,
                key: name.chars().take(60).collect(),
                closest_match: closest_match(name, SETTINGS.iter().map(|setting| setting.name)),
            });
        };
        let value = value::from_toml(setting, item.get_ref(), env).map_err(|reason| {
            let place = Source::File {
                path: path.to_path_buf(),
                line,
            };
            ConfigError::Value {
                place,
                name: setting.name,
                reason,
            }
        })?;
        let value = match value {
            Value::Path(relative) => Value::Path(folder.join(relative)),
            other => other,
        };
        if setting.secret && mode & 0o044 != 0 {
            let path = path.to_path_buf();
            file.warnings.push(Warning::ReadableByOthers {
                path,
                name: setting.name,
            });
        }
        file.values.insert(setting.name, (value, line));
    }
    Ok(file)
}

/// Line and column (in characters) of a byte offset, both from 1.
fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    (line, column)
}
