//! Exit codes, and the one line an error is told in.

use std::process::ExitCode;

use crate::local_server::ServerError;
use crate::worker::WorkerError;
use naq_client::config::ConfigError;
use naq_client::{BrokerError, ClientError, ConnectFailure, ErrorKind};
use naq_core::{ExistingJob, ScheduleError};
use naq_protocol::{EnvelopeError, InvalidName};

/// The documented exit codes (`naq --help`, README).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    /// It failed.
    Failed = 1,
    /// The arguments or settings are wrong.
    Usage = 2,
    /// NATS cannot be reached or used.
    NoNats = 3,
    /// There is no such job, queue or object.
    NotFound = 4,
    /// The id stands for another envelope, or for a job that has not ended.
    Conflict = 5,
    /// The envelope is refused.
    Refused = 6,
    /// The storage or the queue is full.
    Full = 7,
    /// It took too long.
    TimedOut = 124,
}

/// An error on its way to the user.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) message: String,
    /// What the user can do about it, in terms of this command line.
    hint: Option<String>,
    /// The reader of our output has gone: nothing is left to say, or to say it to.
    silent: bool,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure {
            exit,
            message: message.into(),
            hint: None,
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
    pub(super) fn map_message(mut self, message: impl FnOnce(String) -> String) -> Failure {
        self.message = message(self.message);
        self
    }

    /// Returns the message followed by the hint.
    pub(super) fn text(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}; {hint}", self.message),
            None => self.message.clone(),
        }
    }

    /// Prints the error, in one line, and returns its exit code.
    pub(super) fn report(&self, json: bool) -> ExitCode {
        use std::io::Write;
        if !self.silent {
            let mut stderr = anstream::stderr();
            let _ = if json {
                let text = super::render::one_line(&self.message);
                let mut object = serde_json::json!({"error": text, "code": self.exit as u8});
                if let Some(hint) = &self.hint {
                    object["hint"] = super::render::one_line(hint).into();
                }
                writeln!(stderr, "{object}")
            } else {
                let text = super::render::one_line(&self.text());
                let style = anstyle::AnsiColor::Red.on_default().bold();
                writeln!(stderr, "{style}naq:{style:#} {text}")
            };
        }
        ExitCode::from(self.exit as u8)
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
            ..Failure::new(error.kind().into(), error.to_string())
        }
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
        ClientError::Config(error) => return config_hint(error),
        ClientError::Broker(error) => return broker_hint(error),
        _ => return None,
    })
}

/// What to do about an error between naq and NATS. `None` means that the message suffices.
fn broker_hint(error: &BrokerError) -> Option<String> {
    let hint = match error {
        BrokerError::Connect { failure, .. } => match failure {
            ConnectFailure::Unreachable => {
                "is it running? `naq dev` starts a local one, --nats-url names another"
            }
            ConnectFailure::TimedOut => "check the address, or raise --connect-timeout",
            ConnectFailure::Credentials => "check --creds, --nkey, --user or --token",
            ConnectFailure::Tls => "check --tls-ca, --tls-cert, --tls-key",
            _ => return None,
        },
        BrokerError::InsecureServer { .. } => {
            "give --creds, --nkey, --user, --token or a client certificate, or --allow-insecure"
        }
        BrokerError::StorageFull(_) => "remove jobs with `naq purge`, or raise the limit",
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

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Failure {
        ClientError::from(error).into()
    }
}

impl From<WorkerError> for Failure {
    fn from(error: WorkerError) -> Failure {
        match error {
            WorkerError::Broker(error) => error.into(),
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
        ConfigError::ForeignOwner { path, .. } => Some(format!(
            "if you trust it, name it: --config {}",
            path.display()
        )),
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
