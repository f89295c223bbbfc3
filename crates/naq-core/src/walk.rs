//! Walks through the states of a job, in any order of events that workers and clients can bring
//! about: what must hold in every state that can be reached.

use proptest::prelude::*;

use super::{
    Attempt, AttemptEnd, Delivered, KeySlot, OnCancel, OnDelivery, OnEnd, Prospect, end_attempt,
    on_cancel, on_delivery,
};
use naq_protocol::{Condition, Dependency, Envelope, JobId, QueueName, Record, State, Timestamp};

const CRASHES_MAX: u32 = 3;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_ms(1_800_000_000_000 + seconds * 1_000).unwrap()
}

/// Something that happens to a job.
#[derive(Clone, Debug)]
enum Event {
    /// A worker is given one of the job's messages, the same one again with a later count.
    Delivery {
        sequence: u64,
        prospect: Prospect,
        slot: KeySlot,
    },
    /// The attempt under way ends so.
    End(AttemptEnd),
    /// An attempt that was given up long ago ends, and its worker writes what it knew.
    LateEnd(AttemptEnd),
    /// Someone wants it cancelled.
    Cancel,
}

/// A job as the server has it: its record behind a revision, which every write has to name.
struct Job {
    envelope: Envelope,
    record: Option<Box<Record>>,
    revision: u64,
    delivery: u64,
    /// What the worker of the attempt under way wrote, and at which revision.
    held: Option<(Box<Record>, u64)>,
    /// What a worker held that was taken for dead.
    given_up: Option<(Box<Record>, u64)>,
    cancel_asked: bool,
}

impl Job {
    fn new(envelope: Envelope) -> Job {
        Job {
            envelope,
            record: None,
            revision: 0,
            delivery: 0,
            held: None,
            given_up: None,
            cancel_asked: false,
        }
    }

    fn state(&self) -> Option<State> {
        self.record.as_ref().map(|record| record.state)
    }

    /// A compare-and-set: refused where the record has changed since.
    fn write(&mut self, record: Box<Record>, expected: u64) -> bool {
        if expected != self.revision {
            return false;
        }
        self.record = Some(record);
        self.revision += 1;
        true
    }

    fn deliver(&mut self, sequence: u64, prospect: Prospect, slot: KeySlot, now: i64) {
        self.delivery += 1;
        let mut facts = Delivered {
            job_id: JobId::new("j").unwrap(),
            queue: QueueName::new("q").unwrap(),
            sequence,
            delivery: self.delivery,
            enqueue_time: at(0),
            worker_id: format!("w{now}"),
            now: at(now),
            crashes_max: CRASHES_MAX,
            envelope_digest: "same".to_owned(),
            lease_is_gone: false,
            cancel_asked: false,
            prospects: None,
            slot: KeySlot::Unasked,
            traceparent: None,
            scheduled_for: None,
        };
        let before = self.record.clone();
        loop {
            match on_delivery(self.record.as_deref(), &self.envelope, &facts) {
                OnDelivery::Look(open) => {
                    assert!(facts.prospects.is_none(), "asked twice");
                    facts.prospects = Some(open.into_iter().map(|one| (one, prospect)).collect());
                }
                OnDelivery::Compare => panic!("there is one envelope"),
                OnDelivery::TakeSlot => {
                    assert_eq!(facts.slot, KeySlot::Unasked, "asked twice");
                    facts.slot = slot;
                }
                OnDelivery::Run(next) => {
                    if let Some(before) = &before {
                        assert!(next.attempt > before.attempt || before.state == State::Queued);
                        assert!(!before.cancel_requested, "a cancel was lost");
                    }
                    if let Some(held) = self.held.take() {
                        self.given_up = Some(held);
                    }
                    let revision = self.revision;
                    assert!(self.write(next.clone(), revision));
                    self.held = Some((next, self.revision));
                    return;
                }
                OnDelivery::Park(next) => {
                    assert_eq!(next.state, State::Waiting);
                    assert!(next.waits.is_some());
                    if let Some(held) = self.held.take() {
                        self.given_up = Some(held);
                    }
                    let revision = self.revision;
                    assert!(self.write(next, revision));
                    return;
                }
                OnDelivery::End(next) => {
                    assert!(next.state.is_terminal());
                    if let Some(held) = self.held.take() {
                        self.given_up = Some(held);
                    }
                    let revision = self.revision;
                    assert!(self.write(next, revision));
                    return;
                }
                OnDelivery::Absorb => {
                    assert!(before.unwrap().state.is_terminal());
                    return;
                }
                OnDelivery::Surplus => {
                    let lease = before.unwrap().lease.unwrap();
                    assert_ne!(lease.sequence, sequence);
                    return;
                }
                OnDelivery::Superseded => panic!("every delivery here is as late as the last"),
                OnDelivery::Hold(due) => {
                    assert_eq!(before.unwrap().state, State::Retrying);
                    assert!(due > at(now));
                    return;
                }
            }
        }
    }

