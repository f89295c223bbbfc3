//! When a job starts: `--in`, `--at`, `--tz`.

use crate::cli::exit::Failure;
use crate::cli::render;
use crate::cli::times::TimeReader;
use naq_client::ClientError;
use naq_core::{StartDelay, delay_for, delay_until};
use naq_protocol::units::WireDuration;
use naq_protocol::{JobRequest, Timestamp};

#[derive(Debug, clap::Args)]
pub(super) struct DelayOptions {
    /// Delay before the job starts: 90s, 5m, 2h
    ///
    /// The server stores the delayed job: no part of naq needs to run until then, and a job that
    /// becomes due while the server is down starts when it is back.
    #[arg(
        long = "in",
        value_name = "TIME",
        conflicts_with = "at",
        help_heading = "Start"
    )]
    delay: Option<WireDuration>,
    /// Time at which the job starts: 2026-12-24T18:00:00+01:00, '2026-12-24 18:00', or 18:00 for
    /// the next one
    #[arg(long, value_name = "TIME", help_heading = "Start")]
    at: Option<String>,
    /// Time zone of --at and --expires-at without an offset, such as Europe/Berlin [default: this
    /// machine's]
    #[arg(long, value_name = "ZONE", help_heading = "Start")]
    pub(super) tz: Option<String>,
}

/// When jobs start.
#[derive(Clone, Copy, Debug)]
pub(super) enum Delay {
    At(Timestamp),
    In(WireDuration),
}

impl DelayOptions {
    /// When jobs start. `None` means now.
    pub(super) fn read(&self, times: &TimeReader<'_>) -> Result<Option<Delay>, Failure> {
        if let Some(delay) = self.delay {
            return Ok(Some(Delay::In(delay)));
        }
        let Some(text) = &self.at else {
            return Ok(None);
        };
        Ok(Some(Delay::At(times.read("--at", text)?)))
    }
}

impl Delay {
    /// Puts the delay into the request of a job to its worker, which resolves it.
    pub(super) fn set_in(self, request: &mut JobRequest) {
        match self {
            Delay::At(due) => request.at = Some(due),
            Delay::In(wait) => request.delay = Some(wait),
        }
    }

    /// When a job starts that is enqueued now. `expires_at` is the job's own, which its start must
    /// not be later than.
    pub(super) fn resolve(self, expires_at: Option<Timestamp>) -> Result<StartDelay, Failure> {
        let now = render::now();
        let start = match self {
            Delay::At(due) => delay_until(due, expires_at, now),
            Delay::In(wait) => delay_for(wait.0, expires_at, now),
        };
        start.map_err(|bad| ClientError::InvalidDueTime(bad).into())
    }
}

/// Prints when a job starts, for people.
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
