//! Whether the promises were kept, reckoned from what was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use naq_protocol::{Reason, Record, State};

use super::history::{Line, Process, Write};
use super::jobs::{Ends, Planned};

/// Records with their revisions, by job.
pub(super) type Records = BTreeMap<String, (u64, Record)>;

/// Everything that was seen of a run, after its end.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) planned: Vec<Planned>,
    /// The ids of the enqueues that were acknowledged.
    pub(super) acknowledged: BTreeSet<String>,
    /// Every write of every record, by job.
    pub(super) writes: BTreeMap<String, Vec<Write>>,
    /// How many there were, as the bucket counts.
    pub(super) writes_count: u64,
    /// The records as they are at the end, with their revisions.
    pub(super) records: Records,
    /// Jobs without a terminal record that are still somewhere in a queue.
    pub(super) queued: BTreeSet<String>,
    /// Messages that nobody acknowledged.
    pub(super) stream_messages: u64,
    /// Messages of jobs that had ended, removed by a leader that swept when all was over.
    pub(super) messages_swept: u64,
    /// The jobs' own log.
    pub(super) runs: Vec<Line>,
    /// The jobs that someone asked to cancel, and those of which naq said that it has.
    pub(super) cancel_asked: BTreeSet<String>,
    pub(super) cancelled: BTreeSet<String>,
    /// What the failed stream keeps.
    pub(super) kept: BTreeSet<String>,
    /// Processes of jobs, after the last job's end.
    pub(super) left_over: Vec<Process>,
}

/// What came of it. Each list names what broke a promise; all have to be empty.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) acknowledged: usize,
    pub(super) ended: usize,
    pub(super) lost: Vec<String>,
    pub(super) double: Vec<String>,
    pub(super) overwritten: Vec<String>,
    pub(super) left_over: Vec<String>,
    pub(super) stuck: Vec<String>,
    /// Ended otherwise than it had to.
    pub(super) wrong: Vec<String>,
    /// One claim that started its job twice.
    pub(super) claimed_once_run_twice: Vec<String>,
    /// More at once than their key allows.
    pub(super) crowded: Vec<String>,
    /// Failed, and not in the failed stream.
    pub(super) not_kept: Vec<String>,
    /// Runs beyond those that the jobs' own failures asked for.
    pub(super) reruns: usize,
    pub(super) jobs_rerun: usize,
    /// Runs that were looked at for their key.
    pub(super) keyed_runs: usize,
    /// Started by a paused worker after its successor had started; their fences distinguish them.
    pub(super) stale_starts: usize,
    /// Given up since their workers died under them too often.
    pub(super) crashed: usize,
    /// Writes that were seen, and those that were not.
    pub(super) writes: u64,
    pub(super) unseen_writes: u64,
    /// Messages of ended jobs that a killed server had again, and a leader swept up.
    pub(super) swept: u64,
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
            &self.crowded,
            &self.not_kept,
        ]
        .into_iter()
        .all(Vec::is_empty)
            && self.unseen_writes <= self.writes / UNSEEN_OF_WRITES_MAX
    }
}

/// One in so many writes may go unseen. The bucket keeps the last value of a key: what is written
/// over while the observer has no server to ask is not there to be seen afterwards. It is counted
/// and reported; with more of them the check for overwritten records would prove nothing.
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
            "wrong outcomes {}, claims that ran twice {}, keys crowded {}, failures not kept {}",
            self.wrong.len(),
            self.claimed_once_run_twice.len(),
            self.crowded.len(),
            self.not_kept.len()
        )?;
        write!(
            f,
            "reruns {} of {} jobs, stale starts {}, runs with a key {}, given up as crashed {}, writes of records {}, unseen {}, messages swept up {}",
            self.reruns,
            self.jobs_rerun,
            self.stale_starts,
            self.keyed_runs,
            self.crashed,
            self.writes,
            self.unseen_writes,
            self.swept
        )?;
        for (what, list) in [
            ("lost", &self.lost),
            ("double", &self.double),
            ("overwritten", &self.overwritten),
            ("left over", &self.left_over),
            ("stuck", &self.stuck),
            ("wrong", &self.wrong),
            ("ran twice", &self.claimed_once_run_twice),
            ("crowded", &self.crowded),
            ("not kept", &self.not_kept),
        ] {
            for one in list.iter().take(20) {
                write!(f, "\n{what}: {one}")?;
            }
        }
        Ok(())
    }
}

