//! When a job is to begin: `--in`, `--at`, `--tz`.

use crate::cli::exit::Failure;
use crate::cli::render;
use naq_client::ClientError;
use naq_core::{StartDelay, delay_for, delay_until};
use naq_cron::{Timezone, parse_datetime};
use naq_protocol::Timestamp;
use naq_protocol::units::WireDuration;

#[derive(Debug, clap::Args)]
pub(super) struct DelayOptions {
    /// Begin after this long: 90s, 5m, 2h. The server holds the job: nothing of naq needs to run
    /// until then, and what comes due while the server is down begins when it is back
    #[arg(
        long = "in",
        value_name = "TIME",
        conflicts_with = "at",
        help_heading = "Start"
    )]
    delay: Option<WireDuration>,
    /// Begin at this time: 2026-12-24T18:00:00+01:00, '2026-12-24 18:00', or 18:00 for the next
    /// one. At once where it has passed
    #[arg(long, value_name = "TIME", help_heading = "Start")]
    at: Option<String>,
    /// The time zone of --at where it names none, such as Europe/Berlin [default: UTC]
    #[arg(
        long = "tz",
        value_name = "ZONE",
        requires = "at",
        help_heading = "Start"
    )]
    zone: Option<Timezone>,
}

/// When jobs are to begin.
#[derive(Clone, Copy, Debug)]
pub(super) enum Delay {
    At(Timestamp),
    In(WireDuration),
}

impl DelayOptions {
    /// When jobs are to begin; none for at once.
    pub(super) fn read(&self) -> Result<Option<Delay>, Failure> {
        if let Some(delay) = self.delay {
            return Ok(Some(Delay::In(delay)));
        }
        let Some(text) = &self.at else {
            return Ok(None);
        };
        let zone = self.zone.unwrap_or_default();
        parse_datetime(text, zone, render::now().0)
            .map(|moment| Some(Delay::At(Timestamp(moment))))
            .map_err(|error| Failure::usage(format!("--at: {error}")))
    }
}

impl Delay {
    /// When a job that is enqueued now, and expires then if it does, is to begin.
    pub(super) fn resolve(self, expires_at: Option<Timestamp>) -> Result<StartDelay, Failure> {
        let now = render::now();
        let start = match self {
            Delay::At(due) => delay_until(due, expires_at, now),
            Delay::In(wait) => delay_for(wait.0, expires_at, now),
        };
        start.map_err(|bad| ClientError::InvalidDueTime(bad).into())
    }
}

/// Says when a job begins, for people.
pub(super) fn print_delay(start: &StartDelay) {
    let due = start.due;
    if start.is_due {
        render::note(format_args!("{due} has passed; enqueued at once"));
        return;
    }
    let wait = (due.0 - render::now().0).to_std().unwrap_or_default();
    render::note(format_args!(
        "delayed until {due}, in {}",
        render::span(wait)
    ));
}
