//! The descriptors that a process inherits.
#![expect(
    unsafe_code,
    reason = "taking over a descriptor by its number cannot be checked"
)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit};

/// The only descriptor that a spawner inherits: its socket, as standard input.
const SOCKET: RawFd = 0;

/// Arranges the descriptors of a process that has just started: closes leaked ones,
/// opens `/dev/null` as 0 to 3, and returns the socket, moved above them. Call it once,
/// before anything else is opened.
pub(crate) fn inherit_spawner_socket() -> Result<OwnedFd, Errno> {
    // SAFETY: plain system calls on numbers; this is the first code of the process, so
    // no object owns any of these descriptors. Standard error stays open until the
    // end, for a message on failure.
    unsafe {
        close_from(3);
        let socket = Errno::result(libc::fcntl(SOCKET, libc::F_DUPFD_CLOEXEC, 10))?;
        let socket = OwnedFd::from_raw_fd(socket);
        let flags = (OFlag::O_RDWR | OFlag::O_CLOEXEC).bits();
        let null = Errno::result(libc::open(c"/dev/null".as_ptr(), flags))?;
        for fd in [0, 1, 2, 3] {
            if fd != null {
                Errno::result(libc::dup3(null, fd, libc::O_CLOEXEC))?;
            }
        }
        if null > 3 {
            libc::close(null);
        }
        Ok(socket)
    }
}

/// Closes every descriptor from `first` on. Linux before 5.9 cannot do so at once. There it closes those that `/proc`
/// lists, or all that the process may have if `/proc` is not mounted. That allocates: this process has one thread.
///
/// # Safety
///
/// No object uses a descriptor from `first` on.
pub(super) unsafe fn close_from(first: RawFd) {
    // SAFETY: a plain system call; the caller vouches for the descriptors.
    if unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } == 0 {
        return;
    }
    let listed = std::fs::read_dir("/proc/self/fd").map(|entries| {
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| name.parse().ok()).collect()
    });
    let open: Vec<RawFd> = listed.unwrap_or_else(|_| {
        let max = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        (first..RawFd::try_from(max).unwrap_or(RawFd::MAX)).collect()
    });
    for fd in open.into_iter().filter(|fd| *fd >= first) {
        // SAFETY: the caller vouches for the descriptors. The one of the list is closed already.
        unsafe {
            libc::close(fd);
        }
    }
}
