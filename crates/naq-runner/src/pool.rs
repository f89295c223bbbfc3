//! Which spawner gets which job, and the jobs that wait.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::sync::Notify;

use super::cgroup::Root;
use super::collect::Pipes;
use super::command::Stdin;
use super::ended::{SpawnFailure, StopReason};
use super::job::{Exit, Job, Phase};
use super::options::{Containment, Options};
use super::scratch::Scratches;
use super::wire::INLINE_BYTES_MAX;

/// Wait before a job is tried again that found no descriptor.
const SHORT_WAIT: Duration = Duration::from_millis(10);

/// Something to tell a spawner.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// Start a job; with a body in the last descriptor if `in_memfd`.
    Start {
        job: Arc<Job>,
        fds: Vec<OwnedFd>,
        in_memfd: bool,
    },
    /// TERM, and KILL after the grace.
    Stop { id: u32, grace: Duration },
    /// KILL.
    Kill { id: u32 },
}

/// One spawner, as the pool sees it.
#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) outbox: VecDeque<Outgoing>,
    pub(super) wake: Arc<Notify>,
    pub(super) jobs: HashMap<u32, Arc<Job>>,
    /// Jobs given that have not been told of yet.
    pub(super) unstarted: usize,
    pub(super) up: bool,
}

#[derive(Debug)]
pub(super) struct PoolState {
    pending: VecDeque<Arc<Job>>,
    pub(super) links: Vec<LinkState>,
    running: usize,
    next_id: u32,
    pub(super) closing: bool,
    retrying: bool,
}

/// What all tasks of a runner share.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) options: Options,
    pub(super) containment: Containment,
    pub(super) root: Option<Root>,
    /// Soft and hard limit of open files for jobs that do not say.
    pub(super) open_files: (u64, u64),
    pub(super) scratches: Arc<Scratches>,
    /// Direct children of this process that were there before any spawner.
    pub(super) strangers: Vec<i32>,
    state: Mutex<PoolState>,
}

