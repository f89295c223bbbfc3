//! Time zones: conversion between instants and local times.

use std::fmt;

use chrono::{
    DateTime, FixedOffset, LocalResult, NaiveDateTime, Offset, SecondsFormat, TimeDelta, TimeZone,
    Utc,
};
use chrono_tz::{TZ_VARIANTS, Tz};

use crate::text::quoted;

/// A time zone of the IANA database, such as `Europe/Berlin`. The default is UTC.
///
/// The database is compiled in, so that every build of a version has the same zones and rules,
/// whatever is installed on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timezone(Tz);

impl Timezone {
    /// Coordinated universal time.
    pub const UTC: Timezone = Timezone(Tz::UTC);

    /// The name in the IANA database.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name()
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
        match self.0.offset_from_local_datetime(&clock) {
            LocalResult::Single(offset) => LocalTimeResult::Single(to_utc(clock, offset.fix())),
            LocalResult::Ambiguous(first, second) => {
                let (a, b) = (to_utc(clock, first.fix()), to_utc(clock, second.fix()));
                LocalTimeResult::Ambiguous(a.min(b), a.max(b))
            }
            LocalResult::None => LocalTimeResult::Gap {
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
        self.0.offset_from_utc_datetime(&utc).fix()
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
#[error("there is no time zone `{}`{}", quoted(.name), suggestion(*.closest_match))]
pub struct TimezoneError {
    name: String,
    closest_match: Option<&'static str>,
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
        name.parse().map(Timezone).map_err(|_| TimezoneError {
            name: name.to_owned(),
            closest_match: nearest_timezone(name),
        })
    }
}

/// The most characters of a foreign name that are compared: more than any zone has.
const NAME_CHARS_MAX: usize = 100;

/// The most similar name: the same one in another case, with the same city, or with few typing
/// errors.
fn nearest_timezone(name: &str) -> Option<&'static str> {
    let plain = |name: &str| name.trim().to_ascii_lowercase().replace([' ', '-'], "_");
    // The name is foreign input, and the distance to each zone costs the product of both lengths.
    let wanted: String = plain(name).chars().take(NAME_CHARS_MAX).collect();
    let names = || TZ_VARIANTS.iter().map(|zone| zone.name());
    names()
        .find(|name| plain(name) == wanted)
        .or_else(|| {
            names().find(|name| {
                name.rsplit_once('/')
                    .is_some_and(|(_, city)| plain(city) == wanted)
            })
        })
        .or_else(|| {
            names()
                .map(|candidate| (strsim::osa_distance(&plain(candidate), &wanted), candidate))
                .min()
                .filter(|(slips, _)| *slips <= (wanted.len() / 3).clamp(1, 4))
                .map(|(_, candidate)| candidate)
        })
}