    /// A worker that held the record as it wrote it, merged with what others asked for since.
    fn end(&mut self, end: AttemptEnd, now: i64) {
        let Some((mut held, revision)) = self.held.take() else {
            return;
        };
        let mut expected = revision;
        if let Some(present) = &self.record
            && self.revision != revision
        {
            // still its lease: only a wish to cancel has come in between
            assert_eq!(present.lease, held.lease);
            held.cancel_requested |= present.cancel_requested;
            expected = self.revision;
        }
        let (attempts, crashes) = (held.attempt, held.crashes);
        let next = match end_attempt(held, &self.envelope, &attempt(end.clone(), now)) {
            OnEnd::Ended { record, .. } => {
                assert!(record.state.is_terminal());
                record
            }
            OnEnd::Retry { record, due } => {
                assert!(due >= at(now));
                assert!(!record.cancel_requested, "a cancel was lost");
                record
            }
            OnEnd::HandBack { record } => {
                assert!(!record.cancel_requested, "a cancel was lost");
                record
            }
        };
        assert!(next.lease.is_none());
        assert!(next.attempt <= attempts && next.crashes <= crashes + 1);
        if self.cancel_asked && end != AttemptEnd::Exited(0) {
            assert_eq!(next.state, State::Cancelled);
        }
        assert!(self.write(next, expected));
    }

    /// A worker that lost its lease does not know it: its write has to be refused.
    fn late_end(&mut self, end: AttemptEnd, now: i64) {
        let Some((held, revision)) = self.given_up.take() else {
            return;
        };
        let next = match end_attempt(held, &self.envelope, &attempt(end, now)) {
            OnEnd::Ended { record, .. }
            | OnEnd::Retry { record, .. }
            | OnEnd::HandBack { record } => record,
        };
        assert!(!self.write(next, revision), "a stale lease was taken");
    }

    fn cancel(&mut self, now: i64) {
        let Some(record) = self.record.clone() else {
            return;
        };
        let revision = self.revision;
        match on_cancel(record, at(now)) {
            OnCancel::End(next) | OnCancel::Ask(next) => {
                self.cancel_asked = true;
                assert!(self.write(next, revision));
            }
            OnCancel::Asked(_) => assert!(self.cancel_asked),
            OnCancel::Ended(_) => {}
        }
    }

    fn check(&self) {
        let Some(record) = &self.record else { return };
        let retries = self.envelope.max_retries.unwrap_or(0);
        assert!(record.attempt <= retries + 1 + record.crashes);
        assert!(record.crashes <= CRASHES_MAX);
        assert_eq!(record.lease.is_some(), record.state == State::Running);
        assert_eq!(record.waits.is_some(), record.state == State::Waiting);
        assert_eq!(
            record.finished_at.is_some(),
            record.state.is_terminal() || record.state == State::Retrying
        );
    }
}

fn attempt(end: AttemptEnd, now: i64) -> Attempt {
    Attempt {
        end,
        error: None,
        retry_after: None,
        now: at(now),
        random: 1.0,
        crashes_max: CRASHES_MAX,
    }
}