impl Pool {
    pub(super) fn new(
        options: Options,
        containment: Containment,
        root: Option<Root>,
        open_files: (u64, u64),
        strangers: Vec<i32>,
        spawners: usize,
    ) -> Pool {
        let links = (0..spawners)
            .map(|_| LinkState {
                outbox: VecDeque::new(),
                wake: Arc::new(Notify::new()),
                jobs: HashMap::new(),
                unstarted: 0,
                up: false,
            })
            .collect();
        // random, since the place may be shared
        let run: u64 = rand::random();
        let owner = options.run_as.as_ref().map(|user| (user.uid, user.gid));
        let root_folder = options.scratch_dir.join(format!("naq-{run:016x}"));
        let scratches = Scratches::new(root_folder, owner);
        Pool {
            options,
            containment,
            root,
            open_files,
            scratches,
            strangers,
            state: Mutex::new(PoolState {
                pending: VecDeque::new(),
                links,
                running: 0,
                next_id: 0,
                closing: false,
                retrying: false,
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a job.
    pub(super) fn next_id(&self) -> u32 {
        let mut state = self.lock();
        state.next_id = state.next_id.wrapping_add(1);
        state.next_id
    }

    /// Takes a job in.
    pub(super) fn submit(self: &Arc<Self>, job: Arc<Job>) {
        let mut state = self.lock();
        if state.closing {
            drop(state);
            let exit = stopped("the runner is shut down");
            job.finish_sent(None, exit, &mut []);
            return;
        }
        state.pending.push_back(job);
        self.dispatch(&mut state);
    }

    /// Gives jobs to spawners as long as there are slots and descriptors.
    pub(super) fn dispatch(self: &Arc<Self>, state: &mut PoolState) {
        while state.running < self.options.concurrency && !state.closing {
            let Some(job) = state.pending.front() else {
                return;
            };
            // It was on its way, was stopped, and came back.
            if job.lock().stop.is_some() {
                if let Some(job) = state.pending.pop_front() {
                    job.finish_sent(None, stopped("stopped before it started"), &mut []);
                }
                continue;
            }
            let Some(link) = self.choose(&state.links) else {
                return;
            };
            let (pipes, fds, in_memfd) = match descriptors(job) {
                Ok(made) => made,
                // Short of descriptors or memory: the job waits, and is none
                // the worse for it.
                Err(_) => {
                    self.dispatch_later(state);
                    return;
                }
            };
            let Some(job) = state.pending.pop_front() else {
                return;
            };
            job.lock().phase = Phase::Sent(pipes);
            state.running += 1;
            let link = &mut state.links[link];
            link.unstarted += 1;
            link.jobs.insert(job.id, Arc::clone(&job));
            link.outbox
                .push_back(Outgoing::Start { job, fds, in_memfd });
            link.wake.notify_one();
        }
    }

    /// The spawner with the fewest starts before it, and of those the one with
    /// the fewest jobs. Without groups a spawner holds one job.
    fn choose(&self, links: &[LinkState]) -> Option<usize> {
        let one_each = self.containment == Containment::Subreaper;
        links
            .iter()
            .enumerate()
            .filter(|(_, link)| link.up && (!one_each || link.jobs.is_empty()))
            .min_by_key(|(_, link)| (link.unstarted, link.jobs.len()))
            .map(|(at, _)| at)
    }

    fn dispatch_later(self: &Arc<Self>, state: &mut PoolState) {
        if std::mem::replace(&mut state.retrying, true) {
            return;
        }
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(SHORT_WAIT).await;
            let mut state = pool.lock();
            state.retrying = false;
            pool.dispatch(&mut state);
        });
    }

    /// A job has left its spawner: its slot is free.
    pub(super) fn release(self: &Arc<Self>, link: usize, id: u32) -> Option<Arc<Job>> {
        let mut state = self.lock();
        let job = state.links[link].jobs.remove(&id)?;
        if job.lock().started.is_none() {
            state.links[link].unstarted = state.links[link].unstarted.saturating_sub(1);
        }
        state.running -= 1;
        self.dispatch(&mut state);
        Some(job)
    }

    /// A job's descriptors got lost on the way: it is sent again, with new
    /// ones, after a while.
    pub(super) fn send_again(self: &Arc<Self>, link: usize, id: u32) {
        let mut state = self.lock();
        let Some(job) = state.links[link].jobs.remove(&id) else {
            return;
        };
        state.links[link].unstarted = state.links[link].unstarted.saturating_sub(1);
        state.running -= 1;
        job.lock().phase = Phase::Pending;
        state.pending.push_front(job);
        self.dispatch_later(&mut state);
    }

    /// A spawner is gone: what it had not been told of waits again; the ids of
    /// the rest.
    pub(super) fn take_back(self: &Arc<Self>, link: usize) -> Vec<u32> {
        let mut state = self.lock();
        let outbox = std::mem::take(&mut state.links[link].outbox);
        for outgoing in outbox.into_iter().rev() {
            if let Outgoing::Start { job, .. } = outgoing {
                state.links[link].jobs.remove(&job.id);
                state.running -= 1;
                job.lock().phase = Phase::Pending;
                state.pending.push_front(job);
            }
        }
        state.links[link].unstarted = 0;
        state.links[link].jobs.keys().copied().collect()
    }

    /// Stops a job, wherever it is. A grace of none kills.
    pub(super) fn stop(self: &Arc<Self>, job: &Arc<Job>, why: StopReason, grace: Option<Duration>) {
        let mut state = self.lock();
        job.lock().stop.get_or_insert(why);
        let id = job.id;
        if let Some(at) = state.pending.iter().position(|waiting| waiting.id == id) {
            state.pending.remove(at);
            drop(state);
            job.finish_sent(None, stopped("stopped before it started"), &mut []);
            return;
        }
        let link = state
            .links
            .iter_mut()
            .find(|link| link.jobs.contains_key(&id));
        if let Some(link) = link {
            link.outbox.push_back(match grace {
                Some(grace) => Outgoing::Stop { id, grace },
                None => Outgoing::Kill { id },
            });
            link.wake.notify_one();
        }
    }

    /// Takes no more jobs, and kills those there are.
    pub(super) fn close(self: &Arc<Self>) {
        let mut state = self.lock();
        state.closing = true;
        let mut jobs: Vec<Arc<Job>> = state.pending.iter().cloned().collect();
        for link in &mut state.links {
            jobs.extend(link.jobs.values().cloned());
            link.wake.notify_one();
        }
        drop(state);
        for job in jobs {
            self.stop(&job, StopReason::Abandoned, None);
        }
    }
}

/// The end of a job that did not get to start.
fn stopped(message: &str) -> Exit {
    Exit::not_started(SpawnFailure::new("stopped", message.to_owned(), false))
}

/// Makes what a job reads and writes: our ends, and its.
fn descriptors(job: &Job) -> Result<(Pipes, Vec<OwnedFd>, bool), Errno> {
    let mut theirs = Vec::with_capacity(5);
    if let Stdin::Bytes(bytes) = &job.stdin {
        // A sealed file in memory rather than a pipe: it is never full, so
        // nobody has to wait for a job that does not read.
        theirs.push(memory_file(c"stdin", bytes)?);
    }
    let pipes = Pipes::open(&mut theirs)?;
    let in_memfd = job.body.len() > INLINE_BYTES_MAX;
    if in_memfd {
        theirs.push(memory_file(c"naq-request", &job.body)?);
    }
    Ok((pipes, theirs, in_memfd))
}

fn memory_file(name: &std::ffi::CStr, bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(name, flags)?);
    // The file's offset stays at its beginning.
    file.write_all_at(bytes, 0)
        .map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}
