//! The program's verbs, run in the foreground: to their end, followed while they run, or on a terminal.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Naq;
use super::process::{CapturedLog, GuardedChild, command};

impl Naq {
    /// A verb of the program, to be run by one of the methods of [`Cli`].
    pub(crate) fn cli<A: Into<String>>(&self, args: impl IntoIterator<Item = A>) -> Cli {
        Cli {
            args: args.into_iter().map(Into::into).collect(),
            environment: self.environment(),
            home: self.home().to_owned(),
            stdin: Vec::new(),
        }
    }
}

/// A verb to run.
pub(crate) struct Cli {
    args: Vec<String>,
    environment: BTreeMap<String, String>,
    home: PathBuf,
    stdin: Vec<u8>,
}

impl Cli {
    pub(crate) fn env(mut self, name: &str, value: &str) -> Cli {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn without_env(mut self, name: &str) -> Cli {
        self.environment.remove(name);
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Cli {
        self.stdin = bytes.into();
        self
    }

    /// Starts it. Its output stays in the pipe until the test reads it.
    pub(crate) fn spawn(self) -> RunningCli {
        let mut child =
            GuardedChild::spawn(&mut command(&self.args, &self.environment, &self.home));
        drop(child.child().stdin.take());
        let stdout = child.child().stdout.take().unwrap();
        RunningCli { child, stdout }
    }

    /// Starts it and captures its output and errors while it runs.
    pub(crate) fn follow(self) -> FollowedCli {
        let mut child =
            GuardedChild::spawn(&mut command(&self.args, &self.environment, &self.home));
        drop(child.child().stdin.take());
        let printed = CapturedLog::follow(child.child().stdout.take().unwrap());
        let stderr = CapturedLog::follow(child.child().stderr.take().unwrap());
        FollowedCli {
            child,
            printed,
            stderr,
        }
    }

    /// Starts it on a terminal of its own.
    pub(crate) fn on_terminal(self) -> Terminal {
        Terminal::start(command(&self.args, &self.environment, &self.home))
    }

    /// Starts another program instead, such as a shell, on a terminal of its own.
    pub(crate) fn program_on_terminal(self, program: &Path) -> Terminal {
        #[expect(
            clippy::disallowed_methods,
            reason = "the shell that a user types into"
        )]
        let mut command = Command::new(program);
        command
            .args(&self.args)
            .env_clear()
            .envs(&self.environment)
            .current_dir(&self.home);
        Terminal::start(command)
    }

