//! The table of all settings.

use naq_protocol::{JOB_SOCKET_VARIABLE, JOB_TOKEN_VARIABLE};

/// The kind of value of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingKind {
    /// Any text on one line.
    Text,
    /// A token of a NATS subject: letters, digits, `_` and `-`.
    Name,
    /// A prefix of names: see [`check_prefix`](naq_protocol::check_prefix).
    Prefix,
    /// A file or folder. `~/` is the home folder. A relative path in `naq.toml` is relative to that file.
    Path,
    /// true or false.
    Bool,
    /// A whole number.
    Count {
        /// Minimum.
        min: u64,
    },
    /// Seconds, or a text such as `250ms`, `5m` or `7d`.
    Duration {
        /// Minimum, in milliseconds.
        min_ms: u64,
    },
    /// Bytes, or a text such as `64K` or `256M`.
    Size,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Several texts: an array in `naq.toml`, separated by commas in a variable, a repeated flag.
    List,
    /// Pairs: a table in `naq.toml`, `k=v,k=v` in a variable, `k=v` in a repeated flag.
    Labels,
}

/// The value of a setting that no layer sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// No value.
    None,
    /// This value, in the notation of a variable.
    Text(&'static str),
    /// naq's data folder: `$XDG_DATA_HOME/naq`, else `~/.local/share/naq`.
    DataDir,
    /// naq's cache folder: `$XDG_CACHE_HOME/naq`, else `~/.cache/naq`.
    CacheDir,
    /// The number of processors.
    Processors,
    /// No value, which means this.
    Described(&'static str),
}

/// The verbs whose command line has a flag for a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagScope {
    /// None: only the file and the variable set it.
    None,
    /// Every verb.
    EveryVerb,
    /// `naq worker` and other verbs that run a worker.
    Worker,
    /// `naq dashboard`.
    Dashboard,
}

/// A setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The name, which is the key in `naq.toml`.
    pub name: &'static str,
    /// The environment variable.
    pub variable: &'static str,
    /// The kind of value.
    pub kind: SettingKind,
    /// The value if no layer sets one.
    pub default: DefaultValue,
    /// Whether the value is never shown.
    pub secret: bool,
    /// The name of the flag, if it is not the setting's name with dashes.
    pub flag_name: Option<&'static str>,
    /// The short flag.
    pub short_flag: Option<char>,
    /// The name of the flag's value in help. Empty if there is no flag or the flag takes no value.
    pub value_name: &'static str,
    /// The verbs with a flag for it.
    pub flag_scope: FlagScope,
    /// Whether a `./naq.toml` that is not trusted may set it: it names no server, no credential, no
    /// file and no user, and loosens no limit of a job.
    pub is_harmless: bool,
    /// What the setting does, in one line.
    pub help: &'static str,
}

impl Setting {
    /// The flag, such as `--nats-url`.
    #[must_use]
    pub fn flag(&self) -> String {
        match self.flag_name {
            Some(name) => format!("--{name}"),
            None => format!("--{}", self.name.replace('_', "-")),
        }
    }

    /// The default for people. `None` if there is none.
    #[must_use]
    pub const fn default_text(&self) -> Option<&'static str> {
        match self.default {
            DefaultValue::None => None,
            DefaultValue::Text(text) => Some(text),
            DefaultValue::DataDir => Some("~/.local/share/naq"),
            DefaultValue::CacheDir => Some("~/.cache/naq"),
            DefaultValue::Processors => Some("number of processors"),
            DefaultValue::Described(text) => Some(text),
        }
    }

    const fn with_flag(mut self, scope: FlagScope, value_name: &'static str) -> Setting {
        self.flag_scope = scope;
        self.value_name = value_name;
        self
    }

    const fn harmless(mut self) -> Setting {
        self.is_harmless = true;
        self
    }

    const fn with_name(mut self, flag: &'static str) -> Setting {
        self.flag_name = Some(flag);
        self
    }

    const fn with_names(mut self, flag: &'static str, short: char) -> Setting {
        self.flag_name = Some(flag);
        self.short_flag = Some(short);
        self
    }

    /// The setting with this name.
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
        flag_name: None,
        short_flag: None,
        value_name: "",
        flag_scope: FlagScope::None,
        is_harmless: false,
        help,
    }
}

