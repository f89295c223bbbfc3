//! A property test of the job state machine: it applies events in any order that workers and
//! clients can cause, and checks what must hold in every state that is reached.

use proptest::prelude::*;

use crate::{
    AttemptEnd, ConcurrencySlot, DeliveryContext, DeliveryDecision, DependencyStatus,
    FinishedAttempt, LeaseEnd, OnCancel, OnEnd, RunAlone, decide_delivery, end_attempt, on_cancel,
};
use naq_protocol::{
    Dependency, DependencyCondition, Envelope, JobId, QueueName, Record, State, Timestamp,
};

const MAX_WORKER_CRASHES: u32 = 3;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_ms(1_800_000_000_000 + seconds * 1_000).unwrap()
}

/// Something that happens to a job.
#[derive(Clone, Debug)]
enum JobEvent {
    /// A worker receives one of the job's messages. Each delivery has a higher count than the last.
    Delivery(Delivery),
    /// The current attempt ends.
    End(AttemptEnd),
    /// An attempt whose lease was lost ends, and its worker tries to write the outcome.
    LateEnd(AttemptEnd),
    /// A client requests a cancel.
    Cancel,
}

/// A delivery, and what the worker finds out about it.
#[derive(Clone, Debug)]
struct Delivery {
    sequence: u64,
    status: DependencyStatus,
    slot: ConcurrencySlot,
    /// How the lease of a running job has ended; `None` means that it has not.
    holder: Option<LeaseEnd>,
    /// Whether the worker runs one job at a time.
    runs_one_job: bool,
    /// Whether a suspect may run alone.
    alone: bool,
    /// Whether the worker has no free slot, and claims ahead what has no record.
    is_busy: bool,
}

/// A job as the server stores it: a record with a revision, which every write must name.
struct ModelJob {
    envelope: Envelope,
    record: Option<Box<Record>>,
    revision: u64,
    delivery: u64,
    /// What the worker of the current attempt wrote, and at which revision.
    claimed: Option<(Box<Record>, u64)>,
    /// The claim of a worker that lost its lease.
    expired_claim: Option<(Box<Record>, u64)>,
    cancel_requested: bool,
}

impl ModelJob {
    fn new(envelope: Envelope) -> ModelJob {
        ModelJob {
            envelope,
            record: None,
            revision: 0,
            delivery: 0,
            claimed: None,
            expired_claim: None,
            cancel_requested: false,
        }
    }

    fn state(&self) -> Option<State> {
        self.record.as_ref().map(|record| record.state())
    }

    /// A compare-and-set: fails if the record has changed since `expected`.
    fn write(&mut self, record: Box<Record>, expected: u64) -> bool {
        if expected != self.revision {
            return false;
        }
        record.check_transitions().unwrap();
        if let Some(before) = &self.record {
            let (before, after) = (before.state(), record.state());
            assert!(before.can_become(after), "{before} was replaced by {after}");
        }
        self.record = Some(record);
        self.revision += 1;
        true
    }

