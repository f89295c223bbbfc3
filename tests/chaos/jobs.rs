//! The jobs of a run: what each does, and its planned outcome.

use std::path::{Path, PathBuf};

use naq_protocol::{Reason, Record, State};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

/// The variable that marks every process of a run's jobs.
pub(super) const MARK: &str = "CHAOS_RUN";

/// The program of every job. It appends its start and its end to the run's log, each by one write, so
/// that the lines of all jobs are in the order in which they were written.
const PROGRAM: &str = r#"#!/bin/sh
say() { printf '%s %s %s %s\n' "$1" "$NAQ_JOB_ID" "$NAQ_ATTEMPT" "$NAQ_FENCE" >> "$CHAOS_LOG"; }
leave() { say end; exit "$1"; }
say begin
case $1 in
sleep) sleep "$2" ;;
nap) sleep "0.$(printf %s "$NAQ_JOB_ID" | cksum | cut -c 2-3)" ;;
until) [ "$NAQ_ATTEMPT" -ge "$2" ] || leave "$3" ;;
exit) leave "$2" ;;
signal) say end; kill -9 $$ ;;
parent)
    (trap '' TERM; sleep 3600) &
    setsid sleep 3600 &
    ;;
print) head -c "$2" /dev/zero | tr '\0' x ;;
esac
leave 0
"#;

/// Paths of that program and of the log that it writes.
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) log: PathBuf,
}

impl Program {
    /// Writes the program into the run's folder.
    pub(super) fn new(folder: &Path) -> Program {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join("job.sh");
        std::fs::write(&path, PROGRAM).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Program {
            path,
            log: folder.join("runs.log"),
        }
    }
}

/// The planned outcome of a job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ends {
    /// It succeeds and prints this many bytes.
    Well { stdout_bytes: u64 },
    /// It fails for this reason, after this many failures of its own.
    Failed { reason: Reason, failures: u32 },
    /// Its envelope is rejected.
    Rejected,
}

/// Whether a dependency in this state satisfies the condition `on`, as the protocol page defines it.
fn is_met(on: &str, state: State) -> bool {
    match on {
        "success" => state == State::Succeeded,
        "failure" => state != State::Succeeded,
        _ => true,
    }
}

impl Ends {
    /// Compares a terminal record with the plan. `None` means that it is as planned.
    pub(super) fn check(self, record: &Record) -> Option<String> {
        if record.state() == State::Failed && record.reason() == Some(Reason::Dependency) {
            return Some("failed because of a dependency".to_owned());
        }
        let crashed = record.reason() == Some(Reason::Crashed) && record.crashes >= 3;
        if crashed && self != Ends::Rejected {
            // its workers were killed under it so often that naq fails it, as documented
            return None;
        }
        let good = match self {
            Ends::Well { stdout_bytes } => {
                record.state() == State::Succeeded
                    && record.stdout.as_ref().map_or(0, |output| output.bytes) == stdout_bytes
            }
            Ends::Failed { reason, failures } => {
                record.state() == State::Failed
                    && record.reason() == Some(reason)
                    && record.attempt - record.interrupted_attempts() == failures
            }
            Ends::Rejected => record.state() == State::Rejected,
        };
        (!good).then(|| {
            format!(
                "{} ({:?}) at attempt {} with {} crashes, {} shared ones, {} lost leases and {:?} bytes, not {self:?}",
                record.state(),
                record.reason(),
                record.attempt,
                record.crashes,
                record.shared_crashes,
                record.lost_leases,
                record.stdout.as_ref().map(|output| output.bytes)
            )
        })
    }
}

/// A job of the plan. Its envelope carries its number as `meta`.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) queue: &'static str,
    /// The id in its envelope. `None` means that naq assigns one.
    pub(super) job_id: Option<String>,
    /// Its kind, for the report.
    pub(super) kind: &'static str,
    pub(super) ends: Ends,
    pub(super) envelope: Value,
}