const fn secret(name: &'static str, variable: &'static str, help: &'static str) -> Setting {
    Setting {
        secret: true,
        ..row(name, variable, SettingKind::Text, DefaultValue::None, help)
    }
}

/// Log levels. `warning` and `critical` of Python are accepted as well.
pub(super) const LOG_LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

/// All settings.
pub const SETTINGS: &[Setting] = &[
    row(
        "nats_url",
        "NAQ_NATS_URL",
        SettingKind::Text,
        DefaultValue::Described("the managed local server"),
        "address of NATS; several are separated by commas",
    )
    .with_flag(FlagScope::EveryVerb, "URL"),
    row(
        "context",
        "NAQ_CONTEXT",
        SettingKind::Text,
        DefaultValue::None,
        "context of the nats program to connect with; @selected means the selected one",
    )
    .with_flag(FlagScope::EveryVerb, "NAME"),
    row(
        "creds",
        "NAQ_CREDS",
        SettingKind::Path,
        DefaultValue::None,
        "credentials file (JWT and seed)",
    )
    .with_flag(FlagScope::EveryVerb, "FILE"),
    row(
        "nkey",
        "NAQ_NKEY",
        SettingKind::Path,
        DefaultValue::None,
        "file with an NKey seed",
    )
    .with_flag(FlagScope::EveryVerb, "FILE"),
    row(
        "user",
        "NAQ_USER",
        SettingKind::Text,
        DefaultValue::None,
        "user name; needs a password",
    )
    .with_flag(FlagScope::EveryVerb, "NAME"),
    secret("password", "NAQ_PASSWORD", "password; needs a user name")
        .with_flag(FlagScope::EveryVerb, "TEXT"),
    secret("token", "NAQ_TOKEN", "authentication token").with_flag(FlagScope::EveryVerb, "TEXT"),
    row(
        "tls_ca",
        "NAQ_TLS_CA",
        SettingKind::Path,
        DefaultValue::None,
        "file with the CA certificates to trust",
    )
    .with_flag(FlagScope::EveryVerb, "FILE"),
    row(
        "tls_cert",
        "NAQ_TLS_CERT",
        SettingKind::Path,
        DefaultValue::None,
        "client certificate; needs a key",
    )
    .with_flag(FlagScope::EveryVerb, "FILE"),
    row(
        "tls_key",
        "NAQ_TLS_KEY",
        SettingKind::Path,
        DefaultValue::None,
        "private key of the client certificate",
    )
    .with_flag(FlagScope::EveryVerb, "FILE"),
    row(
        "inbox_prefix",
        "NAQ_INBOX_PREFIX",
        SettingKind::Text,
        DefaultValue::None,
        "prefix of reply subjects, if permissions require one",
    ),
    row(
        "jetstream_domain",
        "NAQ_JETSTREAM_DOMAIN",
        SettingKind::Name,
        DefaultValue::None,
        "JetStream domain",
    ),
    row(
        "allow_insecure",
        "NAQ_ALLOW_INSECURE",
        SettingKind::Bool,
        DefaultValue::Text("false"),
        "allow a remote NATS server that requires no credentials",
    )
    .with_flag(FlagScope::EveryVerb, ""),
    row(
        "server_users",
        "NAQ_SERVER_USERS",
        SettingKind::List,
        DefaultValue::Text("nats"),
        "users, apart from this one and root, who may run a NATS server on this machine that is used without TLS",
    ),
    row(
        "connect_timeout",
        "NAQ_CONNECT_TIMEOUT",
        SettingKind::Duration { min_ms: 1 },
        DefaultValue::Text("5s"),
        "time limit of the first connection",
    )
    .with_flag(FlagScope::EveryVerb, "TIME")
    .harmless(),
    row(
        "prefix",
        "NAQ_PREFIX",
        SettingKind::Prefix,
        DefaultValue::Text("naq"),
        "prefix of all subjects and streams; each prefix is a separate installation",
    )
    .with_flag(FlagScope::EveryVerb, "NAME"),
    row(
        "replicas",
        "NAQ_REPLICAS",
        SettingKind::Count { min: 1 },
        DefaultValue::Described("as many as the cluster allows, up to 3"),
        "number of servers in a cluster that keep a copy of each new stream",
    )
    .with_flag(FlagScope::EveryVerb, "COUNT"),
    row(
        "default_queue",
        "NAQ_DEFAULT_QUEUE",
        SettingKind::Name,
        DefaultValue::Text("default"),
        "queue of jobs that name none",
    )
    .harmless(),
    row(
        "default_result_ttl",
        "NAQ_DEFAULT_RESULT_TTL",
        SettingKind::Duration { min_ms: 0 },
        DefaultValue::Text("7d"),
        "how long results are kept if the job does not say; 0 keeps them forever",
    ),
    row(
        "worker_ttl",
        "NAQ_WORKER_TTL",
        SettingKind::Duration { min_ms: 1_000 },
        DefaultValue::Text("15s"),
        "how long a worker stays listed after its last heartbeat",
    ),
    row(
        "worker_heartbeat_interval",
        "NAQ_WORKER_HEARTBEAT_INTERVAL",
        SettingKind::Duration { min_ms: 100 },
        DefaultValue::Text("5s"),
        "interval between heartbeats of a worker",
    ),
    row(
        "scheduler_lock_ttl",
        "NAQ_SCHEDULER_LOCK_TTL",
        SettingKind::Duration { min_ms: 3_000 },
        DefaultValue::Text("10s"),
        "time without a renewal after which another scheduler takes over from the leader",
    ),
    row(
        "scheduler_lock_renew_interval",
        "NAQ_SCHEDULER_LOCK_RENEW_INTERVAL",
        SettingKind::Duration { min_ms: 100 },
        DefaultValue::Text("3s"),
        "interval at which the leading scheduler renews its lock",
    ),
    row(
        "max_schedule_failures",
        "NAQ_MAX_SCHEDULE_FAILURES",
        SettingKind::Count { min: 0 },
        DefaultValue::Text("5"),
        "consecutive ticks that cannot be enqueued, after which a schedule is paused; 0 never pauses",
    ),
    row(
        "ack_wait",
        "NAQ_DEFAULT_ACK_WAIT",
        SettingKind::Duration { min_ms: 1_000 },
        DefaultValue::Text("30s"),
        "time without a sign of life after which a job is redelivered to another worker",
    ),
    row(
        "takeover_after",
        "NAQ_TAKEOVER_AFTER",
        SettingKind::Duration { min_ms: 6_000 },
        DefaultValue::Text("10s"),
        "how long a worker must have been connected before it takes over a job whose worker does not reply",
    )
    .with_flag(FlagScope::Worker, "TIME"),
    row(
        "outage_grace",
        "NAQ_OUTAGE_GRACE",
        SettingKind::Duration { min_ms: 0 },
        DefaultValue::Text("0"),
        "how long a job enqueued with --overlap-ok may run past the end of its lease while NATS is out of reach",
    )
    .with_flag(FlagScope::Worker, "TIME"),
    row(
        "max_worker_crashes",
        "NAQ_MAX_WORKER_CRASHES",
        SettingKind::Count { min: 1 },
        DefaultValue::Text("3"),
        "number of worker crashes under one job after which the job fails",
    )
    .with_flag(FlagScope::Worker, "COUNT"),
    row(
        "trust_refused",
        "NAQ_TRUST_REFUSED",
        SettingKind::Bool,
        DefaultValue::Text("false"),
        "let jobs continue while NATS refuses connections, although it is on another host or a cluster",
    )
    .with_flag(FlagScope::Worker, ""),
    row(
        "concurrency",
        "NAQ_CONCURRENCY",
        SettingKind::Count { min: 1 },
        DefaultValue::Processors,
        "number of jobs that a worker runs at once",
    )
    .with_flag(FlagScope::Worker, "COUNT")
    .with_names("concurrency", 'c')
    .harmless(),
    row(
        "timeout",
        "NAQ_DEFAULT_TIMEOUT",
        SettingKind::Duration { min_ms: 1 },
        DefaultValue::None,
        "timeout of jobs that set none, such as 5m",
    )
    .with_flag(FlagScope::Worker, "TIME"),
    row(
        "memory",
        "NAQ_MEMORY",
        SettingKind::Size,
        DefaultValue::None,
        "memory limit of jobs that set none, such as 256M",
    )
    .with_flag(FlagScope::Worker, "SIZE"),
    row(
        "workdir",
        "NAQ_WORKDIR",
        SettingKind::Path,
        DefaultValue::None,
        "working directory of jobs that set none; without it, the worker's own",
    )
    .with_flag(FlagScope::Worker, "DIR"),
    row(
        "drain_timeout",
        "NAQ_DRAIN_TIMEOUT",
        SettingKind::Duration { min_ms: 0 },
        DefaultValue::Text("30s"),
        "how long a stopping worker waits for its running jobs",
    )
    .with_flag(FlagScope::Worker, "TIME")
    .harmless(),
    row(
        "containment",
        "NAQ_CONTAINMENT",
        SettingKind::Choice(&[
            "auto",
            "namespace+cgroup",
            "namespace",
            "cgroup",
            "subreaper",
        ]),
        DefaultValue::Text("auto"),
        "containment of a job's process tree, where auto is the strongest available",
    )
    .with_flag(FlagScope::Worker, "KIND"),
    row(
        "run_as",
        "NAQ_RUN_AS",
        SettingKind::Text,
        DefaultValue::None,
        "user that jobs run as, USER or USER:GROUP; needs root",
    )
    .with_flag(FlagScope::Worker, "USER[:GROUP]"),
    row(
        "allow_root",
        "NAQ_ALLOW_ROOT",
        SettingKind::Bool,
        DefaultValue::Text("false"),
        "let a worker run jobs as root, although everyone who may publish to its queues is then root",
    )
    .with_flag(FlagScope::Worker, ""),
    row(
        "landlock_read",
        "NAQ_LANDLOCK_READ",
        SettingKind::List,
        DefaultValue::None,
        "files and folders that jobs may read and execute; all others are denied",
    )
    .with_flag(FlagScope::Worker, "PATH"),
    row(
        "landlock_write",
        "NAQ_LANDLOCK_WRITE",
        SettingKind::List,
        DefaultValue::None,
        "files and folders that jobs may read and write; all others are denied",
    )
    .with_flag(FlagScope::Worker, "PATH"),
    row(
        "allow_env",
        "NAQ_ALLOW_ENV",
        SettingKind::List,
        DefaultValue::None,
        "variables that jobs may set although they are denied by default",
    )
    .with_flag(FlagScope::Worker, "NAME"),
    row(
        "grant",
        "NAQ_GRANT",
        SettingKind::List,
        DefaultValue::None,
        "rights of jobs in naq: enqueue and read for the worker's queues, with :QUEUE or :* for other queues; none grants nothing",
    )
    .with_flag(FlagScope::Worker, "RIGHT[:QUEUE]"),
    row(
        "allow_setuid",
        "NAQ_ALLOW_SETUID",
        SettingKind::Bool,
        DefaultValue::Text("false"),
        "let programs of jobs gain rights by the set-user-ID bit, as sudo and ping do (unsets no_new_privs)",
    )
    .with_flag(FlagScope::Worker, ""),
    row(
        "strict_limits",
        "NAQ_STRICT_LIMITS",
        SettingKind::Bool,
        DefaultValue::Text("false"),
        "refuse jobs with a limit that this worker cannot enforce, instead of running them with a warning on the record",
    )
    .with_flag(FlagScope::Worker, ""),
    row(
        "private_tmp",
        "NAQ_PRIVATE_TMP",
        SettingKind::Bool,
        DefaultValue::Text("false"),
        "give each job a /tmp of its own, in memory, that also shows its working directory; needs a namespace",
    )
    .with_flag(FlagScope::Worker, ""),
    row(
        "runners_dir",
        "NAQ_RUNNERS_DIR",
        SettingKind::Path,
        DefaultValue::None,
        "folder of runners, one folder per runner, which are added to those of naq or replace them",
    )
    .with_flag(FlagScope::Worker, "DIR"),
    row(
        "secrets_dir",
        "NAQ_SECRETS_DIR",
        SettingKind::Path,
        DefaultValue::None,
        "folder of secrets, one file per secret; those in a subfolder are only for the queue with its name",
    )
    .with_flag(FlagScope::Worker, "DIR"),
    row(
        "worker_labels",
        "NAQ_WORKER_LABELS",
        SettingKind::Labels,
        DefaultValue::None,
        "labels of a worker, which jobs can require",
    )
    .with_flag(FlagScope::Worker, "KEY=VALUE")
    .with_names("label", 'l')
    .harmless(),
    row(
        "trusted_proxies",
        "NAQ_TRUSTED_PROXIES",
        SettingKind::List,
        DefaultValue::None,
        "addresses (or networks, such as 10.0.0.0/24) of reverse proxies whose X-Forwarded headers the dashboard believes",
    )
    .with_flag(FlagScope::Dashboard, "ADDRESS")
    .with_name("trusted-proxy"),
    row(
        "forward_auth_header",
        "NAQ_FORWARD_AUTH_HEADER",
        SettingKind::Text,
        DefaultValue::None,
        "header in which a trusted proxy names the user whom it has authenticated, such as X-Forwarded-User",
    )
    .with_flag(FlagScope::Dashboard, "NAME"),
    row(
        "forward_auth_groups_header",
        "NAQ_FORWARD_AUTH_GROUPS_HEADER",
        SettingKind::Text,
        DefaultValue::None,
        "header in which a trusted proxy lists the groups of that user, separated by commas",
    )
    .with_flag(FlagScope::Dashboard, "NAME"),
    row(
        "forward_auth_rights",
        "NAQ_FORWARD_AUTH_RIGHTS",
        SettingKind::Labels,
        DefaultValue::None,
        "rights of users whom a proxy has authenticated, or of @groups: view, operate or submit; all others may view",
    )
    .with_flag(FlagScope::Dashboard, "USER=RIGHT")
    .with_name("forward-auth-right"),
    row(
        "proxy_users",
        "NAQ_PROXY_USERS",
        SettingKind::List,
        DefaultValue::None,
        "users of this machine, apart from this one and root, who run a trusted proxy that authenticates users",
    )
    .with_flag(FlagScope::Dashboard, "NAME")
    .with_name("proxy-user"),
    row(
        "nats_server",
        "NAQ_NATS_SERVER",
        SettingKind::Path,
        DefaultValue::None,
        "nats-server program for the managed server",
    )
    .with_flag(FlagScope::EveryVerb, "FILE"),
    row(
        "data_dir",
        "NAQ_DATA_DIR",
        SettingKind::Path,
        DefaultValue::DataDir,
        "folder of naq's data",
    ),
    row(
        "cache_dir",
        "NAQ_CACHE_DIR",
        SettingKind::Path,
        DefaultValue::CacheDir,
        "folder of naq's cache",
    ),
    row(
        "log_level",
        "NAQ_LOG_LEVEL",
        SettingKind::Choice(LOG_LEVELS),
        DefaultValue::Text("info"),
        "level of the log",
    )
    .with_flag(FlagScope::EveryVerb, "LEVEL")
    .harmless(),
    row(
        "log_format",
        "NAQ_LOG_FORMAT",
        SettingKind::Choice(&["text", "json"]),
        DefaultValue::Text("text"),
        "format of the log",
    )
    .with_flag(FlagScope::EveryVerb, "FORMAT")
    .harmless(),
    row(
        "log_to_file_enabled",
        "NAQ_LOG_TO_FILE_ENABLED",
        SettingKind::Bool,
        DefaultValue::Text("false"),
        "write the log to a file instead of standard error",
    ),
    row(
        "log_file_path",
        "NAQ_LOG_FILE_PATH",
        SettingKind::Path,
        DefaultValue::Text("naq.log"),
        "path of the log file; each day (UTC) a new one begins, and the earlier one is renamed to PATH.YYYY-MM-DD, of which the latest 7 are kept",
    ),
];

