//! Exit codes, and the one line that reports an error.
//!
//! Every error of the command line ends here: a library error becomes a [`Failure`] with an exit
//! code, and hints, which name verbs and options, are added here or by the verb and never by a
//! library.

use std::process::ExitCode;

use super::json;
use super::render;
use crate::local_server::ServerError;
use crate::scheduler::SchedulerError;
pub(super) use crate::text::FREE_ROOM;
use crate::worker::WorkerError;
use naq_client::config::ConfigError;
use naq_client::{
    BrokerError, ClientError, ConnectFailure, Denial, DeniedAction, ErrorKind, NoJetStream,
};
use naq_core::{ExistingJob, ScheduleError};
use naq_protocol::{EnvelopeError, InvalidName};

/// The documented exit codes (`naq --help`, `docs/cli.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    /// The command failed.
    Failed = 1,
    /// The arguments or settings are wrong.
    Usage = 2,
    /// NATS cannot be reached or used.
    NoNats = 3,
    /// No such job, schedule, queue or object exists.
    NotFound = 4,
    /// The id belongs to another envelope, or the job or schedule is in the wrong state.
    Conflict = 5,
    /// The envelope is refused.
    Refused = 6,
    /// The storage or the queue is full.
    Full = 7,
    /// The time limit of the command has passed.
    TimedOut = 124,
}

impl Exit {
    /// The stable word for this exit code in `{"error": {"code": …}}`.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Exit::Failed => "failed",
            Exit::Usage => "usage",
            Exit::NoNats => "no_nats",
            Exit::NotFound => "not_found",
            Exit::Conflict => "conflict",
            Exit::Refused => "refused",
            Exit::Full => "full",
            Exit::TimedOut => "timed_out",
        }
    }
}

impl Exit {
    /// The exit code of a stable word. `None` if the word is unknown.
    pub(super) fn from_code(code: &str) -> Option<Exit> {
        const ALL: [Exit; 8] = [
            Exit::Failed,
            Exit::Usage,
            Exit::NoNats,
            Exit::NotFound,
            Exit::Conflict,
            Exit::Refused,
            Exit::Full,
            Exit::TimedOut,
        ];
        ALL.into_iter().find(|exit| exit.code() == code)
    }
}

/// An error on its way to the user.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// What failed and why: lower case, no full stop.
    pub(super) message: String,
    /// What the user can do about it, in terms of this command line. `None` means that the message
    /// suffices.
    pub(super) hint: Option<String>,
    /// The name for which nothing of the kind exists that the verb looked for. Something of another
    /// kind may have it.
    pub(super) missing: Option<String>,
    /// The action that the server denied.
    pub(super) denial: Option<Box<Denial>>,
    /// The reader of our output has closed it, so there is nobody to report to.
    silent: bool,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure {
            exit,
            message: message.into(),
            hint: None,
            missing: None,
            denial: None,
            silent: false,
        }
    }

    pub(super) fn general(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Failed, message)
    }

    pub(super) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    /// Replaces the message by one that contains it. Exit code and hint stay.
    pub(super) fn map_message(self, context: impl FnOnce(&str) -> String) -> Failure {
        Failure {
            message: context(&self.message),
            ..self
        }
    }

    /// Adds what to do about it.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// Reports the error once, in one line on standard error, and returns its exit code.
    pub(super) fn report(&self) -> ExitCode {
        self.print();
        ExitCode::from(self.exit as u8)
    }

    /// Prints the line: `naq: message; hint`, or `{"error": {…}}` with `--json`.
    pub(super) fn print(&self) {
        if self.silent {
            return;
        }
        let message = render::one_line(&self.message);
        let hint = self.hint.as_deref().map(render::one_line);
        if render::is_json() {
            render::print_stderr_json(&json::ErrorReport {
                error: json::ErrorBody {
                    code: self.exit.code().to_owned(),
                    message,
                    hint,
                },
            });
        } else {
            let style = anstyle::AnsiColor::Red.on_default().bold();
            let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            render::print_stderr(format_args!("{style}naq:{style:#} {message}{hint}"));
        }
    }
}

