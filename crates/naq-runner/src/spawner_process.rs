//! One spawner process, as seen by the worker: starts it, exchanges messages with
//! it, and replaces it when it dies.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;
use tokio::sync::{Notify, oneshot};
use tokio::time::MissedTickBehavior;

use super::boot_instant::BootInstant;
use super::cgroup;
use super::completion::{SpawnFailure, Termination, Usage};
use super::job::{ExitReport, Phase};
use super::pipes::READ_BYTES;
use super::pool::{Outgoing, Pool};
use super::read_pipes::read_pipes;
use super::reap_orphans;
use super::scratch::warn_not_removed;
use super::spawner_setup::SpawnerSetup;
use super::spawner_watch::{CHECK_INTERVAL, CheckResult, SpawnerWatch};
use super::sys::async_fd::register;
use super::sys::socket::{MESSAGE_BYTES_MAX, MESSAGE_FDS_MAX, Receiver, pair, send};
use super::wire::{MAGIC, Malformed, Reader, UNLIMITED, Writer, flag, to_spawner, to_worker};

/// How long a spawner may take to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// First and longest delay between attempts to start a spawner.
const RESTART_BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A spawner that has lived for less time has died soon after its start.
const SHORT_LIFE: Duration = Duration::from_secs(2);

/// Number of spawners in a row that may die soon after their start before the next start waits. A job may kill
/// its spawner, and costs the others no time by that.
const SHORT_LIVES_FREE: u32 = 3;

/// How long a spawner may take to exit once its socket is closed. Longer than it waits for the
/// processes that it has killed.
const EXIT_MAX: Duration = Duration::from_secs(15);

/// Maximum length of a frame that starts no job, in bytes: one with a path.
const OTHER_FRAME_BYTES_MAX: usize = 8 * 1024;

/// Counts the spawners in a row that died soon after their start, as if something on the machine kills each.
#[derive(Debug, Default)]
struct ShortLives(u32);

impl ShortLives {
    /// Counts a dead spawner. Returns how long the next start has to wait. `None` means that it need not.
    fn count(&mut self, lived: Duration) -> Option<Duration> {
        self.0 = match lived < SHORT_LIFE {
            true => self.0.saturating_add(1),
            false => 0,
        };
        let doublings = self.0.checked_sub(SHORT_LIVES_FREE + 1)?;
        let factor = 2_u32.saturating_pow(doublings);
        Some(
            RESTART_BACKOFF
                .0
                .saturating_mul(factor)
                .min(RESTART_BACKOFF.1),
        )
    }
}

/// A spawner that is ready.
#[derive(Debug)]
pub(super) struct SpawnerProcess {
    socket: AsyncFd<OwnedFd>,
    child: Child,
    setup: SpawnerSetup,
}

/// Starts a spawner and waits until it is ready.
pub(super) async fn spawn(
    program: Option<&Path>,
    setup: SpawnerSetup,
) -> io::Result<SpawnerProcess> {
    let (ours, theirs) = pair()?;
    // The link, not the path it points to: the link stays valid when an upgrade
    // replaces the file.
    let program = program.unwrap_or(Path::new("/proc/self/exe"));
    #[expect(
        clippy::disallowed_methods,
        reason = "this crate starts processes, and this one is its spawner"
    )]
    let mut command = tokio::process::Command::new(program);
    command
        .arg("__spawner")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        // Signals to the worker's process group must not reach the spawners, which
        // outlive the worker to kill its jobs.
        .process_group(0);
    let child = command.spawn()?;
    drop(command);
    let socket = register(ours, Interest::READABLE | Interest::WRITABLE).map_err(|(_, e)| e)?;
    let mut hello = Writer::default();
    hello.u8(to_spawner::HELLO).u32(MAGIC);
    setup.encode(&mut hello);
    send(socket.get_ref().as_fd(), &hello.bytes, &[])?;
    let mut receiver = Receiver::new();
    let receive = async {
        loop {
            let mut ready = socket.readable().await?;
            match receiver.receive(socket.get_ref().as_fd()) {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                received => return Ok::<_, io::Error>(received?.bytes),
            }
        }
    };
    let bytes = tokio::time::timeout(READY_TIMEOUT, receive)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if bytes == 0 {
        return Err(io::Error::other("it exited before it was ready"));
    }
    let mut reader = Reader::new(&receiver.bytes[..bytes]);
    let reply = (reader.u8(), reader.u32(), reader.i32(), reader.block());
    match reply {
        (Ok(to_worker::READY), Ok(MAGIC), Ok(0), Ok(_)) => Ok(SpawnerProcess {
            socket,
            child,
            setup,
        }),
        (Ok(to_worker::READY), Ok(MAGIC), Ok(errno), Ok(&[])) => Err(Errno::from_raw(errno).into()),
        (Ok(to_worker::READY), Ok(MAGIC), Ok(errno), Ok(why)) => {
            let why = String::from_utf8_lossy(why);
            let errno = Errno::from_raw(errno);
            Err(io::Error::other(format!("{why}: {}", errno.desc())))
        }
        _ => Err(io::Error::other("it is not a spawner of the same binary")),
    }
}

