//! What is wrong with an expression, and where.

use std::fmt;

use crate::text::quoted;

/// Why a text is no cron expression, in one line that names the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronError {
    pub(super) expression: String,
    pub(super) kind: CronErrorKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CronErrorKind {
    Empty,
    /// A word after `@` that stands for nothing.
    Nickname,
    /// So many fields.
    FieldCount(usize),
    /// A part of a field that may not stand there.
    Field {
        field: &'static str,
        /// Counted from 1, as the expression was written.
        position: usize,
        /// The part of the field that is wrong.
        text: String,
        /// What may stand there.
        expected: String,
    },
    /// No day is ever like this.
    NeverMatches,
}

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cron expression \"{}\": ", printable(&self.expression))?;
        match &self.kind {
            CronErrorKind::Empty => f.write_str("is empty; there must be 5 fields, such as 0 4 * * *"),
            CronErrorKind::Nickname if self.expression.eq_ignore_ascii_case("@reboot") => f.write_str(
                "@reboot is not supported: schedulers start and stop at any time, on any machine",
            ),
            CronErrorKind::Nickname => f.write_str(
                "must be @yearly, @annually, @monthly, @weekly, @daily, @midnight or @hourly",
            ),
            CronErrorKind::FieldCount(7) => f.write_str(
                "has 7 fields; a field for years is not supported, there must be 5 fields, or 6 \
                 with seconds first",
            ),
            CronErrorKind::FieldCount(count) => write!(
                f,
                "has {count} field{}; there must be 5 (minute, hour, day of month, month, day of \
                 week), or 6 with seconds first",
                if *count == 1 { "" } else { "s" }
            ),
            CronErrorKind::Field {
                field,
                position,
                text,
                expected,
            } => write!(
                f,
                "{field} (field {position}) \"{}\": {expected}",
                printable(text)
            ),
            CronErrorKind::NeverMatches => f.write_str("never comes true: no such month has such a day"),
        }
    }
}

fn printable(text: &str) -> String {
    quoted(text)
}

impl std::error::Error for CronError {}