    /// Runs it until it exits, at most `TEST_TIMEOUT`. Its output has to be UTF-8.
    pub(crate) fn run(self) -> CliOutput {
        let (status, stdout, stderr) = self.run_bytes();
        CliOutput {
            code: status.code(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Runs it until it exits, at most `TEST_TIMEOUT`. Returns its exit status, output and errors.
    pub(crate) fn run_bytes(self) -> (ExitStatus, Vec<u8>, Vec<u8>) {
        let mut child =
            GuardedChild::spawn(&mut command(&self.args, &self.environment, &self.home));
        let mut stdin = child.child().stdin.take().unwrap();
        let input = self.stdin;
        let feeding = std::thread::spawn(move || {
            // a verb need not read all of its input
            let _ = stdin.write_all(&input);
        });
        let stdout = read_in_thread(child.child().stdout.take().unwrap());
        let stderr = read_in_thread(child.child().stderr.take().unwrap());
        let status = child.wait(&format!("{:?}", self.args));
        feeding.join().unwrap();
        (status, stdout.join().unwrap(), stderr.join().unwrap())
    }
}

fn read_in_thread(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// A running verb.
pub(crate) struct RunningCli {
    child: GuardedChild,
    stdout: ChildStdout,
}

impl RunningCli {
    /// Reads some of its output. Waits until there is any.
    pub(crate) fn read_some(&mut self) -> Vec<u8> {
        let mut piece = vec![0; 1024];
        let count = self.stdout.read(&mut piece).unwrap();
        piece.truncate(count);
        piece
    }

    /// The most memory that it has used so far, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.pid());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.unwrap().split_whitespace().next().unwrap();
        kib.parse().unwrap()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.child().try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.pid()), signal).unwrap();
    }

    /// Closes the reading end of its output and waits until it has exited.
    pub(crate) fn close_stdout_and_wait(self) -> ExitStatus {
        let RunningCli { mut child, stdout } = self;
        drop(stdout);
        child.wait("a verb whose output is closed")
    }

    /// Closes the reading end of its output, waits until it has exited, and returns its exit status
    /// and errors.
    pub(crate) fn close_stdout_and_read_errors(self) -> (ExitStatus, String) {
        let RunningCli { mut child, stdout } = self;
        let errors = read_in_thread(child.child().stderr.take().unwrap());
        drop(stdout);
        let status = child.wait("a verb whose output is closed");
        (status, String::from_utf8(errors.join().unwrap()).unwrap())
    }
}

/// A verb on a terminal. Killed when dropped.
pub(crate) struct Terminal {
    child: GuardedChild,
    keyboard: std::fs::File,
    screen: CapturedLog,
}

impl Terminal {
    fn start(mut command: Command) -> Terminal {
        let size = nix::pty::Winsize {
            ws_row: 40,
            ws_col: 160,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = nix::pty::openpty(Some(&size), None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end());
        let child = GuardedChild::spawn(&mut command);
        // The terminal stays open as long as any process has the child's side open.
        drop((command, pty.slave));
        let keyboard = std::fs::File::from(pty.master);
        let screen = CapturedLog::follow_bytes(keyboard.try_clone().unwrap());
        Terminal {
            child,
            keyboard,
            screen,
        }
    }

    /// Waits until the screen contains `words`, and returns its whole text so far.
    #[track_caller]
    pub(crate) fn expect_screen(&self, words: &str) -> String {
        self.screen.wait(words);
        self.screen.text()
    }

    /// The text on the screen so far.
    pub(crate) fn screen_text(&self) -> String {
        self.screen.text()
    }

    /// Types text, without a newline.
    pub(crate) fn type_text(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Types a line.
    pub(crate) fn type_line(&mut self, line: &str) {
        self.keyboard
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
    }

    /// Waits until it has exited.
    pub(crate) fn wait_exit(mut self) -> ExitStatus {
        self.child.wait("a verb on a terminal")
    }
}

/// A running verb whose output is captured. Killed when dropped.
pub(crate) struct FollowedCli {
    child: GuardedChild,
    printed: CapturedLog,
    stderr: CapturedLog,
}

impl FollowedCli {
    /// Waits until its standard error contains `words`.
    #[track_caller]
    pub(crate) fn expect_stderr(&self, words: &str) {
        self.stderr.wait(words);
    }

    /// Waits until its standard output contains `words`, and returns all of it so far.
    #[track_caller]
    pub(crate) fn expect_stdout(&self, words: &str) -> String {
        self.printed.wait(words);
        self.printed.text()
    }

    /// Its standard error so far.
    pub(crate) fn stderr_text(&self) -> String {
        self.stderr.text()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.pid()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.pid()), signal).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.child().try_wait().unwrap().is_none()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub(crate) fn kill9(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait("a killed verb");
    }

    /// Waits until it has exited.
    pub(crate) fn wait_exit(mut self) -> ExitStatus {
        self.child.wait("a verb that got TERM")
    }

    /// Sends TERM and waits until it has exited.
    pub(crate) fn stop(self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_exit()
    }
}

impl Drop for FollowedCli {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "a failed test shows the verb's log")]
            {
                eprintln!("--- the verb's log:\n{}---", self.stderr.text());
            }
        }
    }
}

/// The output of a verb and its exit code.
#[derive(Debug)]
pub(crate) struct CliOutput {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl CliOutput {
    #[track_caller]
    pub(crate) fn succeeds(self) -> CliOutput {
        self.exits(0)
    }

    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> CliOutput {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Asserts that standard output contains `words`.
    pub(crate) fn expect_stdout(self, words: &str) -> CliOutput {
        assert!(self.stdout.contains(words), "no {words:?} in {self:#?}");
        self
    }

    /// Asserts that standard error contains each of `words`.
    #[track_caller]
    pub(crate) fn expect_stderr(self, words: &[&str]) -> CliOutput {
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:#?}");
        }
        self
    }
}
