//! Places between two steps of a job's way, where a test may have the process die or stand still.

/// This process has come to this step.
///
/// With failpoints compiled in, which is where tests are and nowhere else, the action `return`
/// kills it as SIGKILL from outside would; `sleep` and `pause` make it stand still.
pub(crate) fn step(name: &'static str) {
    let _ = name;
    fail::fail_point!(name, |_| {
        use nix::sys::signal::{Signal, kill};
        tracing::error!("dies at {name}");
        let _ = kill(nix::unistd::Pid::this(), Signal::SIGKILL);
    });
}
