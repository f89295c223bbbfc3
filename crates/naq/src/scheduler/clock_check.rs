//! Whether the clock of this machine can be trusted with schedules: it is compared with the server's,
//! and watched for jumps in between.

use std::time::Duration;

use super::status::SchedulerStatus;
use crate::clock::{self, BootInstant};
use naq_core::ClockSkew;
use naq_jetstream::{Broker, BrokerError};
use naq_protocol::{SchedulerState, Timestamp};

/// Time between two comparisons with the server's clock.
pub(super) const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Pause between two comparisons while the clock is off.
const RECHECK_PAUSE: Duration = Duration::from_secs(1);

/// Time between two lines of the log about a clock that is off.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// By how much the wall clock may move against the time since boot until it counts as set. Less than
/// this is the daily work of NTP.
const JUMP_MS_MIN: i64 = 500;

/// Measures how far the clock is from the server's, by one request.
///
/// # Errors
/// Returns the broker's error if the server does not answer or refuses.
pub(super) async fn measure(broker: &Broker) -> Result<ClockSkew, BrokerError> {
    let (asked_at, since) = (clock::now(), BootInstant::now());
    let server = broker.server_time().await?;
    Ok(ClockSkew::new(asked_at, server, since.elapsed()))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// How far the clock is from the server's, if that is too far for a leader. A server that cannot be
/// asked makes no difference: it cannot be led either.
pub(super) async fn excessive_skew(broker: &Broker) -> Option<ClockSkew> {
    match measure(broker).await {
        Ok(skew) => Some(skew).filter(|skew| skew.is_excessive()),
        Err(error) => {
            tracing::warn!("cannot compare the clock with the server's: {error}");
            None
        }
    }
}

/// Waits until the clock is right. Logs once a minute why it waits.
pub(super) async fn wait_for_right_clock(broker: &Broker, status: &SchedulerStatus) {
    let mut logged_at: Option<BootInstant> = None;
    while let Some(skew) = excessive_skew(broker).await {
        status.set(SchedulerState::ClockOff);
        if logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            tracing::error!("the clock is {skew}: this scheduler waits until it is right");
            logged_at = Some(BootInstant::now());
        }
        tokio::time::sleep(RECHECK_PAUSE).await;
    }
    if logged_at.is_some() {
        tracing::info!("the clock is right again");
    }
}

/// The wall clock against the time since boot, which nobody can set.
#[derive(Clone, Copy, Debug)]
pub(super) struct WallClock {
    wall: Timestamp,
    boot: BootInstant,
}

impl WallClock {
    pub(super) fn now() -> WallClock {
        WallClock {
            wall: clock::now(),
            boot: BootInstant::now(),
        }
    }

    /// The time since then.
    pub(super) fn elapsed(self) -> Duration {
        self.boot.elapsed()
    }

    /// What the wall clock would show now if it had not been set since then.
    pub(super) fn expected_now(self) -> Timestamp {
        clock::saturating_add(self.wall, self.elapsed())
    }

    /// Whether the wall clock was set since then.
    pub(super) fn was_set(self) -> bool {
        let now = WallClock::now();
        let wall_ms = now.wall.unix_ms() - self.wall.unix_ms();
        let boot_ms = millis(now.boot.duration_since(self.boot));
        (wall_ms - boot_ms).abs() >= JUMP_MS_MIN
    }
}