/// The variable that names the settings file.
pub(super) const CONFIG_FILE_VARIABLE: &str = "NAQ_CONFIG";

/// The variable that names the folder of time zones. It is no setting: verbs that read no settings need
/// it too.
pub const TIMEZONE_FOLDER_VARIABLE: &str = "NAQ_TZDIR";

/// Variables that name the programs of naq's runners. They are no settings: the manifest of a runner names them.
pub(super) const RUNNER_PROGRAM_VARIABLES: &[&str] = &[
    "NAQ_BUN",
    "NAQ_DENO",
    "NAQ_JAVA",
    "NAQ_JULIA",
    "NAQ_LUA",
    "NAQ_NODE",
    "NAQ_PERL",
    "NAQ_PHP",
    "NAQ_PYTHON",
    "NAQ_RSCRIPT",
    "NAQ_RUBY",
    "NAQ_UV",
];

/// A variable that every job has.
pub(super) const JOB_ID_VARIABLE: &str = "NAQ_JOB_ID";

/// Variables that a job gets. A naq that a job starts sees them and ignores them; therefore the variable of the
/// setting `timeout` is not `NAQ_TIMEOUT`.
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
    JOB_SOCKET_VARIABLE,
    JOB_TOKEN_VARIABLE,
    "NAQ_CHECKPOINT",
    "NAQ_CHECKPOINT_FILE",
    "NAQ_CALL_FILE",
    "NAQ_CONTROL_LINE_MAX",
];

