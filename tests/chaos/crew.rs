//! The processes of a run that are restarted whenever they have exited, workers and schedulers, and
//! where each one died.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::jobs::QUEUES;
use super::plan::{ACK_WAIT, Failpoints};
use super::stage::{Keeping, Stage};
use crate::harness::naq::{GuardedChild, command};

/// A place in a crew, and the process that fills it now.
#[derive(Default)]
pub(super) struct Place(Mutex<Present>);

#[derive(Default)]
struct Present {
    pid: Option<i32>,
    killed: bool,
}

impl Place {
    /// Sends a signal to the process in this place. Returns the process that it reached.
    pub(super) fn signal(&self, signal: Signal) -> Option<i32> {
        let mut present = self.0.lock().unwrap();
        // a process that is dying already cannot die again
        let pid = present.pid.filter(|_| !present.killed)?;
        present.killed |= signal == Signal::SIGKILL;
        kill(Pid::from_raw(pid), signal).unwrap();
        Some(pid)
    }

    /// Resumes a paused process, if it is still the same one.
    pub(super) fn resume(&self, pid: i32) {
        let present = self.0.lock().unwrap();
        if present.pid == Some(pid) {
            kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
        }
    }

    /// Whether this process runs.
    pub(super) fn has(&self, pid: i32) -> bool {
        self.0.lock().unwrap().pid == Some(pid)
    }

    /// Kills one of the spawner processes. Returns whether one existed.
    pub(super) fn kill_spawner(&self, nth: usize) -> bool {
        let present = self.0.lock().unwrap();
        let Some(pid) = present.pid else { return false };
        let spawners = children(pid);
        if spawners.is_empty() {
            return false;
        }
        kill(
            Pid::from_raw(spawners[nth % spawners.len()]),
            Signal::SIGKILL,
        )
        .is_ok()
    }
}

/// Pids of the processes that a process has started and not yet waited for.
fn children(parent: i32) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // the name before the last parenthesis may contain anything
        let after = stat.rsplit(") ").next().unwrap_or_default();
        if after.split(' ').nth(1) == Some(&parent.to_string())
            && let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
        {
            found.push(pid);
        }
    }
    found.sort_unstable();
    found
}

/// Processes of one kind, each in its place.
pub(super) struct Crew {
    /// Name of the kind.
    pub(super) name: &'static str,
    /// Log lines of which a process writes one once it is ready.
    begun: &'static [&'static str],
    args: fn(&Stage, usize) -> Vec<String>,
    environment: BTreeMap<String, String>,
    pub(super) places: Vec<Place>,
    /// Failpoints at which the started processes are to die. `None` means nowhere.
    failpoints: Option<Mutex<Failpoints>>,
    pub(super) started: AtomicUsize,
}

impl Crew {
    /// The workers of a run.
    pub(super) fn workers(stage: &Stage, failpoints: Option<Failpoints>) -> Arc<Crew> {
        let mut environment = stage.naq.environment();
        let ack_wait = format!("{}ms", ACK_WAIT.as_millis());
        environment.insert("NAQ_DEFAULT_ACK_WAIT".to_owned(), ack_wait);
        environment.insert("NAQ_TAKEOVER_AFTER".to_owned(), "6s".to_owned());
        Crew::new(
            ("worker", &["working"]),
            worker_args,
            environment,
            stage.size.workers,
            failpoints,
        )
    }

