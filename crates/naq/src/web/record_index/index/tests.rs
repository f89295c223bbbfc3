//! The index compared with a naive model, under any sequence of changes.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::web::record_index::query::Conditions;
use naq_client::LabelFilter;
use naq_protocol::Timestamp;

/// A record of the model.
#[derive(Clone, Debug)]
struct Fact {
    job: u16,
    queue: u8,
    state: State,
    reason: Option<Reason>,
    worker: Option<u8>,
    schedule: Option<u8>,
    team: Option<u8>,
    blocker: Option<Blocker>,
    is_rerun: bool,
}

impl Fact {
    fn put(&self, index: &mut RecordIndex, revision: u64) {
        let labels: BTreeMap<String, String> = self
            .team
            .iter()
            .map(|team| ("team".to_owned(), format!("t{team}")))
            .collect();
        let worker = self.worker.map(|worker| format!("w{worker}"));
        let schedule = self.schedule.map(|schedule| format!("s{schedule}"));
        index.put(
            revision,
            &RecordFacts {
                job_id: &id(self.job),
                queue: &format!("q{}", self.queue),
                state: self.state,
                reason: self.reason,
                worker_id: worker.as_deref(),
                schedule_id: schedule.as_deref(),
                labels: &labels,
                blocker: self.blocker,
                is_rerun: self.is_rerun,
                time_ms: time(revision),
            },
        );
    }
}

fn id(job: u16) -> String {
    format!("job-{job}")
}

/// The server's clock: several revisions share a millisecond.
fn time(revision: u64) -> i64 {
    i64::try_from(revision / 3).unwrap()
}

fn fact() -> impl Strategy<Value = Fact> {
    (
        0..120_u16,
        0..4_u8,
        proptest::sample::select(State::ALL.to_vec()),
        proptest::option::of(proptest::sample::select(vec![
            Reason::Exit,
            Reason::Timeout,
            Reason::Cancelled,
        ])),
        proptest::option::of(0..70_u8),
        proptest::option::of(0..3_u8),
        proptest::option::of(0..3_u8),
        proptest::option::of(proptest::sample::select(BLOCKERS.to_vec())),
        any::<bool>(),
    )
        .prop_map(
            |(job, queue, state, reason, worker, schedule, team, blocker, is_rerun)| Fact {
                job,
                queue,
                state,
                reason,
                worker,
                schedule,
                team,
                blocker,
                is_rerun,
            },
        )
}

/// A message of the bucket: a record, or the marker of a removed one.
#[derive(Clone, Debug)]
enum Message {
    Record(Fact),
    Marker(u16),
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        6 => fact().prop_map(Message::Record),
        1 => (0..120_u16).prop_map(Message::Marker),
    ]
}

/// What the bucket has after all messages: the latest one of each job, if it is a record.
fn model(messages: &[Message]) -> BTreeMap<u64, Fact> {
    let mut latest: BTreeMap<u16, (u64, Option<Fact>)> = BTreeMap::new();
    for (revision, message) in (1..).zip(messages) {
        match message {
            Message::Record(fact) => latest.insert(fact.job, (revision, Some(fact.clone()))),
            Message::Marker(job) => latest.insert(*job, (revision, None)),
        };
    }
    latest
        .into_values()
        .filter_map(|(revision, fact)| Some((revision, fact?)))
        .collect()
}

/// An index whose chunks are so small that they are split and merged.
fn small() -> RecordIndex {
    RecordIndex::with_rows(usize::MAX, 8)
}

fn apply(index: &mut RecordIndex, revision: u64, message: &Message) {
    match message {
        Message::Record(fact) => fact.put(index, revision),
        Message::Marker(job) => index.remove(&id(*job), revision),
    }
}

/// A search, and the same as a condition on the records of the model.
#[derive(Clone, Debug)]
struct Search {
    states: Vec<State>,
    reason: Option<Reason>,
    queue: Option<u8>,
    worker: Option<u8>,
    schedule: Option<u8>,
    team: Option<Option<u8>>,
    id: Option<&'static str>,
    since_ms: Option<i64>,
    only_reruns: bool,
}

