//! The typed form of a record's state: each phase with the fields that belong to it alone.
//!
//! On the wire a record is flat, so any field could appear with any state. In the program the
//! fields that belong to a state are private, and only [`Record::set_phase`] sets them: it clears
//! the fields of all other states. A new state needs a new [`Phase`], and the compiler then names
//! every place that must decide about it.

use crate::error::RejectReason;
use crate::names::{JobId, QueueName};
use crate::record::{BlockedOn, Lease, Record};
use crate::state::{IllegalTransition, Reason, State};
use crate::time::Timestamp;
use crate::wire_name::UnknownName;

/// A job's state, with the fields of the record that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Delayed.
    Scheduled {
        /// When the job starts. `None` if it is paused or delayed by a rule other than a time.
        due: Option<Timestamp>,
    },
    /// In its queue.
    Queued,
    /// Blocked on dependencies or a concurrency slot.
    Blocked {
        /// What the job waits for.
        waits: BlockedOn,
    },
    /// A worker runs the job.
    Running {
        /// The worker's lease.
        lease: Lease,
        /// When the attempt started.
        started_at: Timestamp,
    },
    /// The job waits for its next attempt.
    Retrying {
        /// Why the last attempt failed.
        reason: Reason,
        /// When the last attempt ended.
        finished_at: Timestamp,
        /// When the next attempt may start.
        next_attempt_at: Timestamp,
    },
    /// The job has finished.
    Finished {
        /// How it finished.
        outcome: Outcome,
        /// When it finished.
        finished_at: Timestamp,
    },
    /// A state that only a later version of naq defines.
    Unknown(UnknownName),
}

/// How a job finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Successfully.
    Succeeded,
    /// Unsuccessfully, for this reason.
    Failed(Reason),
    /// By a cancel request.
    Cancelled,
    /// Without a start before it expired.
    Expired,
    /// Without having become a job.
    Rejected(RejectReason),
}

impl Outcome {
    /// The terminal state.
    #[must_use]
    pub fn state(self) -> State {
        match self {
            Outcome::Succeeded => State::Succeeded,
            Outcome::Failed(_) => State::Failed,
            Outcome::Cancelled => State::Cancelled,
            Outcome::Expired => State::Expired,
            Outcome::Rejected(_) => State::Rejected,
        }
    }

    /// The reason in the record.
    #[must_use]
    pub fn reason(self) -> Option<Reason> {
        match self {
            Outcome::Succeeded | Outcome::Expired => None,
            Outcome::Failed(reason) => Some(reason),
            Outcome::Cancelled => Some(Reason::Cancelled),
            Outcome::Rejected(reason) => Some(reason.into()),
        }
    }
}

impl Phase {
    /// The state that the record shows in this phase.
    #[must_use]
    pub fn state(&self) -> State {
        match self {
            Phase::Scheduled { .. } => State::Scheduled,
            Phase::Queued => State::Queued,
            Phase::Blocked { .. } => State::Waiting,
            Phase::Running { .. } => State::Running,
            Phase::Retrying { .. } => State::Retrying,
            Phase::Finished { outcome, .. } => outcome.state(),
            Phase::Unknown(name) => State::Unknown(*name),
        }
    }
}

/// A record whose fields do not fit its state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record of {job_id} is {state} and {problem}")]
pub struct InvalidPhase {
    job_id: String,
    state: State,
    problem: &'static str,
}

impl Record {
    /// A record without history, in this phase.
    #[must_use]
    pub fn new(job_id: JobId, queue: QueueName, phase: Phase, enqueue_time: Timestamp) -> Record {
        let mut record = Record::empty(job_id, queue, phase.state(), enqueue_time);
        record.set_phase(phase);
        record
    }

    /// A placeholder: other jobs depend on the job, but no worker has seen it. Its `waits` holds no
    /// dependency; it says until when the placeholder is kept.
    #[must_use]
    pub fn placeholder(
        job_id: JobId,
        queue: QueueName,
        since: Timestamp,
        until: Timestamp,
    ) -> Record {
        let mut record = Record::empty(job_id, queue, State::Queued, since);
        record.placeholder = true;
        record.has_dependents = true;
        record.waits = Some(BlockedOn {
            dependencies: Vec::new(),
            concurrency_key: None,
            since,
            until: Some(until),
            unknown: crate::unknown_fields::UnknownFields::default(),
        });
        record
    }

