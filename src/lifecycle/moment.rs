//! Moments as people write them: `--at '18:00'`.

use std::fmt;

use chrono::{NaiveDate, NaiveDateTime, NaiveTime};

use super::zone::{Zone, add};
use crate::envelope::{Timestamp, escape, units::clip};

/// Why a text is no moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MomentError {
    text: String,
    wrong: Wrong,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wrong {
    Form,
    Date,
    Time,
    Range,
}

impl fmt::Display for MomentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.wrong {
            Wrong::Form => {
                "is not a time; write 2026-12-24T18:00:00+01:00, '2026-12-24 18:00' or 18:00"
            }
            Wrong::Date => "names a day that the calendar does not have",
            Wrong::Time => "names a time of day beyond 23:59:59",
            Wrong::Range => "is out of range",
        };
        write!(f, "`{}` {why}", escape(&clip(&self.text)))
    }
}

impl std::error::Error for MomentError {}

/// Reads a moment: RFC 3339; or `YYYY-MM-DD HH:MM[:SS]`, with a space or a `T`, by the clocks of
/// the zone; or `HH:MM[:SS]`, the next time after `now` that those clocks show it.
///
/// A time that the clocks skip is the moment they do so, one that they show twice the first.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_moment(text: &str, zone: Zone, now: Timestamp) -> Result<Timestamp, MomentError> {
    let wrong = |wrong| MomentError {
        text: text.to_owned(),
        wrong,
    };
    let trimmed = text.trim();
    if let Ok(moment) = trimmed.parse() {
        return Ok(moment);
    }
    if let Some(time) = read_time(trimmed) {
        let time = time.ok_or_else(|| wrong(Wrong::Time))?;
        let today = zone.clock(now.0.naive_utc()).date();
        return next(today, time, zone, now).ok_or_else(|| wrong(Wrong::Range));
    }
    let (date, time) = trimmed
        .split_once(['T', 't', ' '])
        .ok_or_else(|| wrong(Wrong::Form))?;
    let date = read_date(date)
        .ok_or_else(|| wrong(Wrong::Form))?
        .ok_or_else(|| wrong(Wrong::Date))?;
    let time = read_time(time.trim_start())
        .ok_or_else(|| wrong(Wrong::Form))?
        .ok_or_else(|| wrong(Wrong::Time))?;
    Ok(moment(date.and_time(time), zone))
}

/// The first moment after now at which the clocks show the time.
fn next(today: NaiveDate, time: NaiveTime, zone: Zone, now: Timestamp) -> Option<Timestamp> {
    // a clock that skips a day may need a third
    today
        .iter_days()
        .take(3)
        .map(|day| moment(day.and_time(time), zone))
        .find(|moment| *moment > now)
}

fn moment(clock: NaiveDateTime, zone: Zone) -> Timestamp {
    Timestamp(add(zone.when(clock).once(), 0).and_utc())
}

/// `HH:MM[:SS]`: none where it does not have that form, none within where there is no such time.
fn read_time(text: &str) -> Option<Option<NaiveTime>> {
    let parts = numbers(text, ':')?;
    let [hour, minute, second] = match parts[..] {
        [hour, minute] => [hour, minute, 0],
        [hour, minute, second] => [hour, minute, second],
        _ => return None,
    };
    Some(NaiveTime::from_hms_opt(hour, minute, second))
}

fn read_date(text: &str) -> Option<Option<NaiveDate>> {
    let parts = numbers(text, '-')?;
    let [year, month, day] = parts[..] else {
        return None;
    };
    (text.find('-') == Some(4))
        .then(|| NaiveDate::from_ymd_opt(year.try_into().unwrap_or(i32::MAX), month, day))
}

/// Numbers of one to four digits.
fn numbers(text: &str, between: char) -> Option<Vec<u32>> {
    text.split(between)
        .map(|part| {
            (matches!(part.len(), 1..=4) && part.bytes().all(|byte| byte.is_ascii_digit()))
                .then(|| part.parse().ok())
                .flatten()
        })
        .collect()
}
