//! Values of settings: parsed from text and TOML, and displayed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::{DeArray, DeTable, DeValue};

use super::process_env::ProcessEnv;
use super::settings_table::{LOG_LEVELS, Setting, SettingKind};
use naq_protocol::QueueName;
use naq_protocol::units::{duration_from_seconds, parse_duration, parse_size};

/// A secret text. Its `Debug` output hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("(hidden)")
    }
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text, a name or one of several words.
    Text(String),
    /// A secret.
    Secret(Secret),
    /// A file or folder.
    Path(PathBuf),
    /// true or false.
    Bool(bool),
    /// A whole number.
    Count(u64),
    /// A duration.
    Duration(Duration),
    /// A size, in bytes.
    Size(u64),
    /// Several texts.
    List(Vec<String>),
    /// Pairs of key and value.
    Labels(BTreeMap<String, String>),
}

impl fmt::Display for Value {
    /// Formats the value as a variable would contain it; secrets are hidden.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => out.write_str(&redact_passwords(text)),
            Value::Secret(_) => out.write_str("(hidden)"),
            Value::Path(path) => write!(out, "{}", path.display()),
            Value::Bool(on) => write!(out, "{on}"),
            Value::Count(count) => write!(out, "{count}"),
            Value::Duration(duration) => out.write_str(&duration_text(*duration)),
            Value::Size(bytes) => out.write_str(&size_text(*bytes)),
            Value::List(texts) => out.write_str(&texts.join(",")),
            Value::Labels(labels) => {
                let pairs: Vec<String> = labels
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                out.write_str(&pairs.join(","))
            }
        }
    }
}

/// Hides the part before the `@` of each address.
fn redact_passwords(text: &str) -> String {
    let address = |part: &str| match (part.find("://"), part.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => {
            format!("{}(hidden){}", &part[..scheme + 3], &part[at..])
        }
        _ => part.to_owned(),
    };
    if text.contains("://") && text.contains('@') {
        text.split(',').map(address).collect::<Vec<_>>().join(",")
    } else {
        text.to_owned()
    }
}

/// The shortest notation of a duration with one unit.
fn duration_text(duration: Duration) -> String {
    let micros = duration.as_micros();
    let units = [
        (86_400_000_000, "d"),
        (3_600_000_000, "h"),
        (60_000_000, "m"),
        (1_000_000, "s"),
        (1_000, "ms"),
    ];
    match units
        .iter()
        .find(|(size, _)| micros > 0 && micros.is_multiple_of(*size))
    {
        Some((size, unit)) => format!("{}{unit}", micros / size),
        None if micros == 0 => "0s".to_owned(),
        None => format!("{micros}us"),
    }
}

/// The shortest notation of a size.
fn size_text(bytes: u64) -> String {
    let units = [
        (1 << 40, "T"),
        (1 << 30, "G"),
        (1 << 20, "M"),
        (1 << 10, "K"),
    ];
    match units
        .iter()
        .find(|(size, _)| bytes > 0 && bytes.is_multiple_of(*size))
    {
        Some((size, unit)) => format!("{}{unit}", bytes / size),
        None => bytes.to_string(),
    }
}

