//! Cron expressions: what they mean, and when they come true next.
//!
//! Five fields as crontab has them, six with seconds first, or a name such as `@daily`.
//!
//! An expression speaks of what the clocks of a zone show. When those are put forward or back:
//!
//! - An expression whose hour field does not begin with `*` names times. A time that the clocks
//!   skip comes true at the moment they do so, together with all others skipped with it; a time
//!   that they show twice comes true the first time.
//! - One whose hour field begins with `*` keeps its cadence: it comes true whenever the clocks
//!   show such a time, so that `*/15 * * * *` comes true every 15 minutes of real time.

use std::fmt;

use chrono::{Datelike, NaiveDate, NaiveDateTime, Timelike};

use super::zone::{When, Zone, add};
use crate::envelope::{Timestamp, escape, units::clip};

/// A cron expression that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    text: String,
    pattern: croner::Cron,
    /// The hour field begins with `*`.
    every_hour: bool,
}

impl Cron {
    /// Reads an expression.
    ///
    /// # Errors
    /// Which field is wrong, and what may stand there.
    pub fn parse(text: &str) -> Result<Cron, CronError> {
        let text = text.trim();
        let error = |fault| CronError {
            expression: text.to_owned(),
            fault,
        };
        let spelt = match text.strip_prefix('@') {
            Some(name) => nickname(name).ok_or_else(|| error(Fault::Nickname))?,
            None => text,
        };
        let words: Vec<&str> = spelt.split_whitespace().collect();
        let fields = match words.len() {
            5 => &FIELDS[1..],
            6 => &FIELDS[..],
            count => return Err(error(Fault::Count(count))),
        };
        let mut plain = Vec::with_capacity(6);
        for (position, (field, word)) in fields.iter().zip(&words).enumerate() {
            plain.push(field.read(word).map_err(|(item, wrong)| {
                error(Fault::Field {
                    field: field.name,
                    position: position + 1,
                    text: item,
                    wrong,
                })
            })?);
        }
        let [.., hour, day, _, weekday] = &plain[..] else {
            return Err(error(Fault::Count(plain.len())));
        };
        let every_hour = hour.starts_with('*');
        // crontab asks whether the text begins with a star
        let both = day.starts_with('*') || weekday.starts_with('*');
        let pattern = croner::parser::CronParser::builder()
            .dom_and_dow(both)
            .build()
            .parse(&plain.join(" "))
            .map_err(|refused| error(Fault::Other(refused.to_string())))?;
        let cron = Cron {
            text: text.to_owned(),
            pattern,
            every_hour,
        };
        let long_ago = NaiveDate::from_ymd_opt(2000, 1, 1).unwrap_or_default();
        if cron
            .next_clock(long_ago.and_time(chrono::NaiveTime::MIN))
            .is_none()
        {
            return Err(error(Fault::Never));
        }
        Ok(cron)
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first moment after `after` at which the expression is true in the zone; none beyond
    /// the year 4999.
    #[must_use]
    pub fn next_after(&self, after: Timestamp, zone: Zone) -> Option<Timestamp> {
        let after = after.0.naive_utc();
        // a tick is a whole second: what is later than one second's begin is before the next
        let after = after.with_nanosecond(0).unwrap_or(after);
        if !(1..5000).contains(&after.year()) {
            return None;
        }
        let next = if self.every_hour {
            self.next_shown(after, zone)
        } else {
            self.next_named(after, zone)
        };
        next.map(|moment| Timestamp(moment.and_utc()))
    }

    /// The next moment for an expression that names hours.
    fn next_named(&self, after: NaiveDateTime, zone: Zone) -> Option<NaiveDateTime> {
        let mut clock = zone.clock(after);
        if let When::Twice(first, second) = zone.when(clock)
            && second <= after
        {
            // the rest of what is shown twice came true the first time
            let change = zone.change(first, second);
            let before = add(change, -1);
            clock = zone.clock(before).max(clock);
        }
        loop {
            clock = self.next_clock(clock)?;
            let moment = zone.when(clock).once();
            if moment > after {
                return Some(moment);
            }
        }
    }

    /// The next moment for an expression of every hour.
    fn next_shown(&self, after: NaiveDateTime, zone: Zone) -> Option<NaiveDateTime> {
        let mut clock = zone.clock(after);
        let mut again = None;
        if let When::Twice(_, second) = zone.when(clock)
            && second > after
        {
            // what is shown until the change, or what is shown again after it
            let change = zone.change(after, second);
            let next = self.next_clock(clock)?;
            if let When::Twice(first, _) = zone.when(next)
                && first < change
            {
                return Some(first);
            }
            again = Some(add(zone.clock(change), -1));
        }
        if let Some(again) = again {
            clock = again;
        }
        loop {
            clock = self.next_clock(clock)?;
            match zone.when(clock) {
                When::Once(moment) | When::Twice(moment, _) if moment > after => {
                    return Some(moment);
                }
                When::Twice(_, moment) => return Some(moment),
                When::Once(_) => {}
                When::Never { gap_end } => clock = add(zone.clock(gap_end), -1),
            }
        }
    }

    /// The next time of a clock that is never put forward or back.
    fn next_clock(&self, clock: NaiveDateTime) -> Option<NaiveDateTime> {
        self.pattern.find_next_occurrence(&clock, false).ok()
    }

    /// What the expression means, in a sentence.
    #[must_use]
    pub fn explain(&self) -> String {
        self.pattern.describe()
    }
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

/// Why a text is no cron expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronError {
    expression: String,
    fault: Fault,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    Nickname,
    Count(usize),
    Field {
        field: &'static str,
        position: usize,
        text: String,
        wrong: String,
    },
    Never,
    Other(String),
}

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cron expression \"{}\": ",
            escape(&clip(&self.expression))
        )?;
        match &self.fault {
            Fault::Nickname if self.expression.eq_ignore_ascii_case("@reboot") => f.write_str(
                "@reboot is not supported: no machine's start is an event to a scheduler of many",
            ),
            Fault::Nickname => f.write_str(
                "there are @yearly, @annually, @monthly, @weekly, @daily, @midnight and @hourly",
            ),
            Fault::Count(count) => write!(
                f,
                "has {count} fields; it must be 5 (minute, hour, day of month, month, day of \
                 week), or 6 with seconds first"
            ),
            Fault::Field {
                field,
                position,
                text,
                wrong,
            } => write!(
                f,
                "{field} (field {position}) \"{}\": {wrong}",
                escape(&clip(text))
            ),
            Fault::Never => f.write_str("never comes true"),
            Fault::Other(wrong) => f.write_str(wrong),
        }
    }
}

