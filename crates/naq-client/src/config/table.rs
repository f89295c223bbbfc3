//! Every setting, as data.

/// What kind of value a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text on one line.
    Text,
    /// A token of NATS subjects: letters, digits, `_` and `-`.
    Name,
    /// A file or folder. `~/` is the home; in `naq.toml` relative to the file.
    Path,
    /// true or false.
    Switch,
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
pub enum Fallback {
    /// Nothing.
    None,
    /// This, written as a variable would have it.
    Is(&'static str),
    /// naq's folder for data: `$XDG_DATA_HOME/naq`, else `~/.local/share/naq`.
    DataFolder,
    /// naq's cache: `$XDG_CACHE_HOME/naq`, else `~/.cache/naq`.
    CacheFolder,
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
    pub kind: Kind,
    /// What holds where nothing is set.
    pub fallback: Fallback,
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
    pub fn named(name: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }
}

const fn row(
    name: &'static str,
    variable: &'static str,
    kind: Kind,
    fallback: Fallback,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        variable,
        kind,
        fallback,
        secret: false,
        help,
    }
}

const fn secret(name: &'static str, variable: &'static str, help: &'static str) -> Setting {
    Setting {
        name,
        variable,
        kind: Kind::Text,
        fallback: Fallback::None,
        secret: true,
        help,
    }
}

