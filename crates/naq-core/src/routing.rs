//! Labels that a job requires of its worker.

use std::collections::BTreeMap;

use super::transition::reset_to_queued;
use naq_protocol::{Record, State};

/// Whether a worker with these labels has all that is required.
#[must_use]
pub fn has_required_labels(
    labels: &BTreeMap<String, String>,
    requires: &BTreeMap<String, String>,
) -> bool {
    requires
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// What becomes of the record of a job that a worker got and hands on to others, since it has
/// not the labels the job requires. None where there is nothing to write.
///
/// `running` is the record the worker would write if it ran the job itself. Two things of it have
/// to be kept: that a worker died under the job, whose lease is on the message that is about to
/// be replaced, so that the new one would be taken for surplus; and that what the job waited for
/// has ended, the records of which may be gone when it is run.
#[must_use]
pub fn rerouted_record(present: Option<&Record>, mut running: Box<Record>) -> Option<Box<Record>> {
    let present = present.filter(|record| !record.placeholder);
    let is_news = match present {
        None => running.dependencies_met,
        Some(present) => {
            matches!(present.state, State::Running | State::Waiting)
                || present.dependencies_met != running.dependencies_met
        }
    };
    if !is_news {
        return None;
    }
    running.attempt = present.map_or(0, |present| present.attempt);
    running.worker_id = present.and_then(|present| present.worker_id.clone());
    running.lease = None;
    reset_to_queued(&mut running);
    Some(running)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ConcurrencySlot, DeliveryContext, DeliveryDecision, DependencyStatus, decide_delivery,
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
            worker_id: "w".to_owned(),
            now: Timestamp::from_unix_ms(1_000).unwrap(),
            max_worker_crashes: 3,
            envelope_digest: String::new(),
            lease_message_missing: false,
            cancel_requested: false,
            dependency_statuses: None,
            slot: ConcurrencySlot::NotRequested,
            traceparent: None,
            scheduled_for: None,
        }
    }

    #[test]
    fn every_label_counts_and_no_other() {
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
    fn a_job_handed_on_after_a_crash_is_run_by_its_new_message() {
        let envelope = Envelope::parse(br#"{"command":"x"}"#).unwrap();
        let run = |record: Option<&Record>, facts: &DeliveryContext| match decide_delivery(
            record, &envelope, facts,
        ) {
            DeliveryDecision::Run(record) => record,
            other => panic!("{other:?}"),
        };
        let running = run(None, &delivered(1, 1));
        // its worker died; another gets the message and hands the job on as message 2
        assert!(matches!(
            decide_delivery(Some(&running), &envelope, &delivered(2, 1)),
            DeliveryDecision::DuplicateMessage
        ));
        let again = run(Some(&running), &delivered(1, 2));
        let handed_on = rerouted_record(Some(&running), again).unwrap();
        assert_eq!(
            (handed_on.state, handed_on.attempt, handed_on.crashes),
            (State::Queued, 1, 1)
        );
        let again = run(Some(&handed_on), &delivered(2, 1));
        assert_eq!((again.attempt, again.crashes), (2, 1));
        // and the first message, should it come once more, is surplus beside it
        assert!(matches!(
            decide_delivery(Some(&again), &envelope, &delivered(1, 3)),
            DeliveryDecision::DuplicateMessage
        ));
        // what has no news is not written
        assert!(rerouted_record(Some(&handed_on), again).is_none());
        assert!(rerouted_record(None, run(None, &delivered(1, 1))).is_none());
    }

    #[test]
    fn a_job_handed_on_does_not_wait_again() {
        let envelope = Envelope::parse(br#"{"command":"x","depends_on":["a"]}"#).unwrap();
        let mut facts = delivered(1, 1);
        let DeliveryDecision::ResolveDependencies(open) = decide_delivery(None, &envelope, &facts)
        else {
            panic!("it looks first");
        };
        let ended = DependencyStatus::Finished(State::Succeeded);
        facts.dependency_statuses = Some(open.into_iter().map(|one| (one, ended)).collect());
        let DeliveryDecision::Run(running) = decide_delivery(None, &envelope, &facts) else {
            panic!("it may begin");
        };
        let handed_on = rerouted_record(None, running).unwrap();
        assert_eq!((handed_on.state, handed_on.attempt), (State::Queued, 0));
        // the record of what it waited for may be gone by now
        assert!(matches!(
            decide_delivery(Some(&handed_on), &envelope, &delivered(2, 1)),
            DeliveryDecision::Run(_)
        ));
    }

    fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
        proptest::collection::btree_map("[abc]", "[xy]", 0..4)
    }

    proptest! {
        #[test]
        fn more_labels_satisfy_no_less(have in labels(), more in labels(), requires in labels()) {
            let mut all = more;
            all.extend(have.clone());
            prop_assert!(!has_required_labels(&have, &requires) || has_required_labels(&all, &requires));
            prop_assert!(has_required_labels(&requires, &requires));
        }

        #[test]
        fn more_required_is_not_easier(have in labels(), requires in labels(), more in labels()) {
            let mut all = more;
            all.extend(requires.clone());
            prop_assert!(!has_required_labels(&have, &all) || has_required_labels(&have, &requires));
        }
    }
}
