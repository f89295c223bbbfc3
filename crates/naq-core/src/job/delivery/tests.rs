use super::*;
use crate::job::stored_record::with_fields;
use crate::{AttemptEnd, FinishedAttempt, OnEnd, end_attempt};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_ms(1_800_000_000_000 + seconds * 1_000).unwrap()
}

fn delivered(sequence: u64, worker: &str, now: i64) -> DeliveryContext {
    DeliveryContext {
        job_id: JobId::new("j").unwrap(),
        queue: QueueName::new("q").unwrap(),
        sequence,
        delivery: 1,
        enqueue_time: at(0),
        has_sequence_id: false,
        worker_id: worker.to_owned(),
        now: at(now),
        max_worker_crashes: 3,
        envelope_digest: "same".to_owned(),
        lease_message_missing: false,
        ended_lease: None,
        cancel_requested: false,
        dependency_statuses: None,
        slot: ConcurrencySlot::NotRequested,
        // a worker that runs one job at a time, unless a test says otherwise
        alone: RunAlone::Granted,
        claimed_ahead: false,
        traceparent: None,
        scheduled_for: None,
    }
}

fn attempt(end: AttemptEnd, now: i64) -> FinishedAttempt {
    FinishedAttempt {
        end,
        error: None,
        retry_after: None,
        now: at(now),
        random: 1.0,
        max_worker_crashes: 3,
    }
}

fn job(max_retries: u32) -> Envelope {
    Envelope {
        max_retries: Some(max_retries),
        ..Envelope::command("x", [] as [&str; 0])
    }
}

fn claimed(
    record: Option<&Record>,
    envelope: &Envelope,
    delivered: &DeliveryContext,
) -> Box<Record> {
    match decide_after_crash(record, envelope, delivered) {
        DeliveryDecision::Run(record) => record,
        other => panic!("not claimed: {other:?}"),
    }
}

/// Decides, given that the worker of a lease on the job is gone.
fn decide_after_crash(
    record: Option<&Record>,
    envelope: &Envelope,
    delivered: &DeliveryContext,
) -> DeliveryDecision {
    match decide_delivery(record, envelope, delivered) {
        DeliveryDecision::AskHolder(lease) => decide_delivery(
            record,
            envelope,
            &ended(delivered, lease, LeaseEnd::Crashed),
        ),
        decision => decision,
    }
}

fn ended(delivered: &DeliveryContext, lease: Lease, end: LeaseEnd) -> DeliveryContext {
    DeliveryContext {
        ended_lease: Some((lease, end)),
        ..delivered.clone()
    }
}

#[test]
fn job_in_an_unknown_state_is_left_to_a_later_version() {
    let running = claimed(None, &job(0), &delivered(7, "w", 1));
    let record = with_fields(&running, &serde_json::json!({"state": "suspended"}));
    let later = DeliveryContext {
        delivery: 2,
        ..delivered(7, "v", 2)
    };
    assert!(matches!(
        decide_delivery(Some(&record), &job(0), &later),
        DeliveryDecision::Superseded
    ));
}

#[test]
fn first_delivery_claims_the_job() {
    let record = claimed(None, &job(0), &delivered(7, "w", 1));
    assert_eq!((record.state(), record.attempt), (State::Running, 1));
    assert_eq!(record.lease().unwrap().sequence, 7);
}

#[test]
fn another_envelope_under_the_same_id_is_compared_in_every_state() {
    let first = claimed(None, &job(0), &delivered(7, "w", 1));
    let other = DeliveryContext {
        envelope_digest: "other".to_owned(),
        ..delivered(8, "v", 2)
    };
    for state in State::ALL {
        let record = with_fields(&first, &serde_json::json!({"state": state}));
        assert!(matches!(
            decide_delivery(Some(&record), &job(0), &other),
            DeliveryDecision::CompareEnvelopes
        ));
    }
    // A record without a digest comes from an earlier version: the envelopes are not known to differ.
    let mut record = first;
    record.envelope_digest = None;
    assert!(matches!(
        decide_delivery(Some(&record), &job(0), &other),
        DeliveryDecision::DuplicateMessage
    ));
}