/// Reckons it up.
pub(super) fn check(seen: &Seen) -> Verdict {
    let mut verdict = Verdict {
        acknowledged: seen.acknowledged.len(),
        swept: seen.messages_swept,
        left_over: seen
            .left_over
            .iter()
            .map(|process| format!("{} {}", process.pid, process.command))
            .collect(),
        ..Verdict::default()
    };
    for job in &seen.acknowledged {
        match seen.records.get(job) {
            Some((_, record)) if record.state.is_terminal() => {}
            Some((_, record)) => verdict.stuck.push(format!("{job}: {}", record.state)),
            None if seen.queued.contains(job) => verdict.stuck.push(format!("{job}: queued")),
            None => verdict.lost.push(job.clone()),
        }
    }
    if verdict.stuck.is_empty() && seen.stream_messages > 0 {
        let left = seen.stream_messages;
        verdict.stuck.push(format!("{left} messages of ended jobs"));
    }
    for (job, writes) in &seen.writes {
        follow_writes(&mut verdict, seen, job, writes);
    }
    verdict.unseen_writes = seen.writes_count.abs_diff(verdict.writes);
    for (job, (_, record)) in &seen.records {
        look_at_record(&mut verdict, seen, job, record);
    }
    count_runs(&mut verdict, seen);
    count_keys(&mut verdict, seen);
    verdict
}

fn follow_writes(verdict: &mut Verdict, seen: &Seen, job: &str, writes: &[Write]) {
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

fn look_at_record(verdict: &mut Verdict, seen: &Seen, job: &str, record: &Record) {
    if !record.state.is_terminal() {
        return;
    }
    verdict.ended += 1;
    verdict.crashed += usize::from(record.reason == Some(Reason::Crashed));
    if matches!(record.state, State::Failed | State::Rejected) && !seen.kept.contains(job) {
        verdict.not_kept.push(job.to_owned());
    }
    if seen.cancelled.contains(job) && record.state != State::Cancelled {
        let state = record.state;
        verdict.wrong.push(format!("{job}: cancelled, and {state}"));
    }
    match planned(seen, record) {
        Some(planned) => {
            let state_of = |job: &str| seen.records.get(job).map(|(_, record)| record.state);
            let cancel_asked = seen.cancel_asked.contains(job);
            if let Some(problem) = planned.check(record, cancel_asked, state_of) {
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
            let asked_for = record.attempt.saturating_sub(record.crashes) as usize;
            let more = fences.len().saturating_sub(asked_for);
            verdict.reruns += more;
            verdict.jobs_rerun += usize::from(more > 0);
        }
    }
}

/// Looks whether more jobs of a key ran at once than may. The lines of the log are in the order in
/// which things happened. What a killed or paused worker ran cannot be reckoned with: it has no
/// end, or continues next to the run that replaced it.
fn count_keys(verdict: &mut Verdict, seen: &Seen) {
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
        let went_its_way = line.fence == last_fence[job]
            && ended.contains(&(job, line.fence))
            && record.reason != Some(Reason::Crashed)
            && !record.cancel_requested
            && record.state != State::Cancelled;
        let Some((key, max)) = planned(seen, record).and_then(Planned::slots) else {
            continue;
        };
        if !went_its_way {
            continue;
        }
        let jobs = running.entry(key.clone()).or_default();
        if line.begins {
            jobs.insert(job);
        } else {
            jobs.remove(job);
        }
        if jobs.len() > max {
            verdict.crowded.push(format!("{key}: {jobs:?}"));
        }
        verdict.keyed_runs += usize::from(line.begins);
    }
}

/// A run of one job that went well, to be spoilt.
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
fn what_went_well_is_good() {
    let verdict = check(&good());
    assert!(verdict.is_good(), "{verdict}");
    assert_eq!((verdict.reruns, verdict.unseen_writes), (0, 0));
}

/// Each promise, broken, and the word for it in the verdict.
#[test]
fn what_breaks_a_promise_is_found() {
    type Spoil = fn(&mut Seen);
    let spoils: [(&str, Spoil); 14] = [
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
            // by a write that nobody saw
            seen.records.get_mut("a").unwrap().0 = 9;
        }),
        ("unseen 1", |seen| seen.writes_count = 3),
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
        ("nobody asked", |seen| {
            seen.records
                .insert("a".to_owned(), (2, record(State::Cancelled)));
        }),
        ("wrong:", |seen| {
            // it ran although what it waited for did not end so
            let depends_on = serde_json::json!([{"job": "b", "on": "success"}]);
            seen.planned[0].envelope = serde_json::json!({"depends_on": depends_on});
        }),
    ];
    for (word, spoil) in spoils {
        let mut seen = good();
        spoil(&mut seen);
        let verdict = check(&seen);
        assert!(!verdict.is_good(), "{word}");
        assert!(verdict.to_string().contains(word), "{word}: {verdict}");
    }
}

#[test]
fn a_crowded_key_is_found() {
    for (max, crowded) in [(1, true), (2, false)] {
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
        assert_eq!(!check(&seen).crowded.is_empty(), crowded);
    }
}

#[test]
fn a_failure_that_is_not_kept_is_found() {
    let mut seen = good();
    seen.records
        .insert("a".to_owned(), (2, record(State::Failed)));
    assert_eq!(check(&seen).not_kept, ["a"]);
}
