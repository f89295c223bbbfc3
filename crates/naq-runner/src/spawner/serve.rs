//! The spawner's loop: receive, start, reap, report.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::super::boot_instant::BootInstant;
use super::super::removal::{Removal, Slice};
use super::super::start_request::StartFrame;
use super::super::sys::socket::{MESSAGE_BYTES_MAX, Message, Receiver, send};
use super::super::sys::wait::{Reap, reap};
use super::super::wire::{Malformed, Reader, UNLIMITED, Writer, flag, to_spawner, to_worker};
use super::deadline_timer::DeadlineTimer;
use super::descendants;
use super::diagnose::Diagnosis;
use super::job::Job;
use super::launch::{LaunchError, Launcher};

/// First delay before a start is retried that failed for lack of some resource. It
/// doubles up to [`LAUNCH_RETRY_MAX`].
const LAUNCH_RETRY_FIRST: Duration = Duration::from_millis(10);

/// Longest such delay.
const LAUNCH_RETRY_MAX: Duration = Duration::from_secs(1);

/// How long to wait until killed trees are gone, once the worker is gone.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// How long the removal of one scratch folder may take.
const REMOVAL_MAX: Duration = Duration::from_secs(120);

/// Pipes of a job besides its standard input.
const JOB_PIPES: usize = 3;

/// A job that is not started yet.
#[derive(Debug)]
struct PendingStart {
    id: u32,
    start: StartFrame,
    fds: Vec<OwnedFd>,
    /// Whether it takes one of the worker's slots.
    takes_slot: bool,
    /// It starts once fewer jobs run here that take slots. Zero: at once.
    starts_below: usize,
    /// When it must have ended. `None` means never.
    deadline: Option<BootInstant>,
    /// Delay before the next attempt to start it.
    wait: Duration,
    /// No attempt before this time.
    not_before: Option<Instant>,
    /// When it ends as not started, if this machine is still short of something by then. `None`
    /// before the first failed attempt.
    give_up_at: Option<Instant>,
}

impl PendingStart {
    /// Whether it may start while so many jobs run that take slots.
    fn is_ready(&self, now: Instant, running: usize) -> bool {
        let has_slot = self.starts_below == 0 || running < self.starts_below;
        has_slot && self.not_before.is_none_or(|at| at <= now)
    }
}

/// The state of a spawner.
#[derive(Debug)]
pub(super) struct Spawner {
    socket: OwnedFd,
    receiver: Receiver,
    children: SignalFd,
    deadlines: DeadlineTimer,
    launcher: Launcher,
    pending: VecDeque<PendingStart>,
    /// How long a job waits for resources of this machine.
    resource_wait_max: Duration,
    jobs: Vec<Job>,
    /// Unsent replies, one frame each.
    replies: VecDeque<Vec<u8>>,
    has_no_children: bool,
    /// Parent of the worker's scratch folders; `None` until a job has one.
    scratch_root: Option<PathBuf>,
    /// Scratch folders to remove, one after the other.
    removals: VecDeque<Removal>,
}

