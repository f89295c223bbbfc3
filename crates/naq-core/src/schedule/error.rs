//! Why a schedule is refused.

use naq_cron::CronError;
use naq_protocol::EnvelopeError;

/// Why a schedule is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Its cron expression is invalid.
    #[error("{0}")]
    Cron(#[from] CronError),
    /// Its envelope is invalid.
    #[error("{0}")]
    Envelope(#[from] EnvelopeError),
    /// One of its fields is invalid.
    #[error("schedule: `{field}`: {problem}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What is wrong with the field, and what to do.
        problem: String,
    },
}

impl ScheduleError {
    pub(super) fn field(field: &'static str, problem: impl Into<String>) -> ScheduleError {
        ScheduleError::Field {
            field,
            problem: problem.into(),
        }
    }
}
