//! Merges the layers of settings: defaults, file, context, variables, flags.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::checks::{
    NamedAddresses, check_intervals_within_ttls, check_pairs, keep_one_auth_method,
    remove_foreign_credentials,
};
use super::error::{ConfigError, Warning};
use super::file::{File, FileOrigin};
use super::file_search;
use super::flags::Flags;
use super::nats_context::{self, Context, ContextError};
use super::process_env::ProcessEnv;
use super::ranked_value::{
    RANK_DEFAULT, RANK_FILE, RANK_FLAG, RANK_SYSTEM_FILE, RANK_USER_FILE, RANK_VARIABLE,
    RankedValue,
};
use super::settings::{Entry, Settings, to_settings};
use super::settings_table::{DefaultValue, SETTINGS, Setting};
use super::source::Source;
use super::value::{self, Value};
use super::variable_warnings::variable_warnings;

/// The merged settings.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The values by name.
    pub settings: Settings,
    /// The values with their sources, in the order of the table.
    pub entries: Vec<Entry>,
    /// Harmless mistakes.
    pub warnings: Vec<Warning>,
    /// The settings files that were read, the lower layer first.
    pub files: Vec<PathBuf>,
    /// Whether any setting says which NATS to use: an address or a context, but also credentials,
    /// certificates, a prefix of reply subjects or a JetStream domain. Without an address they belong
    /// to no server, and never to the managed local one, which has a key of its own.
    pub nats_configured: bool,
}

impl Resolved {
    /// Where the value of a setting comes from; the default if no setting has this name.
    #[must_use]
    pub fn source(&self, name: &str) -> Source {
        self.entries
            .iter()
            .find(|entry| entry.setting.name == name)
            .map_or(Source::Default, |entry| entry.source.clone())
    }

    /// Whether NATS is configured without an address, so that naq refuses to connect.
    #[must_use]
    pub fn is_address_missing(&self) -> bool {
        self.nats_configured && self.settings.nats_url.is_none()
    }
}

/// Resolves every setting: reads the settings files and the context, if they exist, and merges the layers.
///
/// # Errors
/// Returns the first [`ConfigError`], with its place. Invalid values in the file are errors even if a higher
/// layer overrides them; invalid variables that a flag overrides are not.
pub fn load(env: &ProcessEnv, flags: &Flags) -> Result<Resolved, ConfigError> {
    let mut warnings = env.ignored_folders.clone();
    let files = file_search::read(env, flags.config_file.as_deref(), &mut warnings)?;
    let explicit = explicit_values(env, flags, &files)?;
    let context = match explicit.get("context") {
        None => None,
        Some(found) => {
            let name = found.value.to_string();
            let context = nats_context::read(&name, env).map_err(|error| match error {
                ContextError::NotOwn(path, reason) => {
                    file_search::unreadable(path, String::new(), reason)
                }
                ContextError::Other(reason) => ConfigError::Context {
                    name,
                    place: found.source.clone(),
                    reason,
                },
            })?;
            Some((context, found.rank))
        }
    };
    let addresses = named_addresses(&files, &explicit, context.as_ref());
    merge_layers(env, files, explicit, context, &addresses, warnings)
}

/// Settings that describe a server. A context does not share them with lower layers, and each of them
/// means that NATS is configured.
const CONNECTION_SETTINGS: &[&str] = &[
    "nats_url",
    "creds",
    "nkey",
    "user",
    "password",
    "token",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "inbox_prefix",
    "jetstream_domain",
];

