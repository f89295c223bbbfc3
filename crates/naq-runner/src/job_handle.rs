//! The handle of a started job: waiting for it, and stopping it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::boot_instant::BootInstant;
use super::completion::{Completion, StopReason};
use super::control::ControlMessage;
use super::job::{Job, JobState, Phase};
use super::pool::Pool;

/// A job that was started. Dropping the handle before the job is over kills it.
#[derive(Debug)]
pub struct JobHandle {
    pub(super) pool: Arc<Pool>,
    pub(super) job: Arc<Job>,
    /// The warm process that runs the job. `None` if the job is a process of its own.
    pub(super) warm: Option<Arc<Job>>,
}

impl JobHandle {
    /// Waits until the job is over: its first process has ended and its process
    /// tree is gone. Cancel safe. Only one call returns the completion; a second
    /// one never returns.
    pub async fn wait(&self) -> Completion {
        self.wait_until(|state| {
            if !matches!(state.phase, Phase::Done(_)) {
                return None;
            }
            match std::mem::replace(&mut state.phase, Phase::Collected) {
                Phase::Done(ended) => Some(*ended),
                _ => None,
            }
        })
        .await
    }

    /// Waits until the job runs or is over, and returns when it started; `None` if
    /// it never did. A start is reported some milliseconds late, since most short
    /// jobs are over by then.
    pub async fn wait_started(&self) -> Option<SystemTime> {
        self.wait_until(|state| match state.phase {
            Phase::Done(_) | Phase::Collected => Some(state.started),
            _ => state.started.map(Some),
        })
        .await
    }

    /// Returns the next control message; `None` when the job is over. Messages that
    /// are left by then are in [`Completion::control`]. Cancel safe.
    pub async fn next_control_message(&self) -> Option<ControlMessage> {
        self.wait_until(|state| match state.phase {
            Phase::Done(_) | Phase::Collected => Some(None),
            _ => state.control.pop().map(Some),
        })
        .await
    }

    /// Stops the job: TERM to its process tree, KILL after its grace. For
    /// [`StopReason::LeaseLost`] and [`StopReason::Abandoned`], KILL at once.
    pub fn stop(&self, why: StopReason) {
        match why {
            StopReason::LeaseLost | StopReason::Abandoned => self.kill(why),
            StopReason::Cancel | StopReason::Drain => {
                self.signal(why, Some(self.job.kill_grace));
            }
        }
    }

    /// Stops the process of the job, which for a job in a warm process is that one, unless the job is over: the
    /// process may run another one by then.
    fn signal(&self, why: StopReason, grace: Option<Duration>) {
        match &self.warm {
            None => self.pool.stop(&self.job, why, grace),
            Some(_) if self.is_over() => {}
            Some(process) => {
                self.job.lock().stop.get_or_insert(why);
                self.pool.signal(process.id, grace);
            }
        }
    }

    /// Whether the job is over.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.job.lock().phase, Phase::Done(_) | Phase::Collected)
    }

    /// Waits until the job is over, and leaves its completion to [`JobHandle::wait`]. Cancel safe.
    pub(super) async fn wait_over(&self) {
        self.wait_until(|state| {
            matches!(state.phase, Phase::Done(_) | Phase::Collected).then_some(())
        })
        .await;
    }

    /// Waits until the spawner has removed what the last job of this warm process has left. Returns the
    /// flags of that job; `None` if the process is over.
    pub(super) async fn wait_swept(&self) -> Option<u8> {
        self.wait_until(|state| match state.phase {
            Phase::Done(_) | Phase::Collected => Some(None),
            _ => state.swept.take().map(Some),
        })
        .await
    }

    /// Takes the job back if it has not started: it is then over, [withdrawn](super::StopCause::Withdrawn). A job that
    /// has started continues.
    pub fn withdraw(&self) {
        if self.warm.is_none() {
            self.pool.withdraw(&self.job);
        }
    }

    /// Sends KILL to the whole process tree at once.
    pub fn kill(&self, why: StopReason) {
        self.signal(why, None);
    }

    /// Sets when the job's spawner kills it without a grace. The spawner does so although this
    /// process may be stopped or blocked by then.
    pub fn set_deadline(&self, deadline: BootInstant) {
        match &self.warm {
            None => self.pool.set_deadline(&self.job, deadline),
            Some(_) if self.is_over() => {}
            Some(process) => {
                self.job.lock().deadline = Some(deadline);
                self.pool.set_deadline(process, deadline);
            }
        }
    }

    async fn wait_until<T>(&self, mut ready: impl FnMut(&mut JobState) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.job.changed.notified());
            changed.as_mut().enable();
            if let Some(value) = ready(&mut self.job.lock()) {
                return value;
            }
            changed.await;
        }
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        if !self.is_over() {
            self.kill(StopReason::Abandoned);
        }
    }
}