impl Planned {
    /// Compares the outcome of this job with the plan and with the outcomes of its dependencies. `None`
    /// means that it is as planned.
    pub(super) fn check(
        &self,
        record: &Record,
        cancel_requested: bool,
        state_of: impl Fn(&str) -> Option<State>,
    ) -> Option<String> {
        if record.state() == State::Cancelled {
            return (!cancel_requested).then(|| "no cancel was requested".to_owned());
        }
        let none = Vec::new();
        let dependencies = self.envelope["depends_on"].as_array().unwrap_or(&none);
        let ends: Vec<(&str, Option<State>)> = dependencies
            .iter()
            .map(|one| (one["on"].as_str().unwrap_or("success"), &one["job"]))
            .map(|(on, job)| (on, state_of(job.as_str().unwrap())))
            .collect();
        let can_run = ends
            .iter()
            .all(|(on, state)| state.is_some_and(|state| is_met(on, state)));
        if can_run {
            return self.ends.check(record);
        }
        let by_dependency =
            record.state() == State::Failed && record.reason() == Some(Reason::Dependency);
        let broken = ends.iter().any(|(on, state)| {
            state.is_some_and(|state| state.is_terminal() && !is_met(on, state))
        });
        (!by_dependency || !broken)
            .then(|| format!("{} ({:?}) after {ends:?}", record.state(), record.reason()))
    }
}

impl Planned {
    /// The concurrency key, and the number of its jobs that may run at once.
    pub(super) fn slots(&self) -> Option<(String, usize)> {
        let key = self.envelope["concurrency_key"].as_str()?;
        let max = self.envelope["concurrency_max"].as_u64()?;
        Some((key.to_owned(), usize::try_from(max).ok()?))
    }
}

/// The concurrency keys. The last digit is the number of jobs that may run at once.
pub(super) const KEYS: [&str; 3] = ["key-1", "key-2", "key-3"];

/// The queues of a run.
pub(super) const QUEUES: [&str; 2] = ["left", "right"];

/// Makes random jobs, the same ones from the same seed.
pub(super) struct Jobs {
    chance: StdRng,
    program: Program,
    mark: String,
    made: Vec<Planned>,
}

/// Output that is too large for a record, in bytes.
const LOUD_BYTES: u64 = 1_200_000;

impl Jobs {
    pub(super) fn new(chance: StdRng, folder: &Path, mark: &str) -> Jobs {
        Jobs {
            chance,
            program: Program::new(folder),
            mark: mark.to_owned(),
            made: Vec::new(),
        }
    }

    /// Every job made so far, by number.
    pub(super) fn made(&self) -> &[Planned] {
        &self.made
    }

    /// Makes one more job, or several that depend on each other.
    pub(super) fn make(&mut self) -> Vec<Planned> {
        match self.chance.random_range(0..100) {
            0..3 => self.chain(),
            3..5 => self.fan_in(),
            5..7 => self.fan_out(),
            _ => {
                let named = self.chance.random_bool(0.5);
                vec![self.single(json!({}), named)]
            }
        }
    }

    /// Jobs that each depend on the one before.
    fn chain(&mut self) -> Vec<Planned> {
        let length = self.chance.random_range(2..=5);
        let mut jobs: Vec<Planned> = Vec::new();
        for _ in 0..length {
            let before = jobs.last().map(|job| self.waits_for(job));
            jobs.push(self.single(json!({"depends_on": before.as_slice()}), true));
        }
        jobs
    }

    /// A job that depends on several.
    fn fan_in(&mut self) -> Vec<Planned> {
        let count = self.chance.random_range(2..=8);
        let mut jobs: Vec<Planned> = (0..count).map(|_| self.single(json!({}), true)).collect();
        let all: Vec<Value> = jobs.iter().map(|job| self.waits_for(job)).collect();
        jobs.push(self.single(json!({"depends_on": all}), true));
        jobs
    }

    /// Several jobs that depend on one.
    fn fan_out(&mut self) -> Vec<Planned> {
        let first = self.single(json!({}), true);
        let count = self.chance.random_range(2..=8);
        let mut jobs: Vec<Planned> = (0..count)
            .map(|_| {
                let one = self.waits_for(&first);
                self.single(json!({"depends_on": [one]}), true)
            })
            .collect();
        jobs.push(first);
        jobs
    }

    fn waits_for(&mut self, job: &Planned) -> Value {
        let on = ["success", "success", "failure", "finished"][self.chance.random_range(0..4)];
        json!({"job": job.job_id, "on": on})
    }