/// Parses a value from a variable or from flags; several texts come from a repeated flag. The error
/// says what is expected.
pub(super) fn from_text(
    setting: &Setting,
    texts: &[&str],
    env: &ProcessEnv,
) -> Result<Value, String> {
    let last = texts.last().copied().unwrap_or_default();
    let parts = || {
        texts
            .iter()
            .flat_map(|text| text.split(','))
            .map(str::trim)
            .filter(|part| !part.is_empty())
    };
    match setting.kind {
        SettingKind::List => list(parts().map(str::to_owned).collect()),
        SettingKind::Labels => parts()
            .map(|pair| {
                pair.split_once('=')
                    .ok_or_else(|| format!("{} is not a label; write key=value", quoted(pair)))
            })
            .try_fold(BTreeMap::new(), |mut labels, pair| {
                let (key, value) = pair?;
                insert_label(&mut labels, key.trim(), value.trim())?;
                Ok(labels)
            })
            .map(Value::Labels),
        SettingKind::Bool => match last.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(Value::Bool(true)),
            "false" | "0" | "no" | "off" => Ok(Value::Bool(false)),
            _ => Err(format!("{} is neither true nor false", quoted(last))),
        },
        SettingKind::Count { min } => last
            .trim()
            .parse()
            .map_err(|_| format!("{} is not a whole number", quoted(last)))
            .and_then(|count| check_min_count(count, min)),
        SettingKind::Duration { min_ms } => {
            parse_duration(last).and_then(|duration| check_min_duration(duration, min_ms))
        }
        SettingKind::Size => parse_size(last).map(Value::Size),
        SettingKind::Text
        | SettingKind::Name
        | SettingKind::Prefix
        | SettingKind::Path
        | SettingKind::Choice(_) => parse_string(setting, last, env),
    }
}

/// Parses a value from `naq.toml`. The error says what is expected.
pub(super) fn from_toml(
    setting: &Setting,
    value: &DeValue<'_>,
    env: &ProcessEnv,
) -> Result<Value, String> {
    let wrong = |expected: &str| {
        Err(format!(
            "expected {expected}, found {}",
            toml_type_name(value)
        ))
    };
    match (setting.kind, value) {
        (SettingKind::Bool, DeValue::Boolean(on)) => Ok(Value::Bool(*on)),
        (SettingKind::Bool, _) => wrong("true or false without quotes"),
        (SettingKind::List, DeValue::Array(items)) => list_from_toml(items),
        (SettingKind::List, _) => wrong("an array of strings"),
        (SettingKind::Labels, DeValue::Table(pairs)) => labels_from_toml(pairs),
        (SettingKind::Labels, _) => wrong("a table of strings"),
        (SettingKind::Count { min }, DeValue::Integer(_)) => number(value)
            .and_then(|count| u64::try_from(count).map_err(|_| format!("{count} is negative")))
            .and_then(|count| check_min_count(count, min)),
        (SettingKind::Count { .. }, _) => wrong("a whole number without quotes"),
        (SettingKind::Duration { min_ms }, DeValue::Integer(_)) => {
            #[expect(
                clippy::cast_precision_loss,
                reason = "far smaller values are rejected"
            )]
            let seconds = number(value)? as f64;
            duration_from_seconds(seconds).and_then(|duration| check_min_duration(duration, min_ms))
        }
        (SettingKind::Duration { min_ms }, DeValue::Float(seconds)) => seconds
            .as_str()
            .parse()
            .map_err(|_| format!("{} is not a number", seconds.as_str()))
            .and_then(duration_from_seconds)
            .and_then(|duration| check_min_duration(duration, min_ms)),
        (SettingKind::Duration { .. }, DeValue::String(text)) => from_text(setting, &[text], env),
        (SettingKind::Duration { .. }, _) => wrong("seconds or a string such as \"5m\""),
        (SettingKind::Size, DeValue::Integer(_)) => number(value)
            .and_then(|bytes| u64::try_from(bytes).map_err(|_| format!("{bytes} is negative")))
            .and_then(|bytes| parse_size(&bytes.to_string()))
            .map(Value::Size),
        (SettingKind::Size, DeValue::String(text)) => from_text(setting, &[text], env),
        (SettingKind::Size, _) => wrong("bytes or a string such as \"256M\""),
        (_, DeValue::String(text)) => parse_string(setting, text, env),
        (_, _) => wrong("a string"),
    }
}

fn list_from_toml(items: &DeArray<'_>) -> Result<Value, String> {
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        match item.get_ref() {
            DeValue::String(text) => texts.push(text.to_string()),
            other => {
                return Err(format!(
                    "expected only strings as items, found {}",
                    toml_type_name(other)
                ));
            }
        }
    }
    list(texts)
}

