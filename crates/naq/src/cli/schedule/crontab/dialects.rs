//! Lines that other implementations of cron accept, or that look as if they did, and what naq says
//! about them.

use super::{Entry, LineError};
use naq_cron::{Cron, CronError};

/// Refuses six time fields. The sixth would silently become the first word of the command.
pub(super) fn refuse_seconds(expression: &str, rest: &str) -> Result<(), LineError> {
    let Some(sixth) = rest
        .split([' ', '\t'])
        .next()
        .filter(|word| !word.is_empty())
    else {
        return Ok(());
    };
    let six = format!("{expression} {sixth}");
    // A word such as `sun` may be a program, unless the line makes no sense with five fields.
    let is_field = sixth.starts_with(['*', '?', '0', '1', '2', '3', '4', '5', '6', '7'])
        || Cron::parse(expression).is_err();
    if expression.starts_with('@') || !is_field || Cron::parse(&six).is_err() {
        return Ok(());
    }
    Err(LineError::Invalid(format!(
        "`{six}` is six time fields, and a crontab has five, without seconds; a file of schedules in TOML accepts cron = \"{six}\""
    )))
}

/// Refuses the flags that OpenBSD and FreeBSD read before a command: they would become its first
/// word.
pub(super) fn refuse_flags(rest: &str) -> Result<(), LineError> {
    let word = rest.split([' ', '\t']).next().unwrap_or_default();
    let Some(flags) = word.strip_prefix('-').filter(|flags| !flags.is_empty()) else {
        return Ok(());
    };
    if !flags.chars().all(|flag| "nqs".contains(flag)) {
        return Ok(());
    }
    let advice = if flags.contains('s') {
        "for -s, a file of schedules in TOML has overlap = \"skip\""
    } else {
        "naq sends no mail, so the line can do without it"
    };
    Err(LineError::Unsupported(format!(
        "{word} before the command is a flag of the cron of OpenBSD and FreeBSD, which naq does not have; {advice}"
    )))
}

/// The error of a line whose expression is invalid.
pub(super) fn expression_error(entry: &Entry, error: &CronError) -> LineError {
    if !error.is_other_dialect() {
        return LineError::Invalid(error.to_string());
    }
    let advice = match entry.expression.to_ascii_lowercase().as_str() {
        "@reboot" => "; `naq worker --at-boot COMMAND` enqueues a job once after a machine's start",
        name if name.starts_with('@') => {
            "; a file of schedules in TOML accepts an interval: every = \"5m\""
        }
        _ => " (RANDOM_DELAY in a crontab)",
    };
    LineError::Unsupported(format!("{error}{advice}"))
}
