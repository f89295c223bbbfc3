//! Why a cron expression is invalid.

use std::fmt;

use crate::text::quoted;

/// Why a text is not a valid cron expression. The message is one line and names the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronError {
    pub(super) expression: String,
    pub(super) kind: CronErrorKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CronErrorKind {
    Empty,
    /// The word after `@` is not a known name.
    Nickname,
    /// The expression has this number of fields.
    FieldCount(usize),
    /// A part of a field is invalid.
    Field {
        field: &'static str,
        /// The position of the field in the expression; the first is 1.
        position: usize,
        /// The invalid part of the field.
        text: String,
        /// What is valid there.
        expected: String,
    },
    /// No day matches.
    NeverMatches,
}

impl CronError {
    /// Whether each field is valid and yet no date matches, as in `0 0 30 2 *`.
    #[must_use]
    pub fn never_matches(&self) -> bool {
        self.kind == CronErrorKind::NeverMatches
    }
}

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cron expression \"{}\": ", quoted(&self.expression))?;
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
                quoted(text)
            ),
            CronErrorKind::NeverMatches => f.write_str("never matches: no such month has such a day"),
        }
    }
}

impl std::error::Error for CronError {}
