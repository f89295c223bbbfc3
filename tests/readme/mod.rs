//! The commands that README.md and the pages of docs/ show do what they show, and their links lead somewhere.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod blocks;
mod examples;
mod links;
mod verbs;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::find_program;
use crate::harness::naq::{ALLOW_ROOT, Naq};
use crate::harness::nats::{TestServer, binary, naq};
use blocks::{Block, read, settled};

/// Between the outputs of two commands of a block, with the first one's exit code.
const MARK: char = '\u{1e}';

/// Short pages whose commands run one after another, with at least so many commands.
const GUIDES: &[(&str, usize)] = &[
    ("docs/retries.md", 5),
    ("docs/flows.md", 4),
    ("docs/limits.md", 6),
    ("docs/secrets.md", 2),
    ("docs/events.md", 4),
    ("docs/failed-jobs.md", 5),
    ("docs/repeatable-jobs.md", 2),
    ("docs/testing-jobs.md", 3),
    ("docs/schedules.md", 2),
    ("docs/from-systemd-timers.md", 7),
    ("docs/from-pueue.md", 16),
];

/// The other pages with commands, each with a test of its own.
const OTHER_PAGES: &[&str] = &[
    "docs/first-job.md",
    "docs/hardening.md",
    "docs/http.md",
    "docs/troubleshooting.md",
];

/// A page, by its path from the root.
fn text_of(page: &Path) -> String {
    let path = Path::new(crate::ROOT).join(page);
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

fn page() -> String {
    text_of(Path::new("README.md"))
}

/// A home of its own: its data, its settings, no server but its own.
struct Place {
    /// The page whose commands run here.
    page: &'static str,
    home: tempfile::TempDir,
    /// Variables that its commands get besides those of every page.
    variables: &'static [(&'static str, &'static str)],
    background: Vec<Child>,
}

impl Place {
    fn of(page: &'static str) -> Place {
        Place {
            page,
            home: tempfile::tempdir().unwrap(),
            variables: &[],
            background: Vec::new(),
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the shell that a reader would type into"
    )]
    fn shell(&self, script: &str) -> Command {
        let bin = naq().parent().unwrap().to_str().unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .current_dir(self.home.path())
            .env_clear()
            .env("PATH", format!("{bin}:/usr/local/bin:/usr/bin:/bin"))
            .env("HOME", self.home.path())
            .env("NAQ_NATS_SERVER", &binary().path)
            .env("COLUMNS", "200")
            .envs(self.variables.iter().copied())
            .stdin(Stdio::null());
        command
    }

    fn settle(&self, line: &str) -> String {
        settled(&line.replace(self.home.path().to_str().unwrap(), "~"))
    }

    fn compare(&self, block: &Block, command: &str, shown: &[String], printed: &str) {
        let shown: Vec<String> = shown.iter().map(|line| self.settle(line)).collect();
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
            self.page, block.line
        );
    }

    /// Starts a block's command and waits until it has printed what is shown.
    fn start(&mut self, block: &Block) {
        let [step] = &block.steps[..] else {
            panic!("line {}: one command in the background", block.line);
        };
        let mut child = self
            .shell(&format!("exec {} 2>&1", step.command))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut printed = String::new();
        for _ in &step.output {
            reader.read_line(&mut printed).unwrap();
        }
        self.compare(block, &step.command, &step.output, &printed);
        // read on, so that it is never held up
        std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        self.background.push(child);
    }

    /// Runs a block's commands in one shell and compares what each prints.
    fn run(&self, block: &Block) {
        let mut script = "exec 2>&1\n".to_owned();
        for step in &block.steps {
            script.push_str(&format!(
                "{}\n_code=$?; printf '%s\\036' \"$_code\"; (exit \"$_code\")\n",
                step.command
            ));
        }
        let mut child = self.shell(&script).stdout(Stdio::piped()).spawn().unwrap();
        let mut printed = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut printed)
            .unwrap();
        child.wait().unwrap();
        let outputs: Vec<&str> = printed.split_terminator(MARK).collect();
        assert_eq!(outputs.len(), block.steps.len(), "{printed}");
        for (index, (step, output)) in block.steps.iter().zip(outputs).enumerate() {
            let digits = output.len() - output.trim_end_matches(|c: char| c.is_ascii_digit()).len();
            // the code stands right after the output, which ends in a newline if it is not empty
            let line_at = output.rfind('\n').map_or(0, |at| at + 1);
            let at = line_at.max(output.len() - digits);
            let (text, code) = output.split_at(at);
            let asked = block
                .steps
                .get(index + 1)
                .is_some_and(|next| next.command == "echo $?");
            assert!(
                asked || code == "0",
                "{}, block at line {}: $ {}\nexited {code}, and the page does not say so\n{text}",
                self.page,
                block.line,
                step.command
            );
            self.compare(block, &step.command, &step.output, text);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while let Some(mut child) = self.background.pop() {
            let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
            let _ = child.wait();
        }
    }
}