impl std::error::Error for CronError {}

/// A field and what may stand there.
struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    /// Names of the values from `min`.
    names: &'static [&'static str],
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Day,
    Weekday,
}

const FIELDS: [Field; 6] = [
    Field::plain("second", 0, 59),
    Field::plain("minute", 0, 59),
    Field::plain("hour", 0, 23),
    Field {
        kind: Kind::Day,
        ..Field::plain("day of month", 1, 31)
    },
    Field {
        names: &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
        ..Field::plain("month", 1, 12)
    },
    Field {
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
        kind: Kind::Weekday,
        ..Field::plain("day of week", 0, 7)
    },
];

impl Field {
    const fn plain(name: &'static str, min: u32, max: u32) -> Field {
        Field {
            name,
            min,
            max,
            names: &[],
            kind: Kind::Plain,
        }
    }

    /// The field in digits; or the item that is wrong, and how.
    fn read(&self, text: &str) -> Result<String, (String, String)> {
        let mut items = Vec::new();
        for item in text.split(',') {
            items.push(
                self.read_item(item)
                    .map_err(|wrong| (item.to_owned(), wrong))?,
            );
        }
        if items.iter().any(|item| item == "L") && items.iter().any(|item| item == "LW") {
            return Err((text.to_owned(), "L and LW exclude each other".to_owned()));
        }
        // a star in a list of others says as much as alone, save that crontab looks at the first
        Ok(match items.iter().position(|item| item == "*") {
            Some(0) => "*".to_owned(),
            Some(_) => format!("{}-{}", self.min, self.max),
            None => items.join(","),
        })
    }

