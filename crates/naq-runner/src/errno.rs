//! The error number of a system call that the standard library made.

use std::io;

use nix::errno::Errno;

/// Whether an error says that this machine is short of something, such as processes, descriptors or
/// disk space. Another machine, or this one a little later, may not be.
pub(super) fn is_resource_shortage(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EAGAIN
            | Errno::ENOMEM
            | Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOSPC
            | Errno::EDQUOT
            | Errno::ENOBUFS
    )
}

/// The errno of an I/O error, or EIO if it has none.
pub(super) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