    /// `count` processes: their name, what they log once ready, and how one is started.
    pub(super) fn new(
        (name, begun): (&'static str, &'static [&'static str]),
        args: fn(&Stage, usize) -> Vec<String>,
        environment: BTreeMap<String, String>,
        count: usize,
        failpoints: Option<Failpoints>,
    ) -> Arc<Crew> {
        Arc::new(Crew {
            name,
            begun,
            args,
            environment,
            places: (0..count).map(|_| Place::default()).collect(),
            failpoints: failpoints.map(Mutex::new),
            started: AtomicUsize::new(0),
        })
    }

    /// Starts all processes, and replacements for those that died, until the run is over.
    pub(super) fn keep(self: Arc<Crew>, stage: &Arc<Stage>) -> Keeping {
        let threads = (0..self.places.len())
            .map(|index| {
                let (crew, stage) = (Arc::clone(&self), Arc::clone(stage));
                std::thread::spawn(move || crew.keep_one(&stage, index))
            })
            .collect();
        Keeping {
            crew: self,
            threads,
        }
    }

    fn keep_one(&self, stage: &Stage, index: usize) {
        let mut generation = 0;
        let name = self.name;
        while !stage.is_ending() {
            generation += 1;
            let failpoints = match &self.failpoints {
                Some(failpoints) => failpoints.lock().unwrap().next(),
                None => String::new(),
            };
            let log = stage
                .folder
                .join(format!("{name}-{index}-{generation}.log"));
            let mut process = self.start(stage, index, &failpoints, &log);
            let pid = process.pid();
            stage.note(&format!("{name} {index}: starts as {pid}, {failpoints}"));
            self.places[index].0.lock().unwrap().pid = Some(pid);
            // checked and not yet reaped, so that no other process gets its pid while it is here
            waitid(
                Id::Pid(Pid::from_raw(pid)),
                WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT,
            )
            .unwrap();
            let killed = {
                let mut present = self.places[index].0.lock().unwrap();
                present.pid = None;
                std::mem::take(&mut present.killed)
            };
            let status = process.child().wait().unwrap();
            let logged = std::fs::read_to_string(&log).unwrap_or_default();
            let died_at = logged
                .lines()
                .find_map(|line| Some(line.split_once("dies at ")?.1.trim().to_owned()));
            let has_begun = self.begun.iter().any(|words| logged.contains(words));
            match (status.signal(), died_at) {
                (Some(libc::SIGKILL), Some(step)) => {
                    stage.note(&format!("{name} {index}: died at {step}"));
                    *stage.counts.steps.lock().unwrap().entry(step).or_default() += 1;
                }
                (Some(libc::SIGKILL), None) if killed => {}
                (None, _) if status.success() => {}
                // a second SIGTERM before the process had exited makes it stop at once
                (None, _) if status.code() == Some(128 + libc::SIGTERM) => {}
                // got SIGTERM before it had installed its signal handlers, and so before it had any job
                (Some(libc::SIGTERM), None) if !has_begun => {}
                // it could not start while the server was down
                (None, _) if matches!(status.code(), Some(1 | 3)) && !has_begun => {
                    stage.note(&format!("{name} {index}: {}", logged.trim_end()));
                    std::thread::sleep(Duration::from_millis(200));
                }
                _ => stage.trouble(&format!("{name} {index}: {status}: {logged}")),
            }
            if logged.contains("internal error") || logged.contains("panicked") {
                stage.trouble(&format!("{name} {index}: {logged}"));
            }
            self.started.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn start(&self, stage: &Stage, index: usize, failpoints: &str, log: &Path) -> GuardedChild {
        let args = (self.args)(stage, index);
        let mut environment = self.environment.clone();
        // Every other worker takes its jobs for short ones, and claims the next ones ahead.
        let also = ["claim_ahead.short=return(1)", ""][index % 2];
        environment.insert("FAILPOINTS".to_owned(), format!("{failpoints};{also}"));
        let mut command = command(&args, &environment, stage.naq.home());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log).unwrap());
        GuardedChild::spawn(&mut command)
    }
}

fn worker_args(stage: &Stage, index: usize) -> Vec<String> {
    let mut args = vec!["worker".to_owned()];
    args.extend(QUEUES.map(str::to_owned));
    let concurrency = stage.size.concurrency.to_string();
    let options = ["--concurrency", &concurrency, "--drain-timeout", "200ms"];
    args.extend(options.map(str::to_owned));
    let parity = ["even", "odd"][index % 2];
    args.extend(["--label".to_owned(), format!("parity={parity}")]);
    args
}
