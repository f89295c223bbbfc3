//! What is wrong with an expression, and where.

use std::fmt;

use crate::text::quoted;

/// Why a text is no cron expression, in one line that names the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronError {
    pub(super) expression: String,
    pub(super) fault: Fault,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Empty,
    /// A word after `@` that stands for nothing.
    Nickname,
    /// So many fields.
    Count(usize),
    /// A part of a field that may not stand there.
    Field {
        field: &'static str,
        /// Counted from 1, as the expression was written.
        position: usize,
        /// The part of the field that is wrong.
        text: String,
        /// What may stand there.
        wanted: String,
    },
    /// No day is ever like this.
    Never,
}

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cron expression \"{}\": ", shown(&self.expression))?;
        match &self.fault {
            Fault::Empty => f.write_str("is empty; there must be 5 fields, such as 0 4 * * *"),
            Fault::Nickname if self.expression.eq_ignore_ascii_case("@reboot") => f.write_str(
                "@reboot is not supported: schedulers start and stop at any time, on any machine",
            ),
            Fault::Nickname => f.write_str(
                "must be @yearly, @annually, @monthly, @weekly, @daily, @midnight or @hourly",
            ),
            Fault::Count(7) => f.write_str(
                "has 7 fields; a field for years is not supported, there must be 5 fields, or 6 \
                 with seconds first",
            ),
            Fault::Count(count) => write!(
                f,
                "has {count} field{}; there must be 5 (minute, hour, day of month, month, day of \
                 week), or 6 with seconds first",
                if *count == 1 { "" } else { "s" }
            ),
            Fault::Field {
                field,
                position,
                text,
                wanted,
            } => write!(
                f,
                "{field} (field {position}) \"{}\": {wanted}",
                shown(text)
            ),
            Fault::Never => f.write_str("never comes true: no such month has such a day"),
        }
    }
}

fn shown(text: &str) -> String {
    quoted(text)
}

impl std::error::Error for CronError {}
