//! Control groups, version 2. Inside the group of this process there is one
//! folder per worker, in it one per spawner, and in that one group per running
//! job, which later jobs reuse.
//!
//! Only a group without processes of its own can enable controllers for its
//! children. A worker that is alone in its group, as in a delegated systemd unit,
//! therefore moves into a child group, the leaf. If the group has other
//! processes, jobs get no controllers; containment works nevertheless.
//!
//! A worker keeps a lock on its folder for as long as it lives. A starting worker
//! can thus tell which folders belong to dead workers, across PID namespaces too.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::send_signal::send_signals;

/// Prefix of the folder of a worker.
const WORKER_PREFIX: &str = "naq-worker-";

/// Prefix of the leaf of a worker; its process id follows.
const LEAF_PREFIX: &str = "naq-leaf-";

/// The controllers that enforce the limits of jobs.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// How long to wait until a killed tree is gone.
const KILL_WAIT_MAX: Duration = Duration::from_secs(10);

/// The folder of this worker, locked.
#[derive(Debug)]
pub(super) struct WorkerCgroup {
    path: PathBuf,
    /// Never read: while the lock is taken, this worker is alive.
    _lock: Flock<File>,
}

impl WorkerCgroup {
    /// Creates the folder of this worker inside its own group, after removing the
    /// folders of dead workers. Fails if cgroup v2 is not mounted or the group is
    /// not writable.
    pub(super) fn create() -> io::Result<WorkerCgroup> {
        let own = parent_of_leaf(current_group()?);
        remove_stale_cgroups(&own);
        delegate_controllers(&own, &CONTROLLERS);
        let mut taken = 0;
        loop {
            let path = own.join(format!("{WORKER_PREFIX}{}-{taken}", std::process::id()));
            taken += 1;
            match fs::create_dir(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && taken < 1000 => continue,
                made => made?,
            }
            // Another starting worker may remove the folder before it is locked.
            // Then the next name is tried.
            let Some(lock) = lock_folder(&path) else {
                continue;
            };
            if !path.join("cgroup.kill").exists() {
                // If it no longer exists, another starting worker has removed it.
                if fs::remove_dir(&path).is_ok() || taken >= 1000 {
                    return Err(io::Error::other("this kernel has no cgroup.kill"));
                }
                continue;
            }
            enable_controllers(&path, &CONTROLLERS);
            return Ok(WorkerCgroup { path, _lock: lock });
        }
    }

    /// Whether the groups of jobs have this controller.
    pub(super) fn has_controller(&self, name: &str) -> bool {
        let enabled = fs::read_to_string(self.path.join("cgroup.subtree_control"));
        enabled.is_ok_and(|enabled| enabled.split_whitespace().any(|other| other == name))
    }

    /// Creates the folder of a spawner.
    pub(super) fn spawner_dir(&self, spawner: usize) -> io::Result<PathBuf> {
        let path = self.path.join(format!("spawner-{spawner}"));
        match fs::create_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        enable_controllers(&path, &CONTROLLERS);
        Ok(path)
    }
}

impl Drop for WorkerCgroup {
    fn drop(&mut self) {
        let _ = kill_and_remove(&self.path);
    }
}

/// The v2 group of this process.
pub(super) fn current_group() -> io::Result<PathBuf> {
    group_of(&mount_point()?, "self")
}

/// Where cgroup v2 is mounted.
pub(super) fn mount_point() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(at.replace("\\040", " ")))
        })
        .next()
        .ok_or_else(|| io::Error::other("no cgroup v2 is mounted"))
}

/// The v2 group of a process. `process` is a name in `/proc`.
pub(super) fn group_of(mount: &Path, process: &str) -> io::Result<PathBuf> {
    Ok(mount.join(group_below_mount(process)?))
}

/// The group of a process, as a path below the mount point.
fn group_below_mount(process: &str) -> io::Result<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let group = group.ok_or_else(|| io::Error::other("this process is in no v2 control group"))?;
    Ok(group.into())
}

