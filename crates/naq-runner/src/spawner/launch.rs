//! Turns a start request into a process.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libc::c_int;
use nix::errno::Errno;
use nix::sys::prctl;

use super::super::cgroup::{Cgroup, CgroupLimits, current_group, group_of, mount_point};
use super::super::children::Children;
use super::super::errno::{errno_of, is_resource_shortage};
use super::super::landlock::{FileAccess, signal_scope};
use super::super::namespace::{self, Namespace};
use super::super::spawner_setup::{SpawnerSetup, UserIds};
use super::super::start_request::StartFrame;
use super::super::sys::child::{ChildPlan, ChildStep, ChildUser, RLIMITS_MAX};
use super::super::sys::clone::Cloner;
use super::super::sys::namespace_init::{PrivateMounts, TMP};
use super::descendants;
use super::diagnose::{Diagnosis, diagnose};
use super::job::{Job, PolledLimits, STARTED_REPORT_DELAY, Tree};
use super::memory;

/// Why a job was not started.
#[derive(Debug)]
pub(super) enum LaunchError {
    /// This machine is short of something: retry later.
    ResourceExhausted(Diagnosis),
    /// The start failed for this reason.
    Failed(Diagnosis),
}

/// Why this process cannot be a spawner with its setup.
#[derive(Debug)]
pub(super) struct SetupError {
    pub(super) errno: Errno,
    /// What failed; empty if the errno alone says it.
    pub(super) why: String,
}

impl From<Errno> for SetupError {
    fn from(errno: Errno) -> SetupError {
        SetupError {
            errno,
            why: String::new(),
        }
    }
}

/// Starts processes, and keeps the unused control groups and namespaces.
#[derive(Debug)]
pub(super) struct Launcher {
    cloner: Cloner,
    pid: i32,
    folder: Option<PathBuf>,
    free_cgroups: Vec<Cgroup>,
    cgroups_created: usize,
    /// Where cgroup v2 is mounted, if jobs have control groups.
    cgroup_mount: PathBuf,
    has_namespaces: bool,
    /// The file systems of each namespace that other jobs do not see.
    private_mounts: PrivateMounts,
    free_namespaces: Vec<Namespace>,
    /// The children of this process. `None` if its kernel keeps no list of them.
    children: Option<Children>,
    user: Option<UserIds>,
    files: Option<FileAccess>,
    /// Whether each job gets a session keyring of its own. It is created before the child changes its
    /// user and counts against root, who may own a million keys. Any other user may own two hundred,
    /// which short jobs use up faster than the kernel frees them: their jobs share the keyring that
    /// this process made for itself.
    own_keyrings: bool,
    /// The ruleset of every job that has no ruleset of its own and no namespace. `None` if there
    /// is none of these jobs, or the kernel does not support it.
    signal_scope: Option<OwnedFd>,
    /// Whether a child can be cloned directly into a control group.
    can_clone_into_cgroup: bool,
}

impl Launcher {
    /// Finds out what works on this machine, and makes this process undumpable.
    pub(super) fn new(setup: SpawnerSetup) -> Result<Launcher, SetupError> {
        let because = |why: &str| {
            let why = why.to_owned();
            |errno| SetupError { errno, why }
        };
        let pid = nix::unistd::getpid().as_raw();
        let children = Children::open(pid);
        if setup.namespace {
            namespace::prepare().map_err(because(
                "it needs root, or user namespaces, which are refused",
            ))?;
            let listed = children.as_ref().map(drop).map_err(errno_of);
            listed.map_err(because("this kernel keeps no list of children in /proc"))?;
        }
        let cgroup_mount = match &setup.cgroup_dir {
            Some(_) => mount_point().map_err(|e| errno_of(&e))?,
            None => PathBuf::new(),
        };
        // Requests contain secrets, which a job of the same user must not read from
        // this process's memory.
        prctl::set_dumpable(false)?;
        let mut launcher = Launcher {
            cloner: Cloner::new()?,
            pid,
            folder: setup.cgroup_dir,
            free_cgroups: Vec::new(),
            cgroups_created: 0,
            cgroup_mount,
            has_namespaces: setup.namespace,
            private_mounts: setup.private_mounts,
            free_namespaces: Vec::new(),
            children: children.ok(),
            user: setup.user,
            files: setup.files,
            own_keyrings: nix::unistd::geteuid().is_root(),
            // It needs no_new_privs. A job in a namespace sees no other process to signal.
            signal_scope: (!setup.namespace && !setup.allow_setuid)
                .then(signal_scope)
                .flatten(),
            can_clone_into_cgroup: true,
        };
        if launcher.has_namespaces {
            let first = Namespace::create(&launcher.private_mounts)
                .map_err(because("a PID namespace with a /proc of its own"))?;
            launcher.free_namespaces.push(first);
        }
        if let Some(group) = launcher.acquire_cgroup()? {
            if launcher.cloner.probe_cgroup_spawn(group.dir()).is_err() {
                launcher.can_clone_into_cgroup = false;
                let own = current_group()
                    .map_err(|e| errno_of(&e))?
                    .join("cgroup.procs");
                // Joining a group through its `cgroup.procs` needs the same permission.
                let mut procs = group.open_procs().map_err(|e| errno_of(&e))?;
                let this = launcher.pid.to_string();
                procs.write_all(this.as_bytes()).map_err(|e| errno_of(&e))?;
                fs::write(own, this).map_err(|e| errno_of(&e))?;
            }
            launcher.free_cgroups.push(group);
        }
        Ok(launcher)
    }

