//! Waiting for descriptors on the runtime.
#![expect(
    unsafe_code,
    reason = "tokio cannot check that a descriptor stays the same while it is registered"
)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor; gives it back on failure.
pub(crate) fn register(
    fd: OwnedFd,
    interest: Interest,
) -> Result<AsyncFd<OwnedFd>, (OwnedFd, io::Error)> {
    // SAFETY: an OwnedFd keeps its descriptor open until it is dropped, and
    // always names the same one; AsyncFd deregisters before it gives it up.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(|e| e.into_parts())
}

/// Registers a descriptor to be waited for until it can be read. For rooms that may not vouch for
/// a descriptor themselves.
///
/// # Errors
/// Where the runtime cannot take it.
pub fn register_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    register(fd, Interest::READABLE).map_err(|(_, error)| error)
}
