//! What a job's dependencies mean for it: run, wait on, or fail.

use naq_protocol::{Dependency, DependencyCondition, JobId, State};

/// What is known about a job that another one depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DependencyStatus {
    /// It has finished in this state.
    Finished(State),
    /// It has a record and has not finished.
    Active,
    /// No worker has seen it; its message is in a queue.
    Queued,
    /// It has no record. (Whether it has a message is looked up only if that matters.)
    Missing,
    /// It waits, directly or through other jobs, for the job that depends on it.
    Circular,
    /// It has a record that cannot be read, for this reason. Nothing in naq replaces such a record.
    Unreadable(String),
}

/// Whether a job that finished in the state `ended` satisfies the condition of a dependency. `None`
/// means that only a later version knows the condition: the job that waits is released, and the
/// worker that gets it decides.
#[must_use]
pub fn satisfies_condition(on: DependencyCondition, ended: State) -> Option<bool> {
    match on {
        DependencyCondition::Success => Some(ended == State::Succeeded),
        DependencyCondition::Failure => Some(ended != State::Succeeded),
        DependencyCondition::Finished => Some(true),
        DependencyCondition::Unknown(_) => None,
    }
}

/// What a job's dependencies come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluation {
    /// Every dependency finished as its condition requires.
    Satisfied,
    /// Some have not finished.
    Pending {
        /// The unfinished ones.
        open: Vec<Dependency>,
        /// Whether some of them have no record: they may never have been enqueued.
        unrecorded: bool,
    },
    /// One of them can no longer be satisfied, for this reason.
    Unsatisfiable(String),
}