fn labels_from_toml(pairs: &DeTable<'_>) -> Result<Value, String> {
    let mut labels = BTreeMap::new();
    for (key, value) in pairs {
        match value.get_ref() {
            DeValue::String(text) => insert_label(&mut labels, key.get_ref(), text)?,
            other => {
                return Err(format!(
                    "expected only strings as labels, found {}",
                    toml_type_name(other)
                ));
            }
        }
    }
    Ok(Value::Labels(labels))
}

/// Parses a value that is a single text.
fn parse_string(setting: &Setting, text: &str, env: &ProcessEnv) -> Result<Value, String> {
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err("it is not UTF-8".to_owned());
    }
    if text.contains(['\n', '\r', '\0']) {
        return Err("it contains a line break or a NUL".to_owned());
    }
    if text.is_empty() {
        return Err("it is empty; omit it instead".to_owned());
    }
    match setting.kind {
        SettingKind::Path => Ok(Value::Path(env.expand(text))),
        SettingKind::Name => match QueueName::new(text) {
            Ok(_) => Ok(Value::Text(text.to_owned())),
            Err(_) => Err(format!(
                "{} is not a name; use 1 to 64 characters of A-Z a-z 0-9 _ -",
                quoted(text)
            )),
        },
        SettingKind::Prefix => match naq_protocol::check_prefix(text) {
            Ok(()) => Ok(Value::Text(text.to_owned())),
            Err(error) => Err(error.to_string()),
        },
        SettingKind::Choice(words) => {
            let lower = text.to_ascii_lowercase();
            let chosen = match lower.as_str() {
                "warning" if words == LOG_LEVELS => "warn",
                "critical" if words == LOG_LEVELS => "error",
                other => other,
            };
            if words.contains(&chosen) {
                Ok(Value::Text(chosen.to_owned()))
            } else {
                Err(format!(
                    "{} is not one of {}",
                    quoted(text),
                    words.join(", ")
                ))
            }
        }
        _ if setting.secret => Ok(Value::Secret(Secret::new(text))),
        _ => Ok(Value::Text(text.to_owned())),
    }
}

fn list(texts: Vec<String>) -> Result<Value, String> {
    match texts
        .iter()
        .find(|text| text.contains(['\n', '\0']) || text.is_empty())
    {
        Some(text) => Err(format!("{} is not a valid item", quoted(text))),
        None => Ok(Value::List(texts)),
    }
}

fn insert_label(
    labels: &mut BTreeMap<String, String>,
    key: &str,
    value: &str,
) -> Result<(), String> {
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(format!("{} is not a valid label key", quoted(key)));
    }
    match labels.insert(key.to_owned(), value.to_owned()) {
        Some(_) => Err(format!("the label {} occurs twice", quoted(key))),
        None => Ok(()),
    }
}

fn check_min_count(count: u64, min: u64) -> Result<Value, String> {
    if count < min {
        Err(format!("{count} is too small; the minimum is {min}"))
    } else {
        Ok(Value::Count(count))
    }
}

fn check_min_duration(duration: Duration, min_ms: u64) -> Result<Value, String> {
    let min = Duration::from_millis(min_ms);
    if duration < min {
        let (given, min) = (duration_text(duration), duration_text(min));
        return Err(format!("{given} is too short; the minimum is {min}"));
    }
    Ok(Value::Duration(duration))
}

fn number(value: &DeValue<'_>) -> Result<i64, String> {
    let DeValue::Integer(integer) = value else {
        return Err("it is not a whole number".to_owned());
    };
    i64::from_str_radix(integer.as_str(), integer.radix())
        .map_err(|_| format!("{} is out of range", integer.as_str()))
}

/// The type of a TOML value, for an error.
fn toml_type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// A text as part of an error: escaped and at most 60 characters.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        format!("{short:?}…")
    } else {
        format!("{short:?}")
    }
}