/// Starts the spawner with this index when the first job needs it, and runs it like any other.
pub(super) async fn supervise_when_needed(pool: Arc<Pool>, index: usize) {
    let wake = Arc::clone(&pool.lock().spawners[index].wake);
    wake.notified().await;
    let setup = SpawnerSetup::of(&pool.options, pool.containment, pool.scratch_dirs.root());
    if let Some(first) = start_until_closed(&pool, index, setup).await {
        supervise(pool, index, first).await;
    }
}

/// Runs the spawner with this index, and replaces it whenever it dies, until the
/// pool closes.
pub(super) async fn supervise(pool: Arc<Pool>, index: usize, first: SpawnerProcess) {
    let mut spawned = first;
    let mut short_lives = ShortLives::default();
    loop {
        let started = Instant::now();
        let setup = std::mem::take(&mut spawned.setup);
        {
            let mut state = pool.lock();
            let pid = spawned.child.id().and_then(|pid| pid.try_into().ok());
            state.spawners[index].watch = SpawnerWatch::over(pid);
            state.spawners[index].is_ready = true;
            state.spawners[index].is_starting = false;
            pool.dispatch(&mut state);
        }
        let result = serve(&pool, index, &spawned.socket).await;
        let SpawnerProcess {
            socket, mut child, ..
        } = spawned;
        drop(socket);
        let (closing, jobs) = {
            let mut state = pool.lock();
            let spawner = &mut state.spawners[index];
            spawner.is_ready = false;
            spawner.is_starting = true;
            spawner.watch.continue_if_stopped();
            let jobs = spawner.jobs.len();
            (state.closing, jobs)
        };
        let status = match &result {
            Ok(()) => wait_or_kill(&mut child).await,
            Err(_) => kill_and_wait(&mut child).await,
        };
        pool.lock().spawners[index].watch = SpawnerWatch::default();
        if !closing {
            tracing::error!(
                spawner = index,
                jobs,
                ?status,
                ?result,
                "spawner process died with the jobs that it ran"
            );
        }
        reap_spawner(&pool, setup.cgroup_dir.clone()).await;
        fail_jobs_of(&pool, index);
        if closing {
            return;
        }
        if let Some(pause) = short_lives.count(started.elapsed()) {
            tracing::error!(
                spawner = index,
                ?pause,
                "spawner processes die soon after their start; the next one starts after a pause"
            );
            pause_before_start(&pool, index, pause).await;
        }
        match start_until_closed(&pool, index, setup).await {
            Some(next) => {
                pool.spawner_restarts.fetch_add(1, Ordering::Relaxed);
                spawned = next;
            }
            None => return,
        }
    }
}

/// Starts a spawner, with as many attempts as it takes. Returns `None` if the pool closes first.
async fn start_until_closed(
    pool: &Arc<Pool>,
    index: usize,
    mut setup: SpawnerSetup,
) -> Option<SpawnerProcess> {
    let mut wait = RESTART_BACKOFF.0;
    {
        let mut state = pool.lock();
        if state.closing {
            return None;
        }
        state.spawners[index].is_starting = true;
    }
    loop {
        if let Some(root) = &pool.worker_cgroup {
            setup.cgroup_dir = root.spawner_dir(index).ok();
        }
        match spawn(pool.options.spawner_program.as_deref(), setup.clone()).await {
            Ok(spawned) => return Some(spawned),
            Err(e) => {
                tracing::error!(spawner = index, error = %e, "cannot start a spawner process; retrying");
                pause_before_start(pool, index, wait).await;
                wait = (wait * 2).min(RESTART_BACKOFF.1);
                if pool.lock().closing {
                    return None;
                }
            }
        }
    }
}

/// Waits before a spawner is started. Meanwhile, jobs that need this one wait for a bounded time.
async fn pause_before_start(pool: &Arc<Pool>, index: usize, pause: Duration) {
    {
        let mut state = pool.lock();
        state.spawners[index].is_starting = false;
        pool.dispatch(&mut state);
    }
    tokio::time::sleep(pause).await;
}

