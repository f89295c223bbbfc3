//! The workers: started, started again whenever they are gone, and where each one died.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::jobs::QUEUES;
use super::plan::ACK_WAIT;
use super::run::Run;
use crate::harness::naq::{Guarded, command};

/// A worker's place: whoever is in it now.
#[derive(Default)]
pub(super) struct Place(Mutex<Present>);

#[derive(Default)]
struct Present {
    pid: Option<i32>,
    killed: bool,
}

impl Place {
    /// Sends a signal to whoever is there. Returns whom it reached.
    pub(super) fn signal(&self, signal: Signal) -> Option<i32> {
        let mut present = self.0.lock().unwrap();
        // one that dies already cannot die again
        let pid = present.pid.filter(|_| !present.killed)?;
        present.killed |= signal == Signal::SIGKILL;
        kill(Pid::from_raw(pid), signal).unwrap();
        Some(pid)
    }

    /// Lets a paused one go on, where it is still the same.
    pub(super) fn resume(&self, pid: i32) {
        let present = self.0.lock().unwrap();
        if present.pid == Some(pid) {
            kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
        }
    }

    /// Kills one of the processes that hold its jobs. Returns whether there was one.
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

/// The processes that a process has started and not yet waited for.
fn children(parent: i32) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // the name before the last parenthesis may be anything
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

/// Keeps a worker in its place until the run is over.
pub(super) fn keep(run: &Arc<Run>, index: usize) {
    let mut generation = 0;
    while !run.is_ending() {
        generation += 1;
        let failpoints = run.failpoints.lock().unwrap().next();
        let log = run.folder.join(format!("worker-{index}-{generation}.log"));
        run.note(&format!("worker {index}: starts, {failpoints}"));
        let mut worker = start(run, index, &failpoints, &log);
        let pid = worker.pid();
        run.places[index].0.lock().unwrap().pid = Some(pid);
        // looked at and not yet reaped, so that nobody else has its pid while it stands here
        waitid(
            Id::Pid(Pid::from_raw(pid)),
            WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT,
        )
        .unwrap();
        let killed = {
            let mut present = run.places[index].0.lock().unwrap();
            present.pid = None;
            std::mem::take(&mut present.killed)
        };
        let status = worker.child().wait().unwrap();
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let died_at = said
            .lines()
            .find_map(|line| Some(line.split_once("dies at ")?.1.trim().to_owned()));
        match (status.signal(), died_at) {
            (Some(libc::SIGKILL), Some(step)) => {
                run.note(&format!("worker {index}: died at {step}"));
                *run.counts.steps.lock().unwrap().entry(step).or_default() += 1;
            }
            (Some(libc::SIGKILL), None) if killed => {}
            (None, _) if status.success() => {}
            // asked to end before it could know of signals, and so before it had anything
            (Some(libc::SIGTERM), None) if !said.contains("working") => {}
            // it could not begin while the server was away
            (None, _) if matches!(status.code(), Some(1 | 3)) && !said.contains("working") => {
                run.note(&format!("worker {index}: {}", said.trim_end()));
                std::thread::sleep(Duration::from_millis(200));
            }
            _ => run.trouble(&format!("worker {index}: {status}: {said}")),
        }
        if said.contains("internal error") {
            run.trouble(&format!("worker {index}: {said}"));
        }
        run.counts.workers_started.fetch_add(1, Ordering::Relaxed);
    }
}

fn start(run: &Run, index: usize, failpoints: &str, log: &PathBuf) -> Guarded {
    let mut args = vec!["worker".to_owned()];
    args.extend(QUEUES.map(str::to_owned));
    let concurrency = run.size.concurrency.to_string();
    let options = ["--concurrency", &concurrency, "--drain-timeout", "200ms"];
    args.extend(options.map(str::to_owned));
    let parity = ["even", "odd"][index % 2];
    args.extend(["--label".to_owned(), format!("parity={parity}")]);
    let mut environment = run.naq.environment();
    let ack_wait = format!("{}ms", ACK_WAIT.as_millis());
    environment.insert("NAQ_DEFAULT_ACK_WAIT".to_owned(), ack_wait);
    environment.insert("FAILPOINTS".to_owned(), failpoints.to_owned());
    let mut command = command(&args, &environment, run.naq.home());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(log).unwrap());
    Guarded::spawn(&mut command)
}