    /// Whether the trees of several jobs can be distinguished, so that this spawner can
    /// run more than one at once.
    pub(super) fn supports_concurrency(&self) -> bool {
        self.folder.is_some() || self.has_namespaces
    }

    /// Whether each job gets a namespace.
    pub(super) fn has_namespaces(&self) -> bool {
        self.has_namespaces
    }

    /// The first process of an unused namespace was reaped.
    pub(super) fn init_ended(&mut self, pid: i32) {
        let mut free = self.free_namespaces.iter();
        if let Some(at) = free.position(|n| n.init() == Some(pid)) {
            self.free_namespaces.swap_remove(at).mark_ended();
        }
    }

    /// The children of this process that belong to no known job: none is the first process of a job or a
    /// namespace, and none is in a job's control group. With CLONE_PARENT, a process can make
    /// its own child a child of its parent, which for a job's first process is this spawner; and
    /// the orphans of a job without a namespace become children of this process, also if they have
    /// left the job's group.
    pub(super) fn unknown_children(&mut self, jobs: &[Job]) -> Vec<i32> {
        if !self.supports_concurrency() {
            return Vec::new();
        }
        let free = &self.free_namespaces;
        let is_first = |pid: i32| {
            let is_job = |job: &Job| job.has_first(pid) || job.init() == Some(pid);
            jobs.iter().any(is_job) || free.iter().any(|n| n.init() == Some(pid))
        };
        let children: Vec<i32> = match self.children.as_mut().map(Children::pids) {
            Some(Ok(pids)) => pids.filter(|pid| !is_first(*pid)).collect(),
            _ => {
                let children = descendants::children(self.pid);
                children.into_iter().filter(|pid| !is_first(*pid)).collect()
            }
        };
        if self.has_namespaces {
            return children;
        }
        let is_in_a_group = |pid: &i32| {
            // One that has ended meanwhile is in no group, and its end is an event.
            let group = group_of(&self.cgroup_mount, &pid.to_string()).unwrap_or_default();
            let mut groups = jobs.iter().filter_map(|job| job.tree.cgroup.as_ref());
            groups.any(|own| own.contains(&group))
        };
        children
            .into_iter()
            .filter(|pid| !is_in_a_group(pid))
            .collect()
    }

    fn acquire_tree(&mut self) -> Result<Tree, Errno> {
        let namespace = match self.free_namespaces.pop() {
            None if self.has_namespaces => Some(Namespace::create(&self.private_mounts)?),
            free => free,
        };
        match self.acquire_cgroup() {
            Ok(cgroup) => Ok(Tree { cgroup, namespace }),
            Err(errno) => {
                self.free_namespaces.extend(namespace);
                Err(errno)
            }
        }
    }

    fn acquire_cgroup(&mut self) -> Result<Option<Cgroup>, Errno> {
        let Some(folder) = &self.folder else {
            return Ok(None);
        };
        if let Some(group) = self.free_cgroups.pop() {
            return Ok(Some(group));
        }
        let group = Cgroup::create(folder.join(format!("slot-{}", self.cgroups_created)));
        self.cgroups_created += 1;
        group.map(Some).map_err(|e| errno_of(&e))
    }

