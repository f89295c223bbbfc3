//! Waiting for descriptors on the runtime.
#![expect(
    unsafe_code,
    reason = "tokio cannot check that a descriptor stays the same while it is registered"
)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor. Returns it with the error on failure.
pub(crate) fn register(
    fd: OwnedFd,
    interest: Interest,
) -> Result<AsyncFd<OwnedFd>, (OwnedFd, io::Error)> {
    // SAFETY: an OwnedFd keeps its descriptor open until it is dropped and always
    // has the same number; AsyncFd deregisters it before releasing it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(|e| e.into_parts())
}

/// Registers a descriptor whose readability is awaited. For crates that deny `unsafe`
/// code.
///
/// # Errors
///
/// Returns an I/O error if the runtime cannot register the descriptor.
pub fn register_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    register(fd, Interest::READABLE).map_err(|(_, error)| error)
}
