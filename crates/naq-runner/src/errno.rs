//! The error number of a system call that the standard library made.

use std::io;

use nix::errno::Errno;

/// The errno of an I/O error, or EIO if it has none.
pub(super) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