    /// Puts the record into a phase: sets the state and the fields that belong to it, and clears
    /// those that belong to other states. What describes the job or its last attempt (output, exit
    /// code, attempt count) is the caller's to change.
    ///
    /// If the state cannot follow the current one (see [`State::can_become`]), debug builds panic.
    /// In release builds [`Record::check_transitions`] fails from then on, and naq stores no such
    /// record.
    pub fn set_phase(&mut self, phase: Phase) {
        self.enter(phase);
        if let Some(illegal) = self.illegal_transition {
            debug_assert!(false, "{}: {illegal}", self.job_id);
        }
    }

    /// Checks that each change of state since the record was read or created was one that
    /// [`State::can_become`] allows. A writer that replaces the record at the revision at which it
    /// was read therefore leaves no state that must not be left.
    ///
    /// # Errors
    /// Returns [`IllegalTransition`] with the first change that was not allowed.
    pub fn check_transitions(&self) -> Result<(), IllegalTransition> {
        self.illegal_transition.map_or(Ok(()), Err)
    }

    /// Changes when the next attempt may start. Returns whether the job is waiting for a retry; if
    /// it is not, nothing changes.
    #[must_use]
    pub fn set_next_attempt(&mut self, at: Timestamp) -> bool {
        let is_retrying = self.state == State::Retrying;
        if is_retrying {
            self.next_attempt_at = Some(at);
        }
        is_retrying
    }

    fn enter(&mut self, phase: Phase) {
        let (from, to) = (self.state, phase.state());
        if !from.can_become(to) {
            self.illegal_transition
                .get_or_insert(IllegalTransition { from, to });
        }
        self.state = to;
        self.lease = None;
        self.waits = None;
        self.next_attempt_at = None;
        self.finished_at = None;
        match phase {
            Phase::Scheduled { due } => self.next_attempt_at = due,
            Phase::Queued => {
                self.reason = None;
                self.started_at = None;
            }
            // The reason and error of a failed attempt stay visible while the next one is blocked.
            Phase::Blocked { waits } => self.waits = Some(waits),
            Phase::Running { lease, started_at } => {
                self.reason = None;
                self.superseded_sequence = None;
                self.worker_id = Some(lease.worker_id.clone());
                self.lease = Some(lease);
                self.started_at = Some(started_at);
            }
            Phase::Retrying {
                reason,
                finished_at,
                next_attempt_at,
            } => {
                self.reason = Some(reason);
                self.finished_at = Some(finished_at);
                self.next_attempt_at = Some(next_attempt_at);
            }
            Phase::Finished {
                outcome,
                finished_at,
            } => {
                self.reason = outcome.reason();
                self.finished_at = Some(finished_at);
                // A finished job has a record of its own, even if other jobs wait for it.
                self.placeholder = false;
            }
            Phase::Unknown(_) => {}
        }
    }

    /// The phase of the record.
    ///
    /// # Errors
    /// Returns [`InvalidPhase`] if a field that belongs to the state is missing, or if a lease, a
    /// wait or a next attempt is set that belongs to another state.
    pub fn phase(&self) -> Result<Phase, InvalidPhase> {
        let invalid = |problem| InvalidPhase {
            job_id: self.job_id.to_string(),
            state: self.state,
            problem,
        };
        let phase = match self.state {
            State::Scheduled => Phase::Scheduled {
                due: self.next_attempt_at,
            },
            State::Queued => Phase::Queued,
            State::Waiting => Phase::Blocked {
                waits: self
                    .waits
                    .clone()
                    .ok_or_else(|| invalid("names nothing that it waits for"))?,
            },
            State::Running => Phase::Running {
                lease: self.lease.clone().ok_or_else(|| invalid("has no lease"))?,
                started_at: self
                    .started_at
                    .ok_or_else(|| invalid("has no start time"))?,
            },
            State::Retrying => Phase::Retrying {
                reason: self.reason.ok_or_else(|| invalid("has no reason"))?,
                finished_at: self.finished_at.ok_or_else(|| invalid("has no end time"))?,
                next_attempt_at: self
                    .next_attempt_at
                    .ok_or_else(|| invalid("has no next attempt"))?,
            },
            State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired
            | State::Rejected => Phase::Finished {
                outcome: self
                    .outcome()
                    .ok_or_else(|| invalid("has no reason that fits"))?,
                finished_at: self.finished_at.ok_or_else(|| invalid("has no end time"))?,
            },
            // What belongs to it is not known.
            State::Unknown(name) => return Ok(Phase::Unknown(name)),
        };
        if self.lease.is_some() && !matches!(phase, Phase::Running { .. }) {
            return Err(invalid("has a lease"));
        }
        // A placeholder is not a job: its `waits` says until when the placeholder itself is kept.
        let may_wait = self.placeholder || matches!(phase, Phase::Blocked { .. });
        if self.waits.is_some() && !may_wait {
            return Err(invalid("names what it waits for"));
        }
        let may_have_next = matches!(phase, Phase::Scheduled { .. } | Phase::Retrying { .. });
        if self.next_attempt_at.is_some() && !may_have_next {
            return Err(invalid("has a next attempt"));
        }
        Ok(phase)
    }

