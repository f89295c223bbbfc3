//! Every setting, as data.

/// What kind of value a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingKind {
    /// Any text on one line.
    Text,
    /// A token of NATS subjects: letters, digits, `_` and `-`.
    Name,
    /// A file or folder. `~/` is the home; in `naq.toml` relative to the file.
    Path,
    /// true or false.
    Bool,
    /// A whole number, at least this.
    Count {
        /// The smallest.
        min: u64,
    },
    /// Seconds, or a text such as `250ms`, `5m`, `7d`; at least this.
    Duration {
        /// The shortest, in milliseconds.
        min_ms: u64,
    },
    /// Bytes, or a text such as `64K`, `256M`.
    Size,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Texts: an array in `naq.toml`, commas in a variable, a flag several times.
    List,
    /// Pairs: a table in `naq.toml`, `k=v,k=v` in a variable, `k=v` in a flag, several times.
    Labels,
}

/// What holds where nothing is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// Nothing.
    None,
    /// This, written as a variable would have it.
    Text(&'static str),
    /// naq's folder for data: `$XDG_DATA_HOME/naq`, else `~/.local/share/naq`.
    DataDir,
    /// naq's cache: `$XDG_CACHE_HOME/naq`, else `~/.cache/naq`.
    CacheDir,
    /// As many as there are processors.
    Processors,
}

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name, which is its key in `naq.toml`; its flag is the same with dashes.
    pub name: &'static str,
    /// Its variable.
    pub variable: &'static str,
    /// What it takes.
    pub kind: SettingKind,
    /// What holds where nothing is set.
    pub default: DefaultValue,
    /// Whether its value is never shown.
    pub secret: bool,
    /// What it is for, in one line.
    pub help: &'static str,
}

impl Setting {
    /// The flag: `--nats-url`.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// The setting of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }
}

const fn row(
    name: &'static str,
    variable: &'static str,
    kind: SettingKind,
    default: DefaultValue,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        variable,
        kind,
        default,
        secret: false,
        help,
    }
}

const fn secret(name: &'static str, variable: &'static str, help: &'static str) -> Setting {
    Setting {
        name,
        variable,
        kind: SettingKind::Text,
        default: DefaultValue::None,
        secret: true,
        help,
    }
}

