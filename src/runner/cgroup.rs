//! Control groups, version 2: where ours is, one folder per worker in it, one
//! per spawner in that, and one group per running job in that, used again and
//! again.
//!
//! The worker holds a lock on its folder as long as it lives, so a worker that
//! starts can tell (across PID namespaces too) which folders a dead one left.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What the folders of workers are called.
const PREFIX: &str = "naq-worker-";

/// How long a killed tree may take to be gone before it is given up on.
const GONE_MAX: Duration = Duration::from_secs(10);

/// This worker's folder, locked and ready for spawners.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    /// Held, never read: its lock says that this worker lives.
    _lock: Flock<File>,
}

impl Root {
    /// Makes this worker's folder in its own group, after removing what dead
    /// workers left there. Fails where cgroup v2 is not to be had or not ours
    /// to write.
    pub(super) fn create() -> io::Result<Root> {
        let own = own_group()?;
        sweep(&own);
        let mut taken = 0;
        loop {
            let path = own.join(format!("{PREFIX}{}-{taken}", std::process::id()));
            taken += 1;
            match fs::create_dir(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && taken < 1000 => continue,
                made => made?,
            }
            // Another worker's sweep may find the folder before it is locked:
            // then it is gone, and the next name is tried.
            let Ok(file) = File::open(&path) else {
                continue;
            };
            let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
                continue;
            };
            if !path.join("cgroup.kill").exists() {
                let _ = fs::remove_dir(&path);
                if taken < 1000 && !path.exists() && own.join("cgroup.procs").exists() {
                    return Err(io::Error::other("this kernel has no cgroup.kill"));
                }
                continue;
            }
            enable_controllers(&own);
            enable_controllers(&path);
            return Ok(Root { path, _lock: lock });
        }
    }

    /// Makes the folder of a spawner.
    pub(super) fn spawner_folder(&self, spawner: usize) -> io::Result<PathBuf> {
        let path = self.path.join(format!("spawner-{spawner}"));
        match fs::create_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        enable_controllers(&path);
        Ok(path)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = kill_and_remove(&self.path);
    }
}

/// The v2 group that this process is in.
fn own_group() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mount = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| at.replace("\\040", " "))
        })
        .next()
        .ok_or_else(|| io::Error::other("no cgroup v2 is mounted"))?;
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let group = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .ok_or_else(|| io::Error::other("this process is in no v2 group"))?;
    Ok(Path::new(&mount).join(group))
}

/// Lets the groups below have the controllers there are. What cannot be had is
/// done without: limits then fall back to resource limits and watching.
fn enable_controllers(group: &Path) {
    for controller in ["+memory", "+pids", "+cpu"] {
        let _ = fs::write(group.join("cgroup.subtree_control"), controller);
    }
}

/// Removes the folders of workers that are gone, with what still runs there.
fn sweep(own: &Path) {
    let Ok(entries) = fs::read_dir(own) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else {
            continue;
        };
        if Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
            let _ = kill_and_remove(&entry.path());
        }
    }
}

/// Kills everything in a group and below, waits until it is gone, and removes
/// the group and those below. Blocks for as long as that takes.
pub(super) fn kill_and_remove(group: &Path) -> io::Result<()> {
    let mut events = File::open(group.join("cgroup.events"))?;
    fs::write(group.join("cgroup.kill"), "1")?;
    let deadline = Instant::now() + GONE_MAX;
    while populated(&mut events)? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], wait)?;
    }
    remove_groups(group)
}

fn remove_groups(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

fn populated(events: &mut File) -> io::Result<bool> {
    let mut buffer = [0; 256];
    events.rewind()?;
    let count = events.read(&mut buffer)?;
    let text = std::str::from_utf8(&buffer[..count]).unwrap_or_default();
    Ok(!text.lines().any(|line| line == "populated 0"))
}

/// What a group is allowed, where its controllers are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Allowance {
    pub(super) memory_bytes: Option<u64>,
    pub(super) processes: Option<u64>,
    /// Thousandths of a CPU.
    pub(super) cpus_milli: Option<u64>,
}

