//! Places between two steps of a job's way, where a test may have the process die or stand still.

/// This process has come to this step.
///
/// With failpoints compiled in, which is where tests are and nowhere else, the action `return`
/// kills it as SIGKILL from outside would; `sleep` and `pause` make it stand still.
pub fn failpoint(name: &'static str) {
    let _ = name;
    fail::fail_point!(name, |_| {
        use rustix::process::{Signal, getpid, kill_process};
        tracing::error!("dies at {name}");
        let _ = kill_process(getpid(), Signal::KILL);
    });
}
