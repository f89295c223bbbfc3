//! Failpoints: places between two steps of a job's way where a test can kill or suspend the
//! process.

/// Marks a failpoint.
///
/// Failpoints are compiled in only for tests. The action `return` kills the process as an external
/// SIGKILL would; `sleep` and `pause` suspend it.
pub fn failpoint(name: &'static str) {
    let _ = name;
    fail::fail_point!(name, |_| {
        use rustix::process::{Signal, getpid, kill_process};
        tracing::error!("dies at {name}");
        let _ = kill_process(getpid(), Signal::KILL);
    });
}

/// Asks a test for a value. A test gives one by the action `return(VALUE)`; a program that is not built for tests
/// gets `None`.
pub fn failpoint_value(name: &'static str) -> Option<String> {
    let _ = name;
    fail::fail_point!(name, |value| value);
    None
}
