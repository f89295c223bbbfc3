//! Notices a spawner that does not act: one that a job has stopped with SIGSTOP, or one that hangs.
//!
//! A job of the same user can send signals to its spawner. While the spawner is stopped, no timeout,
//! cancel or kill of any of its jobs takes effect, and no exit is reported. The worker therefore
//! looks at each spawner that has jobs: it continues a stopped one, and kills one that stays out of
//! reach, with all its process trees.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often the worker looks at a spawner that has jobs.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Checks in a row that find a spawner stopped, after which it is killed: a job that stops it again
/// and again would keep the deadlines of all others from taking effect.
const STOPPED_CHECKS_MAX: u32 = 4;

/// Checks without an answer after which a spawner is killed that should have acted on a deadline.
const OVERDUE_CHECKS_MAX: u32 = 2;

/// Checks without an answer after which a spawner is killed in any case: 30 seconds.
const SILENT_CHECKS_MAX: u32 = 60;

/// The health of a spawner, as the worker sees it.
#[derive(Debug, Default)]
pub(super) struct SpawnerWatch {
    /// The process id. `None` while no spawner runs, since the system may reuse it.
    pub(super) pid: Option<i32>,
    /// Checks since a ping was sent that has no answer yet. `None` if every ping has one.
    unanswered: Option<u32>,
    stopped_checks: u32,
}

/// What a check calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckResult {
    /// Nothing.
    Healthy,
    /// A new ping.
    Ping,
    /// SIGCONT: the spawner is stopped.
    Stopped,
    /// SIGKILL, for this reason.
    Dead(&'static str),
}

impl SpawnerWatch {
    /// A watch over a process that has just become ready.
    pub(super) fn over(pid: Option<i32>) -> SpawnerWatch {
        SpawnerWatch {
            pid,
            ..SpawnerWatch::default()
        }
    }

    /// The spawner has answered a ping.
    pub(super) fn answered(&mut self) {
        self.unanswered = None;
    }

    /// Looks at the spawner. `is_overdue`: a job of it should have been signalled by now.
    pub(super) fn check(&mut self, is_overdue: bool) -> CheckResult {
        let state = self.pid.and_then(process_state);
        self.judge(state, is_overdue)
    }

    fn judge(&mut self, state: Option<char>, is_overdue: bool) -> CheckResult {
        if matches!(state, Some('T' | 't')) {
            self.stopped_checks += 1;
            if self.stopped_checks > STOPPED_CHECKS_MAX {
                return CheckResult::Dead("it was stopped again and again");
            }
            return CheckResult::Stopped;
        }
        self.stopped_checks = 0;
        let Some(unanswered) = &mut self.unanswered else {
            self.unanswered = Some(0);
            return CheckResult::Ping;
        };
        *unanswered += 1;
        // One that is running, or waits for a processor, is busy with what the deadline calls for,
        // such as killing thousands of processes.
        let is_busy = state == Some('R');
        if is_overdue && !is_busy && *unanswered >= OVERDUE_CHECKS_MAX {
            return CheckResult::Dead("it does not answer, and a deadline has passed");
        }
        if *unanswered >= SILENT_CHECKS_MAX {
            return CheckResult::Dead("it does not answer");
        }
        CheckResult::Healthy
    }

    /// Continues the spawner if it is stopped, so that it handles a request at once rather than
    /// after the next check.
    pub(super) fn continue_if_stopped(&self) {
        if let Some(pid) = self.pid
            && matches!(process_state(pid), Some('T' | 't'))
        {
            self.send_continue();
        }
    }

    /// Sends SIGCONT.
    pub(super) fn send_continue(&self) {
        if let Some(pid) = self.pid {
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
    }
}

/// The state letter of a process, as in `/proc/<pid>/stat`. `None` if it cannot be read.
fn process_state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(states: &str, is_overdue: bool) -> Vec<CheckResult> {
        let mut watch = SpawnerWatch::over(Some(1));
        let states = states.chars();
        states
            .map(|state| watch.judge(Some(state), is_overdue))
            .collect()
    }

    #[test]
    fn a_spawner_that_does_not_answer_is_killed_a_second_after_a_deadline() {
        let last = |states: &str, is_overdue| results(states, is_overdue).pop().unwrap();
        assert_eq!(last("S", true), CheckResult::Ping);
        assert_eq!(last("SS", true), CheckResult::Healthy);
        assert!(matches!(last("SSS", true), CheckResult::Dead(_)));
        assert!(matches!(last("DDD", true), CheckResult::Dead(_)));
        // busy with the deadline's work, or without a deadline: half a minute
        assert_eq!(last(&"R".repeat(60), true), CheckResult::Healthy);
        assert!(matches!(last(&"R".repeat(61), true), CheckResult::Dead(_)));
        assert_eq!(last(&"S".repeat(60), false), CheckResult::Healthy);
        assert!(matches!(last(&"S".repeat(61), false), CheckResult::Dead(_)));
    }

    #[test]
    fn an_answer_makes_a_spawner_healthy_again() {
        let mut watch = SpawnerWatch::over(Some(1));
        for _ in 0..10 {
            assert_eq!(watch.judge(Some('S'), true), CheckResult::Ping);
            assert_eq!(watch.judge(Some('S'), true), CheckResult::Healthy);
            watch.answered();
        }
    }

    #[test]
    fn a_stopped_spawner_is_continued_and_killed_if_it_stays_stopped() {
        let results = results("TTtTT", false);
        assert_eq!(results[..4], [CheckResult::Stopped; 4]);
        assert!(matches!(results[4], CheckResult::Dead(_)));
    }
}
