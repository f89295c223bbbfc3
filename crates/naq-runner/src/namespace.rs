//! PID namespaces: each contains one running job at a time and is reused like a
//! control group.
//!
//! The first process of a namespace is a copy of the spawner
//! ([`super::sys::namespace_init`]); the job's program is the second. The spawner
//! starts it *into* the namespace, so it remains a child of the spawner. The
//! spawner therefore reads its exit status and usage as without a namespace, and
//! its signals have their usual defaults, unlike those of the first process.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::{Statvfs, fstatvfs, statvfs};
use nix::unistd::Pid;

use super::children::Children;
use super::errno::errno_of;
use super::sys::namespace_init::{EXIT_WHEN_EMPTY, PrivateMounts, TERMINATE_ALL, fork_init};
use super::sys::socket::{Receiver, pair};

/// How long the first process of a namespace may take to mount its file systems, in milliseconds. A
/// spawner that waits for it starts no other job.
const HANDSHAKE_MAX_MS: u16 = 10_000;

/// Makes sure that this process may create namespaces: as root, or else inside a user
/// namespace, into which it then moves. Only a created namespace proves that it works,
/// so the caller creates one.
pub(super) fn prepare() -> Result<(), Errno> {
    // A new mount namespace needs the same permission and changes nothing.
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        enter_user_namespace()?;
    }
    Ok(())
}

/// Bytes in use in a file system.
fn used_bytes(found: &Statvfs) -> u64 {
    (found.blocks() - found.blocks_free()) * found.fragment_size()
}

/// Moves this process into a user namespace in which it has the same ids and may
/// create other namespaces. It has to own its files in `/proc` to do that, so it
/// must still be dumpable.
fn enter_user_namespace() -> Result<(), Errno> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    let write = |file: &str, text: String| fs::write(file, text).map_err(|e| errno_of(&e));
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// A PID namespace and a mount namespace whose `/proc` shows it.
#[derive(Debug)]
pub(super) struct Namespace {
    /// The first process of the namespace.
    init: i32,
    pids: OwnedFd,
    mounts: OwnedFd,
    root: OwnedFd,
    proc: OwnedFd,
    /// Its private file systems in memory, each with the number of its free inodes before any job.
    private_mounts: Vec<(OwnedFd, u64)>,
    /// The children of the first process.
    children: Children,
    /// Reports when something is mounted or unmounted, once for each change.
    mount_table: File,
    /// Whether something was mounted or unmounted since the namespace was created.
    mounts_changed: Cell<bool>,
    /// Whether the first process was asked to exit when empty.
    exiting: bool,
    /// Whether the first process has ended, and every other one with it.
    ended: bool,
}

impl Namespace {
    /// Creates a namespace with its first process and its private file systems.
    pub(super) fn create(private_mounts: &PrivateMounts) -> Result<Namespace, Errno> {
        let (ours, theirs) = pair()?;
        let init = fork_init(&theirs, private_mounts)?;
        drop(theirs);
        match Namespace::handshake(init, &ours, HANDSHAKE_MAX_MS) {
            Ok(namespace) => Ok(namespace),
            Err(errno) => {
                let init = Pid::from_raw(init);
                let _ = kill(init, Signal::SIGKILL);
                let _ = nix::sys::wait::waitpid(init, None);
                Err(errno)
            }
        }
    }

