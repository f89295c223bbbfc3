//! The times that options name, such as `--at 18:00`: one rule for all of them.
//!
//! A time without an offset is in the zone of `--tz`, else in the one that the schedule has, else in
//! the time zone of this machine. What was understood is printed in one line on standard error. A time
//! in the past is refused unless `--past-ok` accepts it.

use super::exit::Failure;
use super::render;
use super::session::Session;
use naq_cron::{Timezone, parse_datetime};
use naq_protocol::Timestamp;

/// Reads the times of a command line.
#[derive(Clone, Copy)]
pub(super) struct TimeReader<'a> {
    /// The variable `TZ` of this process.
    tz_variable: Option<&'a str>,
    /// Zone of times without an offset. `None` means that of this machine.
    zone: Option<Timezone>,
    /// Whether a time may be in the past.
    past_ok: bool,
    now: Timestamp,
}

impl<'a> TimeReader<'a> {
    /// A reader by the value of `--tz`, and `--past-ok`.
    pub(super) fn new(
        session: &'a Session,
        tz: Option<&str>,
        past_ok: bool,
    ) -> Result<TimeReader<'a>, Failure> {
        Ok(TimeReader {
            past_ok,
            ..TimeReader::for_queries(session.variable("TZ"), tz)?
        })
    }

    /// A reader of times that may be past, for a process whose variable `TZ` has this value.
    pub(super) fn for_queries(
        tz_variable: Option<&'a str>,
        tz: Option<&str>,
    ) -> Result<TimeReader<'a>, Failure> {
        Ok(TimeReader {
            tz_variable,
            zone: tz.map(parse_zone).transpose()?,
            past_ok: true,
            now: render::now(),
        })
    }

    /// The same reader with another zone.
    pub(super) fn in_zone(self, zone: Timezone) -> TimeReader<'a> {
        TimeReader {
            zone: Some(zone),
            ..self
        }
    }

    /// The zone of times without an offset.
    pub(super) fn zone(&self) -> Result<Timezone, Failure> {
        match self.zone {
            Some(zone) => Ok(zone),
            None => machine_zone(self.tz_variable),
        }
    }

    /// Reads a time, which may be in the past, and prints nothing.
    pub(super) fn parse(&self, option: &str, text: &str) -> Result<Timestamp, Failure> {
        parse_datetime(text, self.zone()?, self.now.0)
            .map(Timestamp)
            .map_err(|bad| Failure::usage(format!("{option}: {bad}")))
    }

    /// Reads a time, and refuses one in the past unless `--past-ok` accepts it.
    pub(super) fn read(&self, option: &str, text: &str) -> Result<Timestamp, Failure> {
        let time = self.parse(option, text)?;
        if time <= self.now && !self.past_ok {
            let shown = format_local(time, self.zone()?);
            let away = render::relative_time(time, self.now);
            return Err(
                Failure::usage(format!("{option}: {shown} is past ({away})"))
                    .hint("--past-ok accepts it"),
            );
        }
        Ok(time)
    }

    /// Prints what was understood of an option: `at 2026-12-01 18:00 Europe/Berlin, in 3h`.
    pub(super) fn note(&self, option: &str, time: Timestamp) -> Result<(), Failure> {
        let words = option.trim_start_matches('-').replace('-', " ");
        let shown = format_local(time, self.zone()?);
        let away = render::relative_time(time, self.now);
        render::note(format_args!("{words} {shown}, {away}"));
        Ok(())
    }

    /// Prints in which zone the times of a cron expression are, if that of this machine was taken.
    pub(super) fn note_machine_zone(&self) -> Result<(), Failure> {
        if self.zone.is_none() {
            render::note(format_args!(
                "times are in {}, the time zone of this machine; --tz names another",
                self.zone()?
            ));
        }
        Ok(())
    }
}