impl Spawner {
    /// Prepares the loop. The caller has blocked SIGCHLD.
    pub(super) fn new(
        socket: OwnedFd,
        receiver: Receiver,
        launcher: Launcher,
        resource_wait_max: Duration,
    ) -> Result<Spawner, Errno> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Spawner {
            socket,
            receiver,
            children: SignalFd::with_flags(&mask, flags)?,
            deadlines: DeadlineTimer::new()?,
            launcher,
            pending: VecDeque::new(),
            resource_wait_max,
            jobs: Vec::new(),
            replies: VecDeque::new(),
            has_no_children: true,
            scratch_root: None,
            removals: VecDeque::new(),
        })
    }

    /// Serves until the worker is gone, then kills the jobs that are left.
    pub(super) fn serve(mut self) -> Result<(), Errno> {
        let result = self.run();
        for job in &mut self.jobs {
            job.kill(Instant::now());
        }
        let deadline = Instant::now() + SHUTDOWN_MAX;
        while !self.jobs.is_empty()
            && !is_exit_lost(&self.jobs, self.has_no_children)
            && Instant::now() < deadline
        {
            // The socket is no longer polled: its end would be reported again at
            // once, and the loop would spin.
            if self.wait(Some(deadline))?.deadline {
                self.deadlines.clear();
            }
            self.reap();
            self.run_timers();
            self.replies.clear();
        }
        if let (Ok(()), Some(root)) = (&result, &self.scratch_root) {
            // The worker is gone. If it was killed, it has not removed its folders.
            let _ = Removal::new(root.clone(), REMOVAL_MAX).run();
        }
        self.launcher.finish();
        result
    }

    /// Serves until the worker is gone.
    ///
    /// # Errors
    /// Returns [`Errno::ECHILD`] if the exit of a job was lost: nothing would ever end that job, so the
    /// worker has to replace this process. Returns the error of a failed system call, and
    /// [`Errno::EPROTO`] for a message that is not valid.
    fn run(&mut self) -> Result<(), Errno> {
        loop {
            self.flush()?;
            // After the reports of the jobs that have ended, which need not run again.
            if is_exit_lost(&self.jobs, self.has_no_children) {
                return Err(Errno::ECHILD);
            }
            let events = self.wait(None)?;
            // Exits before starts: they free slots that starts may need.
            if events.children {
                self.reap();
            }
            if events.socket && !self.receive()? {
                return Ok(());
            }
            // After the message, which may extend a lease that is about to end.
            if events.deadline {
                self.check_deadlines();
            }
            self.run_timers();
            self.start_next();
            self.remove_some();
        }
    }

    /// Waits until there is something to do. Once the worker is gone, `shutdown` is when to give up
    /// the trees that are left, and the socket is not polled.
    fn wait(&mut self, shutdown: Option<Instant>) -> Result<ReadySources, Errno> {
        let now = Instant::now();
        let with_socket = shutdown.is_none();
        let ready = with_socket && (self.can_start(now) || !self.removals.is_empty());
        let retries = self.pending.iter().filter_map(|pending| pending.not_before);
        let next = self
            .jobs
            .iter()
            .filter_map(Job::next_timer)
            .chain(retries.filter(|_| self.has_room()))
            .chain(shutdown)
            .min();
        let timeout = match next {
            _ if ready => PollTimeout::ZERO,
            None => PollTimeout::NONE,
            // Rounded up: otherwise the loop would spin for the last millisecond.
            Some(at) => {
                let left = at.saturating_duration_since(now) + Duration::from_micros(999);
                PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut events = PollFlags::POLLIN;
        if !self.replies.is_empty() {
            events |= PollFlags::POLLOUT;
        }
        if !with_socket {
            events = PollFlags::empty();
        }
        let mut fds = Vec::with_capacity(5);
        fds.push(PollFd::new(self.children.as_fd(), PollFlags::POLLIN));
        fds.push(PollFd::new(self.deadlines.as_fd(), PollFlags::POLLIN));
        if with_socket {
            fds.push(PollFd::new(self.socket.as_fd(), events));
        }
        // Once a job's first process has ended, its group reports when it is empty.
        for job in self.jobs.iter().filter(|job| job.exit.is_some()) {
            if let Some(group) = &job.tree.cgroup {
                fds.push(PollFd::new(group.events(), PollFlags::POLLPRI));
            }
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let any = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        let first_group = 2 + usize::from(with_socket);
        Ok(ReadySources {
            children: any(&fds[0]) || fds[first_group..].iter().any(any),
            deadline: any(&fds[1]),
            socket: with_socket && any(&fds[2]),
        })
    }

    /// Receives one message. Returns false if the worker is gone.
    fn receive(&mut self) -> Result<bool, Errno> {
        let message = match self.receiver.receive(self.socket.as_fd()) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(true),
            Err(errno) => return Err(errno),
        };
        if message.bytes == 0 {
            return Ok(false);
        }
        self.handle_frames(message).map_err(|_| Errno::EPROTO)?;
        Ok(true)
    }

    fn handle_frames(&mut self, message: Message) -> Result<(), Malformed> {
        let bytes = std::mem::take(&mut self.receiver.bytes);
        let mut reader = Reader::new(&bytes[..message.bytes]);
        let mut fds = message.fds.into_iter();
        while !reader.is_empty() {
            let kind = reader.u8()?;
            let id = reader.u32()?;
            match kind {
                to_spawner::START | to_spawner::START_IN_MEMFD => {
                    let count = reader.u32()? as usize;
                    let takes_slot = reader.u8()? != 0;
                    let starts_below = reader.u32()? as usize;
                    let deadline = Some(reader.u64()?).filter(|at| *at != UNLIMITED);
                    let body = reader.block()?;
                    let mut fds: Vec<OwnedFd> = fds.by_ref().take(count).collect();
                    // The kernel drops descriptors from the end of a message, so once one
                    // is missing, all that follow are missing too.
                    if message.fds_lost && fds.len() < count {
                        self.request_resend(id);
                        continue;
                    }
                    let body = if kind == to_spawner::START {
                        body.to_vec()
                    } else {
                        fds.pop().ok_or(Malformed).and_then(read_memfd)?
                    };
                    let start = StartFrame::decode(body)?;
                    let extra = usize::from(start.has_stdin) + usize::from(start.has_socket);
                    if fds.len() != JOB_PIPES + extra {
                        return Err(Malformed);
                    }
                    self.pending.push_back(PendingStart {
                        id,
                        start,
                        fds,
                        takes_slot,
                        starts_below,
                        deadline: deadline.map(BootInstant::from_nanos),
                        wait: LAUNCH_RETRY_FIRST,
                        not_before: None,
                        give_up_at: None,
                    });
                    self.arm_deadlines();
                }
                to_spawner::STOP => {
                    let grace = Duration::from_millis(u64::from(reader.u32()?));
                    self.stop(id, Some(grace));
                }
                to_spawner::KILL => self.stop(id, None),
                to_spawner::WITHDRAW => self.withdraw(id),
                to_spawner::DEADLINE => {
                    self.set_deadline(id, BootInstant::from_nanos(reader.u64()?));
                }
                to_spawner::ARM => self.arm(id, &mut reader)?,
                to_spawner::DISARM => self.disarm(id),
                to_spawner::REMOVE => {
                    let path = std::str::from_utf8(reader.block()?).map_err(|_| Malformed)?;
                    self.removals
                        .push_back(Removal::new(path.into(), REMOVAL_MAX));
                }
                to_spawner::CLOSE => self.scratch_root = None,
                to_spawner::PING => {
                    let mut w = Writer::default();
                    w.u8(to_worker::PONG).u32(id);
                    self.replies.push_back(w.bytes);
                }
                _ => return Err(Malformed),
            }
        }
        self.receiver.bytes = bytes;
        Ok(())
    }

    /// A warm process starts a job: its timeout begins.
    fn arm(&mut self, id: u32, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let span = |ms: u64| (ms != UNLIMITED).then(|| Duration::from_millis(ms));
        let timeout = span(reader.u64()?);
        let kill_grace = Duration::from_millis(reader.u64()?);
        let deadline = Some(reader.u64()?).filter(|at| *at != UNLIMITED);
        if let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) {
            job.arm(timeout, kill_grace, deadline.map(BootInstant::from_nanos));
        }
        self.arm_deadlines();
        Ok(())
    }

    /// The job of a warm process is over: what it has left is killed.
    fn disarm(&mut self, id: u32) {
        if let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) {
            job.disarm(Instant::now());
        }
        self.arm_deadlines();
    }

    /// Stops a job: by TERM first if there is a grace, else by KILL.
    fn stop(&mut self, id: u32, grace: Option<Duration>) {
        let now = Instant::now();
        if let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) {
            match grace {
                Some(grace) => job.terminate(grace, now),
                None => job.kill(now),
            }
        } else if let Some(at) = self.pending.iter().position(|w| w.id == id) {
            self.pending.remove(at);
            let why = "stopped before it started";
            self.replies
                .push_back(not_started(id, &without_errno("stopped", why), 0));
        }
    }

    /// Returns a job that has not started.
    fn withdraw(&mut self, id: u32) {
        let Some(at) = self.pending.iter().position(|pending| pending.id == id) else {
            return;
        };
        self.pending.remove(at);
        let withdrawn = without_errno("withdrawn", "it was withdrawn before it started");
        self.replies
            .push_back(not_started(id, &withdrawn, flag::WITHDRAWN));
    }

    fn set_deadline(&mut self, id: u32, at: BootInstant) {
        if let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) {
            if !job.killed {
                job.deadline = Some(at);
            }
        } else if let Some(pending) = self.pending.iter_mut().find(|pending| pending.id == id) {
            pending.deadline = Some(at);
        }
        self.arm_deadlines();
    }

    /// Sets the timer to the earliest deadline.
    fn arm_deadlines(&mut self) {
        let of_jobs = self.jobs.iter().filter_map(|job| job.deadline);
        let of_pending = self.pending.iter().filter_map(|pending| pending.deadline);
        self.deadlines.arm(of_jobs.chain(of_pending).min());
    }

    /// Kills the jobs whose deadline has passed, and drops those that have not started.
    fn check_deadlines(&mut self) {
        let (boot_now, now) = (BootInstant::now(), Instant::now());
        for job in &mut self.jobs {
            job.check_deadline(boot_now, now);
        }
        let mut late = Vec::new();
        self.pending.retain(|pending| {
            let is_late = pending.deadline.is_some_and(|at| at <= boot_now);
            if is_late {
                late.push(pending.id);
            }
            !is_late
        });
        for id in late {
            self.reject_late(id);
        }
        self.deadlines.clear();
        self.arm_deadlines();
    }

    /// Reports that a job was not started, since its deadline has passed.
    fn reject_late(&mut self, id: u32) {
        let late = without_errno("deadline", "its deadline passed before it started");
        self.replies
            .push_back(not_started(id, &late, flag::DEADLINE_PASSED));
    }

    /// Removes a part of a scratch folder. Only a part, as this delays everything else.
    fn remove_some(&mut self) {
        let Some(removal) = self.removals.front_mut() else {
            return;
        };
        let error = match removal.advance() {
            Slice::Unfinished => return,
            Slice::Removed => None,
            Slice::Failed(e) => Some(e),
        };
        if let (Some(removal), Some(e)) = (self.removals.pop_front(), error) {
            let mut w = Writer::default();
            let path = removal.path().to_str().unwrap_or_default();
            w.u8(to_worker::NOT_REMOVED).u32(0).block(path.as_bytes());
            w.block(e.to_string().as_bytes());
            self.replies.push_back(w.bytes);
        }
    }

    fn request_resend(&mut self, id: u32) {
        let mut w = Writer::default();
        w.u8(to_worker::RESEND).u32(id);
        self.replies.push_back(w.bytes);
    }

    fn has_room(&self) -> bool {
        self.launcher.supports_concurrency() || self.jobs.is_empty()
    }

    fn can_start(&self, now: Instant) -> bool {
        if self.pending.is_empty() || !self.has_room() {
            return false;
        }
        let running = self.running();
        let is_ready = |pending: &PendingStart| pending.is_ready(now, running);
        self.pending.iter().any(is_ready)
    }

    /// Number of jobs that run and take slots.
    fn running(&self) -> usize {
        self.jobs.iter().filter(|job| job.takes_slot).count()
    }

    /// Starts the job that has waited longest. Only one, so that a long queue does not
    /// delay the handling of exits.
    fn start_next(&mut self) {
        let now = Instant::now();
        if !self.can_start(now) {
            return;
        }
        let running = self.running();
        let next = self
            .pending
            .iter()
            .position(|pending| pending.is_ready(now, running));
        let Some(pending) = next.and_then(|at| self.pending.remove(at)) else {
            return;
        };
        // The request may have waited in this process, or in the socket.
        if pending.deadline.is_some_and(|at| at <= BootInstant::now()) {
            return self.reject_late(pending.id);
        }
        if self.scratch_root.is_none() {
            let scratch = pending.start.scratch.as_deref();
            self.scratch_root = scratch.and_then(Path::parent).map(Path::to_owned);
        }
        match self
            .launcher
            .launch(pending.id, &pending.start, &pending.fds)
        {
            Ok(mut job) => {
                job.deadline = pending.deadline;
                job.takes_slot = pending.takes_slot;
                self.jobs.push(job);
                self.has_no_children = false;
            }
            Err(LaunchError::ResourceExhausted(d)) => self.wait_for_resources(pending, &d),
            Err(LaunchError::Failed(d)) => {
                self.replies.push_back(not_started(pending.id, &d, 0));
            }
        }
    }

    /// Tries a start again later. The wait is bounded, and counts against the job's timeout:
    /// another machine may be able to start the job.
    fn wait_for_resources(&mut self, mut pending: PendingStart, shortage: &Diagnosis) {
        let now = Instant::now();
        if pending.give_up_at.is_none() {
            let mut w = Writer::default();
            w.u8(to_worker::WAITING).u32(pending.id);
            w.block(bounded_message(shortage));
            self.replies.push_back(w.bytes);
        }
        let wait_max = pending.start.timeout.unwrap_or(Duration::MAX);
        let wait_max = wait_max.min(self.resource_wait_max);
        let give_up_at = *pending.give_up_at.get_or_insert(now + wait_max);
        if now >= give_up_at {
            self.replies
                .push_back(not_started(pending.id, shortage, flag::RESOURCE_SHORTAGE));
            return;
        }
        pending.not_before = Some((now + pending.wait).min(give_up_at));
        pending.wait = (pending.wait * 2).min(LAUNCH_RETRY_MAX);
        self.pending.push_front(pending);
    }

    /// Reaps ended processes and reports finished jobs.
    fn reap(&mut self) {
        // One signal may stand for many exits: the kernel does not count them.
        let _ = self.children.read_signal();
        let now = Instant::now();
        let mut ended = false;
        loop {
            match reap() {
                Reap::One(reaped) => {
                    // Other processes are orphans that this spawner adopted.
                    if let Some(job) = self.jobs.iter_mut().find(|job| job.has_first(reaped.pid)) {
                        job.on_exit(reaped, now);
                    } else if self.launcher.has_namespaces() {
                        self.init_ended(reaped.pid);
                    }
                    ended = true;
                }
                Reap::NoneEnded => {
                    self.has_no_children = false;
                    break;
                }
                Reap::NoChildren => {
                    self.has_no_children = true;
                    break;
                }
            }
        }
        if ended || self.jobs.iter().any(|job| job.exit.is_some()) {
            self.report_finished();
        }
    }

    /// Checks whether the reaped process was the first one of a namespace.
    fn init_ended(&mut self, pid: i32) {
        match self.jobs.iter_mut().find(|job| job.init() == Some(pid)) {
            Some(job) => job.init_ended(),
            None => self.launcher.init_ended(pid),
        }
    }

    fn report_finished(&mut self) {
        let has_exit = self.jobs.iter().any(|job| job.exit.is_some());
        let has_unknown = has_exit && !self.launcher.unknown_children(&self.jobs).is_empty();
        let mut at = 0;
        while at < self.jobs.len() {
            if !self.jobs[at].is_finished(self.has_no_children, has_unknown) {
                at += 1;
                continue;
            }
            let mut job = self.jobs.swap_remove(at);
            let mut w = Writer::default();
            job.write_ended(&mut w);
            self.replies.push_back(w.bytes);
            self.launcher.recycle_tree(job.tree, job.killed);
        }
    }

    fn run_timers(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let now = Instant::now();
        for job in &mut self.jobs {
            job.run_timers(now);
            if job.report_at.is_some_and(|at| at <= now) {
                job.report_at = None;
                let mut w = Writer::default();
                job.write_started(&mut w);
                self.replies.push_back(w.bytes);
            }
            if let Some(flags) = job.take_swept(now) {
                let mut w = Writer::default();
                w.u8(to_worker::SWEPT).u32(job.id).u8(flags);
                self.replies.push_back(w.bytes);
            }
        }
        if self.jobs.iter().any(Job::waits_for_escaped) {
            self.kill_escaped(now);
        }
    }

    /// Kills the processes that have left the control group of a job which is over without them.
    /// Nothing shows to which of several jobs such a process belongs, so it may be one of a job that
    /// still runs.
    fn kill_escaped(&mut self, now: Instant) {
        let escaped = self.launcher.unknown_children(&self.jobs);
        if escaped.is_empty() {
            // They ended by themselves, maybe without an event that has been handled.
            self.report_finished();
            return;
        }
        descendants::kill_trees(&escaped);
        for job in &mut self.jobs {
            if job.waits_for_escaped() {
                job.killed_escaped(now);
            }
        }
    }

    /// Sends replies, several in a message, until none is left or the socket is full.
    fn flush(&mut self) -> Result<(), Errno> {
        while !self.replies.is_empty() {
            let mut count = 0;
            let mut bytes = Vec::new();
            for reply in &self.replies {
                if bytes.len() + reply.len() > MESSAGE_BYTES_MAX {
                    break;
                }
                bytes.extend_from_slice(reply);
                count += 1;
            }
            match send(self.socket.as_fd(), &bytes, &[]) {
                Ok(()) => drop(self.replies.drain(..count)),
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => return Ok(()),
                // The worker is gone: the next receive reports it.
                Err(Errno::EPIPE | Errno::ECONNRESET) => {
                    self.replies.clear();
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// The descriptors that a wait found ready.
#[derive(Clone, Copy, Debug)]
struct ReadySources {
    children: bool,
    deadline: bool,
    socket: bool,
}

/// Whether a job has no recorded exit, although its first process is no child of this process any more.
fn is_exit_lost(jobs: &[Job], has_no_children: bool) -> bool {
    has_no_children && jobs.iter().any(|job| job.exit.is_none())
}

/// Why a job is not started that the system would have started.
fn without_errno(step: &'static str, why: &str) -> Diagnosis {
    Diagnosis {
        step,
        errno: Errno::UnknownErrno,
        message: why.to_owned(),
        fatal: false,
    }
}

/// The report that a job was not started. `flags` are bits of [`flag`].
fn not_started(id: u32, diagnosis: &Diagnosis, flags: u8) -> Vec<u8> {
    let mut w = Writer::default();
    w.u8(to_worker::NOT_STARTED).u32(id);
    w.block(diagnosis.step.as_bytes())
        .i32(diagnosis.errno as i32);
    w.u8(u8::from(diagnosis.fatal)).u8(flags);
    w.block(bounded_message(diagnosis));
    w.bytes
}

/// The beginning of a message: paths make it long, but a reply has to fit in one frame.
fn bounded_message(diagnosis: &Diagnosis) -> &[u8] {
    const MESSAGE_MAX: usize = 8 * 1024;
    let message = diagnosis.message.as_bytes();
    &message[..message.len().min(MESSAGE_MAX)]
}

fn read_memfd(fd: OwnedFd) -> Result<Vec<u8>, Malformed> {
    let mut body = Vec::new();
    File::from(fd)
        .read_to_end(&mut body)
        .map_err(|_| Malformed)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::super::super::sys::wait::Reaped;
    use super::super::job::{PolledLimits, Tree};
    use super::*;

    fn job() -> Job {
        Job {
            id: 1,
            pid: 7,
            takes_slot: true,
            tree: Tree::default(),
            kill_grace: Duration::ZERO,
            started: Instant::now(),
            started_ns: 0,
            report_at: None,
            timeout_at: None,
            deadline: None,
            kill_at: None,
            limit_check_at: None,
            polled_limits: PolledLimits::default(),
            next_accurate_check: None,
            stdin_bytes: 0,
            memfds: (0, None),
            exit: None,
            killed: false,
            flags: 0,
            sweep: None,
        }
    }

    #[test]
    fn the_exit_of_a_job_is_lost_if_no_child_is_left_to_report_it() {
        let mut ended = job();
        ended.on_exit(
            Reaped {
                pid: 7,
                status: 0,
                max_rss_bytes: 0,
                user_us: 0,
                system_us: 0,
            },
            Instant::now(),
        );
        for (jobs, has_no_children, lost) in [
            (vec![], true, false),
            (vec![job()], false, false),
            (vec![job()], true, true),
        ] {
            assert_eq!(is_exit_lost(&jobs, has_no_children), lost);
        }
        // the end of its tree is reported, or the kernel has not emptied its group yet
        let mut jobs = vec![ended];
        assert!(!is_exit_lost(&jobs, true));
        jobs.push(job());
        assert!(is_exit_lost(&jobs, true));
    }
}