/// The group in which to create others: the parent of the leaf if this process is
/// in a leaf, else the group itself.
fn parent_of_leaf(group: PathBuf) -> PathBuf {
    let is_leaf = group
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(LEAF_PREFIX));
    match group.parent() {
        Some(parent) if is_leaf => parent.to_owned(),
        _ => group,
    }
}

/// Enables the wanted controllers for the groups below and returns those that
/// cannot be enabled. Without them, resource limits and polling enforce the
/// limits of jobs.
fn enable_controllers(group: &Path, wanted: &[&str]) -> Vec<String> {
    let read = |file: &str| fs::read_to_string(group.join(file)).unwrap_or_default();
    let (available, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    missing_controllers(&available, &enabled, wanted)
        .filter(|name| fs::write(group.join("cgroup.subtree_control"), format!("+{name}")).is_err())
        .map(str::to_owned)
        .collect()
}

/// The wanted controllers that a group has but does not enable for its children.
fn missing_controllers<'a>(
    available: &str,
    enabled: &str,
    wanted: &'a [&'a str],
) -> impl Iterator<Item = &'a str> {
    let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
    wanted
        .iter()
        .copied()
        .filter(move |name| has(available, name) && !has(enabled, name))
}

/// As [`enable_controllers`], for the group of this process. If the processes in
/// that group are what prevents enabling them, moves this process into a leaf.
fn delegate_controllers(own: &Path, wanted: &[&str]) {
    if enable_controllers(own, wanted).is_empty() {
        return;
    }
    let this = std::process::id();
    let procs = fs::read_to_string(own.join("cgroup.procs")).unwrap_or_default();
    if !is_only_process(&procs, this) {
        tracing::debug!(group = %own.display(), "no controllers: other processes are in this control group");
        return;
    }
    let leaf = own.join(format!("{LEAF_PREFIX}{this}"));
    let moved =
        fs::create_dir(&leaf).and_then(|()| fs::write(leaf.join("cgroup.procs"), this.to_string()));
    if moved.is_err() || !enable_controllers(own, wanted).is_empty() {
        // The move did not help: undo it.
        let _ = fs::write(own.join("cgroup.procs"), this.to_string());
        let _ = fs::remove_dir(&leaf);
    }
}

/// Whether the list of process ids names this process and no other.
fn is_only_process(procs: &str, this: u32) -> bool {
    let mut pids = procs.split_whitespace();
    pids.next().and_then(|pid| pid.parse().ok()) == Some(this) && pids.next().is_none()
}

/// Locks the folder of a worker. `None` if a worker has it, or if it no longer exists.
fn lock_folder(path: &Path) -> Option<Flock<File>> {
    let folder = File::open(path).ok()?;
    let lock = Flock::lock(folder, FlockArg::LockExclusiveNonblock).ok()?;
    // Between the two calls another worker may have removed the folder, and a third one, whose process
    // id is the same in another PID namespace, may have created its own under this name. From here on
    // only the owner of the lock removes it.
    is_at(&lock, path).then_some(lock)
}

/// Whether an open folder is the one that a path leads to.
fn is_at(folder: &File, path: &Path) -> bool {
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    match (folder.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => identity(open) == identity(named),
        _ => false,
    }
}

/// Removes the folders of dead workers and kills what still runs there.
fn remove_stale_cgroups(own: &Path) {
    let Ok(entries) = fs::read_dir(own) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(LEAF_PREFIX) {
            // Fails for a leaf that still has a process, which is right.
            let _ = fs::remove_dir(entry.path());
        }
        if !name.to_string_lossy().starts_with(WORKER_PREFIX) {
            continue;
        }
        // Locked until it is removed: otherwise a starting worker could lock its new folder meanwhile
        // and lose it with all that it has started there.
        if let Some(_lock) = lock_folder(&entry.path()) {
            let _ = kill_and_remove(&entry.path());
        }
    }
}