/// The group of one running job at a time.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
    dir: File,
    events: File,
    allowed: Allowance,
    /// `memory.max` is there.
    pub(super) has_memory: bool,
    /// `pids.max` is there.
    pub(super) has_pids: bool,
    ooms: u64,
}

impl Group {
    /// Makes a group.
    pub(super) fn create(path: PathBuf) -> io::Result<Group> {
        fs::create_dir(&path)?;
        Ok(Group {
            dir: File::open(&path)?,
            events: File::open(path.join("cgroup.events"))?,
            allowed: Allowance::default(),
            has_memory: path.join("memory.max").exists(),
            has_pids: path.join("pids.max").exists(),
            ooms: 0,
            path,
        })
    }

    /// Removes the group, which is empty. One that the kernel still holds on to
    /// goes with its spawner's folder.
    pub(super) fn remove(self) {
        let _ = fs::remove_dir(&self.path);
    }

    /// The directory, to start a process in.
    pub(super) fn dir(&self) -> RawFd {
        self.dir.as_raw_fd()
    }

    /// Where an exceptional condition tells that the group may be empty.
    pub(super) fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// `cgroup.procs`, to join by hand.
    pub(super) fn open_procs(&self) -> io::Result<File> {
        File::options()
            .write(true)
            .open(self.path.join("cgroup.procs"))
    }

    /// Sets what differs from what the last job here was allowed.
    pub(super) fn allow(&mut self, allowance: Allowance) -> io::Result<()> {
        if self.has_memory && allowance.memory_bytes != self.allowed.memory_bytes {
            self.write("memory.max", &bound(allowance.memory_bytes))?;
            // Swap would let a job take more than it was given. Not every
            // kernel accounts it.
            let _ = self.write("memory.swap.max", "0");
        }
        if self.has_pids && allowance.processes != self.allowed.processes {
            self.write("pids.max", &bound(allowance.processes))?;
        }
        if allowance.cpus_milli != self.allowed.cpus_milli && self.path.join("cpu.max").exists() {
            let quota = bound(allowance.cpus_milli.map(|milli| milli.saturating_mul(100)));
            self.write("cpu.max", &format!("{quota} 100000"))?;
        }
        self.allowed = allowance;
        if self.has_memory {
            self.ooms = self.ooms_total();
        }
        Ok(())
    }

    /// Whether the kernel killed a process here for want of memory since
    /// [`Group::allow`].
    pub(super) fn had_oom(&self) -> bool {
        self.has_memory && self.ooms_total() > self.ooms
    }

    fn ooms_total(&self) -> u64 {
        fs::read_to_string(self.path.join("memory.events"))
            .unwrap_or_default()
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
            .unwrap_or(0)
    }

    /// Whether no process is left.
    pub(super) fn is_empty(&mut self) -> bool {
        matches!(populated(&mut self.events), Ok(false))
    }

    /// The processes here that are not dead yet.
    pub(super) fn processes(&self) -> Vec<i32> {
        fs::read_to_string(self.path.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect()
    }

    /// Asks every process to end, stopped ones too.
    pub(super) fn terminate(&self) {
        for pid in self.processes() {
            let pid = Pid::from_raw(pid);
            let _ = kill(pid, Signal::SIGTERM);
            let _ = kill(pid, Signal::SIGCONT);
        }
    }

    /// Kills every process, forks under way included.
    pub(super) fn kill(&self) {
        let _ = self.write("cgroup.kill", "1");
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        File::options()
            .write(true)
            .open(self.path.join(file))?
            .write_all(value.as_bytes())
    }
}

fn bound(value: Option<u64>) -> String {
    value.map_or_else(|| "max".to_owned(), |v| v.to_string())
}
