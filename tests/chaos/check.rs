//! Checks the promises against what was observed of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use naq_protocol::{Reason, Record, State};

use super::history::{Line, Process, Write};
use super::jobs::{Ends, Planned};

/// Records with their revisions, by job.
pub(super) type Records = BTreeMap<String, (u64, Record)>;

/// Everything that was observed of a run, after its end.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) planned: Vec<Planned>,
    /// The ids of the enqueues that were acknowledged.
    pub(super) acknowledged: BTreeSet<String>,
    /// Every write of every record, by job.
    pub(super) writes: BTreeMap<String, Vec<Write>>,
    /// Number of writes, as the bucket counts them.
    pub(super) writes_count: u64,
    /// The records at the end, with their revisions.
    pub(super) records: Records,
    /// Jobs without a terminal record that are still somewhere in a queue.
    pub(super) queued: BTreeSet<String>,
    /// Number of messages that no worker acknowledged.
    pub(super) stream_messages: u64,
    /// Number of orphaned messages of ended jobs that the reconciler removed at the end.
    pub(super) messages_reconciled: u64,
    /// The jobs' own log.
    pub(super) runs: Vec<Line>,
    /// Jobs whose cancellation was requested, and those that naq reported as cancelled.
    pub(super) cancel_requested: BTreeSet<String>,
    pub(super) cancelled: BTreeSet<String>,
    /// Jobs that have a dead letter.
    pub(super) dead_letters: BTreeSet<String>,
    /// Processes of jobs that still ran after the last job had ended.
    pub(super) left_over: Vec<Process>,
}

/// The result of the check. Each list names what broke a promise; all have to be empty.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) acknowledged: usize,
    pub(super) ended: usize,
    pub(super) lost: Vec<String>,
    pub(super) double: Vec<String>,
    pub(super) overwritten: Vec<String>,
    pub(super) left_over: Vec<String>,
    pub(super) stuck: Vec<String>,
    /// Jobs with another outcome than the planned one.
    pub(super) wrong: Vec<String>,
    /// Claims under which a job started twice.
    pub(super) claimed_once_run_twice: Vec<String>,
    /// Concurrency keys of which more jobs ran at once than allowed.
    pub(super) over_limit: Vec<String>,
    /// Failed jobs without a dead letter.
    pub(super) no_dead_letter: Vec<String>,
    /// Runs beyond those that the jobs' own failures required.
    pub(super) reruns: usize,
    pub(super) jobs_rerun: usize,
    /// Runs of jobs with a concurrency key that were checked.
    pub(super) keyed_runs: usize,
    /// Runs that a suspended worker started after the next worker had; their fences distinguish them.
    pub(super) stale_starts: usize,
    /// Jobs that failed because their workers had died too often.
    pub(super) crashed: usize,
    /// Number of writes that were observed, and of those that were not.
    pub(super) writes: u64,
    pub(super) unseen_writes: u64,
    /// Messages of ended jobs that a killed server had restored, and the reconciler removed.
    pub(super) reconciled: u64,
}

impl Verdict {
    /// Whether every promise was kept.
    pub(super) fn is_good(&self) -> bool {
        [
            &self.lost,
            &self.double,
            &self.overwritten,
            &self.left_over,
            &self.stuck,
            &self.wrong,
            &self.claimed_once_run_twice,
            &self.over_limit,
            &self.no_dead_letter,
        ]
        .into_iter()
        .all(Vec::is_empty)
            && self.unseen_writes <= self.writes / UNSEEN_OF_WRITES_MAX
    }
}

