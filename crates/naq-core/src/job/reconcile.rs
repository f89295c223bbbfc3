//! Reconciling what a crash left behind: index entries, missing messages, lost jobs.

use std::time::Duration;

use super::result_ttl::result_ttl;
use super::transition::finish;
use naq_protocol::{Envelope, Outcome, Reason, Record, State, Timestamp};

/// What to do with an index entry that says that one job depends on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDependencyEdge {
    /// The entry is correct, or it is too early to tell.
    Keep,
    /// The dependency finished in this state, and the process that finished it crashed before it
    /// released the job: release the job.
    Release(State),
    /// The job is no longer blocked on the dependency and never will be again: remove the entry.
    Remove,
}

/// Decides about such an entry by the records of both jobs.
///
/// The entry of a job without a record is kept: the job may be about to be blocked, since its index
/// entries are written before its record.
#[must_use]
pub fn on_dependency_edge(dependency: Option<&Record>, job: Option<&Record>) -> OnDependencyEdge {
    let Some(job) = job.filter(|job| !job.placeholder) else {
        return OnDependencyEdge::Keep;
    };
    if job.state().is_terminal() || job.dependencies_met {
        return OnDependencyEdge::Remove;
    }
    match dependency {
        Some(dependency)
            if job.state() == State::Waiting
                && !dependency.placeholder
                && dependency.state().is_terminal() =>
        {
            OnDependencyEdge::Release(dependency.state())
        }
        _ => OnDependencyEdge::Keep,
    }
}

/// Whether a job needs a message in its queue. A blocked job has none: whatever ends its wait
/// publishes one.
#[must_use]
pub fn needs_message(record: &Record) -> bool {
    !record.placeholder
        && match record.state() {
            State::Scheduled | State::Queued | State::Running | State::Retrying => true,
            State::Waiting
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired
            | State::Rejected => false,
            // Only the later version that wrote the state can tell.
            State::Unknown(_) => false,
        }
}

/// Whether a job needs a new message in place of an orphaned one, which the server will not
/// redeliver. It does if it runs by that message.
///
/// A message is acknowledged only when its job has finished, is blocked, or has another message. A
/// job without a record has finished and its record has expired, or it was rerouted before it had a
/// record: an orphaned message must not run it again, unless the job [never
/// ran](may_have_never_run).
#[must_use]
pub fn needs_replacement_message(record: Option<&Record>, sequence: u64) -> bool {
    record.is_some_and(|record| {
        let lease = record.lease();
        needs_message(record) && lease.is_some_and(|lease| lease.sequence == sequence)
    })
}

/// Whether a job without a record may have never run, given the envelope and the age of its message: its
/// record could not have expired yet. The server has then skipped the message, as a consumer does that is
/// past the end of a stream which lost power, or it has lost the record.
#[must_use]
pub fn may_have_never_run(
    envelope: Option<&Envelope>,
    age: Duration,
    result_ttl_default: Duration,
) -> bool {
    result_ttl(envelope, result_ttl_default).is_none_or(|kept| age < kept)
}

/// Fails a job that has no worker, no message and no envelope, so that nothing can run it again.
#[must_use]
pub fn fail_lost_job(mut record: Record, now: Timestamp) -> Record {
    record.error = Some(
        "its message is gone from its queue and no worker runs it: the queue was removed, or the server lost the message"
            .to_owned(),
    );
    finish(&mut record, Outcome::Failed(Reason::Lost), now);
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::stored_record::{stored_record as record, with_fields};
    use serde_json::json;

    #[test]
    fn dependency_edge_is_removed_only_after_the_wait() {
        for state in State::ALL {
            let job = record(state);
            let alone = on_dependency_edge(None, Some(&job));
            assert_eq!(
                alone == OnDependencyEdge::Remove,
                state.is_terminal(),
                "{state}"
            );
            let mut satisfied = job.clone();
            satisfied.dependencies_met = true;
            assert_eq!(
                on_dependency_edge(None, Some(&satisfied)),
                OnDependencyEdge::Remove
            );
            for other in State::ALL {
                let decision = on_dependency_edge(Some(&record(other)), Some(&job));
                let released = state == State::Waiting && other.is_terminal();
                assert_eq!(
                    decision == OnDependencyEdge::Release(other),
                    released,
                    "{state} {other}"
                );
                let mut placeholder = record(other);
                placeholder.placeholder = true;
                let decision = on_dependency_edge(Some(&placeholder), Some(&job));
                assert!(!matches!(decision, OnDependencyEdge::Release(_)));
            }
        }
        assert_eq!(
            on_dependency_edge(Some(&record(State::Failed)), None),
            OnDependencyEdge::Keep
        );
    }

    #[test]
    fn dependency_that_has_finished_releases_a_job_whatever_its_condition() {
        let blocked_on = |on: &str| {
            let waits =
                json!({"dependencies": [{"job": "j", "on": on}], "since": "2026-12-24T16:00:00Z"});
            with_fields(&record(State::Waiting), &json!({"waits": waits}))
        };
        let dependency = record(State::Succeeded);
        let decide = |job: Record| on_dependency_edge(Some(&dependency), Some(&job));
        let release = OnDependencyEdge::Release(State::Succeeded);
        assert_eq!(decide(blocked_on("finished")), release);
        // only a later version knows this one: the worker that gets the job decides
        assert_eq!(decide(blocked_on("started")), release);
    }

    #[test]
    fn orphaned_message_is_replaced_only_if_a_job_runs_by_it() {
        assert!(!needs_replacement_message(None, 7));
        let mut placeholder = record(State::Queued);
        placeholder.placeholder = true;
        assert!(!needs_replacement_message(Some(&placeholder), 7));
        for state in State::ALL {
            let job = record(state);
            assert!(!needs_replacement_message(Some(&job), 7), "{state}");
            let lease = json!({"worker_id": "w", "sequence": 7, "delivery": 1});
            let job = with_fields(&job, &json!({"lease": lease}));
            assert_eq!(
                needs_replacement_message(Some(&job), 7),
                needs_message(&job),
                "{state}"
            );
            assert!(!needs_replacement_message(Some(&job), 6), "{state}");
        }
    }

    #[test]
    fn message_without_a_record_may_never_have_run_until_its_record_could_have_expired() {
        let hours = |count: u64| Duration::from_secs(count * 3_600);
        assert!(may_have_never_run(None, hours(1), hours(2)));
        assert!(!may_have_never_run(None, hours(2), hours(2)));
        let mut envelope = Envelope::command("x", [] as [&str; 0]);
        envelope.result_ttl = Some(naq_protocol::units::WireDuration(hours(1)));
        assert!(!may_have_never_run(Some(&envelope), hours(1), hours(2)));
        assert!(may_have_never_run(None, hours(9), Duration::ZERO));
    }

    #[test]
    fn lost_job_fails() {
        for state in State::ALL {
            let needs = needs_message(&record(state));
            let with_message = [
                State::Scheduled,
                State::Queued,
                State::Running,
                State::Retrying,
            ];
            assert_eq!(needs, with_message.contains(&state), "{state}");
        }
        let ended = fail_lost_job(record(State::Running), Timestamp::from_unix_ms(5).unwrap());
        assert_eq!(
            (ended.state(), ended.reason()),
            (State::Failed, Some(Reason::Lost))
        );
        assert!(ended.finished_at().is_some() && ended.lease().is_none());
    }
}
