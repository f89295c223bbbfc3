//! Why a cron expression is invalid.

use std::fmt;

use crate::field;
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

    /// Whether another implementation of cron accepts what this one refuses: `@reboot`, `@every`, a
    /// random value (`~`) or a hashed one (`H`).
    #[must_use]
    pub fn is_other_dialect(&self) -> bool {
        match &self.kind {
            CronErrorKind::Nickname => other_nickname(&self.expression).is_some(),
            CronErrorKind::Field { text, .. } => field::other_dialect(text).is_some(),
            _ => false,
        }
    }
}

/// Why a nickname of another implementation is refused. `None` if no implementation known here has it.
fn other_nickname(expression: &str) -> Option<&'static str> {
    let name = expression.strip_prefix('@')?.to_ascii_lowercase();
    if name == "reboot" {
        return Some(
            "@reboot is not supported: schedulers start and stop at any time, on any machine",
        );
    }
    // `@every 5m` of Go programs, and `@every_minute` and `@30` of FreeBSD
    let is_interval = name.starts_with("every")
        || (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()));
    is_interval.then_some("an interval after @ is not supported: it is not a time of a calendar")
}

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cron expression \"{}\": ", quoted(&self.expression))?;
        match &self.kind {
            CronErrorKind::Empty => {
                f.write_str("is empty; there must be 5 fields, such as 0 4 * * *")
            }
            CronErrorKind::Nickname => f.write_str(other_nickname(&self.expression).unwrap_or(
                "must be @yearly, @annually, @monthly, @weekly, @daily, @midnight or @hourly",
            )),
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
            CronErrorKind::NeverMatches => {
                f.write_str("never matches: no such month has such a day")
            }
        }
    }
}

impl std::error::Error for CronError {}
