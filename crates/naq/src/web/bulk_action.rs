//! The state of a bulk action: what it has selected and done, and whether it can be undone. No clock and no I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use naq_protocol::{JobId, State as JobState, Timestamp};

/// Maximum number of jobs that are named with what went wrong.
const PROBLEMS_MAX: usize = 100;

/// What a bulk action does with each job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "action_verb")]
pub(super) enum ActionVerb {
    /// Cancels jobs that have not ended.
    Cancel,
    /// Runs ended jobs again, as new jobs.
    Retry,
    /// Removes the dead letters of failed jobs.
    Discard,
    /// Sets how long the records of ended jobs are kept, from now on.
    Ttl,
}

impl ActionVerb {
    /// The verb, for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            ActionVerb::Cancel => "cancel",
            ActionVerb::Retry => "retry",
            ActionVerb::Discard => "discard",
            ActionVerb::Ttl => "ttl",
        }
    }

    /// The states of jobs that it applies to.
    pub(super) fn states(self) -> &'static [JobState] {
        match self {
            ActionVerb::Cancel => &[
                JobState::Queued,
                JobState::Scheduled,
                JobState::Waiting,
                JobState::Running,
                JobState::Retrying,
            ],
            ActionVerb::Retry => &[
                JobState::Failed,
                JobState::Cancelled,
                JobState::Expired,
                JobState::Succeeded,
            ],
            ActionVerb::Discard => &[JobState::Failed, JobState::Rejected],
            ActionVerb::Ttl => &[
                JobState::Succeeded,
                JobState::Failed,
                JobState::Cancelled,
                JobState::Expired,
                JobState::Rejected,
            ],
        }
    }

    /// The states that a filter selects if it names none. A retry of jobs in any state would repeat those that
    /// have succeeded.
    pub(super) fn default_states(self) -> &'static [JobState] {
        match self {
            ActionVerb::Retry => &[JobState::Failed],
            ActionVerb::Cancel | ActionVerb::Discard | ActionVerb::Ttl => self.states(),
        }
    }

    /// Whether an undo may not be able to restore a job in this state: the processes of a running job are
    /// killed, and a blocked job would no longer depend on the others.
    pub(super) fn is_irreversible(self, state: JobState) -> bool {
        self == ActionVerb::Cancel && matches!(state, JobState::Running | JobState::Waiting)
    }

    /// Time after the end of an action for which it can be undone. That of a retry is the delay of the new
    /// jobs. `None` means never: a record does not say for how long it was kept before, and nothing is lost until
    /// it expires.
    pub(super) fn undo_period(self) -> Option<Duration> {
        match self {
            ActionVerb::Retry => Some(RETRY_DELAY),
            ActionVerb::Cancel | ActionVerb::Discard => Some(Duration::from_secs(600)),
            ActionVerb::Ttl => None,
        }
    }
}

/// Delay of the jobs that a retry enqueues, during which it can be undone.
pub(super) const RETRY_DELAY: Duration = Duration::from_secs(10);

/// The state of a bulk action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "action_state")]
pub(super) enum ActionState {
    /// It acts on jobs.
    Running,
    /// It has acted on every selected job.
    Done,
    /// It was stopped, or ended by an error, before it had acted on every selected job.
    Stopped,
    /// It is being undone.
    Undoing,
    /// It was undone, as far as that was possible.
    Undone,
}

/// Why nothing was done with a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "skip_reason")]
pub(super) enum SkipReason {
    /// The job does not exist.
    NotFound,
    /// The job has ended, so it cannot be cancelled.
    Ended,
    /// The job has not ended.
    NotEnded,
    /// The job is running or blocked, and the request confirmed fewer of these.
    NotConfirmed,
    /// The job has no dead letter.
    NoDeadLetter,
    /// The job has had another outcome since.
    Changed,
    /// Another action has retried or discarded the job, and can still be undone.
    PendingUndo,
}

