//! The settings with their types.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::settings_table::Setting;
use super::source::Source;
use super::value::{Secret, Value};

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The value of every setting, with its type. The fields are the rows of
/// [`SETTINGS`](super::SETTINGS).
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "the help of each row of the table describes its field"
)]
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

/// A setting and its value, for `naq config`.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The setting.
    pub setting: &'static Setting,
    /// The value; `None` if it is unset and has no default.
    pub value: Option<Value>,
    /// Where the value comes from.
    pub source: Source,
}

impl Entry {
    /// The value for people: secrets are hidden; empty if there is no value.
    #[must_use]
    pub fn display_value(&self) -> String {
        self.value
            .as_ref()
            .map(Value::to_string)
            .unwrap_or_default()
    }
}

/// Access to the values by name and type.
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

/// Converts the values to their types. The defaults of the table make every `unwrap_or_default` unreachable, as
/// a test checks.
pub(super) fn to_settings(entries: &[Entry]) -> Settings {
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