/// Runs the commands of a page, which are at least so many: with fewer the page has lost something, or
/// the reader its eyes.
fn check_commands(page: &'static str, commands_min: usize) {
    check_commands_of(page, &text_of(Path::new(page)), commands_min, &[]);
}

fn check_commands_of(
    page: &'static str,
    text: &str,
    commands_min: usize,
    variables: &'static [(&'static str, &'static str)],
) {
    let blocks = read(text);
    let mut place = Place::of(page);
    place.variables = variables;
    let mut commands = 0;
    for block in &blocks {
        if block.background {
            place.start(block);
        } else {
            place.run(block);
        }
        commands += block.steps.len();
    }
    assert!(
        commands >= commands_min,
        "only {commands} commands were run"
    );
    for child in &mut place.background {
        assert_eq!(
            child.try_wait().unwrap(),
            None,
            "a background command ended"
        );
    }
}

#[test]
fn the_commands_of_the_readme_do_what_it_shows() {
    check_commands("README.md", 5);
}

#[test]
fn the_commands_of_the_first_job_do_what_the_page_shows() {
    check_commands("docs/first-job.md", 28);
}

#[test]
fn the_commands_of_the_guides_do_what_they_show() {
    for (page, commands_min) in GUIDES {
        check_commands(page, *commands_min);
    }
}

#[test]
fn every_page_with_commands_is_run() {
    let folder = std::fs::read_dir(Path::new(crate::ROOT).join("docs")).unwrap();
    for file in folder {
        let name = file.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".md") {
            continue;
        }
        let page = format!("docs/{name}");
        let is_run =
            OTHER_PAGES.contains(&page.as_str()) || GUIDES.iter().any(|(guide, _)| *guide == page);
        assert_eq!(
            !read(&text_of(Path::new(&page))).is_empty(),
            is_run,
            "{page}"
        );
    }
}

#[test]
fn the_commands_of_the_troubleshooting_page_print_what_it_shows() {
    check_commands("docs/troubleshooting.md", 30);
}

#[test]
fn the_commands_of_the_hardening_page_lock_a_fleet_down() {
    let page = "docs/hardening.md";
    let text = std::fs::read_to_string(Path::new(crate::ROOT).join(page)).unwrap();
    // the page's port may be another server's
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port().to_string();
    drop(free);
    // the tests may run as root, which a worker of a fleet refuses
    let text = text.replace("4333", &port);
    check_commands_of(page, &text, 10, &[(ALLOW_ROOT, "1")]);
}

#[test]
fn the_commands_of_the_http_page_do_what_it_shows() {
    for program in ["curl", "jq"] {
        if find_program(program, "no command of docs/http.md is run").is_none() {
            return;
        }
    }
    let page = "docs/http.md";
    let text = std::fs::read_to_string(Path::new(crate::ROOT).join(page)).unwrap();
    // the page's port may be another program's
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port().to_string();
    drop(free);
    let text = text.replace("8080", &port);
    check_commands_of(page, &text, 20, &[]);
}

