//! `naq.toml`: its keys with their lines.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::error::{ConfigError, Warning};
use super::file_read::FileText;
use super::process_env::ProcessEnv;
use super::settings_table::{SETTINGS, Setting};
use super::source::Source;
use super::value::{self, Value};
use naq_protocol::closest_match;

/// How a file was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileOrigin {
    /// By `--config` or `NAQ_CONFIG`.
    Named,
    /// It is the machine's file.
    System,
    /// It is the user's file.
    User,
    /// It lies in the current folder.
    CurrentDir,
}

/// A parsed file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) origin: FileOrigin,
    /// Values and their lines, by the name of the setting.
    pub(super) values: BTreeMap<&'static str, (Value, usize)>,
    pub(super) warnings: Vec<Warning>,
}

/// Parses the text. Every key must be a setting, and every value valid for it.
pub(super) fn parse(
    path: &Path,
    origin: FileOrigin,
    found: &FileText,
    env: &ProcessEnv,
) -> Result<File, ConfigError> {
    let FileText { text, mode } = found;
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
        path: path.to_path_buf(),
        origin,
        values: BTreeMap::new(),
        warnings: Vec::new(),
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