/// A time as the clocks of a zone show it, with the zone's name: `2026-12-01 18:00 Europe/Berlin`.
fn format_local(time: Timestamp, zone: Timezone) -> String {
    // `2026-12-01T18:00:00.000+01:00`: the offset follows from the name, and seconds of 0 say nothing
    let text = zone.format(time.0);
    let clock = text.get(..19).unwrap_or(&text).replacen('T', " ", 1);
    let clock = clock.strip_suffix(":00").unwrap_or(&clock);
    format!("{clock} {zone}")
}

/// Parses the name of a time zone, for `--tz`.
pub(super) fn parse_zone(name: &str) -> Result<Timezone, Failure> {
    name.parse()
        .map_err(|bad: naq_cron::TimezoneError| Failure::usage(format!("--tz: {bad}")))
}

/// The time zone of this machine: the one that the variable `TZ` names if it is set, else the system's.
///
/// # Errors
/// Returns a usage error if the zone has no name in the IANA database: a schedule needs one.
pub(super) fn machine_zone(tz_variable: Option<&str>) -> Result<Timezone, Failure> {
    let Some(variable) = tz_variable else {
        let system = iana_time_zone::get_timezone().ok();
        let zone: Timezone = system
            .and_then(|name| name.parse().ok())
            .unwrap_or_default();
        // machines have UTC under several names
        return Ok(match stored_zone(zone) {
            None => Timezone::UTC,
            Some(_) => zone,
        });
    };
    parse_tz_variable(variable).ok_or_else(|| {
        Failure::usage(format!(
            "TZ={variable} is no name of the IANA database, such as Europe/Berlin"
        ))
        .hint("--tz ZONE names the time zone that is meant")
    })
}

/// The zone that `TZ` names: `Europe/Berlin`, `:Europe/Berlin`, or the path of its file. Empty means
/// UTC. `None` for rules of its own, such as `CET-1CEST`.
fn parse_tz_variable(value: &str) -> Option<Timezone> {
    let name = value.trim_start_matches(':');
    let name = match name.split_once("/zoneinfo/") {
        Some((_, name)) => name,
        None => name,
    };
    if name.is_empty() {
        return Some(Timezone::UTC);
    }
    name.parse().ok()
}

/// How a schedule stores a zone. `None` means UTC, which machines have under several names.
pub(super) fn stored_zone(zone: Timezone) -> Option<String> {
    match zone.name() {
        "UTC" | "Etc/UTC" | "Etc/UCT" | "Etc/Universal" | "Etc/Zulu" | "UCT" | "Universal"
        | "Zulu" => None,
        name => Some(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tz_names_a_zone_in_each_of_its_forms() {
        for value in [
            "Europe/Berlin",
            ":Europe/Berlin",
            "/usr/share/zoneinfo/Europe/Berlin",
            ":/usr/share/zoneinfo/Europe/Berlin",
        ] {
            let zone = parse_tz_variable(value).map(Timezone::name);
            assert_eq!(zone, Some("Europe/Berlin"), "{value}");
        }
        assert_eq!(parse_tz_variable(""), Some(Timezone::UTC));
        assert_eq!(parse_tz_variable("CET-1CEST,M3.5.0,M10.5.0/3"), None);
    }

    #[test]
    fn local_times_are_shown_without_empty_seconds() {
        let zone: Timezone = "Europe/Berlin".parse().unwrap();
        for (time, shown) in [
            ("2026-12-01T17:00:00Z", "2026-12-01 18:00 Europe/Berlin"),
            ("2026-12-01T17:00:07Z", "2026-12-01 18:00:07 Europe/Berlin"),
            ("2026-12-01T17:00:00.5Z", "2026-12-01 18:00 Europe/Berlin"),
        ] {
            assert_eq!(format_local(time.parse().unwrap(), zone), shown);
        }
        let utc = format_local("2026-12-01T17:00:00Z".parse().unwrap(), Timezone::UTC);
        assert_eq!(utc, "2026-12-01 17:00 UTC");
    }
}
