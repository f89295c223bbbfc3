//! Runs a short-lived program to its end, with a time limit and bounded output.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Maximum bytes kept of each stream; a program that writes more gets a broken pipe.
const MAX_OUTPUT_BYTES: u64 = 64 * 1024;

/// How long to wait for output after the program has ended: a child of it may keep the pipe open.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// The outcome of a program.
#[derive(Debug)]
pub(super) struct ProcessOutput {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl ProcessOutput {
    /// The last lines of its output, for an error message; at most `lines`.
    pub(super) fn error_summary(&self, lines: usize) -> String {
        let said = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let all: Vec<&str> = said
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let kept = all[all.len().saturating_sub(lines)..].join("\n");
        if kept.is_empty() {
            self.status.to_string()
        } else {
            format!("{}: {kept}", self.status)
        }
    }
}

/// The variables of this process that every program gets. Others may be secrets of the user, which any
/// process of the same user could read in `/proc` for as long as a nats-server runs.
const KEPT_VARIABLES: [&str; 6] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// A command with an empty standard input and only [`KEPT_VARIABLES`] of this process's variables.
pub(super) fn command(program: impl AsRef<OsStr>) -> Command {
    command_with_variables(program, |name| KEPT_VARIABLES.contains(&name))
}

/// A command with an empty standard input and the variables of this process except naq's own. For pip,
/// which the user configures by variables: proxies, indexes, certificates.
pub(super) fn user_command(program: impl AsRef<OsStr>) -> Command {
    command_with_variables(program, |name| !name.starts_with("NAQ_"))
}

fn command_with_variables(program: impl AsRef<OsStr>, is_kept: fn(&str) -> bool) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "the local server starts nats-server and pip"
    )]
    let mut command = Command::new(program);
    let variables = naq_client::environment().into_iter();
    command
        .env_clear()
        .envs(variables.filter(|(name, _)| is_kept(name)))
        .stdin(Stdio::null());
    command
}

/// Runs it to its end. The error is a text for the user.
pub(super) fn run(command: &mut Command, limit: Duration) -> Result<ProcessOutput, String> {
    let name = Path::new(command.get_program()).display().to_string();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || {
        let _abandoned = sender.send(child.wait());
    });
    let status = match ended.recv_timeout(limit) {
        Ok(outcome) => outcome.map_err(|error| format!("cannot wait for {name}: {error}"))?,
        Err(_) => {
            // Not reaped yet, or the thread above would have sent the status.
            let _gone_meanwhile = kill(pid, Signal::SIGKILL);
            return Err(format!("{name} did not end within {} s", limit.as_secs()));
        }
    };
    let text = |receiver: Receiver<Vec<u8>>| {
        let bytes = receiver.recv_timeout(OUTPUT_GRACE).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(ProcessOutput {
        status,
        stdout: text(stdout),
        stderr: text(stderr),
    })
}

/// Reads a stream to its end or limit, on a thread.
fn collect(stream: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(stream) = stream {
            let _partial = stream.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes);
        }
        let _abandoned = sender.send(bytes);
    });
    receiver
}

/// This program, as a path that can be executed.
pub(super) fn own_program() -> io::Result<PathBuf> {
    // The link stays valid after an upgrade has replaced the file.
    let link = Path::new("/proc/self/exe");
    if cfg!(target_os = "linux") && link.exists() {
        return Ok(link.to_path_buf());
    }
    std::env::current_exe()
}