    #[expect(
        clippy::too_many_lines,
        reason = "the worker's steps for one delivery, in their order"
    )]
    fn deliver(&mut self, delivery: Delivery, now: i64) {
        let Delivery {
            sequence,
            status,
            slot,
            holder,
            ..
        } = delivery;
        self.delivery += 1;
        let mut context = DeliveryContext {
            job_id: JobId::new("j").unwrap(),
            queue: QueueName::new("q").unwrap(),
            sequence,
            delivery: self.delivery,
            enqueue_time: at(0),
            has_sequence_id: false,
            worker_id: format!("w{now}"),
            now: at(now),
            max_worker_crashes: MAX_WORKER_CRASHES,
            envelope_digest: "same".to_owned(),
            lease_message_missing: false,
            ended_lease: None,
            cancel_requested: false,
            dependency_statuses: None,
            slot: ConcurrencySlot::NotRequested,
            alone: match delivery.runs_one_job {
                true => RunAlone::Granted,
                false => RunAlone::NotRequested,
            },
            claimed_ahead: delivery.is_busy && self.record.is_none(),
            traceparent: None,
            scheduled_for: None,
        };
        let before = self.record.clone();
        loop {
            match decide_delivery(self.record.as_deref(), &self.envelope, &context) {
                DeliveryDecision::ResolveDependencies(open) => {
                    assert!(context.dependency_statuses.is_none(), "asked twice");
                    context.dependency_statuses =
                        Some(open.into_iter().map(|one| (one, status.clone())).collect());
                }
                DeliveryDecision::ChangeId => panic!("the model has one message"),
                DeliveryDecision::CompareEnvelopes => panic!("the model has one envelope"),
                DeliveryDecision::AskHolder(lease) => {
                    assert_eq!(self.state(), Some(State::Running));
                    assert!(context.ended_lease.is_none(), "asked twice");
                    // a holder that runs the job keeps it, and nothing is written
                    let Some(end) = holder else { return };
                    context.ended_lease = Some((lease, end));
                }
                DeliveryDecision::AcquireSlot => {
                    assert_eq!(context.slot, ConcurrencySlot::NotRequested, "asked twice");
                    context.slot = slot;
                }
                DeliveryDecision::RequestRunAlone => {
                    assert_eq!(context.alone, RunAlone::NotRequested, "asked twice");
                    context.alone = match delivery.alone {
                        true => RunAlone::Granted,
                        false => RunAlone::Refused,
                    };
                }
                DeliveryDecision::Postpone(next, due) => {
                    assert!(next.suspect && !delivery.alone && !delivery.runs_one_job);
                    assert_eq!(next.state(), State::Retrying);
                    assert_eq!(next.next_attempt_at(), Some(due));
                    assert!(due > at(now));
                    self.check_crash(before.as_deref(), &next);
                    if let Some(claimed) = self.claimed.take() {
                        self.expired_claim = Some(claimed);
                    }
                    let revision = self.revision;
                    assert!(self.write(next, revision));
                    return;
                }
                DeliveryDecision::Run(next) => {
                    let runs_alone = next.lease().is_some_and(|lease| lease.alone);
                    assert!(!next.suspect || runs_alone, "a suspect runs with others");
                    let ahead = next.lease().is_some_and(|lease| lease.claimed_ahead);
                    assert!(
                        !(ahead && runs_alone),
                        "a job that may not have started runs alone"
                    );
                    self.check_crash(before.as_deref(), &next);
                    if let Some(before) = &before {
                        assert!(next.attempt > before.attempt || before.state() == State::Queued);
                        assert!(!before.cancel_requested, "a cancel was lost");
                    }
                    if let Some(claimed) = self.claimed.take() {
                        self.expired_claim = Some(claimed);
                    }
                    let revision = self.revision;
                    assert!(self.write(next.clone(), revision));
                    self.claimed = Some((next, self.revision));
                    return;
                }
                DeliveryDecision::Block(next) => {
                    assert_eq!(next.state(), State::Waiting);
                    assert!(next.waits().is_some());
                    if let Some(claimed) = self.claimed.take() {
                        self.expired_claim = Some(claimed);
                    }
                    let revision = self.revision;
                    assert!(self.write(next, revision));
                    return;
                }
                DeliveryDecision::End(next) => {
                    assert!(next.state().is_terminal());
                    if let Some(claimed) = self.claimed.take() {
                        self.expired_claim = Some(claimed);
                    }
                    let revision = self.revision;
                    assert!(self.write(next, revision));
                    return;
                }
                DeliveryDecision::AlreadyFinished => {
                    assert!(before.unwrap().state().is_terminal());
                    return;
                }
                DeliveryDecision::DuplicateMessage => {
                    let before = before.unwrap();
                    assert_ne!(before.lease().unwrap().sequence, sequence);
                    return;
                }
                DeliveryDecision::Superseded => {
                    panic!("the model has no state of a later version")
                }
                DeliveryDecision::DelayUntil(due) => {
                    assert_eq!(before.unwrap().state(), State::Retrying);
                    assert!(due > at(now));
                    return;
                }
            }
        }
    }

    /// A crash counts only if no other job can have caused it, or the job was a suspect before.
    fn check_crash(&self, before: Option<&Record>, after: &Record) {
        let Some(before) = before else {
            assert_eq!(after.interrupted_attempts(), 0);
            return;
        };
        let ran_alone = before.lease().is_some_and(|lease| lease.alone);
        if after.crashes > before.crashes {
            assert!(
                ran_alone || before.suspect,
                "another job's crash is counted"
            );
        }
        if after.shared_crashes > before.shared_crashes {
            assert!(!ran_alone && !before.suspect && after.suspect);
            assert_eq!(after.crashes, before.crashes);
        }
    }

    /// The worker ends its attempt with the record that it wrote, merged with a cancel request that
    /// was recorded since.
    fn end(&mut self, end: AttemptEnd, now: i64) {
        let Some((mut claimed, revision)) = self.claimed.take() else {
            return;
        };
        let mut expected = revision;
        if let Some(present) = &self.record
            && self.revision != revision
        {
            // The lease is unchanged: only a cancel request was written in between.
            assert_eq!(present.lease(), claimed.lease());
            claimed.cancel_requested |= present.cancel_requested;
            expected = self.revision;
        }
        let before = claimed.clone();
        let next = match end_attempt(claimed, &self.envelope, &attempt(end.clone(), now)) {
            OnEnd::Finish { record, .. } => {
                assert!(record.state().is_terminal());
                record
            }
            OnEnd::Retry { record, due } => {
                assert!(due >= at(now));
                assert!(!record.cancel_requested, "a cancel was lost");
                record
            }
            OnEnd::Requeue { record } => {
                assert!(!record.cancel_requested, "a cancel was lost");
                record
            }
        };
        assert!(next.lease().is_none());
        assert!(next.attempt <= before.attempt);
        let crash = match end {
            AttemptEnd::SpawnerDied { alone } => {
                let is_counted = alone || before.suspect;
                (u32::from(is_counted), u32::from(!is_counted))
            }
            _ => (0, 0),
        };
        if !next.state().is_terminal() || next.crashes > before.crashes {
            let counted = next.crashes - before.crashes;
            assert_eq!(
                (counted, next.shared_crashes - before.shared_crashes),
                crash
            );
        }
        let is_ordinary = matches!(
            end,
            AttemptEnd::Exited(_)
                | AttemptEnd::Signalled(_)
                | AttemptEnd::TimedOut
                | AttemptEnd::OutOfMemory
        );
        assert!(
            !(is_ordinary && next.suspect),
            "an ordinary end clears the suspicion"
        );
        if self.cancel_requested && end != AttemptEnd::Exited(0) {
            assert_eq!(next.state(), State::Cancelled);
        }
        assert!(self.write(next, expected));
    }

    /// A worker that lost its lease does not know that: its write must be refused.
    fn late_end(&mut self, end: AttemptEnd, now: i64) {
        let Some((claimed, revision)) = self.expired_claim.take() else {
            return;
        };
        let next = match end_attempt(claimed, &self.envelope, &attempt(end, now)) {
            OnEnd::Finish { record, .. }
            | OnEnd::Retry { record, .. }
            | OnEnd::Requeue { record } => record,
        };
        assert!(
            !self.write(next, revision),
            "a write under a stale lease was accepted"
        );
    }

    fn cancel(&mut self, now: i64) {
        let Some(record) = self.record.clone() else {
            return;
        };
        let revision = self.revision;
        match on_cancel(record, at(now)) {
            OnCancel::End(next) | OnCancel::NotifyWorker(next) => {
                self.cancel_requested = true;
                assert!(self.write(next, revision));
            }
            OnCancel::NotifyWorkerAgain(_) => assert!(self.cancel_requested),
            OnCancel::AlreadyFinished(_) => {}
            OnCancel::UnknownState(state) => panic!("{state} is known"),
        }
    }

    fn check(&self) {
        let Some(record) = &self.record else { return };
        let retries = self.envelope.max_retries.unwrap_or(0);
        assert!(record.attempt <= retries + 1 + record.interrupted_attempts());
        let listed = |shared| {
            let crashes = record.interruptions.iter().filter(|one| one.crashed);
            u32::try_from(crashes.filter(|one| one.shared == shared).count()).unwrap()
        };
        assert!(listed(false) <= record.crashes && listed(true) <= record.shared_crashes);
        let attempts = record.attempts();
        let numbers: Vec<u32> = attempts.iter().map(|one| one.attempt).collect();
        // a record lists the last ones only
        assert!(numbers.len() >= usize::try_from(record.attempt.min(16)).unwrap());
        assert!(
            numbers
                .iter()
                .rev()
                .copied()
                .eq((1..=record.attempt).rev().take(numbers.len()))
        );
        assert!(!record.suspect || record.shared_crashes > 0);
        assert!(record.crashes <= MAX_WORKER_CRASHES);
        assert_eq!(record.lease().is_some(), record.state() == State::Running);
        assert_eq!(record.waits().is_some(), record.state() == State::Waiting);
        assert_eq!(
            record.finished_at().is_some(),
            record.state().is_terminal() || record.state() == State::Retrying
        );
    }
}