/// The levels of the log. `warning` and `critical` are taken too, for who comes from Python.
pub(super) const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    row(
        "nats_url",
        "NAQ_NATS_URL",
        Kind::Text,
        Fallback::Is("nats://127.0.0.1:4222"),
        "where NATS is; several addresses with commas",
    ),
    row(
        "context",
        "NAQ_CONTEXT",
        Kind::Text,
        Fallback::None,
        "a context of the nats program to connect by; @selected takes the selected one",
    ),
    row(
        "creds",
        "NAQ_CREDS",
        Kind::Path,
        Fallback::None,
        "credentials file (JWT and seed)",
    ),
    row(
        "nkey",
        "NAQ_NKEY",
        Kind::Path,
        Fallback::None,
        "file with an NKey seed",
    ),
    row(
        "user",
        "NAQ_USER",
        Kind::Text,
        Fallback::None,
        "user name, with a password",
    ),
    secret("password", "NAQ_PASSWORD", "password, with a user name"),
    secret("token", "NAQ_TOKEN", "token"),
    row(
        "tls_ca",
        "NAQ_TLS_CA",
        Kind::Path,
        Fallback::None,
        "file of certificates to trust",
    ),
    row(
        "tls_cert",
        "NAQ_TLS_CERT",
        Kind::Path,
        Fallback::None,
        "certificate to show to NATS, with a key",
    ),
    row(
        "tls_key",
        "NAQ_TLS_KEY",
        Kind::Path,
        Fallback::None,
        "the certificate's private key",
    ),
    row(
        "inbox_prefix",
        "NAQ_INBOX_PREFIX",
        Kind::Text,
        Fallback::None,
        "the prefix of reply subjects, where permissions demand one",
    ),
    row(
        "jetstream_domain",
        "NAQ_JETSTREAM_DOMAIN",
        Kind::Name,
        Fallback::None,
        "the JetStream domain, where there are several",
    ),
    row(
        "allow_insecure",
        "NAQ_ALLOW_INSECURE",
        Kind::Switch,
        Fallback::Is("false"),
        "use NATS without authentication on another host",
    ),
    row(
        "connect_timeout",
        "NAQ_CONNECT_TIMEOUT",
        Kind::Duration { min_ms: 1 },
        Fallback::Is("5s"),
        "how long the first connection may take",
    ),
    row(
        "prefix",
        "NAQ_PREFIX",
        Kind::Name,
        Fallback::Is("naq"),
        "the prefix of all subjects and streams; another one is a separate naq",
    ),
    row(
        "replicas",
        "NAQ_REPLICAS",
        Kind::Count { min: 1 },
        Fallback::Is("1"),
        "how many servers of a cluster keep a copy of what naq makes there",
    ),
    row(
        "default_queue",
        "NAQ_DEFAULT_QUEUE",
        Kind::Name,
        Fallback::Is("default"),
        "the queue where none is named",
    ),
    row(
        "default_result_ttl",
        "NAQ_DEFAULT_RESULT_TTL",
        Kind::Duration { min_ms: 0 },
        Fallback::Is("7d"),
        "how long results are kept where a job does not say; 0 keeps them",
    ),
    row(
        "worker_ttl",
        "NAQ_WORKER_TTL",
        Kind::Duration { min_ms: 1_000 },
        Fallback::Is("15s"),
        "how long a worker is listed after its last heartbeat",
    ),
    row(
        "worker_heartbeat_interval",
        "NAQ_WORKER_HEARTBEAT_INTERVAL",
        Kind::Duration { min_ms: 100 },
        Fallback::Is("5s"),
        "between two heartbeats of a worker",
    ),
    row(
        "scheduler_lock_ttl",
        "NAQ_SCHEDULER_LOCK_TTL",
        Kind::Duration { min_ms: 3_000 },
        Fallback::Is("10s"),
        "when another scheduler takes over from a leader that is silent",
    ),
    row(
        "scheduler_lock_renew_interval",
        "NAQ_SCHEDULER_LOCK_RENEW_INTERVAL",
        Kind::Duration { min_ms: 100 },
        Fallback::Is("3s"),
        "between two signs of life of the leading scheduler",
    ),
    row(
        "max_schedule_failures",
        "NAQ_MAX_SCHEDULE_FAILURES",
        Kind::Count { min: 0 },
        Fallback::Is("5"),
        "ticks in a row that cannot be enqueued, after which a schedule is paused; 0 for never",
    ),
    row(
        "ack_wait",
        "NAQ_DEFAULT_ACK_WAIT",
        Kind::Duration { min_ms: 1_000 },
        Fallback::Is("30s"),
        "when a job whose worker is silent is given to another",
    ),
    row(
        "concurrency",
        "NAQ_CONCURRENCY",
        Kind::Count { min: 1 },
        Fallback::Processors,
        "how many jobs a worker runs at once",
    ),
    row(
        "timeout",
        "NAQ_DEFAULT_TIMEOUT",
        Kind::Duration { min_ms: 1 },
        Fallback::None,
        "a job's time where it does not say",
    ),
    row(
        "memory",
        "NAQ_MEMORY",
        Kind::Size,
        Fallback::None,
        "a job's memory where it does not say",
    ),
    row(
        "workdir",
        "NAQ_WORKDIR",
        Kind::Path,
        Fallback::None,
        "the folder jobs start in",
    ),
    row(
        "drain_timeout",
        "NAQ_DRAIN_TIMEOUT",
        Kind::Duration { min_ms: 0 },
        Fallback::Is("30s"),
        "how long a stopping worker lets its jobs go on",
    ),
    row(
        "containment",
        "NAQ_CONTAINMENT",
        Kind::Choice(&["auto", "cgroup", "namespace", "subreaper"]),
        Fallback::Is("auto"),
        "how a job's processes are held together",
    ),
    row(
        "run_as",
        "NAQ_RUN_AS",
        Kind::Text,
        Fallback::None,
        "the user jobs run as, USER or USER:GROUP, where the worker is root",
    ),
    row(
        "landlock_read",
        "NAQ_LANDLOCK_READ",
        Kind::List,
        Fallback::None,
        "where jobs may read and execute, and nowhere else",
    ),
    row(
        "landlock_write",
        "NAQ_LANDLOCK_WRITE",
        Kind::List,
        Fallback::None,
        "where jobs may write, and nowhere else; they may read there too",
    ),
    row(
        "allow_env",
        "NAQ_ALLOW_ENV",
        Kind::List,
        Fallback::None,
        "variables that envelopes may set although they are refused otherwise",
    ),
    row(
        "secrets_dir",
        "NAQ_SECRETS_DIR",
        Kind::Path,
        Fallback::None,
        "folder of secrets, one file a name",
    ),
    row(
        "worker_labels",
        "NAQ_WORKER_LABELS",
        Kind::Labels,
        Fallback::None,
        "what jobs may require of a worker",
    ),
    row(
        "nats_server",
        "NAQ_NATS_SERVER",
        Kind::Path,
        Fallback::None,
        "the nats-server program for the managed server",
    ),
    row(
        "data_dir",
        "NAQ_DATA_DIR",
        Kind::Path,
        Fallback::DataFolder,
        "naq's folder for data",
    ),
    row(
        "cache_dir",
        "NAQ_CACHE_DIR",
        Kind::Path,
        Fallback::CacheFolder,
        "naq's cache",
    ),
    row(
        "log_level",
        "NAQ_LOG_LEVEL",
        Kind::Choice(LEVELS),
        Fallback::Is("info"),
        "how much is logged",
    ),
    row(
        "log_format",
        "NAQ_LOG_FORMAT",
        Kind::Choice(&["text", "json"]),
        Fallback::Is("text"),
        "how the log is written",
    ),
    row(
        "log_to_file_enabled",
        "NAQ_LOG_TO_FILE_ENABLED",
        Kind::Switch,
        Fallback::Is("false"),
        "log to a file as well",
    ),
    row(
        "log_file_path",
        "NAQ_LOG_FILE_PATH",
        Kind::Path,
        Fallback::Is("naq.log"),
        "that file",
    ),
];

/// The variable that names the configuration file.
pub(super) const FILE_VARIABLE: &str = "NAQ_CONFIG";

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
pub const RETIRED: &[(&str, &str)] = &[
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