    fn single(&mut self, more: Value, named: bool) -> Planned {
        let number = self.made.len();
        let (kind, args, ends, mut envelope) = self.draw(more != json!({}));
        if let Some(args) = args {
            envelope["command"] = json!(self.program.path);
            envelope["args"] = json!(args);
        }
        if let (Value::Object(envelope), Value::Object(more)) = (&mut envelope, more) {
            envelope.extend(more);
        }
        let job_id = named.then(|| format!("c{number}-{:04x}", self.chance.random::<u16>()));
        if let Some(id) = &job_id {
            envelope["job_id"] = json!(id);
        }
        envelope["env"] = json!({MARK: self.mark, "CHAOS_LOG": self.program.log});
        envelope["meta"] = json!(number);
        let planned = Planned {
            queue: QUEUES[self.chance.random_range(0..QUEUES.len())],
            job_id,
            kind,
            ends,
            envelope,
        };
        self.made.push(planned.clone());
        planned
    }

    /// One of the jobs made so far, to be enqueued a second time. `None` if it has no id, by which naq
    /// could recognize it.
    pub(super) fn again(&mut self) -> Option<Planned> {
        let earlier = self.made.len().checked_sub(1)?;
        let number = self.chance.random_range(0..=earlier);
        let planned = &self.made[number];
        planned.job_id.is_some().then(|| planned.clone())
    }

    fn draw(&mut self, waits: bool) -> (&'static str, Option<Vec<String>>, Ends, Value) {
        let chance = &mut self.chance;
        let well = Ends::Well { stdout_bytes: 0 };
        let args = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        // a short delay passes in the worker, a longer one at the server
        let wait = ["20ms", "300ms", "1500ms"][chance.random_range(0..3)];
        match chance.random_range(0..100) {
            0..12 => {
                let seconds = f64::from(chance.random_range(50..500)) / 1_000.0;
                (
                    "slow",
                    args(&["sleep", &seconds.to_string()]),
                    well,
                    json!({}),
                )
            }
            12..20 => {
                let succeeds_at: u32 = chance.random_range(2..=4);
                (
                    "flaky",
                    args(&["until", &succeeds_at.to_string(), "9"]),
                    well,
                    json!({"max_retries": 3, "retry_delay": wait}),
                )
            }
            20..24 => (
                "temporary",
                args(&["until", "2", "75"]),
                well,
                json!({"max_retries": 1, "retry_on": [3], "retry_delay": wait}),
            ),
            24..28 => {
                let max_retries: u32 = chance.random_range(0..=2);
                (
                    "hopeless",
                    args(&["exit", "3"]),
                    Ends::Failed {
                        reason: Reason::Exit,
                        failures: max_retries + 1,
                    },
                    json!({"max_retries": max_retries, "retry_delay": wait}),
                )
            }
            28..30 => (
                "absent",
                None,
                Ends::Failed {
                    reason: Reason::Spawn,
                    failures: 1,
                },
                json!({"command": "/nonexistent/program", "max_retries": 2}),
            ),
            30..32 => (
                "overtime",
                args(&["sleep", "3600"]),
                Ends::Failed {
                    reason: Reason::Timeout,
                    failures: 1,
                },
                json!({"timeout": "300ms"}),
            ),
            32..34 => (
                "signalled",
                args(&["signal"]),
                Ends::Failed {
                    reason: Reason::Signal,
                    failures: 1,
                },
                json!({}),
            ),
            34..40 => ("parent", args(&["parent"]), well, json!({})),
            40..42 => (
                "loud",
                args(&["print", &LOUD_BYTES.to_string()]),
                Ends::Well {
                    stdout_bytes: LOUD_BYTES,
                },
                json!({"limits": {"output": "4M"}}),
            ),
            // an invalid envelope has no dependencies
            42..44 if !waits => ("broken", None, Ends::Rejected, json!({"command": 7})),
            44..52 => {
                let key = chance.random_range(0..KEYS.len());
                let seconds = f64::from(chance.random_range(5..80)) / 1_000.0;
                (
                    "keyed",
                    args(&["sleep", &seconds.to_string()]),
                    well,
                    json!({"concurrency_key": KEYS[key], "concurrency_max": key + 1}),
                )
            }
            52..56 => {
                let parity = ["even", "odd"][chance.random_range(0..2)];
                let requires = json!({"requires": {"parity": parity}});
                ("labelled", args(&["exit", "0"]), well, requires)
            }
            _ => ("short", args(&["exit", "0"]), well, json!({})),
        }
    }
}