#[test]
fn the_readme_begins_with_two_commands() {
    let page = page();
    assert!(
        page.contains("$ cargo run --release -- run -- echo \"hello from naq\"\nhello from naq\n")
    );
    assert!(page.contains("```sh\ncargo test\n```"));
    for number in 0..=7 {
        assert!(
            text_of(Path::new("docs/cli.md")).contains(&format!("\n| {number} | ")),
            "exit code {number}"
        );
    }
}

/// The page's one line for a crontab, as a user with a crontab types it.
#[test]
fn the_crontab_line_of_the_first_job_imports_a_crontab() {
    const LINE: &str = "crontab -l | naq schedule apply -";
    assert!(text_of(Path::new("docs/first-job.md")).contains(&format!("`{LINE}`")));
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let crontab = naq.file(
        "crontab",
        "#!/bin/sh\n[ \"$1\" = -l ] && echo '0 5 * * * ./backup.sh'\n",
    );
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(crontab, mode).unwrap();
    let place = Place::of("README.md");
    let mut shell = place.shell(&format!("PATH={}:$PATH; {LINE}", naq.home().display()));
    let settings = naq
        .environment()
        .into_iter()
        .filter(|(name, _)| name != "PATH");
    let applied = shell.envs(settings).output().unwrap();
    let printed = String::from_utf8(applied.stdout).unwrap();
    assert!(
        applied.status.success(),
        "{}",
        String::from_utf8_lossy(&applied.stderr)
    );
    assert!(
        printed.contains("backup-sh-") && printed.contains("created"),
        "{printed}"
    );
}

/// Every variable that these pages name is one that naq reads or a job is given.
#[test]
fn the_readme_names_variables_that_there_are() {
    const OF_A_JOB: &[&str] = &[
        "NAQ_ATTEMPT",
        "NAQ_CHECKPOINT",
        "NAQ_CHECKPOINT_FILE",
        "NAQ_FENCE",
        "NAQ_INPUTS",
        "NAQ_JOB_ID",
        "NAQ_QUEUE",
    ];
    let guides = GUIDES.iter().map(|(page, _)| *page);
    let pages = [
        "README.md",
        "docs/first-job.md",
        "docs/install.md",
        "docs/operate.md",
    ];
    let texts: Vec<String> = pages
        .into_iter()
        .chain(guides.filter(|page| *page != "docs/schedules.md"))
        .map(|page| text_of(Path::new(page)))
        .collect();
    let page = texts.concat();
    let named: std::collections::BTreeSet<&str> = page
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("NAQ_") && word.len() > "NAQ_".len())
        .collect();
    assert!(named.len() > 8, "{named:?}");
    for name in named {
        assert!(
            OF_A_JOB.contains(&name)
                || naq_client::config::SETTINGS
                    .iter()
                    .any(|setting| setting.variable == name),
            "a page names {name}"
        );
    }
}

#[test]
fn a_page_that_shows_something_else_is_found_out() {
    let place = Place::of("README.md");
    for (page, word) in [
        ("```console run\n$ echo a\nb\n```\n", "left"),
        ("```console run\n$ echo a\na\nb\n```\n", "left"),
        ("```console run\n$ echo a\n```\n", "left"),
        ("```console run\n$ false\n```\n", "exited 1"),
        ("```console run\n$ no-such-naq\n```\n", "exited 127"),
    ] {
        let blocks = read(page);
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            place.run(&blocks[0]);
        }))
        .expect_err(page);
        let message = found.downcast_ref::<String>().unwrap();
        assert!(message.contains(word), "{page}: {message}");
    }
    place.run(&read("```console run\n$ (exit 3)\n$ echo $?\n3\n$ printf '7\\n'\n7\n```\n")[0]);
    assert!(std::panic::catch_unwind(|| read("```console\n$ echo a\n```\n")).is_err());
}
