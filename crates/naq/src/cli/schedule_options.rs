//! The options that say when a schedule's ticks are, shared by `schedule` and `job-control`.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::exit::Failure;
use naq_cron::{Timezone, parse_datetime};
use naq_protocol::units::WireDuration;
use naq_protocol::{Misfire, Overlap, Timestamp};

/// When a schedule's ticks are, and what becomes of some of them.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ScheduleOptions {
    /// A cron expression of five fields, of six with seconds first, or @daily and the like
    #[arg(long, value_name = "EXPR", conflicts_with = "every")]
    pub(super) cron: Option<String>,
    /// The IANA time zone of the cron expression, and of times that name none [a new schedule: UTC]
    #[arg(long, value_name = "ZONE")]
    pub(super) tz: Option<String>,
    /// The time from one run to the next, 100ms at the least: 15s, 5m
    #[arg(long, value_name = "TIME", visible_alias = "interval")]
    pub(super) every: Option<WireDuration>,
    /// How many jobs to make in all; none for no end
    #[arg(long, value_name = "COUNT", value_parser = or_none::<u64>)]
    pub(super) repeat: Option<OrNone<u64>>,
    /// No run before this: RFC 3339, '2026-12-24 18:00' or 18:00
    #[arg(long, value_name = "TIME", value_parser = or_none::<String>)]
    pub(super) start: Option<OrNone<String>>,
    /// No run after this
    #[arg(long, value_name = "TIME", value_parser = or_none::<String>)]
    pub(super) end: Option<OrNone<String>>,
    /// Enqueue each job later by up to so much, drawn anew each time
    #[arg(long, value_name = "TIME", value_parser = or_none::<WireDuration>)]
    pub(super) jitter: Option<OrNone<WireDuration>>,
    /// What becomes of runs that no scheduler was there for: none, the last one, or all
    /// [a new schedule: once]
    #[arg(long, value_name = "POLICY", value_parser = misfire(), help_heading = "Late and long runs")]
    pub(super) misfire: Option<Misfire>,
    /// How many late runs to make up for at the most, under `all` [a new schedule: 100]
    #[arg(long, value_name = "COUNT", help_heading = "Late and long runs")]
    pub(super) misfire_max: Option<u32>,
    /// How late a run may be and still be on time [a new schedule: 1m]
    #[arg(long, value_name = "TIME", help_heading = "Late and long runs")]
    pub(super) misfire_grace: Option<WireDuration>,
    /// What becomes of a run while the last job has not ended: run both, leave it out, wait, or
    /// cancel the last job [a new schedule: allow]
    #[arg(long, value_name = "POLICY", value_parser = overlap(), help_heading = "Late and long runs")]
    pub(super) overlap: Option<Overlap>,
}

/// A value, or `none`.
#[derive(Clone, Debug)]
pub(super) struct OrNone<T>(pub(super) Option<T>);

fn or_none<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<OrNone<T>, String> {
    match text {
        "none" => Ok(OrNone(None)),
        text => match text.parse() {
            Ok(value) => Ok(OrNone(Some(value))),
            Err(error) => Err(error.to_string()),
        },
    }
}

fn misfire() -> impl TypedValueParser<Value = Misfire> {
    PossibleValuesParser::new(["skip", "once", "all"]).map(|text| match text.as_str() {
        "skip" => Misfire::Skip,
        "all" => Misfire::All,
        _ => Misfire::Once,
    })
}

fn overlap() -> impl TypedValueParser<Value = Overlap> {
    PossibleValuesParser::new(["allow", "skip", "queue", "replace"]).map(|text| {
        match text.as_str() {
            "skip" => Overlap::Skip,
            "queue" => Overlap::Queue,
            "replace" => Overlap::Replace,
            _ => Overlap::Allow,
        }
    })
}

impl ScheduleOptions {
    /// The zone of times that name none.
    pub(super) fn zone(&self) -> Result<Timezone, Failure> {
        match &self.tz {
            Some(name) => parse_zone(name),
            None => Ok(Timezone::UTC),
        }
    }

    /// The start, where one is given, read by the clocks of a zone.
    pub(super) fn start(
        &self,
        zone: Timezone,
        now: Timestamp,
    ) -> Result<Option<Option<Timestamp>>, Failure> {
        parse_time_or_none("--start", self.start.as_ref(), zone, now)
    }

    /// The end, in the same way.
    pub(super) fn end(
        &self,
        zone: Timezone,
        now: Timestamp,
    ) -> Result<Option<Option<Timestamp>>, Failure> {
        parse_time_or_none("--end", self.end.as_ref(), zone, now)
    }
}

/// A zone by its name.
pub(super) fn parse_zone(name: &str) -> Result<Timezone, Failure> {
    name.parse()
        .map_err(|bad: naq_cron::TimezoneError| Failure::usage(format!("--tz: {bad}")))
}

fn parse_time_or_none(
    option: &str,
    text: Option<&OrNone<String>>,
    zone: Timezone,
    now: Timestamp,
) -> Result<Option<Option<Timestamp>>, Failure> {
    match text {
        None => Ok(None),
        Some(OrNone(None)) => Ok(Some(None)),
        Some(OrNone(Some(text))) => {
            parse_time(option, text, zone, now).map(|time| Some(Some(time)))
        }
    }
}

/// A time as somebody has written it.
pub(super) fn parse_time(
    option: &str,
    text: &str,
    zone: Timezone,
    now: Timestamp,
) -> Result<Timestamp, Failure> {
    parse_datetime(text, zone, now.0)
        .map(Timestamp)
        .map_err(|bad| Failure::usage(format!("{option}: {bad}")))
}