fn search() -> impl Strategy<Value = Search> {
    (
        proptest::sample::subsequence(State::ALL.to_vec(), 0..3),
        proptest::option::weighted(0.3, Just(Reason::Timeout)),
        proptest::option::weighted(0.3, 0..5_u8),
        proptest::option::weighted(0.2, 0..71_u8),
        proptest::option::weighted(0.2, 0..4_u8),
        proptest::option::weighted(0.3, proptest::option::of(0..3_u8)),
        proptest::option::weighted(0.2, Just("job-1")),
        proptest::option::weighted(0.3, 0..400_i64),
        proptest::bool::weighted(0.2),
    )
        .prop_map(
            |(states, reason, queue, worker, schedule, team, id, since_ms, only_reruns)| Search {
                states,
                reason,
                queue,
                worker,
                schedule,
                team,
                id,
                since_ms,
                only_reruns,
            },
        )
}

impl Search {
    fn query(&self) -> Query {
        let team = self.team.map(|team| LabelFilter {
            key: "team".to_owned(),
            value: team.map(|team| format!("t{team}")),
        });
        let first = Conditions {
            states: self.states.clone(),
            queues: self.queue.iter().map(|queue| format!("q{queue}")).collect(),
            labels: team.into_iter().collect(),
            ids: self.id.map(str::to_owned).into_iter().collect(),
            ..Conditions::default()
        };
        let second = Conditions {
            reasons: self.reason.into_iter().collect(),
            workers: self.worker.map(|worker| vec![format!("w{worker}")]),
            schedules: self.schedule.iter().map(|one| format!("s{one}")).collect(),
            only_reruns: self.only_reruns,
            ..Conditions::default()
        };
        Query {
            conditions: vec![first, second],
            since_ms: self.since_ms,
        }
    }

    fn selects(&self, revision: u64, fact: &Fact) -> bool {
        let is = |wanted: Option<u8>, found: Option<u8>| wanted.is_none() || wanted == found;
        (self.states.is_empty() || self.states.contains(&fact.state))
            && (self.reason.is_none() || self.reason == fact.reason)
            && (fact.is_rerun || !self.only_reruns)
            && is(self.queue, Some(fact.queue))
            && is(self.worker, fact.worker)
            && is(self.schedule, fact.schedule)
            && self
                .team
                .is_none_or(|team| fact.team.is_some() && (team.is_none() || team == fact.team))
            && self.id.is_none_or(|begin| id(fact.job).starts_with(begin))
            && self.since_ms.is_none_or(|since| time(revision) >= since)
    }
}

/// All revisions of a search, page by page.
fn find(index: &RecordIndex, query: &Query, mut bound: RevisionBound, page: usize) -> Vec<u64> {
    let mut found = Vec::new();
    loop {
        let batch = index.below(bound, query, page);
        assert!(batch.revisions.len() <= page);
        found.extend(batch.revisions);
        bound = match batch.left {
            RevisionsLeft::Below(revision) => RevisionBound::Below(revision),
            RevisionsLeft::Unindexed(_) | RevisionsLeft::None => return found,
        };
    }
}

fn everything(index: &RecordIndex) -> Vec<u64> {
    find(index, &Query::default(), RevisionBound::Newest, 7)
}