impl SkipReason {
    /// The reason, for people.
    pub(super) fn text(self) -> &'static str {
        match self {
            SkipReason::NotFound => "no such job exists",
            SkipReason::Ended => "it had already ended",
            SkipReason::NotEnded => "it has not ended",
            SkipReason::NotConfirmed => {
                "it is running or blocked, and the request confirmed fewer of these"
            }
            SkipReason::NoDeadLetter => "it has no dead letter",
            SkipReason::Changed => "it has had another outcome since",
            SkipReason::PendingUndo => "another action has done this, and can still be undone",
        }
    }
}

/// Why a job stays as the action left it, although the action was undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "keep_reason")]
pub(super) enum KeepReason {
    /// The new job has begun.
    Begun,
    /// The job was running, or depended on other jobs.
    Irreversible,
    /// The undo failed.
    Failed,
}

impl KeepReason {
    /// The reason, for people.
    pub(super) fn text(self) -> &'static str {
        match self {
            KeepReason::Begun => "the new job has begun",
            KeepReason::Irreversible => "it was running, or depended on other jobs",
            KeepReason::Failed => "the undo failed",
        }
    }
}

/// A job with what went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(rename = "job_problem")]
pub(super) struct JobProblem {
    /// The job.
    pub(super) job_id: JobId,
    /// What went wrong, for people.
    pub(super) detail: String,
}

/// What an action has done with a job. `U` is what its undo needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome<U> {
    /// It was changed. `None` means that this cannot be undone.
    Done(Option<U>),
    Skipped(SkipReason),
    Failed(String),
}

/// What an undo has done with a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UndoOutcome {
    Undone,
    Kept(KeepReason),
    Failed(String),
}

/// Why an action cannot be stopped or undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has ended, so it cannot be stopped.
    Ended,
    /// It has changed nothing that an undo could restore, or has none.
    NothingToUndo,
    /// The time for an undo is over.
    TooLate,
    /// It was undone before.
    AlreadyUndone,
}

/// What an action that has ended does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextStep<U> {
    /// Waits for an undo until this time.
    Wait(Timestamp),
    /// Undoes these.
    Undo(Vec<U>),
    /// Makes these final: the time for an undo is over.
    Settle(Vec<U>),
    /// Nothing.
    Rest,
}

/// The state of an action and what it has counted.
#[derive(Clone, Debug)]
pub(super) struct Ledger<U> {
    pub(super) verb: ActionVerb,
    pub(super) state: ActionState,
    /// Maximum number of jobs.
    pub(super) limit: usize,
    /// Whether the limit ended it although more jobs were selected.
    pub(super) is_limited: bool,
    pub(super) selected: u64,
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) skipped: BTreeMap<SkipReason, u64>,
    pub(super) problems: Vec<JobProblem>,
    /// Number of changed jobs that cannot be undone.
    pub(super) irreversible: u64,
    /// Why it ended early.
    pub(super) error: Option<String>,
    pub(super) started_at: Timestamp,
    /// When it had acted on its last job.
    pub(super) ended_at: Option<Timestamp>,
    /// Until when it can be undone.
    pub(super) undo_until: Option<Timestamp>,
    pub(super) undone: u64,
    pub(super) kept: BTreeMap<KeepReason, u64>,
    is_stopping: bool,
    undo_requested: bool,
    undo: Vec<U>,
}

impl<U> Ledger<U> {
    pub(super) fn new(verb: ActionVerb, limit: usize, now: Timestamp) -> Ledger<U> {
        Ledger {
            verb,
            state: ActionState::Running,
            limit,
            is_limited: false,
            selected: 0,
            done: 0,
            failed: 0,
            skipped: BTreeMap::new(),
            problems: Vec::new(),
            irreversible: 0,
            error: None,
            started_at: now,
            ended_at: None,
            undo_until: None,
            undone: 0,
            kept: BTreeMap::new(),
            is_stopping: false,
            undo_requested: false,
            undo: Vec::new(),
        }
    }

    /// Whether it may act on another job.
    pub(super) fn may_select(&self) -> bool {
        self.state == ActionState::Running && !self.is_stopping
    }