/// A usage error of clap as one line. Its text comes in paragraphs: what is wrong, tips, the usage
/// (which names the verb), and a reference to `--help`.
impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Failure {
        use clap::error::ErrorKind;
        let text = error.render().to_string();
        let mut verb = "naq".to_owned();
        let (mut message, mut tip) = (None, None);
        for paragraph in text.split("\n\n").map(str::trim) {
            if let Some(usage) = paragraph.strip_prefix("Usage: ") {
                let words = usage.split_whitespace();
                let is_verb = |word: &&str| word.starts_with(|first: char| first.is_alphabetic());
                verb = words.take_while(is_verb).collect::<Vec<_>>().join(" ");
            } else if let Some(found) = paragraph.strip_prefix("tip: ") {
                tip.get_or_insert_with(|| found.lines().next().unwrap_or_default().to_owned());
            } else if message.is_none() {
                let paragraph = paragraph.strip_prefix("error: ").unwrap_or(paragraph);
                message = Some(paragraph.trim_end_matches('.').to_owned());
            }
        }
        if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            message = Some("a command is missing".to_owned());
        }
        let help = format!("`{verb} --help` shows the usage");
        Failure::usage(message.unwrap_or_default()).hint(tip.unwrap_or(help))
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Exit {
        match kind {
            ErrorKind::Usage => Exit::Usage,
            ErrorKind::Unavailable => Exit::NoNats,
            ErrorKind::NotFound => Exit::NotFound,
            ErrorKind::Conflict => Exit::Conflict,
            ErrorKind::Refused => Exit::Refused,
            ErrorKind::Full => Exit::Full,
            _ => Exit::Failed,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure {
            hint: hint(&error),
            missing: missing_name(&error),
            denial: denial(&error),
            ..Failure::new(error.kind().into(), error.to_string())
        }
    }
}

/// The name that an error says does not exist.
fn missing_name(error: &ClientError) -> Option<String> {
    match error {
        ClientError::NoSuchJob(job) => Some(job.to_string()),
        ClientError::NoSuchSchedule(name)
        | ClientError::Broker(BrokerError::QueueNotFound(name)) => Some(name.clone()),
        _ => None,
    }
}

/// The action that the server denied, according to the error.
fn denial(error: &ClientError) -> Option<Box<Denial>> {
    match error {
        ClientError::Broker(BrokerError::PermissionDenied { denial, .. }) => {
            Some(Box::new(denial.clone()))
        }
        _ => None,
    }
}

/// What the user of this command line can do about an error of the library, which knows no flag and
/// no verb.
fn hint(error: &ClientError) -> Option<String> {
    Some(match error {
        ClientError::ScheduleExists { schedule, .. } => {
            format!("`naq schedule update {schedule}` changes it, --replace replaces it")
        }
        ClientError::NoDeadLetter(_) => "`naq retry` runs any ended job again".to_owned(),
        ClientError::QueueFull { .. } => "--max-jobs sets this limit".to_owned(),
        ClientError::NoServer => {
            "`naq dev` or `naq server start` starts one, --nats-url or --context names another"
                .to_owned()
        }
        ClientError::EarlierServer => {
            "`naq server stop` stops it, and the next start creates the key".to_owned()
        }
        ClientError::AddressMissing => {
            "--nats-url or --context names the server that the settings are for".to_owned()
        }
        ClientError::Config(error) => return config_hint(error),
        ClientError::Broker(error) => return broker_hint(error),
        _ => return None,
    })
}