/// The levels of the log. `warning` and `critical` are taken too, for who comes from Python.
pub(super) const LOG_LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    row(
        "nats_url",
        "NAQ_NATS_URL",
        SettingKind::Text,
        DefaultValue::Text("nats://127.0.0.1:4222"),
        "where NATS is; several addresses with commas",
    ),
    row(
        "context",
        "NAQ_CONTEXT",
        SettingKind::Text,
        DefaultValue::None,
        "a context of the nats program to connect by; @selected takes the selected one",
    ),
    row(
        "creds",
        "NAQ_CREDS",
        SettingKind::Path,
        DefaultValue::None,
        "credentials file (JWT and seed)",
    ),
    row(
        "nkey",
        "NAQ_NKEY",
        SettingKind::Path,
        DefaultValue::None,
        "file with an NKey seed",
    ),
    row(
        "user",
        "NAQ_USER",
        SettingKind::Text,
        DefaultValue::None,
        "user name, with a password",
    ),
    secret("password", "NAQ_PASSWORD", "password, with a user name"),
    secret("token", "NAQ_TOKEN", "token"),
    row(
        "tls_ca",
        "NAQ_TLS_CA",
        SettingKind::Path,
        DefaultValue::None,
        "file of certificates to trust",
    ),
    row(
        "tls_cert",
        "NAQ_TLS_CERT",
        SettingKind::Path,
        DefaultValue::None,
        "certificate to show to NATS, with a key",
    ),
    row(
        "tls_key",
        "NAQ_TLS_KEY",
        SettingKind::Path,
        DefaultValue::None,
        "the certificate's private key",
    ),
    row(
        "inbox_prefix",
        "NAQ_INBOX_PREFIX",
        SettingKind::Text,
        DefaultValue::None,
        "the prefix of reply subjects, where permissions demand one",
    ),
    row(
        "jetstream_domain",
        "NAQ_JETSTREAM_DOMAIN",
        SettingKind::Name,
        DefaultValue::None,
        "the JetStream domain, where there are several",
    ),
    row(
        "allow_insecure",
        "NAQ_ALLOW_INSECURE",
        SettingKind::Bool,
        DefaultValue::Text("false"),
        "use NATS without authentication on another host",
    ),
    row(
        "connect_timeout",
        "NAQ_CONNECT_TIMEOUT",
        SettingKind::Duration { min_ms: 1 },
        DefaultValue::Text("5s"),
        "how long the first connection may take",
    ),
    row(
        "prefix",
        "NAQ_PREFIX",
        SettingKind::Name,
        DefaultValue::Text("naq"),
        "the prefix of all subjects and streams; another one is a separate naq",
    ),
    row(
        "replicas",
        "NAQ_REPLICAS",
        SettingKind::Count { min: 1 },
        DefaultValue::Text("1"),
        "how many servers of a cluster keep a copy of what naq makes there",
    ),
    row(
        "default_queue",
        "NAQ_DEFAULT_QUEUE",
        SettingKind::Name,
        DefaultValue::Text("default"),
        "the queue where none is named",
    ),
    row(
        "default_result_ttl",
        "NAQ_DEFAULT_RESULT_TTL",
        SettingKind::Duration { min_ms: 0 },
        DefaultValue::Text("7d"),
        "how long results are kept where a job does not say; 0 keeps them",
    ),
    row(
        "worker_ttl",
        "NAQ_WORKER_TTL",
        SettingKind::Duration { min_ms: 1_000 },
        DefaultValue::Text("15s"),
        "how long a worker is listed after its last heartbeat",
    ),
    row(
        "worker_heartbeat_interval",
        "NAQ_WORKER_HEARTBEAT_INTERVAL",
        SettingKind::Duration { min_ms: 100 },
        DefaultValue::Text("5s"),
        "between two heartbeats of a worker",
    ),
    row(
        "scheduler_lock_ttl",
        "NAQ_SCHEDULER_LOCK_TTL",
        SettingKind::Duration { min_ms: 3_000 },
        DefaultValue::Text("10s"),
        "when another scheduler takes over from a leader that is silent",
    ),
    row(
        "scheduler_lock_renew_interval",
        "NAQ_SCHEDULER_LOCK_RENEW_INTERVAL",
        SettingKind::Duration { min_ms: 100 },
        DefaultValue::Text("3s"),
        "between two signs of life of the leading scheduler",
    ),
    row(
        "max_schedule_failures",
        "NAQ_MAX_SCHEDULE_FAILURES",
        SettingKind::Count { min: 0 },
        DefaultValue::Text("5"),
        "ticks in a row that cannot be enqueued, after which a schedule is paused; 0 for never",
    ),
    row(
        "ack_wait",
        "NAQ_DEFAULT_ACK_WAIT",
        SettingKind::Duration { min_ms: 1_000 },
        DefaultValue::Text("30s"),
        "when a job whose worker is silent is given to another",
    ),
    row(
        "concurrency",
        "NAQ_CONCURRENCY",
        SettingKind::Count { min: 1 },
        DefaultValue::Processors,
        "how many jobs a worker runs at once",
    ),
    row(
        "timeout",
        "NAQ_DEFAULT_TIMEOUT",
        SettingKind::Duration { min_ms: 1 },
        DefaultValue::None,
        "a job's time where it does not say",
    ),
    row(
        "memory",
        "NAQ_MEMORY",
        SettingKind::Size,
        DefaultValue::None,
        "a job's memory where it does not say",
    ),
    row(
        "workdir",
        "NAQ_WORKDIR",
        SettingKind::Path,
        DefaultValue::None,
        "the folder jobs start in",
    ),
    row(
        "drain_timeout",
        "NAQ_DRAIN_TIMEOUT",
        SettingKind::Duration { min_ms: 0 },
        DefaultValue::Text("30s"),
        "how long a stopping worker lets its jobs go on",
    ),
    row(
        "containment",
        "NAQ_CONTAINMENT",
        SettingKind::Choice(&["auto", "cgroup", "namespace", "subreaper"]),
        DefaultValue::Text("auto"),
        "how a job's processes are held together",
    ),
    row(
        "run_as",
        "NAQ_RUN_AS",
        SettingKind::Text,
        DefaultValue::None,
        "the user jobs run as, USER or USER:GROUP, where the worker is root",
    ),
    row(
        "landlock_read",
        "NAQ_LANDLOCK_READ",
        SettingKind::List,
        DefaultValue::None,
        "where jobs may read and execute, and nowhere else",
    ),
    row(
        "landlock_write",
        "NAQ_LANDLOCK_WRITE",
        SettingKind::List,
        DefaultValue::None,
        "where jobs may write, and nowhere else; they may read there too",
    ),
    row(
        "allow_env",
        "NAQ_ALLOW_ENV",
        SettingKind::List,
        DefaultValue::None,
        "variables that envelopes may set although they are refused otherwise",
    ),
    row(
        "secrets_dir",
        "NAQ_SECRETS_DIR",
        SettingKind::Path,
        DefaultValue::None,
        "folder of secrets, one file a name",
    ),
    row(
        "worker_labels",
        "NAQ_WORKER_LABELS",
        SettingKind::Labels,
        DefaultValue::None,
        "what jobs may require of a worker",
    ),
    row(
        "nats_server",
        "NAQ_NATS_SERVER",
        SettingKind::Path,
        DefaultValue::None,
        "the nats-server program for the managed server",
    ),
    row(
        "data_dir",
        "NAQ_DATA_DIR",
        SettingKind::Path,
        DefaultValue::DataDir,
        "naq's folder for data",
    ),
    row(
        "cache_dir",
        "NAQ_CACHE_DIR",
        SettingKind::Path,
        DefaultValue::CacheDir,
        "naq's cache",
    ),
    row(
        "log_level",
        "NAQ_LOG_LEVEL",
        SettingKind::Choice(LOG_LEVELS),
        DefaultValue::Text("info"),
        "how much is logged",
    ),
    row(
        "log_format",
        "NAQ_LOG_FORMAT",
        SettingKind::Choice(&["text", "json"]),
        DefaultValue::Text("text"),
        "how the log is written",
    ),
    row(
        "log_to_file_enabled",
        "NAQ_LOG_TO_FILE_ENABLED",
        SettingKind::Bool,
        DefaultValue::Text("false"),
        "log to a file as well",
    ),
    row(
        "log_file_path",
        "NAQ_LOG_FILE_PATH",
        SettingKind::Path,
        DefaultValue::Text("naq.log"),
        "that file",
    ),
];

