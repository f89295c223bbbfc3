//! When a job is to begin: `--in`, `--at`, `--tz`.

use crate::cli::exit::Failure;
use crate::cli::render;
use naq_client::ClientError;
use naq_core::{StartTime, start_at, start_in};
use naq_cron::{Zone, parse_datetime};
use naq_protocol::Timestamp;
use naq_protocol::units::Span;

#[derive(Debug, clap::Args)]
pub(super) struct StartOptions {
    /// Begin after this long: 90s, 5m, 2h. The server holds the job: nothing of naq needs to run
    /// until then, and what comes due while the server is down begins when it is back
    #[arg(
        long = "in",
        value_name = "TIME",
        conflicts_with = "at",
        help_heading = "Start"
    )]
    delay: Option<Span>,
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
    zone: Option<Zone>,
}

/// When jobs are to begin.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    At(Timestamp),
    In(Span),
}

impl StartOptions {
    /// When jobs are to begin; none for at once.
    pub(super) fn read(&self) -> Result<Option<Start>, Failure> {
        if let Some(delay) = self.delay {
            return Ok(Some(Start::In(delay)));
        }
        let Some(text) = &self.at else {
            return Ok(None);
        };
        let zone = self.zone.unwrap_or_default();
        parse_datetime(text, zone, render::now().0)
            .map(|moment| Some(Start::At(Timestamp(moment))))
            .map_err(|error| Failure::usage(format!("--at: {error}")))
    }
}

impl Start {
    /// When a job that is enqueued now, and expires then if it does, is to begin.
    pub(super) fn of(self, expires_at: Option<Timestamp>) -> Result<StartTime, Failure> {
        let now = render::now();
        let start = match self {
            Start::At(due) => start_at(due, expires_at, now),
            Start::In(wait) => start_in(wait.0, expires_at, now),
        };
        start.map_err(|bad| ClientError::Start(bad).into())
    }
}

/// Says when a job begins, for people.
pub(super) fn tell(start: &StartTime) {
    let due = start.due;
    if start.has_come {
        render::note(format_args!("naq: {due} has passed: enqueued at once"));
        return;
    }
    let wait = (due.0 - render::now().0).to_std().unwrap_or_default();
    render::note(format_args!(
        "naq: held until {due}, in {}",
        render::span(wait)
    ));
}