    /// Counts another job, if the limit permits it.
    pub(super) fn select(&mut self) -> bool {
        if !self.may_select() {
            return false;
        }
        if self.selected >= self.limit as u64 {
            self.is_limited = true;
            return false;
        }
        self.selected += 1;
        true
    }

    /// Counts what was done with a selected job.
    pub(super) fn on_outcome(&mut self, job: &JobId, outcome: Outcome<U>) {
        match outcome {
            Outcome::Done(undo) => {
                self.done += 1;
                match undo {
                    Some(undo) => self.undo.push(undo),
                    None => self.irreversible += 1,
                }
            }
            Outcome::Skipped(reason) => {
                *self.skipped.entry(reason).or_default() += 1;
                self.add_problem(job, reason.text().to_owned());
            }
            Outcome::Failed(detail) => {
                self.failed += 1;
                self.add_problem(job, detail);
            }
        }
    }

    fn add_problem(&mut self, job: &JobId, detail: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(JobProblem {
                job_id: job.clone(),
                detail,
            });
        }
    }

    /// The same without what an undo needs.
    pub(super) fn without_undo(&self) -> Ledger<()> {
        Ledger {
            verb: self.verb,
            state: self.state,
            limit: self.limit,
            is_limited: self.is_limited,
            selected: self.selected,
            done: self.done,
            failed: self.failed,
            skipped: self.skipped.clone(),
            problems: self.problems.clone(),
            irreversible: self.irreversible,
            error: self.error.clone(),
            started_at: self.started_at,
            ended_at: self.ended_at,
            undo_until: self.undo_until,
            undone: self.undone,
            kept: self.kept.clone(),
            is_stopping: self.is_stopping,
            undo_requested: self.undo_requested,
            undo: Vec::new(),
        }
    }

    /// Number of skipped jobs.
    pub(super) fn skipped_count(&self) -> u64 {
        self.skipped.values().sum()
    }

    /// Number of jobs whose undo is possible.
    pub(super) fn undo_count(&self) -> usize {
        self.undo.len()
    }

    /// Whether a request may undo it now.
    pub(super) fn can_undo(&self, now: Timestamp) -> bool {
        match self.state {
            ActionState::Running => !self.undo_requested && self.verb.undo_period().is_some(),
            ActionState::Done | ActionState::Stopped => {
                !self.undo.is_empty() && self.undo_until.is_some_and(|until| now < until)
            }
            ActionState::Undoing | ActionState::Undone => false,
        }
    }

    /// Stops it before the next job.
    ///
    /// # Errors
    /// Returns [`Refusal::Ended`] if it has ended.
    pub(super) fn request_stop(&mut self) -> Result<(), Refusal> {
        match self.state {
            ActionState::Running => {
                self.is_stopping = true;
                Ok(())
            }
            _ => Err(Refusal::Ended),
        }
    }

    /// Undoes it. If it is running, it stops first.
    ///
    /// # Errors
    /// Returns the reason if it cannot be undone, or not any more.
    pub(super) fn request_undo(&mut self, now: Timestamp) -> Result<(), Refusal> {
        match self.state {
            _ if self.verb.undo_period().is_none() => Err(Refusal::NothingToUndo),
            ActionState::Running => {
                self.is_stopping = true;
                self.undo_requested = true;
                Ok(())
            }
            ActionState::Undoing => Ok(()),
            ActionState::Undone => Err(Refusal::AlreadyUndone),
            ActionState::Done | ActionState::Stopped if self.can_undo(now) => {
                self.state = ActionState::Undoing;
                Ok(())
            }
            ActionState::Done | ActionState::Stopped => Err(match self.done == self.irreversible {
                true => Refusal::NothingToUndo,
                false => Refusal::TooLate,
            }),
        }
    }

    /// Ends it, after the outcome of every selected job. `error` is why it ended early.
    pub(super) fn end(&mut self, now: Timestamp, error: Option<String>) {
        if self.state != ActionState::Running {
            return;
        }
        self.ended_at = Some(now);
        self.state = match (self.undo_requested, self.is_stopping || error.is_some()) {
            (true, _) => ActionState::Undoing,
            (false, true) => ActionState::Stopped,
            (false, false) => ActionState::Done,
        };
        self.error = error;
        if let Some(period) = self.verb.undo_period()
            && !self.undo.is_empty()
        {
            self.undo_until = Some(clock::saturating_add(now, period));
        }
    }

    /// What to do next after the end.
    pub(super) fn next_step(&mut self, now: Timestamp) -> NextStep<U> {
        match (self.state, self.undo_until) {
            (ActionState::Undoing, _) => NextStep::Undo(std::mem::take(&mut self.undo)),
            (ActionState::Done | ActionState::Stopped, Some(until)) if !self.undo.is_empty() => {
                match now < until {
                    true => NextStep::Wait(until),
                    false => NextStep::Settle(std::mem::take(&mut self.undo)),
                }
            }
            _ => NextStep::Rest,
        }
    }

    /// Counts what an undo has done with a job.
    pub(super) fn on_undo_outcome(&mut self, job: &JobId, outcome: UndoOutcome) {
        match outcome {
            UndoOutcome::Undone => self.undone += 1,
            UndoOutcome::Kept(reason) => *self.kept.entry(reason).or_default() += 1,
            UndoOutcome::Failed(detail) => {
                *self.kept.entry(KeepReason::Failed).or_default() += 1;
                self.add_problem(job, detail);
            }
        }
    }

    /// Ends the undo.
    pub(super) fn end_undo(&mut self) {
        if self.state == ActionState::Undoing {
            self.state = ActionState::Undone;
            if self.irreversible > 0 {
                self.kept
                    .insert(KeepReason::Irreversible, self.irreversible);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms).unwrap()
    }

    fn job() -> JobId {
        JobId::new("a").unwrap()
    }

    #[test]
    fn a_retry_can_be_undone_until_its_jobs_start() {
        let mut ledger = Ledger::new(ActionVerb::Retry, 10, at(0));
        assert!(ledger.select());
        ledger.on_outcome(&job(), Outcome::Done(Some(7)));
        ledger.end(at(1_000), None);
        assert_eq!(ledger.state, ActionState::Done);
        assert_eq!(ledger.next_step(at(1_000)), NextStep::Wait(at(11_000)));
        let mut undone = ledger.clone();
        undone.request_undo(at(10_999)).unwrap();
        assert_eq!(undone.next_step(at(10_999)), NextStep::Undo(vec![7]));
        undone.on_undo_outcome(&job(), UndoOutcome::Undone);
        undone.end_undo();
        assert_eq!((undone.state, undone.undone), (ActionState::Undone, 1));
        assert_eq!(undone.request_undo(at(10_999)), Err(Refusal::AlreadyUndone));
        assert_eq!(ledger.request_undo(at(11_000)), Err(Refusal::TooLate));
        assert_eq!(ledger.next_step(at(11_000)), NextStep::Settle(vec![7]));
        assert_eq!(ledger.next_step(at(11_000)), NextStep::Rest);
        assert_eq!(ledger.request_stop(), Err(Refusal::Ended));
    }

    #[test]
    fn what_was_running_cannot_be_undone() {
        let mut ledger = Ledger::<u8>::new(ActionVerb::Cancel, 10, at(0));
        assert!(ledger.select());
        ledger.on_outcome(&job(), Outcome::Done(None));
        ledger.end(at(1), None);
        assert_eq!(ledger.request_undo(at(2)), Err(Refusal::NothingToUndo));
        assert_eq!(ledger.next_step(at(2)), NextStep::Rest);
    }

    #[test]
    fn a_time_that_records_are_kept_has_no_undo() {
        let mut ledger = Ledger::<u8>::new(ActionVerb::Ttl, 10, at(0));
        assert!(ledger.select() && !ledger.can_undo(at(0)));
        assert_eq!(ledger.request_undo(at(0)), Err(Refusal::NothingToUndo));
        assert!(ledger.may_select());
        ledger.on_outcome(&job(), Outcome::Done(None));
        ledger.end(at(1), None);
        assert_eq!((ledger.state, ledger.undo_until), (ActionState::Done, None));
    }

    #[derive(Clone, Debug)]
    enum Event {
        Select,
        Outcome(u8),
        Stop,
        Undo,
        End(bool),
        Step,
        UndoOutcome(bool),
        Wait(i64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => Just(Event::Select),
            6 => (0_u8..4).prop_map(Event::Outcome),
            1 => Just(Event::Stop),
            2 => Just(Event::Undo),
            2 => any::<bool>().prop_map(Event::End),
            3 => Just(Event::Step),
            3 => any::<bool>().prop_map(Event::UndoOutcome),
            2 => (0_i64..20_000).prop_map(Event::Wait),
        ]
    }

    proptest! {
        #[test]
        fn every_change_is_undone_settled_or_irreversible(
            events in proptest::collection::vec(event(), 0..80),
            limit in 1_usize..12,
        ) {
            let mut ledger = Ledger::new(ActionVerb::Retry, limit, at(0));
            let (mut now, mut in_flight, mut number) = (0, 0_u64, 0_u32);
            let (mut to_undo, mut settled) = (Vec::new(), Vec::new());
            for event in events {
                match event {
                    Event::Select => {
                        let may = ledger.may_select() && ledger.selected < limit as u64;
                        prop_assert_eq!(ledger.select(), may);
                        in_flight += u64::from(may);
                    }
                    Event::Outcome(kind) if in_flight > 0 => {
                        in_flight -= 1;
                        number += 1;
                        ledger.on_outcome(&job(), match kind {
                            0 => Outcome::Done(None),
                            1 => Outcome::Skipped(SkipReason::Ended),
                            2 => Outcome::Failed("no".to_owned()),
                            _ => Outcome::Done(Some(number)),
                        });
                    }
                    Event::Stop => {
                        let was_running = ledger.state == ActionState::Running;
                        prop_assert_eq!(ledger.request_stop().is_ok(), was_running);
                        prop_assert!(!ledger.may_select());
                    }
                    Event::Undo => {
                        let refused = ledger.request_undo(at(now)).is_err();
                        // nothing that is settled can be undone
                        prop_assert!(refused || settled.is_empty());
                    }
                    Event::End(has_error) if in_flight == 0 => {
                        ledger.end(at(now), has_error.then(|| "lost".to_owned()));
                        prop_assert!(ledger.state != ActionState::Running);
                    }
                    Event::Step if ledger.state != ActionState::Running => {
                        match ledger.next_step(at(now)) {
                            NextStep::Undo(steps) => to_undo.extend(steps),
                            NextStep::Settle(steps) => {
                                prop_assert!(!ledger.can_undo(at(now)));
                                settled.extend(steps);
                            }
                            NextStep::Wait(until) => prop_assert!(until > at(now)),
                            NextStep::Rest => {}
                        }
                        if ledger.state == ActionState::Undoing && to_undo.is_empty() {
                            ledger.end_undo();
                        }
                    }
                    Event::UndoOutcome(is_undone) if to_undo.pop().is_some() => {
                        ledger.on_undo_outcome(&job(), match is_undone {
                            true => UndoOutcome::Undone,
                            false => UndoOutcome::Kept(KeepReason::Begun),
                        });
                    }
                    Event::Wait(ms) => now += ms,
                    _ => {}
                }
                let decided = ledger.done + ledger.failed + ledger.skipped_count();
                prop_assert_eq!(ledger.selected, decided + in_flight);
                prop_assert!(ledger.selected <= limit as u64);
                let begun = ledger.kept.get(&KeepReason::Begun).copied().unwrap_or_default();
                let open = ledger.undo_count() + to_undo.len() + settled.len();
                prop_assert_eq!(ledger.done, ledger.irreversible + ledger.undone + begun + open as u64);
                prop_assert!(to_undo.is_empty() || settled.is_empty());
                prop_assert!(ledger.problems.len() <= PROBLEMS_MAX);
            }
        }
    }
}
