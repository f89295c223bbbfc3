//! Processes that a test starts: the program, its output, and that none outlives the test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::Naq;
use crate::harness::nats::{TEST_TIMEOUT, binary, naq};

/// Polls until a condition holds, at most [`TEST_TIMEOUT`]. Only for conditions without an event.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + TEST_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process is alive and no zombie.
pub(crate) fn is_process_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .starts_with('Z')
    })
}

/// The program under test, with pipes.
pub(crate) fn command(
    args: &[String],
    environment: &BTreeMap<String, String>,
    home: &Path,
) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "the program under test is a process of its own"
    )]
    let mut command = Command::new(naq());
    command
        .args(args)
        .env_clear()
        .envs(environment)
        .current_dir(home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Starts a nats-server that naq does not manage, with a folder of its own and these arguments.
/// Returns it with its port.
pub(crate) fn start_plain_server(naq: &Naq, args: &[&str]) -> (GuardedChild, u16) {
    let folder = tempfile::Builder::new()
        .prefix("plain-")
        .tempdir_in(naq.home())
        .unwrap()
        .keep();
    #[expect(
        clippy::disallowed_methods,
        reason = "naq itself starts only servers that it manages"
    )]
    let mut command = Command::new(&binary().path);
    command
        .args(args)
        .args(["-a", "127.0.0.1", "-p", "-1", "-sd"])
        .arg(&folder)
        .arg("--ports_file_dir")
        .arg(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let server = GuardedChild::spawn(&mut command);
    let mut port = None;
    eventually("the server writes its port", || {
        port = std::fs::read_dir(&folder)
            .unwrap()
            .flatten()
            .find_map(|entry| {
                let text = std::fs::read_to_string(entry.path()).ok()?;
                let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
                ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
            });
        port.is_some()
    });
    (server, port.unwrap())
}

/// Output that is captured while it is written.
#[derive(Clone)]
pub(super) struct CapturedLog(Arc<(Mutex<String>, Condvar)>);

impl CapturedLog {
    pub(super) fn follow(from: impl Read + Send + 'static) -> CapturedLog {
        let log = CapturedLog(Arc::new((Mutex::new(String::new()), Condvar::new())));
        let ours = log.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(from);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|count| count > 0)
            {
                let (text, changed) = &*ours.0;
                text.lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&line));
                changed.notify_all();
                line.clear();
            }
        });
        log
    }

    /// Captures also unfinished lines, as a terminal shows what is typed.
    pub(super) fn follow_bytes(mut from: impl Read + Send + 'static) -> CapturedLog {
        let log = CapturedLog(Arc::new((Mutex::new(String::new()), Condvar::new())));
        let ours = log.clone();
        std::thread::spawn(move || {
            let mut all = Vec::new();
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut piece) {
                all.extend_from_slice(&piece[..count]);
                let (text, changed) = &*ours.0;
                *text.lock().unwrap() = String::from_utf8_lossy(&all).into_owned();
                changed.notify_all();
            }
        });
        log
    }

    pub(super) fn text(&self) -> String {
        self.0.0.lock().unwrap().clone()
    }

    #[track_caller]
    pub(super) fn wait(&self, words: &str) {
        let (text, changed) = &*self.0;
        let (text, timeout) = changed
            .wait_timeout_while(text.lock().unwrap(), TEST_TIMEOUT, |text| {
                !text.contains(words)
            })
            .unwrap();
        // The lock is released first: the log is printed when the process is dropped.
        let so_far = text.clone();
        drop(text);
        assert!(!timeout.timed_out(), "no {words:?} in:\n{so_far}");
    }
}

/// A child that is killed when its value is dropped, or when this process dies, even by SIGKILL.
pub(crate) struct GuardedChild {
    child: Child,
    watch: Child,
    /// Open while this process lives.
    _alive: ChildStdin,
}

impl GuardedChild {
    pub(crate) fn spawn(command: &mut Command) -> GuardedChild {
        let child = command.spawn().unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test's own watchdog")]
        let mut watch = Command::new("sh")
            .args([
                "-c",
                "read -r line || kill -9 \"$0\"",
                &child.id().to_string(),
            ])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let _alive = watch.stdin.take().unwrap();
        GuardedChild {
            child,
            watch,
            _alive,
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// The process.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(super) fn wait(&mut self, what: &str) -> ExitStatus {
        let mut status = None;
        eventually(&format!("{what} ended"), || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for GuardedChild {
    fn drop(&mut self) {
        // The watch first: it must not kill a process that reuses the id.
        let _ = self.watch.kill();
        let _ = self.watch.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