/// Evaluates dependencies by what is known about each. If `is_late`, the time for missing ones is
/// over: missing and circular dependencies count as unsatisfiable. So does, at any time, a dependency
/// whose record cannot be read, or that has finished if only a later version knows its condition:
/// nothing that happens later would decide it here.
#[must_use]
pub fn evaluate(known: &[(Dependency, DependencyStatus)], is_late: bool) -> Evaluation {
    let unsatisfiable =
        |job: &JobId, how: &str| Evaluation::Unsatisfiable(format!("it depends on {job}, {how}"));
    for (dependency, status) in known {
        match status {
            DependencyStatus::Finished(state) => match satisfies_condition(dependency.on, *state) {
                Some(true) => {}
                Some(false) => {
                    return unsatisfiable(
                        &dependency.job,
                        &format!("which is {state} (the condition is {})", dependency.on),
                    );
                }
                None => {
                    return unsatisfiable(
                        &dependency.job,
                        &format!(
                            "which is {state}, and this version of naq does not know the condition `{}`: upgrade the workers of the queue",
                            dependency.on
                        ),
                    );
                }
            },
            DependencyStatus::Missing if is_late => {
                return unsatisfiable(&dependency.job, "which was not enqueued in time");
            }
            DependencyStatus::Circular if is_late => {
                return unsatisfiable(&dependency.job, "which itself waits for this job");
            }
            DependencyStatus::Unreadable(why) => {
                return unsatisfiable(&dependency.job, &format!("and {why}"));
            }
            DependencyStatus::Active
            | DependencyStatus::Queued
            | DependencyStatus::Missing
            | DependencyStatus::Circular => {}
        }
    }
    let is_open = |status: &DependencyStatus| !matches!(status, DependencyStatus::Finished(_));
    let open: Vec<Dependency> = known
        .iter()
        .filter(|(_, status)| is_open(status))
        .map(|(dependency, _)| dependency.clone())
        .collect();
    if open.is_empty() {
        return Evaluation::Satisfied;
    }
    let unrecorded = known
        .iter()
        .any(|(_, status)| matches!(status, DependencyStatus::Queued | DependencyStatus::Missing));
    Evaluation::Pending { open, unrecorded }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn on(job: &str, on: DependencyCondition) -> Dependency {
        Dependency::new(JobId::new(job).unwrap(), on)
    }

    #[test]
    fn dependency_conditions_are_satisfied_by_their_states() {
        for (condition, met_by) in [
            (DependencyCondition::Success, vec![State::Succeeded]),
            (
                DependencyCondition::Failure,
                vec![
                    State::Failed,
                    State::Cancelled,
                    State::Expired,
                    State::Rejected,
                ],
            ),
        ] {
            for state in State::ALL.into_iter().filter(|state| state.is_terminal()) {
                assert_eq!(
                    satisfies_condition(condition, state),
                    Some(met_by.contains(&state)),
                    "{condition} {state}"
                );
                assert_eq!(
                    satisfies_condition(DependencyCondition::Finished, state),
                    Some(true)
                );
            }
        }
    }

    #[test]
    fn missing_dependency_is_named_after_its_timeout() {
        let known = [(
            on("ghost", DependencyCondition::Success),
            DependencyStatus::Missing,
        )];
        assert!(matches!(
            evaluate(&known, false),
            Evaluation::Pending {
                unrecorded: true,
                ..
            }
        ));
        let Evaluation::Unsatisfiable(why) = evaluate(&known, true) else {
            panic!("still pending");
        };
        assert!(why.contains("ghost"), "{why}");
        // A dependency whose message is in a queue is still waited for.
        let known = [(
            on("slow", DependencyCondition::Success),
            DependencyStatus::Queued,
        )];
        assert!(matches!(evaluate(&known, true), Evaluation::Pending { .. }));
    }

    #[test]
    fn dependency_with_a_condition_of_a_later_version_is_open_until_it_has_finished() {
        let later: DependencyCondition = serde_json::from_str("\"started\"").unwrap();
        let evaluated = |status| {
            let met = DependencyStatus::Finished(State::Succeeded);
            let met = (on("met", DependencyCondition::Success), met);
            evaluate(&[(on("later", later), status), met], false)
        };
        for status in [DependencyStatus::Active, DependencyStatus::Missing] {
            let Evaluation::Pending { open, .. } = evaluated(status.clone()) else {
                panic!("{status:?} decided a condition that only a later version knows");
            };
            assert_eq!(open, [on("later", later)]);
        }
        for state in [State::Succeeded, State::Failed] {
            let Evaluation::Unsatisfiable(why) = evaluated(DependencyStatus::Finished(state))
            else {
                panic!("it would wait forever");
            };
            assert!(
                why.contains("`started`") && why.contains("upgrade"),
                "{why}"
            );
        }
    }

    #[test]
    fn unreadable_dependency_is_unsatisfiable_whatever_its_condition() {
        for condition in [
            DependencyCondition::Success,
            DependencyCondition::Failure,
            DependencyCondition::Finished,
        ] {
            let why = "the record of bad cannot be read: EOF".to_owned();
            let known = [(on("bad", condition), DependencyStatus::Unreadable(why))];
            assert_eq!(
                evaluate(&known, false),
                Evaluation::Unsatisfiable(
                    "it depends on bad, and the record of bad cannot be read: EOF".to_owned()
                )
            );
        }
    }

    fn any_status() -> impl Strategy<Value = DependencyStatus> {
        prop_oneof![
            proptest::sample::select(State::ALL.to_vec()).prop_map(|state| {
                if state.is_terminal() {
                    DependencyStatus::Finished(state)
                } else {
                    DependencyStatus::Active
                }
            }),
            Just(DependencyStatus::Queued),
            Just(DependencyStatus::Missing),
            Just(DependencyStatus::Circular),
            Just(DependencyStatus::Unreadable("it is no record".to_owned())),
        ]
    }

    proptest! {
        /// The evaluation is satisfied if all dependencies are, unsatisfiable if one is, and pending
        /// otherwise.
        #[test]
        fn dependency_evaluation_follows_from_each_status(
            known in proptest::collection::vec(
                (proptest::sample::select(vec![DependencyCondition::Success, DependencyCondition::Failure, DependencyCondition::Finished]), any_status()),
                1..6,
            ),
            is_late in any::<bool>(),
        ) {
            let known: Vec<_> = known
                .into_iter()
                .enumerate()
                .map(|(at, (condition, status))| (on(&format!("d{at}"), condition), status))
                .collect();
            let unsatisfiable = known.iter().any(|(dependency, status)| match status {
                DependencyStatus::Finished(state) => satisfies_condition(dependency.on, *state) == Some(false),
                DependencyStatus::Missing | DependencyStatus::Circular => is_late,
                DependencyStatus::Unreadable(_) => true,
                DependencyStatus::Active | DependencyStatus::Queued => false,
            });
            let all_ended = known.iter().all(|(_, status)| matches!(status, DependencyStatus::Finished(_)));
            match evaluate(&known, is_late) {
                Evaluation::Unsatisfiable(_) => prop_assert!(unsatisfiable),
                Evaluation::Satisfied => prop_assert!(!unsatisfiable && all_ended),
                Evaluation::Pending { open, .. } => {
                    prop_assert!(!unsatisfiable && !all_ended);
                    prop_assert!(!open.is_empty());
                }
            }
        }
    }
}