/// The values from files, variables and flags; the highest layer wins.
fn explicit_values(
    env: &ProcessEnv,
    flags: &Flags,
    files: &[File],
) -> Result<BTreeMap<&'static str, RankedValue>, ConfigError> {
    if let Some(name) = flags
        .values
        .keys()
        .find(|name| Setting::by_name(name).is_none())
    {
        return Err(ConfigError::UnknownSetting { name: name.clone() });
    }
    let mut all = BTreeMap::new();
    for setting in SETTINGS {
        let read = |texts: &[&str], source: Source, rank: u8| {
            value::from_text(setting, texts, env)
                .map(|value| RankedValue {
                    value,
                    source: source.clone(),
                    rank,
                })
                .map_err(|reason| ConfigError::Value {
                    place: source,
                    name: setting.name,
                    reason,
                })
        };
        let found = if let Some(texts) = flags.values.get(setting.name) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            Some(read(&texts, Source::Flag(setting.flag()), RANK_FLAG)?)
        } else if let Some(text) = env.variable(setting.variable) {
            Some(read(
                &[text],
                Source::Variable(setting.variable),
                RANK_VARIABLE,
            )?)
        } else {
            // the highest file is the last one
            let mut files = files.iter().rev();
            files.find_map(|file| value_from_file(file, setting.name))
        };
        if let Some(found) = found {
            all.insert(setting.name, found);
        }
    }
    Ok(all)
}

fn value_from_file(file: &File, name: &str) -> Option<RankedValue> {
    let (value, line) = file.values.get(name)?;
    Some(RankedValue {
        value: value.clone(),
        source: Source::File {
            path: file.path.clone(),
            line: *line,
        },
        rank: match file.origin {
            FileOrigin::System => RANK_SYSTEM_FILE,
            FileOrigin::User => RANK_USER_FILE,
            FileOrigin::Named | FileOrigin::CurrentDir => RANK_FILE,
        },
    })
}

/// The addresses that files and contexts name, whether or not a higher layer names another.
fn named_addresses(
    files: &[File],
    explicit: &BTreeMap<&'static str, RankedValue>,
    context: Option<&(Context, u8)>,
) -> NamedAddresses {
    const NAME: &str = "nats_url";
    let mut current_dir = files
        .iter()
        .filter(|file| file.origin == FileOrigin::CurrentDir);
    let mut addresses = NamedAddresses::new(current_dir.next().map(|file| file.path.clone()));
    for found in files.iter().filter_map(|file| value_from_file(file, NAME)) {
        addresses.add(&found.source, found.value);
    }
    if let (Some((context, _)), Some(named_by)) = (context, explicit.get("context"))
        && let Some(address) = context.values.get(NAME)
    {
        let place = Source::Context {
            name: context.name.clone(),
            path: context.path.clone(),
        };
        addresses.add(&place, address.clone());
        // the place that names a context names its address, unless it names one itself
        addresses.add(&named_by.source, address.clone());
    }
    addresses
}

/// Adds the context below the layers that outrank it, and the defaults below all.
fn merge_layers(
    env: &ProcessEnv,
    files: Vec<File>,
    mut found: BTreeMap<&'static str, RankedValue>,
    context: Option<(Context, u8)>,
    addresses: &NamedAddresses,
    mut warnings: Vec<Warning>,
) -> Result<Resolved, ConfigError> {
    let nats_configured = context.is_some()
        || CONNECTION_SETTINGS
            .iter()
            .any(|name| found.contains_key(name));
    let mut paths = Vec::with_capacity(files.len());
    for file in files {
        warnings.extend(file.warnings);
        paths.push(file.path);
    }
    if let Some((context, named_at)) = context {
        let rank = named_at - 1;
        for name in CONNECTION_SETTINGS {
            if found.get(name).is_some_and(|lower| lower.rank < rank) {
                found.remove(name);
            }
        }
        for (name, value) in context.values {
            let source = Source::Context {
                name: context.name.clone(),
                path: context.path.clone(),
            };
            found.entry(name).or_insert(RankedValue {
                value,
                source,
                rank,
            });
        }
        warnings.extend(context.warnings);
    }
    warnings.extend(remove_foreign_credentials(&mut found, addresses));
    keep_one_auth_method(&mut found)?;
    check_pairs(&found)?;
    warnings.extend(variable_warnings(env));
    let mut entries = Vec::with_capacity(SETTINGS.len());
    for setting in SETTINGS {
        let found = match found.remove(setting.name) {
            Some(found) => Some(found),
            None => default_value(setting, env)?,
        };
        let source = found
            .as_ref()
            .map_or(Source::Default, |found| found.source.clone());
        entries.push(Entry {
            setting,
            value: found.map(|found| found.value),
            source,
        });
    }
    check_intervals_within_ttls(&entries)?;
    let settings = to_settings(&entries);
    Ok(Resolved {
        settings,
        entries,
        warnings,
        files: paths,
        nats_configured,
    })
}

