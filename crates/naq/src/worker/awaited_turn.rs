//! The turn of a job that may wait at its spawner.

use naq_runner::{Command, JobHandle};
use tokio::time::Instant;

use super::claim_ahead::WAIT_MAX;

/// Whether the turn of a job has come that was sent to the runner.
pub(super) struct AwaitedTurn {
    /// Whether it is not known to have started.
    is_awaited: bool,
    /// When the job is withdrawn. `None` once it was.
    withdraw_at: Option<Instant>,
}

impl AwaitedTurn {
    /// The turn of a job that is about to be sent.
    pub(super) fn of(command: &Command) -> AwaitedTurn {
        AwaitedTurn {
            is_awaited: command.waits,
            withdraw_at: Some(Instant::now() + WAIT_MAX),
        }
    }

    /// Whether it is not known to have come.
    pub(super) fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// Waits until the job has started, and withdraws it if that takes too long. A job that is over without a start
    /// never gets its turn. Cancel safe.
    pub(super) async fn come(&mut self, handle: &JobHandle) {
        if let Some(withdraw_at) = self.withdraw_at {
            tokio::select! {
                Some(_) = handle.wait_started() => {
                    self.is_awaited = false;
                    return;
                }
                () = tokio::time::sleep_until(withdraw_at) => {
                    handle.withdraw();
                    self.withdraw_at = None;
                }
            }
        }
        if handle.wait_started().await.is_some() {
            self.is_awaited = false;
        } else {
            std::future::pending::<()>().await;
        }
    }
}