/// One of this many writes may be missed. The bucket keeps only the latest values of a key, so a
/// value that is replaced while the observer has no server cannot be read afterwards. Missed writes
/// are counted and reported; with more of them, the check for overwritten records would prove nothing.
const UNSEEN_OF_WRITES_MAX: u64 = 10;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} acknowledged, {} ended: lost {}, double {}, overwritten {}, left over {}, stuck {}",
            self.acknowledged,
            self.ended,
            self.lost.len(),
            self.double.len(),
            self.overwritten.len(),
            self.left_over.len(),
            self.stuck.len()
        )?;
        writeln!(
            f,
            "wrong outcomes {}, claims that ran twice {}, keys over their limit {}, failures without a dead letter {}",
            self.wrong.len(),
            self.claimed_once_run_twice.len(),
            self.over_limit.len(),
            self.no_dead_letter.len()
        )?;
        write!(
            f,
            "reruns {} of {} jobs, stale starts {}, runs with a key {}, failed as crashed {}, writes of records {}, missed {}, messages reconciled {}",
            self.reruns,
            self.jobs_rerun,
            self.stale_starts,
            self.keyed_runs,
            self.crashed,
            self.writes,
            self.unseen_writes,
            self.reconciled
        )?;
        for (what, list) in [
            ("lost", &self.lost),
            ("double", &self.double),
            ("overwritten", &self.overwritten),
            ("left over", &self.left_over),
            ("stuck", &self.stuck),
            ("wrong", &self.wrong),
            ("ran twice", &self.claimed_once_run_twice),
            ("over the limit", &self.over_limit),
            ("no dead letter", &self.no_dead_letter),
        ] {
            for one in list.iter().take(20) {
                write!(f, "\n{what}: {one}")?;
            }
        }
        Ok(())
    }
}

/// Checks every promise.
pub(super) fn check(seen: &Seen) -> Verdict {
    let mut verdict = Verdict {
        acknowledged: seen.acknowledged.len(),
        reconciled: seen.messages_reconciled,
        left_over: seen
            .left_over
            .iter()
            .map(|process| format!("{} {}", process.pid, process.command))
            .collect(),
        ..Verdict::default()
    };
    for job in &seen.acknowledged {
        match seen.records.get(job) {
            Some((_, record)) if record.state().is_terminal() => {}
            Some((_, record)) => verdict.stuck.push(format!("{job}: {}", record.state())),
            None if seen.queued.contains(job) => verdict.stuck.push(format!("{job}: queued")),
            None => verdict.lost.push(job.clone()),
        }
    }
    if verdict.stuck.is_empty() && seen.stream_messages > 0 {
        let left = seen.stream_messages;
        verdict.stuck.push(format!("{left} messages of ended jobs"));
    }
    for (job, writes) in &seen.writes {
        check_writes(&mut verdict, seen, job, writes);
    }
    verdict.unseen_writes = seen.writes_count.abs_diff(verdict.writes);
    for (job, (_, record)) in &seen.records {
        check_record(&mut verdict, seen, job, record);
    }
    count_runs(&mut verdict, seen);
    check_keys(&mut verdict, seen);
    verdict
}

fn check_writes(verdict: &mut Verdict, seen: &Seen, job: &str, writes: &[Write]) {
    let mut writes = writes.to_vec();
    writes.sort_by_key(|write| write.revision);
    let last = seen.records.get(job).map(|(revision, _)| *revision);
    let outcomes: Vec<&Write> = writes
        .iter()
        .filter(|write| write.state.is_terminal())
        .collect();
    verdict.writes += writes.len() as u64;
    if outcomes.len() > 1 {
        verdict.double.push(format!("{job}: {outcomes:?}"));
    }
    if let Some(first) = outcomes.first() {
        let replaced = writes.iter().any(|write| write.revision > first.revision);
        if replaced || last.is_some_and(|last| last != first.revision) {
            let now = last.unwrap_or_default();
            verdict
                .overwritten
                .push(format!("{job}: {first:?}, now at {now}: {writes:?}"));
        }
    }
}

fn check_record(verdict: &mut Verdict, seen: &Seen, job: &str, record: &Record) {
    if !record.state().is_terminal() {
        return;
    }
    verdict.ended += 1;
    verdict.crashed += usize::from(record.reason() == Some(Reason::Crashed));
    if matches!(record.state(), State::Failed | State::Rejected) && !seen.dead_letters.contains(job)
    {
        verdict.no_dead_letter.push(job.to_owned());
    }
    if seen.cancelled.contains(job) && record.state() != State::Cancelled {
        let state = record.state();
        verdict.wrong.push(format!("{job}: cancelled, and {state}"));
    }
    match planned(seen, record) {
        Some(planned) => {
            let state_of = |job: &str| seen.records.get(job).map(|(_, record)| record.state());
            let cancel_requested = seen.cancel_requested.contains(job);
            if let Some(problem) = planned.check(record, cancel_requested, state_of) {
                let kind = planned.kind;
                verdict.wrong.push(format!("{job} ({kind}): {problem}"));
            }
        }
        None => verdict
            .wrong
            .push(format!("{job}: its record does not say which job it is")),
    }
}