/// What to do about an error between naq and NATS. `None` means that the message suffices.
fn broker_hint(error: &BrokerError) -> Option<String> {
    let hint = match error {
        BrokerError::Connect { failure, .. } => return connect_hint(*failure).map(str::to_owned),
        BrokerError::NoJetStream(NoJetStream::Server) => {
            "start it with JetStream: `nats-server -js`"
        }
        BrokerError::NoJetStream(NoJetStream::Account) => {
            "enable it for the account in the server's configuration, or connect as another user"
        }
        BrokerError::NoJetStream(NoJetStream::Domain(_)) => {
            "check NAQ_JETSTREAM_DOMAIN, `jetstream_domain` in naq.toml or the context"
        }
        BrokerError::PermissionDenied { denial, .. }
            if denial.action == DeniedAction::Subscribe
                && denial.subject.starts_with("_INBOX.") =>
        {
            "grant it, or name a prefix of reply subjects that is allowed by NAQ_INBOX_PREFIX"
        }
        BrokerError::PermissionDenied { .. } => {
            "grant it, or connect as another user; docs/protocol.md lists what each verb needs"
        }
        BrokerError::InsecureServer { .. } => {
            "give --creds, --nkey, --user, --token or a client certificate, or --allow-insecure"
        }
        BrokerError::Unsuitable { .. } => {
            "`naq server check` lists all differences; a stream or consumer that you remove is created again, without what it stored"
        }
        BrokerError::Timeout(_) => "check the connection, and that the servers of NATS are healthy",
        BrokerError::TooLarge { .. } => {
            "put large input into a file or an object, and pass its name to the job"
        }
        BrokerError::StorageFull(_) => FREE_ROOM,
        BrokerError::DueTimeConflict {
            job,
            standing: ExistingJob::Delayed { .. },
        } => {
            return Some(format!(
                "`naq job reschedule {job} TIME` changes its time, `naq job trigger {job}` enqueues it now"
            ));
        }
        BrokerError::InvalidSchedule { schedule, .. } => {
            return Some(format!("`naq schedule delete {schedule}` removes it"));
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// What to do about a connection that could not be opened. `None` means that the message suffices.
pub(super) const fn connect_hint(failure: ConnectFailure) -> Option<&'static str> {
    Some(match failure {
        ConnectFailure::UnknownHost => "check the name in --nats-url",
        ConnectFailure::Unreachable => {
            "is it running? `naq dev` starts a local one, --nats-url names another"
        }
        ConnectFailure::TimedOut => "check the address, or raise --connect-timeout",
        ConnectFailure::NotNats => "check the port in --nats-url; NATS listens on 4222 by default",
        ConnectFailure::OtherUser => {
            "it would receive envelopes and give jobs to workers; if you trust that user, add it to `server_users` in \
             naq.toml (NAQ_SERVER_USERS), else connect by tls://"
        }
        ConnectFailure::NotOwnServer => {
            "try again: naq starts its server at another port if it cannot have this one; if its certificate was \
             replaced, stop it with `naq server stop` and start it again"
        }
        ConnectFailure::OwnCertificate => {
            "stop the server with `naq server stop`; its next start makes the certificate again"
        }
        ConnectFailure::CredentialsMissing => "give --creds, --nkey, --user or --token",
        ConnectFailure::CredentialsRefused => "check --creds, --nkey, --user or --token",
        ConnectFailure::CredentialsExpired => "get new ones from the operator of the account",
        ConnectFailure::NoTls => {
            "write nats:// in --nats-url if the server is meant to have no TLS, and omit --tls-ca and --tls-cert"
        }
        ConnectFailure::UnknownAuthority => {
            "--tls-ca names the file with the certificate of that authority"
        }
        ConnectFailure::HostMismatch => "name a host of the certificate in --nats-url",
        ConnectFailure::CertificateExpired => "renew it, or correct the clock of this machine",
        ConnectFailure::ClientCertificate => "check --tls-cert and --tls-key",
        ConnectFailure::Tls => "check --tls-ca, --tls-cert, --tls-key",
        _ => return None,
    })
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Failure {
        ClientError::from(error).into()
    }
}

impl From<WorkerError> for Failure {
    fn from(error: WorkerError) -> Failure {
        match error {
            WorkerError::Broker(error) => error.into(),
            error @ WorkerError::Warm(_) => Failure::usage(error.to_string()),
            error @ WorkerError::JobSocket(_) => Failure::general(error.to_string()),
        }
    }
}

impl From<SchedulerError> for Failure {
    fn from(error: SchedulerError) -> Failure {
        match error {
            SchedulerError::Broker(error) => error.into(),
            SchedulerError::Clock(_) => Failure::general(error.to_string()),
        }
    }
}

impl From<EnvelopeError> for Failure {
    fn from(error: EnvelopeError) -> Failure {
        Failure::new(Exit::Refused, error.to_string())
    }
}

impl From<ScheduleError> for Failure {
    fn from(error: ScheduleError) -> Failure {
        match error {
            ScheduleError::Envelope(invalid) => invalid.into(),
            ScheduleError::Cron(_) | ScheduleError::Field { .. } => {
                Failure::usage(error.to_string())
            }
        }
    }
}

impl From<InvalidName> for Failure {
    fn from(error: InvalidName) -> Failure {
        Failure::usage(error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        ClientError::from(error).into()
    }
}

fn config_hint(error: &ConfigError) -> Option<String> {
    match error {
        ConfigError::ForeignOwner { .. } => {
            Some("read it, then make a copy of your own, or run chown on it".to_owned())
        }
        ConfigError::WritableByOthers { path, .. } => {
            Some(format!("run chmod go-w {}", path.display()))
        }
        ConfigError::Untrusted { path, .. } => Some(format!(
            "read it, then run `naq config trust`, or name it with --config {}",
            path.display()
        )),
        ConfigError::Context { .. } => Some(
            "`nats context ls` lists the contexts; --nats-url names a server without one"
                .to_owned(),
        ),
        ConfigError::UnknownKey { .. } => Some("`naq config` lists the settings".to_owned()),
        _ => None,
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Failure {
        Failure::new(Exit::NoNats, error.to_string())
    }
}

impl From<naq_runner::RunnerError> for Failure {
    fn from(error: naq_runner::RunnerError) -> Failure {
        Failure::general(format!("cannot run jobs here: {error}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure {
            silent: error.kind() == std::io::ErrorKind::BrokenPipe,
            ..Failure::general(error.to_string())
        }
    }
}
