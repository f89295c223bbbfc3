//! Places between two steps of a job's way, where a test may have the worker die or stand still.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The worker has come to this step.
///
/// With failpoints compiled in, which is where tests are and nowhere else, the action `return`
/// kills this process as SIGKILL from outside would; `sleep` and `pause` make it stand still.
pub(super) fn step(name: &'static str) {
    let _ = name;
    fail::fail_point!(name, |_| {
        tracing::error!("dies at {name}");
        let _ = kill(Pid::this(), Signal::SIGKILL);
    });
}
