//! Runs jobs on Linux: this crate is the only one that starts a job's process,
//! contains its process tree, captures its output and kills it.
//!
//! A few small spawner processes (`naq __spawner`) start the jobs. Each shares a
//! socket with this process, and nothing here blocks the thread it runs on. When
//! this process dies, for whatever reason, its spawners kill every process tree
//! that they started.
//!
//! The crate has no notion of queues or NATS. It never reads the environment,
//! never interprets a control message and never decides on a retry.
//!
//! `docs/glossary.md` is the glossary: the meaning of each term, and the type that stands for it.

#[cfg(not(target_os = "linux"))]
compile_error!("the runner is written for Linux: elsewhere, run naq in a container");

mod boot_instant;
mod capture;
mod cgroup;
mod children;
mod collect;
mod command;
mod completion;
mod control;
mod env_policy;
mod errno;
mod error;
mod fd_limit;
mod file_lookups;
mod file_rights;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzz;
mod job;
mod job_handle;
mod landlock;
mod live_output;
mod mask;
mod namespace;
mod options;
mod pipes;
mod pool;
mod prepare;
mod read_pipes;
mod reap_orphans;
mod removal;
mod scratch;
mod send_signal;
mod slot;
mod slots;
mod spawn_limit;
mod spawner;
mod spawner_process;
mod spawner_setup;
mod spawner_watch;
mod staged_folder;
mod start_request;
mod sys;
mod user;
mod warm;
mod wire;
mod work_folder;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

pub use boot_instant::BootInstant;
pub use command::{
    ArgumentPiece, Command, JobFile, Program, ResourceLimits, SourceArgument, SourceProgram, Stdin,
};
pub use completion::{
    Captured, Completion, SpawnFailure, StopCause, StopReason, Termination, Usage,
};
pub use control::ControlMessage;
pub use env_policy::{is_env_denied, matches_env_pattern};
pub use error::RunnerError;
pub use job_handle::JobHandle;
pub use landlock::{FileAccess, LandlockError};
pub use live_output::{LiveChunk, LiveSink, StreamKind};
pub use mask::{MASK, Mask};
pub use options::{
    CONTROL_LINE_BYTES_MAX, Containment, DEFAULT_OUTPUT_BYTES, MemoryLimit, RunnerConfig,
    UnknownContainment,
};
pub use scratch::ScratchDir;
pub use slot::Slot;
pub use spawn_limit::{SPAWN_LIMIT_ARGUMENT, monotonic, spawn_limit_main};
pub use spawner::spawner_main;
pub use staged_folder::StagedFolder;
pub use sys::async_fd::register_readable;
pub use sys::control_channel::open_control_channel;
pub use user::{JobUser, UserError};
pub use warm::{WarmBoot, WarmCall, WarmError, WarmMode, WarmProcess};
pub use work_folder::{EntryKind, OpenedFile, Unfinished, WorkFolder};

use cgroup::WorkerCgroup;
use control::ControlQueue;
use file_lookups::FileLookups;
use job::{ExitReport, Job, JobParts, JobState, Phase};
use pool::Pool;
use scratch::ScratchDirs;
use spawner_process::SpawnerProcess;
use spawner_setup::SpawnerSetup;
use sys::namespace_init::TMP;

/// How long [`Runner::shutdown`] waits until the killed jobs are gone.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// Starts jobs. A clone is cheap and shares the slots. A runner belongs to the
/// tokio runtime on which it was started. Dropping the last clone kills the jobs
/// that still run.
#[derive(Clone, Debug)]
pub struct Runner {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: Arc<Pool>,
    supervisors: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    file_lookups: FileLookups,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.pool.close();
    }
}

