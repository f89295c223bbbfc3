//! PID namespaces: one per running job at a time, used again and again like a
//! control group.
//!
//! The first process of a namespace is a copy of the spawner
//! ([`super::sys::namespace_init`]); a job's program is the second. It is started by
//! the spawner *into* the namespace, so it stays the spawner's own child: exit,
//! signal and usage are told as without a namespace, and its signals have their
//! usual defaults, which the first process of a namespace has not.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::sys::namespace_init::{EXIT_WHEN_EMPTY, TERMINATE_ALL, fork_init};
use super::sys::socket::{Receiver, pair};

/// Makes namespaces, in a spawner.
#[derive(Debug)]
pub(super) struct Namespaces {
    /// The spawner's children.
    children: Children,
}

impl Namespaces {
    /// Finds out whether namespaces can be made here: as root, or else in a
    /// user namespace, into which this process moves. The caller makes one to
    /// see whether it works; in words if not.
    pub(super) fn new() -> Result<Namespaces, (Errno, &'static str)> {
        // The least of what is needed, and no harm.
        if unshare(CloneFlags::CLONE_NEWNS).is_err() {
            enter_user_namespace().map_err(|errno| {
                (
                    errno,
                    "it needs root, or user namespaces, which are refused",
                )
            })?;
        }
        let this = std::process::id() as i32;
        let children = Children::open(this).map_err(|e| {
            (
                errno_of(&e),
                "this kernel keeps no list of children in /proc",
            )
        })?;
        Ok(Namespaces { children })
    }

    /// Makes a namespace, with its first process in it.
    pub(super) fn create(&self) -> Result<Namespace, Errno> {
        let (ours, theirs) = pair()?;
        let init = fork_init(&theirs)?;
        drop(theirs);
        match Namespace::handshake(init, &ours) {
            Ok(namespace) => Ok(namespace),
            Err(errno) => {
                let init = Pid::from_raw(init);
                let _ = kill(init, Signal::SIGKILL);
                let _ = nix::sys::wait::waitpid(init, None);
                Err(errno)
            }
        }
    }

    /// Whether this process has a child that `is_known` does not know: a
    /// process can make its child its parent's (CLONE_PARENT), and a job's
    /// first process has this one as its parent.
    pub(super) fn has_unknown_children(&mut self, is_known: impl Fn(i32) -> bool) -> bool {
        match self.children.read() {
            Ok(text) => text
                .split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .any(|pid| !is_known(pid)),
            Err(_) => true,
        }
    }
}

/// Moves this process into a user namespace where it is the same user, and may
/// make other namespaces. Its files in `/proc` have to be its own for that: it
/// must be dumpable still.
fn enter_user_namespace() -> Result<(), Errno> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    let write = |file: &str, text: String| fs::write(file, text).map_err(|e| errno_of(&e));
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// A PID namespace, and a mount namespace whose `/proc` shows it.
#[derive(Debug)]
pub(super) struct Namespace {
    /// Its first process.
    init: i32,
    pids: OwnedFd,
    mounts: OwnedFd,
    root: OwnedFd,
    proc: OwnedFd,
    /// The children of its first process.
    children: Children,
    /// Tells when something is mounted or unmounted.
    mount_table: File,
    /// The first process was asked to end.
    exiting: bool,
    /// It has ended, and with it everything there was.
    ended: bool,
}

impl Namespace {
    fn handshake(init: i32, socket: &OwnedFd) -> Result<Namespace, Errno> {
        poll(
            &mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)],
            PollTimeout::NONE,
        )?;
        let mut receiver = Receiver::new();
        let message = receiver.receive(socket.as_fd())?;
        let told = receiver.bytes[..message.bytes].try_into();
        match told.map(i32::from_le_bytes) {
            Ok(0) => {}
            Ok(errno) => return Err(Errno::from_raw(errno)),
            Err(_) => return Err(Errno::ESRCH),
        }
        let Ok([pids, mounts, root, proc]) = <[OwnedFd; 4]>::try_from(message.fds) else {
            return Err(Errno::EMFILE);
        };
        let open = |path: String| File::open(path).map_err(|e| errno_of(&e));
        Ok(Namespace {
            init,
            pids,
            mounts,
            root,
            proc,
            children: Children::open(init).map_err(|e| errno_of(&e))?,
            mount_table: open(format!("/proc/{init}/mounts"))?,
            exiting: false,
            ended: false,
        })
    }

    /// The PID namespace, to start a child in.
    pub(super) fn pids(&self) -> RawFd {
        self.pids.as_raw_fd()
    }

    /// The mount namespace and its root directory, for the child to enter.
    pub(super) fn mounts(&self) -> (RawFd, RawFd) {
        (self.mounts.as_raw_fd(), self.root.as_raw_fd())
    }

    /// The root directory of its mount namespace.
    pub(super) fn root(&self) -> RawFd {
        self.root.as_raw_fd()
    }

    /// The id of its first process, here.
    pub(super) fn init(&self) -> i32 {
        self.init
    }

    /// Asks every process to end, stopped ones too.
    pub(super) fn terminate(&self) {
        self.signal(TERMINATE_ALL);
    }

    /// Kills everything.
    pub(super) fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        // Once reaped, its number may be somebody else's.
        if !self.ended {
            let _ = kill(Pid::from_raw(self.init), signal);
        }
    }

    /// Its first process was reaped.
    pub(super) fn mark_ended(&mut self) {
        self.ended = true;
    }

    /// Whether the processes of a job are gone whose first one was reaped: what
    /// that one left became the children of `init`. If not, `init` is told to
    /// end with the last of them, which is an event to wait for.
    pub(super) fn is_empty(&mut self, has_unknown: bool) -> bool {
        if self.ended {
            return true;
        }
        if !self.exiting {
            let alone = self.children.read().is_ok_and(str::is_empty);
            if alone && !has_unknown {
                return true;
            }
            self.exiting = true;
            self.signal(EXIT_WHEN_EMPTY);
        }
        false
    }

    /// Whether another job may have it: it is as it was made.
    pub(super) fn is_reusable(&self) -> bool {
        let mut changed = [PollFd::new(self.mount_table.as_fd(), PollFlags::POLLPRI)];
        !self.ended && !self.exiting && poll(&mut changed, PollTimeout::ZERO) == Ok(0)
    }

    /// Where `/proc` of this namespace can be read from outside.
    pub(super) fn proc(&self) -> String {
        format!("/proc/self/fd/{}", self.proc.as_raw_fd())
    }

    /// Its processes but the first, as they are numbered there.
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

/// The list of a process's children, kept open.
#[derive(Debug)]
struct Children {
    file: File,
    text: String,
}

impl Children {
    fn open(pid: i32) -> io::Result<Children> {
        Ok(Children {
            file: File::open(format!("/proc/{pid}/task/{pid}/children"))?,
            text: String::new(),
        })
    }

    fn read(&mut self) -> io::Result<&str> {
        self.text.clear();
        self.file.rewind()?;
        self.file.read_to_string(&mut self.text)?;
        Ok(&self.text)
    }
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