    /// How the job finished. `None` if it has not, or if its reason does not fit.
    fn outcome(&self) -> Option<Outcome> {
        match self.state {
            State::Succeeded => Some(Outcome::Succeeded),
            State::Failed => self.reason.map(Outcome::Failed),
            State::Cancelled => Some(Outcome::Cancelled),
            State::Expired => Some(Outcome::Expired),
            State::Rejected => match self.reason {
                Some(Reason::UnsupportedVersion) => {
                    Some(Outcome::Rejected(RejectReason::UnsupportedVersion))
                }
                Some(Reason::NotAllowed) => Some(Outcome::Rejected(RejectReason::NotAllowed)),
                Some(Reason::Invalid) => Some(Outcome::Rejected(RejectReason::Invalid)),
                _ => None,
            },
            State::Scheduled
            | State::Queued
            | State::Waiting
            | State::Running
            | State::Retrying
            | State::Unknown(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(unix_ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(unix_ms).unwrap()
    }

    fn any_phase() -> impl Strategy<Value = Phase> {
        let lease = Lease {
            worker_id: "w".to_owned(),
            sequence: 7,
            delivery: 1,
            alone: true,
            claimed_ahead: false,
            unknown: crate::unknown_fields::UnknownFields::default(),
        };
        let waits = BlockedOn {
            dependencies: Vec::new(),
            concurrency_key: Some("k".to_owned()),
            since: at(3),
            until: None,
            unknown: crate::unknown_fields::UnknownFields::default(),
        };
        let outcome = proptest::sample::select(vec![
            Outcome::Succeeded,
            Outcome::Failed(Reason::Timeout),
            Outcome::Cancelled,
            Outcome::Expired,
            Outcome::Rejected(RejectReason::NotAllowed),
        ]);
        prop_oneof![
            Just(Phase::Queued),
            Just(Phase::Blocked { waits }),
            Just(Phase::Running {
                lease,
                started_at: at(4)
            }),
            Just(Phase::Retrying {
                reason: Reason::Exit,
                finished_at: at(5),
                next_attempt_at: at(6)
            }),
            outcome.prop_map(|outcome| Phase::Finished {
                outcome,
                finished_at: at(8)
            }),
        ]
    }

    proptest! {
        /// Whatever phases a record went through, it holds the fields of the last one and of no
        /// other, also after it was written and read.
        #[test]
        fn record_holds_the_fields_of_its_phase_only(phases in proptest::collection::vec(any_phase(), 1..20)) {
            let mut record = Record::new(
                JobId::new("j").unwrap(),
                QueueName::new("q").unwrap(),
                Phase::Scheduled { due: None },
                at(0),
            );
            for phase in phases {
                if !record.state.can_become(phase.state()) || record.state.is_terminal() {
                    continue;
                }
                record.set_phase(phase.clone());
                prop_assert_eq!(record.phase(), Ok(phase.clone()));
                let json = serde_json::to_vec(&record).unwrap();
                let read: Record = serde_json::from_slice(&json).unwrap();
                prop_assert_eq!(read.phase(), Ok(phase));
            }
        }
    }

    #[test]
    fn field_of_another_state_is_an_invalid_phase() {
        let mut record = Record::new(
            JobId::new("j").unwrap(),
            QueueName::new("q").unwrap(),
            Phase::Queued,
            at(0),
        );
        assert_eq!(record.phase(), Ok(Phase::Queued));
        record.next_attempt_at = Some(at(1));
        let error = record.phase().unwrap_err().to_string();
        assert_eq!(error, "the record of j is queued and has a next attempt");
    }

    #[test]
    fn illegal_transition_is_found_before_the_record_is_stored() {
        let finished = Phase::Finished {
            outcome: Outcome::Succeeded,
            finished_at: at(1),
        };
        let mut record = Record::new(
            JobId::new("j").unwrap(),
            QueueName::new("q").unwrap(),
            finished,
            at(0),
        );
        assert_eq!(record.check_transitions(), Ok(()));
        record.enter(Phase::Queued);
        let error = record.check_transitions().unwrap_err();
        assert_eq!(
            error.to_string(),
            "a job that is succeeded cannot become queued"
        );
        // The first one is reported, also of a copy and after later changes.
        record.enter(Phase::Queued);
        assert_eq!(record.clone().check_transitions(), Err(error));
    }
}
