//! The layers, laid over one another.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::error::{ConfigError, Warning};
use super::file::{self, File};
use super::nats_context::{self, Context};
use super::process_env::ProcessEnv;
use super::settings_table::{
    CONFIG_FILE_VARIABLE, DefaultValue, JOB_ID_VARIABLE, JOB_VARIABLES, REMOVED, SETTINGS, Setting,
};
use super::value::{self, Secret, Value};
use naq_protocol::closest_match;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nothing was set.
    Default,
    /// A line of `naq.toml`.
    File {
        /// The file.
        path: PathBuf,
        /// The line of its key, from 1.
        line: usize,
    },
    /// A variable.
    Variable(&'static str),
    /// A flag, with its dashes.
    Flag(String),
    /// A context of the `nats` program.
    Context {
        /// Its name.
        name: String,
        /// Its file.
        path: PathBuf,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => out.write_str("default"),
            Source::File { path, line } => write!(out, "{}:{line}", path.display()),
            Source::Variable(name) => out.write_str(name),
            Source::Flag(flag) => out.write_str(flag),
            Source::Context { name, path } => write!(out, "context {name} ({})", path.display()),
        }
    }
}

/// What the command line says, as text by the setting's name.
#[derive(Clone, Default)]
pub struct Flags {
    config_file: Option<PathBuf>,
    values: BTreeMap<String, Vec<String>>,
}

impl Flags {
    /// `--config`: the file to read instead of looking for one.
    #[must_use]
    pub fn with_config_file(mut self, path: Option<PathBuf>) -> Flags {
        self.config_file = path;
        self
    }

    /// Adds a flag. Lists and labels take several; of anything else the last one counts.
    #[must_use]
    pub fn with(mut self, setting: &str, text: impl Into<String>) -> Flags {
        self.values
            .entry(setting.to_owned())
            .or_default()
            .push(text.into());
        self
    }

    /// Adds a flag that may be absent.
    #[must_use]
    pub fn with_optional(self, setting: &str, text: Option<impl Into<String>>) -> Flags {
        match text {
            Some(text) => self.with(setting, text),
            None => self,
        }
    }
}

impl fmt::Debug for Flags {
    /// Names only: a value may be a password.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.values.keys()).finish()
    }
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Every setting's value, typed. The fields are the rows of [`SETTINGS`].
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the table has the help of each")]
pub struct Settings {
    pub nats_url: String,
    pub context: Option<String>,
    pub creds: Option<PathBuf>,
    pub nkey: Option<PathBuf>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub token: Option<Secret>,
    pub tls_ca: Option<PathBuf>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub inbox_prefix: Option<String>,
    pub jetstream_domain: Option<String>,
    pub allow_insecure: bool,
    pub connect_timeout: Duration,
    pub prefix: String,
    pub replicas: usize,
    pub default_queue: String,
    pub default_result_ttl: Duration,
    pub worker_ttl: Duration,
    pub worker_heartbeat_interval: Duration,
    pub scheduler_lock_ttl: Duration,
    pub scheduler_lock_renew_interval: Duration,
    pub max_schedule_failures: u32,
    pub ack_wait: Duration,
    pub concurrency: usize,
    pub timeout: Option<Duration>,
    pub memory: Option<u64>,
    pub workdir: Option<PathBuf>,
    pub drain_timeout: Duration,
    pub containment: String,
    pub run_as: Option<String>,
    pub landlock_read: Vec<String>,
    pub landlock_write: Vec<String>,
    pub allow_env: Vec<String>,
    pub secrets_dir: Option<PathBuf>,
    pub worker_labels: BTreeMap<String, String>,
    pub nats_server: Option<PathBuf>,
    pub data_dir: PathBuf,
    pub cache_dir: PathBuf,
    pub log_level: String,
    pub log_format: LogFormat,
    pub log_to_file_enabled: bool,
    pub log_file_path: PathBuf,
}

/// One setting with its value, for `naq config`.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The setting.
    pub setting: &'static Setting,
    /// Its value; `None` where nothing is set and nothing is the default.
    pub value: Option<Value>,
    /// Where the value comes from.
    pub source: Source,
}

