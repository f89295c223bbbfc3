//! The states of a job, and which of them can follow which.

use schemars::JsonSchema;

use crate::wire_name::{UnknownName, wire_name};

/// The state of a job.
///
/// The enum is exhaustive on purpose: a new state makes the compiler name every place that must
/// decide about it. The data of a later version cannot break a reader, since its states are read
/// as [`State::Unknown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[schemars(description = "The state of a job. A record of a later version may have another one.")]
pub enum State {
    /// Delayed until its start.
    Scheduled,
    /// In its queue.
    Queued,
    /// Blocked: it waits for other jobs, or for a slot of its concurrency key.
    Waiting,
    /// A worker runs it.
    Running,
    /// Its last attempt failed, and it will be retried.
    Retrying,
    /// Finished successfully.
    Succeeded,
    /// Finished unsuccessfully; the reason says why.
    Failed,
    /// Finished because a cancel was requested.
    Cancelled,
    /// Finished because it was not started in time.
    Expired,
    /// Rejected: its envelope never became a job.
    Rejected,
    /// A state that only a later version of naq defines.
    #[schemars(skip)]
    Unknown(UnknownName),
}

wire_name!(State, "a state", {
    Scheduled => "scheduled",
    Queued => "queued",
    Waiting => "waiting",
    Running => "running",
    Retrying => "retrying",
    Succeeded => "succeeded",
    Failed => "failed",
    Cancelled => "cancelled",
    Expired => "expired",
    Rejected => "rejected",
});

impl State {
    /// Every known state, in the order of a job's life.
    pub const ALL: [State; 10] = [
        State::Scheduled,
        State::Queued,
        State::Waiting,
        State::Running,
        State::Retrying,
        State::Succeeded,
        State::Failed,
        State::Cancelled,
        State::Expired,
        State::Rejected,
    ];

    /// Whether the job has finished. An unknown state counts as unfinished, so that nothing is
    /// deleted because of it.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        match self {
            State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired
            | State::Rejected => true,
            State::Scheduled
            | State::Queued
            | State::Waiting
            | State::Running
            | State::Retrying
            | State::Unknown(_) => false,
        }
    }

    /// Whether the job has finished, and not successfully.
    #[must_use]
    pub fn is_unsuccessful(self) -> bool {
        self.is_terminal() && self != State::Succeeded
    }

    /// Whether a record in this state may be replaced by one in the state `next`. Every record may
    /// be written again in its own state, for example with a checkpoint or a cancel request.
    ///
    /// ```
    /// use naq_protocol::State;
    ///
    /// assert!(State::Running.can_become(State::Retrying));
    /// assert!(!State::Succeeded.can_become(State::Running));
    /// ```
    #[must_use]
    pub fn can_become(self, next: State) -> bool {
        use State::{
            Cancelled, Expired, Failed, Queued, Rejected, Retrying, Running, Scheduled, Succeeded,
            Unknown, Waiting,
        };
        if self == next {
            return true;
        }
        match self {
            // Not started: it may start, be blocked, or finish without an attempt.
            Scheduled => matches!(
                next,
                Queued | Waiting | Running | Failed | Cancelled | Expired | Rejected
            ),
            // A suspect that cannot run alone yet is tried again later.
            Queued => matches!(
                next,
                Waiting | Running | Retrying | Failed | Cancelled | Expired | Rejected
            ),
            // A rerouted job is queued again.
            Waiting => matches!(
                next,
                Queued | Running | Retrying | Failed | Cancelled | Expired
            ),
            // After a crash, the next delivery may find no free slot and block the job.
            Running => matches!(
                next,
                Queued | Waiting | Retrying | Succeeded | Failed | Cancelled
            ),
            Retrying => matches!(next, Queued | Waiting | Running | Failed | Cancelled),
            Succeeded | Failed | Cancelled | Expired | Rejected => false,
            // Only the version that defines the state knows what follows it.
            Unknown(_) => false,
        }
    }
}

/// A change of state that [`State::can_become`] rules out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {from} cannot become {to}")]
pub struct IllegalTransition {
    pub(crate) from: State,
    pub(crate) to: State,
}

/// Why a job finished as it did, or why its last attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The exit code of the attempt.
    Exit,
    /// A signal that naq did not send.
    Signal,
    /// The attempt exceeded its timeout.
    Timeout,
    /// The attempt exceeded its memory limit.
    Oom,
    /// The attempt used up its CPU time limit.
    CpuTime,
    /// The attempt wrote a file up to its file size limit.
    FileSize,
    /// The program could not be started.
    Spawn,
    /// A dependency did not finish as its condition requires.
    Dependency,
    /// Workers crashed too often during the job.
    Crashed,
    /// The job has no worker, no message and no envelope: nothing can run it again.
    Lost,
    /// The output does not follow the rules that the envelope sets.
    Output,
    /// The attempt has ended, but NATS can never store its outcome: it does not fit a message.
    Unstorable,
    /// The bytes are not a well-formed envelope.
    Invalid,
    /// The envelope has a later version than the worker supports.
    UnsupportedVersion,
    /// The worker's policy does not allow the job.
    NotAllowed,
    /// A cancel was requested.
    Cancelled,
    /// A reason that only a later version of naq defines.
    #[schemars(skip)]
    Unknown(UnknownName),
}

wire_name!(Reason, "a reason", {
    Exit => "exit",
    Signal => "signal",
    Timeout => "timeout",
    Oom => "oom",
    CpuTime => "cpu_time",
    FileSize => "file_size",
    Spawn => "spawn",
    Dependency => "dependency",
    Crashed => "crashed",
    Lost => "lost",
    Output => "output",
    Unstorable => "unstorable",
    Invalid => "invalid",
    UnsupportedVersion => "unsupported_version",
    NotAllowed => "not_allowed",
    Cancelled => "cancelled",
});

impl From<crate::error::RejectReason> for Reason {
    fn from(reason: crate::error::RejectReason) -> Reason {
        match reason {
            crate::error::RejectReason::Invalid => Reason::Invalid,
            crate::error::RejectReason::UnsupportedVersion => Reason::UnsupportedVersion,
            crate::error::RejectReason::NotAllowed => Reason::NotAllowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_names_read_back() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
            let json = serde_json::Value::String(state.to_string());
            assert_eq!(serde_json::from_value::<State>(json).unwrap(), state);
        }
    }

    #[test]
    fn unknown_state_is_shown_and_written_back() {
        let state: State = serde_json::from_str("\"suspended\"").unwrap();
        assert!(matches!(state, State::Unknown(_)) && !state.is_terminal());
        assert_eq!(State::from_name("suspended"), state);
        assert_eq!(state.to_string(), "suspended");
        assert_eq!(serde_json::to_string(&state).unwrap(), "\"suspended\"");
        assert!("suspended".parse::<State>().is_err());
        let hostile: Reason = serde_json::from_str("\"a\\u001b[31m\"").unwrap();
        assert_eq!(hostile.to_string(), "a\\u{1b}[31m");
    }

    #[test]
    fn terminal_state_cannot_become_another() {
        for state in State::ALL {
            assert!(state.can_become(state));
            for next in State::ALL {
                let leaves_terminal = state.is_terminal() && next != state;
                assert!(
                    !(leaves_terminal && state.can_become(next)),
                    "{state} {next}"
                );
            }
            let can_finish = State::ALL
                .into_iter()
                .any(|next| next.is_terminal() && state.can_become(next));
            assert!(can_finish, "{state}");
        }
    }
}