impl Runner {
    /// Raises the descriptor limit, selects the containment, removes what dead
    /// workers left behind, and starts the spawners.
    ///
    /// Start children that have a session of their own before this. The runner takes a
    /// later one for the orphan of a job and kills it when a spawner ends.
    ///
    /// # Errors
    ///
    /// Returns [`RunnerError`] if the configuration cannot be met on this machine.
    /// If [`RunnerConfig::containment`] names one, the runner never falls back to
    /// another.
    pub async fn start(mut options: RunnerConfig) -> Result<Runner, RunnerError> {
        check_options(&options)?;
        let user = options.run_as.as_ref().map(JobUser::environment);
        options.base_env.extend(user.into_iter().flatten());
        let open_files = fd_limit::raise_fd_limit(options.concurrency)?;
        let preexisting_children = spawner::descendants::children(std::process::id() as i32);
        let scratch_dirs = scratch_dirs(&options);
        if options.private_tmp {
            // Before the spawners: a folder that is made later does not appear in a namespace.
            prepare_private_tmp(&options, &scratch_dirs)?;
        }
        let (containment, root, first) = select_containment(&options, scratch_dirs.root()).await?;
        if options.private_tmp && !containment.has_namespace() {
            let why = format!("containment `{containment}` has no namespace");
            return Err(RunnerError::PrivateTmp(why));
        }
        let spawners = match containment {
            Containment::Subreaper => options.concurrency,
            _ => spawner_count(&options),
        };
        let mut spawned = vec![first];
        for index in 1..spawners {
            let next = start_spawner(
                &options,
                containment,
                root.as_ref(),
                scratch_dirs.root(),
                index,
            );
            let next = next.await;
            spawned.push(next.map_err(RunnerError::Spawner)?);
        }
        let pool = Arc::new(Pool::new(
            options,
            containment,
            root,
            open_files,
            scratch_dirs,
            preexisting_children,
            spawners,
        ));
        let mut supervisors: Vec<_> = spawned
            .into_iter()
            .enumerate()
            .map(|(index, first)| {
                tokio::spawn(spawner_process::supervise(Arc::clone(&pool), index, first))
            })
            .collect();
        supervisors.extend(pool.reserved.map(|index| {
            tokio::spawn(spawner_process::supervise_when_needed(
                Arc::clone(&pool),
                index,
            ))
        }));
        Ok(Runner {
            inner: Arc::new(Inner {
                pool,
                supervisors: Mutex::new(supervisors),
                file_lookups: FileLookups::new(),
            }),
        })
    }

    /// Whether the folders of [`RunnerConfig::hidden_dirs`] are empty for jobs. A root job can uncover
    /// them.
    pub fn hides_dirs(&self) -> bool {
        self.containment().has_namespace() && !self.inner.pool.options.hidden_dirs.is_empty()
    }

    /// Whether jobs may use some files only ([`RunnerConfig::files`]).
    pub fn restricts_files(&self) -> bool {
        self.inner.pool.options.files.is_some()
    }

    /// How this runner contains the process trees of its jobs.
    pub fn containment(&self) -> Containment {
        self.inner.pool.containment
    }

    /// How this runner keeps the memory limits of its jobs.
    pub fn memory_limit(&self) -> MemoryLimit {
        self.inner.pool.memory_limit
    }