    /// Receives the descriptors of the namespace from its first process.
    ///
    /// # Errors
    /// Returns [`Errno::ETIMEDOUT`] if the process sends nothing in time, and the error that it sends.
    fn handshake(init: i32, socket: &OwnedFd, limit_ms: u16) -> Result<Namespace, Errno> {
        let mut answer = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut answer, PollTimeout::from(limit_ms))? == 0 {
            return Err(Errno::ETIMEDOUT);
        }
        let mut receiver = Receiver::new();
        let message = receiver.receive(socket.as_fd())?;
        let answer = receiver.bytes[..message.bytes].try_into();
        match answer.map(i32::from_le_bytes) {
            Ok(0) => {}
            Ok(errno) => return Err(Errno::from_raw(errno)),
            Err(_) => return Err(Errno::ESRCH),
        }
        let mut fds = message.fds.into_iter();
        let (Some(pids), Some(mounts), Some(root), Some(proc), false) = (
            fds.next(),
            fds.next(),
            fds.next(),
            fds.next(),
            message.fds_lost,
        ) else {
            return Err(Errno::EMFILE);
        };
        let private_mounts = fds
            .map(|mounted| fstatvfs(&mounted).map(|empty| (mounted, empty.files_free())))
            .collect::<Result<_, _>>()?;
        let open = |path: String| File::open(path).map_err(|e| errno_of(&e));
        Ok(Namespace {
            init,
            pids,
            mounts,
            root,
            proc,
            private_mounts,
            children: Children::open(init).map_err(|e| errno_of(&e))?,
            mount_table: open(format!("/proc/{init}/mounts"))?,
            mounts_changed: Cell::new(false),
            exiting: false,
            ended: false,
        })
    }

    /// The PID namespace, to start a child in it.
    pub(super) fn pids(&self) -> RawFd {
        self.pids.as_raw_fd()
    }

    /// The mount namespace and its root directory, which the child enters.
    pub(super) fn mounts(&self) -> (RawFd, RawFd) {
        (self.mounts.as_raw_fd(), self.root.as_raw_fd())
    }

    /// The root directory of the mount namespace.
    pub(super) fn root(&self) -> RawFd {
        self.root.as_raw_fd()
    }

    /// The process id of the first process, outside of the namespace. `None` once that process was
    /// reaped: its process id may belong to another one.
    pub(super) fn init(&self) -> Option<i32> {
        (!self.ended).then_some(self.init)
    }

    /// Sends TERM to every process, and CONT so that stopped ones receive it.
    pub(super) fn terminate(&self) {
        self.signal(TERMINATE_ALL);
    }

    /// Kills every process.
    pub(super) fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        // Once reaped, its process id may belong to another process.
        if !self.ended {
            let _ = kill(Pid::from_raw(self.init), signal);
        }
    }

    /// The first process was reaped.
    pub(super) fn mark_ended(&mut self) {
        self.ended = true;
    }

    /// Whether all processes of a job are gone, once its first one was reaped: its
    /// orphans become children of `init`. If some are left, asks `init` to exit
    /// with the last of them, which is an event to wait for.
    pub(super) fn is_empty(&mut self, has_unknown: bool) -> bool {
        if self.ended {
            return true;
        }
        if !self.exiting {
            let alone = self.children.are_none();
            if alone && !has_unknown {
                return true;
            }
            self.exiting = true;
            self.signal(EXIT_WHEN_EMPTY);
        }
        false
    }

    /// The processes whose parents have ended: children of the first one. By their ids outside of the
    /// namespace.
    pub(super) fn orphans(&mut self) -> Vec<i32> {
        match self.children.pids() {
            Ok(pids) => pids.collect(),
            Err(_) => Vec::new(),
        }
    }

    /// Whether the first process was asked to exit, since processes were left.
    pub(super) fn is_exiting(&self) -> bool {
        self.exiting
    }

    /// Whether another job may use this namespace: it runs, and its mounts are
    /// unchanged.
    pub(super) fn is_reusable(&self) -> bool {
        !self.ended
            && !self.exiting
            && !self.have_mounts_changed()
            && self.are_private_mounts_empty()
    }

    /// Whether no job has left a file in a private file system.
    fn are_private_mounts_empty(&self) -> bool {
        self.private_mounts.iter().all(|(mounted, inodes_free)| {
            fstatvfs(mounted).is_ok_and(|found| found.files_free() == *inodes_free)
        })
    }

    fn have_mounts_changed(&self) -> bool {
        // A poll that reports a change forgets it.
        let mut changed = [PollFd::new(self.mount_table.as_fd(), PollFlags::POLLPRI)];
        if poll(&mut changed, PollTimeout::ZERO) != Ok(0) {
            self.mounts_changed.set(true);
        }
        self.mounts_changed.get()
    }

    /// Bytes in file systems in memory that no other process sees: those of the namespace, and
    /// those that a job has mounted in it.
    pub(super) fn private_tmpfs_bytes(&self) -> u64 {
        let own = self.private_mounts.iter();
        let own = own.filter_map(|(mounted, _)| fstatvfs(mounted).ok());
        let own: u64 = own.map(|found| used_bytes(&found)).sum();
        if !self.have_mounts_changed() {
            return own;
        }
        let points = |pid: &str| -> Vec<String> {
            let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap_or_default();
            mounts
                .lines()
                .filter_map(|line| {
                    let mut fields = line.split(' ');
                    let (_, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
                    (kind == "tmpfs" || kind == "ramfs").then(|| point.replace("\\040", " "))
                })
                .collect()
        };
        let outside = points("self");
        let root = format!("/proc/{}/root", self.init);
        let mounted: u64 = points(&self.init.to_string())
            .into_iter()
            .filter(|point| !outside.contains(point))
            .filter_map(|point| statvfs(format!("{root}{point}").as_str()).ok())
            .map(|found| used_bytes(&found))
            .sum();
        own + mounted
    }

    /// The path of this namespace's `/proc`, from outside.
    pub(super) fn proc(&self) -> String {
        format!("/proc/self/fd/{}", self.proc.as_raw_fd())
    }

    /// Its processes except the first, by their ids inside the namespace.
    pub(super) fn processes(&self) -> Vec<i32> {
        fs::read_dir(self.proc())
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != 1)
            .collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_process_that_says_nothing_is_given_up() {
        let (ours, _theirs) = pair().unwrap();
        let given_up = Namespace::handshake(0, &ours, 50);
        assert_eq!(given_up.err(), Some(Errno::ETIMEDOUT));
    }
}
