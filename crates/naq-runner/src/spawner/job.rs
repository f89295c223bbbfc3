//! One running job, as its spawner sees it.

use std::time::{Duration, Instant};

use super::super::cgroup::Cgroup;
use super::super::namespace::Namespace;
use super::super::sys::wait::Reaped;
use super::super::wire::{Writer, flag, to_worker};
use super::descendants;

/// How long what a job leaves behind may go on by itself.
pub(super) const LEFTOVER_GRACE: Duration = Duration::from_millis(250);

/// A job that is over sooner is told of once, when it has ended.
pub(super) const STARTED_REPORT_DELAY: Duration = Duration::from_millis(3);

/// How often limits that no controller enforces are looked at.
const LIMIT_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How often a killed tree that is still there is killed again, where killing
/// is a walk rather than one call.
const KILL_RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// Limits that this spawner has to watch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PolledLimits {
    pub(super) memory_bytes: Option<u64>,
    pub(super) processes: Option<u64>,
}

/// What holds a job's processes together.
#[derive(Debug)]
pub(super) enum Tree {
    /// A control group.
    Cgroup(Cgroup),
    /// A PID namespace.
    Namespace(Namespace),
    /// Nothing: it owns all of this process's descendants.
    Descendants,
}

/// A started job.
#[derive(Debug)]
pub(super) struct Job {
    /// The worker's number for it.
    pub(super) id: u32,
    pub(super) pid: i32,
    pub(super) tree: Tree,
    pub(super) kill_grace: Duration,
    pub(super) started: Instant,
    /// Since the epoch, nanoseconds.
    pub(super) started_ns: u64,
    /// Until it is reported as started.
    pub(super) report_at: Option<Instant>,
    pub(super) timeout_at: Option<Instant>,
    pub(super) kill_at: Option<Instant>,
    pub(super) limit_check_at: Option<Instant>,
    pub(super) polled_limits: PolledLimits,
    pub(super) exit: Option<(Reaped, Duration)>,
    /// KILL has been sent.
    pub(super) killed: bool,
    pub(super) flags: u8,
}

impl Job {
    /// Starts watching, if there is something to watch.
    pub(super) fn poll_limits(&mut self, polled_limits: PolledLimits) {
        self.polled_limits = polled_limits;
        if polled_limits.memory_bytes.is_some() || polled_limits.processes.is_some() {
            self.limit_check_at = Some(self.started + LIMIT_CHECK_INTERVAL);
        }
    }

    /// When this job next wants a look, if ever.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        [
            self.report_at,
            self.timeout_at,
            self.kill_at,
            self.limit_check_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// TERM to the whole tree, and KILL after the grace.
    pub(super) fn terminate(&mut self, grace: Duration, now: Instant) {
        let deadline = now + grace;
        if self
            .kill_at
            .is_none_or(|at| deadline < at || self.exit.is_some())
        {
            self.kill_at = Some(deadline);
        }
        match &self.tree {
            Tree::Cgroup(group) => group.terminate(),
            Tree::Namespace(namespace) => namespace.terminate(),
            Tree::Descendants => descendants::terminate(),
        }
    }

    /// KILL to the whole tree.
    pub(super) fn kill(&mut self, now: Instant) {
        self.killed = true;
        match &self.tree {
            Tree::Cgroup(group) => {
                group.kill();
                self.kill_at = None;
            }
            Tree::Namespace(namespace) => {
                namespace.kill();
                self.kill_at = None;
            }
            Tree::Descendants => {
                descendants::kill_all();
                self.kill_at = Some(now + KILL_RETRY_INTERVAL);
            }
        }
    }

    /// Does what is due.
    pub(super) fn run_timers(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.timeout_at) {
            self.timeout_at = None;
            if self.exit.is_none() {
                self.flags |= flag::TIMED_OUT;
                self.terminate(self.kill_grace, now);
            }
        }
        if due(self.kill_at) {
            if self.exit.is_some() && !self.killed && !self.is_group_empty() {
                self.flags |= flag::LEAKED;
            }
            self.kill(now);
        }
        if due(self.limit_check_at) {
            self.limit_check_at = Some(now + LIMIT_CHECK_INTERVAL);
            self.check_limits(now);
        }
    }

    fn is_group_empty(&mut self) -> bool {
        match &mut self.tree {
            Tree::Cgroup(group) => group.is_empty(),
            Tree::Namespace(_) | Tree::Descendants => false,
        }
    }

    /// Compares the tree with the limits that nobody else enforces.
    fn check_limits(&mut self, now: Instant) {
        let (proc, pids) = match &self.tree {
            Tree::Cgroup(group) => ("/proc".to_owned(), group.processes()),
            Tree::Namespace(namespace) => (namespace.proc(), namespace.processes()),
            Tree::Descendants => ("/proc".to_owned(), descendants::list()),
        };
        let over = |bound: Option<u64>, used: u64| bound.is_some_and(|bound| used > bound);
        if over(self.polled_limits.processes, pids.len() as u64) {
            self.flags |= flag::PROCESSES_EXCEEDED;
            self.kill(now);
        } else if self.polled_limits.memory_bytes.is_some()
            && over(
                self.polled_limits.memory_bytes,
                descendants::resident_bytes(&proc, &pids),
            )
        {
            self.flags |= flag::MEMORY_EXCEEDED | flag::OOM;
            self.kill(now);
        }
    }

    /// Its first process has ended; what is left has a little time.
    pub(super) fn on_exit(&mut self, reaped: Reaped, now: Instant) {
        self.exit = Some((reaped, now - self.started));
        self.timeout_at = None;
        if !self.killed && self.kill_at.is_none() {
            self.kill_at = Some(now + LEFTOVER_GRACE);
        }
    }

    /// Whether nothing of it is left. `has_no_children`: this process has no child;
    /// `has_unknown`: it has one that nobody knows.
    pub(super) fn is_finished(&mut self, has_no_children: bool, has_unknown: bool) -> bool {
        self.exit.is_some()
            && match &mut self.tree {
                Tree::Cgroup(group) => group.is_empty(),
                Tree::Namespace(namespace) => namespace.is_empty(has_unknown),
                Tree::Descendants => has_no_children,
            }
    }

    /// The first process of its namespace.
    pub(super) fn init(&self) -> Option<i32> {
        match &self.tree {
            Tree::Namespace(namespace) => Some(namespace.init()),
            Tree::Cgroup(_) | Tree::Descendants => None,
        }
    }

    /// The first process of its namespace was reaped, and so is over.
    pub(super) fn init_ended(&mut self) {
        if let Tree::Namespace(namespace) = &mut self.tree {
            namespace.mark_ended();
        }
    }

    /// Tells of a job that has been running for a while.
    pub(super) fn write_started(&self, w: &mut Writer) {
        w.u8(to_worker::STARTED).u32(self.id).i32(self.pid);
        w.u64(self.started_ns);
    }

    /// Tells of a job that is over.
    pub(super) fn write_ended(&mut self, w: &mut Writer) {
        let Some((reaped, wall)) = self.exit else {
            return;
        };
        if let Tree::Cgroup(group) = &self.tree
            && group.had_oom()
        {
            self.flags |= flag::OOM;
        }
        w.u8(to_worker::ENDED).u32(self.id).i32(reaped.status);
        w.u8(self.flags).u64(self.started_ns);
        w.u64(wall.as_micros() as u64);
        w.u64(reaped.user_us).u64(reaped.system_us);
        w.u64(reaped.max_rss_bytes);
    }
}
