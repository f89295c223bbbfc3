//! Turning a request into a process.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libc::c_int;
use nix::errno::Errno;
use nix::sys::prctl;

use super::super::cgroup::{Allowance, Group, current_group};
use super::super::landlock::FileAccess;
use super::super::namespace::{Namespace, Namespaces};
use super::super::request::Start;
use super::super::scratch::SCRIPT;
use super::super::setup::{Setup, SetupUser};
use super::super::sys::child::{ChildPlan, ChildStep, ChildUser, RLIMITS_MAX};
use super::super::sys::clone::Cloner;
use super::diagnose::{Diagnosis, diagnose};
use super::errno_of;
use super::job::{Job, REPORT_AFTER, Tree, Watched};

/// Why a job was not started.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The system is short of something: try again in a while.
    Busy,
    /// As told.
    Failed(Diagnosis),
}

/// Why this process cannot be a spawner as it was told to.
#[derive(Debug)]
pub(super) struct Unfit {
    pub(super) errno: Errno,
    /// In words, or empty where the errno says it all.
    pub(super) why: String,
}

impl From<Errno> for Unfit {
    fn from(errno: Errno) -> Unfit {
        Unfit {
            errno,
            why: String::new(),
        }
    }
}

/// Starts processes, and keeps the groups and namespaces that are free.
#[derive(Debug)]
pub(super) struct Launcher {
    cloner: Cloner,
    pid: i32,
    folder: Option<PathBuf>,
    free: Vec<Group>,
    groups: usize,
    namespaces: Option<Namespaces>,
    free_namespaces: Vec<Namespace>,
    user: Option<SetupUser>,
    files: Option<FileAccess>,
    /// Children can be started straight in a group.
    into: bool,
}

impl Launcher {
    /// Finds out what works here, and closes this process to other processes of
    /// its user.
    pub(super) fn new(setup: Setup) -> Result<Launcher, Unfit> {
        let namespaces = setup.namespace.then(Namespaces::new).transpose();
        let namespaces = namespaces.map_err(|(errno, why)| Unfit {
            errno,
            why: why.to_owned(),
        })?;
        // Requests hold secrets; a job under the same user must not read them
        // here.
        prctl::set_dumpable(false)?;
        let mut launcher = Launcher {
            cloner: Cloner::new()?,
            pid: nix::unistd::getpid().as_raw(),
            folder: setup.folder,
            free: Vec::new(),
            groups: 0,
            namespaces,
            free_namespaces: Vec::new(),
            user: setup.user,
            files: setup.files,
            into: true,
        };
        if let Some(namespaces) = &launcher.namespaces {
            let first = namespaces.create().map_err(|errno| Unfit {
                errno,
                why: "a PID namespace with a /proc of its own".to_owned(),
            })?;
            launcher.free_namespaces.push(first);
        }
        if let Some(group) = launcher.take_group()? {
            if launcher.cloner.probe_into(group.dir()).is_err() {
                launcher.into = false;
                let own = current_group().map_err(errno_of)?.join("cgroup.procs");
                // Joining by hand needs the same permission.
                let mut procs = group.open_procs().map_err(errno_of)?;
                let this = launcher.pid.to_string();
                procs.write_all(this.as_bytes()).map_err(errno_of)?;
                fs::write(own, this).map_err(errno_of)?;
            }
            launcher.free.push(group);
        }
        Ok(launcher)
    }

    /// Whether the trees of jobs are told apart, so that several can run here
    /// at once.
    pub(super) fn runs_several(&self) -> bool {
        self.folder.is_some() || self.has_namespaces()
    }

    /// Whether jobs have namespaces.
    pub(super) fn has_namespaces(&self) -> bool {
        self.namespaces.is_some()
    }

    /// The first process of a namespace that no job has was reaped.
    pub(super) fn init_ended(&mut self, pid: i32) {
        if let Some(at) = self.free_namespaces.iter().position(|n| n.init() == pid) {
            self.free_namespaces.swap_remove(at).ended();
        }
    }

    /// Whether a process of a job is this one's child although the job's first
    /// process is another.
    pub(super) fn has_strays(&mut self, jobs: &[Job]) -> bool {
        let Some(namespaces) = &mut self.namespaces else {
            return false;
        };
        let free = &self.free_namespaces;
        namespaces.has_strays(|pid| {
            let is_job = |job: &Job| job.pid == pid || job.init() == Some(pid);
            jobs.iter().any(is_job) || free.iter().any(|n| n.init() == pid)
        })
    }

    fn take_tree(&mut self) -> Result<Tree, Errno> {
        if let Some(namespaces) = &self.namespaces {
            let namespace = match self.free_namespaces.pop() {
                Some(namespace) => namespace,
                None => namespaces.create()?,
            };
            return Ok(Tree::Namespace(namespace));
        }
        Ok(self.take_group()?.map_or(Tree::Descendants, Tree::Group))
    }

