//! Where the commands of a page run: a home of its own, with what the page assumes.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::blocks::{Block, Mode, Step, settled};
use crate::harness::naq::ALLOW_ROOT;
use crate::harness::nats::{TEST_TIMEOUT, binary, naq};
use crate::harness::python::python;

/// Between the outputs of two commands of a block, with the first one's exit code.
const MARK: char = '\u{1e}';

/// Time limit for the commands of a block.
const BLOCK_TIME_MAX: Duration = Duration::from_secs(180);

/// The address of the dashboard unless `--port` gives another one. The pages show it.
const DASHBOARD: &str = "127.0.0.1:8080";

/// What `naq dev` prints, as the pages show it.
const DEV: &[&str] = &[
    "server     nats://127.0.0.1:4222  (nkey in ~/.local/share/naq/server/client.nk)",
    "worker     slots 2, queues default, containment namespace+cgroup",
    "scheduler  in this process",
    "dashboard  http://127.0.0.1:8080/login?code=0f9e5c61d3b24c0f8a7e61d2c3b4a596",
    "try        naq enqueue --wait -- echo hello     (in another terminal)",
    "stop       Ctrl-C",
];

/// The verb of a command that runs until it is stopped, and a part of the line that it prints once it can be used.
const READY: &[(&str, &str)] = &[
    ("worker", " working "),
    ("scheduler", " scheduling "),
    ("dashboard", "stop "),
    ("events", " waiting for changes"),
];

/// A page, and what its commands need besides a home and the program.
#[derive(Clone, Copy)]
pub(super) struct Page {
    /// The path from the root.
    pub(super) path: &'static str,
    /// At least so many commands are run. With fewer the page has lost something, or the test no longer sees it.
    pub(super) commands_min: usize,
    /// What the page assumes to run in another terminal, such as `naq dev`. It is ready before the first block.
    pub(super) other_terminal: Option<&'static str>,
    /// The shell that a reader would use.
    pub(super) shell: &'static str,
    /// Addresses that the page names. Another program may have their ports, so free ones replace them.
    pub(super) addresses: &'static [&'static str],
    /// Variables of all commands.
    pub(super) variables: &'static [(&'static str, &'static str)],
    /// Programs without which the page is skipped.
    pub(super) programs: &'static [&'static str],
    /// The name and the requirements of a Python environment that is in front of the PATH.
    pub(super) python: Option<(&'static str, &'static str)>,
    /// A script that creates what the page assumes to exist. `PAGE` is the page's file, `ROOT` the repository.
    /// Programs in `bin` are on the PATH.
    pub(super) fixture: &'static str,
    /// A script that runs after the blocks and fails unless they have had their effect.
    pub(super) check: &'static str,
}

/// A page that assumes nothing.
pub(super) const fn page(path: &'static str, commands_min: usize) -> Page {
    Page {
        path,
        commands_min,
        other_terminal: None,
        shell: "sh",
        addresses: &[],
        variables: &[],
        programs: &[],
        python: None,
        fixture: "",
        check: "",
    }
}

/// A command that runs until it is stopped.
struct Background {
    command: String,
    child: Child,
    /// The lines that it prints.
    lines: Receiver<String>,
}

impl Background {
    /// The lines that it prints, until it prints none for too long or has ended.
    fn soon(&self) -> impl Iterator<Item = String> {
        std::iter::from_fn(|| self.lines.recv_timeout(TEST_TIMEOUT).ok())
    }
}

/// A home of its own: its data, its settings, no server but its own.
pub(super) struct Place {
    page: Page,
    home: tempfile::TempDir,
    /// Addresses that the page shows, each with the one that has been used instead.
    addresses: BTreeMap<String, String>,
    background: Vec<Background>,
}

/// A port of this machine that no program uses.
pub(super) fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}

fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// The addresses of the loopback interface in a line.
fn addresses_in(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split(|c: char| c.is_whitespace() || c == '/');
    words.filter(|word| word.starts_with("127.0.0.1:"))
}

