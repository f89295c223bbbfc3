//! What is left to do about what a crash left behind.

use super::transition::finish;
use naq_protocol::{Reason, Record, State, Timestamp};

/// What becomes of a key that says that a job waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDependencyEdge {
    /// It is as it should be, or not to be judged yet.
    Keep,
    /// The other job has ended so, and whoever ended it did not live to say so.
    Release(State),
    /// The job waits no more, and never will again.
    Remove,
}

/// Judges such a key by the records of both jobs.
///
/// A job without a record may be about to wait: its key is written first.
#[must_use]
pub fn on_dependency_edge(dependency: Option<&Record>, job: Option<&Record>) -> OnDependencyEdge {
    let Some(job) = job.filter(|job| !job.placeholder) else {
        return OnDependencyEdge::Keep;
    };
    if job.state.is_terminal() || job.dependencies_met {
        return OnDependencyEdge::Remove;
    }
    match dependency {
        Some(dependency)
            if job.state == State::Waiting
                && !dependency.placeholder
                && dependency.state.is_terminal() =>
        {
            OnDependencyEdge::Release(dependency.state)
        }
        _ => OnDependencyEdge::Keep,
    }
}

/// Whether a job needs a message, for someone to be given it again. One that waits has none: who
/// ends what it waits for gives it one.
#[must_use]
pub fn needs_message(record: &Record) -> bool {
    !record.placeholder && !record.state.is_terminal() && record.state != State::Waiting
}

/// Whether a job needs another message in place of this one, which nobody will be given: one that
/// runs by it.
///
/// The message was acknowledged once, which is done when the job has ended, waits, or has another
/// message. A job without a record has ended and been forgotten since, or was handed on before it had
/// one: it must not be run again for a message that came back.
#[must_use]
pub fn needs_replacement_message(record: Option<&Record>, sequence: u64) -> bool {
    record.is_some_and(|record| {
        let lease = record.lease.as_ref();
        needs_message(record) && lease.is_some_and(|lease| lease.sequence == sequence)
    })
}

/// The end of a job that nobody holds, whose message is gone, and whose envelope nobody has.
#[must_use]
pub fn fail_lost_job(mut record: Record, now: Timestamp) -> Record {
    record.error = Some(
        "its message is gone from its queue, and no worker has it: the queue was removed, or the server has lost it"
            .to_owned(),
    );
    finish(&mut record, State::Failed, Some(Reason::Crashed), now);
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{JobId, QueueName};

    fn record(state: State) -> Record {
        let time = Timestamp::from_unix_ms(0).unwrap();
        let queue = QueueName::new("q").unwrap();
        Record::new(JobId::new("j").unwrap(), queue, state, time)
    }

    #[test]
    fn only_what_is_over_is_forgotten() {
        for state in State::ALL {
            let job = record(state);
            let alone = on_dependency_edge(None, Some(&job));
            assert_eq!(
                alone == OnDependencyEdge::Remove,
                state.is_terminal(),
                "{state}"
            );
            let mut begun = job.clone();
            begun.dependencies_met = true;
            assert_eq!(
                on_dependency_edge(None, Some(&begun)),
                OnDependencyEdge::Remove
            );
            for other in State::ALL {
                let verdict = on_dependency_edge(Some(&record(other)), Some(&job));
                let released = state == State::Waiting && other.is_terminal();
                assert_eq!(
                    verdict == OnDependencyEdge::Release(other),
                    released,
                    "{state} {other}"
                );
                let mut placeholder = record(other);
                placeholder.placeholder = true;
                let verdict = on_dependency_edge(Some(&placeholder), Some(&job));
                assert!(!matches!(verdict, OnDependencyEdge::Release(_)));
            }
        }
        assert_eq!(
            on_dependency_edge(Some(&record(State::Failed)), None),
            OnDependencyEdge::Keep
        );
    }

    #[test]
    fn a_message_that_nobody_is_given_is_replaced_where_a_job_depends_on_it() {
        assert!(!needs_replacement_message(None, 7));
        let mut placeholder = record(State::Queued);
        placeholder.placeholder = true;
        assert!(!needs_replacement_message(Some(&placeholder), 7));
        for state in State::ALL {
            let mut job = record(state);
            assert!(!needs_replacement_message(Some(&job), 7), "{state}");
            job.lease = Some(naq_protocol::Lease {
                worker_id: "w".to_owned(),
                sequence: 7,
                delivery: 1,
            });
            assert_eq!(
                needs_replacement_message(Some(&job), 7),
                needs_message(&job),
                "{state}"
            );
            assert!(!needs_replacement_message(Some(&job), 6), "{state}");
        }
    }

    #[test]
    fn a_job_that_nobody_has_ends() {
        for state in State::ALL {
            let needs = needs_message(&record(state));
            let held = [
                State::Scheduled,
                State::Queued,
                State::Running,
                State::Retrying,
            ];
            assert_eq!(needs, held.contains(&state), "{state}");
        }
        let ended = fail_lost_job(record(State::Running), Timestamp::from_unix_ms(5).unwrap());
        assert_eq!(
            (ended.state, ended.reason),
            (State::Failed, Some(Reason::Crashed))
        );
        assert!(ended.finished_at.is_some() && ended.lease.is_none());
    }
}