    /// Which of these limits this runner cannot enforce, each as a sentence.
    fn unheld_limits(&self, limits: &ResourceLimits) -> Vec<&'static str> {
        let pool = &self.inner.pool;
        let mut unheld = Vec::new();
        if limits.cpus.is_some() && !pool.has_cpu_controller {
            unheld.push(CPUS_UNHELD);
        }
        if limits.memory_bytes.is_some() && pool.memory_limit == MemoryLimit::Watched {
            unheld.push(MEMORY_UNHELD);
        }
        unheld
    }

    /// A folder below the `/tmp` of the machine that jobs see although they have a `/tmp` of their
    /// own. `None` if they have none.
    pub fn shared_folder(&self) -> Option<&Path> {
        let pool = &self.inner.pool;
        let is_private = pool.options.private_tmp;
        is_private.then(|| pool.scratch_dirs.root())
    }

    /// Whether a job can end this process and its spawners on purpose, and so outlive them, because
    /// it runs as the same user and sees them. On Linux 6.12 and newer it cannot signal them, but it
    /// can still lower their resource limits.
    pub fn can_be_ended_by_jobs(&self) -> bool {
        let options = &self.inner.pool.options;
        let own = nix::unistd::geteuid().as_raw();
        let is_same = options.run_as.as_ref().is_none_or(|user| user.uid == own);
        is_same && !self.containment().has_namespace()
    }

    /// Whether jobs have rights to gain that this runner withholds: it sets `no_new_privs`, and they
    /// are not root.
    pub fn withholds_rights(&self) -> bool {
        let options = &self.inner.pool.options;
        let user = options.run_as.as_ref().map(|user| user.uid);
        !options.allow_setuid && user.unwrap_or_else(|| nix::unistd::geteuid().as_raw()) != 0
    }

    /// Whether a program of a job would gain rights by its file if the runner did not withhold them.
    /// `cwd` is the job's working directory. `None` means that of the runner.
    ///
    /// The program is looked up where the job looked it up, which may be a file system that no longer
    /// answers. So a separate thread does it, and after half a second the result is `false`.
    pub async fn withholds_rights_of(&self, program: &str, cwd: Option<&Path>) -> bool {
        if !self.withholds_rights() {
            return false;
        }
        let options = &self.inner.pool.options;
        let cwd = match cwd {
            Some(cwd) => options.work_dir.join(cwd),
            None => options.work_dir.clone(),
        };
        let candidates = prepare::candidates(program, &options.path);
        self.inner
            .file_lookups
            .run(move || {
                let mut files = candidates.iter().map(|candidate| cwd.join(candidate));
                let file = files.find(|file| file.is_file());
                file.is_some_and(|file| file_rights::grants_rights(&file))
            })
            .await
            .unwrap_or(false)
    }

    /// The number of spawner processes that died and were started again, which grows while the runner lives.
    #[must_use]
    pub fn spawner_restarts(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.inner.pool.spawner_restarts)
    }

    /// Creates an empty folder for files that a job finds when it starts: see [`Command::folder`]. Blocks for
    /// the time of a few system calls.
    ///
    /// # Errors
    ///
    /// Returns an I/O error if it cannot be created.
    pub fn stage_folder(&self) -> std::io::Result<StagedFolder> {
        StagedFolder::create(&self.inner.pool.scratch_dirs)
    }

    /// Starts a job, or queues it until a slot is free. Never blocks and never
    /// fails: if the command is invalid, [`JobHandle::wait`] returns
    /// [`Termination::NotStarted`].
    pub fn start_job(&self, command: Command) -> JobHandle {
        self.start_with(command, JobParts::default(), None)
    }

    /// A slot for a job that is started later. `None` if all are taken.
    #[must_use]
    pub fn try_slot(&self) -> Option<Slot> {
        Slot::try_take(&self.inner.pool)
    }

    /// Waits until there is a slot for a job that is started later. Those who wait get theirs in the order in which
    /// they came. Cancel safe.
    pub async fn slot(&self) -> Slot {
        Slot::take(&self.inner.pool).await
    }

    /// Number of slots in which jobs run, or that are held for one.
    #[must_use]
    pub fn slots_taken(&self) -> usize {
        self.inner.pool.lock().slots_taken()
    }

    /// Starts a program that takes no slot of a job, such as one that prints its version, or one that prepares a job
    /// which has its slot already.
    pub fn start_without_slot(&self, command: Command) -> JobHandle {
        let parts = JobParts {
            is_extra: true,
            ..JobParts::default()
        };
        self.start_with(command, parts, None)
    }

    /// Starts a job as [`Runner::start_job`] does, at once in this slot, and in this scratch folder, if the command has
    /// one. `None` means any.
    pub fn start_job_in(
        &self,
        command: Command,
        slot: Option<&Slot>,
        folder: Option<ScratchDir>,
    ) -> JobHandle {
        let parts = JobParts {
            slot: slot.map(Slot::id),
            ..JobParts::default()
        };
        self.start_with(command, parts, folder)
    }

    /// Starts a job with further descriptors, and in this scratch folder if one is given.
    fn start_with(
        &self,
        command: Command,
        parts: JobParts,
        folder: Option<ScratchDir>,
    ) -> JobHandle {
        let pool = &self.inner.pool;
        let needs_folder = command.scratch
            || !command.files.is_empty()
            || command.folder.is_some()
            || !matches!(command.program, Program::Path { .. });
        let names = written_files(&command);
        let take = || folder.unwrap_or_else(|| pool.scratch_dirs.take(names));
        let scratch = needs_folder.then(take);
        let path = scratch.as_ref().map(ScratchDir::path);
        let has_socket = parts.socket.is_some();
        let prepared = prepare::prepare(&pool.options, &command, pool.open_files, path, has_socket);
        let unheld_limits = self.unheld_limits(&command.limits);
        let refusal = match unheld_limits.first() {
            Some(unheld) if pool.options.strict_limits => Some(refuse_limit(unheld)),
            _ => None,
        };
        let (body, refused) = match (prepared, refusal) {
            (Ok(body), None) => (body, None),
            (Err(failure), _) => (Vec::new(), Some(ExitReport::not_started(*failure))),
            (Ok(_), Some(failure)) => (Vec::new(), Some(ExitReport::not_started(failure))),
        };
        let mut job = self.new_job(command, body, scratch);
        job.parts = parts;
        let job = Arc::new(job);
        match refused {
            Some(exit) => job.drain_and_finish(None, exit, &mut []),
            None => pool.submit(Arc::clone(&job)),
        }
        JobHandle {
            pool: Arc::clone(pool),
            job,
            warm: None,
        }
    }

    /// A job that is not started yet.
    fn new_job(&self, command: Command, body: Vec<u8>, scratch: Option<ScratchDir>) -> Job {
        let pool = &self.inner.pool;
        let secrets = command.secrets.iter().map(|(_, value)| value.as_str());
        Job {
            id: pool.next_id(),
            mask: Mask::new(secrets),
            unheld_limits: self.unheld_limits(&command.limits),
            job_id: command.job_id,
            body,
            stdin: command.stdin,
            folder: command.folder.map(|(_, folder)| folder),
            submitted: Instant::now(),
            timeout: command.timeout,
            kill_grace: command.kill_grace,
            output_bytes: command
                .limits
                .output_bytes
                .unwrap_or(pool.options.default_output_bytes),
            control_line_bytes_max: pool.options.control_line_bytes_max,
            alone: command.alone,
            waits: command.waits,
            keep_scratch: command.scratch,
            parts: JobParts::default(),
            state: Mutex::new(JobState {
                phase: Phase::Pending,
                scratch,
                stop: None,
                deadline: command.deadline,
                act_by: None,
                first_resend: None,
                live: command.live,
                started: None,
                is_armed: false,
                swept: None,
                control: ControlQueue::default(),
            }),
            changed: Notify::new(),
        }
    }

    /// A scratch folder, to place files into it before a job starts in it.
    ///
    /// # Errors
    /// Returns an I/O error if it cannot be created.
    pub fn create_scratch_dir(&self) -> io::Result<ScratchDir> {
        let mut scratch = self.inner.pool.scratch_dirs.take(Vec::new());
        scratch.create()?;
        Ok(scratch)
    }

    /// A folder of this process's own that is removed when the runner ends. Jobs of another user cannot read it.
    ///
    /// # Errors
    /// Returns an I/O error if it cannot be created.
    pub fn create_cache_dir(&self, name: &str) -> io::Result<PathBuf> {
        self.inner.pool.scratch_dirs.create_cache(name)
    }

    /// Whether the runner takes no more jobs.
    pub fn is_shut_down(&self) -> bool {
        self.inner.pool.lock().closing
    }

    /// Kills the running jobs and ends the spawners. Returns when all of them are
    /// gone, or after 10 seconds.
    pub async fn shutdown(self) {
        let pool = &self.inner.pool;
        pool.close();
        let supervisors: Vec<_> = match self.inner.supervisors.lock() {
            Ok(mut supervisors) => supervisors.drain(..).collect(),
            Err(_) => Vec::new(),
        };
        let gone = async {
            for supervisor in supervisors {
                let _ = supervisor.await;
            }
        };
        if tokio::time::timeout(SHUTDOWN_MAX, gone).await.is_err() {
            tracing::error!("spawner processes did not end in time");
        }
        pool.scratch_dirs.remove();
    }
}

