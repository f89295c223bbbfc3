//! The descendants of this process, read from `/proc`: the way to find a process
//! tree without a container, and those that have left a control group. A spawner is a
//! subreaper. Without containers it runs one job at a time, so all its descendants belong
//! to that job, daemons included.

use std::fs;

use nix::sys::signal::Signal;

use super::super::send_signal::send_signals;

/// Maximum number of rounds. If the tree still grows, the caller's next attempt
/// continues.
const STOP_ROUNDS_MAX: usize = 64;

/// A process, and the process that listed it as a child.
#[derive(Clone, Copy)]
struct Descendant {
    pid: i32,
    parent: i32,
}

impl Descendant {
    /// Sends signals, unless the process id now belongs to another process. After the end of its parent, the
    /// process is a child of this one.
    fn signal(self, signals: &[Signal]) {
        send_signals(self.pid, signals, || {
            let parent = stat_field(self.pid, 1);
            parent == Some(self.parent) || parent == Some(own_pid())
        });
    }
}

fn own_pid() -> i32 {
    std::process::id() as i32
}

/// All live descendants of this process.
pub(super) fn list() -> Vec<i32> {
    let all = all().into_iter();
    all.map(|descendant| descendant.pid).collect()
}

fn all() -> Vec<Descendant> {
    with_descendants(children_of(own_pid()))
}

fn children_of(parent: i32) -> Vec<Descendant> {
    let children = children(parent).into_iter();
    children.map(|pid| Descendant { pid, parent }).collect()
}

/// These processes and all their live descendants.
fn with_descendants(mut found: Vec<Descendant>) -> Vec<Descendant> {
    let mut at = 0;
    while at < found.len() {
        let below = children_of(found[at].pid);
        found.extend(below);
        at += 1;
    }
    found
}

/// Sends TERM to every descendant, and CONT so that stopped ones receive it.
pub(super) fn terminate() {
    for descendant in all() {
        descendant.signal(&[Signal::SIGTERM, Signal::SIGCONT]);
    }
}

/// Kills every descendant.
pub(super) fn kill_all() {
    stop_and_kill(all);
}

/// Kills these processes, which are children of this one, and their descendants.
pub(super) fn kill_trees(roots: &[i32]) {
    kill_trees_below(own_pid(), roots);
}

/// Kills these children of a process, and their descendants.
pub(super) fn kill_trees_below(parent: i32, roots: &[i32]) {
    stop_and_kill(|| {
        let roots = roots.iter().map(|&pid| Descendant { pid, parent });
        with_descendants(roots.collect())
    });
}

/// Kills this process and its children, if it is a child of this one.
pub(crate) fn kill_family(pid: i32) {
    let head = Descendant {
        pid,
        parent: own_pid(),
    };
    for member in children_of(pid).into_iter().chain([head]) {
        member.signal(&[Signal::SIGKILL]);
    }
}

/// Kills the listed processes. Stops all of them first, in rounds until no new one
/// appears, since a stopped process cannot fork.
fn stop_and_kill(list: impl Fn() -> Vec<Descendant>) {
    let mut stopped = Vec::new();
    for _ in 0..STOP_ROUNDS_MAX {
        let mut grew = false;
        for descendant in list() {
            if !stopped.contains(&descendant.pid) {
                descendant.signal(&[Signal::SIGSTOP]);
                stopped.push(descendant.pid);
                grew = true;
            }
        }
        if !grew {
            break;
        }
    }
    for descendant in list() {
        descendant.signal(&[Signal::SIGKILL]);
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process, and the id of its child. Both end with the input of the first.
    fn family() -> (Child, i32) {
        #[expect(clippy::disallowed_methods, reason = "processes to signal")]
        let mut head = Command::new("sh")
            .args(["-c", "exec 3<&0; cat <&3 >&2 & echo $!; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut printed = BufReader::new(head.stdout.take().unwrap());
        printed.read_line(&mut line).unwrap();
        (head, line.trim().parse().unwrap())
    }

    /// The state of a process that neither runs nor sleeps: `T` is stopped, `Z` has ended.
    fn resting_state(pid: i32) -> char {
        loop {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
            match state.and_then(|state| state.chars().next()).unwrap_or('Z') {
                'R' | 'S' | 'D' => std::thread::yield_now(),
                state => return state,
            }
        }
    }

    #[test]
    fn a_process_id_that_belongs_to_another_process_by_now_gets_no_signal() {
        let (mut head, pid) = family();
        let parent = head.id() as i32;
        // the list was of another parent's children
        Descendant { pid, parent: 1 }.signal(&[Signal::SIGKILL]);
        // The kernel would act on that signal before this one.
        Descendant { pid, parent }.signal(&[Signal::SIGSTOP]);
        assert_eq!(resting_state(pid), 'T');
        Descendant { pid, parent }.signal(&[Signal::SIGKILL]);
        while resting_state(pid) == 'T' {
            std::thread::yield_now();
        }
        head.kill().unwrap();
        head.wait().unwrap();
    }
}