fn check(index: &RecordIndex, model: &BTreeMap<u64, Fact>) -> Result<(), TestCaseError> {
    let revisions: Vec<u64> = model.keys().rev().copied().collect();
    prop_assert_eq!(everything(index), revisions);
    prop_assert_eq!(index.len(), model.len());
    let mut running: BTreeMap<String, u64> = BTreeMap::new();
    for fact in model.values().filter(|fact| fact.state == State::Running) {
        let worker = fact.worker.map(|worker| format!("w{worker}"));
        *running.entry(worker.unwrap_or_default()).or_default() += 1;
    }
    prop_assert_eq!(index.running_by_worker(), running);
    for (blocker, jobs) in index.blocked() {
        let blocked = model.values().filter(|fact| fact.blocker == Some(blocker));
        prop_assert_eq!(jobs, blocked.count() as u64);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_index_equals_the_bucket_after_any_changes(
        messages in vec(message(), 0..400),
        searches in vec(search(), 1..6),
        page in 1..40_usize,
        cut in 0..400_u64,
    ) {
        let mut index = small();
        for (revision, message) in (1..).zip(&messages) {
            apply(&mut index, revision, message);
        }
        let model = model(&messages);
        check(&index, &model)?;
        for search in searches {
            let selected = model.iter().rev().filter(|(revision, fact)| search.selects(**revision, fact));
            let selected: Vec<u64> = selected.map(|(revision, _)| *revision).collect();
            let query = search.query();
            prop_assert_eq!(find(&index, &query, RevisionBound::Newest, page), selected.clone());
            // from a cursor on: by its revision, or by the time of a message of a queue
            let older: Vec<u64> = selected.iter().copied().filter(|revision| *revision < cut).collect();
            prop_assert_eq!(find(&index, &query, RevisionBound::Below(cut), page), older);
            let until = Timestamp::from_unix_ms(time(cut)).unwrap();
            let earlier = selected.into_iter().filter(|revision| time(*revision) <= time(cut));
            let earlier: Vec<u64> = earlier.collect();
            prop_assert_eq!(find(&index, &query, RevisionBound::NoLaterThan(until), usize::MAX), earlier);
        }
    }

    #[test]
    fn a_bucket_is_read_while_it_changes(
        messages in vec(message(), 1..400),
        opened in 0..400_usize,
        order in vec(any::<bool>(), 400),
    ) {
        // What was stored before the watch was opened is read; later messages arrive by the watch, and some of them
        // are read too. The reader has the messages that were the latest of their job when it began, also those that
        // were replaced or removed since.
        let opened = opened.min(messages.len());
        let read = model(&messages[..opened]);
        let mut index = small();
        index.start_reading();
        let mut reading = read.iter();
        let mut watch = (1..).zip(&messages).skip(opened);
        for is_read in order {
            if is_read {
                if let Some((revision, fact)) = reading.next() {
                    fact.put(&mut index, *revision);
                }
            } else if let Some((revision, message)) = watch.next() {
                apply(&mut index, revision, message);
            }
        }
        for (revision, fact) in reading {
            fact.put(&mut index, *revision);
        }
        for (revision, message) in watch {
            apply(&mut index, revision, message);
            apply(&mut index, revision, message);
        }
        index.finish_reading(0);
        check(&index, &model(&messages))?;
    }

    #[test]
    fn a_gap_is_filled_by_the_latest_revisions_after_it(
        messages in vec(message(), 1..400),
        gap in (0..400_usize, 0..400_usize),
    ) {
        let (from, until) = (gap.0.min(messages.len()), (gap.0 + gap.1).min(messages.len()));
        let mut index = small();
        for (revision, message) in (1..).zip(&messages).take(from) {
            apply(&mut index, revision, message);
        }
        // of the gap, the bucket still has the latest message of each job, records and markers
        let mut latest: BTreeMap<u16, u64> = BTreeMap::new();
        let gap = (1..).zip(&messages).skip(from).take(until - from);
        for (revision, message) in gap {
            let (Message::Record(Fact { job, .. }) | Message::Marker(job)) = message;
            latest.insert(*job, revision);
        }
        let mut kept: Vec<u64> = latest.into_values().collect();
        kept.sort_unstable();
        for revision in kept {
            let at = usize::try_from(revision).unwrap() - 1;
            apply(&mut index, revision, &messages[at]);
        }
        for (revision, message) in (1..).zip(&messages).skip(until) {
            apply(&mut index, revision, message);
        }
        check(&index, &model(&messages))?;
        // and everything is read again, as after a bucket was created again
        index.start_reading();
        prop_assert_eq!((index.len(), index.newest()), (0, 0));
        let model = model(&messages);
        for (revision, fact) in &model {
            fact.put(&mut index, *revision);
        }
        index.finish_reading(0);
        check(&index, &model)?;
    }

    #[test]
    fn a_record_that_the_bucket_lacks_is_forgotten(
        messages in vec(message(), 1..400),
        missing in vec(0..400_u64, 0..20),
    ) {
        let mut index = small();
        for (revision, message) in (1..).zip(&messages) {
            apply(&mut index, revision, message);
        }
        let mut model = model(&messages);
        for revision in missing {
            prop_assert_eq!(index.forget(revision), model.remove(&revision).is_some());
        }
        check(&index, &model)?;
    }
}

fn succeeded(job: u64) -> Fact {
    Fact {
        job: u16::try_from(job % 60_000).unwrap(),
        queue: 0,
        state: State::Succeeded,
        reason: None,
        worker: Some(1),
        schedule: None,
        team: None,
        blocker: None,
        is_rerun: false,
    }
}

#[test]
fn an_index_that_is_full_leaves_out_the_oldest_records() {
    let mut index = RecordIndex::new(500_000);
    for revision in 1..=20_000 {
        succeeded(revision).put(&mut index, revision);
        assert!(index.bytes() <= 600_000, "{} bytes", index.bytes());
    }
    let batch = index.below(RevisionBound::Newest, &Query::default(), usize::MAX);
    let RevisionsLeft::Unindexed(below) = batch.left else {
        panic!("{:?}", batch.left)
    };
    // every record is indexed, or below the bound
    assert!((1..20_000).contains(&below), "{below}");
    assert_eq!(batch.revisions, (below..=20_000).rev().collect::<Vec<_>>());
    assert_eq!(index.len(), batch.revisions.len());
    let batch = index.below(RevisionBound::Below(below - 10), &Query::default(), 100);
    assert!(batch.revisions.is_empty());
    assert!(matches!(batch.left, RevisionsLeft::Unindexed(from) if from == below - 10));
    // one that is left out stays out
    succeeded(20_001).put(&mut index, 1);
    assert!(index.revision_of(&id(20_001)).is_none());
}

#[test]
fn a_call_looks_at_a_bounded_number_of_rows_and_a_later_one_continues() {
    let mut index = RecordIndex::new(usize::MAX);
    let count = u64::try_from(ROWS_AT_ONCE).unwrap() + 5_000;
    for revision in 1..=count {
        let labels = BTreeMap::new();
        let facts = RecordFacts {
            job_id: &format!("job-{revision}"),
            queue: "q",
            state: State::Failed,
            reason: (revision == 10).then_some(Reason::Oom),
            worker_id: None,
            schedule_id: None,
            labels: &labels,
            blocker: None,
            is_rerun: false,
            time_ms: 0,
        };
        index.put(revision, &facts);
    }
    let label = |conditions| Query {
        conditions: vec![conditions],
        since_ms: None,
    };
    let unlucky = label(Conditions {
        labels: vec!["team".parse().unwrap()],
        ..Conditions::default()
    });
    let batch = index.below(RevisionBound::Newest, &unlucky, 10);
    assert!(batch.revisions.is_empty());
    assert!(matches!(batch.left, RevisionsLeft::Below(_)), "{batch:?}");
    assert!(find(&index, &unlucky, RevisionBound::Newest, 10).is_empty());
    // chunks without the reason are left out, so one call finds the record
    let rare = label(Conditions {
        reasons: vec![Reason::Oom],
        ..Conditions::default()
    });
    let batch = index.below(RevisionBound::Newest, &rare, 1);
    assert_eq!(batch.revisions, [10]);
}

#[test]
fn a_record_takes_about_a_hundred_bytes() {
    let mut index = RecordIndex::new(usize::MAX);
    let count = 50_000;
    for revision in 1..=count {
        let labels = BTreeMap::from([("team".to_owned(), (revision % 10).to_string())]);
        index.put(
            revision,
            &RecordFacts {
                job_id: &format!("0198c0de-0000-7000-8000-{revision:012}"),
                queue: "build",
                state: State::Succeeded,
                reason: None,
                worker_id: Some("host-1"),
                schedule_id: None,
                labels: &labels,
                blocker: None,
                is_rerun: false,
                time_ms: i64::try_from(revision).unwrap(),
            },
        );
    }
    let each = index.bytes() / index.len();
    assert!((76..=105).contains(&each), "{each} bytes");
}

#[test]
fn removals_do_not_leave_memory_behind() {
    let mut index = RecordIndex::new(usize::MAX);
    let count = 50_000;
    for revision in 1..=count {
        let job = revision % 500;
        succeeded(job).put(&mut index, revision);
    }
    index.finish_reading(0);
    assert_eq!(index.len(), 500);
    assert!(index.bytes() < 200_000, "{} bytes", index.bytes());
}
