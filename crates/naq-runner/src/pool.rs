//! Assigns jobs to spawners and queues those that wait for a slot.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::sync::Notify;

use super::boot_instant::BootInstant;
use super::cgroup::WorkerCgroup;
use super::command::Stdin;
use super::completion::{SpawnFailure, StopReason};
use super::errno::{errno_of, is_resource_shortage};
use super::job::{ExitReport, Job, Phase};
use super::options::{Containment, MemoryLimit, RunnerConfig};
use super::pipes::Pipes;
use super::scratch::{FOLDER, ScratchDirs};
use super::slots::{Slots, is_older};
use super::spawner_watch::SpawnerWatch;
use super::wire::{INLINE_BYTES_MAX, flag};

/// Delay before dispatch is retried after descriptors ran out.
const DISPATCH_RETRY_DELAY: Duration = Duration::from_millis(10);

/// A message for a spawner.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// Start a job. If `in_memfd`, the last descriptor contains the request.
    Start {
        job: Arc<Job>,
        fds: Vec<OwnedFd>,
        in_memfd: bool,
        /// It starts once fewer jobs that take slots run in the spawner. Zero: at once.
        starts_below: usize,
    },
    /// Return the job if it has not started.
    Withdraw { id: u32 },
    /// TERM, then KILL after the grace.
    Stop { id: u32, grace: Duration },
    /// KILL at once.
    Kill { id: u32 },
    /// KILL at this time.
    Deadline { id: u32, at: BootInstant },
    /// A warm process starts a job: its timeout begins.
    Arm {
        id: u32,
        timeout: Option<Duration>,
        kill_grace: Duration,
        deadline: Option<BootInstant>,
    },
    /// The job of a warm process is over: kill what it left, and report its flags.
    Disarm { id: u32 },
    /// A question whether the spawner still works.
    Ping,
    /// Remove a scratch folder.
    Remove { path: PathBuf },
    /// The worker is about to close the socket, and removes what is left of its folders itself.
    Close,
}

/// The pool's state of one spawner.
#[derive(Debug)]
pub(super) struct SpawnerState {
    pub(super) outbox: VecDeque<Outgoing>,
    pub(super) wake: Arc<Notify>,
    pub(super) jobs: HashMap<u32, Arc<Job>>,
    /// Its part of the slots: it runs as many of the jobs that may wait here.
    slots: usize,
    /// Number of its jobs that take slots: those that run, and those that wait here for one of these to end.
    used: usize,
    /// Number of those that may wait here, whether they do or have started.
    may_wait: usize,
    /// Jobs assigned to the spawner that it has reported neither as started nor as
    /// finished.
    pub(super) unreported_starts: usize,
    pub(super) is_ready: bool,
    /// Whether it will soon be ready if it is needed: no attempt to start its process has failed.
    pub(super) is_starting: bool,
    pub(super) watch: SpawnerWatch,
}

impl SpawnerState {
    /// Number of jobs that run here and take slots.
    fn running(&self) -> usize {
        match self.may_wait {
            0 => self.used,
            _ => self.used.min(self.slots),
        }
    }

    /// Counts a job that it gets.
    fn add(&mut self, job: &Arc<Job>, slots: &mut Slots) {
        if let Some(slot) = job.parts.slot {
            slots.occupy(slot);
        }
        self.used += usize::from(job.takes_slot());
        self.may_wait += usize::from(job.waits);
        self.jobs.insert(job.id, Arc::clone(job));
    }

    /// Removes a job, and frees its slot.
    fn remove(&mut self, id: u32) -> Option<Arc<Job>> {
        let job = self.jobs.remove(&id)?;
        self.used -= usize::from(job.takes_slot());
        self.may_wait -= usize::from(job.waits);
        Some(job)
    }

    /// Whether the spawner should have killed or signalled one of its jobs by now.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let is_due = |job: &Arc<Job>| {
            let job = job.lock();
            let is_past_deadline = job.deadline.is_some_and(|at| at <= BootInstant::now());
            is_past_deadline || job.act_by.is_some_and(|at| at <= now)
        };
        self.jobs.values().any(is_due)
    }
}