    /// Keeps the container of a finished job for reuse, except for a control group
    /// that was killed: since 6.14, Linux kills a process that is cloned directly into
    /// a group which was ever killed, because it compares the group's kill counter with
    /// that of the parent's group.
    pub(super) fn recycle_tree(&mut self, tree: Tree, killed: bool) {
        match tree.cgroup {
            Some(group) if killed => group.remove(),
            group => self.free_cgroups.extend(group),
        }
        let reusable = |namespace: &Namespace| !killed && namespace.is_reusable();
        self.free_namespaces.extend(tree.namespace.filter(reusable));
    }

    /// Starts a job. `fds` are its standard input (if any) and its pipes for output,
    /// error and control.
    pub(super) fn launch(
        &mut self,
        id: u32,
        start: &StartFrame,
        fds: &[OwnedFd],
    ) -> Result<Job, LaunchError> {
        if let Some(scratch) = &start.scratch {
            let user = self.user.as_ref();
            for file in start.files() {
                let path = scratch.join(file.name);
                write_file(&path, file.mode, file.content, user)
                    .map_err(|e| write_error(&path, file.content.len(), &e))?;
            }
        }
        let mut tree = self.acquire_tree().map_err(|errno| {
            exhausted(
                "containment",
                "cannot create a container for its processes",
                errno,
            )
        })?;
        let resource_limits = &start.resource_limits;
        let mut polled_limits = PolledLimits {
            memory_bytes: resource_limits.memory_bytes,
            processes: resource_limits.processes,
        };
        if let Some(group) = &mut tree.cgroup {
            let cgroup_limits = CgroupLimits {
                memory_bytes: resource_limits.memory_bytes,
                processes: resource_limits.processes,
                cpus_milli: resource_limits.cpus_milli,
            };
            if group.set_limits(cgroup_limits).is_ok() {
                if group.has_memory {
                    polled_limits.memory_bytes = None;
                }
                if group.has_pids {
                    polled_limits.processes = None;
                }
            }
        }
        let started = Instant::now();
        match self.spawn_child(start, fds, &tree) {
            Ok(pid) => {
                let mut job = Job {
                    id,
                    takes_slot: true,
                    pid,
                    tree,
                    kill_grace: start.kill_grace,
                    started,
                    started_ns: since_epoch_ns(),
                    report_at: Some(Instant::now() + STARTED_REPORT_DELAY),
                    timeout_at: start.timeout.map(|timeout| started + timeout),
                    deadline: None,
                    kill_at: None,
                    limit_check_at: None,
                    polled_limits,
                    next_accurate_check: None,
                    stdin_bytes: stdin_bytes(start, fds),
                    memfds: (0, None),
                    exit: None,
                    killed: false,
                    flags: 0,
                    sweep: None,
                };
                job.poll_limits(polled_limits);
                Ok(job)
            }
            Err(error) => {
                self.recycle_tree(tree, false);
                Err(error)
            }
        }
    }