#[test]
fn second_message_of_a_running_job_is_a_duplicate() {
    let record = claimed(None, &job(0), &delivered(7, "w", 1));
    assert!(matches!(
        decide_delivery(Some(&record), &job(0), &delivered(8, "v", 2)),
        DeliveryDecision::DuplicateMessage
    ));
}

#[test]
fn lease_whose_message_is_gone_is_taken_over() {
    let first = claimed(None, &job(0), &delivered(7, "w", 1));
    let orphaned = DeliveryContext {
        lease_message_missing: true,
        ..delivered(8, "v", 2)
    };
    let second = claimed(Some(&first), &job(0), &orphaned);
    assert_eq!((second.attempt, second.crashes), (2, 1));
    assert_eq!(second.lease().unwrap().sequence, 8);
}

#[test]
fn delivery_counted_from_one_again_asks_the_holder_of_a_later_delivery() {
    let early = delivered(7, "slow", 1);
    let late = DeliveryContext {
        delivery: 2,
        ..delivered(7, "quick", 2)
    };
    let record = claimed(None, &job(0), &late);
    assert!(matches!(
        decide_delivery(Some(&record), &job(0), &early),
        DeliveryDecision::AskHolder(lease) if lease.worker_id == "quick"
    ));
    let next = claimed(Some(&record), &job(0), &early);
    assert_eq!((next.attempt, next.lease().unwrap().delivery), (2, 1));
}

#[test]
fn fence_grows_by_attempt_whatever_the_clocks_and_the_bucket_do() {
    let first = claimed(None, &job(0), &delivered(7, "ahead", 100));
    let behind = claimed(Some(&first), &job(0), &delivered(7, "behind", 40));
    assert_eq!(behind.fence, first.fence + 1);
    // The record is lost, and the revisions of the bucket start from 1 again.
    let after = claimed(None, &job(0), &delivered(1, "ahead", 101));
    assert!(after.fence > behind.fence);
}

#[test]
fn third_worker_crash_fails_the_job() {
    let envelope = job(0);
    let first = claimed(None, &envelope, &delivered(7, "a", 1));
    let second = claimed(Some(&first), &envelope, &delivered(7, "b", 2));
    let third = claimed(Some(&second), &envelope, &delivered(7, "c", 3));
    assert_eq!((third.attempt, third.crashes), (3, 2));
    let DeliveryDecision::End(record) =
        decide_after_crash(Some(&third), &envelope, &delivered(7, "d", 4))
    else {
        panic!("the job has not ended");
    };
    assert_eq!(
        (record.state(), record.reason()),
        (State::Failed, Some(Reason::Crashed))
    );
    let workers: Vec<_> = record
        .interruptions
        .iter()
        .map(|one| (one.worker_id.as_str(), one.at, one.crashed))
        .collect();
    assert_eq!(
        workers,
        [("a", at(2), true), ("b", at(3), true), ("c", at(4), true)]
    );
}

/// A delivery to a worker that runs other jobs too.
fn shared(sequence: u64, worker: &str, now: i64) -> DeliveryContext {
    DeliveryContext {
        alone: RunAlone::NotRequested,
        ..delivered(sequence, worker, now)
    }
}

/// A job whose worker, which ran other jobs too, has crashed, as the next worker gets it.
fn suspect() -> (Box<Record>, DeliveryContext) {
    let running = claimed(None, &job(0), &shared(7, "a", 1));
    let again = shared(7, "b", 2);
    let lease = running.lease().unwrap().clone();
    (running, ended(&again, lease, LeaseEnd::Crashed))
}

fn granted(delivered: &DeliveryContext, alone: RunAlone) -> DeliveryContext {
    DeliveryContext {
        alone,
        ..delivered.clone()
    }
}

