//! The first process of a PID namespace: it adopts and reaps the orphans of jobs there,
//! and when it ends, the kernel kills every other process of the namespace.
#![expect(
    unsafe_code,
    reason = "arranging descriptors by their number cannot be checked"
)]

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::super::errno::errno_of;
use super::clone::fork_into_pid_namespace;
use super::inherited_fds::close_from;
use super::socket::send;
use super::wait::{Reap, reap};

/// From the spawner: send TERM to every process of the namespace.
pub(crate) const TERMINATE_ALL: Signal = Signal::SIGTERM;

/// From the spawner: exit as soon as no process is left to reap.
pub(crate) const EXIT_WHEN_EMPTY: Signal = Signal::SIGUSR1;

/// The number to which the socket is moved: the first one after the spawner's 0 to 3.
const SOCKET: RawFd = 4;

/// `si_code` of a signal that a process sent with `kill`.
const SI_USER: i32 = 0;

/// Forks the first process of a new PID namespace. That process creates a mount
/// namespace with its own `/proc` and `private` file systems, and reports the outcome over `socket`: an
/// errno, and with 0 the descriptors of the PID namespace, the mount namespace, its root
/// directory, its `/proc` and each of those file systems.
///
/// The caller must be single-threaded with every signal blocked.
pub(crate) fn fork_init(socket: &OwnedFd, private: &PrivateMounts) -> Result<i32, Errno> {
    let pid = fork_into_pid_namespace()?;
    if pid == 0 {
        init(socket.as_raw_fd(), private);
    }
    Ok(pid)
}

fn init(socket: RawFd, private: &PrivateMounts) -> ! {
    // SAFETY: plain system calls on numbers. The parent's objects that own the
    // descriptors closed here are never dropped in this copy, which ends with `_exit`.
    // All others are closed: a job's pipes must not stay open.
    unsafe {
        if socket != SOCKET && libc::dup2(socket, SOCKET) < 0 {
            libc::_exit(1);
        }
        close_from(SOCKET + 1);
    }
    // SAFETY: the descriptor was just created and is closed only below.
    let socket = unsafe { BorrowedFd::borrow_raw(SOCKET) };
    match set_up_namespace(private) {
        Ok(made) => {
            let fds = [&made.pids, &made.mounts, &made.root, &made.proc].into_iter();
            let fds: Vec<RawFd> = fds.chain(&made.private).map(AsRawFd::as_raw_fd).collect();
            // The spawner is dead, so nobody needs the answer.
            if send(socket, &0_i32.to_le_bytes(), &fds).is_err() {
                exit();
            }
        }
        Err(errno) => {
            let _ = send(socket, &(errno as i32).to_le_bytes(), &[]);
            exit();
        }
    }
    // SAFETY: nothing in this process uses a descriptor above 3 any more.
    unsafe { close_from(SOCKET) };
    let _ = serve();
    exit()
}

/// The descriptors of a namespace that the spawner needs.
struct NamespaceFds {
    pids: File,
    mounts: File,
    root: File,
    proc: File,
    private: Vec<File>,
}

/// Where programs share memory as files.
pub(crate) const SHM: &str = "/dev/shm";

/// Where programs have temporary files.
pub(crate) const TMP: &str = "/tmp";

/// The file systems in memory of a namespace. What a job leaves there ends with it, counts as its
/// own memory, and is seen by no other job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PrivateMounts {
    /// Whether `/dev/shm` is one of them.
    pub(crate) shm: bool,
    /// The folders below `/tmp` that stay visible in a private `/tmp`. `None` if `/tmp` is that of
    /// the machine.
    pub(crate) tmp: Option<Vec<String>>,
    /// Folders that are empty for the jobs, and to which nothing can be written.
    pub(crate) hidden: Vec<String>,
}

/// Covers a folder by an empty one. A folder that does not exist, or no longer does in a private `/tmp`,
/// has nothing to hide.
fn hide(folder: &str) -> Result<(), Errno> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    match mount(
        Some("tmpfs"),
        folder,
        Some("tmpfs"),
        flags,
        Some("mode=0555"),
    ) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(()),
        mounted => mounted,
    }
}

fn mount_in_memory(at: &str) -> Result<(), Errno> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some("mode=1777"))
}

/// Mounts an empty `/tmp`, and in it the folders that are kept of the former one.
fn mount_tmp(kept: &[String]) -> Result<(), Errno> {
    let io = |e: std::io::Error| errno_of(&e);
    let mut folders = Vec::new();
    for path in kept {
        // Before the mount hides them.
        folders.push((path, File::open(path).map_err(io)?));
    }
    mount_in_memory(TMP)?;
    for (path, folder) in folders {
        std::fs::create_dir_all(path).map_err(io)?;
        let from = format!("/proc/self/fd/{}", folder.as_raw_fd());
        let (flags, none) = (MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>);
        mount(Some(from.as_str()), path.as_str(), none, flags, none)?;
    }
    Ok(())
}

fn set_up_namespace(private: &PrivateMounts) -> Result<NamespaceFds, Errno> {
    // The kernel kills this process with the spawner, and the namespace with this
    // process. If the spawner is dead already, sending the answer fails.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The worker takes a child in another session for a job's orphan, to be killed.
    nix::unistd::setsid()?;
    let _ = prctl::set_name(c"naq-init");
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Mounts of the host propagate into this namespace, but none propagates back.
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none)?;
    let open = |path| File::open(path).map_err(|e| errno_of(&e));
    let mut mounted = Vec::new();
    if private.shm {
        match mount_in_memory(SHM) {
            Ok(()) => mounted.push(open(SHM)?),
            // Not every machine has one.
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => return Err(errno),
        }
    }
    if let Some(kept) = &private.tmp {
        mount_tmp(kept)?;
        mounted.push(open(TMP)?);
    }
    for folder in &private.hidden {
        hide(folder)?;
    }
    Ok(NamespaceFds {
        pids: open("/proc/self/ns/pid")?,
        mounts: open("/proc/self/ns/mnt")?,
        root: open("/")?,
        proc: open("/proc")?,
        private: mounted,
    })
}

/// Reaps children and serves the spawner's signals.
fn serve() -> Result<(), Errno> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGCHLD, TERMINATE_ALL, EXIT_WHEN_EMPTY] {
        mask.add(signal);
    }
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC)?;
    let mut exiting = false;
    loop {
        let alone = loop {
            match reap() {
                Reap::One(_) => {}
                Reap::NoneEnded => break false,
                Reap::NoChildren => break true,
            }
        };
        if exiting && alone {
            return Ok(());
        }
        let Some(info) = signals.read_signal()? else {
            continue;
        };
        // A sender outside of the namespace has no process id in it. Jobs inside must
        // not send these signals.
        if info.ssi_pid != 0 || info.ssi_code != SI_USER {
            continue;
        }
        if info.ssi_signo == TERMINATE_ALL as u32 {
            // All processes of the namespace except this one.
            let everybody = Pid::from_raw(-1);
            let _ = kill(everybody, Signal::SIGTERM);
            let _ = kill(everybody, Signal::SIGCONT);
        } else if info.ssi_signo == EXIT_WHEN_EMPTY as u32 {
            exiting = true;
        }
    }
}

fn exit() -> ! {
    // SAFETY: ends this process at once, without running the exit handlers that the
    // parent registered.
    unsafe { libc::_exit(0) }
}