    fn take_group(&mut self) -> Result<Option<Group>, Errno> {
        let Some(folder) = &self.folder else {
            return Ok(None);
        };
        if let Some(group) = self.free.pop() {
            return Ok(Some(group));
        }
        let group = Group::create(folder.join(format!("slot-{}", self.groups)));
        self.groups += 1;
        group.map(Some).map_err(errno_of)
    }

    /// Takes back what held a job that is over. A group that was killed is not
    /// used again: Linux since 6.14 kills what is started straight into a group
    /// that has ever been killed, since it compares the group's count of kills
    /// with that of the parent's group.
    pub(super) fn give_back(&mut self, tree: Tree, killed: bool) {
        match tree {
            Tree::Group(group) if killed => group.remove(),
            Tree::Group(group) => self.free.push(group),
            Tree::Namespace(namespace) if !killed && namespace.is_reusable() => {
                self.free_namespaces.push(namespace);
            }
            Tree::Namespace(_) | Tree::Descendants => {}
        }
    }

    /// Starts a job. `fds` are its standard input (if it has one), output,
    /// error and control pipes.
    pub(super) fn launch(
        &mut self,
        id: u32,
        start: &Start,
        fds: &[OwnedFd],
    ) -> Result<Job, Refusal> {
        if let (Some(scratch), Some(script)) = (&start.scratch, start.script()) {
            write_script(scratch, script, self.user.as_ref())
                .map_err(|e| script_refusal(scratch, e))?;
        }
        let Ok(mut tree) = self.take_tree() else {
            return Err(Refusal::Busy);
        };
        let bounds = &start.bounds;
        let mut watched = Watched::default();
        let mut address_space = bounds.memory_bytes;
        watched.memory_bytes = bounds.memory_bytes;
        watched.processes = bounds.processes;
        if let Tree::Group(group) = &mut tree {
            let allowance = Allowance {
                memory_bytes: bounds.memory_bytes,
                processes: bounds.processes,
                cpus_milli: bounds.cpus_milli,
            };
            if group.allow(allowance).is_ok() {
                if group.has_memory {
                    address_space = None;
                    watched.memory_bytes = None;
                }
                if group.has_pids {
                    watched.processes = None;
                }
            }
        }
        let started = Instant::now();
        match self.clone(start, fds, &tree, address_space) {
            Ok(pid) => {
                let mut job = Job {
                    id,
                    pid,
                    tree,
                    kill_grace: start.kill_grace,
                    started,
                    started_ns: since_epoch_ns(),
                    report_at: Some(Instant::now() + REPORT_AFTER),
                    timeout_at: start.timeout.map(|timeout| started + timeout),
                    kill_at: None,
                    watch_at: None,
                    watched,
                    exit: None,
                    killed: false,
                    flags: 0,
                };
                job.watch(watched);
                Ok(job)
            }
            Err(refusal) => {
                self.give_back(tree, false);
                Err(refusal)
            }
        }
    }

    fn clone(
        &mut self,
        start: &Start,
        fds: &[OwnedFd],
        tree: &Tree,
        address_space: Option<u64>,
    ) -> Result<c_int, Refusal> {
        let group = match tree {
            Tree::Group(group) => Some(group),
            Tree::Namespace(_) | Tree::Descendants => None,
        };
        let (parent, mounts) = match tree {
            Tree::Namespace(namespace) => (0, namespace.mounts()),
            Tree::Group(_) | Tree::Descendants => (self.pid, (-1, -1)),
        };
        let by_hand = match group {
            Some(group) if !self.into => Some(group.open_procs().map_err(|_| Refusal::Busy)?),
            _ => None,
        };
        let [candidates, argv, envp] = start.pointers();
        let fd = |at: usize| fds.get(at).map_or(0, AsRawFd::as_raw_fd);
        let first = usize::from(start.has_stdin);
        let stdin: RawFd = if start.has_stdin { fd(0) } else { 0 };
        let (rlimits, rlimits_len) = rlimits(start, address_space);
        let ruleset = self.ruleset(start, tree)?;
        let mut plan = ChildPlan {
            parent,
            mounts,
            rlimits,
            rlimits_len,
            nice: start.bounds.nice,
            cgroup_procs: by_hand.as_ref().map_or(-1, File::as_raw_fd),
            user: self.user.as_ref().map(|user| ChildUser {
                uid: user.uid,
                gid: user.gid,
                groups: user.groups.as_ptr(),
                groups_len: user.groups.len(),
            }),
            ruleset: ruleset.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            cwd: start.cwd_pointer(),
            fds: [stdin, fd(first), fd(first + 1), fd(first + 2)],
            candidates: candidates.as_ptr(),
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            failed_step: 0,
            failed_errno: 0,
            failed_candidate: 0,
        };
        let into = group.filter(|_| self.into).map(Group::dir);
        if let Some(user) = &self.user {
            give_pipes(&fds[first..], user).map_err(|_| Refusal::Busy)?;
        }
        let spawned = match tree {
            Tree::Namespace(namespace) => self.cloner.spawn_within(&mut plan, namespace.pids()),
            Tree::Group(_) | Tree::Descendants => self.cloner.spawn(&mut plan, into),
        };
        if self.user.is_some() {
            // Becoming another user sets this for the memory they shared.
            let _ = prctl::set_dumpable(false);
        }
        let pid = match spawned {
            Ok(pid) => pid,
            Err(Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::EBUSY) => {
                return Err(Refusal::Busy);
            }
            Err(errno) => {
                return Err(Refusal::Failed(Diagnosis {
                    step: "clone",
                    errno,
                    message: format!("no process can be started: {}", errno.desc()),
                    fatal: false,
                }));
            }
        };
        if plan.failed_step == 0 {
            return Ok(pid);
        }
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
        let transient = matches!(
            Errno::from_raw(plan.failed_errno),
            Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE
        );
        if transient && plan.failed_step == ChildStep::Exec as u8 {
            return Err(Refusal::Busy);
        }
        let mut diagnosis = diagnose(start, &plan);
        if self.files.is_some() && diagnosis.errno == Errno::EACCES {
            diagnosis.message += " (or it is not among the files that this worker's jobs may use)";
        }
        Err(Refusal::Failed(diagnosis))
    }

