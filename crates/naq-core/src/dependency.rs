//! What a job's dependencies mean for it.

use naq_protocol::{Dependency, DependencyCondition, JobId, State};

/// What is known of a job that another depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DependencyStatus {
    /// It has ended so.
    Finished(State),
    /// It has a record, and goes on.
    Active,
    /// No worker has seen it, and its message is in a queue.
    Queued,
    /// There is no record of it. (Whether there is a message is looked up only where it matters.)
    Missing,
    /// It waits, over whatever others, for the very job that depends on it.
    Circular,
}

/// Whether a job that has ended so is what a dependency asks for.
#[must_use]
pub fn satisfies_condition(on: DependencyCondition, ended: State) -> bool {
    match on {
        DependencyCondition::Success => ended == State::Succeeded,
        DependencyCondition::Failure => ended != State::Succeeded,
        DependencyCondition::Finished => true,
    }
}

/// What some dependencies come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluation {
    /// Every one has ended as it has to.
    Satisfied,
    /// Some are still to end.
    Pending {
        /// Those.
        open: Vec<Dependency>,
        /// Some of them have no record: they may never have been enqueued.
        unrecorded: bool,
    },
    /// It can no longer come true.
    Unsatisfiable(String),
}

/// Weighs dependencies by what is known of each. Where the time for missing ones is over, those
/// that are nowhere, and those that wait in a circle, count as impossible.
#[must_use]
pub fn evaluate(known: &[(Dependency, DependencyStatus)], is_late: bool) -> Evaluation {
    let spoiled =
        |job: &JobId, how: &str| Evaluation::Unsatisfiable(format!("it depends on {job}, {how}"));
    for (dependency, prospect) in known {
        match prospect {
            DependencyStatus::Finished(state) if !satisfies_condition(dependency.on, *state) => {
                return spoiled(
                    &dependency.job,
                    &format!("which is {state}, not as asked ({})", dependency.on),
                );
            }
            DependencyStatus::Missing if is_late => {
                return spoiled(&dependency.job, "which was not enqueued in time");
            }
            DependencyStatus::Circular if is_late => {
                return spoiled(&dependency.job, "which itself waits for this job");
            }
            _ => {}
        }
    }
    let is_open = |prospect: &DependencyStatus| !matches!(prospect, DependencyStatus::Finished(_));
    let open: Vec<Dependency> = known
        .iter()
        .filter(|(_, prospect)| is_open(prospect))
        .map(|(dependency, _)| dependency.clone())
        .collect();
    if open.is_empty() {
        return Evaluation::Satisfied;
    }
    let unrecorded = known.iter().any(|(_, prospect)| {
        matches!(
            prospect,
            DependencyStatus::Queued | DependencyStatus::Missing
        )
    });
    Evaluation::Pending { open, unrecorded }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn on(job: &str, on: DependencyCondition) -> Dependency {
        Dependency {
            job: JobId::new(job).unwrap(),
            on,
        }
    }

    #[test]
    fn conditions_are_met_by_their_ends() {
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
                    met_by.contains(&state),
                    "{condition} {state}"
                );
                assert!(satisfies_condition(DependencyCondition::Finished, state));
            }
        }
    }

    #[test]
    fn the_missing_are_named_once_their_time_is_over() {
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
            panic!("still open");
        };
        assert!(why.contains("ghost"), "{why}");
        // one whose message is there is waited for on
        let known = [(
            on("slow", DependencyCondition::Success),
            DependencyStatus::Queued,
        )];
        assert!(matches!(evaluate(&known, true), Evaluation::Pending { .. }));
    }

    fn any_prospect() -> impl Strategy<Value = DependencyStatus> {
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
        ]
    }

    proptest! {
        /// What is met stays met, what is impossible stays so, and waiting goes on only where
        /// something can still come.
        #[test]
        fn the_verdict_follows_from_the_parts(
            known in proptest::collection::vec(
                (proptest::sample::select(vec![DependencyCondition::Success, DependencyCondition::Failure, DependencyCondition::Finished]), any_prospect()),
                1..6,
            ),
            is_late in any::<bool>(),
        ) {
            let known: Vec<_> = known
                .into_iter()
                .enumerate()
                .map(|(at, (condition, prospect))| (on(&format!("d{at}"), condition), prospect))
                .collect();
            let spoiled = known.iter().any(|(dependency, prospect)| match prospect {
                DependencyStatus::Finished(state) => !satisfies_condition(dependency.on, *state),
                DependencyStatus::Missing | DependencyStatus::Circular => is_late,
                DependencyStatus::Active | DependencyStatus::Queued => false,
            });
            let all_ended = known.iter().all(|(_, prospect)| matches!(prospect, DependencyStatus::Finished(_)));
            match evaluate(&known, is_late) {
                Evaluation::Unsatisfiable(_) => prop_assert!(spoiled),
                Evaluation::Satisfied => prop_assert!(!spoiled && all_ended),
                Evaluation::Pending { open, .. } => {
                    prop_assert!(!spoiled && !all_ended);
                    prop_assert!(!open.is_empty());
                }
            }
        }
    }
}
