//! One running job, as seen by its spawner.

use std::time::{Duration, Instant};

use super::super::boot_instant::BootInstant;
use super::super::cgroup::Cgroup;
use super::super::namespace::Namespace;
use super::super::sys::wait::Reaped;
use super::super::wire::{Writer, flag, to_worker};
use super::{descendants, memory};

/// How long processes may outlive the first process of their job.
pub(super) const ORPHAN_GRACE: Duration = Duration::from_millis(250);

/// How old a job is before it is reported as started. Jobs that end sooner are
/// reported once, when they end.
pub(super) const STARTED_REPORT_DELAY: Duration = Duration::from_millis(3);

/// How often limits are polled that no controller enforces.
const LIMIT_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How often to kill a tree again that is not gone yet, where killing walks over
/// processes and is not a single call.
const KILL_RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// Limits that the spawner polls.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PolledLimits {
    pub(super) memory_bytes: Option<u64>,
    pub(super) processes: Option<u64>,
}

/// What contains a job's processes. If there is neither, all descendants of this
/// process belong to the job.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) cgroup: Option<Cgroup>,
    pub(super) namespace: Option<Namespace>,
}

impl Tree {
    /// Whether all descendants of this process belong to the job.
    fn is_uncontained(&self) -> bool {
        self.cgroup.is_none() && self.namespace.is_none()
    }

    /// Whether a process can leave it: a root job can move itself to another control group,
    /// and so can a job whose user owns the groups, but none leaves a PID namespace.
    fn can_be_left(&self) -> bool {
        self.namespace.is_none() && self.cgroup.is_some()
    }

    /// Whether the control group, if there is one, has no live process.
    fn is_group_empty(&self) -> bool {
        self.cgroup.as_ref().is_none_or(Cgroup::is_empty)
    }

    /// Whether its processes have ended a moment ago, and their end is not handled yet.
    fn has_just_ended(&self) -> bool {
        let is_exiting = self.namespace.as_ref().is_some_and(Namespace::is_exiting);
        self.cgroup.as_ref().is_some_and(Cgroup::is_empty) && !is_exiting
    }
}

/// A started job.
#[derive(Debug)]
pub(super) struct Job {
    /// The worker's id of the job.
    pub(super) id: u32,
    pub(super) pid: i32,
    /// Whether it takes one of the worker's slots.
    pub(super) takes_slot: bool,
    pub(super) tree: Tree,
    pub(super) kill_grace: Duration,
    pub(super) started: Instant,
    /// When it started, in nanoseconds since the epoch.
    pub(super) started_ns: u64,
    /// When to report it as started; `None` once reported.
    pub(super) report_at: Option<Instant>,
    pub(super) timeout_at: Option<Instant>,
    /// When to kill it without a grace. `None` means never, or that it has been killed.
    pub(super) deadline: Option<BootInstant>,
    pub(super) kill_at: Option<Instant>,
    pub(super) limit_check_at: Option<Instant>,
    pub(super) polled_limits: PolledLimits,
    /// Memory is not measured accurately before this time.
    pub(super) next_accurate_check: Option<Instant>,
    /// Bytes of the job's standard input, which is a file in memory that it has not made.
    pub(super) stdin_bytes: u64,
    /// Bytes in other files of `memfd_create`, and when they are counted next.
    pub(super) memfds: (u64, Option<Instant>),
    pub(super) exit: Option<(Reaped, Duration)>,
    /// Whether KILL has been sent.
    pub(super) killed: bool,
    pub(super) flags: u8,
    /// What the last job of a warm process has left is being ended. `None` if nothing is.
    pub(super) sweep: Option<Sweep>,
}

/// The end of a job in a warm process: its processes have a grace, and are killed after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sweep {
    /// When what is left is killed.
    kill_at: Instant,
    /// When to look next.
    look_at: Instant,
}

impl Job {
    /// A warm process starts a job.
    pub(super) fn arm(
        &mut self,
        timeout: Option<Duration>,
        kill_grace: Duration,
        deadline: Option<BootInstant>,
    ) {
        if self.killed || self.exit.is_some() {
            return;
        }
        self.flags = 0;
        self.kill_grace = kill_grace;
        self.timeout_at = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.deadline = deadline;
    }

    /// The job of a warm process is over, apart from processes that it may have left.
    pub(super) fn disarm(&mut self, now: Instant) {
        if self.killed || self.exit.is_some() {
            return;
        }
        self.timeout_at = None;
        self.deadline = None;
        self.kill_at = None;
        self.sweep = Some(Sweep {
            kill_at: now + ORPHAN_GRACE,
            look_at: now,
        });
    }