impl Place {
    pub(super) fn of(page: Page) -> Place {
        let renamed = page.addresses.iter();
        Place {
            page,
            home: tempfile::tempdir().unwrap(),
            addresses: renamed
                .map(|shown| (str::to_owned(shown), free_address()))
                .collect(),
            background: Vec::new(),
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the shell that a reader would type into"
    )]
    pub(super) fn shell(&self, script: &str) -> Command {
        let own = self.home.path().join("bin");
        let bin = naq().parent().unwrap();
        let mut path = format!("{}:{}", own.display(), bin.display());
        if let Some((name, requirements)) = self.page.python {
            let python = python(name, &Path::new(crate::ROOT).join(requirements));
            path = format!("{path}:{}", python.parent().unwrap().display());
        }
        let mut command = Command::new(self.page.shell);
        command
            .args(["-c", script])
            .current_dir(self.home.path())
            .env_clear()
            .env("PATH", format!("{path}:/usr/local/bin:/usr/bin:/bin"))
            .env("HOME", self.home.path())
            .env("NAQ_NATS_SERVER", &binary().path)
            .env("COLUMNS", "200")
            .envs(self.page.variables.iter().copied())
            .stdin(Stdio::null());
        command
    }

    /// Runs a script of the test itself. `what` says which.
    fn prepare(&self, what: &str, script: &str) {
        let root = Path::new(crate::ROOT).canonicalize().unwrap();
        let output = self
            .shell(&format!("set -e\nexec 2>&1\n{script}"))
            .env("PAGE", root.join(self.page.path))
            .env("ROOT", &root)
            .env(ALLOW_ROOT, "1")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "the {what} of {}: {}\n{}",
            self.page.path,
            output.status,
            String::from_utf8_lossy(&output.stdout)
        );
    }

    /// Creates what the page assumes.
    pub(super) fn set_up(&mut self) {
        self.prepare("fixture", self.page.fixture);
        if let Some(command) = self.page.other_terminal {
            self.spawn(command);
            let started = self.background.last().unwrap();
            let printed: Vec<String> = started.soon().take(DEV.len()).collect();
            assert_eq!(printed.len(), DEV.len(), "{command} printed {printed:?}");
            self.learn_addresses(DEV, &printed);
        }
    }

    /// Takes over the addresses that a command has printed in place of those that the page shows, as a reader does.
    fn learn_addresses(&mut self, shown: &[&str], printed: &[String]) {
        for (shown, printed) in shown.iter().zip(printed) {
            let pairs = addresses_in(shown).zip(addresses_in(printed));
            let pairs = pairs.map(|(shown, used)| (shown.to_owned(), used.to_owned()));
            self.addresses.extend(pairs);
        }
    }

    /// A text of the page with the addresses that are used.
    fn adapt(&self, text: &str) -> String {
        let addresses = self.addresses.iter();
        addresses.fold(text.to_owned(), |text, (shown, used)| {
            text.replace(shown, used)
        })
    }

    fn settle(&self, line: &str) -> String {
        settled(&line.replace(self.home.path().to_str().unwrap(), "~"))
    }

    fn compare(&self, block: &Block, command: &str, shown: &[String], printed: &str) {
        let shown: Vec<String> = shown
            .iter()
            .map(|line| self.settle(&self.adapt(line)))
            .collect();
        // how long a verb waits, and so whether it says what for, depends on the machine
        let says_waiting = |line: &&str| line.starts_with("naq: waiting: ");
        let got: Vec<String> = printed
            .lines()
            .filter(|line| !says_waiting(line))
            .map(|line| self.settle(line))
            .collect();
        assert_eq!(
            got, shown,
            "{}, block at line {}: $ {command}\nprinted\n{printed}",
            self.page.path, block.line
        );
    }

    /// Starts a command that runs until it is stopped.
    fn spawn(&mut self, command: &str) {
        let mut child = self
            .shell(&format!("exec {command} 2>&1"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let reader = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        // reads to the end, so that the command is never blocked by a full pipe
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        self.background.push(Background {
            command: command.to_owned(),
            child,
            lines,
        });
    }

    /// Starts a block's command and waits until it has printed what is shown; if nothing is shown, until it can be used.
    fn start(&mut self, block: &Block) {
        let [step] = &block.steps[..] else {
            panic!("line {}: one command in the background", block.line);
        };
        let mut command = self.adapt(&step.command);
        if command.contains("naq dashboard") && !command.contains("--port") {
            command = command.replace("naq dashboard", "naq dashboard --port 0");
        }
        self.spawn(&command);
        if !step.output.is_empty() {
            let started = self.background.last().unwrap();
            let printed: Vec<String> = started.soon().take(step.output.len()).collect();
            let shown: Vec<&str> = step.output.iter().map(String::as_str).collect();
            self.learn_addresses(&shown, &printed);
            self.compare(block, &command, &step.output, &printed.join("\n"));
            return;
        }
        // Such a command prints nothing. What follows waits for it: a client until there is a server, a job until there
        // is a worker.
        if !command.contains("--quiet") && !command.contains(" -l ") {
            self.wait_until_ready(&command);
        }
    }

    /// Waits until the command that was started last can be used.
    fn wait_until_ready(&mut self, command: &str) {
        let page = self.page.path;
        let has_word = |verb: &str| command.split_whitespace().any(|word| word == verb);
        let ready = READY.iter().find(|(verb, _)| has_word(verb));
        let (_, text) =
            ready.unwrap_or_else(|| panic!("{page}: nothing says when `{command}` is ready"));
        let started = self.background.last().unwrap();
        let mut printed = Vec::new();
        let is_ready = started.soon().any(|line| {
            let is_ready = line.contains(text);
            printed.push(line);
            is_ready
        });
        if let Some(line) = printed.iter().find(|line| line.starts_with("dashboard "))
            && let Some(address) = addresses_in(line).next()
        {
            let address = address.to_owned();
            self.addresses.insert(DASHBOARD.to_owned(), address);
        }
        let printed = printed.join("\n");
        assert!(
            is_ready,
            "{page}: $ {command} ended, or is not ready\n{printed}"
        );
    }

    /// Stops the command that was started last. It must still run, and end as one that is stopped does.
    fn stop_last(&mut self) {
        let Some(mut last) = self.background.pop() else {
            return;
        };
        let before = last.child.try_wait().unwrap();
        let status = stop(&mut last.child);
        let printed: Vec<String> = last.lines.iter().collect();
        let is_stopped = status.success() || status.signal() == Some(Signal::SIGTERM as i32);
        assert!(
            before.is_none() && (is_stopped || !last.command.starts_with("naq ")),
            "{}: $ {}\nended with {status}\n{}",
            self.page.path,
            last.command,
            printed.join("\n")
        );
    }

    /// Runs the script that looks for the effects, and stops what runs in the background.
    pub(super) fn finish(mut self) {
        self.prepare("check", self.page.check);
        while !self.background.is_empty() {
            self.stop_last();
        }
    }

    pub(super) fn run_block(&mut self, block: &Block) {
        match block.mode {
            Mode::ToItsEnd => self.run(block),
            Mode::Background => self.start(block),
            Mode::Briefly => {
                self.start(block);
                self.stop_last();
            }
        }
    }

    /// Runs a block's commands in one shell and compares what each prints.
    pub(super) fn run(&self, block: &Block) {
        let mut script = "exec 2>&1\n".to_owned();
        for step in &block.steps {
            script.push_str(&format!(
                "{}\n_code=$?; printf '%s\\036' \"$_code\"; (exit \"$_code\")\n",
                self.adapt(&step.command)
            ));
        }
        let mut child = self.shell(&script).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (sender, read) = channel();
        std::thread::spawn(move || {
            let mut printed = String::new();
            let _ = sender.send(stdout.read_to_string(&mut printed).map(|_| printed));
        });
        let printed = read.recv_timeout(BLOCK_TIME_MAX);
        if printed.is_err() {
            let _ = child.kill();
        }
        child.wait().unwrap();
        let page = self.page.path;
        let printed = printed
            .unwrap_or_else(|_| panic!("{page}, block at line {}: it does not end", block.line))
            .unwrap();
        let outputs: Vec<&str> = printed.split_terminator(MARK).collect();
        assert_eq!(outputs.len(), block.steps.len(), "{printed}");
        for (index, (step, output)) in block.steps.iter().zip(outputs).enumerate() {
            let is_asked = block
                .steps
                .get(index + 1)
                .is_some_and(|next| next.command == "echo $?");
            self.check_step(block, step, output, is_asked);
        }
    }

    /// Compares what a command has printed, and requires that it has succeeded unless the page asks for its exit code.
    fn check_step(&self, block: &Block, step: &Step, output: &str, is_asked: bool) {
        let digits = output.len() - output.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        // the code stands right after the output, which ends in a newline if it is not empty
        let line_at = output.rfind('\n').map_or(0, |at| at + 1);
        let at = line_at.max(output.len() - digits);
        let (text, code) = output.split_at(at);
        assert!(
            is_asked || code == "0",
            "{}, block at line {}: $ {}\nexited {code}, and the page does not say so\n{text}",
            self.page.path,
            block.line,
            step.command
        );
        self.compare(block, &step.command, &step.output, text);
    }
}

/// Stops a process. One that does not end in time is killed, which its status shows.
fn stop(child: &mut Child) -> ExitStatus {
    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > TEST_TIMEOUT {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while let Some(mut last) = self.background.pop() {
            stop(&mut last.child);
        }
    }
}
