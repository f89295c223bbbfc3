//! What a wish to cancel means for a job.

use super::transition::finish;
use naq_protocol::{Reason, Record, State, Timestamp};

/// What to do about a wish to cancel.
#[derive(Debug)]
pub enum OnCancel {
    /// Write this terminal record where the revision still is the one decided upon, then remove
    /// the job's messages and release who waits for it.
    End(Box<Record>),
    /// Write this record, then tell the worker that runs the job.
    NotifyWorker(Box<Record>),
    /// It was asked before: tell the worker once more.
    NotifyWorkerAgain(Box<Record>),
    /// It has ended already.
    AlreadyFinished(Box<Record>),
}

/// Decides what a wish to cancel means, given the job's record. A job that no worker has seen is
/// given by a record in the state `queued` or `scheduled`.
#[must_use]
pub fn on_cancel(mut record: Box<Record>, now: Timestamp) -> OnCancel {
    if record.state.is_terminal() {
        return OnCancel::AlreadyFinished(record);
    }
    if record.state == State::Running {
        if record.cancel_requested {
            return OnCancel::NotifyWorkerAgain(record);
        }
        record.cancel_requested = true;
        return OnCancel::NotifyWorker(record);
    }
    record.cancel_requested = true;
    finish(&mut record, State::Cancelled, Some(Reason::Cancelled), now);
    OnCancel::End(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{JobId, QueueName};

    #[test]
    fn every_state_has_an_answer_and_none_is_lost() {
        let now = Timestamp::from_unix_ms(1_800_000_000_000).unwrap();
        for state in State::ALL {
            let mut record = Record::new(
                JobId::new("j").unwrap(),
                QueueName::new("q").unwrap(),
                state,
                now,
            );
            record.attempt = 1;
            match on_cancel(Box::new(record), now) {
                OnCancel::End(record) => {
                    assert!(!state.is_terminal() && state != State::Running);
                    assert_eq!(record.state, State::Cancelled);
                    assert_eq!(record.finished_at, Some(now));
                }
                OnCancel::NotifyWorker(record) => {
                    assert_eq!(state, State::Running);
                    assert!(record.cancel_requested);
                    assert!(matches!(
                        on_cancel(record, now),
                        OnCancel::NotifyWorkerAgain(_)
                    ));
                }
                OnCancel::AlreadyFinished(record) => assert_eq!(record.state, state),
                OnCancel::NotifyWorkerAgain(_) => panic!("{state} was not asked before"),
            }
        }
    }
}