fn default_value(
    setting: &'static Setting,
    env: &ProcessEnv,
) -> Result<Option<RankedValue>, ConfigError> {
    let value = match setting.default {
        DefaultValue::None | DefaultValue::Described(_) => return Ok(None),
        DefaultValue::Text(text) => {
            value::from_text(setting, &[text], env).map_err(|reason| ConfigError::Value {
                place: Source::Default,
                name: setting.name,
                reason,
            })?
        }
        DefaultValue::DataDir => Value::Path(env.app_dir("XDG_DATA_HOME", ".local/share", "data")),
        DefaultValue::CacheDir => Value::Path(env.app_dir("XDG_CACHE_HOME", ".cache", "cache")),
        DefaultValue::Processors => Value::Count(u64::try_from(env.processors).unwrap_or(1).max(1)),
    };
    Ok(Some(RankedValue {
        value,
        source: Source::Default,
        rank: RANK_DEFAULT,
    }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::super::settings::FIELDS;
    use super::*;

    fn empty_env() -> ProcessEnv {
        ProcessEnv {
            environment: BTreeMap::new(),
            current_dir: PathBuf::from("/nowhere"),
            system_dir: None,
            home: Some(PathBuf::from("/home/me")),
            uid: 1000,
            processors: 3,
            ignored_folders: Vec::new(),
        }
    }

    #[test]
    fn every_setting_with_a_default_has_a_typed_value() {
        let resolved = merge_layers(
            &empty_env(),
            Vec::new(),
            BTreeMap::new(),
            None,
            &NamedAddresses::default(),
            Vec::new(),
        )
        .unwrap();
        let settings = &resolved.settings;
        assert_eq!(settings.nats_url, None);
        assert_eq!(settings.concurrency, 3);
        assert_eq!(settings.default_result_ttl, Duration::from_secs(7 * 86_400));
        assert_eq!(settings.worker_ttl, Duration::from_secs(15));
        assert_eq!(settings.worker_heartbeat_interval, Duration::from_secs(5));
        assert_eq!(settings.ack_wait, Duration::from_secs(30));
        assert_eq!(settings.connect_timeout, Duration::from_secs(5));
        assert_eq!(settings.drain_timeout, Duration::from_secs(30));
        assert_eq!(settings.prefix, "naq");
        assert_eq!(settings.default_queue, "default");
        assert_eq!(settings.containment, "auto");
        assert_eq!(settings.log_level, "info");
        assert_eq!(settings.data_dir, Path::new("/home/me/.local/share/naq"));
        assert_eq!(settings.cache_dir, Path::new("/home/me/.cache/naq"));
        assert_eq!(settings.log_file_path, Path::new("naq.log"));
        assert!(!resolved.nats_configured);
        assert!(
            resolved
                .entries
                .iter()
                .all(|entry| entry.source == Source::Default)
        );
    }

    #[test]
    fn every_row_of_the_table_has_a_typed_field() {
        let mut rows: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
        let mut fields = FIELDS.to_vec();
        rows.sort_unstable();
        fields.sort_unstable();
        assert_eq!(rows, fields);
    }

    #[test]
    fn names_and_variables_of_settings_are_unique_and_match() {
        for (index, setting) in SETTINGS.iter().enumerate() {
            assert!(
                SETTINGS[..index].iter().all(|other| {
                    other.name != setting.name && other.variable != setting.variable
                })
            );
            assert!(setting.variable.starts_with("NAQ_"), "{}", setting.name);
            assert!(
                setting.variable.to_lowercase().ends_with(setting.name),
                "{} {}",
                setting.name,
                setting.variable
            );
        }
    }
}