    /// What keeps the job to the files it may use.
    fn ruleset(&self, start: &Start, tree: &Tree) -> Result<Option<OwnedFd>, Refusal> {
        let Some(files) = &self.files else {
            return Ok(None);
        };
        let root = match tree {
            Tree::Namespace(namespace) => Some(namespace.root()),
            Tree::Group(_) | Tree::Descendants => None,
        };
        let ruleset = files.ruleset(root, start.scratch.as_deref());
        ruleset.map(Some).map_err(|error| {
            Refusal::Failed(Diagnosis {
                step: "landlock",
                errno: Errno::EACCES,
                message: format!("the job cannot be kept to some files: {error}"),
                fatal: false,
            })
        })
    }

    /// Removes the groups; all jobs are over.
    pub(super) fn finish(self) {
        drop(self.free);
        if let Some(folder) = self.folder {
            let _ = super::super::cgroup::kill_and_remove(&folder);
        }
    }
}

fn rlimits(
    start: &Start,
    address_space: Option<u64>,
) -> ([(c_int, libc::rlimit); RLIMITS_MAX], usize) {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let mut limits = [(0, none); RLIMITS_MAX];
    let mut len = 0;
    let mut add = |resource: c_int, soft: u64, hard: u64| {
        limits[len] = (
            resource,
            libc::rlimit {
                rlim_cur: soft as _,
                rlim_max: hard as _,
            },
        );
        len += 1;
    };
    let bounds = &start.bounds;
    let (soft, hard) = bounds.open_files;
    add(libc::RLIMIT_NOFILE as c_int, soft, hard);
    if let Some(seconds) = bounds.cpu_time_s {
        // XCPU first, KILL a second later.
        add(
            libc::RLIMIT_CPU as c_int,
            seconds,
            seconds.saturating_add(1),
        );
    }
    if let Some(bytes) = address_space {
        add(libc::RLIMIT_AS as c_int, bytes, bytes);
    }
    if let Some(bytes) = bounds.file_size_bytes {
        add(libc::RLIMIT_FSIZE as c_int, bytes, bytes);
    }
    (limits, len)
}

/// Written here, where no other thread can be starting a child that would hold
/// the file open for writing while it is executed (ETXTBSY).
fn write_script(scratch: &Path, script: &[u8], user: Option<&SetupUser>) -> std::io::Result<()> {
    let path = scratch.join(SCRIPT);
    // A start that was put off has written it before.
    let _ = fs::remove_file(&path);
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(path)?;
    if let Some(user) = user {
        std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid))?;
    }
    file.write_all(script)
}

/// A job may open its pipes again (`/dev/stdout`) only if they are its user's.
fn give_pipes(pipes: &[OwnedFd], user: &SetupUser) -> std::io::Result<()> {
    for pipe in pipes {
        std::os::unix::fs::fchown(pipe, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

fn script_refusal(scratch: &Path, error: std::io::Error) -> Refusal {
    let errno = errno_of(error);
    if matches!(
        errno,
        Errno::ENOSPC | Errno::EDQUOT | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM
    ) {
        return Refusal::Busy;
    }
    Refusal::Failed(Diagnosis {
        step: "scratch",
        errno,
        message: format!(
            "the script cannot be written to {}: {}",
            scratch.display(),
            errno.desc()
        ),
        fatal: false,
    })
}

fn since_epoch_ns() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "the moment of the start is known here alone, and is only told, never compared"
    )]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_nanos() as u64
}
