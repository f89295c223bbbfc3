//! The options for a schedule's ticks, shared by `schedule add`, `schedule update` and
//! `job-control`.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::exit::Failure;
use naq_cron::{Timezone, parse_datetime};
use naq_protocol::units::WireDuration;
use naq_protocol::{Misfire, Overlap, Timestamp};

/// When a schedule's ticks are, and what happens to late ones.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ScheduleOptions {
    /// Cron expression: five fields, six with seconds first, or a nickname such as @daily
    #[arg(long, value_name = "EXPR", conflicts_with = "every")]
    pub(super) cron: Option<String>,
    /// IANA time zone of the cron expression, and of times without an offset [new schedules: UTC]
    #[arg(long, value_name = "ZONE")]
    pub(super) tz: Option<String>,
    /// Time from one run to the next, such as 15s or 5m; at least 100ms
    #[arg(long, value_name = "TIME", visible_alias = "interval")]
    pub(super) every: Option<WireDuration>,
    /// Total number of jobs to enqueue; `none` removes the limit
    #[arg(long, value_name = "COUNT", value_parser = or_none::<u64>)]
    pub(super) repeat: Option<OrNone<u64>>,
    /// Time before which there is no run: RFC 3339, '2026-12-24 18:00' or 18:00; `none` removes it
    #[arg(long, value_name = "TIME", value_parser = or_none::<String>)]
    pub(super) start: Option<OrNone<String>>,
    /// Time after which there is no run; `none` removes it
    #[arg(long, value_name = "TIME", value_parser = or_none::<String>)]
    pub(super) end: Option<OrNone<String>>,
    /// Maximum random delay of each job, such as 30s; `none` removes it
    #[arg(long, value_name = "TIME", value_parser = or_none::<WireDuration>)]
    pub(super) jitter: Option<OrNone<WireDuration>>,
    /// What to do about runs that were missed while no scheduler ran: skip them, run once for all
    /// of them, or run all [new schedules: once]
    #[arg(long, value_name = "POLICY", value_parser = misfire(), help_heading = "Late and long runs")]
    pub(super) misfire: Option<Misfire>,
    /// Maximum number of missed runs to run under `all` [new schedules: 100]
    #[arg(long, value_name = "COUNT", help_heading = "Late and long runs")]
    pub(super) misfire_max: Option<u32>,
    /// Time by which a run may be late without counting as missed [new schedules: 1m]
    #[arg(long, value_name = "TIME", help_heading = "Late and long runs")]
    pub(super) misfire_grace: Option<WireDuration>,
    /// What to do about a run while the last job has not ended: allow both, skip the run, queue it,
    /// or replace the last job by it [new schedules: allow]
    #[arg(long, value_name = "POLICY", value_parser = overlap(), help_heading = "Late and long runs")]
    pub(super) overlap: Option<Overlap>,
}

/// A value, or the word `none`, which is `OrNone(None)`.
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
    PossibleValuesParser::new(["skip", "once", "all"]).try_map(|text| text.parse::<Misfire>())
}

fn overlap() -> impl TypedValueParser<Value = Overlap> {
    PossibleValuesParser::new(["allow", "skip", "queue", "replace"])
        .try_map(|text| text.parse::<Overlap>())
}

impl ScheduleOptions {
    /// The time zone of times without an offset.
    pub(super) fn zone(&self) -> Result<Timezone, Failure> {
        match &self.tz {
            Some(name) => parse_zone(name),
            None => Ok(Timezone::UTC),
        }
    }

    /// The start, read in `zone` if it has no offset. `None` if the option is absent, `Some(None)`
    /// if it is `none`.
    pub(super) fn start(
        &self,
        zone: Timezone,
        now: Timestamp,
    ) -> Result<Option<Option<Timestamp>>, Failure> {
        parse_time_or_none("--start", self.start.as_ref(), zone, now)
    }

    /// The end, in the same form as the start.
    pub(super) fn end(
        &self,
        zone: Timezone,
        now: Timestamp,
    ) -> Result<Option<Option<Timestamp>>, Failure> {
        parse_time_or_none("--end", self.end.as_ref(), zone, now)
    }
}

/// Parses the name of a time zone, for `--tz`.
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

/// Parses the time that `option` was given. A time without an offset is in `zone`.
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