    fn read_item(&self, item: &str) -> Result<String, String> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let step = match step {
            None => String::new(),
            Some(step) => {
                let values = self.max - self.min + u32::from(self.kind != Kind::Weekday);
                match number(step) {
                    Some(step) if (1..=values).contains(&step) => format!("/{step}"),
                    _ => return Err(format!("a step must be 1 to {values}")),
                }
            }
        };
        if range == "*" || (range == "?" && step.is_empty() && self.kind != Kind::Plain) {
            return Ok(format!("*{step}"));
        }
        if let Some((from, to)) = range.split_once('-') {
            let (from, mut to) = (self.value(from)?, self.value(to)?);
            if self.kind == Kind::Weekday && to == 0 && from > 0 {
                to = 7;
            }
            if from > to {
                return Err("a range must go upwards".to_owned());
            }
            return Ok(format!("{from}-{to}{step}"));
        }
        if !step.is_empty() {
            let from = self.value(range)?;
            return Err(format!(
                "a step needs `*` or a range before it, such as {from}-{}{step}",
                self.max
            ));
        }
        let upper = range.to_ascii_uppercase();
        match self.kind {
            Kind::Day if upper == "L" || upper == "LW" => return Ok(upper),
            Kind::Day => {
                if let Some(day) = upper.strip_suffix('W') {
                    return Ok(format!("{}W", self.value(day)?));
                }
            }
            Kind::Weekday => {
                if let Some((day, nth)) = upper.split_once('#') {
                    let day = self.value(day)?;
                    return match number(nth) {
                        Some(nth @ 1..=5) => Ok(format!("{day}#{nth}")),
                        _ => Err("after # must be 1 to 5".to_owned()),
                    };
                }
                if let Some(day) = upper.strip_suffix('L') {
                    return Ok(format!("{}L", self.value(day)?));
                }
            }
            Kind::Plain => {}
        }
        Ok(self.value(range)?.to_string())
    }

    fn value(&self, text: &str) -> Result<u32, String> {
        let named = self
            .names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(text))
            .and_then(|index| u32::try_from(index).ok())
            .map(|index| self.min + index);
        named
            .or_else(|| number(text))
            .filter(|value| (self.min..=self.max).contains(value))
            .ok_or_else(|| self.allowed())
    }

    fn allowed(&self) -> String {
        let (min, max) = (self.min, self.max);
        match (self.kind, self.names) {
            (Kind::Weekday, _) => "must be 0 to 7 (0 and 7 are Sunday) or SUN to SAT".to_owned(),
            (_, [_, ..]) => format!("must be {min} to {max} or JAN to DEC"),
            _ => format!("must be {min} to {max}"),
        }
    }
}

fn number(text: &str) -> Option<u32> {
    (text.bytes().all(|byte| byte.is_ascii_digit()) && text.len() <= 4)
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(text: &str, zone: &str, after: &str) -> String {
        let zone: Zone = zone.parse().unwrap();
        let cron = Cron::parse(text).unwrap();
        let next = cron.next_after(after.parse().unwrap(), zone).unwrap();
        zone.at(next).to_rfc3339()
    }

    #[test]
    fn next_times_and_errors() {
        assert_eq!(
            next("*/15 * * * *", "UTC", "2026-01-01T00:00:00Z"),
            "2026-01-01T00:15:00+00:00"
        );
        assert_eq!(
            next("30 2 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z"),
            "2026-03-29T03:00:00+02:00"
        );
        assert_eq!(
            next("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z"),
            "2028-02-29T00:00:00+00:00"
        );
        assert!(Cron::parse("0 0 30 2 *").is_err());
        assert_eq!(
            Cron::parse("61 * * * *").unwrap_err().to_string(),
            "cron expression \"61 * * * *\": minute (field 1) \"61\": must be 0 to 59"
        );
        assert_eq!(
            "berlin".parse::<Zone>().unwrap_err().to_string(),
            "there is no time zone `berlin`; did you mean `Europe/Berlin`?"
        );
    }
}