impl Entry {
    /// The value for people: secrets hidden, empty where there is none.
    #[must_use]
    pub fn display_value(&self) -> String {
        self.value
            .as_ref()
            .map(Value::to_string)
            .unwrap_or_default()
    }
}

/// The outcome of all layers.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The values.
    pub settings: Settings,
    /// The values with where each comes from, in the table's order.
    pub entries: Vec<Entry>,
    /// What is odd but does no harm.
    pub warnings: Vec<Warning>,
    /// The `naq.toml` that was read.
    pub file: Option<PathBuf>,
    /// Whether anything says where NATS is (an address or a context), other than the default.
    pub nats_configured: bool,
}

impl Resolved {
    /// Where a setting's value comes from; the default for a name that is no setting.
    #[must_use]
    pub fn source(&self, name: &str) -> Source {
        self.entries
            .iter()
            .find(|entry| entry.setting.name == name)
            .map_or(Source::Default, |entry| entry.source.clone())
    }
}

/// Resolves every setting: reads `naq.toml` and the context, if there are any, and lays the
/// layers over one another.
///
/// # Errors
/// The first thing that is wrong, with its place; see [`ConfigError`]. Values that a higher layer
/// overrides are checked in the file, and not in variables.
pub fn load(env: &ProcessEnv, flags: &Flags) -> Result<Resolved, ConfigError> {
    let file = file::read(env, flags.config_file.as_deref())?;
    let explicit = explicit_values(env, flags, &file)?;
    let context = match explicit.get("context") {
        None => None,
        Some(found) => {
            let name = found.value.to_string();
            let context =
                nats_context::read(&name, env).map_err(|reason| ConfigError::Context {
                    name,
                    place: found.source.clone(),
                    reason,
                })?;
            Some((context, found.rank))
        }
    };
    merge_layers(env, file, explicit, context)
}

/// A value with its place and how much that counts.
#[derive(Clone, Debug)]
struct RankedValue {
    value: Value,
    source: Source,
    rank: u8,
}

/// Ranks of the layers. A context counts just below the layer that names it.
const RANK_DEFAULT: u8 = 0;
const RANK_FILE: u8 = 2;
const RANK_VARIABLE: u8 = 4;
const RANK_FLAG: u8 = 6;

/// What describes a server and is not mixed between a context and lower layers.
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

/// The ways to authenticate; user and password are one.
const AUTH_METHODS: &[&[&str]] = &[&["creds"], &["nkey"], &["user", "password"], &["token"]];

/// What files, variables and flags say, the highest of each setting.
fn explicit_values(
    env: &ProcessEnv,
    flags: &Flags,
    file: &File,
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
        } else if let (Some((value, line)), Some(path)) =
            (file.values.get(setting.name), &file.path)
        {
            let source = Source::File {
                path: path.clone(),
                line: *line,
            };
            Some(RankedValue {
                value: value.clone(),
                source,
                rank: RANK_FILE,
            })
        } else {
            None
        };
        if let Some(found) = found {
            all.insert(setting.name, found);
        }
    }
    Ok(all)
}

/// Puts the context under what counts more, and the defaults under everything.
fn merge_layers(
    env: &ProcessEnv,
    file: File,
    mut found: BTreeMap<&'static str, RankedValue>,
    context: Option<(Context, u8)>,
) -> Result<Resolved, ConfigError> {
    let nats_configured = found.contains_key("nats_url") || found.contains_key("context");
    let mut warnings = file.warnings;
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
        file: file.path,
        nats_configured,
    })
}

/// Keeps the way to authenticate that the highest layer names.
fn keep_one_auth_method(
    found: &mut BTreeMap<&'static str, RankedValue>,
) -> Result<(), ConfigError> {
    let rank_of = |found: &BTreeMap<&'static str, RankedValue>, way: &[&'static str]| {
        way.iter()
            .filter_map(|name| found.get(name))
            .map(|value| value.rank)
            .max()
    };
    let Some(highest) = AUTH_METHODS
        .iter()
        .filter_map(|way| rank_of(found, way))
        .max()
    else {
        return Ok(());
    };
    let mut kept: Option<&'static str> = None;
    for way in AUTH_METHODS {
        match rank_of(found, way) {
            Some(rank) if rank == highest => {
                let named = way.iter().copied().find(|name| found.contains_key(name));
                if let (Some(one), Some(other)) = (kept, named) {
                    return Err(conflict(
                        found,
                        one,
                        other,
                        "these are two ways to authenticate; leave one out",
                    ));
                }
                kept = named;
            }
            _ => way.iter().for_each(|name| {
                found.remove(name);
            }),
        }
    }
    Ok(())
}