/// The job that a record is of: its envelope carries the number.
fn planned<'a>(seen: &'a Seen, record: &Record) -> Option<&'a Planned> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        meta: usize,
    }
    let envelope = record.envelope.as_ref()?;
    let Numbered { meta } = serde_json::from_str(envelope.get()).ok()?;
    seen.planned.get(meta)
}

fn count_runs(verdict: &mut Verdict, seen: &Seen) {
    let mut begun: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for line in seen.runs.iter().filter(|line| line.begins) {
        begun.entry(&line.job_id).or_default().push(line.fence);
    }
    for (job, fences) in begun {
        let claims: BTreeSet<u64> = fences.iter().copied().collect();
        if claims.len() < fences.len() {
            let runs = format!("{job}: {fences:?}");
            verdict.claimed_once_run_twice.push(runs);
        }
        verdict.stale_starts += fences.windows(2).filter(|two| two[1] < two[0]).count();
        if let Some((_, record)) = seen.records.get(job) {
            let interrupted = record.interrupted_attempts();
            let asked_for = record.attempt.saturating_sub(interrupted) as usize;
            let more = fences.len().saturating_sub(asked_for);
            verdict.reruns += more;
            verdict.jobs_rerun += usize::from(more > 0);
        }
    }
}

/// Checks that no more jobs of a concurrency key ran at once than allowed. The lines of the log are in
/// the order in which the jobs wrote them. Runs under a killed or suspended worker are left out: they
/// have no end, or continue next to the run that replaced them.
fn check_keys(verdict: &mut Verdict, seen: &Seen) {
    let mut last_fence: BTreeMap<&str, u64> = BTreeMap::new();
    for line in &seen.runs {
        let last = last_fence.entry(&line.job_id).or_default();
        *last = line.fence.max(*last);
    }
    let ended: BTreeSet<(&str, u64)> = seen
        .runs
        .iter()
        .filter(|line| !line.begins)
        .map(|line| (line.job_id.as_str(), line.fence))
        .collect();
    let mut running: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for line in &seen.runs {
        let job = line.job_id.as_str();
        let Some((_, record)) = seen.records.get(job) else {
            continue;
        };
        let ran_to_its_end = line.fence == last_fence[job]
            && ended.contains(&(job, line.fence))
            && !matches!(record.reason(), Some(Reason::Crashed | Reason::Lost))
            && !record.cancel_requested
            && record.state() != State::Cancelled;
        let Some((key, max)) = planned(seen, record).and_then(Planned::slots) else {
            continue;
        };
        if !ran_to_its_end {
            continue;
        }
        let jobs = running.entry(key.clone()).or_default();
        if line.begins {
            jobs.insert(job);
        } else {
            jobs.remove(job);
        }
        if jobs.len() > max {
            verdict.over_limit.push(format!("{key}: {jobs:?}"));
        }
        verdict.keyed_runs += usize::from(line.begins);
    }
}

/// A run of one job that kept every promise. Each test breaks one of them.
fn good() -> Seen {
    let job = "a".to_owned();
    let write = |revision, state, attempt| Write {
        revision,
        state,
        reason: None,
        attempt,
        crashes: 0,
    };
    let line = |begins| Line {
        begins,
        job_id: job.clone(),
        attempt: 1,
        fence: 1,
    };
    Seen {
        planned: vec![Planned {
            queue: "left",
            job_id: Some(job.clone()),
            kind: "short",
            ends: Ends::Well { stdout_bytes: 0 },
            envelope: serde_json::Value::Null,
        }],
        acknowledged: [job.clone()].into(),
        writes: [(
            job.clone(),
            vec![write(1, State::Running, 1), write(2, State::Succeeded, 1)],
        )]
        .into(),
        writes_count: 2,
        records: [(job.clone(), (2, record(State::Succeeded)))].into(),
        runs: vec![line(true), line(false)],
        ..Seen::default()
    }
}

