//! When the server stored a job, its claim and its outcome.

use crate::cli::exit::Failure;
use naq_client::JobEvents;
use naq_protocol::{JobId, State, Timestamp};

/// Times of one job in nanoseconds since the Unix epoch, by one clock: everything runs on this machine, or
/// the hops between machines mean nothing.
pub(super) struct JobTimes {
    /// When the server stored the job, the claim and the outcome.
    pub(super) stored: Option<i64>,
    pub(super) claimed: Option<i64>,
    pub(super) recorded: Option<i64>,
    /// When the program ran.
    pub(super) ran: Option<i64>,
}

impl JobTimes {
    /// Follows a job to its end. When its program ran is not known by that.
    pub(super) async fn read(events: &mut JobEvents, job: &JobId) -> Result<JobTimes, Failure> {
        let mut times = JobTimes {
            stored: None,
            claimed: None,
            recorded: None,
            ran: None,
        };
        loop {
            let Some(event) = events.next().await? else {
                return Err(Failure::general("the connection to NATS was lost"));
            };
            if event.record.job_id != *job {
                continue;
            }
            let at = nanoseconds(event.time);
            match event.record.state {
                State::Queued => times.stored = at,
                State::Running => times.claimed = at,
                state if state.is_terminal() => {
                    times.recorded = at;
                    return Ok(times);
                }
                _ => {}
            }
        }
    }
}

/// A span in milliseconds. `None` if one of its ends is not known.
pub(super) fn between_ms(from: Option<i64>, to: Option<i64>) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a time of milliseconds")]
    let milliseconds = (to? - from?) as f64 / 1e6;
    Some(milliseconds)
}

fn nanoseconds(time: Timestamp) -> Option<i64> {
    time.0.timestamp_nanos_opt()
}
