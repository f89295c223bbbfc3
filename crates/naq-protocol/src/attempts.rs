//! The attempts of a job, as far as its record lists them.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{Reason, Record, ResourceUsage, State, Timestamp};

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AttemptOutcome {
    /// It has not ended.
    Running,
    /// The job has succeeded.
    Succeeded,
    /// It failed. The job was retried, or has failed.
    Failed,
    /// A cancel ended it.
    Cancelled,
    /// Its worker or spawner process crashed. The crash is no failure of the job.
    Crashed,
    /// Its worker gave the lease up during an outage of NATS.
    LostLease,
}

impl AttemptOutcome {
    /// The outcome, for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            AttemptOutcome::Running => "running",
            AttemptOutcome::Succeeded => "succeeded",
            AttemptOutcome::Failed => "failed",
            AttemptOutcome::Cancelled => "cancelled",
            AttemptOutcome::Crashed => "worker crashed",
            AttemptOutcome::LostLease => "lease lost",
        }
    }
}

/// An attempt of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Attempt {
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The worker that ran it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    /// When it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended. After a crash or a lost lease, when a worker noticed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The exit code of its first process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that killed its first process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The resources that it used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<ResourceUsage>,
    /// The end of its standard output, as text. Absent for the last attempt, whose whole output is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout_tail: Option<String>,
    /// The end of its standard error, as text. Absent for the last attempt, whose whole output is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr_tail: Option<String>,
}

impl Attempt {
    fn new(attempt: u32, outcome: AttemptOutcome) -> Attempt {
        Attempt {
            attempt,
            outcome,
            reason: None,
            worker_id: None,
            started_at: None,
            ended_at: None,
            exit_code: None,
            signal: None,
            error: None,
            usage: None,
            stdout_tail: None,
            stderr_tail: None,
        }
    }
}

impl Record {
    /// The attempts that the record lists, oldest first: those that failed and were retried, those that were
    /// interrupted, and the current or last one. A record lists at most 16 of the first two kinds each, so
    /// the first number may be more than 1.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        let failed = self.failed_attempts.iter().map(|one| Attempt {
            reason: Some(one.reason),
            worker_id: one.worker_id.clone(),
            started_at: one.started_at,
            ended_at: Some(one.ended_at),
            exit_code: one.exit_code,
            signal: one.signal,
            error: one.error.clone(),
            usage: one.usage.clone(),
            stdout_tail: one.stdout_tail.clone(),
            stderr_tail: one.stderr_tail.clone(),
            ..Attempt::new(one.attempt, AttemptOutcome::Failed)
        });
        let interrupted = self.interruptions.iter().filter_map(|one| {
            let outcome = match one.crashed {
                true => AttemptOutcome::Crashed,
                false => AttemptOutcome::LostLease,
            };
            Some(Attempt {
                worker_id: Some(one.worker_id.clone()),
                started_at: one.started_at,
                ended_at: Some(one.at),
                ..Attempt::new(one.attempt?, outcome)
            })
        });
        let mut attempts: Vec<Attempt> = failed.chain(interrupted).collect();
        attempts.sort_by_key(|one| one.attempt);
        let is_listed = attempts.iter().any(|one| one.attempt == self.attempt);
        if let Some(last) = self.last_attempt()
            && !is_listed
        {
            attempts.push(last);
        }
        attempts
    }

    /// The attempt that the record's own fields describe.
    fn last_attempt(&self) -> Option<Attempt> {
        if self.attempt == 0 {
            return None;
        }
        let outcome = match self.state() {
            State::Running => AttemptOutcome::Running,
            State::Succeeded => AttemptOutcome::Succeeded,
            State::Failed | State::Retrying => AttemptOutcome::Failed,
            State::Cancelled => AttemptOutcome::Cancelled,
            _ => return None,
        };
        Some(Attempt {
            reason: self.reason(),
            worker_id: self.worker_id.clone(),
            started_at: self.started_at,
            ended_at: self.finished_at(),
            exit_code: self.exit_code,
            signal: self.signal,
            error: self.error.clone(),
            usage: self.usage.clone(),
            ..Attempt::new(self.attempt, outcome)
        })
    }
}