/// The names of the files that naq writes into the scratch folder of a job.
fn written_files(command: &Command) -> Vec<String> {
    let source = match &command.program {
        Program::Path { .. } => None,
        Program::Script { .. } => Some(scratch::SCRIPT.to_owned()),
        Program::Source(source) => Some(source.file_name.clone()),
    };
    let files = command.files.iter().map(|file| file.name.to_owned());
    source.into_iter().chain(files).collect()
}

/// Why a job with a limit of processors may use all of them.
const CPUS_UNHELD: &str = "limits.cpus is not enforced: this worker has no control groups with a `cpu` controller, so the job may use all processors";

/// Why a job with a memory limit may use more.
const MEMORY_UNHELD: &str = "limits.memory is watched and not enforced: this worker has no control groups with a `memory` controller, so the job may use more between two samples, and files in a tmpfs (such as /dev/shm without a namespace) are not counted";

/// The failure of a job whose limit cannot be enforced, although the configuration requires that.
fn refuse_limit(unheld: &str) -> SpawnFailure {
    let message = format!("{unheld}; with strict limits, such a job is refused");
    SpawnFailure::new("limits", message, true)
}

/// Keeps other processes of the same user, such as jobs, from reading this
/// process's memory and environment through `/proc`.
///
/// # Errors
///
/// Returns the error of `prctl`.
pub fn make_undumpable() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false).map_err(io::Error::from)
}