#[derive(Debug)]
pub(super) struct PoolState {
    pending: VecDeque<Arc<Job>>,
    pub(super) spawners: Vec<SpawnerState>,
    /// The slots that are held for jobs.
    pub(super) slots: Slots,
    next_id: u32,
    pub(super) closing: bool,
    redispatch_scheduled: bool,
    /// Since when no job can be dispatched because this machine is short of something.
    short_since: Option<Instant>,
}

impl PoolState {
    /// Number of slots in which jobs run, or that are kept free for one.
    pub(super) fn slots_taken(&self) -> usize {
        let running: usize = self.spawners.iter().map(SpawnerState::running).sum();
        running + self.slots.idle()
    }

    /// A new number for a job or a slot.
    pub(super) fn next_id(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    /// Takes a job back from a spawner that has not started it. Its slot is kept free for it again.
    fn take_back(&mut self, spawner: usize, id: u32) -> Option<Arc<Job>> {
        let job = self.spawners[spawner].remove(id)?;
        if let Some(slot) = job.parts.slot {
            self.slots.vacate(slot);
        }
        Some(job)
    }
}

/// Shared by all tasks of a runner.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) options: RunnerConfig,
    pub(super) containment: Containment,
    pub(super) worker_cgroup: Option<WorkerCgroup>,
    /// How memory limits are kept.
    pub(super) memory_limit: MemoryLimit,
    /// Whether limits of processors are kept.
    pub(super) has_cpu_controller: bool,
    /// Soft and hard limit of open files for jobs that set none.
    pub(super) open_files: (u64, u64),
    pub(super) scratch_dirs: Arc<ScratchDirs>,
    /// Direct children that this process had before the first spawner.
    pub(super) preexisting_children: Vec<i32>,
    /// Index of the spawner for jobs that run alone; it is started when the first of them arrives.
    /// `None` if every spawner runs only one job.
    pub(super) reserved: Option<usize>,
    /// Number of spawner processes that died and were started again.
    pub(super) spawner_restarts: Arc<AtomicU64>,
    /// Notified when a slot is kept free for one who waits for it.
    pub(super) slots_granted: Notify,
    state: Mutex<PoolState>,
}