    /// The flags of the last job of a warm process, once nothing of it is left.
    pub(super) fn take_swept(&mut self, now: Instant) -> Option<u8> {
        let sweep = self.sweep.filter(|sweep| sweep.look_at <= now)?;
        let left = self.left_of_job();
        if left.is_empty() {
            self.sweep = None;
            return Some(std::mem::take(&mut self.flags));
        }
        if sweep.kill_at <= now {
            self.flags |= flag::LEAKED;
            match (&self.tree.cgroup, self.init()) {
                (Some(group), _) => group.kill_others(self.pid),
                (None, Some(init)) => descendants::kill_trees_below(init, &left),
                (None, None) => {}
            }
        }
        self.sweep = Some(Sweep {
            look_at: now + KILL_RETRY_INTERVAL,
            ..sweep
        });
        None
    }

    /// The processes in the tree of a warm process apart from itself, or the roots of their trees.
    fn left_of_job(&mut self) -> Vec<i32> {
        let own = self.pid;
        let mut left = match (&mut self.tree.namespace, &self.tree.cgroup) {
            (_, Some(group)) => group.processes(),
            (Some(namespace), None) => namespace.orphans(),
            (None, None) => Vec::new(),
        };
        left.retain(|pid| *pid != own);
        left
    }

    /// Starts polling if there are limits to poll.
    pub(super) fn poll_limits(&mut self, polled_limits: PolledLimits) {
        self.polled_limits = polled_limits;
        if polled_limits.memory_bytes.is_some() || polled_limits.processes.is_some() {
            self.limit_check_at = Some(self.started + LIMIT_CHECK_INTERVAL);
        }
    }

