//! Dates and times as people write them, such as `18:00`.

use std::fmt;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};

use crate::text::quoted;
use crate::timezone::{LocalTimeResult, Timezone, add_seconds};

/// Why a text is not a valid date and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DateTimeError {
    text: String,
    kind: DateTimeErrorKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DateTimeErrorKind {
    Form,
    Date,
    Time,
    Offset,
    Range,
}

impl fmt::Display for DateTimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.kind {
            DateTimeErrorKind::Form => {
                "is not a time; write 18:00, '2026-12-24 18:00' or 2026-12-24T18:00:00+01:00"
            }
            DateTimeErrorKind::Date => "has a date that does not exist",
            DateTimeErrorKind::Time => "has a time of day outside of 00:00:00 to 23:59:59",
            DateTimeErrorKind::Offset => {
                "has an invalid offset from UTC; write Z or an offset such as +01:00"
            }
            DateTimeErrorKind::Range => "is out of range",
        };
        write!(f, "`{}` {why}", quoted(&self.text))
    }
}

impl std::error::Error for DateTimeError {}

/// Parses a date and time in one of these forms:
///
/// - RFC 3339; the seconds are optional;
/// - `YYYY-MM-DD HH:MM[:SS]`, with a space or a `T`, as local time in the zone;
/// - `HH:MM[:SS]`, the next occurrence of this local time after `now`.
///
/// A local time that is skipped when clocks go forward means the instant of the change. A local time
/// that occurs twice when clocks go back means the first occurrence.
///
/// ```
/// use naq_cron::{Timezone, parse_datetime};
///
/// let berlin: Timezone = "Europe/Berlin".parse()?;
/// let now = "2026-12-24T12:00:00Z".parse()?;
/// let time = parse_datetime("18:00", berlin, now)?;
/// assert_eq!(berlin.format(time), "2026-12-24T18:00:00+01:00");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Returns [`DateTimeError`] if the text has none of these forms, or if the date, the time or the
/// offset does not exist.
pub fn parse_datetime(
    text: &str,
    zone: Timezone,
    now: DateTime<Utc>,
) -> Result<DateTime<Utc>, DateTimeError> {
    read(text.trim(), zone, now).map_err(|kind| DateTimeError {
        text: text.to_owned(),
        kind,
    })
}

fn read(
    text: &str,
    zone: Timezone,
    now: DateTime<Utc>,
) -> Result<DateTime<Utc>, DateTimeErrorKind> {
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Ok(moment.to_utc());
    }
    let Some((date, time)) = text.split_once(['T', 't', ' ']) else {
        return next_time_of_day(parse_time(text)?, zone, now).ok_or(DateTimeErrorKind::Range);
    };
    let date = parse_date(date)?;
    let time = time.trim_start();
    let (time, offset) = match time.find(['Z', 'z', '+', '-']) {
        Some(at) => (&time[..at], Some(&time[at..])),
        None => (time, None),
    };
    // RFC 3339 allows a fraction of a second, so it is accepted only together with an offset.
    let whole = time.split_once('.').map_or(time, |(whole, _)| whole);
    let clock = date.and_time(parse_time(whole)?);
    if whole != time && offset.is_none() {
        return Err(DateTimeErrorKind::Form);
    }
    let moment = match offset {
        None => zone.resolve_local(clock).first_or_gap_end(),
        Some(offset) => add_seconds(
            clock,
            -parse_offset(offset).ok_or(DateTimeErrorKind::Offset)?,
        ),
    };
    Ok(moment.and_utc())
}

/// The next occurrence of a time of day after `now`.
fn next_time_of_day(time: NaiveTime, zone: Timezone, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let now = now.naive_utc();
    let today = zone.local_time(now).date();
    today
        .iter_days()
        .take(3)
        .map(|day| match zone.resolve_local(day.and_time(time)) {
            LocalTimeResult::Ambiguous(first, second) if first <= now => second,
            when => when.first_or_gap_end(),
        })
        .find(|moment| *moment > now)
        .map(|moment| moment.and_utc())
}

/// `HH:MM[:SS]`
fn parse_time(text: &str) -> Result<NaiveTime, DateTimeErrorKind> {
    let mut parts = text.split(':');
    let (hour, minute) = (parts.next(), parts.next());
    let (second, rest) = (parts.next().unwrap_or("00"), parts.next());
    let number = |text: Option<&str>, digits| parse_digits(text?, digits);
    let (Some(hour), Some(minute), Some(second), None) = (
        number(hour, 1).or_else(|| number(hour, 2)),
        number(minute, 2),
        number(Some(second), 2),
        rest,
    ) else {
        return Err(DateTimeErrorKind::Form);
    };
    NaiveTime::from_hms_opt(hour, minute, second).ok_or(DateTimeErrorKind::Time)
}

/// `YYYY-MM-DD`
fn parse_date(text: &str) -> Result<NaiveDate, DateTimeErrorKind> {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else {
        return Err(DateTimeErrorKind::Form);
    };
    let (Some(year), Some(month), Some(day)) = (
        parse_digits(year, 4),
        parse_digits(month, 2),
        parse_digits(day, 2),
    ) else {
        return Err(DateTimeErrorKind::Form);
    };
    NaiveDate::from_ymd_opt(year.cast_signed(), month, day).ok_or(DateTimeErrorKind::Date)
}

