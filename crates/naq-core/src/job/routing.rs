//! Routing: which worker has the labels that a job requires, and what the record keeps when a
//! worker reroutes a job that it received but cannot run.

use std::collections::BTreeMap;

use naq_protocol::{Record, State};

use super::transition::reset_to_queued;

/// Whether a worker's `labels` include every required label with the required value.
#[must_use]
pub fn has_required_labels(
    labels: &BTreeMap<String, String>,
    requires: &BTreeMap<String, String>,
) -> bool {
    requires
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// The record to write when a worker reroutes a job because it lacks the labels that the job
/// requires. `None` means that nothing has to be written.
///
/// `running` is the record that the worker would write if it ran the job itself. The new record
/// keeps two facts of it:
///
/// - A worker crashed during the job. That worker's lease names the message that is about to be
///   replaced; with the lease still in the record, the new message would be a duplicate.
/// - The job's dependencies are satisfied. Their records may have expired when the job runs.
#[must_use]
pub fn rerouted_record(present: Option<&Record>, mut running: Box<Record>) -> Option<Box<Record>> {
    let present = present.filter(|record| !record.placeholder);
    let has_changed = match present {
        None => running.dependencies_met,
        Some(present) => {
            matches!(present.state(), State::Running | State::Waiting)
                || present.dependencies_met != running.dependencies_met
        }
    };
    if !has_changed {
        return None;
    }
    running.attempt = present.map_or(0, |present| present.attempt);
    running.worker_id = present.and_then(|present| present.worker_id.clone());
    reset_to_queued(&mut running);
    Some(running)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ConcurrencySlot, DeliveryContext, DeliveryDecision, DependencyStatus, LeaseEnd, RunAlone,
        decide_delivery,
    };
    use naq_protocol::{Envelope, JobId, QueueName, Timestamp};
    use proptest::prelude::*;

    fn set(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn delivered(sequence: u64, delivery: u64) -> DeliveryContext {
        DeliveryContext {
            job_id: JobId::new("j").unwrap(),
            queue: QueueName::new("q").unwrap(),
            sequence,
            delivery,
            enqueue_time: Timestamp::from_unix_ms(0).unwrap(),
            has_sequence_id: false,
            worker_id: "w".to_owned(),
            now: Timestamp::from_unix_ms(1_000).unwrap(),
            max_worker_crashes: 3,
            envelope_digest: String::new(),
            lease_message_missing: false,
            ended_lease: None,
            cancel_requested: false,
            dependency_statuses: None,
            slot: ConcurrencySlot::NotRequested,
            alone: RunAlone::Granted,
            claimed_ahead: false,
            traceparent: None,
            scheduled_for: None,
        }
    }

    #[test]
    fn required_labels_must_all_match() {
        let labels = set(&[("gpu", "yes"), ("zone", "a")]);
        assert!(has_required_labels(&labels, &set(&[])));
        assert!(has_required_labels(&labels, &set(&[("gpu", "yes")])));
        assert!(has_required_labels(&labels, &labels));
        assert!(!has_required_labels(&labels, &set(&[("gpu", "no")])));
        assert!(!has_required_labels(
            &labels,
            &set(&[("gpu", "yes"), ("disk", "")])
        ));
        assert!(!has_required_labels(&set(&[]), &set(&[("gpu", "yes")])));
    }

    #[test]
    fn job_rerouted_after_a_crash_runs_by_its_new_message() {
        let envelope = Envelope::parse(br#"{"command":"x"}"#).unwrap();
        let run = |record: Option<&Record>, context: &DeliveryContext| match decide_delivery(
            record, &envelope, context,
        ) {
            DeliveryDecision::Run(record) => record,
            DeliveryDecision::AskHolder(lease) => {
                let mut context = context.clone();
                context.ended_lease = Some((lease, LeaseEnd::Crashed));
                match decide_delivery(record, &envelope, &context) {
                    DeliveryDecision::Run(record) => record,
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{other:?}"),
        };
        let running = run(None, &delivered(1, 1));
        // The worker crashed. Another one receives the redelivery and reroutes the job as message 2.
        assert!(matches!(
            decide_delivery(Some(&running), &envelope, &delivered(2, 1)),
            DeliveryDecision::DuplicateMessage
        ));
        let again = run(Some(&running), &delivered(1, 2));
        let rerouted = rerouted_record(Some(&running), again).unwrap();
        assert_eq!(
            (rerouted.state(), rerouted.attempt, rerouted.crashes),
            (State::Queued, 1, 1)
        );
        let again = run(Some(&rerouted), &delivered(2, 1));
        assert_eq!((again.attempt, again.crashes), (2, 1));
        // Another redelivery of the first message is a duplicate of it.
        assert!(matches!(
            decide_delivery(Some(&again), &envelope, &delivered(1, 3)),
            DeliveryDecision::DuplicateMessage
        ));
        // Without a change, nothing is written.
        assert!(rerouted_record(Some(&rerouted), again).is_none());
        assert!(rerouted_record(None, run(None, &delivered(1, 1))).is_none());
    }

    #[test]
    fn rerouted_job_is_not_blocked_again() {
        let envelope = Envelope::parse(br#"{"command":"x","depends_on":["a"]}"#).unwrap();
        let mut context = delivered(1, 1);
        let DeliveryDecision::ResolveDependencies(open) =
            decide_delivery(None, &envelope, &context)
        else {
            panic!("the dependencies were not resolved");
        };
        let ended = |one| (one, DependencyStatus::Finished(State::Succeeded));
        context.dependency_statuses = Some(open.into_iter().map(ended).collect());
        let DeliveryDecision::Run(running) = decide_delivery(None, &envelope, &context) else {
            panic!("the job does not start");
        };
        let rerouted = rerouted_record(None, running).unwrap();
        assert_eq!((rerouted.state(), rerouted.attempt), (State::Queued, 0));
        // The record of the dependency may have expired by now.
        assert!(matches!(
            decide_delivery(Some(&rerouted), &envelope, &delivered(2, 1)),
            DeliveryDecision::Run(_)
        ));
    }

    fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
        proptest::collection::btree_map("[abc]", "[xy]", 0..4)
    }

    proptest! {
        #[test]
        fn more_worker_labels_satisfy_no_less(have in labels(), more in labels(), requires in labels()) {
            let mut all = more;
            all.extend(have.clone());
            prop_assert!(!has_required_labels(&have, &requires) || has_required_labels(&all, &requires));
            prop_assert!(has_required_labels(&requires, &requires));
        }

        #[test]
        fn more_required_labels_are_satisfied_no_more_often(have in labels(), requires in labels(), more in labels()) {
            let mut all = more;
            all.extend(requires.clone());
            prop_assert!(!has_required_labels(&have, &all) || has_required_labels(&have, &requires));
        }
    }
}