/// Refuses halves of what only works whole.
fn check_pairs(found: &BTreeMap<&'static str, RankedValue>) -> Result<(), ConfigError> {
    for (one, other, reason) in [
        (
            "tls_cert",
            "tls_key",
            "a certificate and its key go together; give both",
        ),
        (
            "tls_key",
            "tls_cert",
            "a certificate and its key go together; give both",
        ),
        ("password", "user", "a password needs a user name"),
        ("user", "password", "a user name needs a password"),
    ] {
        if found.contains_key(one) && !found.contains_key(other) {
            return Err(conflict(found, one, other, reason));
        }
    }
    Ok(())
}

fn conflict(
    found: &BTreeMap<&'static str, RankedValue>,
    one: &'static str,
    other: &'static str,
    reason: &'static str,
) -> ConfigError {
    let place = |name| {
        found
            .get(name)
            .map_or(Source::Default, |value| value.source.clone())
    };
    ConfigError::Conflict {
        one,
        one_source: Box::new(place(one)),
        other,
        other_source: Box::new(place(other)),
        reason,
    }
}

/// What expires between two signs of life would come and go: a worker's entry, a leader's lock.
fn check_intervals_within_ttls(entries: &[Entry]) -> Result<(), ConfigError> {
    check_interval_within_ttl(entries, "worker_heartbeat_interval", "worker_ttl")?;
    check_interval_within_ttl(
        entries,
        "scheduler_lock_renew_interval",
        "scheduler_lock_ttl",
    )
}

fn check_interval_within_ttl(
    entries: &[Entry],
    interval: &str,
    ttl: &str,
) -> Result<(), ConfigError> {
    let find = |name: &str| entries.iter().find(|entry| entry.setting.name == name);
    let (Some(ttl), Some(interval)) = (find(ttl), find(interval)) else {
        return Ok(());
    };
    match (&ttl.value, &interval.value) {
        (Some(Value::Duration(whole)), Some(Value::Duration(part))) if part >= whole => {
            Err(ConfigError::Conflict {
                one: interval.setting.name,
                one_source: Box::new(interval.source.clone()),
                other: ttl.setting.name,
                other_source: Box::new(ttl.source.clone()),
                reason: "the interval must be shorter than the time to live; a third is usual",
            })
        }
        _ => Ok(()),
    }
}

fn default_value(
    setting: &'static Setting,
    env: &ProcessEnv,
) -> Result<Option<RankedValue>, ConfigError> {
    let value = match setting.default {
        DefaultValue::None => return Ok(None),
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

/// Variables that look like settings and are none.
fn variable_warnings(env: &ProcessEnv) -> Vec<Warning> {
    let in_a_job = env.variable(JOB_ID_VARIABLE).is_some();
    let known = |name: &str| {
        name == CONFIG_FILE_VARIABLE
            || (in_a_job && JOB_VARIABLES.contains(&name))
            || SETTINGS.iter().any(|setting| setting.variable == name)
    };
    let removed = |name: &str| {
        REMOVED.iter().find(|(old, _)| match old.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => *old == name,
        })
    };
    env.environment
        .keys()
        .filter(|name| name.starts_with("NAQ_") && !known(name))
        .map(|name| match removed(name) {
            Some((_, instead)) => Warning::RemovedVariable {
                name: name.clone(),
                instead,
            },
            None => Warning::UnknownVariable {
                name: name.clone(),
                closest_match: closest_match(name, SETTINGS.iter().map(|setting| setting.variable)),
            },
        })
        .collect()
}

/// The values by name, with the type that each kind has.
struct Values<'a>(&'a [Entry]);