/// Kills every process in a group and below, waits until they are gone, and
/// removes the groups. Blocks meanwhile.
pub(super) fn kill_and_remove(group: &Path) -> io::Result<()> {
    let events = File::open(group.join("cgroup.events"))?;
    fs::write(group.join("cgroup.kill"), "1")?;
    let deadline = Instant::now() + KILL_WAIT_MAX;
    while is_populated(&events)? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], wait)?;
    }
    remove_groups(group)
}

/// Removes a group and all below it. Without recursion, since a job may nest groups as deep as it
/// likes.
fn remove_groups(group: &Path) -> io::Result<()> {
    let mut groups = vec![group.to_owned()];
    let mut at = 0;
    while at < groups.len() {
        for entry in fs::read_dir(&groups[at])?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                groups.push(entry.path());
            }
        }
        at += 1;
    }
    // Each group comes after the one that it is in.
    groups.iter().rev().try_for_each(fs::remove_dir)
}

fn is_populated(events: &File) -> io::Result<bool> {
    let mut buffer = [0; 256];
    let count = events.read_at(&mut buffer, 0)?;
    let text = std::str::from_utf8(&buffer[..count]).unwrap_or_default();
    Ok(!text.lines().any(|line| line == "populated 0"))
}

/// The limits of a group, as far as it has the controllers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CgroupLimits {
    pub(super) memory_bytes: Option<u64>,
    pub(super) processes: Option<u64>,
    /// Thousandths of a CPU.
    pub(super) cpus_milli: Option<u64>,
}

/// The group of one running job at a time.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
    dir: File,
    events: File,
    /// `cgroup.kill`, open from the start: a job of the same user can take the right to open files
    /// from this process.
    kill: File,
    current_limits: CgroupLimits,
    /// Whether `memory.max` exists.
    pub(super) has_memory: bool,
    /// Whether `pids.max` exists.
    pub(super) has_pids: bool,
    oom_kills_before: u64,
}

impl Cgroup {
    /// Creates the group.
    pub(super) fn create(path: PathBuf) -> io::Result<Cgroup> {
        fs::create_dir(&path)?;
        // Running out of memory kills the whole tree, as it does when memory is
        // polled: a job that lost one of its processes has not done its work.
        // Not every kernel has this file.
        let _ = fs::write(path.join("memory.oom.group"), "1");
        Ok(Cgroup {
            dir: File::open(&path)?,
            events: File::open(path.join("cgroup.events"))?,
            kill: File::options().write(true).open(path.join("cgroup.kill"))?,
            current_limits: CgroupLimits::default(),
            has_memory: path.join("memory.max").exists(),
            has_pids: path.join("pids.max").exists(),
            oom_kills_before: 0,
            path,
        })
    }

    /// Removes the group, which is empty. If the kernel still keeps it busy, it is
    /// removed with the folder of the spawner.
    pub(super) fn remove(self) {
        let _ = fs::remove_dir(&self.path);
    }

    /// The directory, to start a process in the group.
    pub(super) fn dir(&self) -> RawFd {
        self.dir.as_raw_fd()
    }

    /// `cgroup.events`: reports an exceptional condition (`POLLPRI`) when the group
    /// may have become empty.
    pub(super) fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// `cgroup.procs`, for a process that joins the group by itself.
    pub(super) fn open_procs(&self) -> io::Result<File> {
        File::options()
            .write(true)
            .open(self.path.join("cgroup.procs"))
    }