/// Refuses a configuration that no machine can meet, or that this user cannot meet.
fn check_options(options: &RunnerConfig) -> Result<(), RunnerError> {
    if options.concurrency == 0 {
        return Err(RunnerError::NoSlots);
    }
    if let Some(user) = &options.run_as
        && !nix::unistd::geteuid().is_root()
    {
        let user = user.name.clone();
        return Err(RunnerError::NotRoot { user });
    }
    if let Some(files) = &options.files {
        if options.allow_setuid {
            return Err(RunnerError::SetuidWithLandlock);
        }
        files.ruleset(None, None)?;
    }
    Ok(())
}

/// Selects the containment, best one first, and starts the first spawner with
/// it. Only a started spawner proves that a containment works here.
async fn select_containment(
    options: &RunnerConfig,
    scratch_root: &Path,
) -> Result<(Containment, Option<WorkerCgroup>, SpawnerProcess), RunnerError> {
    let mut containment = options
        .containment
        .unwrap_or(Containment::NamespaceAndCgroup);
    loop {
        let source = match try_containment(options, containment, scratch_root).await {
            Ok((root, first)) => return Ok((containment, root, first)),
            Err(source) => source,
        };
        match (options.containment, containment.fallback()) {
            (None, Some(next)) => {
                tracing::info!(%containment, reason = %source, "containment unavailable; trying the next one");
                containment = next;
            }
            _ => {
                return Err(RunnerError::Containment {
                    containment,
                    source,
                });
            }
        }
    }
}

async fn try_containment(
    options: &RunnerConfig,
    containment: Containment,
    scratch_root: &Path,
) -> io::Result<(Option<WorkerCgroup>, SpawnerProcess)> {
    let is_root = nix::unistd::geteuid().is_root();
    if options.allow_setuid && !is_root && containment != Containment::Cgroup {
        // A user namespace gives no rights; elsewhere the spawner may not signal what has gained some.
        let why = "set-user-ID programs are allowed, and only a control group lets a worker without root kill them";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    // The orphans of a dead spawner become children of this process, which then kills
    // them (`reap_orphans`).
    nix::sys::prctl::set_child_subreaper(true)?;
    let root = match containment.has_cgroup() {
        true => Some(WorkerCgroup::create()?),
        false => None,
    };
    let first = start_spawner(options, containment, root.as_ref(), scratch_root, 0).await?;
    Ok((root, first))
}

async fn start_spawner(
    options: &RunnerConfig,
    containment: Containment,
    root: Option<&WorkerCgroup>,
    scratch_root: &Path,
    index: usize,
) -> io::Result<SpawnerProcess> {
    let mut setup = SpawnerSetup::of(options, containment, scratch_root);
    setup.cgroup_dir = root.map(|root| root.spawner_dir(index)).transpose()?;
    spawner_process::spawn(options.spawner_program.as_deref(), setup).await
}

/// The scratch folders of a runner, below a folder with a random name: other users may share the
/// folder that it is in.
fn scratch_dirs(options: &RunnerConfig) -> Arc<ScratchDirs> {
    let run: u64 = rand::random();
    let owner = options.run_as.as_ref().map(|user| (user.uid, user.gid));
    ScratchDirs::new(options.scratch_dir.join(format!("naq-{run:016x}")), owner)
}

/// Creates the folder that jobs see below their own `/tmp`.
fn prepare_private_tmp(
    options: &RunnerConfig,
    scratch_dirs: &ScratchDirs,
) -> Result<(), RunnerError> {
    if options.work_dir == Path::new(TMP) {
        let why = "their working directory is /tmp; choose another one";
        return Err(RunnerError::PrivateTmp(why.to_owned()));
    }
    scratch_dirs.create_root().map_err(|error| {
        let root = scratch_dirs.root().display();
        RunnerError::PrivateTmp(format!("{root}: {error}"))
    })
}

/// The configured number of spawners. The default is the number of cores + 2,
/// since a spawner sleeps while its child executes.
fn spawner_count(options: &RunnerConfig) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    options
        .spawners
        .unwrap_or(cores + 2)
        .clamp(1, options.concurrency)
}