/// The variable that names the configuration file.
pub(super) const CONFIG_FILE_VARIABLE: &str = "NAQ_CONFIG";

/// The variable that every job has.
pub(super) const JOB_ID_VARIABLE: &str = "NAQ_JOB_ID";

/// What a job is given; naq started by a job sees them and takes nothing from them. (Hence the
/// setting `timeout` has another variable.)
pub(super) const JOB_VARIABLES: &[&str] = &[
    JOB_ID_VARIABLE,
    "NAQ_QUEUE",
    "NAQ_ATTEMPT",
    "NAQ_MAX_ATTEMPTS",
    "NAQ_WORKER_ID",
    "NAQ_TIMEOUT",
    "NAQ_FENCE",
    "NAQ_SCHEDULE_ID",
    "NAQ_SCHEDULED_FOR",
    "NAQ_WORK_DIR",
    "NAQ_CONTROL_FD",
    "NAQ_CHECKPOINT",
];

/// Variables of the Python library of this name that mean nothing any more, and what there is
/// instead. A name that ends in `*` stands for all that begin so.
pub const REMOVED: &[(&str, &str)] = &[
    ("NAQ_JOB_SERIALIZER", "envelopes are always JSON"),
    ("NAQ_JSON_ENCODER", "envelopes are always JSON"),
    ("NAQ_JSON_DECODER", "envelopes are always JSON"),
    ("NAQ_SCHEDULER_*", "the scheduler's lock has fixed times"),
    (
        "NAQ_MAX_SCHEDULE_FAILURES",
        "schedules say themselves when to give up",
    ),
    (
        "NAQ_JOB_STATUS_TTL",
        "status and result are one record: NAQ_DEFAULT_RESULT_TTL",
    ),
    (
        "NAQ_ACK_WAIT_PER_QUEUE",
        "running jobs are renewed, so one value fits all: NAQ_DEFAULT_ACK_WAIT",
    ),
    (
        "NAQ_DEPENDENCY_CHECK_DELAY_SECONDS",
        "dependencies are not polled",
    ),
    (
        "NAQ_EVENTS_*",
        "events are the records' own updates and always there",
    ),
    (
        "NAQ_EVENT_LOGGER_*",
        "events are the records' own updates and always there",
    ),
    ("NAQ_WORKER_CONCURRENCY", "use NAQ_CONCURRENCY"),
    ("NAQ_WORKER_SHUTDOWN_TIMEOUT", "use NAQ_DRAIN_TIMEOUT"),
    ("NAQ_WORKER_MAX_JOB_DURATION", "use NAQ_DEFAULT_TIMEOUT"),
    ("NAQ_QUEUE_PREFIX", "use NAQ_PREFIX"),
    ("NAQ_NATS_CLIENT_NAME", "clients name themselves"),
    (
        "NAQ_NATS_MAX_RECONNECT_ATTEMPTS",
        "reconnecting does not give up",
    ),
    (
        "NAQ_NATS_RECONNECT_TIME_WAIT",
        "reconnecting backs off by itself",
    ),
    ("NAQ_NATS_CONNECTION_TIMEOUT", "use NAQ_CONNECT_TIMEOUT"),
    ("NAQ_NATS_DRAIN_TIMEOUT", "use NAQ_DRAIN_TIMEOUT"),
    ("NAQ_NATS_AUTH_USERNAME", "use NAQ_USER"),
    ("NAQ_NATS_AUTH_PASSWORD", "use NAQ_PASSWORD"),
    ("NAQ_NATS_AUTH_TOKEN", "use NAQ_TOKEN"),
    ("NAQ_NATS_TLS_ENABLED", "a tls:// address says so"),
    ("NAQ_NATS_TLS_CERT_FILE", "use NAQ_TLS_CERT"),
    ("NAQ_NATS_TLS_KEY_FILE", "use NAQ_TLS_KEY"),
    ("NAQ_NATS_TLS_CA_FILE", "use NAQ_TLS_CA"),
];