/// Waits until a spawner whose socket is closed has killed its jobs and exited, and kills one that
/// does not.
async fn wait_or_kill(child: &mut Child) -> io::Result<ExitStatus> {
    match tokio::time::timeout(EXIT_MAX, child.wait()).await {
        Ok(status) => status,
        Err(_) => kill_and_wait(child).await,
    }
}

async fn kill_and_wait(child: &mut Child) -> io::Result<ExitStatus> {
    let _ = child.start_kill();
    child.wait().await
}

/// Kills the processes that a dead spawner left behind.
async fn reap_spawner(pool: &Pool, folder: Option<PathBuf>) {
    let preexisting_children = pool.preexisting_children.clone();
    let reaped = tokio::task::spawn_blocking(move || {
        if let Some(folder) = folder.filter(|folder| folder.exists())
            && let Err(e) = cgroup::kill_and_remove(&folder)
        {
            tracing::error!(folder = %folder.display(), error = %e, "cannot empty a control group");
        }
        // This is needed with a control group too: a process of a root job may have left it.
        reap_orphans::kill_all(&preexisting_children);
    });
    let _ = reaped.await;
}

/// Completes the jobs of a dead spawner, whose process trees are gone as well.
fn fail_jobs_of(pool: &Arc<Pool>, index: usize) {
    let ids = pool.requeue_unsent(index);
    let alone = ids.len() == 1;
    let mut buffer = vec![0; READ_BYTES];
    for id in ids {
        finish(
            pool,
            index,
            id,
            ExitReport::without_usage(Termination::SpawnerDied { alone }),
            &mut buffer,
        );
    }
}

/// Exchanges messages with a spawner until it dies or the pool closes.
async fn serve(pool: &Arc<Pool>, index: usize, socket: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let wake: Arc<Notify> = Arc::clone(&pool.lock().spawners[index].wake);
    let mut receiver = Receiver::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut full = false;
    let mut has_jobs = false;
    let mut checks = tokio::time::interval(CHECK_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ready = socket.readable() => {
                let mut ready = ready?;
                match receiver.receive(socket.get_ref().as_fd()) {
                    Err(Errno::EAGAIN) => ready.clear_ready(),
                    Err(errno) => return Err(errno.into()),
                    Ok(message) if message.bytes == 0 => return Ok(()),
                    Ok(message) => {
                        handle_replies(pool, index, &receiver.bytes[..message.bytes], &mut buffer)
                            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
                    }
                }
            }
            _ = checks.tick(), if has_jobs => check(pool, index)?,
            paths = pool.scratch_dirs.next_removals() => {
                let mut state = pool.lock();
                let removals = paths.into_iter().map(|path| Outgoing::Remove { path });
                state.spawners[index].outbox.extend(removals);
                state.spawners[index].wake.notify_one();
            }
            () = wake.notified(), if !full => {
                full = !flush(pool, index, socket)?;
            }
            ready = socket.writable(), if full => {
                let mut ready = ready?;
                full = !flush(pool, index, socket)?;
                if full {
                    ready.clear_ready();
                }
            }
        }
        let state = pool.lock();
        has_jobs = !state.spawners[index].jobs.is_empty();
        if state.closing && !has_jobs {
            drop(state);
            pool.lock().spawners[index]
                .outbox
                .push_back(Outgoing::Close);
            let _ = flush(pool, index, socket);
            return Ok(());
        }
    }
}

/// Checks whether a spawner still acts, and continues it if it is stopped.
///
/// # Errors
///
/// Returns an I/O error that says why the spawner must be killed.
fn check(pool: &Pool, index: usize) -> io::Result<()> {
    let mut state = pool.lock();
    let spawner = &mut state.spawners[index];
    let is_overdue = spawner.is_overdue(Instant::now());
    match spawner.watch.check(is_overdue) {
        CheckResult::Healthy => {}
        CheckResult::Ping => {
            spawner.outbox.push_back(Outgoing::Ping);
            spawner.wake.notify_one();
        }
        CheckResult::Stopped => {
            let pid = spawner.watch.pid;
            tracing::warn!(
                spawner = index,
                pid,
                "spawner process is stopped; continuing it"
            );
            spawner.watch.send_continue();
        }
        CheckResult::Dead(reason) => return Err(io::Error::other(reason)),
    }
    Ok(())
}