#[test]
fn crash_that_other_jobs_may_have_caused_makes_a_suspect_and_counts_nothing() {
    let envelope = job(0);
    let (running, again) = suspect();
    assert!(matches!(
        decide_delivery(Some(&running), &envelope, &again),
        DeliveryDecision::RequestRunAlone
    ));
    let alone = granted(&again, RunAlone::Granted);
    let mut record = claimed(Some(&running), &envelope, &alone);
    assert!(record.suspect && record.lease().unwrap().alone);
    assert_eq!((record.crashes, record.shared_crashes), (0, 1));
    let crash = &record.interruptions[0];
    assert!(crash.crashed && crash.shared);
    // From then on each crash counts, and none uses up a retry.
    for (crashes, worker) in [(1, "c"), (2, "d")] {
        record = claimed(Some(&record), &envelope, &delivered(7, worker, 3));
        assert_eq!((record.crashes, record.shared_crashes), (crashes, 1));
    }
    let DeliveryDecision::End(record) =
        decide_after_crash(Some(&record), &envelope, &shared(7, "e", 4))
    else {
        panic!("the job has not ended");
    };
    assert_eq!(record.reason(), Some(Reason::Crashed));
    assert_eq!((record.attempt, record.crashes), (4, 3));
    assert!(!record.suspect, "the matter is settled");
}

#[test]
fn suspect_that_cannot_run_alone_is_postponed() {
    let envelope = job(0);
    let (running, again) = suspect();
    let mut refused = granted(&again, RunAlone::Refused);
    let DeliveryDecision::Postpone(record, due) =
        decide_delivery(Some(&running), &envelope, &refused)
    else {
        panic!("not postponed");
    };
    assert_eq!((record.state(), due), (State::Retrying, at(4)));
    assert_eq!(record.superseded_sequence, Some(7));
    assert_eq!((record.attempt, record.shared_crashes), (1, 1));
    // The longer it waits, the less often it is tried.
    for (now, wait) in [(10, 2), (82, 10), (2_000, 30)] {
        refused.now = at(now);
        let DeliveryDecision::Postpone(_, due) =
            decide_delivery(Some(&record), &envelope, &refused)
        else {
            panic!("not postponed");
        };
        assert_eq!(due, at(now + wait));
    }
    let alone = granted(&refused, RunAlone::Granted);
    let next = claimed(Some(&record), &envelope, &alone);
    assert_eq!((next.attempt, next.crashes, next.shared_crashes), (2, 0, 1));
}

#[test]
fn ordinary_end_clears_the_suspicion() {
    let envelope = job(3);
    for end in [
        AttemptEnd::Exited(0),
        AttemptEnd::Exited(1),
        AttemptEnd::Signalled(9),
        AttemptEnd::TimedOut,
    ] {
        let (running, again) = suspect();
        let alone = claimed(
            Some(&running),
            &envelope,
            &granted(&again, RunAlone::Granted),
        );
        match end_attempt(alone, &envelope, &attempt(end, 3)) {
            OnEnd::Finish { record, .. } => assert!(!record.suspect),
            OnEnd::Retry { record, .. } => {
                assert!(!record.suspect);
                let next = claimed(Some(&record), &envelope, &shared(9, "b", 90_000));
                assert!(!next.lease().unwrap().alone);
            }
            OnEnd::Requeue { .. } => panic!("requeued"),
        }
    }
    // A drain says nothing about the job.
    let (running, again) = suspect();
    let alone = claimed(
        Some(&running),
        &envelope,
        &granted(&again, RunAlone::Granted),
    );
    let OnEnd::Requeue { record } = end_attempt(alone, &envelope, &attempt(AttemptEnd::Drained, 3))
    else {
        panic!("not requeued");
    };
    assert!(record.suspect);
}

#[test]
fn death_of_a_spawner_counts_for_the_only_job_that_it_ran() {
    let envelope = job(0);
    for (alone, crashes, shared_crashes) in [(true, 1, 0), (false, 0, 1)] {
        let running = claimed(None, &envelope, &shared(7, "a", 1));
        let died = attempt(AttemptEnd::SpawnerDied { alone }, 2);
        let OnEnd::Requeue { record } = end_attempt(running, &envelope, &died) else {
            panic!("not requeued");
        };
        assert_eq!(
            (record.crashes, record.shared_crashes, record.suspect),
            (crashes, shared_crashes, !alone)
        );
    }
}

/// Its lease does not say whether the job ran alone: an earlier version did not record that.
#[test]
fn first_crash_under_a_lease_of_an_earlier_version_is_not_counted() {
    let running = claimed(None, &job(0), &delivered(7, "w", 1));
    let mut json = serde_json::to_value(&*running).unwrap();
    json["lease"].as_object_mut().unwrap().remove("alone");
    let record: Record = serde_json::from_value(json).unwrap();
    let next = claimed(Some(&record), &job(0), &delivered(7, "v", 2));
    assert_eq!((next.crashes, next.shared_crashes), (0, 1));
}