fn attempt(end: AttemptEnd, now: i64) -> FinishedAttempt {
    FinishedAttempt {
        end,
        error: None,
        retry_after: None,
        now: at(now),
        random: 1.0,
        max_worker_crashes: MAX_WORKER_CRASHES,
    }
}

fn any_end() -> impl Strategy<Value = AttemptEnd> {
    prop_oneof![
        (0..4_i32).prop_map(AttemptEnd::Exited),
        Just(AttemptEnd::Exited(75)),
        Just(AttemptEnd::Signalled(9)),
        Just(AttemptEnd::TimedOut),
        Just(AttemptEnd::OutOfMemory),
        Just(AttemptEnd::CpuTimeExceeded),
        Just(AttemptEnd::FileSizeExceeded),
        any::<bool>().prop_map(|fatal| AttemptEnd::NotStarted { fatal }),
        Just(AttemptEnd::Drained),
        any::<bool>().prop_map(|alone| AttemptEnd::SpawnerDied { alone }),
        Just(AttemptEnd::ResourceShortage),
        Just(AttemptEnd::Cancelled),
    ]
}

fn any_dependency_status() -> impl Strategy<Value = DependencyStatus> {
    prop_oneof![
        3 => Just(DependencyStatus::Finished(State::Succeeded)),
        1 => Just(DependencyStatus::Finished(State::Failed)),
        2 => Just(DependencyStatus::Active),
        1 => Just(DependencyStatus::Queued),
        1 => Just(DependencyStatus::Missing),
        1 => Just(DependencyStatus::Circular),
        1 => Just(DependencyStatus::Unreadable("it is no record".to_owned())),
    ]
}