    /// When [`Job::run_timers`] must be called next, if at all.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        [
            self.report_at,
            self.timeout_at,
            self.kill_at,
            self.limit_check_at,
            self.sweep.map(|sweep| sweep.look_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Sends TERM to the whole tree; KILL follows after the grace.
    pub(super) fn terminate(&mut self, grace: Duration, now: Instant) {
        let deadline = now + grace;
        if self
            .kill_at
            .is_none_or(|at| deadline < at || self.exit.is_some())
        {
            self.kill_at = Some(deadline);
        }
        match (&self.tree.namespace, &self.tree.cgroup) {
            (Some(namespace), _) => namespace.terminate(),
            (None, Some(group)) => group.terminate(),
            (None, None) => descendants::terminate(),
        }
    }

    /// Sends KILL to the whole tree.
    pub(super) fn kill(&mut self, now: Instant) {
        self.killed = true;
        self.kill_at = None;
        if let Some(namespace) = &self.tree.namespace {
            namespace.kill();
        }
        if let Some(group) = &self.tree.cgroup {
            group.kill();
        }
        if self.tree.is_uncontained() {
            descendants::kill_all();
            self.kill_at = Some(now + KILL_RETRY_INTERVAL);
        }
    }

    /// Whether the job is over except for processes that may have left its control
    /// group.
    pub(super) fn waits_for_escaped(&self) -> bool {
        self.killed && self.exit.is_some() && self.tree.can_be_left() && self.tree.is_group_empty()
    }

    /// Processes that had left the group were killed; looks for further ones soon.
    pub(super) fn killed_escaped(&mut self, now: Instant) {
        self.flags |= flag::LEAKED;
        self.kill_at = Some(now + KILL_RETRY_INTERVAL);
    }

    /// Runs the timers that are due.
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
            if self.exit.is_some() && !self.killed && !self.tree.has_just_ended() {
                self.flags |= flag::LEAKED;
            }
            self.kill(now);
        }
        if due(self.limit_check_at) {
            self.limit_check_at = Some(now + LIMIT_CHECK_INTERVAL);
            self.check_limits(now);
        }
    }

    /// Kills the tree if its deadline has passed.
    pub(super) fn check_deadline(&mut self, boot_now: BootInstant, now: Instant) {
        if self.deadline.is_some_and(|at| at <= boot_now) {
            self.deadline = None;
            // A first process that has ended by itself keeps its result.
            if self.exit.is_none() {
                self.flags |= flag::DEADLINE_PASSED;
            }
            self.kill(now);
        }
    }

    /// Compares the tree with the polled limits, and kills it if it exceeds one.
    fn check_limits(&mut self, now: Instant) {
        // The namespace has precedence: a process of a root job can leave the control group.
        let (proc, pids) = match (&self.tree.namespace, &self.tree.cgroup) {
            (Some(namespace), _) => (namespace.proc(), namespace.processes()),
            (None, Some(group)) => ("/proc".to_owned(), group.processes()),
            (None, None) => ("/proc".to_owned(), descendants::list()),
        };
        let over = |bound: Option<u64>, used: u64| bound.is_some_and(|bound| used > bound);
        if over(self.polled_limits.processes, pids.len() as u64) {
            self.flags |= flag::PROCESSES_EXCEEDED;
            self.kill(now);
        } else if let Some(bytes_max) = self.polled_limits.memory_bytes
            && self.uses_more_than(bytes_max, &proc, &pids, now)
        {
            self.flags |= flag::MEMORY_EXCEEDED | flag::OOM;
            self.kill(now);
        }
    }

    /// Whether the tree uses more memory than `bytes_max`. What processes share counts several times
    /// in their resident memory, so that is only the cheap upper bound: above the limit, the
    /// accurate measure decides, which makes the kernel walk the page tables. Files in memory count
    /// although no process maps them; those that are mapped are among the shared memory.
    fn uses_more_than(&mut self, bytes_max: u64, proc: &str, pids: &[i32], now: Instant) -> bool {
        let namespace = self.tree.namespace.as_ref();
        let files = namespace.map_or(0, Namespace::private_tmpfs_bytes);
        let files = files + self.memfd_bytes(proc, pids, now);
        if files + memory::resident_bytes(proc, pids) <= bytes_max
            || self.next_accurate_check.is_some_and(|at| now < at)
        {
            return false;
        }
        let used = memory::used_bytes(proc, pids);
        let used = used.other + used.shared.max(files);
        // A tree that stays in between costs the spawner a tenth of its time at most.
        self.next_accurate_check = Some(Instant::now() + now.elapsed() * 10);
        used > bytes_max
    }

    /// Bytes in files of `memfd_create`, counted again if that costs the spawner little.
    fn memfd_bytes(&mut self, proc: &str, pids: &[i32], now: Instant) -> u64 {
        if self.memfds.1.is_none_or(|at| at <= now) {
            let began = Instant::now();
            let bytes = memory::memfd_bytes(proc, pids).saturating_sub(self.stdin_bytes);
            // A tenth of its time at most.
            let next = Instant::now() + began.elapsed() * 10;
            self.memfds = (bytes, Some(next));
        }
        self.memfds.0
    }

    /// The first process has ended; the remaining ones get [`ORPHAN_GRACE`].
    pub(super) fn on_exit(&mut self, reaped: Reaped, now: Instant) {
        self.exit = Some((reaped, now - self.started));
        self.sweep = None;
        self.timeout_at = None;
        if !self.killed && self.kill_at.is_none() {
            self.kill_at = Some(now + ORPHAN_GRACE);
        }
    }

    /// Whether the whole tree is gone. `has_no_children`: this spawner has no child
    /// at all; `has_unknown`: it has a child that belongs to no job for certain.
    pub(super) fn is_finished(&mut self, has_no_children: bool, has_unknown: bool) -> bool {
        if self.exit.is_none() {
            return false;
        }
        if self.tree.is_uncontained() {
            return has_no_children;
        }
        // The group first: when it becomes empty, that is an event to wait for, and the
        // namespace remains usable.
        self.tree.is_group_empty()
            && match &mut self.tree.namespace {
                Some(namespace) => namespace.is_empty(has_unknown),
                None => !has_unknown,
            }
    }

    /// Whether this is the job's first process. Once that is reaped, its process id may belong to
    /// another child of this spawner, while the rest of the tree still runs.
    pub(super) fn has_first(&self, pid: i32) -> bool {
        self.exit.is_none() && self.pid == pid
    }

    /// The first process of the job's namespace. `None` once it was reaped.
    pub(super) fn init(&self) -> Option<i32> {
        self.tree.namespace.as_ref().and_then(Namespace::init)
    }

    /// The first process of the job's namespace was reaped, so the namespace is gone.
    pub(super) fn init_ended(&mut self) {
        if let Some(namespace) = &mut self.tree.namespace {
            namespace.mark_ended();
        }
    }

    /// Writes the report that the job has started.
    pub(super) fn write_started(&self, w: &mut Writer) {
        w.u8(to_worker::STARTED).u32(self.id).i32(self.pid);
        w.u64(self.started_ns);
    }

    /// Writes the report that the job is over.
    pub(super) fn write_ended(&mut self, w: &mut Writer) {
        let Some((reaped, wall)) = self.exit else {
            return;
        };
        if self.tree.cgroup.as_ref().is_some_and(Cgroup::had_oom) {
            self.flags |= flag::OOM;
        }
        w.u8(to_worker::ENDED).u32(self.id).i32(reaped.status);
        w.u8(self.flags).u64(self.started_ns);
        w.u64(wall.as_micros() as u64);
        w.u64(reaped.user_us).u64(reaped.system_us);
        w.u64(reaped.max_rss_bytes);
    }
}