    fn spawn_child(
        &mut self,
        start: &StartFrame,
        fds: &[OwnedFd],
        tree: &Tree,
    ) -> Result<c_int, LaunchError> {
        let group = tree.cgroup.as_ref();
        let (parent, mounts) = match &tree.namespace {
            Some(namespace) => (0, namespace.mounts()),
            None => (self.pid, (-1, -1)),
        };
        let procs_to_join = self.procs_to_join(group)?;
        let [candidates, mut argv, envp] = start.pointers();
        let fd = |at: usize| fds.get(at).map_or(0, AsRawFd::as_raw_fd);
        let first = usize::from(start.has_stdin);
        let stdin: RawFd = if start.has_stdin { fd(0) } else { 0 };
        let (rlimits, rlimits_len) = rlimits(start);
        let own_ruleset = self.ruleset(start, tree)?;
        let ruleset = own_ruleset.as_ref().or(self.signal_scope.as_ref());
        let mut plan = ChildPlan {
            parent,
            mounts,
            own_keyring: self.own_keyrings,
            rlimits,
            rlimits_len,
            nice: start.resource_limits.nice,
            cgroup_procs: procs_to_join.as_ref().map_or(-1, File::as_raw_fd),
            user: self.user.as_ref().map(child_user),
            ruleset: ruleset.map_or(-1, AsRawFd::as_raw_fd),
            cwd: start.cwd_pointer(),
            fds: [stdin, fd(first), fd(first + 1), fd(first + 2)],
            socket: match start.has_socket {
                true => fd(first + 3),
                false => -1,
            },
            candidates: candidates.as_ptr(),
            argv: argv.as_mut_ptr(),
            named_by_path: start.named_by_path,
            envp: envp.as_ptr(),
            failed_step: 0,
            failed_errno: 0,
            failed_candidate: 0,
        };
        let into = group
            .filter(|_| self.can_clone_into_cgroup)
            .map(Cgroup::dir);
        if let Some(user) = &self.user {
            chown_pipes(&fds[first..], user).map_err(|e| {
                exhausted(
                    "descriptors",
                    "cannot give the pipes to its user",
                    errno_of(&e),
                )
            })?;
        }
        let pid = self.clone_child(&mut plan, tree, into)?;
        if plan.failed_step == 0 {
            return Ok(pid);
        }
        // The child has exited already, before it reached its program.
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
        Err(self.setup_error(start, &plan))
    }

    /// Opens the file through which the child joins its control group, if it cannot be cloned
    /// directly into the group. It is opened here because the child shares this memory and must
    /// not allocate.
    fn procs_to_join(&self, group: Option<&Cgroup>) -> Result<Option<File>, LaunchError> {
        match group {
            Some(group) if !self.can_clone_into_cgroup => group
                .open_procs()
                .map(Some)
                .map_err(|e| exhausted("cgroup", "cannot open its control group", errno_of(&e))),
            _ => Ok(None),
        }
    }

    /// Clones this process. The child carries out the plan up to its program, or writes into the
    /// plan which step failed.
    fn clone_child(
        &mut self,
        plan: &mut ChildPlan,
        tree: &Tree,
        into: Option<RawFd>,
    ) -> Result<c_int, LaunchError> {
        let spawned = match &tree.namespace {
            Some(namespace) => {
                let pids = namespace.pids();
                self.cloner.spawn_in_namespace(plan, pids, into)
            }
            None => self.cloner.spawn(plan, into),
        };
        if self.user.is_some() {
            // Changing the user in the shared memory has made it dumpable again.
            let _ = prctl::set_dumpable(false);
        }
        spawned.map_err(clone_error)
    }

    /// Explains why a child did not get as far as its program.
    fn setup_error(&self, start: &StartFrame, plan: &ChildPlan) -> LaunchError {
        let mut diagnosis = diagnose(start, plan);
        if is_resource_shortage(diagnosis.errno) && plan.failed_step == ChildStep::Exec as u8 {
            return LaunchError::ResourceExhausted(diagnosis);
        }
        if self.files.is_some() && diagnosis.errno == Errno::EACCES {
            diagnosis.message += " (or it is outside the files that this worker allows its jobs)";
        }
        if self.private_mounts.tmp.is_some()
            && [start.cwd(), start.program()]
                .iter()
                .any(|path| Path::new(path).starts_with(TMP))
        {
            diagnosis.message += " (this worker's jobs have a /tmp of their own)";
        }
        LaunchError::Failed(diagnosis)
    }

    /// The Landlock ruleset of the job, if the setup restricts files.
    fn ruleset(&self, start: &StartFrame, tree: &Tree) -> Result<Option<OwnedFd>, LaunchError> {
        let Some(files) = &self.files else {
            return Ok(None);
        };
        let root = tree.namespace.as_ref().map(Namespace::root);
        let ruleset = files.ruleset(root, start.scratch.as_deref());
        ruleset.map(Some).map_err(|error| {
            LaunchError::Failed(Diagnosis {
                step: "landlock",
                errno: Errno::EACCES,
                message: format!("cannot restrict the job's files: {error}"),
                fatal: false,
            })
        })
    }

    /// Removes the unused groups; no job is left.
    pub(super) fn finish(self) {
        drop(self.free_cgroups);
        if let Some(folder) = self.folder {
            let _ = super::super::cgroup::kill_and_remove(&folder);
        }
    }
}