impl Pool {
    /// A pool of `spawners`, and one more for jobs that run alone if those run several jobs each.
    pub(super) fn new(
        options: RunnerConfig,
        containment: Containment,
        worker_cgroup: Option<WorkerCgroup>,
        open_files: (u64, u64),
        scratch_dirs: Arc<ScratchDirs>,
        preexisting_children: Vec<i32>,
        spawners: usize,
    ) -> Pool {
        let runs_one_job = options.concurrency == 1 || containment == Containment::Subreaper;
        let reserved = (!runs_one_job).then_some(spawners);
        let slots_of = |at: usize| match reserved == Some(at) {
            true => 1,
            false => {
                let more = usize::from(at < options.concurrency % spawners);
                options.concurrency / spawners + more
            }
        };
        let spawners = (0..spawners + usize::from(reserved.is_some()))
            .map(|at| SpawnerState {
                outbox: VecDeque::new(),
                wake: Arc::new(Notify::new()),
                jobs: HashMap::new(),
                slots: slots_of(at),
                used: 0,
                may_wait: 0,
                unreported_starts: 0,
                is_ready: false,
                is_starting: true,
                watch: SpawnerWatch::default(),
            })
            .collect();
        let has_controller = |name: &str| {
            let cgroup = worker_cgroup.as_ref();
            cgroup.is_some_and(|cgroup| cgroup.has_controller(name))
        };
        let memory_limit = match has_controller("memory") {
            true => MemoryLimit::Enforced,
            false => MemoryLimit::Watched,
        };
        let has_cpu_controller = has_controller("cpu");
        Pool {
            options,
            containment,
            worker_cgroup,
            memory_limit,
            has_cpu_controller,
            open_files,
            scratch_dirs,
            preexisting_children,
            reserved,
            spawner_restarts: Arc::default(),
            slots_granted: Notify::new(),
            state: Mutex::new(PoolState {
                pending: VecDeque::new(),
                spawners,
                slots: Slots::default(),
                next_id: 0,
                closing: false,
                redispatch_scheduled: false,
                short_since: None,
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new id for a job.
    pub(super) fn next_id(&self) -> u32 {
        self.lock().next_id()
    }

    /// Accepts a job.
    pub(super) fn submit(self: &Arc<Self>, job: Arc<Job>) {
        let mut state = self.lock();
        if state.closing {
            drop(state);
            let exit = stopped_before_start("the runner is shut down");
            job.drain_and_finish(None, exit, &mut []);
            return;
        }
        state.pending.push_back(job);
        self.dispatch(&mut state);
    }

    /// Assigns queued jobs to spawners while slots and descriptors are available, and slots to those who wait for one,
    /// in the order in which they came.
    pub(super) fn dispatch(self: &Arc<Self>, state: &mut PoolState) {
        let mut is_granted = false;
        loop {
            self.assign_jobs(state);
            let is_free = !state.closing && state.slots_taken() < self.options.concurrency;
            let Some(slot) = state.slots.first_awaited().filter(|_| is_free) else {
                break;
            };
            let comes_first = |job: &Arc<Job>| job.competes() && is_older(job.id, slot);
            if state.pending.iter().any(comes_first) {
                break;
            }
            state.slots.grant_next();
            is_granted = true;
        }
        if is_granted {
            self.slots_granted.notify_waiters();
        }
    }

    fn assign_jobs(self: &Arc<Self>, state: &mut PoolState) {
        while !state.closing {
            let is_full = state.slots_taken() >= self.options.concurrency;
            let needs_no_other = |job: &Arc<Job>| !job.competes() || job.waits;
            if is_full && !state.pending.iter().any(needs_no_other) {
                return;
            }
            let Some((at, spawner)) = self.next_start(state) else {
                self.wait_for_spawner(state);
                return;
            };
            let Some(job) = state.pending.get(at) else {
                return;
            };
            // It was sent, stopped meanwhile, and the spawner returned it.
            if job.lock().stop.is_some() {
                if let Some(job) = state.pending.remove(at) {
                    job.drain_and_finish(
                        None,
                        stopped_before_start("stopped before it started"),
                        &mut [],
                    );
                }
                continue;
            }
            let (pipes, fds, in_memfd) = match allocate(job) {
                Ok(made) => made,
                Err(failure) if failure.resource_shortage => {
                    self.wait_for_resources(state, failure);
                    return;
                }
                Err(failure) => {
                    if let Some(job) = state.pending.remove(at) {
                        job.drain_and_finish(None, ExitReport::not_started(failure), &mut []);
                    }
                    continue;
                }
            };
            state.short_since = None;
            let Some(job) = state.pending.remove(at) else {
                return;
            };
            {
                let mut job_state = job.lock();
                job_state.phase = Phase::Dispatched(pipes);
                job_state.act_by = job.timeout.and_then(|timeout| {
                    Instant::now().checked_add(timeout.saturating_add(job.kill_grace))
                });
            }
            let spawner = &mut state.spawners[spawner];
            spawner.unreported_starts += 1;
            spawner.add(&job, &mut state.slots);
            let starts_below = if job.waits { spawner.slots } else { 0 };
            spawner.outbox.push_back(Outgoing::Start {
                job,
                fds,
                in_memfd,
                starts_below,
            });
            spawner.wake.notify_one();
        }
    }

    /// The first queued job that a spawner is ready for, and that spawner. A job that waits for the
    /// spawner of its own delays no other. If all slots are taken, only what takes none
    /// starts, and what may wait at a spawner is sent there.
    fn next_start(&self, state: &PoolState) -> Option<(usize, usize)> {
        let taken = state.slots_taken();
        let first_awaited = state.slots.first_awaited();
        // A job that needs a slot is not overtaken by others that wait for one.
        let mut needs_slot = false;
        let mut queued = state.pending.iter().enumerate();
        queued.find_map(|(at, job)| {
            if job.lock().stop.is_some() {
                // it ends, and needs no spawner for that
                return Some((at, 0));
            }
            let is_full = match job.competes() {
                true => taken >= self.options.concurrency,
                // Its own slot counts as taken. More are if its spawner has returned it, and started another one.
                false => job.takes_slot() && taken > self.options.concurrency,
            };
            if self.is_reserved_for(job) {
                let reserved = self.reserved.filter(|reserved| {
                    let spawner = &state.spawners[*reserved];
                    !is_full && spawner.is_ready && spawner.jobs.is_empty()
                });
                return Some((at, reserved?));
            }
            if !job.takes_slot() {
                return Some((at, self.pick_spawner(&state.spawners, |_| true)?));
            }
            let is_overtaking =
                job.competes() && first_awaited.is_some_and(|awaited| is_older(awaited, job.id));
            if is_overtaking {
                return None;
            }
            let spawner = match is_full {
                false => self.pick_with_room(&state.spawners),
                true if job.waits && !needs_slot => self.pick_to_wait(&state.spawners),
                true => None,
            };
            needs_slot |= spawner.is_none();
            Some((at, spawner?))
        })
    }

    /// The spawner for a job that starts at once. While another spawner is not ready, one may run more than its part
    /// of the slots, unless it has jobs that may wait: it would start those beyond the slots of all.
    fn pick_with_room(&self, spawners: &[SpawnerState]) -> Option<usize> {
        self.pick_spawner(spawners, |spawner| spawner.used < spawner.slots)
            .or_else(|| self.pick_spawner(spawners, |spawner| spawner.may_wait == 0))
    }

    /// The spawner for a job that waits there until another one ends. `None` if one of the slots is that of
    /// a job which runs alone, or of a spawner that is not ready: then the parts do not add up to all slots.
    fn pick_to_wait(&self, spawners: &[SpawnerState]) -> Option<usize> {
        let shared = |at: usize| self.reserved != Some(at);
        let is_whole = spawners
            .iter()
            .enumerate()
            .all(|(at, spawner)| match shared(at) {
                true => spawner.is_ready && spawner.used >= spawner.slots,
                false => spawner.jobs.is_empty(),
            });
        if !is_whole || self.containment == Containment::Subreaper {
            return None;
        }
        let queues = spawners.iter().enumerate().filter(|(at, _)| shared(*at));
        queues
            .min_by_key(|(_, spawner)| spawner.used - spawner.slots)
            .map(|(at, _)| at)
    }

    /// Whether the job has to run in the reserved spawner.
    fn is_reserved_for(&self, job: &Job) -> bool {
        job.alone && self.reserved.is_some()
    }

    /// The spawner with the fewest unreported starts, and among those the one with the
    /// fewest jobs. With [`Containment::Subreaper`], a spawner runs one job only.
    fn pick_spawner(
        &self,
        spawners: &[SpawnerState],
        may: impl Fn(&SpawnerState) -> bool,
    ) -> Option<usize> {
        let one_each = self.containment == Containment::Subreaper;
        spawners
            .iter()
            .enumerate()
            .filter(|(at, spawner)| {
                let is_shared = self.reserved != Some(*at);
                let is_free = !one_each || spawner.jobs.is_empty();
                is_shared && spawner.is_ready && is_free && may(spawner)
            })
            .min_by_key(|(_, spawner)| (spawner.unreported_starts, spawner.jobs.len()))
            .map(|(at, _)| at)
    }

    /// No queued job can be sent to a spawner. Starts the reserved one if a job needs it, and waits
    /// for a bounded time if the spawners of a job cannot be started.
    fn wait_for_spawner(self: &Arc<Self>, state: &mut PoolState) {
        let needs_reserved = state.pending.iter().any(|job| self.is_reserved_for(job));
        let needs_shared = state.pending.iter().any(|job| !self.is_reserved_for(job));
        let (mut has_reserved, mut has_shared) = (false, false);
        for (at, spawner) in state.spawners.iter_mut().enumerate() {
            if self.reserved != Some(at) {
                has_shared |= spawner.is_ready || spawner.is_starting;
                continue;
            }
            if needs_reserved && !spawner.is_ready {
                // heard by the task that starts it for the first time
                spawner.wake.notify_one();
            }
            has_reserved = spawner.is_ready || spawner.is_starting;
        }
        if (needs_shared && !has_shared) || (needs_reserved && !has_reserved) {
            let mut none = SpawnFailure::new("spawner", NO_SPAWNER.to_owned(), false);
            none.resource_shortage = true;
            self.wait_for_resources(state, none);
        }
    }

    /// The first queued job cannot be dispatched for want of something. All queued jobs wait, with
    /// nothing lost; those that have waited too long end as not started, so that others can run
    /// them.
    fn wait_for_resources(self: &Arc<Self>, state: &mut PoolState, failure: SpawnFailure) {
        let now = Instant::now();
        let since = *state.short_since.get_or_insert_with(|| {
            tracing::warn!(queued = state.pending.len(), error = %failure, "cannot start jobs yet, retrying");
            now
        });
        let has_waited_too_long = |job: &Arc<Job>| {
            // other jobs may have started since a job of its own spawner was queued
            let since = match self.is_reserved_for(job) {
                true => job.submitted,
                false => since.max(job.submitted),
            };
            now.duration_since(since) >= self.resource_wait_max(job)
        };
        let pending = std::mem::take(&mut state.pending);
        let (late, pending): (VecDeque<_>, _) = pending.into_iter().partition(has_waited_too_long);
        state.pending = pending;
        for job in late {
            job.drain_and_finish(None, ExitReport::not_started(failure.clone()), &mut []);
        }
        if !state.pending.is_empty() {
            self.schedule_redispatch(state);
        }
    }

    fn schedule_redispatch(self: &Arc<Self>, state: &mut PoolState) {
        if std::mem::replace(&mut state.redispatch_scheduled, true) {
            return;
        }
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(DISPATCH_RETRY_DELAY).await;
            let mut state = pool.lock();
            state.redispatch_scheduled = false;
            pool.dispatch(&mut state);
        });
    }

    /// Frees the slot of a job that has left its spawner.
    pub(super) fn release(self: &Arc<Self>, spawner: usize, id: u32) -> Option<Arc<Job>> {
        let mut state = self.lock();
        let job = state.spawners[spawner].remove(id)?;
        if let Some(slot) = job.parts.slot {
            state.slots.release(slot);
        }
        if job.lock().started.is_none() {
            state.spawners[spawner].unreported_starts =
                state.spawners[spawner].unreported_starts.saturating_sub(1);
        }
        self.dispatch(&mut state);
        Some(job)
    }

    /// Queues a job again whose descriptors were lost on the way. It is sent with
    /// new ones after a delay.
    pub(super) fn resend(self: &Arc<Self>, spawner: usize, id: u32) {
        let mut state = self.lock();
        let Some(job) = state.take_back(spawner, id) else {
            return;
        };
        state.spawners[spawner].unreported_starts =
            state.spawners[spawner].unreported_starts.saturating_sub(1);
        let now = Instant::now();
        let first_resend = {
            let mut job_state = job.lock();
            job_state.phase = Phase::Pending;
            *job_state.first_resend.get_or_insert(now)
        };
        if now.duration_since(first_resend) >= self.resource_wait_max(&job) {
            let mut failure = SpawnFailure::new("descriptors", FDS_LOST.to_owned(), false);
            failure.resource_shortage = true;
            job.drain_and_finish(None, ExitReport::not_started(failure), &mut []);
            self.dispatch(&mut state);
            return;
        }
        if first_resend == now {
            tracing::warn!(job_id = %job.job_id, error = FDS_LOST, "cannot start a job yet, retrying");
        }
        state.pending.push_front(job);
        self.schedule_redispatch(&mut state);
    }

    /// How long a job may wait for resources of this machine.
    fn resource_wait_max(&self, job: &Job) -> Duration {
        let wait_max = self.options.resource_wait_max;
        job.timeout
            .map_or(wait_max, |timeout| timeout.min(wait_max))
    }

    /// Cleans up after a dead spawner: queues the jobs again that it had not
    /// received, and returns the ids of the others.
    pub(super) fn requeue_unsent(self: &Arc<Self>, spawner: usize) -> Vec<u32> {
        let mut state = self.lock();
        let outbox = std::mem::take(&mut state.spawners[spawner].outbox);
        for outgoing in outbox.into_iter().rev() {
            if let Outgoing::Start { job, .. } = outgoing {
                state.take_back(spawner, job.id);
                job.lock().phase = Phase::Pending;
                state.pending.push_front(job);
            }
        }
        state.spawners[spawner].unreported_starts = 0;
        state.spawners[spawner].jobs.keys().copied().collect()
    }

    /// Stops a job in any phase. Without a grace, it is killed at once.
    pub(super) fn stop(self: &Arc<Self>, job: &Arc<Job>, why: StopReason, grace: Option<Duration>) {
        let mut state = self.lock();
        job.lock().stop.get_or_insert(why);
        let id = job.id;
        if let Some(at) = state.pending.iter().position(|waiting| waiting.id == id) {
            state.pending.remove(at);
            self.dispatch(&mut state);
            drop(state);
            job.drain_and_finish(
                None,
                stopped_before_start("stopped before it started"),
                &mut [],
            );
            return;
        }
        let spawner = state
            .spawners
            .iter_mut()
            .find(|spawner| spawner.jobs.contains_key(&id));
        if let Some(spawner) = spawner {
            // A spawner that works sends the signal at once.
            job.lock().act_by = Some(Instant::now());
            spawner.watch.continue_if_stopped();
            spawner.outbox.push_back(match grace {
                Some(grace) => Outgoing::Stop { id, grace },
                None => Outgoing::Kill { id },
            });
            spawner.wake.notify_one();
        }
    }

    /// Takes a job back unless it has started, which only its spawner knows.
    pub(super) fn withdraw(self: &Arc<Self>, job: &Arc<Job>) {
        let mut state = self.lock();
        let id = job.id;
        if let Some(at) = state.pending.iter().position(|waiting| waiting.id == id) {
            state.pending.remove(at);
            self.dispatch(&mut state);
            drop(state);
            let mut exit = stopped_before_start("it was withdrawn before it started");
            exit.flags = flag::WITHDRAWN;
            job.drain_and_finish(None, exit, &mut []);
            return;
        }
        let mut spawners = state.spawners.iter_mut();
        if let Some(spawner) = spawners.find(|spawner| spawner.jobs.contains_key(&id)) {
            spawner.outbox.push_back(Outgoing::Withdraw { id });
            spawner.wake.notify_one();
        }
    }

    /// Signals the job that a warm process runs: TERM and then KILL after the grace, or KILL at once. Does
    /// nothing if that job is over: the process may be idle, or run another.
    pub(super) fn signal(&self, id: u32, grace: Option<Duration>) {
        self.post(id, |job| {
            let mut state = job.lock();
            if !state.is_armed {
                return None;
            }
            state.act_by = Some(Instant::now());
            Some(match grace {
                Some(grace) => Outgoing::Stop { id, grace },
                None => Outgoing::Kill { id },
            })
        });
    }

    /// Has the spawner of a warm process keep the timeout and the deadline of the job that it starts.
    pub(super) fn arm(&self, process: &Arc<Job>, started: &Job) {
        let (timeout, kill_grace) = (started.timeout, started.kill_grace);
        self.post(process.id, |job| {
            // Read here: a renewal of the lease moves it before this, or finds the process armed.
            let deadline = started.lock().deadline;
            let mut state = job.lock();
            state.is_armed = true;
            state.swept = None;
            state.deadline = deadline;
            state.act_by = timeout
                .and_then(|timeout| Instant::now().checked_add(timeout.saturating_add(kill_grace)));
            Some(Outgoing::Arm {
                id: job.id,
                timeout,
                kill_grace,
                deadline,
            })
        });
    }

    /// Has the spawner of a warm process end the job that the process ran.
    pub(super) fn disarm(&self, process: &Arc<Job>) {
        self.post(process.id, |job| {
            let mut state = job.lock();
            state.is_armed = false;
            state.deadline = None;
            state.act_by = None;
            Some(Outgoing::Disarm { id: job.id })
        });
    }

    /// Sends a message about a process to the spawner that runs it, if one does.
    fn post(&self, id: u32, message: impl FnOnce(&Job) -> Option<Outgoing>) {
        let mut state = self.lock();
        let mut spawners = state.spawners.iter_mut();
        let Some(spawner) = spawners.find(|spawner| spawner.jobs.contains_key(&id)) else {
            return;
        };
        let message = spawner.jobs.get(&id).and_then(|job| message(job));
        if let Some(message) = message {
            spawner.watch.continue_if_stopped();
            spawner.outbox.push_back(message);
            spawner.wake.notify_one();
        }
    }

    /// Sets when a job's spawner kills it. A job without a spawner gets the deadline when it is
    /// sent to one.
    pub(super) fn set_deadline(&self, job: &Arc<Job>, at: BootInstant) {
        let mut state = self.lock();
        {
            let mut job_state = job.lock();
            // A warm process without a job has no deadline.
            if job.is_warm() && !job_state.is_armed {
                return;
            }
            job_state.deadline = Some(at);
        }
        let id = job.id;
        let spawner = state
            .spawners
            .iter_mut()
            .find(|spawner| spawner.jobs.contains_key(&id));
        if let Some(spawner) = spawner {
            spawner.outbox.push_back(Outgoing::Deadline { id, at });
            spawner.wake.notify_one();
        }
    }

    /// Closes the pool to new jobs and kills the present ones.
    pub(super) fn close(self: &Arc<Self>) {
        let mut state = self.lock();
        state.closing = true;
        let mut jobs: Vec<Arc<Job>> = state.pending.iter().cloned().collect();
        for spawner in &mut state.spawners {
            jobs.extend(spawner.jobs.values().cloned());
            spawner.wake.notify_one();
        }
        drop(state);
        for job in jobs {
            self.stop(&job, StopReason::Abandoned, None);
        }
    }
}

/// The end of a job that was stopped before it started.
fn stopped_before_start(message: &str) -> ExitReport {
    ExitReport::not_started(SpawnFailure::new("stopped", message.to_owned(), false))
}

/// Why a job that was sent to a spawner has to be sent again.
const FDS_LOST: &str = "the spawner process may open no more files";

/// Why no job starts while every spawner is gone.
const NO_SPAWNER: &str = "no spawner process can be started";

/// Allocates what a job needs in this process: its scratch folder and its descriptors, both the
/// worker's ends and the job's.
fn allocate(job: &Job) -> Result<(Pipes, Vec<OwnedFd>, bool), SpawnFailure> {
    let failure = |step: &str, what: &str, errno: Errno| SpawnFailure {
        errno: Some(format!("{errno:?}")),
        resource_shortage: is_resource_shortage(errno),
        ..SpawnFailure::new(step, format!("{what}: {}", errno.desc()), false)
    };
    if let Some(scratch) = &mut job.lock().scratch {
        scratch
            .create()
            .map_err(|e| failure("scratch", "cannot create the scratch folder", errno_of(&e)))?;
        if let Some(folder) = &job.folder {
            folder
                .move_to(&scratch.path().join(FOLDER))
                .map_err(|e| failure("scratch", "cannot move its inputs there", errno_of(&e)))?;
        }
    }
    open_job_fds(job).map_err(|errno| failure("descriptors", "cannot open the job's pipes", errno))
}

/// Opens the descriptors of a job: the worker's ends and the job's. The job's are its standard input (if
/// any), its pipes, the socket of a warm process, and the request if it is in a file.
fn open_job_fds(job: &Job) -> Result<(Pipes, Vec<OwnedFd>, bool), Errno> {
    let mut job_fds = Vec::with_capacity(5);
    match &job.stdin {
        Stdin::Empty => {}
        // A sealed file in memory, not a pipe: it never fills up, so the worker
        // never has to wait for a job that does not read.
        Stdin::Bytes(bytes) => job_fds.push(sealed_memfd(c"stdin", bytes)?),
        Stdin::File(file) => job_fds.push(file.try_clone().map_err(|e| errno_of(&e))?.into()),
    }
    let pipes = match job.parts.given.as_slice() {
        [] => Pipes::open(&mut job_fds)?,
        given => {
            // Nothing is written to the pipes of the job itself.
            let pipes = Pipes::open(&mut Vec::new())?;
            for fd in given {
                job_fds.push(fd.try_clone().map_err(|e| errno_of(&e))?);
            }
            pipes
        }
    };
    if let Some(socket) = &job.parts.socket {
        job_fds.push(socket.try_clone().map_err(|e| errno_of(&e))?);
    }
    let in_memfd = job.body.len() > INLINE_BYTES_MAX;
    if in_memfd {
        job_fds.push(sealed_memfd(c"naq-request", &job.body)?);
    }
    Ok((pipes, job_fds, in_memfd))
}

pub(super) fn sealed_memfd(name: &std::ffi::CStr, bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(name, flags)?);
    // Written at an offset, so that the job reads from the beginning.
    file.write_all_at(bytes, 0).map_err(|e| errno_of(&e))?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}
