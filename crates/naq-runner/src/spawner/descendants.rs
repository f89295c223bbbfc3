//! The descendants of this process, read from `/proc`: the way to find a process
//! tree without a container, and those that have left a control group. A spawner is a
//! subreaper. Without containers it runs one job at a time, so all its descendants belong
//! to that job, daemons included.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Maximum number of rounds. If the tree still grows, the caller's next attempt
/// continues.
const STOP_ROUNDS_MAX: usize = 64;

/// All live descendants of this process.
pub(super) fn list() -> Vec<i32> {
    with_descendants(children(std::process::id() as i32))
}

/// These processes and all their live descendants.
fn with_descendants(mut found: Vec<i32>) -> Vec<i32> {
    let mut at = 0;
    while at < found.len() {
        let below = children(found[at]);
        found.extend(below);
        at += 1;
    }
    found
}

/// Sends TERM to every descendant, and CONT so that stopped ones receive it.
pub(super) fn terminate() {
    for pid in list() {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }
}

/// Kills every descendant.
pub(super) fn kill_all() {
    stop_and_kill(list);
}

/// Kills these processes, which are children of this one, and their descendants.
pub(super) fn kill_trees(roots: &[i32]) {
    stop_and_kill(|| with_descendants(roots.to_vec()));
}

/// Kills the listed processes. Stops all of them first, in rounds until no new one
/// appears, since a stopped process cannot fork.
fn stop_and_kill(list: impl Fn() -> Vec<i32>) {
    let mut stopped = Vec::new();
    for _ in 0..STOP_ROUNDS_MAX {
        let mut grew = false;
        for pid in list() {
            if !stopped.contains(&pid) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
                stopped.push(pid);
                grew = true;
            }
        }
        if !grew {
            break;
        }
    }
    // Listed again: a process id may meanwhile belong to an unrelated process.
    for pid in list() {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// The children of all threads of a process.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return found;
    };
    let mut listed = false;
    for thread in threads.flatten() {
        if let Ok(text) = fs::read_to_string(thread.path().join("children")) {
            listed = true;
            found.extend(
                text.split_whitespace()
                    .filter_map(|p| p.parse::<i32>().ok()),
            );
        }
    }
    if listed {
        found
    } else {
        children_by_parent(pid)
    }
}

/// As [`children`], for a kernel without lists of children: scans every process for
/// its parent.
fn children_by_parent(parent: i32) -> Vec<i32> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| stat_field(*pid, 1) == Some(parent))
        .collect()
}

/// A numeric field of `/proc/<pid>/stat`; the state, after the name, is field 0.
pub(crate) fn stat_field(pid: i32, field: usize) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(field)?.parse().ok()
}
