//! Moments as people write them: `--at 18:00`.

use std::fmt;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};

use crate::text::quoted;
use crate::timezone::{When, Zone, add};

/// Why a text is no moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DateTimeError {
    text: String,
    wrong: Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Form,
    Date,
    Time,
    Offset,
    Range,
}

impl fmt::Display for DateTimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.wrong {
            Wrong::Form => {
                "is not a time; write 18:00, '2026-12-24 18:00' or 2026-12-24T18:00:00+01:00"
            }
            Wrong::Date => "has a date that no calendar has",
            Wrong::Time => "has a time of day that is not within 00:00:00 and 23:59:59",
            Wrong::Offset => "has an offset from UTC that is not Z or such as +01:00",
            Wrong::Range => "is out of range",
        };
        write!(f, "`{}` {why}", quoted(&self.text))
    }
}

impl std::error::Error for DateTimeError {}

/// Reads a moment:
///
/// - RFC 3339, where the seconds may be left out;
/// - `YYYY-MM-DD HH:MM[:SS]`, with a space or a `T`, by the clocks of the zone;
/// - `HH:MM[:SS]`, the next time after `now` that the clocks of the zone show it.
///
/// A time that the clocks skip means the moment at which they do so, one that they show twice the
/// first of the two.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_datetime(
    text: &str,
    zone: Zone,
    now: DateTime<Utc>,
) -> Result<DateTime<Utc>, DateTimeError> {
    read(text.trim(), zone, now).map_err(|wrong| DateTimeError {
        text: text.to_owned(),
        wrong,
    })
}

fn read(text: &str, zone: Zone, now: DateTime<Utc>) -> Result<DateTime<Utc>, Wrong> {
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Ok(moment.to_utc());
    }
    let Some((date, time)) = text.split_once(['T', 't', ' ']) else {
        return next(read_time(text)?, zone, now).ok_or(Wrong::Range);
    };
    let date = read_date(date)?;
    let time = time.trim_start();
    let (time, offset) = match time.find(['Z', 'z', '+', '-']) {
        Some(at) => (&time[..at], Some(&time[at..])),
        None => (time, None),
    };
    // a fraction of a second goes with RFC 3339, which this is but for a slip
    let whole = time.split_once('.').map_or(time, |(whole, _)| whole);
    let clock = date.and_time(read_time(whole)?);
    if whole != time && offset.is_none() {
        return Err(Wrong::Form);
    }
    let moment = match offset {
        None => zone.when(clock).once(),
        Some(offset) => add(clock, -read_offset(offset).ok_or(Wrong::Offset)?),
    };
    Ok(moment.and_utc())
}

/// The first moment after now at which the clocks show the time of day.
fn next(time: NaiveTime, zone: Zone, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let now = now.naive_utc();
    let today = zone.clock(now).date();
    today
        .iter_days()
        .take(3)
        .map(|day| match zone.when(day.and_time(time)) {
            When::Twice(first, second) if first <= now => second,
            when => when.once(),
        })
        .find(|moment| *moment > now)
        .map(|moment| moment.and_utc())
}

/// `HH:MM[:SS]`
fn read_time(text: &str) -> Result<NaiveTime, Wrong> {
    let mut parts = text.split(':');
    let (hour, minute) = (parts.next(), parts.next());
    let (second, rest) = (parts.next().unwrap_or("00"), parts.next());
    let number = |text: Option<&str>, digits| digits_of(text?, digits);
    let (Some(hour), Some(minute), Some(second), None) = (
        number(hour, 1).or_else(|| number(hour, 2)),
        number(minute, 2),
        number(Some(second), 2),
        rest,
    ) else {
        return Err(Wrong::Form);
    };
    NaiveTime::from_hms_opt(hour, minute, second).ok_or(Wrong::Time)
}

/// `YYYY-MM-DD`
fn read_date(text: &str) -> Result<NaiveDate, Wrong> {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else {
        return Err(Wrong::Form);
    };
    let (Some(year), Some(month), Some(day)) =
        (digits_of(year, 4), digits_of(month, 2), digits_of(day, 2))
    else {
        return Err(Wrong::Form);
    };
    NaiveDate::from_ymd_opt(year.cast_signed(), month, day).ok_or(Wrong::Date)
}

/// `Z` or `+HH:MM`, in seconds east of UTC.
fn read_offset(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+')?),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes) = (digits_of(hours, 2)?, digits_of(minutes, 2)?);
    (hours < 24 && minutes < 60).then(|| sign * i64::from(hours * 3_600 + minutes * 60))
}

/// A number of so many digits.
fn digits_of(text: &str, digits: usize) -> Option<u32> {
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
        let zone: Zone = zone.parse().unwrap();
        parse_datetime(text, zone, now.parse().unwrap())
            .map(|moment| zone.format(moment))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn moments_people_write() {
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
            // the clocks skip it
            ("02:30", "2026-03-29T03:00:00+02:00"),
            ("2026-03-29 02:00", "2026-03-29T03:00:00+02:00"),
            // they show it twice
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
    fn a_time_of_day_is_the_next_that_the_clocks_show() {
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
        // a day that was left out
        assert_eq!(
            read("12:00", "Pacific/Apia", "2011-12-29T13:00:00-10:00").as_deref(),
            Ok("2011-12-31T00:00:00+14:00")
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, wrong) in [
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
            assert!(error.contains(wrong), "{text}: {error}");
            assert!(!error.contains('\u{1b}'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*|[0-9T:Z +.-]{0,30}", seconds in any::<i64>()) {
            if let Some(now) = chrono::DateTime::from_timestamp(seconds, 0) {
                let _ = parse_datetime(&text, Zone::UTC, now);
            }
        }

        #[test]
        fn the_next_time_of_day_is_within_a_day_or_so(
            now in 0_i64..4_000_000_000,
            hour in 0_u32..24,
            minute in 0_u32..60,
        ) {
            let zone: Zone = "Australia/Lord_Howe".parse().unwrap();
            let now = DateTime::from_timestamp(now, 0).unwrap();
            let moment = parse_datetime(&format!("{hour}:{minute:02}"), zone, now).unwrap();
            let wait = (moment - now).num_minutes();
            prop_assert!(moment > now && wait <= 24 * 60 + 30, "{}", wait);
        }
    }
}