/// Sends the outbox, many frames in a message. Returns false if the socket is full.
fn flush(pool: &Pool, index: usize, socket: &AsyncFd<OwnedFd>) -> io::Result<bool> {
    loop {
        let mut w = Writer::default();
        let mut sent: Vec<Outgoing> = Vec::new();
        let mut fds: Vec<RawFd> = Vec::new();
        let mut state = pool.lock();
        let outbox = &mut state.spawners[index].outbox;
        while let Some(next) = outbox.front() {
            if let Outgoing::Start {
                job,
                fds: its,
                in_memfd,
                starts_below,
            } = next
            {
                let bytes = if *in_memfd { 0 } else { job.body.len() };
                let fits = w.bytes.len() + bytes + 64 <= MESSAGE_BYTES_MAX
                    && fds.len() + its.len() <= MESSAGE_FDS_MAX;
                if !fits {
                    break;
                }
                let (kind, body): (u8, &[u8]) = if *in_memfd {
                    (to_spawner::START_IN_MEMFD, &[])
                } else {
                    (to_spawner::START, &job.body)
                };
                // In the same frame as the start: this process may be stopped after it, and
                // the deadline has to hold then.
                let deadline = job.lock().deadline;
                w.u8(kind).u32(job.id).u32(its.len() as u32);
                w.u8(u8::from(job.takes_slot())).u32(*starts_below as u32);
                w.u64(deadline.map_or(UNLIMITED, BootInstant::to_nanos))
                    .block(body);
                fds.extend(its.iter().map(AsRawFd::as_raw_fd));
            } else if w.bytes.len() + OTHER_FRAME_BYTES_MAX > MESSAGE_BYTES_MAX {
                break;
            }
            write_request(&mut w, next);
            sent.extend(outbox.pop_front());
        }
        drop(state);
        if sent.is_empty() {
            return Ok(true);
        }
        match send(socket.get_ref().as_fd(), &w.bytes, &fds) {
            Ok(()) => {}
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::ETOOMANYREFS) => {
                let mut state = pool.lock();
                let outbox = &mut state.spawners[index].outbox;
                for outgoing in sent.into_iter().rev() {
                    outbox.push_front(outgoing);
                }
                return Ok(false);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Writes the frame of a message that starts no job.
fn write_request(w: &mut Writer, outgoing: &Outgoing) {
    match outgoing {
        Outgoing::Start { .. } => {}
        Outgoing::Stop { id, grace } => {
            let grace = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
            w.u8(to_spawner::STOP).u32(*id).u32(grace);
        }
        Outgoing::Withdraw { id } => {
            w.u8(to_spawner::WITHDRAW).u32(*id);
        }
        Outgoing::Kill { id } => {
            w.u8(to_spawner::KILL).u32(*id);
        }
        Outgoing::Deadline { id, at } => {
            w.u8(to_spawner::DEADLINE).u32(*id).u64(at.to_nanos());
        }
        Outgoing::Arm {
            id,
            timeout,
            kill_grace,
            deadline,
        } => {
            let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(UNLIMITED - 1);
            w.u8(to_spawner::ARM).u32(*id);
            w.u64(timeout.map_or(UNLIMITED, ms)).u64(ms(*kill_grace));
            w.u64(deadline.map_or(UNLIMITED, BootInstant::to_nanos));
        }
        Outgoing::Disarm { id } => {
            w.u8(to_spawner::DISARM).u32(*id);
        }
        Outgoing::Ping => {
            w.u8(to_spawner::PING).u32(0);
        }
        Outgoing::Remove { path } => {
            let path = path.to_str().unwrap_or_default();
            w.u8(to_spawner::REMOVE).u32(0).block(path.as_bytes());
        }
        Outgoing::Close => {
            w.u8(to_spawner::CLOSE).u32(0);
        }
    }
}

/// Handles the frames of one message from a spawner.
fn handle_replies(
    pool: &Arc<Pool>,
    index: usize,
    bytes: &[u8],
    buffer: &mut [u8],
) -> Result<(), Malformed> {
    let mut r = Reader::new(bytes);
    while !r.is_empty() {
        let kind = r.u8()?;
        let id = r.u32()?;
        match kind {
            to_worker::STARTED => {
                let pid = r.i32()?;
                started(pool, index, id, pid, r.u64()?);
            }
            to_worker::ENDED => {
                let status = r.i32()?;
                let flags = r.u8()?;
                let started_ns = r.u64()?;
                let (wall_us, user_us, system_us) = (r.u64()?, r.u64()?, r.u64()?);
                let exit = ExitReport {
                    end: if status < 0 {
                        Termination::Signalled(-status)
                    } else {
                        Termination::Exited(status)
                    },
                    flags,
                    usage: Usage {
                        max_rss_bytes: r.u64()?,
                        cpu_user_ms: user_us.div_ceil(1000),
                        cpu_system_ms: system_us.div_ceil(1000),
                        wall_ms: wall_us.div_ceil(1000),
                    },
                    started_ns,
                };
                finish(pool, index, id, exit, buffer);
            }
            to_worker::NOT_STARTED => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let step = text(r.block()?);
                let errno = r.i32()?;
                let fatal = r.u8()? != 0;
                let flags = r.u8()?;
                let failure = SpawnFailure {
                    step,
                    errno: (errno != 0).then(|| format!("{:?}", Errno::from_raw(errno))),
                    message: text(r.block()?),
                    fatal,
                    resource_shortage: flags & flag::RESOURCE_SHORTAGE != 0,
                };
                let mut exit = ExitReport::without_usage(Termination::NotStarted(failure));
                exit.flags = flags;
                finish(pool, index, id, exit, buffer);
            }
            to_worker::WAITING => {
                let error = String::from_utf8_lossy(r.block()?);
                if let Some(job) = pool.lock().spawners[index].jobs.get(&id) {
                    tracing::warn!(job_id = %job.job_id, %error, "cannot start a job yet, retrying");
                }
            }
            to_worker::SWEPT => swept(pool, index, id, r.u8()?),
            to_worker::RESEND => pool.resend(index, id),
            to_worker::NOT_REMOVED => {
                let path = String::from_utf8_lossy(r.block()?).into_owned();
                warn_not_removed(Path::new(&path), &String::from_utf8_lossy(r.block()?));
            }
            to_worker::PONG => pool.lock().spawners[index].watch.answered(),
            _ => return Err(Malformed),
        }
    }
    Ok(())
}

/// Nothing is left of the last job of a warm process.
fn swept(pool: &Pool, index: usize, id: u32, flags: u8) {
    if let Some(job) = pool.lock().spawners[index].jobs.get(&id) {
        job.lock().swept = Some(flags);
        job.changed.notify_waiters();
    }
}

/// A job has been running for a while: a task reads its pipes from now on.
fn started(pool: &Pool, index: usize, id: u32, pid: i32, started_ns: u64) {
    let mut state = pool.lock();
    let spawner = &mut state.spawners[index];
    let Some(job) = spawner.jobs.get(&id).cloned() else {
        return;
    };
    spawner.unreported_starts = spawner.unreported_starts.saturating_sub(1);
    drop(state);
    let mut job_state = job.lock();
    let (sender, receiver) = oneshot::channel();
    match std::mem::replace(&mut job_state.phase, Phase::Streaming(sender)) {
        Phase::Dispatched(pipes) => {
            tokio::spawn(read_pipes(Arc::clone(&job), pipes, receiver));
        }
        other => job_state.phase = other,
    }
    drop(job_state);
    tracing::debug!(job_id = %job.job_id, pid, "job started");
    job.mark_started(started_ns);
}

/// The process tree of a job is gone: finishes the job, or has its reader do so.
fn finish(pool: &Arc<Pool>, index: usize, id: u32, exit: ExitReport, buffer: &mut [u8]) {
    let Some(job) = pool.release(index, id) else {
        return;
    };
    let phase = std::mem::replace(&mut job.lock().phase, Phase::Pending);
    match phase {
        Phase::Streaming(sender) => drop(sender.send(exit)),
        Phase::Dispatched(pipes) => job.drain_and_finish(Some(pipes), exit, buffer),
        Phase::Pending | Phase::Done(_) | Phase::Collected => {
            job.drain_and_finish(None, exit, buffer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spawners_that_die_again_and_again_soon_after_their_start_are_started_with_pauses() {
        let mut lives = ShortLives::default();
        let short = Duration::from_millis(10);
        for _ in 0..SHORT_LIVES_FREE {
            assert_eq!(lives.count(short), None);
        }
        let pauses: Vec<Option<Duration>> = (0..3).map(|_| lives.count(short)).collect();
        let first = RESTART_BACKOFF.0;
        assert_eq!(pauses, [Some(first), Some(first * 2), Some(first * 4)]);
        for _ in 0..100 {
            assert!(lives.count(short) <= Some(RESTART_BACKOFF.1));
        }
        assert_eq!(lives.count(short), Some(RESTART_BACKOFF.1));
        // one that has lived long enough begins the count again
        assert_eq!(lives.count(SHORT_LIFE), None);
        assert_eq!(lives.count(short), None);
    }
}