fn any_event() -> impl Strategy<Value = JobEvent> {
    let holder = prop_oneof![
        1 => Just(None),
        2 => Just(Some(LeaseEnd::Crashed)),
        1 => Just(Some(LeaseEnd::Released)),
    ];
    let slot = prop_oneof![2 => Just(ConcurrencySlot::Acquired), 1 => Just(ConcurrencySlot::Full)];
    prop_oneof![
        6 => (0_u64..3, any_dependency_status(), slot, holder, any::<[bool; 3]>())
            .prop_map(|(sequence, status, slot, holder, [runs_one_job, alone, is_busy])| {
                JobEvent::Delivery(Delivery {
                    sequence,
                    status,
                    slot,
                    holder,
                    runs_one_job,
                    alone,
                    is_busy,
                })
            }),
        4 => any_end().prop_map(JobEvent::End),
        1 => any_end().prop_map(JobEvent::LateEnd),
        1 => Just(JobEvent::Cancel),
    ]
}

fn any_envelope() -> impl Strategy<Value = Envelope> {
    (0_u32..4, 0_usize..3, any::<bool>(), any::<bool>()).prop_map(
        |(retries, dependencies, keyed, expires)| Envelope {
            max_retries: Some(retries),
            depends_on: (0..dependencies)
                .map(|index| JobId::new(format!("d{index}")).unwrap())
                .map(|job| Dependency::new(job, DependencyCondition::Success))
                .collect(),
            concurrency_key: keyed.then(|| "k".to_owned()),
            expires_at: expires.then(|| at(20_000)),
            ..Envelope::command("x", [] as [&str; 0])
        },
    )
}

/// A delivery to a worker that has everything that the job needs, after the last one crashed.
fn last_delivery(sequence: u64) -> Delivery {
    Delivery {
        sequence,
        status: DependencyStatus::Finished(State::Succeeded),
        slot: ConcurrencySlot::Acquired,
        holder: Some(LeaseEnd::Crashed),
        runs_one_job: false,
        alone: true,
        is_busy: false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Attempts stay within their limits, stale leases are refused, a cancel is never lost, no job
    /// leaves a terminal state, and every state can reach a terminal one.
    #[test]
    fn job_state_machine_keeps_its_rules(
        envelope in any_envelope(),
        events in proptest::collection::vec(any_event(), 1..60),
    ) {
        let mut job = ModelJob::new(envelope);
        let mut now = 0;
        for event in events {
            now += 1_000;
            let before = job.record.clone();
            match event {
                JobEvent::Delivery(delivery) => job.deliver(delivery, now),
                JobEvent::End(end) => job.end(end, now),
                JobEvent::LateEnd(end) => job.late_end(end, now),
                JobEvent::Cancel => job.cancel(now),
            }
            job.check();
            if let Some(before) = before && before.state().is_terminal() {
                prop_assert_eq!(job.state(), Some(before.state()), "a terminal state was left");
                prop_assert_eq!(job.record.as_ref().unwrap().finished_at(), before.finished_at());
            }
        }
        // From any state, a few deliveries and successful attempts finish the job.
        for _ in 0..4 {
            now += 1_000_000;
            if job.state().is_some_and(State::is_terminal) {
                break;
            }
            job.end(AttemptEnd::Exited(0), now);
            job.deliver(last_delivery(9), now);
        }
        job.end(AttemptEnd::Exited(0), now);
        let lease = job.record.as_ref().and_then(|record| record.lease().cloned());
        if let Some(lease) = lease {
            // The worker crashed, so the message that the lease names is redelivered.
            while !job.state().is_some_and(State::is_terminal) {
                job.deliver(last_delivery(lease.sequence), now);
                job.end(AttemptEnd::Exited(0), now);
            }
        }
        prop_assert!(job.state().is_some_and(State::is_terminal));
    }
}