/// `Z` or `+HH:MM`, in seconds east of UTC.
fn parse_offset(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+')?),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes) = (parse_digits(hours, 2)?, parse_digits(minutes, 2)?);
    (hours < 24 && minutes < 60).then(|| sign * i64::from(hours * 3_600 + minutes * 60))
}

/// Parses a number with exactly this number of digits.
fn parse_digits(text: &str, digits: usize) -> Option<u32> {
    (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOON: &str = "2026-03-28T12:00:00+01:00";

    fn read(text: &str, zone: &str, now: &str) -> Result<String, String> {
        let zone: Timezone = zone.parse().unwrap();
        parse_datetime(text, zone, now.parse().unwrap())
            .map(|moment| zone.format(moment))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn datetimes_parse() {
        for (text, expected) in [
            ("2026-12-24T18:00:00+01:00", "2026-12-24T18:00:00+01:00"),
            ("2026-12-24T18:00:00.5Z", "2026-12-24T19:00:00.500+01:00"),
            ("2026-12-24T18:00Z", "2026-12-24T19:00:00+01:00"),
            ("2026-12-24 18:00-05:30", "2026-12-25T00:30:00+01:00"),
            ("2026-12-24 18:00", "2026-12-24T18:00:00+01:00"),
            ("2026-12-24 8:00", "2026-12-24T08:00:00+01:00"),
            (" 2026-07-24T18:00:07 ", "2026-07-24T18:00:07+02:00"),
            ("18:00", "2026-03-28T18:00:00+01:00"),
            ("12:00", "2026-03-29T12:00:00+02:00"),
            ("12:00:01", "2026-03-28T12:00:01+01:00"),
            ("9:30", "2026-03-29T09:30:00+02:00"),
            // Clocks skip this time.
            ("02:30", "2026-03-29T03:00:00+02:00"),
            ("2026-03-29 02:00", "2026-03-29T03:00:00+02:00"),
            // This time occurs twice.
            ("2026-10-25 02:30", "2026-10-25T02:30:00+02:00"),
        ] {
            assert_eq!(
                read(text, "Europe/Berlin", NOON).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn time_of_day_is_its_next_occurrence() {
        for (now, expected) in [
            ("2026-10-25T02:00:00+02:00", "2026-10-25T02:30:00+02:00"),
            ("2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"),
            ("2026-10-25T02:29:59+01:00", "2026-10-25T02:30:00+01:00"),
            ("2026-10-25T02:30:00+01:00", "2026-10-26T02:30:00+01:00"),
            ("2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"),
        ] {
            assert_eq!(
                read("02:30", "Europe/Berlin", now).as_deref(),
                Ok(expected),
                "{now}"
            );
        }
        // A whole day was skipped here.
        assert_eq!(
            read("12:00", "Pacific/Apia", "2011-12-29T13:00:00-10:00").as_deref(),
            Ok("2011-12-31T00:00:00+14:00")
        );
    }

    #[test]
    fn invalid_datetime_is_refused_with_its_problem() {
        for (text, kind) in [
            ("2026-02-30 10:00", "date"),
            ("2026-02-30T10:00:00Z", "date"),
            ("2026-13-01 10:00", "date"),
            ("24:00", "time of day"),
            ("2026-12-24T18:60:00Z", "time of day"),
            ("2026-12-24T18:00:00+1:00", "offset"),
            ("2026-12-24T18:00:00+24:00", "offset"),
            ("", "write 18:00"),
            ("tomorrow", "write 18:00"),
            ("18", "write 18:00"),
            ("18:0", "write 18:00"),
            ("18:00:00:00", "write 18:00"),
            ("2026-12-24", "write 18:00"),
            ("24.12.2026 18:00", "write 18:00"),
            ("2026-12-24 18:00:00.5", "write 18:00"),
            ("18:00 \u{1b}[31m", "write 18:00"),
        ] {
            let error = read(text, "Europe/Berlin", NOON).unwrap_err();
            assert!(error.contains(kind), "{text}: {error}");
            assert!(!error.contains('\u{1b}'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn parsing_a_datetime_never_panics(text in "\\PC*|[0-9T:Z +.-]{0,30}", seconds in any::<i64>()) {
            if let Some(now) = chrono::DateTime::from_timestamp(seconds, 0) {
                let _ = parse_datetime(&text, Timezone::UTC, now);
            }
        }

        #[test]
        fn next_time_of_day_is_within_a_day_and_a_half_hour(
            now in 0_i64..4_000_000_000,
            hour in 0_u32..24,
            minute in 0_u32..60,
        ) {
            let zone: Timezone = "Australia/Lord_Howe".parse().unwrap();
            let now = DateTime::from_timestamp(now, 0).unwrap();
            let moment = parse_datetime(&format!("{hour}:{minute:02}"), zone, now).unwrap();
            let wait = (moment - now).num_minutes();
            prop_assert!(moment > now && wait <= 24 * 60 + 30, "{}", wait);
        }
    }
}