#[test]
fn place_of_a_message_in_another_stream_is_not_its_identity() {
    let mut first = delivered(7, "w", 1);
    first.has_sequence_id = true;
    let mut record = claimed(None, &job(0), &first);
    finish(&mut record, Outcome::Succeeded, at(2));
    let mut other = first.clone();
    other.enqueue_time = at(5);
    assert!(matches!(
        decide_delivery(Some(&record), &job(0), &other),
        DeliveryDecision::ChangeId
    ));
    // its own redelivery is recognized
    assert!(matches!(
        decide_delivery(Some(&record), &job(0), &first),
        DeliveryDecision::AlreadyFinished
    ));
    // and so is another message of a producer's own id
    other.has_sequence_id = false;
    assert!(matches!(
        decide_delivery(Some(&record), &job(0), &other),
        DeliveryDecision::AlreadyFinished
    ));
}

#[test]
fn redelivery_of_a_running_job_asks_its_holder_first() {
    let envelope = job(0);
    let first = claimed(None, &envelope, &delivered(7, "a", 1));
    let again = DeliveryContext {
        delivery: 2,
        ..delivered(7, "b", 2)
    };
    let DeliveryDecision::AskHolder(lease) = decide_delivery(Some(&first), &envelope, &again)
    else {
        panic!("the holder is not asked");
    };
    assert_eq!(Some(&lease), first.lease());
    // An answer about another lease says nothing about this one.
    let other = Lease {
        worker_id: "c".to_owned(),
        ..lease
    };
    assert!(matches!(
        decide_delivery(
            Some(&first),
            &envelope,
            &ended(&again, other, LeaseEnd::Released)
        ),
        DeliveryDecision::AskHolder(_)
    ));
}

#[test]
fn lease_given_up_in_an_outage_is_no_crash_and_uses_up_no_retry() {
    let envelope = job(1);
    let mut record = claimed(None, &envelope, &delivered(7, "a", 1));
    for outage in 1..=5 {
        let again = delivered(7, "a", outage);
        let lease = record.lease().unwrap().clone();
        let again = ended(&again, lease, LeaseEnd::Released);
        record = claimed(Some(&record), &envelope, &again);
    }
    assert_eq!(
        (record.attempt, record.crashes, record.lost_leases),
        (6, 0, 5)
    );
    assert!(record.interruptions.iter().all(|one| !one.crashed));
    assert!(matches!(
        end_attempt(record, &envelope, &attempt(AttemptEnd::Exited(1), 9)),
        OnEnd::Retry { .. }
    ));
}

#[test]
fn interruptions_on_a_record_are_bounded() {
    let envelope = job(0);
    let mut record = claimed(None, &envelope, &delivered(7, "a", 1));
    for outage in 1..100 {
        let lease = record.lease().unwrap().clone();
        let again = ended(&delivered(7, "a", outage), lease, LeaseEnd::Released);
        record = claimed(Some(&record), &envelope, &again);
    }
    assert_eq!(record.interruptions.len(), naq_protocol::INTERRUPTIONS_MAX);
    assert_eq!(record.interruptions.last().unwrap().at, at(99));
}

#[test]
fn worker_crash_uses_up_no_retry() {
    let envelope = job(1);
    let first = claimed(None, &envelope, &delivered(7, "a", 1));
    let second = claimed(Some(&first), &envelope, &delivered(7, "b", 2));
    let OnEnd::Retry { record, .. } =
        end_attempt(second, &envelope, &attempt(AttemptEnd::Exited(1), 3))
    else {
        panic!("not retried");
    };
    let third = claimed(Some(&record), &envelope, &delivered(9, "b", 9));
    assert!(matches!(
        end_attempt(third, &envelope, &attempt(AttemptEnd::Exited(1), 10)),
        OnEnd::Finish {
            dead_letter: true,
            ..
        }
    ));
}

