//! The options for a schedule's ticks, shared by `schedule add`, `schedule update` and
//! `job-control`.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::exit::Failure;
use super::times::TimeReader;
use naq_protocol::units::WireDuration;
use naq_protocol::{Misfire, Overlap, Timestamp};

/// When a schedule's ticks are, and what happens to late ones.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ScheduleOptions {
    /// Cron expression: five fields, six with seconds first, or a nickname such as @daily
    #[arg(long, value_name = "EXPR", conflicts_with = "every")]
    pub(super) cron: Option<String>,
    /// IANA time zone of the cron expression, and of times without an offset [new schedules: this
    /// machine's]
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
    /// The start. `None` if the option is absent, `Some(None)` if it is `none`.
    pub(super) fn start(
        &self,
        times: &TimeReader<'_>,
    ) -> Result<Option<Option<Timestamp>>, Failure> {
        time_or_none(self.start.as_ref(), |text| {
            let time = times.read("--start", text)?;
            times.note("--start", time)?;
            Ok(time)
        })
    }

    /// The end, in the same form as the start. One that is past is refused later, whatever
    /// `--past-ok` says: nothing would run.
    pub(super) fn end(&self, times: &TimeReader<'_>) -> Result<Option<Option<Timestamp>>, Failure> {
        time_or_none(self.end.as_ref(), |text| {
            let time = times.parse("--end", text)?;
            times.note("--end", time)?;
            Ok(time)
        })
    }

    /// Parses the times, to find a typing error before a server is asked for the schedule's zone.
    pub(super) fn check_times(&self, times: &TimeReader<'_>) -> Result<(), Failure> {
        for (option, text) in [("--start", &self.start), ("--end", &self.end)] {
            if let Some(OrNone(Some(text))) = text {
                times.parse(option, text)?;
            }
        }
        Ok(())
    }
}

fn time_or_none(
    text: Option<&OrNone<String>>,
    read: impl Fn(&str) -> Result<Timestamp, Failure>,
) -> Result<Option<Option<Timestamp>>, Failure> {
    match text {
        None => Ok(None),
        Some(OrNone(None)) => Ok(Some(None)),
        Some(OrNone(Some(text))) => Ok(Some(Some(read(text)?))),
    }
}