fn record(state: State) -> Record {
    let record = serde_json::json!({
        "job_id": "a", "queue": "left", "state": state, "attempt": 1, "crashes": 0,
        "enqueue_time": "2026-01-01T00:00:00Z", "envelope": {"meta": 0},
    });
    serde_json::from_value(record).unwrap()
}

#[test]
fn checker_accepts_a_run_that_kept_its_promises() {
    let verdict = check(&good());
    assert!(verdict.is_good(), "{verdict}");
    assert_eq!((verdict.reruns, verdict.unseen_writes), (0, 0));
}

/// Each promise broken, and the words of the verdict.
#[test]
fn checker_finds_each_broken_promise() {
    type Break = fn(&mut Seen);
    let breaks: [(&str, Break); 14] = [
        ("lost:", |seen| seen.records.clear()),
        ("stuck: a: queued", |seen| {
            seen.records.clear();
            seen.queued.insert("a".to_owned());
        }),
        ("stuck: a: running", |seen| {
            seen.records
                .insert("a".to_owned(), (2, record(State::Running)));
        }),
        ("stuck: 1 messages", |seen| seen.stream_messages = 1),
        ("double:", |seen| {
            let writes = seen.writes.get_mut("a").unwrap();
            let second = Write {
                revision: 3,
                ..writes[1]
            };
            writes.push(second);
        }),
        ("overwritten:", |seen| {
            let writes = seen.writes.get_mut("a").unwrap();
            let late = Write {
                revision: 3,
                ..writes[0]
            };
            writes.push(late);
        }),
        ("overwritten:", |seen| {
            // by a write that was not observed
            seen.records.get_mut("a").unwrap().0 = 9;
        }),
        ("missed 1", |seen| seen.writes_count = 3),
        ("left over:", |seen| {
            seen.left_over.push(Process {
                pid: 1,
                command: "sleep".to_owned(),
            });
        }),
        ("wrong:", |seen| {
            seen.planned[0].ends = Ends::Rejected;
        }),
        ("ran twice:", |seen| seen.runs.push(seen.runs[0].clone())),
        ("wrong: a: cancelled, and", |seen| {
            seen.cancelled.insert("a".to_owned());
        }),
        ("no cancel was requested", |seen| {
            seen.records
                .insert("a".to_owned(), (2, record(State::Cancelled)));
        }),
        ("wrong:", |seen| {
            // it ran although its dependency had not ended as required
            let depends_on = serde_json::json!([{"job": "b", "on": "success"}]);
            seen.planned[0].envelope = serde_json::json!({"depends_on": depends_on});
        }),
    ];
    for (word, break_promise) in breaks {
        let mut seen = good();
        break_promise(&mut seen);
        let verdict = check(&seen);
        assert!(!verdict.is_good(), "{word}");
        assert!(verdict.to_string().contains(word), "{word}: {verdict}");
    }
}

#[test]
fn checker_finds_a_concurrency_key_over_its_limit() {
    for (max, over_limit) in [(1, true), (2, false)] {
        let mut seen = good();
        let envelope = serde_json::json!({"concurrency_key": "k", "concurrency_max": max});
        seen.planned[0].envelope = envelope;
        let both = seen.runs.clone().into_iter().flat_map(|line| {
            let other = Line {
                job_id: "b".to_owned(),
                ..line.clone()
            };
            [line, other]
        });
        seen.runs = both.collect();
        let second = seen.records["a"].clone();
        seen.records.insert("b".to_owned(), second);
        assert_eq!(!check(&seen).over_limit.is_empty(), over_limit);
    }
}

#[test]
fn checker_finds_a_failure_without_a_dead_letter() {
    let mut seen = good();
    seen.records
        .insert("a".to_owned(), (2, record(State::Failed)));
    assert_eq!(check(&seen).no_dead_letter, ["a"]);
}
