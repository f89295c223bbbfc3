//! What a job's dependencies mean for it.

use naq_protocol::{Condition, Dependency, JobId, State};

/// What is known of a job that another depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// It has ended so.
    Ended(State),
    /// It has a record, and goes on.
    Alive,
    /// No worker has seen it, and its message is in a queue.
    Queued,
    /// There is no record of it. (Whether there is a message is looked up only where it matters.)
    Missing,
    /// It waits, over whatever others, for the very job that depends on it.
    Circular,
}

/// Whether a job that has ended so is what a dependency asks for.
#[must_use]
pub fn meets(on: Condition, ended: State) -> bool {
    match on {
        Condition::Success => ended == State::Succeeded,
        Condition::Failure => ended != State::Succeeded,
        Condition::Finished => true,
    }
}

/// What some dependencies come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weighed {
    /// Every one has ended as it has to.
    Met,
    /// Some are still to end.
    Open {
        /// Those.
        open: Vec<Dependency>,
        /// Some of them have no record: they may never have been enqueued.
        unrecorded: bool,
    },
    /// It can no longer come true.
    Impossible(String),
}

/// Weighs dependencies by what is known of each. Where the time for missing ones is over, those
/// that are nowhere, and those that wait in a circle, count as impossible.
#[must_use]
pub fn weigh(known: &[(Dependency, Prospect)], is_late: bool) -> Weighed {
    let spoiled =
        |job: &JobId, how: &str| Weighed::Impossible(format!("it depends on {job}, {how}"));
    for (dependency, prospect) in known {
        match prospect {
            Prospect::Ended(state) if !meets(dependency.on, *state) => {
                return spoiled(
                    &dependency.job,
                    &format!("which is {state}, not as asked ({})", dependency.on),
                );
            }
            Prospect::Missing if is_late => {
                return spoiled(&dependency.job, "which was not enqueued in time");
            }
            Prospect::Circular if is_late => {
                return spoiled(&dependency.job, "which itself waits for this job");
            }
            _ => {}
        }
    }
    let is_open = |prospect: &Prospect| !matches!(prospect, Prospect::Ended(_));
    let open: Vec<Dependency> = known
        .iter()
        .filter(|(_, prospect)| is_open(prospect))
        .map(|(dependency, _)| dependency.clone())
        .collect();
    if open.is_empty() {
        return Weighed::Met;
    }
    let unrecorded = known
        .iter()
        .any(|(_, prospect)| matches!(prospect, Prospect::Queued | Prospect::Missing));
    Weighed::Open { open, unrecorded }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn on(job: &str, on: Condition) -> Dependency {
        Dependency {
            job: JobId::new(job).unwrap(),
            on,
        }
    }

    #[test]
    fn conditions_are_met_by_their_ends() {
        for (condition, met_by) in [
            (Condition::Success, vec![State::Succeeded]),
            (
                Condition::Failure,
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
                    meets(condition, state),
                    met_by.contains(&state),
                    "{condition} {state}"
                );
                assert!(meets(Condition::Finished, state));
            }
        }
    }

    #[test]
    fn the_missing_are_named_once_their_time_is_over() {
        let known = [(on("ghost", Condition::Success), Prospect::Missing)];
        assert!(matches!(
            weigh(&known, false),
            Weighed::Open {
                unrecorded: true,
                ..
            }
        ));
        let Weighed::Impossible(why) = weigh(&known, true) else {
            panic!("still open");
        };
        assert!(why.contains("ghost"), "{why}");
        // one whose message is there is waited for on
        let known = [(on("slow", Condition::Success), Prospect::Queued)];
        assert!(matches!(weigh(&known, true), Weighed::Open { .. }));
    }

    fn any_prospect() -> impl Strategy<Value = Prospect> {
        prop_oneof![
            proptest::sample::select(State::ALL.to_vec()).prop_map(|state| {
                if state.is_terminal() {
                    Prospect::Ended(state)
                } else {
                    Prospect::Alive
                }
            }),
            Just(Prospect::Queued),
            Just(Prospect::Missing),
            Just(Prospect::Circular),
        ]
    }

    proptest! {
        /// What is met stays met, what is impossible stays so, and waiting goes on only where
        /// something can still come.
        #[test]
        fn the_verdict_follows_from_the_parts(
            known in proptest::collection::vec(
                (proptest::sample::select(vec![Condition::Success, Condition::Failure, Condition::Finished]), any_prospect()),
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
                Prospect::Ended(state) => !meets(dependency.on, *state),
                Prospect::Missing | Prospect::Circular => is_late,
                Prospect::Alive | Prospect::Queued => false,
            });
            let all_ended = known.iter().all(|(_, prospect)| matches!(prospect, Prospect::Ended(_)));
            match weigh(&known, is_late) {
                Weighed::Impossible(_) => prop_assert!(spoiled),
                Weighed::Met => prop_assert!(!spoiled && all_ended),
                Weighed::Open { open, .. } => {
                    prop_assert!(!spoiled && !all_ended);
                    prop_assert!(!open.is_empty());
                }
            }
        }
    }
}
