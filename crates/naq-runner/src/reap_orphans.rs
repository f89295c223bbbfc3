//! Kills what a dead spawner leaves behind. This process is a subreaper too, so the
//! spawner's descendants become its children. With namespaces those are their first
//! processes, which the kernel has killed and which end last; with control groups
//! alone, processes that have left their group.

use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getsid};

use super::spawner::descendants::{children, kill_family};

/// How long to wait until the orphans are gone.
const KILL_WAIT_MAX: Duration = Duration::from_secs(10);

/// Delay between two rounds: each death makes further orphans our children.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Kills adopted orphans until none is left. Spares `preexisting_children` and every
/// process in the session of this process, since each job has a session of its own.
/// Blocks.
pub(super) fn kill_all(preexisting_children: &[i32]) {
    let ours = getsid(None).ok();
    let deadline = Instant::now() + KILL_WAIT_MAX;
    while Instant::now() < deadline {
        let mut found = false;
        for pid in children(std::process::id() as i32) {
            let id = Pid::from_raw(pid);
            if preexisting_children.contains(&pid) || getsid(Some(id)).ok() == ours {
                continue;
            }
            found = true;
            kill_family(pid);
            let _ = waitpid(id, Some(WaitPidFlag::WNOHANG));
        }
        if !found {
            return;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    tracing::error!("processes of a job whose spawner died cannot be killed");
}
