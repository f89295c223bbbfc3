//! Time zones: between moments and what a clock on the wall shows.

use std::fmt;

use chrono::{
    DateTime, FixedOffset, LocalResult, NaiveDateTime, Offset, SecondsFormat, TimeDelta, TimeZone,
    Utc,
};
use chrono_tz::{TZ_VARIANTS, Tz};

use crate::text::quoted;

/// A time zone of the IANA database, such as `Europe/Berlin`. UTC where none is given.
///
/// The database is compiled in, so that every naq of a version knows the same zones and rules,
/// whatever the machines have installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Zone(Tz);

impl Zone {
    /// Coordinated universal time.
    pub const UTC: Zone = Zone(Tz::UTC);

    /// The name in the IANA database.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// The moment as RFC 3339 writes it, with the offset from UTC that the zone has then.
    #[must_use]
    pub fn format(self, moment: DateTime<Utc>) -> String {
        let offset = self.offset(moment.naive_utc());
        let moment = moment.with_timezone(&offset);
        moment.to_rfc3339_opts(SecondsFormat::AutoSi, self == Zone::UTC)
    }

    /// What the clock shows at a moment that is given in UTC.
    pub(crate) fn clock(self, utc: NaiveDateTime) -> NaiveDateTime {
        add(utc, i64::from(self.offset(utc).local_minus_utc()))
    }

    /// When the clock shows a time.
    pub(crate) fn when(self, clock: NaiveDateTime) -> When {
        match self.0.offset_from_local_datetime(&clock) {
            LocalResult::Single(offset) => When::Once(to_utc(clock, offset.fix())),
            LocalResult::Ambiguous(first, second) => {
                let (a, b) = (to_utc(clock, first.fix()), to_utc(clock, second.fix()));
                When::Twice(a.min(b), a.max(b))
            }
            LocalResult::None => When::Never {
                gap_end: self.gap_end(clock),
            },
        }
    }

    /// The first moment of `from` to `until` at which the offset is no longer the one of `from`,
    /// for a span within which it changes once.
    pub(crate) fn change(self, from: NaiveDateTime, until: NaiveDateTime) -> NaiveDateTime {
        let offset = self.offset(from);
        first(from, until, |moment| self.offset(moment) != offset)
    }

    /// The moment at which the clock jumps over a time that it does not show.
    fn gap_end(self, clock: NaiveDateTime) -> NaiveDateTime {
        // no clock is further from UTC than this
        let far = 2 * 86_400;
        first(add(clock, -far), add(clock, far), |moment| {
            self.clock(moment) >= clock
        })
    }

    fn offset(self, utc: NaiveDateTime) -> FixedOffset {
        self.0.offset_from_utc_datetime(&utc).fix()
    }
}

/// The moments, in UTC, at which a clock shows a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Once(NaiveDateTime),
    /// The clock was put back: the first time and the second.
    Twice(NaiveDateTime, NaiveDateTime),
    /// The clock was put forward, at that moment.
    Never {
        gap_end: NaiveDateTime,
    },
}

impl When {
    /// The one moment for what happens once: the first, or the end of the gap.
    pub(crate) fn once(self) -> NaiveDateTime {
        match self {
            When::Once(moment) | When::Twice(moment, _) => moment,
            When::Never { gap_end } => gap_end,
        }
    }
}

fn to_utc(clock: NaiveDateTime, offset: FixedOffset) -> NaiveDateTime {
    add(clock, -i64::from(offset.local_minus_utc()))
}

/// Seconds later; the end of time where there is no such moment.
pub(crate) fn add(moment: NaiveDateTime, seconds: i64) -> NaiveDateTime {
    moment
        .checked_add_signed(TimeDelta::seconds(seconds))
        .unwrap_or(if seconds < 0 {
            NaiveDateTime::MIN
        } else {
            NaiveDateTime::MAX
        })
}

/// The first second after `from`, up to `until`, for which it holds; it does for `until`.
fn first(
    from: NaiveDateTime,
    until: NaiveDateTime,
    holds: impl Fn(NaiveDateTime) -> bool,
) -> NaiveDateTime {
    let (mut before, mut after) = (0, (until - from).num_seconds());
    while after - before > 1 {
        let middle = before + (after - before) / 2;
        if holds(add(from, middle)) {
            after = middle;
        } else {
            before = middle;
        }
    }
    add(from, after)
}

impl Default for Zone {
    fn default() -> Zone {
        Zone::UTC
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// There is no such time zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no time zone `{}`{}", quoted(.name), meant(*.nearest))]
pub struct BadZone {
    name: String,
    nearest: Option<&'static str>,
}

fn meant(nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None => "; a zone has a name such as UTC, Europe/Berlin or America/New_York".to_owned(),
    }
}

impl std::str::FromStr for Zone {
    type Err = BadZone;
    fn from_str(name: &str) -> Result<Zone, BadZone> {
        name.parse().map(Zone).map_err(|_| BadZone {
            name: name.to_owned(),
            nearest: nearest_zone(name),
        })
    }
}

/// The zone that was probably meant: the same name in other letters, the city alone, or a slip.
fn nearest_zone(name: &str) -> Option<&'static str> {
    let plain = |name: &str| name.trim().to_ascii_lowercase().replace([' ', '-'], "_");
    let wanted = plain(name);
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
