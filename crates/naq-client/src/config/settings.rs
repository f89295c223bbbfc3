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

/// Declares [`Settings`], whose fields are named as the rows of the table.
macro_rules! typed_settings {
    ($($name:ident: $type:ty,)+) => {
        /// The value of every setting, with its type. The fields are the rows of
        /// [`SETTINGS`](super::SETTINGS).
        #[derive(Clone, Debug)]
        #[expect(
            missing_docs,
            reason = "the help of each row of the table describes its field"
        )]
        pub struct Settings {
            $(pub $name: $type,)+
        }

        /// Converts the values to their types.
        pub(super) fn to_settings(entries: &[Entry]) -> Settings {
            let value = |name: &str| {
                let mut entries = entries.iter();
                entries.find(|entry| entry.setting.name == name)?.value.as_ref()
            };
            Settings {
                $($name: TypedValue::from_value(value(stringify!($name))),)+
            }
        }

        /// The names of the fields.
        #[cfg(test)]
        pub(super) const FIELDS: &[&str] = &[$(stringify!($name),)+];
    };
}

typed_settings! {
    nats_url: Option<String>,
    context: Option<String>,
    creds: Option<PathBuf>,
    nkey: Option<PathBuf>,
    user: Option<String>,
    password: Option<Secret>,
    token: Option<Secret>,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    inbox_prefix: Option<String>,
    jetstream_domain: Option<String>,
    allow_insecure: bool,
    server_users: Vec<String>,
    connect_timeout: Duration,
    prefix: String,
    replicas: Option<usize>,
    default_queue: String,
    default_result_ttl: Duration,
    worker_ttl: Duration,
    worker_heartbeat_interval: Duration,
    scheduler_lock_ttl: Duration,
    scheduler_lock_renew_interval: Duration,
    max_schedule_failures: u32,
    ack_wait: Duration,
    takeover_after: Duration,
    outage_grace: Duration,
    max_worker_crashes: u32,
    trust_refused: bool,
    concurrency: usize,
    timeout: Option<Duration>,
    memory: Option<u64>,
    workdir: Option<PathBuf>,
    drain_timeout: Duration,
    containment: String,
    run_as: Option<String>,
    landlock_read: Vec<String>,
    landlock_write: Vec<String>,
    allow_root: bool,
    allow_env: Vec<String>,
    grant: Vec<String>,
    allow_setuid: bool,
    strict_limits: bool,
    private_tmp: bool,
    runners_dir: Option<PathBuf>,
    secrets_dir: Option<PathBuf>,
    worker_labels: BTreeMap<String, String>,
    trusted_proxies: Vec<String>,
    forward_auth_header: Option<String>,
    forward_auth_groups_header: Option<String>,
    forward_auth_rights: BTreeMap<String, String>,
    proxy_users: Vec<String>,
    nats_server: Option<PathBuf>,
    data_dir: PathBuf,
    cache_dir: PathBuf,
    log_level: String,
    log_format: LogFormat,
    log_to_file_enabled: bool,
    log_file_path: PathBuf,
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

/// A type of settings.
trait TypedValue {
    /// Converts a value. The table gives every setting the kind of its type, and a default unless the
    /// type is an `Option` or a collection, as a test checks; so the fallbacks are unreachable.
    fn from_value(value: Option<&Value>) -> Self;
}

macro_rules! typed_values {
    ($($type:ty: $pattern:pat => $value:expr,)+) => {
        $(
            impl TypedValue for Option<$type> {
                fn from_value(value: Option<&Value>) -> Self {
                    match value? {
                        $pattern => $value,
                        _ => None,
                    }
                }
            }
        )+
    };
}

typed_values! {
    String: Value::Text(text) => Some(text.clone()),
    Secret: Value::Secret(secret) => Some(secret.clone()),
    PathBuf: Value::Path(path) => Some(path.clone()),
    Duration: Value::Duration(duration) => Some(*duration),
    bool: Value::Bool(on) => Some(*on),
    u64: Value::Count(number) | Value::Size(number) => Some(*number),
    Vec<String>: Value::List(texts) => Some(texts.clone()),
    BTreeMap<String, String>: Value::Labels(labels) => Some(labels.clone()),
}

macro_rules! values_with_a_default {
    ($($type:ty,)+) => {
        $(
            impl TypedValue for $type {
                fn from_value(value: Option<&Value>) -> Self {
                    Option::from_value(value).unwrap_or_default()
                }
            }
        )+
    };
}

values_with_a_default! {
    String,
    PathBuf,
    Duration,
    bool,
    Vec<String>,
    BTreeMap<String, String>,
}

impl TypedValue for Option<usize> {
    fn from_value(value: Option<&Value>) -> Option<usize> {
        let count: Option<u64> = Option::from_value(value);
        count.map(|count| usize::try_from(count).unwrap_or(usize::MAX))
    }
}

impl TypedValue for usize {
    fn from_value(value: Option<&Value>) -> usize {
        let count: u64 = Option::from_value(value).unwrap_or_default();
        usize::try_from(count).unwrap_or(usize::MAX)
    }
}

impl TypedValue for u32 {
    fn from_value(value: Option<&Value>) -> u32 {
        let count: u64 = Option::from_value(value).unwrap_or_default();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

impl TypedValue for LogFormat {
    fn from_value(value: Option<&Value>) -> LogFormat {
        match value {
            Some(Value::Text(text)) if text == "json" => LogFormat::Json,
            _ => LogFormat::Text,
        }
    }
}