#[test]
fn drained_attempt_does_not_count() {
    let envelope = job(0);
    let running = claimed(None, &envelope, &delivered(7, "a", 1));
    let OnEnd::Requeue { record } =
        end_attempt(running, &envelope, &attempt(AttemptEnd::Drained, 2))
    else {
        panic!("not requeued");
    };
    assert_eq!((record.state(), record.attempt), (State::Queued, 0));
    assert_eq!(
        claimed(Some(&record), &envelope, &delivered(7, "b", 3)).attempt,
        1
    );
}

#[test]
fn retry_delivered_early_is_delayed_again() {
    let mut envelope = job(1);
    envelope.retry_delay = Some(naq_protocol::RetryDelay::Single(
        naq_protocol::units::WireDuration::from_secs(60),
    ));
    let running = claimed(None, &envelope, &delivered(7, "a", 1));
    let OnEnd::Retry { record, due } =
        end_attempt(running, &envelope, &attempt(AttemptEnd::Exited(1), 2))
    else {
        panic!("not retried");
    };
    assert_eq!(due, at(62));
    assert!(matches!(
        decide_delivery(Some(&record), &envelope, &delivered(9, "a", 30)),
        DeliveryDecision::DelayUntil(until) if until == due
    ));
}

#[test]
fn expired_job_does_not_start() {
    let mut envelope = job(0);
    envelope.expires_at = Some(at(5));
    assert!(matches!(
        decide_delivery(None, &envelope, &delivered(7, "a", 5)),
        DeliveryDecision::End(record) if record.state() == State::Expired
    ));
}

#[test]
fn dependencies_are_resolved_before_the_job_is_blocked_or_runs() {
    let mut envelope = job(0);
    envelope.depends_on = vec![Dependency::new(
        JobId::new("first").unwrap(),
        naq_protocol::DependencyCondition::Success,
    )];
    let mut context = delivered(7, "w", 1);
    let DeliveryDecision::ResolveDependencies(open) = decide_delivery(None, &envelope, &context)
    else {
        panic!("the dependencies were not resolved");
    };
    context.dependency_statuses = Some(vec![(open[0].clone(), DependencyStatus::Missing)]);
    let DeliveryDecision::Block(blocked) = decide_delivery(None, &envelope, &context) else {
        panic!("not blocked");
    };
    assert_eq!(blocked.state(), State::Waiting);
    let waits = blocked.waits().cloned().unwrap();
    assert_eq!(waits.until, Some(at(1 + 24 * 3_600)));
    // A dependency that was enqueued since is not missing, so nothing limits the wait.
    context.dependency_statuses = Some(vec![(open[0].clone(), DependencyStatus::Active)]);
    context.now = at(1 + 24 * 3_600);
    let DeliveryDecision::Block(blocked) = decide_delivery(Some(&blocked), &envelope, &context)
    else {
        panic!("not blocked");
    };
    assert_eq!(blocked.waits().unwrap().until, None);
    context.dependency_statuses = Some(vec![(
        open[0].clone(),
        DependencyStatus::Finished(State::Succeeded),
    )]);
    let record = claimed(Some(&blocked), &envelope, &context);
    assert!(record.dependencies_met && record.waits().is_none());
}

#[test]
fn claim_replaces_a_placeholder_and_keeps_its_dependents() {
    let placeholder = Record::placeholder(
        JobId::new("j").unwrap(),
        QueueName::new("other").unwrap(),
        at(0),
        at(100),
    );
    let record = claimed(Some(&placeholder), &job(0), &delivered(7, "w", 1));
    assert!(record.has_dependents && !record.placeholder);
    assert_eq!(record.queue.as_str(), "q");
}

#[test]
fn job_without_a_slot_is_blocked() {
    let mut envelope = job(0);
    envelope.concurrency_key = Some("k".to_owned());
    let mut context = delivered(7, "w", 1);
    assert!(matches!(
        decide_delivery(None, &envelope, &context),
        DeliveryDecision::AcquireSlot
    ));
    context.slot = ConcurrencySlot::Full;
    assert!(matches!(
        decide_delivery(None, &envelope, &context),
        DeliveryDecision::Block(record) if record.state() == State::Waiting
    ));
    context.slot = ConcurrencySlot::Acquired;
    assert_eq!(claimed(None, &envelope, &context).state(), State::Running);
}
