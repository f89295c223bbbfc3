//! `naq.toml`: where it is, and what stands where in it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
#[cfg(unix)]
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::error::{ConfigError, Warning};
use super::resolve::Source;
use super::surroundings::Surroundings;
use super::table::{FILE_VARIABLE, SETTINGS, Setting};
use super::value::{self, Value};
use naq_protocol::nearest;

/// The file's name where it is looked for.
const NAME: &str = "naq.toml";

/// The largest file read.
const MAX_BYTES: u64 = 1024 * 1024;

/// A parsed file.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) path: Option<PathBuf>,
    /// Values with their lines, by the setting's name.
    pub(super) values: BTreeMap<&'static str, (Value, usize)>,
    pub(super) warnings: Vec<Warning>,
}

/// Finds and reads the file: the named one, which has to be there, or the first that is there of
/// `./naq.toml` and the user's.
pub(super) fn read(around: &Surroundings, flag: Option<&Path>) -> Result<File, ConfigError> {
    let by_variable = around
        .variable(FILE_VARIABLE)
        .map(|text| around.expand(text));
    let named = match (flag, by_variable) {
        (Some(path), _) => Some((path.to_path_buf(), " (named by --config)".to_owned())),
        (None, Some(path)) => Some((path, format!(" (named by {FILE_VARIABLE})"))),
        (None, None) => None,
    };
    if let Some((path, named_by)) = named {
        let path = around.current_dir.join(path);
        return match text_of(&path) {
            Ok((text, mode, _)) => parse(&path, &text, mode, around),
            Err(source) => Err(ConfigError::Read {
                path,
                named_by,
                source,
            }),
        };
    }
    let users = around
        .xdg("XDG_CONFIG_HOME", ".config")
        .map(|folder| folder.join("naq").join(NAME));
    let here = around.current_dir.join(NAME);
    for (path, is_here) in [(Some(here), true), (users, false)] {
        let Some(path) = path else { continue };
        match text_of(&path) {
            // A folder that others write to may hold a file that nobody meant to obey.
            Ok((_, _, uid)) if is_here && uid != around.uid && uid != 0 => {
                return Err(ConfigError::Foreign { path, uid });
            }
            Ok((text, mode, _)) => return parse(&path, &text, mode, around),
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

/// The file's text, mode and owner.
fn text_of(path: &Path) -> io::Result<(String, u32, u32)> {
    let found = fs::metadata(path)?;
    if found.len() > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is larger than 1 MiB",
        ));
    }
    #[cfg(unix)]
    let (mode, uid) = (found.mode(), found.uid());
    // Other systems have no owners and modes of this kind: nothing to warn about.
    #[cfg(not(unix))]
    let (mode, uid) = (0o600, 0);
    Ok((fs::read_to_string(path)?, mode, uid))
}

/// Parses the file's text; every key must be a setting and every value one that it takes.
pub(super) fn parse(
    path: &Path,
    text: &str,
    mode: u32,
    around: &Surroundings,
) -> Result<File, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| {
        let (line, column) = place(text, error.span().map_or(0, |span| span.start));
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
    // In the order of the text, so that the first mistake is the one reported.
    let mut items: Vec<_> = table.get_ref().iter().collect();
    items.sort_by_key(|(key, _)| key.span().start);
    for (key, item) in items {
        let (line, _) = place(text, key.span().start);
        let name: &str = key.get_ref();
        let Some(setting) = Setting::named(name) else {
            return Err(ConfigError::UnknownKey {
                path: path.to_path_buf(),
                line,
                key: name.chars().take(60).collect(),
                nearest: nearest(name, SETTINGS.iter().map(|setting| setting.name)),
            });
        };
        let value = value::from_toml(setting, item.get_ref(), around).map_err(|reason| {
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
            file.warnings.push(Warning::Readable {
                path,
                name: setting.name,
            });
        }
        file.values.insert(setting.name, (value, line));
    }
    Ok(file)
}

/// Line and column (in characters) of a byte's place, both from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
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