    /// Writes the limits that differ from those of the last job in this group.
    pub(super) fn set_limits(&mut self, limits: CgroupLimits) -> io::Result<()> {
        if self.has_memory && limits.memory_bytes != self.current_limits.memory_bytes {
            self.write("memory.max", &format_limit(limits.memory_bytes))?;
            // Swap would let a job use more than its limit. Not every kernel
            // accounts for swap.
            let swap = limits.memory_bytes.map(|_| 0);
            let _ = self.write("memory.swap.max", &format_limit(swap));
        }
        if self.has_pids && limits.processes != self.current_limits.processes {
            self.write("pids.max", &format_limit(limits.processes))?;
        }
        if limits.cpus_milli != self.current_limits.cpus_milli && self.path.join("cpu.max").exists()
        {
            self.write("cpu.max", &cpu_max(limits.cpus_milli))?;
        }
        self.current_limits = limits;
        if self.has_memory {
            self.oom_kills_before = self.oom_kill_count();
        }
        Ok(())
    }

    /// Whether the kernel killed a process here because memory ran out since
    /// [`Cgroup::set_limits`].
    pub(super) fn had_oom(&self) -> bool {
        self.has_memory && self.oom_kill_count() > self.oom_kills_before
    }

    fn oom_kill_count(&self) -> u64 {
        oom_kills(&fs::read_to_string(self.path.join("memory.events")).unwrap_or_default())
    }

    /// Whether a group is this one, or below it.
    pub(super) fn contains(&self, group: &Path) -> bool {
        group.starts_with(&self.path)
    }

    /// Whether the group has no live process.
    pub(super) fn is_empty(&self) -> bool {
        matches!(is_populated(&self.events), Ok(false))
    }