impl Values<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|entry| entry.setting.name == name)?
            .value
            .as_ref()
    }

    fn text(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    fn secret(&self, name: &str) -> Option<Secret> {
        match self.get(name)? {
            Value::Secret(secret) => Some(secret.clone()),
            _ => None,
        }
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        match self.get(name)? {
            Value::Path(path) => Some(path.clone()),
            _ => None,
        }
    }

    fn duration(&self, name: &str) -> Option<Duration> {
        match self.get(name)? {
            Value::Duration(duration) => Some(*duration),
            _ => None,
        }
    }

    fn list(&self, name: &str) -> Vec<String> {
        match self.get(name) {
            Some(Value::List(texts)) => texts.clone(),
            _ => Vec::new(),
        }
    }

    fn bool(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Value::Bool(true)))
    }

    fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Value::Count(number) | Value::Size(number) => Some(*number),
            _ => None,
        }
    }
}

/// The table's defaults make the `unwrap_or_default`s unreachable; a test says so.
fn to_settings(entries: &[Entry]) -> Settings {
    let values = Values(entries);
    Settings {
        nats_url: values.text("nats_url").unwrap_or_default(),
        context: values.text("context"),
        creds: values.path("creds"),
        nkey: values.path("nkey"),
        user: values.text("user"),
        password: values.secret("password"),
        token: values.secret("token"),
        tls_ca: values.path("tls_ca"),
        tls_cert: values.path("tls_cert"),
        tls_key: values.path("tls_key"),
        inbox_prefix: values.text("inbox_prefix"),
        jetstream_domain: values.text("jetstream_domain"),
        allow_insecure: values.bool("allow_insecure"),
        connect_timeout: values.duration("connect_timeout").unwrap_or_default(),
        prefix: values.text("prefix").unwrap_or_default(),
        default_queue: values.text("default_queue").unwrap_or_default(),
        default_result_ttl: values.duration("default_result_ttl").unwrap_or_default(),
        worker_ttl: values.duration("worker_ttl").unwrap_or_default(),
        worker_heartbeat_interval: values
            .duration("worker_heartbeat_interval")
            .unwrap_or_default(),
        scheduler_lock_ttl: values.duration("scheduler_lock_ttl").unwrap_or_default(),
        scheduler_lock_renew_interval: values
            .duration("scheduler_lock_renew_interval")
            .unwrap_or_default(),
        max_schedule_failures: values
            .number("max_schedule_failures")
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(u32::MAX),
        ack_wait: values.duration("ack_wait").unwrap_or_default(),
        replicas: values
            .number("replicas")
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(1),
        concurrency: values
            .number("concurrency")
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(1),
        timeout: values.duration("timeout"),
        memory: values.number("memory"),
        workdir: values.path("workdir"),
        drain_timeout: values.duration("drain_timeout").unwrap_or_default(),
        containment: values.text("containment").unwrap_or_default(),
        run_as: values.text("run_as"),
        landlock_read: values.list("landlock_read"),
        landlock_write: values.list("landlock_write"),
        allow_env: values.list("allow_env"),
        secrets_dir: values.path("secrets_dir"),
        worker_labels: match values.get("worker_labels") {
            Some(Value::Labels(labels)) => labels.clone(),
            _ => BTreeMap::new(),
        },
        nats_server: values.path("nats_server"),
        data_dir: values.path("data_dir").unwrap_or_default(),
        cache_dir: values.path("cache_dir").unwrap_or_default(),
        log_level: values.text("log_level").unwrap_or_default(),
        log_format: match values.text("log_format").as_deref() {
            Some("json") => LogFormat::Json,
            _ => LogFormat::Text,
        },
        log_to_file_enabled: values.bool("log_to_file_enabled"),
        log_file_path: values.path("log_file_path").unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn empty_env() -> ProcessEnv {
        ProcessEnv {
            environment: BTreeMap::new(),
            current_dir: PathBuf::from("/nowhere"),
            home: Some(PathBuf::from("/home/me")),
            uid: 1000,
            processors: 3,
        }
    }

    #[test]
    fn every_row_has_a_typed_default_where_it_is_needed() {
        let resolved = merge_layers(&empty_env(), File::default(), BTreeMap::new(), None).unwrap();
        let settings = &resolved.settings;
        assert_eq!(settings.nats_url, "nats://127.0.0.1:4222");
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
    fn names_and_variables_of_the_table_are_unique_and_tell_each_other() {
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