/// Bytes of the job's standard input in memory, if its memory is limited.
fn stdin_bytes(start: &StartFrame, fds: &[OwnedFd]) -> u64 {
    let stdin = fds.first().filter(|_| start.has_stdin);
    let stdin = stdin.filter(|_| start.resource_limits.memory_bytes.is_some());
    // a file on a disk has no seals, and takes none of the job's memory
    let stdin = stdin.filter(|stdin| {
        nix::fcntl::fcntl(stdin, nix::fcntl::FcntlArg::F_GET_SEALS)
            .is_ok_and(|seals| seals & libc::F_SEAL_WRITE != 0)
    });
    let blocks = stdin.and_then(|stdin| nix::sys::stat::fstat(stdin).ok());
    blocks.map_or(0, |found| found.st_blocks as u64 * memory::BLOCK_BYTES)
}

/// Why no child was cloned.
fn clone_error(errno: Errno) -> LaunchError {
    let diagnosis = Diagnosis {
        step: "clone",
        errno,
        message: format!("cannot start a process: {}", errno.desc()),
        fatal: false,
    };
    // EBUSY: a control group that is being changed.
    if is_resource_shortage(errno) || errno == Errno::EBUSY {
        LaunchError::ResourceExhausted(diagnosis)
    } else {
        LaunchError::Failed(diagnosis)
    }
}

fn exhausted(step: &'static str, what: &str, errno: Errno) -> LaunchError {
    LaunchError::ResourceExhausted(Diagnosis {
        step,
        errno,
        message: format!("{what}: {}", errno.desc()),
        fatal: false,
    })
}

fn rlimits(start: &StartFrame) -> ([(c_int, libc::rlimit); RLIMITS_MAX], usize) {
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
    let resource_limits = &start.resource_limits;
    let (soft, hard) = resource_limits.open_files;
    add(libc::RLIMIT_NOFILE as c_int, soft, hard);
    if let Some(seconds) = resource_limits.cpu_time_s {
        // XCPU first, KILL a second later.
        add(
            libc::RLIMIT_CPU as c_int,
            seconds,
            seconds.saturating_add(1),
        );
    }
    // Not for a memory limit: Node, Java and Go map far more than they use.
    if let Some(bytes) = resource_limits.address_space_bytes {
        add(libc::RLIMIT_AS as c_int, bytes, bytes);
    }
    if let Some(bytes) = resource_limits.file_size_bytes {
        add(libc::RLIMIT_FSIZE as c_int, bytes, bytes);
    }
    (limits, len)
}

/// Writes a file that the job needs, such as its script. Done by the spawner because no other
/// thread here can start a child meanwhile, which would inherit the writable descriptor and make
/// `execve` fail with ETXTBSY.
fn write_file(
    path: &Path,
    mode: u32,
    content: &[u8],
    user: Option<&UserIds>,
) -> std::io::Result<()> {
    // An earlier attempt to start this job may have written it.
    let _ = fs::remove_file(path);
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    if let Some(user) = user {
        std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid))?;
    }
    file.write_all(content)
}

/// The user as the child needs it: pointers into this process's memory.
fn child_user(user: &UserIds) -> ChildUser {
    ChildUser {
        uid: user.uid,
        gid: user.gid,
        groups: user.groups.as_ptr(),
        groups_len: user.groups.len(),
    }
}

/// Gives the pipes to the job's user. Otherwise the job could not open them again
/// through `/dev/stdout`.
fn chown_pipes(pipes: &[OwnedFd], user: &UserIds) -> std::io::Result<()> {
    for pipe in pipes {
        std::os::unix::fs::fchown(pipe, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

fn write_error(path: &Path, bytes: usize, error: &std::io::Error) -> LaunchError {
    let errno = errno_of(error);
    let diagnosis = Diagnosis {
        step: "scratch",
        errno,
        message: format!(
            "cannot write {bytes} bytes to {}: {}",
            path.display(),
            errno.desc()
        ),
        fatal: false,
    };
    if is_resource_shortage(errno) {
        LaunchError::ResourceExhausted(diagnosis)
    } else {
        LaunchError::Failed(diagnosis)
    }
}

fn since_epoch_ns() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "only the spawner observes the moment of the start, and the time is reported, never compared"
    )]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_nanos() as u64
}