    /// The ids of the live processes.
    pub(super) fn processes(&self) -> Vec<i32> {
        fs::read_to_string(self.path.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect()
    }

    /// Sends TERM to every process, and CONT so that stopped ones receive it.
    pub(super) fn terminate(&self) {
        for pid in self.processes() {
            send_signals(pid, &[Signal::SIGTERM, Signal::SIGCONT], || {
                self.has_process(pid)
            });
        }
    }

    /// Kills every process but one.
    pub(super) fn kill_others(&self, spared: i32) {
        for pid in self.processes().into_iter().filter(|pid| *pid != spared) {
            send_signals(pid, &[Signal::SIGKILL], || self.has_process(pid));
        }
    }

    /// Whether a process is in this group.
    fn has_process(&self, pid: i32) -> bool {
        let group = group_below_mount(&pid.to_string()).unwrap_or_default();
        !group.as_os_str().is_empty() && self.path.ends_with(group)
    }

    /// Kills every process, including those that are being forked.
    pub(super) fn kill(&self) {
        let _ = self.kill.write_all_at(b"1", 0);
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        File::options()
            .write(true)
            .open(self.path.join(file))?
            .write_all(value.as_bytes())
    }
}

fn format_limit(value: Option<u64>) -> String {
    value.map_or_else(|| "max".to_owned(), |v| v.to_string())
}

/// The value for `cpu.max`: CPU time per tenth of a second, in microseconds.
fn cpu_max(cpus_milli: Option<u64>) -> String {
    let quota = format_limit(cpus_milli.map(|milli| milli.saturating_mul(100)));
    format!("{quota} 100000")
}

/// The number of processes that were killed for lack of memory, according to
/// `memory.events`.
fn oom_kills(events: &str) -> u64 {
    events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_available_controllers_that_are_not_enabled_are_missing() {
        let missing_controllers = |available, enabled| -> Vec<&str> {
            missing_controllers(available, enabled, &CONTROLLERS).collect()
        };
        assert_eq!(
            missing_controllers("cpuset cpu io memory pids\n", "\n"),
            CONTROLLERS
        );
        assert_eq!(missing_controllers("cpuset cpu memory", "memory"), ["cpu"]);
        // `cpuset` is not `cpu`.
        assert!(missing_controllers("cpuset hugetlb\n", "").is_empty());
        assert!(missing_controllers("", "").is_empty());
    }

    #[test]
    fn a_group_with_another_process_is_not_ours_alone() {
        assert!(is_only_process("12\n", 12));
        assert!(!is_only_process("12\n13\n", 12));
        assert!(!is_only_process("13\n", 12));
        assert!(!is_only_process("", 12));
    }

    /// A new group. `None` if this process may not create groups.
    fn group(name: &str) -> Option<PathBuf> {
        use std::io::Write;
        let made = current_group().and_then(|own| {
            let name = format!("test-{name}-{}", std::process::id());
            let group = parent_of_leaf(own).join(name);
            fs::create_dir(&group)?;
            match group.join("cgroup.kill").exists() {
                true => Ok(group),
                false => Err(io::Error::other("this kernel has no cgroup.kill")),
            }
        });
        made.inspect_err(|error| {
            let _ = writeln!(io::stderr(), "skipped: a control group: {error}");
        })
        .ok()
    }

    #[test]
    fn a_group_has_the_processes_that_are_in_it() {
        let Some(place) = group("members") else {
            return;
        };
        let job = Cgroup::create(place.join("job")).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a process to move")]
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        assert!(!job.has_process(pid as i32));
        fs::write(job.path.join("cgroup.procs"), pid.to_string()).unwrap();
        assert!(job.has_process(pid as i32));
        // neither of a group above it nor of one below it
        fs::create_dir(job.path.join("below")).unwrap();
        fs::write(job.path.join("below/cgroup.procs"), pid.to_string()).unwrap();
        assert!(!job.has_process(pid as i32));
        child.kill().unwrap();
        child.wait().unwrap();
        kill_and_remove(&place).unwrap();
    }

    #[test]
    fn a_stale_folder_is_locked_until_it_is_removed() {
        let Some(place) = group("stale") else {
            return;
        };
        // as a dead worker leaves it
        let stale = place.join(format!("{WORKER_PREFIX}1-0"));
        fs::create_dir(&stale).unwrap();
        for number in 0..500 {
            fs::create_dir(stale.join(number.to_string())).unwrap();
        }
        std::thread::scope(|scope| {
            scope.spawn(|| remove_stale_cgroups(&place));
            // Not before the removal has begun: this lock would prevent it.
            while stale.join("0").exists() && stale.join("499").exists() {
                std::thread::yield_now();
            }
            while let Ok(folder) = File::open(&stale) {
                let locked = Flock::lock(folder, FlockArg::LockExclusiveNonblock);
                assert!(locked.is_err() || !stale.exists(), "a worker could lock it");
            }
        });
        fs::remove_dir(&place).unwrap();
    }

    #[test]
    fn a_folder_that_replaced_an_opened_one_is_another() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("worker");
        fs::create_dir(&path).unwrap();
        let opened = File::open(&path).unwrap();
        assert!(is_at(&opened, &path));
        fs::remove_dir(&path).unwrap();
        assert!(!is_at(&opened, &path));
        fs::create_dir(&path).unwrap();
        assert!(!is_at(&opened, &path));
        // a worker has it
        let owner = lock_folder(&path).unwrap();
        assert!(lock_folder(&path).is_none());
        drop(owner);
        assert!(lock_folder(&path).is_some());
    }

    #[test]
    fn groups_are_created_next_to_the_leaf_and_not_in_it() {
        let within = |path: &str| parent_of_leaf(PathBuf::from(path));
        assert_eq!(
            within("/sys/a.service/naq-leaf-7"),
            Path::new("/sys/a.service")
        );
        assert_eq!(within("/sys/a.service"), Path::new("/sys/a.service"));
    }

    #[test]
    fn limits_are_written_in_the_format_of_the_kernel() {
        assert_eq!(format_limit(None), "max");
        assert_eq!(format_limit(Some(1 << 20)), "1048576");
        assert_eq!(cpu_max(None), "max 100000");
        assert_eq!(cpu_max(Some(1500)), "150000 100000");
        // The kernel's minimum is a millisecond.
        assert_eq!(cpu_max(Some(10)), "1000 100000");
        let events = "low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 1\n";
        assert_eq!(oom_kills(events), 3);
        assert_eq!(oom_kills(""), 0);
    }
}