/// Variables of the Python library that have no effect any more, and what replaces them. A name that ends in `*`
/// matches all names with that prefix.
pub const REMOVED: &[(&str, &str)] = &[
    ("NAQ_JOB_SERIALIZER", "envelopes are always JSON"),
    ("NAQ_JSON_ENCODER", "envelopes are always JSON"),
    ("NAQ_JSON_DECODER", "envelopes are always JSON"),
    (
        "NAQ_SCHEDULER_*",
        "the scheduler has the settings NAQ_SCHEDULER_LOCK_TTL and NAQ_SCHEDULER_LOCK_RENEW_INTERVAL",
    ),
    (
        "NAQ_JOB_STATUS_TTL",
        "status and result are one record, kept for NAQ_DEFAULT_RESULT_TTL",
    ),
    (
        "NAQ_ACK_WAIT_PER_QUEUE",
        "running jobs extend their ack wait, so all queues share NAQ_DEFAULT_ACK_WAIT",
    ),
    (
        "NAQ_DEPENDENCY_CHECK_DELAY_SECONDS",
        "a finished job releases its dependents; nothing is polled",
    ),
    (
        "NAQ_EVENTS_*",
        "events are the updates of the records, so they always exist",
    ),
    (
        "NAQ_EVENT_LOGGER_*",
        "events are the updates of the records, so they always exist",
    ),
    ("NAQ_WORKER_CONCURRENCY", "use NAQ_CONCURRENCY"),
    ("NAQ_WORKER_SHUTDOWN_TIMEOUT", "use NAQ_DRAIN_TIMEOUT"),
    ("NAQ_WORKER_MAX_JOB_DURATION", "use NAQ_DEFAULT_TIMEOUT"),
    ("NAQ_QUEUE_PREFIX", "use NAQ_PREFIX"),
    ("NAQ_NATS_CLIENT_NAME", "naq sets the client name"),
    (
        "NAQ_NATS_MAX_RECONNECT_ATTEMPTS",
        "naq reconnects without a limit",
    ),
    (
        "NAQ_NATS_RECONNECT_TIME_WAIT",
        "naq chooses the delay between reconnects",
    ),
    ("NAQ_NATS_CONNECTION_TIMEOUT", "use NAQ_CONNECT_TIMEOUT"),
    (
        "NAQ_NATS_DRAIN_TIMEOUT",
        "a stopping worker waits for its jobs for NAQ_DRAIN_TIMEOUT",
    ),
    ("NAQ_NATS_AUTH_USERNAME", "use NAQ_USER"),
    ("NAQ_NATS_AUTH_PASSWORD", "use NAQ_PASSWORD"),
    ("NAQ_NATS_AUTH_TOKEN", "use NAQ_TOKEN"),
    (
        "NAQ_NATS_TLS_ENABLED",
        "use a tls:// address in NAQ_NATS_URL",
    ),
    ("NAQ_NATS_TLS_CERT_FILE", "use NAQ_TLS_CERT"),
    ("NAQ_NATS_TLS_KEY_FILE", "use NAQ_TLS_KEY"),
    ("NAQ_NATS_TLS_CA_FILE", "use NAQ_TLS_CA"),
];
