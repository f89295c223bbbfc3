//! What a cancel request means for a job.

use super::transition::finish;
use naq_protocol::{Outcome, Record, State, Timestamp};

/// What to do about a cancel request.
#[derive(Debug)]
pub enum OnCancel {
    /// Write this terminal record if its revision is still the one that was decided upon, then
    /// remove the job's messages and release the jobs that depend on it.
    End(Box<Record>),
    /// Write this record, then notify the worker that runs the job. In this order a worker that
    /// misses the notification still finds the request in the record.
    NotifyWorker(Box<Record>),
    /// The request is in the record already: notify the worker again.
    NotifyWorkerAgain(Box<Record>),
    /// The job has already finished, with this record.
    AlreadyFinished(Box<Record>),
    /// Only a later version knows the job's state and what its record keeps in that state: leave
    /// the record as it is.
    UnknownState(State),
}

/// Decides what a cancel request means, given the job's record. For a job that no worker has seen,
/// the caller passes a new record in the state `queued` or `scheduled`.
#[must_use]
pub fn on_cancel(mut record: Box<Record>, now: Timestamp) -> OnCancel {
    match record.state() {
        State::Unknown(_) => OnCancel::UnknownState(record.state()),
        State::Running if record.cancel_requested => OnCancel::NotifyWorkerAgain(record),
        State::Running => {
            record.cancel_requested = true;
            OnCancel::NotifyWorker(record)
        }
        State::Scheduled | State::Queued | State::Waiting | State::Retrying => {
            record.cancel_requested = true;
            finish(&mut record, Outcome::Cancelled, now);
            OnCancel::End(record)
        }
        State::Succeeded | State::Failed | State::Cancelled | State::Expired | State::Rejected => {
            OnCancel::AlreadyFinished(record)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::stored_record::{stored_record, with_fields};

    #[test]
    fn cancel_ends_or_notifies_in_every_state_but_a_finished_one() {
        let now = Timestamp::from_unix_ms(1_800_000_000_000).unwrap();
        for state in State::ALL {
            match on_cancel(Box::new(stored_record(state)), now) {
                OnCancel::End(record) => {
                    assert!(!state.is_terminal() && state != State::Running);
                    assert_eq!(record.state(), State::Cancelled);
                    assert_eq!(record.finished_at(), Some(now));
                }
                OnCancel::NotifyWorker(record) => {
                    assert_eq!(state, State::Running);
                    assert!(record.cancel_requested);
                    assert!(matches!(
                        on_cancel(record, now),
                        OnCancel::NotifyWorkerAgain(_)
                    ));
                }
                OnCancel::AlreadyFinished(record) => assert_eq!(record.state(), state),
                OnCancel::NotifyWorkerAgain(_) => panic!("{state} had no earlier cancel request"),
                OnCancel::UnknownState(_) => panic!("{state} is known"),
            }
        }
    }

    #[test]
    fn cancel_leaves_a_record_of_a_later_version_as_it_is() {
        let now = Timestamp::from_unix_ms(1_800_000_000_000).unwrap();
        let queued = stored_record(State::Queued);
        let suspended = with_fields(&queued, &serde_json::json!({"state": "suspended"}));
        assert!(matches!(
            on_cancel(Box::new(suspended), now),
            OnCancel::UnknownState(state) if state.as_str() == "suspended"
        ));
    }
}
