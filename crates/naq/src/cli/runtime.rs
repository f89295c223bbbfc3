//! The runtime of a verb.

use std::os::unix::net::UnixStream;

use tokio::runtime::{Builder, Runtime};

/// Pairs of descriptors that are enough for the runtime: for its events, its waker and signals.
const DESCRIPTOR_PAIRS: usize = 3;

/// Starts the runtime, on this thread.
///
/// # Errors
/// Returns the error of the operating system, such as that no more files may be open.
pub(super) fn start() -> std::io::Result<Runtime> {
    // The runtime panics if it cannot open those for signals, so try whether they can be opened.
    let spare = (0..DESCRIPTOR_PAIRS).map(|_| UnixStream::pair());
    drop(spare.collect::<std::io::Result<Vec<_>>>()?);
    Builder::new_current_thread().enable_all().build()
}
