//! The jobs of a run: what each does, and how it has to end.

use std::path::{Path, PathBuf};

use naq::envelope::{Reason, Record, State};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

/// The variable that marks every process of a run's jobs.
pub(super) const MARK: &str = "CHAOS_RUN";

/// What every job runs. It notes its beginning and its end in the run's log, each by one write
/// at the file's end, so that the lines of all jobs are in the order in which things happened.
const PROGRAM: &str = r#"#!/bin/sh
say() { printf '%s %s %s %s\n' "$1" "$NAQ_JOB_ID" "$NAQ_ATTEMPT" "$NAQ_FENCE" >> "$CHAOS_LOG"; }
leave() { say end; exit "$1"; }
say begin
case $1 in
sleep) sleep "$2" ;;
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

/// How a job has to end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ends {
    /// Well, having printed so many bytes.
    Well { stdout_bytes: u64 },
    /// As failed, for this reason, after so many failures of its own.
    Failed { reason: Reason, failures: u32 },
    /// As an envelope that is no job.
    Rejected,
}

impl Ends {
    /// What is wrong with a terminal record, if anything is.
    pub(super) fn check(self, record: &Record) -> Option<String> {
        let crashed = record.reason == Some(Reason::Crashed) && record.crashes >= 3;
        if crashed && self != Ends::Rejected {
            // its workers were killed under it until naq gave it up, as it says it does
            return None;
        }
        let good = match self {
            Ends::Well { stdout_bytes } => {
                record.state == State::Succeeded
                    && record.stdout.as_ref().map_or(0, |output| output.bytes) == stdout_bytes
            }
            Ends::Failed { reason, failures } => {
                record.state == State::Failed
                    && record.reason == Some(reason)
                    && record.attempt - record.crashes == failures
            }
            Ends::Rejected => record.state == State::Rejected,
        };
        (!good).then(|| {
            format!(
                "{} ({:?}) at attempt {} with {} crashes and {:?} bytes, not {self:?}",
                record.state,
                record.reason,
                record.attempt,
                record.crashes,
                record.stdout.as_ref().map(|output| output.bytes)
            )
        })
    }
}

/// A job of the plan. Its envelope carries its number as `meta`.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) queue: &'static str,
    /// The id it is to have; naq gives it one where there is none.
    pub(super) job_id: Option<String>,
    /// Which kind it is, for the report.
    pub(super) kind: &'static str,
    pub(super) ends: Ends,
    pub(super) envelope: Value,
}

/// The queues of a run.
pub(super) const QUEUES: [&str; 2] = ["left", "right"];

/// Makes jobs, by chance, the same ones from the same seed.
pub(super) struct Jobs {
    chance: StdRng,
    program: PathBuf,
    log: PathBuf,
    mark: String,
    made: Vec<Planned>,
}

/// Bytes that do not fit a record beside everything else.
const LOUD_BYTES: u64 = 1_200_000;

impl Jobs {
    pub(super) fn new(chance: StdRng, folder: &Path, mark: &str) -> Jobs {
        use std::os::unix::fs::PermissionsExt;
        let program = folder.join("job.sh");
        std::fs::write(&program, PROGRAM).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Jobs {
            chance,
            program,
            log: folder.join("runs.log"),
            mark: mark.to_owned(),
            made: Vec::new(),
        }
    }

    /// Every job made so far, by number.
    pub(super) fn made(&self) -> &[Planned] {
        &self.made
    }

    /// Makes one more.
    pub(super) fn make(&mut self) -> Planned {
        let number = self.made.len();
        let (kind, args, ends, mut envelope) = self.draw();
        if let Some(args) = args {
            envelope["command"] = json!(self.program);
            envelope["args"] = json!(args);
        }
        let job_id = self
            .chance
            .random_bool(0.5)
            .then(|| format!("c{number}-{:04x}", self.chance.random::<u16>()));
        if let Some(id) = &job_id {
            envelope["job_id"] = json!(id);
        }
        envelope["env"] = json!({MARK: self.mark, "CHAOS_LOG": self.log});
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

    /// One of the jobs that were made, to be enqueued a second time; one whose id says that it
    /// is the same.
    pub(super) fn again(&mut self) -> Option<Planned> {
        let earlier = self.made.len().checked_sub(1)?;
        let number = self.chance.random_range(0..=earlier);
        let planned = &self.made[number];
        planned.job_id.is_some().then(|| planned.clone())
    }

    fn draw(&mut self) -> (&'static str, Option<Vec<String>>, Ends, Value) {
        let chance = &mut self.chance;
        let well = Ends::Well { stdout_bytes: 0 };
        let args = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        // under a moment naq holds a retry itself, else the server does
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
            42..44 => ("broken", None, Ends::Rejected, json!({"command": 7})),
            _ => ("short", args(&["exit", "0"]), well, json!({})),
        }
    }
}
