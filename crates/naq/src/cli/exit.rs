//! Exit codes, and the one line an error is told in.

use std::process::ExitCode;

use crate::local_server::ServerError;
use crate::worker::WorkerError;
use naq_client::ClientError;
use naq_client::config::ConfigError;
use naq_core::ScheduleError;
use naq_jetstream::BrokerError;
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
    /// The reader of our output has gone: nothing is left to say, or to say it to.
    silent: bool,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure {
            exit,
            message: message.into(),
            silent: false,
        }
    }

    pub(super) fn general(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Failed, message)
    }

    pub(super) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    /// Tells the error once, in one line, and gives its code.
    pub(super) fn report(&self, json: bool) -> ExitCode {
        use std::io::Write;
        if !self.silent {
            let text = super::render::one_line(&self.message);
            let mut stderr = anstream::stderr();
            let _ = if json {
                writeln!(
                    stderr,
                    "{}",
                    serde_json::json!({"error": text, "code": self.exit as u8})
                )
            } else {
                let style = anstyle::AnsiColor::Red.on_default().bold();
                writeln!(stderr, "{style}naq:{style:#} {text}")
            };
        }
        ExitCode::from(self.exit as u8)
    }
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Failure {
        let exit = match &error {
            BrokerError::Connect { .. }
            | BrokerError::UnsupportedServer(_)
            | BrokerError::Timeout(_)
            | BrokerError::PermissionDenied(_)
            | BrokerError::ConnectionLost(_) => Exit::NoNats,
            BrokerError::QueueNotFound(_) | BrokerError::NotFound(_) => Exit::NotFound,
            BrokerError::Conflict
            | BrokerError::JobIdConflict(_)
            | BrokerError::DueTimeConflict { .. } => Exit::Conflict,
            BrokerError::TooLarge { .. } => Exit::Refused,
            BrokerError::StorageFull(_) => Exit::Full,
            BrokerError::Refused { .. } | BrokerError::InvalidData(_) => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let exit = match error {
            ClientError::Broker(error) => return error.into(),
            ClientError::Invalid(_) => Exit::Refused,
            ClientError::Name(_) => Exit::Usage,
            ClientError::ScheduleError(bad) => return bad.into(),
            ClientError::NoSuchJob(_)
            | ClientError::NoSuchSchedule(_)
            | ClientError::NoDeadLetter(_)
            | ClientError::NoEnvelope(_) => Exit::NotFound,
            ClientError::NotEnded { .. }
            | ClientError::ScheduleExists { .. }
            | ClientError::ScheduleOwnedElsewhere { .. }
            | ClientError::ScheduleEnded(_)
            | ClientError::NotDelayed { .. }
            | ClientError::AlreadyDue { .. } => Exit::Conflict,
            ClientError::NotRerunnable { .. }
            | ClientError::InvalidDueTime(_)
            | ClientError::NoDueTime { .. } => Exit::Refused,
            ClientError::QueueFull { .. } => Exit::Full,
        };
        Failure::new(exit, error.to_string())
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
        Failure::usage(error.to_string())
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
