//! Cron expressions: how they are parsed, and when they match next.
//!
//! An expression has five fields as in crontab, six with seconds first, or is a name such as
//! `@daily`. As in crontab, a day matches if either of its two fields matches, provided that both are
//! restricted. A field that begins with `*` is not restricted; then both must match.
//!
//! An expression matches local times. When clocks go forward or back:
//!
//! - An expression whose hour field does not begin with `*` names times of day. A time that clocks
//!   skip matches at the instant of the change, once for all times that are skipped together. A time
//!   that occurs twice matches the first time only.
//! - An expression whose hour field begins with `*` is a frequency. It matches at every instant with
//!   a matching local time, so that `*/15 * * * *` matches every 15 minutes of elapsed time.

use std::fmt;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike, Utc};

use crate::calendar::{Calendar, CronFields, YEAR_MAX, starts_with_star};
use crate::error::CronError;
use crate::error::CronErrorKind;
use crate::timezone::{LocalTimeResult, Timezone, add_seconds};
use crate::{explain, field};

/// A parsed cron expression: its text and some 60 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    text: Box<str>,
    calendar: Calendar,
    /// Whether the hour field begins with `*`.
    hour_is_wildcard: bool,
}

impl Cron {
    /// Parses an expression.
    ///
    /// # Errors
    /// Returns [`CronError`] if a field is invalid, or if the expression never matches.
    pub fn parse(text: &str) -> Result<Cron, CronError> {
        let text = text.trim();
        let error = |kind| CronError {
            expression: text.to_owned(),
            kind,
        };
        let fields = parse_fields(text).map_err(error)?;
        let calendar = Calendar::new(&fields);
        if !calendar.can_match() {
            return Err(error(CronErrorKind::NeverMatches));
        }
        Ok(Cron {
            text: text.into(),
            calendar,
            hour_is_wildcard: starts_with_star(&fields.hours),
        })
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The meaning of the expression, as an English sentence.
    #[must_use]
    pub fn explain(&self) -> String {
        // Parsing again is cheap and rare; keeping the fields would double the size of each expression.
        parse_fields(&self.text).map_or_else(|_| String::new(), |fields| explain::explain(&fields))
    }

    /// The first instant after `after` at which the expression matches the local time of the zone.
    /// `None` if that is after the year 9999.
    #[must_use]
    pub fn next_after(&self, after: DateTime<Utc>, zone: Timezone) -> Option<DateTime<Utc>> {
        let after = after.naive_utc();
        if after.year() > YEAR_MAX {
            return None;
        }
        // Matches are whole seconds, so the search starts from the whole second.
        let after = after
            .with_nanosecond(0)?
            .max(NaiveDate::from_ymd_opt(0, 1, 1)?.and_time(NaiveTime::MIN));
        let next = if self.hour_is_wildcard {
            self.next_wildcard_time(after, zone)
        } else {
            self.next_fixed_time(after, zone)
        };
        next.filter(|moment| moment.year() <= YEAR_MAX)
            .map(|moment| moment.and_utc())
    }

    /// The next match of times of day: each local time counts once, skipped or repeated.
    fn next_fixed_time(&self, after: NaiveDateTime, zone: Timezone) -> Option<NaiveDateTime> {
        let mut clock = zone.local_time(after);
        if let LocalTimeResult::Ambiguous(first, second) = zone.resolve_local(clock)
            && second <= after
        {
            // The local time is a repetition, whose times matched before. Searching through it would
            // find nothing, so skip to the end of the repeated span.
            let change = zone.next_offset_change(first, second);
            clock = zone.local_time(add_seconds(change, -1));
        }
        // All times of one gap share one instant, which may be `after` itself.
        loop {
            clock = self.calendar.next(clock)?;
            let when = zone.resolve_local(clock);
            let moment = when.first_or_gap_end();
            if moment > after {
                return Some(moment);
            }
            if let LocalTimeResult::Gap { gap_end } = when {
                clock = add_seconds(zone.local_time(gap_end), -1);
            }
        }
    }

    /// The next match of a frequency: every instant with a matching local time.
    fn next_wildcard_time(&self, after: NaiveDateTime, zone: Timezone) -> Option<NaiveDateTime> {
        let mut clock = zone.local_time(after);
        if let LocalTimeResult::Ambiguous(_, second) = zone.resolve_local(clock)
            && second > after
        {
            // Clocks are about to go back. The next match is before the change, or after it among the
            // repeated times.
            let change = zone.next_offset_change(after, second);
            let next = self.calendar.next(clock)?;
            if let LocalTimeResult::Ambiguous(first, _) = zone.resolve_local(next)
                && first < change
            {
                return Some(first);
            }
            clock = add_seconds(zone.local_time(change), -1);
        }
        loop {
            clock = self.calendar.next(clock)?;
            match zone.resolve_local(clock) {
                LocalTimeResult::Single(moment) => return Some(moment),
                LocalTimeResult::Ambiguous(first, _) if first > after => return Some(first),
                LocalTimeResult::Ambiguous(_, second) => return Some(second),
                LocalTimeResult::Gap { gap_end } => {
                    clock = add_seconds(zone.local_time(gap_end), -1)
                }
            }
        }
    }
}

/// Parses the fields of an expression.
fn parse_fields(text: &str) -> Result<CronFields, CronErrorKind> {
    let expanded = match text.strip_prefix('@') {
        Some(name) => nickname(name).ok_or(CronErrorKind::Nickname)?,
        None => text,
    };
    let words: Vec<&str> = expanded.split_whitespace().collect();
    let (second, rest, begin) = match words[..] {
        [] => return Err(CronErrorKind::Empty),
        [minute, hour, day, month, weekday] => ("0", [minute, hour, day, month, weekday], 1),
        [second, minute, hour, day, month, weekday] => {
            (second, [minute, hour, day, month, weekday], 2)
        }
        _ => return Err(CronErrorKind::FieldCount(words.len())),
    };
    let read = |field: &field::Field, text: &str, position| {
        field
            .parse(text)
            .map_err(|(part, expected)| CronErrorKind::Field {
                field: field.name,
                position,
                text: part.to_owned(),
                expected,
            })
    };
    let [minute, hour, day, month, weekday] = rest;
    Ok(CronFields {
        seconds: read(&field::SECOND, second, 1)?,
        minutes: read(&field::MINUTE, minute, begin)?,
        hours: read(&field::HOUR, hour, begin + 1)?,
        days: read(&field::DAY, day, begin + 2)?,
        months: read(&field::MONTH, month, begin + 3)?,
        weekdays: read(&field::WEEKDAY, weekday, begin + 4)?,
    })
}

/// The expression for a name after `@`. `None` if the name is not known.
fn nickname(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "yearly" | "annually" => "0 0 1 1 *",
        "monthly" => "0 0 1 * *",
        "weekly" => "0 0 * * 0",
        "daily" | "midnight" => "0 0 * * *",
        "hourly" => "0 * * * *",
        _ => return None,
    })
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl std::str::FromStr for Cron {
    type Err = CronError;
    fn from_str(text: &str) -> Result<Cron, CronError> {
        Cron::parse(text)
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
pub(crate) mod tests;