fn any_end() -> impl Strategy<Value = AttemptEnd> {
    prop_oneof![
        (0..4_i32).prop_map(AttemptEnd::Exited),
        Just(AttemptEnd::Exited(75)),
        Just(AttemptEnd::Signalled(9)),
        Just(AttemptEnd::TimedOut),
        Just(AttemptEnd::OutOfMemory),
        any::<bool>().prop_map(|fatal| AttemptEnd::NotStarted { fatal }),
        Just(AttemptEnd::Drained),
        Just(AttemptEnd::Lost),
        Just(AttemptEnd::Cancelled),
    ]
}

fn any_prospect() -> impl Strategy<Value = Prospect> {
    prop_oneof![
        3 => Just(Prospect::Ended(State::Succeeded)),
        1 => Just(Prospect::Ended(State::Failed)),
        2 => Just(Prospect::Alive),
        1 => Just(Prospect::Queued),
        1 => Just(Prospect::Missing),
        1 => Just(Prospect::Circular),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let slot = prop_oneof![2 => Just(KeySlot::Taken), 1 => Just(KeySlot::Full)];
    prop_oneof![
        6 => (0_u64..3, any_prospect(), slot)
            .prop_map(|(sequence, prospect, slot)| Event::Delivery { sequence, prospect, slot }),
        4 => any_end().prop_map(Event::End),
        1 => any_end().prop_map(Event::LateEnd),
        1 => Just(Event::Cancel),
    ]
}

fn any_envelope() -> impl Strategy<Value = Envelope> {
    (0_u32..4, 0_usize..3, any::<bool>(), any::<bool>()).prop_map(
        |(retries, dependencies, keyed, expires)| Envelope {
            max_retries: Some(retries),
            depends_on: (0..dependencies)
                .map(|index| Dependency {
                    job: JobId::new(format!("d{index}")).unwrap(),
                    on: Condition::Success,
                })
                .collect(),
            concurrency_key: keyed.then(|| "k".to_owned()),
            expires_at: expires.then(|| at(20_000)),
            ..Envelope::command("x", [] as [&str; 0])
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Attempts stay within their limits, stale leases are refused, a cancel is never lost,
    /// nothing leaves a terminal state, and from every state there is a way to an end.
    #[test]
    fn every_walk_keeps_the_rules(
        envelope in any_envelope(),
        events in proptest::collection::vec(any_event(), 1..60),
    ) {
        let mut job = Job::new(envelope);
        let mut now = 0;
        for event in events {
            now += 1_000;
            let before = job.record.clone();
            match event {
                Event::Delivery { sequence, prospect, slot } => job.deliver(sequence, prospect, slot, now),
                Event::End(end) => job.end(end, now),
                Event::LateEnd(end) => job.late_end(end, now),
                Event::Cancel => job.cancel(now),
            }
            job.check();
            if let Some(before) = before && before.state.is_terminal() {
                prop_assert_eq!(job.state(), Some(before.state), "a terminal state was left");
                prop_assert_eq!(job.record.as_ref().unwrap().finished_at, before.finished_at);
            }
        }
        // whatever it is now, good fortune ends it
        for _ in 0..4 {
            now += 1_000_000;
            if job.state().is_some_and(State::is_terminal) {
                break;
            }
            job.end(AttemptEnd::Exited(0), now);
            job.deliver(9, Prospect::Ended(State::Succeeded), KeySlot::Taken, now);
        }
        job.end(AttemptEnd::Exited(0), now);
        let lease = job.record.as_ref().and_then(|record| record.lease.clone());
        if let Some(lease) = lease {
            // its worker is dead: the lease's own message comes again
            while !job.state().is_some_and(State::is_terminal) {
                job.deliver(lease.sequence, Prospect::Ended(State::Succeeded), KeySlot::Taken, now);
                job.end(AttemptEnd::Exited(0), now);
            }
        }
        prop_assert!(job.state().is_some_and(State::is_terminal));
    }
}
